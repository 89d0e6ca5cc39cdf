//! What crosses between the banks beside plain readings: frames up, receipts down, accounts up.
//!
//! The specification is `docs/frame-format.md`. Topics are under `relay/v1/{village_id}/`; a village's topics are below
//! its own level, so that a hub's access rules can name them. Everything here is pure: bytes in, values out.

pub mod account;
pub mod digest;
pub mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub mod receipt;

use crate::identity::{Epoch, VillageId};

/// The first levels of every topic of this protocol.
pub const ROOT: &str = "relay/v1";

/// Where a village's frames go.
pub fn frames_topic(village: &VillageId) -> String {
    format!("{ROOT}/{village}/frames")
}

/// Where the receipts of one epoch are, retained.
pub fn receipts_topic(village: &VillageId, epoch: Epoch) -> String {
    format!("{ROOT}/{village}/receipts/{epoch}")
}

/// What a relay subscribes to for its receipts.
pub fn receipts_filter(village: &VillageId) -> String {
    format!("{ROOT}/{village}/receipts/+")
}

/// Where a relay's account of one epoch is, retained.
pub fn account_topic(village: &VillageId, epoch: Epoch) -> String {
    format!("{ROOT}/{village}/accounts/{epoch}")
}

/// The village in a topic of this protocol, and what follows it; `None` for any other topic.
pub fn village_of(topic: &str) -> Option<(VillageId, &str)> {
    let rest = topic.strip_prefix(ROOT)?.strip_prefix('/')?;
    let (village, what) = rest.split_once('/')?;
    Some((village.parse().ok()?, what))
}
