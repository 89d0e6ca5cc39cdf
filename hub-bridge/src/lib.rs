//! Both banks of the crossing from a village's backlog to the national hub.

pub mod backlog;
pub mod backoff;
pub mod bridge;
pub mod classify;
pub mod clock;
mod connection;
pub mod drain;
pub mod hub_url;
pub mod identity;
pub mod inflight;
mod lanes;
mod link;
pub mod pace;
mod packet;
pub mod reading;
mod retained;
pub mod secret;
pub mod settings;
pub mod status;
mod suspect;
pub mod topic;
pub mod uplink;
pub mod version;
pub mod window;
