//! A disk that fills up while a run trains and evaluates, and is emptied again.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::{lines, program, tiny};
use trainer::checkpoint;

use crate::running::{Running, spawn_with_stderr, wait_for};
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

struct Run<'a> {
    folder: &'a Path,
    output: PathBuf,
    /// What the launcher and its ranks say.
    messages: PathBuf,
}

impl Run<'_> {
    fn start(&self, more: &[&str]) -> Running {
        let mut command = Command::new(program("launch"));
        command.args(["--procs", "2", "tiny.toml", "--set", "output=\"disk/run\""]).args(more);
        command.current_dir(self.folder);
        spawn_with_stderr(&mut command, File::create(&self.messages).unwrap())
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.messages).unwrap()
    }

    fn newest(&self) -> Option<u64> {
        checkpoints(&self.output).0.last().copied()
    }

    fn evaluated(&self) -> usize {
        lines(&self.output.join("eval.jsonl")).len()
    }

    /// Until there is room again, and more was recorded and saved; then it is asked to stop.
    fn goes_on(&self, launcher: Running, disk: &SmallDisk) {
        disk.empty();
        let (records, saved) = (self.evaluated(), self.newest());
        wait_for("a record and a checkpoint after it", || {
            self.evaluated() > records && self.newest() > saved
        });
        signal("TERM", &[launcher.id()]);
        let (output, _) = ended(launcher);
        assert_eq!(output.status.code(), Some(0), "{}", self.said());
        let steps = logged(&self.output.join("steps.jsonl"));
        assert!(steps.windows(2).all(|two| two[0] < two[1]), "{steps:?}");
        assert!(logged(&self.output.join("eval.jsonl")).len() > records);
        assert_eq!(self.newest(), steps.last().copied(), "{}", self.said());
        let found = std::fs::read_dir(self.output.join("checkpoints")).unwrap().count();
        let whole = checkpoint::list(&self.output).unwrap().len();
        assert_eq!((found, whole), (2, 2), "no half-written file is left");
    }
}

#[test]
fn a_disk_that_is_full_for_a_while_costs_records_and_not_the_run() {
    let folder = tiny(
        "[train]\nepochs = 100000\nlr_drop_epoch = 0\ncheckpoint_every_steps = 0\nkeep_last = 2\n\
         [eval]\nevery_epochs = 1\n",
    );
    let folder = folder.path();
    let Some(disk) = SmallDisk::mount(folder.join("disk")) else { return };
    let messages = folder.join("stderr.txt");
    let run = Run { folder, output: folder.join("disk/run"), messages };

    let launcher = run.start(&[]);
    wait_for("the first evaluation", || run.evaluated() > 0);
    let without_room = |said: String| {
        said.contains("steps.jsonl: No space left on device")
            && said.contains("training goes on without a record of this evaluation")
            && said.contains("training goes on, and the checkpoints before are kept")
    };
    wait_for("a step, an evaluation and a checkpoint without room", || {
        // Again and again: a checkpoint that is given up leaves room for a log.
        disk.fill();
        without_room(run.said())
    });
    run.goes_on(launcher, &disk);

    // A setting that may change, which is then to be written down.
    disk.fill();
    let launcher = run.start(&["--resume", "--set", "train.check_parameters_every_steps=7"]);
    wait_for("the same in a run that is resumed without room", || {
        disk.fill();
        without_room(run.said())
    });
    let said = run.said();
    assert!(said.contains("tensorboard: No space left on device"), "{said}");
    assert!(said.contains("config.toml: No space left on device"), "{said}");
    run.goes_on(launcher, &disk);
}
