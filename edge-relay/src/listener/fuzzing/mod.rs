//! Fuzz functions of the listener: bytes go through the real acceptor, connection, store and broker, over streams in
//! memory that are split where the input says.
//!
//! What is checked after each input: what the server wrote is MQTT by an independent decoder's judgement and answers
//! only what was asked; what it acknowledged is in the store, and nothing else is; a client that broke the rules was cut
//! off, one with MQTT 5 after a DISCONNECT that says why; no connection and no session is left behind, and another
//! client is served.

// What breaks an invariant ends right there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod answers;
mod bytes;
mod rig;
mod said;
mod session;

pub(crate) use bytes::mqtt_bytes;
pub(crate) use session::mqtt_session;
