//! The village's side: a local MQTT broker whose PUBACK means "on disk", and the way to the hub.

pub mod broker;
pub mod demo;
pub mod durable;
pub mod listener;
pub mod store;
pub mod tls;
pub mod users;
