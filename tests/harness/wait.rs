//! Waiting on a condition with a deadline, in place of sleeping and hoping.

use std::time::{Duration, Instant};

/// `s` seconds, for deadlines: `within(10)`.
pub const fn within(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// Asks until the answer is `Some`; panics with `what` and the time after `deadline`.
#[track_caller]
pub fn wait_for<T>(what: &str, deadline: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            start.elapsed() < deadline,
            "waited {:.1} s in vain: {what}",
            start.elapsed().as_secs_f64()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}
