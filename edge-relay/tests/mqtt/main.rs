//! The village's MQTT server, spoken to in bytes over real sockets.

// A test that finds something else than it expects ends right there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]

mod client;
mod connecting;
mod flow;
mod hostile;
mod limits;
mod promises;
mod publish;
mod qos2;
mod relay;
mod retained;
mod security;
mod sessions;
mod sharing;
mod subscribe;
mod table;
mod wills;
