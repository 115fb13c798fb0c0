//! Builds that several processes share.

use std::process::{Child, Command, Stdio};

use crate::kills::{Draws, kill_at_change, mixed, silent};
use crate::process::{configuration, hqseg, run};
use crate::servers::{Kind, Server};
use crate::support::{Collection, contents, disc, save_mask};

fn rank(config: &str, output: &str, (rank, world): (usize, usize), more: &[&str]) -> Command {
    let mut command = hqseg(&["build", config, "--output", output]);
    command.args(more).env("RANK", rank.to_string()).env("WORLD_SIZE", world.to_string());
    command
}

fn output_of(mut command: Command) -> (bool, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[test]
fn ranks_one_after_the_other_make_what_one_process_makes() {
    let (collection, config) = mixed(40);
    assert!(run(&["build", &config]).0);
    let whole = contents(&collection.output("out"));
    for world in [1, 2, 3] {
        let name = format!("out{world}");
        let output = collection.output(&name).to_string_lossy().into_owned();
        for index in 0..world {
            let (succeeded, stdout, stderr) =
                output_of(rank(&config, &output, (index, world), &[]));
            assert!(succeeded, "{stderr}");
            let last = index + 1 == world;
            assert_eq!(collection.output(&name).join("manifest.json").exists(), last, "{stdout}");
            let said = format!("rank {index} of {world}: done; not finished by others: ");
            assert!(last || stdout.starts_with(&said), "{stdout}");
        }
        assert!(contents(&collection.output(&name)) == whole, "{world} ranks");
        let (succeeded, stdout, _) = output_of(rank(&config, &output, (0, world), &[]));
        assert!(succeeded && stdout.ends_with("up to date\n"), "{stdout}");
    }
    // Every launcher's variables; with the leaks known, the last rank does what is left.
    let output = collection.output("launchers").to_string_lossy().into_owned();
    for variables in [
        [("JOB_COMPLETION_INDEX", "2"), ("WORLD_SIZE", "3")],
        [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "3")],
        [("RANK", "1"), ("WORLD_SIZE", "3")],
    ] {
        let mut command = hqseg(&["build", &config, "--output", &output]);
        command.envs(variables);
        let (succeeded, _, stderr) = output_of(command);
        assert!(succeeded, "{stderr}");
    }
    assert!(contents(&collection.output("launchers")) == whole);
}

/// Starts three ranks that wait for each other, kills one by `kill` and starts it again.
fn with_one_killed(start: impl Fn(usize) -> Child, kill: impl FnOnce(&mut Child) -> bool) {
    let mut ranks: Vec<Child> = (0..3).map(&start).collect();
    let killed = kill(&mut ranks[1]);
    if killed {
        for index in [0, 2] {
            assert!(ranks[index].try_wait().unwrap().is_none(), "rank {index} did not wait");
        }
        ranks[1] = start(1);
    }
    for mut child in ranks {
        assert!(child.wait().unwrap().success());
    }
    assert!(killed, "the rank was done before it was killed: nothing was shown");
}

#[test]
fn a_rank_that_is_killed_and_started_again_loses_nothing() {
    let (collection, config) = mixed(60);
    assert!(run(&["build", &config]).0);
    let whole = contents(&collection.output("out"));
    let mut draws = Draws(3);
    for round in 0..2 {
        let folder = collection.output(&format!("ranks{round}"));
        let output = folder.to_string_lossy().into_owned();
        with_one_killed(
            |index| silent(rank(&config, &output, (index, 3), &["--wait"])),
            |child| kill_at_change(child, &folder, draws.next(8)),
        );
        assert!(contents(&folder) == whole, "round {round}");
    }
}

