//! Both banks of the crossing from a village's backlog to the national hub.
//!
//! The village's bank: [`bridge::Bridge`] takes a [`backlog::Backlog`] and carries it to the hub's MQTT broker
//! whenever the uplink is there. The path of a reading, file by file: `link/feed` reads ahead, `lanes` picks its
//! connection, `pace` says when it may leave, `packet` makes the PUBLISH, `connection` sends it, `inflight`
//! finds it again when the PUBACK comes, `link/confirms` tells the backlog.
//!
//! What decides is pure and knows no sockets: [`uplink`] (states), [`backoff`], [`window`], [`drain`] and [`policy`] (when),
//! [`traffic`] (how much), `version` (MQTT 5 or 3.1.1), `suspect` (the reading that the hub never takes), [`classify`] (errors).
//! Invariant: a reading is confirmed only by a PUBACK for it on the connection that carried it.

#[cfg(feature = "hub")]
pub mod audit;
pub mod backlog;
pub mod backoff;
pub mod bridge;
mod bulk_tcp;
pub mod classify;
pub mod clock;
mod connection;
pub mod drain;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "hub")]
pub mod hub;
pub mod hub_url;
pub mod identity;
#[cfg(feature = "hub")]
pub mod import;
pub mod inflight;
mod lanes;
mod link;
pub mod pace;
mod packet;
pub mod platform;
pub mod policy;
pub mod probe;
pub mod ranges;
mod rate;
pub mod reading;
#[cfg(feature = "hub")]
pub mod receive;
#[cfg(feature = "hub")]
pub mod report;
mod retained;
pub mod secret;
pub mod settings;
pub mod status;
pub mod stick;
mod suspect;
pub mod topic;
pub mod traffic;
pub mod uplink;
pub mod version;
pub mod window;
pub mod wire;
