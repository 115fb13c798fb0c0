//! Signals that ask a process to stop, counted as requests.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::Cause;

/// Signals that programs send within this time of the first belong to one request.
const SAME_REQUEST: Duration = Duration::from_secs(2);

/// A request to stop, and its signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopRequest {
    /// The first: finish what is begun, save, end.
    First(i32),
    /// A further one: end now.
    Again(i32),
}

/// Calls `on_request` for each request that SIGINT and SIGTERM make, on a thread of its own.
///
/// One request often arrives several times: a scheduler signals the launcher and its ranks, and the
/// launcher passes it on; `timeout` signals its child and then the whole group. So all that programs
/// send within two seconds is one request. A person who types Ctrl-C again means it, at once.
///
/// # Errors
/// The signals cannot be watched.
pub fn watch_stop_requests(
    mut on_request: impl FnMut(StopRequest) + Send + 'static,
) -> io::Result<()> {
    let mut signals = SignalsInfo::<WithOrigin>::new([SIGINT, SIGTERM])?;
    let watch = move || {
        let mut requests = Requests::default();
        for origin in &mut signals {
            let is_typed = origin.cause == Cause::Kernel;
            if let Some(is_first) = requests.count(Instant::now(), is_typed) {
                on_request(match is_first {
                    true => StopRequest::First(origin.signal),
                    false => StopRequest::Again(origin.signal),
                });
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(watch)?;
    Ok(())
}

/// A flag that the first request sets; a further one ends the process at once, with 128 and the
/// signal as its exit code. SIGHUP does nothing from now on: see `ignore_hang_up`.
///
/// # Errors
/// The signals cannot be watched.
pub fn stop_flag() -> io::Result<Arc<AtomicBool>> {
    ignore_hang_up()?;
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    watch_stop_requests(move |request| match request {
        StopRequest::First(_) => flag.store(true, Ordering::Relaxed),
        StopRequest::Again(signal) => signal_hook::low_level::exit(128 + signal),
    })?;
    Ok(stop)
}

/// Makes SIGHUP do nothing in this process: closing the terminal must not end a training. What it
/// starts is not affected. Output fails from then on, which must not end anything either.
///
/// # Errors
/// The signal cannot be handled.
pub(crate) fn ignore_hang_up() -> io::Result<()> {
    signal_hook::flag::register(SIGHUP, Arc::new(AtomicBool::new(false))).map(drop)
}

/// The request that came last.
#[derive(Default)]
struct Requests {
    since: Option<Instant>,
    /// Whether a key was typed in it.
    is_typed: bool,
}

impl Requests {
    /// Whether a signal is the first request (true), a further one (false), or part of the last.
    fn count(&mut self, now: Instant, is_typed: bool) -> Option<bool> {
        let is_echo = |since: Instant| now.duration_since(since) <= SAME_REQUEST;
        match self.since {
            Some(since) if is_echo(since) && !(is_typed && self.is_typed) => {
                self.is_typed |= is_typed;
                None
            }
            before => {
                *self = Self { since: Some(now), is_typed };
                Some(before.is_none())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_may_arrive_often_but_a_key_counts_each_time() {
        let start = Instant::now();
        let count = |signals: &[(u64, bool)]| -> Vec<Option<bool>> {
            let mut requests = Requests::default();
            let at = |&(millis, is_typed)| {
                requests.count(start + Duration::from_millis(millis), is_typed)
            };
            signals.iter().map(at).collect()
        };
        let (sent, typed) = (false, true);
        let (first, again) = (Some(true), Some(false));
        assert_eq!(count(&[(0, sent), (1, sent), (1900, sent)]), [first, None, None]);
        assert_eq!(count(&[(0, sent), (2100, sent), (2200, sent)]), [first, again, None]);
        assert_eq!(count(&[(0, typed), (300, typed)]), [first, again]);
        // Typed into a terminal and passed on by a launcher, in either order.
        assert_eq!(count(&[(0, typed), (5, sent)]), [first, None]);
        assert_eq!(count(&[(0, sent), (5, typed), (10, sent)]), [first, None, None]);
        assert_eq!(count(&[(0, sent), (5, typed), (300, typed)]), [first, None, again]);
    }
}