#[test]
fn ranks_share_a_store() {
    let Some(server) = Server::start(Kind::S3) else { return };
    let (collection, config) = mixed(40);
    assert!(run(&["build", &config]).0);
    let url = server.url("ranks");
    let receipts = || server.logged(&["PUT ", "/ranks/receipts/"]);
    with_one_killed(
        |index| {
            let mut command = rank(&config, &url, (index, 3), &["--wait"]);
            command.envs(server.environment(&server.address));
            silent(command)
        },
        |child| {
            while receipts() < 2 && child.try_wait().unwrap().is_none() {
                std::thread::yield_now();
            }
            child.kill().unwrap();
            !child.wait().unwrap().success()
        },
    );
    assert!(server.contents("ranks") == contents(&collection.output("out")));
}

#[test]
fn ranks_that_plan_different_data_sets_are_told_so() {
    let collection = Collection::new(12);
    let config = configuration(&collection);
    let folder = collection.output("out");
    let output = folder.to_string_lossy().into_owned();
    // Rank 0 has read what it needs before a file goes; then it waits for rank 1.
    assert!(output_of(rank(&config, &output, (0, 2), &[])).0);
    let announced = folder.join(".staging/rank-0-of-2.json");
    std::fs::remove_file(&announced).unwrap();
    let mut waiting = rank(&config, &output, (0, 2), &["--wait"]);
    let mut waiting = waiting.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    while !announced.exists() {
        assert!(waiting.try_wait().unwrap().is_none(), "rank 0 did not wait");
        std::thread::yield_now();
    }
    // Rank 1 sees one pair less. To it, rank 0's plan may be left from an earlier build.
    std::fs::rename(collection.image(11), collection.output("11.jpg")).unwrap();
    std::fs::rename(collection.mask(11), collection.output("11.png")).unwrap();
    let (succeeded, stdout, stderr) = output_of(rank(&config, &output, (1, 2), &[]));
    assert!(succeeded && stdout.contains("not finished by others: rank 0"), "{stdout}{stderr}");
    let ended = waiting.wait_with_output().unwrap();
    let stderr = String::from_utf8(ended.stderr).unwrap();
    let expected = format!("error: {output}: rank 0 plans another data set than rank 1: ");
    assert!(!ended.status.success() && stderr.starts_with(&expected), "{stderr}");
    assert!(!folder.join("manifest.json").exists());
    // Once they agree, nothing of all this is left.
    for index in [1, 0] {
        let (succeeded, _, stderr) = output_of(rank(&config, &output, (index, 2), &[]));
        assert!(succeeded, "{stderr}");
    }
    let fresh = collection.output("fresh").to_string_lossy().into_owned();
    assert!(run(&["build", &config, "--output", &fresh]).0);
    assert!(contents(&folder) == contents(&collection.output("fresh")));
}

#[test]
fn what_stops_one_process_stops_the_ranks() {
    let collection = Collection::new(12);
    for index in 0..9 {
        let (width, height) = image::image_dimensions(collection.mask(index)).unwrap();
        save_mask(&image::GrayImage::new(width, height), &collection.mask(index));
    }
    let config = configuration(&collection);
    let (succeeded, _, alone) = run(&["build", &config]);
    assert!(!succeeded && alone.contains("9 of 12 pairs were refused"), "{alone}");
    let output = collection.output("ranks").to_string_lossy().into_owned();
    let start = |index, more: &[&str]| output_of(rank(&config, &output, (index, 2), more));
    assert!(start(0, &[]).0);
    let (succeeded, _, stderr) = start(1, &[]);
    assert!(!succeeded, "{stderr}");
    assert_eq!(stderr.replace("/ranks/", "/out/"), alone);
    assert!(!collection.output("ranks").join("manifest.json").exists());
    // What is refused to a strict rank may also lie in another's part.
    for index in 0..9 {
        let (width, height) = image::image_dimensions(collection.mask(index)).unwrap();
        save_mask(&disc(width, height), &collection.mask(index));
    }
    save_mask(&disc(7, 7), &collection.mask(0));
    assert!(start(0, &[]).0);
    let (succeeded, _, stderr) = start(1, &["--strict"]);
    assert!(!succeeded && stderr.contains("drawn/0000: "), "{stderr}");
    assert!(start(1, &[]).0);
}
