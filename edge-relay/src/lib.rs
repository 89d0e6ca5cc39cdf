//! The village's side: a local MQTT broker whose PUBACK means "on disk", and the way to the hub.
//!
//! ```text
//! meter ─► listener ─► store ─────────────► PUBACK ─► meter
//!           (codec,     append, group commit,
//!            checks)    one fdatasync for many
//!                         │        └─► broker ─► local subscribers
//!                         ▼
//!                   hub_bridge (reads on, window, in flight) ─► hub ─► PUBACK ─► confirm ─► trim
//! ```
//!
//! The data path, file by file: `listener::connection` takes packets off a socket, `listener::inbound` makes
//! readings of them, [`store`] appends and commits, and only then does [`broker`] hand a publish to local
//! subscribers and the connection write its PUBACK. [`store`] is the bridge's `Backlog`: `hub_bridge::bridge` reads
//! from it, and confirms what the hub acknowledged.
//!
//! Around it: [`run`] composes and stops in order, [`config`] validates and applies edits, [`clock`] says what time
//! it is and whether to believe it, [`admin`], [`metrics`] and [`logs`] show, [`cli`] is the command line.

pub mod admin;
pub mod allocator;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod disk;
pub mod drain_log;
pub mod durable;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod listener;
pub mod logs;
pub mod machine;
pub mod metrics;
pub mod run;
pub mod stick;
pub mod store;
pub mod supervisor;
pub mod tls;
pub mod traffic_book;
pub mod users;
