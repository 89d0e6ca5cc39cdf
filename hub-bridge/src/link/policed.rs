//! The link under a policy: how fast it may send, and whether what waited may go.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::debug;

use super::Link;
use crate::platform::Platform;
use crate::policy::{Permit, Scope};
use crate::rate::{REST, RateLimit};
use crate::traffic::meter::{Meter, Metered};

/// What a link is told of the policy, and what it is counted by.
#[derive(Clone)]
pub(crate) struct Policed {
    pub(crate) meter: Meter,
    pub(crate) permit: watch::Receiver<Permit>,
}

impl Policed {
    /// The platform with a network that is counted.
    pub(crate) fn metered(&self, platform: Platform) -> Platform {
        let network = Metered::new(platform.network, self.meter.clone());
        Platform {
            network: Arc::new(network),
            ..platform
        }
    }
}

/// The policy as one link sees it.
#[derive(Default)]
pub(super) struct Bounds {
    rate: RateLimit,
    /// The bucket was empty when something wanted to leave.
    limited: bool,
}

impl Bounds {
    pub(super) fn limited(&self) -> bool {
        self.limited
    }

    /// The rate limit in bytes a second, where there is one.
    pub(super) fn rate(&self) -> Option<f64> {
        self.rate.bytes_per_s()
    }

    /// A publish of `bytes` leaves.
    pub(super) fn charge(&mut self, bytes: usize) {
        self.rate.charge(bytes);
    }
}

impl Link {
    pub(super) fn take_permit(&mut self, permit: Permit) {
        debug!(?permit, "link");
        let (sent, now) = (self.parts.policed.meter.total().sent, self.now());
        self.bounds.rate.set(permit.rate_bytes_per_s, sent, now);
        self.bounds.limited = false;
        self.feed.backlog_may_go(permit.scope == Scope::All);
    }

    /// Whether the policy lets another publish leave now.
    pub(super) fn may_send(&mut self) -> bool {
        let (sent, now) = (self.parts.policed.meter.total().sent, self.now());
        let may = self.bounds.rate.has_room(sent, now);
        self.bounds.limited = !may;
        may
    }

    /// How long the link may sleep when `wait` is nothing else's reason to wake up.
    pub(super) fn wait_under_policy(&self, wait: Duration) -> Duration {
        if self.bounds.limited {
            wait.min(REST)
        } else {
            wait
        }
    }
}
