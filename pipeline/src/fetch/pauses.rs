//! How often and after which pauses a broken download is taken up again.

use std::time::Duration;

use super::FetchError;

/// When to give up.
#[derive(Clone, Copy, Debug)]
pub(super) struct RetryPolicy {
    /// Failures in a row, without a new byte between them.
    pub(super) failures: u32,
    /// The first pause; each further one is twice as long.
    pub(super) pause: Duration,
}

/// No pause of ours is longer.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// A server that asks for more than this is asked again another day.
const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(10);

/// Counts failures and says how long to wait after each.
pub(super) struct Pauses {
    policy: RetryPolicy,
    failures: u32,
    furthest: u64,
}

impl Pauses {
    pub(super) fn new(policy: RetryPolicy) -> Self {
        Self { policy, failures: 0, furthest: 0 }
    }

    /// The pause after a failure that left `length` bytes.
    pub(super) fn next(
        &mut self,
        address: &str,
        reason: &str,
        asked: Option<Duration>,
        length: u64,
    ) -> Result<Duration, FetchError> {
        let address = address.to_owned();
        // Only bytes that had never come before count as progress: a server that always breaks off
        // at the same place is given up as well.
        if length > self.furthest {
            (self.furthest, self.failures) = (length, 0);
        }
        self.failures += 1;
        if self.failures > self.policy.failures {
            let reason = reason.to_owned();
            return Err(FetchError::GaveUp { address, failures: self.failures, reason });
        }
        match asked {
            Some(asked) if asked > LONGEST_RETRY_AFTER => {
                Err(FetchError::Later { address, seconds: asked.as_secs() })
            }
            Some(asked) => Ok(asked.max(self.policy.pause)),
            None => {
                let doubled = self.policy.pause.saturating_mul(1 << (self.failures - 1).min(20));
                Ok(doubled.min(LONGEST_PAUSE))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_progress_starts_them_anew() {
        let policy = RetryPolicy { failures: 3, pause: Duration::from_secs(20) };
        let mut pauses = Pauses::new(policy);
        let mut next = |length, asked: Option<u64>| {
            let asked = asked.map(Duration::from_secs);
            pauses.next("a", "r", asked, length).map(|pause| pause.as_secs())
        };
        assert_eq!(next(0, None).unwrap(), 20);
        assert_eq!(next(0, None).unwrap(), 40);
        assert_eq!(next(0, None).unwrap(), 60, "never longer than a minute");
        assert_eq!(next(5, None).unwrap(), 20);
        assert_eq!(next(5, Some(90)).unwrap(), 90);
        assert_eq!(next(4, None).unwrap(), 60, "fewer bytes are no progress");
        assert!(matches!(next(5, None), Err(FetchError::GaveUp { failures: 4, .. })));
        assert!(matches!(next(6, Some(601)), Err(FetchError::Later { seconds: 601, .. })));
    }
}
