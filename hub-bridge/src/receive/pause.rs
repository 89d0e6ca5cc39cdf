//! How long to wait after a failure: in a data centre, where everything is near.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::classify::ErrorClass;
use crate::settings::RetrySettings;

/// Waits that grow with failures in a row.
#[derive(Debug)]
pub(super) struct Pause {
    backoff: Backoff,
    began: Instant,
    settings: RetrySettings,
}

impl Pause {
    pub(super) fn new() -> Self {
        Self {
            backoff: Backoff::default(),
            began: Instant::now(),
            settings: RetrySettings {
                first: Duration::from_millis(200),
                max: Duration::from_secs(10),
                max_rejected: Duration::from_secs(60),
            },
        }
    }

    /// Counts a failure and gives the wait.
    pub(super) fn failed(&mut self, class: ErrorClass) -> Duration {
        let (backoff, wait) =
            self.backoff
                .failed(class, self.began.elapsed(), &self.settings, rand::random());
        self.backoff = backoff;
        // The first failure is answered at once; in a loop that costs more than it gains.
        wait.max(Duration::from_millis(50))
    }

    /// Something moved.
    pub(super) fn over(&mut self) {
        self.backoff = Backoff::default();
    }
}
