//! Checkpoints in a folder of a slow disk: steps go on while one is written, none is left out, and a
//! kill in the middle of one costs no bit.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tests::{lines, program, succeed, tiny};

use crate::bucket::{ended, kill_all, launch_with, newest_in_folder, wait_until};
use crate::slow_disk::{SlowDisk, Slowness};

/// Every fsync and rename waits, and one call in ten of the others.
const SLOWNESS: Slowness = Slowness { share: 100, longest_delay: Duration::from_secs(1) };

/// The checkpoint that is being written.
fn staged(run: &Path) -> Option<String> {
    let names = std::fs::read_dir(run.join("checkpoints")).ok()?.flatten();
    let mut names = names.filter_map(|entry| entry.file_name().into_string().ok());
    names.find(|name| name.ends_with(".tmp"))
}

fn names(run: &Path) -> Vec<String> {
    let checkpoints = trainer::checkpoint::list(run).unwrap();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    checkpoints.iter().map(|path| name(path)).collect()
}

#[test]
fn steps_go_on_while_a_slow_disk_takes_a_checkpoint_and_none_is_lost() {
    // Twelve epochs of four steps: checkpoints after 4, 6, 8, 12 and so on.
    let folder = tiny(
        "[train]\nepochs = 12\ncheckpoint_every_steps = 6\nkeep_last = 0\n[eval]\nsplits = []\n",
    );
    let folder = folder.path();
    let _ = succeed(folder, "launch", &["--procs", "2", "tiny.toml"]);
    let whole = folder.join("run");
    let run = folder.join("slow");
    let disk = SlowDisk::new(folder, &run.join("checkpoints"), SLOWNESS);
    let steps = || lines(&run.join("steps.jsonl")).len();

    let arguments = ["--procs", "2", "tiny.toml", "--set", "output=slow"];
    let mut launcher = launch_with(&disk.environment(), folder, &arguments);
    wait_until(&mut launcher, folder, || steps() >= 14 && staged(&run).is_some());
    kill_all(&mut launcher);
    assert!(staged(&run).is_some() && names(&run).len() >= 3, "killed between two checkpoints");

    let resumed = ["--procs", "2", "tiny.toml", "--resume", "--set", "output=slow"];
    let mut launcher = launch_with(&disk.environment(), folder, &resumed);
    let (mut since, mut most) = (None, 0);
    while launcher.try_wait().unwrap().is_none() {
        let (now, made) = (staged(&run), steps());
        match &since {
            Some((name, from)) if Some(name) == now.as_ref() => most = most.max(made - from),
            _ => since = now.map(|name| (name, made)),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let (succeeded, said) = ended(launcher, folder);
    assert!(succeeded && said.contains("resuming from"), "{said}");
    assert!(most >= 2, "no two steps were made while a checkpoint was written");
    assert_eq!((staged(&run), names(&run)), (None, names(&whole)));
    assert_eq!(newest_in_folder(&run), newest_in_folder(&whole));
    assert_eq!(steps(), 48);
    let delays = disk.delays();
    assert!(delays.calls["fsync"] >= 16 && delays.calls["rename"] >= 16, "{:?}", delays.calls);
}

/// Every call that waits for the disk takes up to two seconds.
const VERY_SLOW: Slowness = Slowness { share: 100, longest_delay: Duration::from_secs(2) };

/// Empties all shards.
fn damage(shards: &Path) {
    let shards: Vec<_> =
        std::fs::read_dir(shards).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!shards.is_empty());
    shards.iter().for_each(|shard| std::fs::write(shard, b"").unwrap());
}

#[test]
fn a_rank_that_fails_beside_a_checkpoint_still_to_be_written_is_the_one_that_is_named() {
    let folder = tiny(
        "[data]\nprefetch_batches = 1\n[train]\nepochs = 1000\nlr_drop_epoch = 0\n\
         checkpoint_every_steps = 1\n[eval]\nsplits = []\n",
    );
    let folder = folder.path();
    // Each rank has a data set of its own, as on two machines.
    for rank in ["0", "1"] {
        std::fs::create_dir(folder.join(rank)).unwrap();
        std::fs::copy(folder.join("tiny.toml"), folder.join(rank).join("tiny.toml")).unwrap();
        let copied = Command::new("cp").args(["-r", "data", rank]).current_dir(folder).status();
        assert!(copied.unwrap().success());
    }
    let run = folder.join("run");
    let disk = SlowDisk::new(folder, &run.join("checkpoints"), VERY_SLOW);
    let script = format!(
        "cd $RANK && exec {} train tiny.toml --set output='\"{}\"'",
        program("hqsam").display(),
        run.display()
    );
    let arguments = ["--procs", "2", "--", "bash", "-c", &script];
    let mut launcher = launch_with(&disk.environment(), folder, &arguments);
    wait_until(&mut launcher, folder, || names(&run).len() > 1 && staged(&run).is_some());
    damage(&folder.join("0/data/shards"));
    let (succeeded, said) = ended(launcher, folder);
    assert!(!succeeded, "{said}");
    assert!(
        said.contains("the checkpoint that was begun is written, then this rank ends"),
        "{said}"
    );
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("launch: rank 0 of 2 failed") && last.contains("row"), "{said}");
    assert_eq!(staged(&run), None, "{said}");
}
