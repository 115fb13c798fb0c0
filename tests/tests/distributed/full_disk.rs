//! A disk that fills up while a run trains and evaluates, and is emptied again.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::{lines, program, tiny};
use trainer::checkpoint;

use crate::running::{spawn_with_stderr, wait_for};
use crate::{checkpoints, ended, signal};

/// A file system of a few MiB; gone with the value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, saying so, where file systems may not be mounted.
    #[expect(clippy::print_stdout, reason = "a skipped test says so in its output")]
    fn mount(at: PathBuf) -> Option<Self> {
        std::fs::create_dir_all(&at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(&at);
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(Self(at));
        }
        println!("skipped: a tmpfs cannot be mounted here");
        None
    }

    /// Takes what room is left.
    fn fill(&self) {
        let path = self.0.join("filler");
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// The steps of a log, each line of which must be whole.
fn logged(log: &Path) -> Vec<u64> {
    let step = |line: &serde_json::Value| line["global_step"].as_u64();
    let steps: Option<Vec<u64>> = lines(log).iter().map(step).collect();
    steps.unwrap_or_else(|| panic!("{}: a torn line", log.display()))
}

#[test]
fn a_disk_that_is_full_for_a_while_costs_records_and_not_the_run() {
    let folder = tiny(
        "[train]\nepochs = 100000\nlr_drop_epoch = 0\ncheckpoint_every_steps = 0\nkeep_last = 1\n\
         [eval]\nevery_epochs = 1\n",
    );
    let folder = folder.path();
    let Some(disk) = SmallDisk::mount(folder.join("disk")) else { return };
    let (run, messages) = (folder.join("disk/run"), folder.join("stderr.txt"));
    let said = || std::fs::read_to_string(&messages).unwrap();
    let evaluated = || lines(&run.join("eval.jsonl")).len();
    let newest = || checkpoints(&run).0.last().copied();

    let mut command = Command::new(program("launch"));
    command.args(["--procs", "2", "tiny.toml", "--set", "output=\"disk/run\""]).current_dir(folder);
    let launcher = spawn_with_stderr(&mut command, File::create(&messages).unwrap());
    wait_for("the first evaluation", || evaluated() > 0);
    wait_for("a step, an evaluation and a checkpoint without room", || {
        // Again and again: a checkpoint that is given up leaves room for a log.
        disk.fill();
        let said = said();
        said.contains("steps.jsonl: No space left on device")
            && said.contains("training goes on without a record of this evaluation")
            && said.contains("training goes on, and the checkpoints before are kept")
    });
    disk.empty();
    let (records, saved) = (evaluated(), newest());
    wait_for("a record and a checkpoint after it", || evaluated() > records && newest() > saved);
    signal("TERM", &[launcher.id()]);
    let (output, _) = ended(launcher);
    assert_eq!(output.status.code(), Some(0), "{}", said());

    let steps = logged(&run.join("steps.jsonl"));
    assert!(steps.windows(2).all(|two| two[0] < two[1]), "{steps:?}");
    assert!(logged(&run.join("eval.jsonl")).len() > records);
    assert_eq!(newest(), steps.last().copied(), "{}", said());
    let found = std::fs::read_dir(run.join("checkpoints")).unwrap().count();
    assert_eq!(
        (found, checkpoint::list(&run).unwrap().len()),
        (1, 1),
        "no half-written file is left"
    );
}
