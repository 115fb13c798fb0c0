//! How many threads a rank's arithmetic gets.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::RankEnv;

pub(crate) const OMP_NUM_THREADS: &str = "OMP_NUM_THREADS";

impl RankEnv {
    /// Threads for this rank's arithmetic: the machine's cores divided among its ranks, and no more
    /// than the cores that this rank is bound to. `None` where `OMP_NUM_THREADS` says how many:
    /// [`launch`](crate) and torchrun set it, other starters do not.
    pub fn threads(&self) -> Option<usize> {
        if std::env::var_os(OMP_NUM_THREADS).is_some_and(|value| !value.is_empty()) {
            return None;
        }
        Some(Cores::of_this_process().divided(self.local_world_size))
    }
}

/// Cores that this process may use.
#[derive(Clone, Copy)]
struct Cores {
    /// At once: a container may have a share of more.
    at_once: usize,
    /// Those that it is bound to.
    bound: usize,
    /// Those that it could be bound to: the machine's, the container's or the job's.
    reachable: usize,
}

impl Cores {
    fn of_this_process() -> Self {
        let at_once = std::thread::available_parallelism().map_or(1, usize::from);
        let bound = affinity().unwrap_or(at_once);
        // A thread of its own, because it binds itself to every core there is.
        let reachable = std::thread::spawn(every_core).join().ok().flatten().unwrap_or(bound);
        Self { at_once, bound, reachable }
    }

    /// The share of one of so many ranks. Where a starter binds ranks, each has its own cores or
    /// several share some; where none does, all share what the container or the job has.
    fn divided(self, ranks: usize) -> usize {
        let shared = if self.bound < self.reachable { self.reachable } else { self.at_once };
        (shared / ranks.max(1)).clamp(1, self.at_once.max(1))
    }
}

fn affinity() -> Option<usize> {
    sched_getaffinity(None).ok().and_then(|set| usize::try_from(set.count()).ok())
}

/// How many cores this thread may be bound to; it is bound to them from now on.
fn every_core() -> Option<usize> {
    let mut every = CpuSet::new();
    for core in 0..CpuSet::MAX_CPU {
        every.set(core);
    }
    // The kernel leaves out those that are not ours.
    sched_setaffinity(None, &every).ok()?;
    affinity()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_divided_once() {
        let divided =
            |at_once, bound, reachable, ranks| Cores { at_once, bound, reachable }.divided(ranks);
        assert_eq!(divided(64, 64, 64, 8), 8);
        assert_eq!(divided(2, 2, 2, 4), 1);
        // A container of 16 cores, by a quota and by a set.
        assert_eq!(divided(16, 64, 64, 2), 8);
        assert_eq!(divided(16, 16, 16, 2), 8);
        // Bound by srun to cores of its own, by mpirun to one core, or to half of the machine.
        assert_eq!(divided(8, 8, 64, 8), 8);
        assert_eq!(divided(1, 1, 64, 2), 1);
        assert_eq!(divided(32, 32, 64, 8), 8);
    }

    #[test]
    fn counting_does_not_bind_this_process() {
        let before = affinity();
        let cores = Cores::of_this_process();
        assert!(cores.reachable >= cores.bound && cores.bound > 0);
        assert_eq!(affinity(), before);
    }
}
