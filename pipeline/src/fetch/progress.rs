//! How far a file has come: a bar, or without a terminal a line now and then.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{DecimalBytes, MultiProgress, ProgressBar, ProgressStyle};

/// Time between two lines about the same file.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// The progress of one file.
pub(super) struct Progress {
    bar: ProgressBar,
    pace: Mutex<Pace>,
}

impl Progress {
    /// A bar among others; `what` is the file, or what is done to it.
    pub(super) fn new(bars: &MultiProgress, what: &str) -> Self {
        let style = "{prefix} {bar:30} {decimal_bytes}/{decimal_total_bytes}, \
                     {decimal_bytes_per_sec}, {eta} left";
        let style =
            ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(0).with_style(style).with_prefix(what.to_owned());
        Self { bar: bars.add(bar), pace: Mutex::new(Pace::new(BETWEEN_LINES)) }
    }

    /// So many bytes in all, of which `done` are there already.
    pub(super) fn start(&self, done: u64, total: Option<u64>) {
        if let Some(total) = total {
            self.bar.set_length(total);
        }
        self.bar.set_position(done);
        self.tell();
    }

    /// So many more bytes.
    pub(super) fn inc(&self, bytes: u64) {
        self.bar.inc(bytes);
        self.tell();
    }

    /// Writes to the terminal without a bar in between.
    pub(super) fn suspend(&self, write: impl FnOnce()) {
        self.bar.suspend(write);
    }

    /// Removes the bar.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn tell(&self) {
        if !self.bar.is_hidden() {
            return;
        }
        let due = self.pace.lock().is_ok_and(|mut pace| pace.is_due(Instant::now()));
        if due {
            let (what, done) = (self.bar.prefix(), self.bar.position());
            let total = self.bar.length().unwrap_or(0);
            tracing::info!("{what}: {}", share(done, total));
        }
    }
}

/// When the next line is due: at once, and then no sooner than an interval later.
struct Pace {
    interval: Duration,
    next: Option<Instant>,
}

impl Pace {
    fn new(interval: Duration) -> Self {
        Self { interval, next: None }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        if self.next.is_some_and(|next| now < next) {
            return false;
        }
        self.next = Some(now + self.interval);
        true
    }
}

/// Without a total where the server has not told it.
fn share(done: u64, total: u64) -> String {
    match total {
        0 => format!("{} so far", DecimalBytes(done)),
        total => {
            let percent = done.saturating_mul(100) / total;
            format!("{} of {}, {percent} %", DecimalBytes(done), DecimalBytes(total))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_at_once_and_then_one_an_interval() {
        let start = Instant::now();
        let mut pace = Pace::new(Duration::from_secs(10));
        let told: Vec<u64> =
            (0..35).filter(|second| pace.is_due(start + Duration::from_secs(*second))).collect();
        assert_eq!(told, [0, 10, 20, 30]);
    }

    #[test]
    fn shares_are_of_what_is_known() {
        assert_eq!(share(500_000, 2_000_000), "500.00 kB of 2.00 MB, 25 %");
        assert_eq!(share(500_000, 0), "500.00 kB so far");
    }
}
