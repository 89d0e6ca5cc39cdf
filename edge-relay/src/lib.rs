//! The village's side: a local MQTT broker whose PUBACK means "on disk", and the way to the hub.

pub mod admin;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod disk;
pub mod drain_log;
pub mod durable;
pub mod listener;
pub mod logs;
pub mod machine;
pub mod metrics;
pub mod run;
pub mod store;
pub mod supervisor;
pub mod tls;
pub mod users;
