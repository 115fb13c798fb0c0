//! Going on from a checkpoint: who may write to the run's place, which checkpoint is the newest
//! whole one, and whether it belongs to what is trained now.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use dataset::order::World;
use pipeline::Position;
use tch::Device;

use super::agreement::{CONFIGURATION, differences};
use super::training::Training;
use super::{TrainError, internal};
use crate::checkpoint::{Checkpoint, Checkpoints, Found};
use crate::config::TrainConfig;
use crate::data_parallel::DataParallel;
use crate::json_lines::is_full;
use crate::run::{CONFIG_FILE, load_hq_parameters};
use crate::run_log::{EVALUATIONS, STEPS};

/// Seconds that a new run waits for the ranks of a killed launcher to save and end.
const LOCK_WAIT_SECS: u64 = 60;

/// [`lock_run`] on every rank or on none: `None` where one was asked to stop while it waited.
pub(super) fn take_place(
    config: &TrainConfig,
    world: World,
    data_parallel: &DataParallel,
    device: Device,
    stop: &dyn Fn() -> bool,
) -> Result<Option<(Checkpoints, Option<File>)>, TrainError> {
    let locked = lock_run(config, world, stop)?;
    let has_place = f64::from(u8::from(locked.is_some()));
    let with_place: f64 = match data_parallel.sum(&[has_place], device) {
        // Another rank may have heard it when it was still waiting for the last one.
        Err(_) if stop() => return Ok(None),
        counts => counts?.iter().sum(),
    };
    Ok(locked.filter(|_| with_place == world.world_size as f64))
}

/// The checkpoints of the run and the lock of its folder, which the system releases when rank 0 ends,
/// however it ends. Rank 0 locks a store besides. `None` where `stop` asks for an end before.
fn lock_run(
    config: &TrainConfig,
    world: World,
    stop: &dyn Fn() -> bool,
) -> Result<Option<(Checkpoints, Option<File>)>, TrainError> {
    let folder = config.folder();
    let mut checkpoints = Checkpoints::open(config.store_url(), &folder)?;
    if world.rank != 0 {
        return Ok(Some((checkpoints, None)));
    }
    let Some(file) = lock_folder(&folder, stop)? else { return Ok(None) };
    if !checkpoints.lock(stop)? {
        return Ok(None);
    }
    checkpoints.settle()?;
    Ok(Some((checkpoints, Some(file))))
}

