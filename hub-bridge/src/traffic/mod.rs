//! What really crosses the uplink, counted where it crosses.
//!
//! `meter` counts the bytes of each TCP stream below TLS, so that handshakes, records, CONNECTs, keep alives and whatever
//! else goes over it are in the count. What TCP and IP put around them is estimated by `overhead`. [`budget`] gathers both
//! by month, and says when a month's budget is used up.

pub(crate) mod account;
pub mod budget;
pub(crate) mod meter;
mod month;
mod overhead;

pub use budget::{NoBook, TrafficBook, Usage};
pub use month::Month;

use serde::{Deserialize, Serialize};

/// Bytes that crossed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes that left, headers included.
    pub sent: u64,
    /// Bytes that came, headers included.
    pub received: u64,
    /// The part of both that is an estimate: headers, acknowledgements, handshakes, names.
    pub estimated: u64,
}

impl Traffic {
    /// Both directions.
    pub fn total(self) -> u64 {
        self.sent.saturating_add(self.received)
    }

    /// What `self` has more than `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            sent: self.sent.saturating_sub(before.sent),
            received: self.received.saturating_sub(before.received),
            estimated: self.estimated.saturating_sub(before.estimated),
        }
    }

    pub(crate) fn add(&mut self, more: Self) {
        self.sent = self.sent.saturating_add(more.sent);
        self.received = self.received.saturating_add(more.received);
        self.estimated = self.estimated.saturating_add(more.estimated);
    }
}
