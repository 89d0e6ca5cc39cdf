//! The village's MQTT server, spoken to in bytes over real sockets.

mod client;
mod hostile;
mod limits;
mod publish;
mod qos2;
mod relay;
mod retained;
mod security;
mod sessions;
mod subscribe;
mod wills;
