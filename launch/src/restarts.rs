//! Whether a job that failed is started again.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// Rounds in a row that came no further than those before: more of the same will not help.
const CRASH_LOOP: usize = 3;
/// Pause before the first restart; doubled while restarts come no further.
const PAUSE: Duration = Duration::from_secs(1);
/// A round of ranks without heartbeats counts as progress from this time on.
const LONG_ROUND: Duration = Duration::from_secs(60);

/// A round that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastRound {
    /// Restarts before it.
    pub round: u32,
    /// When it failed.
    pub ended: SystemTime,
    /// How long it ran.
    pub lasted: Duration,
    /// The furthest step that a heartbeat named.
    pub step: Option<u64>,
    /// What ended it.
    pub failure: Failure,
}

impl fmt::Display for PastRound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.ended.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let (hours, minutes, seconds) = (since / 3600 % 24, since / 60 % 60, since % 60);
        write!(
            f,
            "round {}, {hours:02}:{minutes:02}:{seconds:02} UTC, after {:.1} s",
            self.round,
            self.lasted.as_secs_f64()
        )?;
        if let Some(step) = self.step {
            write!(f, " at step {step}")?;
        }
        write!(f, ": {}", self.failure.line)
    }
}

/// What follows a failed round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Start again after a pause.
    Restart(Duration),
    /// End, for a reason that is worth saying.
    GiveUp(Option<String>),
}

/// Decides by all failed rounds, the last one last.
pub(crate) fn decide(history: &[PastRound], max_restarts: u32) -> Decision {
    let Some(last) = history.last() else { return Decision::GiveUp(None) };
    if max_restarts == 0 {
        return Decision::GiveUp(None);
    }
    if !last.failure.retry {
        return Decision::GiveUp(Some("not restarted: it would fail in the same way".to_owned()));
    }
    let stalled = stalled(history);
    if stalled >= CRASH_LOOP {
        return Decision::GiveUp(Some(format!(
            "not restarted: a crash loop, the last {stalled} rounds came no further"
        )));
    }
    if last.round >= max_restarts {
        return Decision::GiveUp(Some(format!("all {max_restarts} restarts are used")));
    }
    Decision::Restart(PAUSE * (1 << stalled.saturating_sub(1)))
}

/// How many rounds, counted from the last, came no further than all before them.
fn stalled(history: &[PastRound]) -> usize {
    let progress = |index: usize| {
        let best = history[..index].iter().filter_map(|past| past.step).max();
        match history[index].step {
            Some(step) => step > best.unwrap_or(0),
            None => best.is_none() && history[index].lasted >= LONG_ROUND,
        }
    };
    (0..history.len()).rev().take_while(|&index| !progress(index)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(rounds: &[(u64, Option<u64>)]) -> Vec<PastRound> {
        let past = |(round, &(secs, step)): (usize, &(u64, Option<u64>))| PastRound {
            round: round as u32,
            ended: SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 + 3_723),
            lasted: Duration::from_secs(secs),
            step,
            failure: Failure::of_rank("rank 1 of 2 failed".into(), 1, Vec::new(), Duration::ZERO),
        };
        rounds.iter().enumerate().map(past).collect()
    }

    #[test]
    fn progress_is_what_allows_restarts() {
        let restart = |rounds: &[_]| decide(&history(rounds), 10);
        let secs = |secs| Decision::Restart(Duration::from_secs(secs));
        assert_eq!(restart(&[(5, None)]), secs(1));
        assert_eq!(restart(&[(5, None), (5, None)]), secs(2));
        assert!(
            matches!(restart(&[(5, None); 3]), Decision::GiveUp(Some(why)) if why.contains("crash loop"))
        );
        assert_eq!(restart(&[(90, None); 5]), secs(1));
        assert_eq!(restart(&[(5, Some(10)), (5, Some(20)), (5, Some(30))]), secs(1));
        assert_eq!(restart(&[(5, Some(10)), (5, Some(10)), (5, None), (5, Some(11))]), secs(1));
        let stuck = [(5, Some(10)), (90, Some(10)), (5, Some(9)), (90, None)];
        assert!(matches!(restart(&stuck), Decision::GiveUp(Some(_))));
    }

    #[test]
    fn restarts_are_counted_and_not_wasted() {
        let two = history(&[(5, Some(1)), (5, Some(2))]);
        assert_eq!(decide(&two[..1], 0), Decision::GiveUp(None));
        assert_eq!(decide(&two, 1), Decision::GiveUp(Some("all 1 restarts are used".into())));
        let mut hopeless = history(&[(5, Some(1))]);
        hopeless[0].failure.retry = false;
        assert!(matches!(decide(&hopeless, 3), Decision::GiveUp(Some(_))));
    }

    #[test]
    fn a_past_round_tells_when_and_what() {
        assert_eq!(
            history(&[(35, Some(120))])[0].to_string(),
            "round 0, 01:02:03 UTC, after 35.0 s at step 120: rank 1 of 2 failed"
        );
    }
}
