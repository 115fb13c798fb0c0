//! The launcher's side of heartbeats: who went silent, and how far the ranks came.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// For ranks that beat, unless the user says otherwise: as long as torch waits for a collective.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);

/// A rank that went silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Silent {
    /// Number on this machine.
    pub(crate) local_rank: usize,
    /// For how long.
    pub(crate) silence: Duration,
    /// Its last step; `None`: it has begun none.
    pub(crate) step: Option<u64>,
    /// Whether it ever beat.
    pub(crate) has_beaten: bool,
}

/// Watches the heartbeat files of one round.
pub(crate) struct Heartbeats {
    timeout: Option<Duration>,
    ranks: Vec<Watched>,
}

struct Watched {
    file: PathBuf,
    seen: Option<(SystemTime, String)>,
    step: Option<u64>,
    changed: Instant,
}

impl Heartbeats {
    /// Files for `num_ranks` ranks inside `folder`. With a `timeout`, ranks that never beat are
    /// judged as well.
    pub(crate) fn new(
        folder: &Path,
        num_ranks: usize,
        timeout: Option<Duration>,
        now: Instant,
    ) -> Self {
        let watched = |rank: usize| Watched {
            file: folder.join(rank.to_string()),
            seen: None,
            step: None,
            changed: now,
        };
        Self { timeout, ranks: (0..num_ranks).map(watched).collect() }
    }

    /// Where a rank's beats go.
    pub(crate) fn file(&self, local_rank: usize) -> &Path {
        &self.ranks[local_rank].file
    }

    /// How often to [`look`](Self::look).
    pub(crate) fn interval(&self) -> Duration {
        let timeout = self.timeout.unwrap_or(DEFAULT_TIMEOUT);
        (timeout / 20).clamp(Duration::from_millis(20), Duration::from_secs(1))
    }

    /// Reads all files. The rank that has been silent longest, if that is too long: when one rank
    /// hangs, the others beat last when they begin to wait for it, which is later.
    pub(crate) fn look(&mut self, now: Instant, alive: impl Fn(usize) -> bool) -> Option<Silent> {
        for rank in &mut self.ranks {
            rank.read(now);
        }
        let silent = |(local_rank, rank): (usize, &Watched)| {
            let timeout = match rank.seen {
                Some(_) => self.timeout.unwrap_or(DEFAULT_TIMEOUT),
                None => self.timeout?,
            };
            let silence = now.saturating_duration_since(rank.changed);
            let hung = alive(local_rank) && silence > timeout;
            let has_beaten = rank.seen.is_some();
            hung.then_some(Silent { local_rank, silence, step: rank.step, has_beaten })
        };
        self.ranks
            .iter()
            .enumerate()
            .filter_map(silent)
            .max_by_key(|one| (one.silence, std::cmp::Reverse(one.step)))
    }

    /// The furthest step of any rank.
    pub(crate) fn furthest(&self) -> Option<u64> {
        self.ranks.iter().filter_map(|rank| rank.step).max()
    }
}

impl Watched {
    fn read(&mut self, now: Instant) {
        let Ok(modified) = std::fs::metadata(&self.file).and_then(|file| file.modified()) else {
            return;
        };
        let Ok(text) = std::fs::read_to_string(&self.file) else { return };
        let found = Some((modified, text));
        if found == self.seen {
            return;
        }
        let step =
            found.as_ref().and_then(|(_, text)| text.split_whitespace().next()?.parse().ok());
        self.step = step.or(self.step);
        self.seen = found;
        self.changed = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_rank_that_was_silent_first_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let mut beats = Heartbeats::new(folder.path(), 3, None, start);
        let beat =
            |rank: usize, text: &str| std::fs::write(folder.path().join(rank.to_string()), text);
        beat(0, "4").unwrap();
        beat(1, "4 7\n").unwrap();
        assert_eq!(beats.look(start, |_| true), None);
        beat(0, "5").unwrap();
        assert_eq!(beats.look(start + SECOND, |_| true), None);
        assert_eq!(beats.furthest(), Some(5));
        // Rank 2 never beat, so nothing is known of it.
        let late = start + DEFAULT_TIMEOUT + 2 * SECOND;
        let silence = late - start;
        assert_eq!(
            beats.look(late, |_| true),
            Some(Silent { local_rank: 1, silence, step: Some(4), has_beaten: true })
        );
        assert_eq!(beats.look(late, |rank| rank != 1).map(|one| one.local_rank), Some(0));
        // A beat without a step is a sign of life all the same.
        beat(1, "").unwrap();
        assert_eq!(beats.look(late, |rank| rank == 1), None);
        assert_eq!(beats.ranks[1].step, Some(4));
    }

    #[test]
    fn with_a_timeout_every_rank_must_beat() {
        let folder = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let mut beats = Heartbeats::new(folder.path(), 1, Some(5 * SECOND), start);
        assert_eq!(beats.look(start + 5 * SECOND, |_| true), None);
        let silent = beats.look(start + 6 * SECOND, |_| true).unwrap();
        assert_eq!((silent.step, silent.silence, silent.has_beaten), (None, 6 * SECOND, false));
        // It loads or waits.
        std::fs::write(folder.path().join("0"), "- 0\n").unwrap();
        assert_eq!(beats.look(start + 6 * SECOND, |_| true), None);
        let silent = beats.look(start + 12 * SECOND, |_| true).unwrap();
        assert_eq!((silent.step, silent.silence, silent.has_beaten), (None, 6 * SECOND, true));
    }
}
