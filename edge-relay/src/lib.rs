//! The village's side: a local MQTT broker whose PUBACK means "on disk", and the way to the hub.

pub mod allocator;
pub mod durable;
pub mod store;