fn lock_folder(folder: &Path, stop: &dyn Fn() -> bool) -> Result<Option<File>, TrainError> {
    let path = folder.join("lock");
    let io = |source| TrainError::Io { path: path.clone(), source };
    std::fs::create_dir_all(folder).map_err(io)?;
    let file = File::create(&path).map_err(io)?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::Error(source)) => return Err(io(source)),
            Err(TryLockError::WouldBlock) if stop() => return Ok(None),
            Err(TryLockError::WouldBlock) if started.elapsed().as_secs() >= LOCK_WAIT_SECS => {
                return Err(TrainError::Config(format!(
                    "another process trains in {}: end it, or choose another output",
                    folder.display()
                )));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Removes the logs of a run that was killed before its first checkpoint: its steps are done again.
pub(super) fn forget_logs(output: &Path) -> Result<(), TrainError> {
    for name in [STEPS, EVALUATIONS] {
        let path = output.join(name);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(TrainError::Io { path, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// The checkpoint to go on from, the newest that is whole; a place that already holds a run is
/// refused without `--resume`.
pub(super) fn newest_checkpoint(
    checkpoints: &Checkpoints,
    output: &str,
    resume: bool,
    tell: bool,
) -> Result<Option<Found>, TrainError> {
    if !resume {
        return match checkpoints.newest()? {
            None => Ok(None),
            Some(name) => Err(TrainError::Config(format!(
                "{output} already holds a run ({name}): add --resume to go on, or choose another \
                 output"
            ))),
        };
    }
    let (found, damaged) = checkpoints.load_newest()?;
    let instead =
        if found.is_some() { "the checkpoint before it is used" } else { "starting anew" };
    for error in damaged.iter().filter(|_| tell) {
        tracing::warn!("{error}; {instead}");
    }
    Ok(found)
}

impl Training<'_> {
    /// Goes on from `checkpoint`, if it belongs to this run's data, weights and settings.
    pub(super) fn resume_from(
        &mut self,
        path: &Path,
        checkpoint: Checkpoint,
    ) -> Result<(), TrainError> {
        let Checkpoint { info, hq_parameters, adam } = checkpoint;
        let train = &self.config.train;
        let checks = [
            ("train.seed", info.seed.to_string(), train.seed.to_string()),
            ("train.global_batch", info.global_batch.to_string(), train.global_batch.to_string()),
            ("data set (manifest hash)", info.data_sha256.clone(), self.data_sha256.clone()),
            ("SAM checkpoint (hash)", info.sam_sha256.clone(), self.sam_sha256.clone()),
        ];
        for (what, saved, now) in checks {
            if saved != now {
                return Err(TrainError::Config(format!(
                    "{}: cannot resume, {what} was {saved} and is now {now}",
                    path.display()
                )));
            }
        }
        let now = toml::to_string(self.config).map_err(internal)?;
        let changed = differences(&info.config, &now, true);
        if !info.config.is_empty() && !changed.is_empty() {
            let (path, changed) = (path.display(), changed.join("; "));
            return Err(TrainError::Config(format!("{path}: cannot resume, {changed}")));
        }
        if !info.program.is_empty() && info.program != self.program && self.world.rank == 0 {
            tracing::warn!(
                "{} was written by another program, which may compute other bits: it was {} and is \
                 now {}",
                path.display(),
                info.program,
                self.program
            );
        }
        load_hq_parameters(&self.context.model, &hq_parameters)
            .map_err(|problem| TrainError::Config(format!("{}: {problem}", path.display())))?;
        self.context
            .optimizer
            .load_state(&adam)
            .map_err(|problem| TrainError::Config(format!("{}: {problem}", path.display())))?;
        self.position = Position { epoch: info.epoch, step: info.step };
        self.global_step = info.global_step;
        self.log.resumed(path, &self.position, self.global_step)
    }

    /// Writes down what is trained, for whoever opens the run.
    pub(super) fn write_config(&self) -> Result<(), TrainError> {
        if self.world.rank != 0 {
            return Ok(());
        }
        let path = self.folder.join(CONFIG_FILE);
        let text = toml::to_string(self.config).map_err(internal)?;
        if let Checkpoints::Store(store) = &*self.checkpoints {
            store.put_config(&text)?;
        }
        if std::fs::read_to_string(&path).is_ok_and(|before| before == text) {
            return Ok(());
        }
        let staged = path.with_extension("toml.tmp");
        match std::fs::write(&staged, text).and_then(|()| std::fs::rename(&staged, &path)) {
            // What the run needs to be opened is there, though some settings were others.
            Err(error) if is_full(&error) && path.exists() => {
                tracing::warn!("{}: {error}; the one before is kept", path.display());
                let _ = std::fs::remove_file(staged);
                Ok(())
            }
            written => written.map_err(|source| TrainError::Io { path, source }),
        }
    }

    /// Says what differs: this rank's `value` and those of the others are compared with rank 0's.
    pub(super) fn disagreement(&self, what: &str, value: &str) -> Result<TrainError, TrainError> {
        let context = &self.context;
        let all = context.data_parallel.all_gather_bytes(value.as_bytes(), context.device)?;
        let texts: Vec<_> = all.iter().map(|text| String::from_utf8_lossy(text)).collect();
        Ok(TrainError::Diverged(different(what, &texts)))
    }
}

/// The first rank whose value is not rank 0's, with both values; `what` says of what.
fn different(what: &str, values: &[impl AsRef<str>]) -> String {
    let value = |rank: usize| match values[rank].as_ref() {
        "" => "none",
        value => value,
    };
    let other = (0..values.len()).find(|&rank| value(rank) != value(0)).unwrap_or(0);
    let values = match what {
        CONFIGURATION => {
            let keys = differences(value(0), value(other), false).join(", ");
            format!("from rank 0 to rank {other}: {keys}")
        }
        _ => format!("rank 0 has {}, rank {other} has {}", value(0), value(other)),
    };
    format!("the {what} is not the same on every rank ({values})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rank_that_differs_is_named_with_both_values() {
        assert_eq!(
            different("data manifest", &["ab", "ab", "cd", "ef"]),
            "the data manifest is not the same on every rank (rank 0 has ab, rank 2 has cd)"
        );
        // A random SAM has no file.
        assert_eq!(
            different("SAM checkpoint", &["", "cd"]),
            "the SAM checkpoint is not the same on every rank (rank 0 has none, rank 1 has cd)"
        );
        assert_eq!(
            different(CONFIGURATION, &["[train]\nlr = 0.1", "[train]\nlr = 0.2"]),
            "the configuration is not the same on every rank (from rank 0 to rank 1: train.lr was 0.1 \
             and is now 0.2)"
        );
    }
}
