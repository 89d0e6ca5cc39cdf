//! What meters connect to.

pub(crate) mod codec;
mod settings;
mod stats;

pub use settings::{Settings, TlsSettings};
pub use stats::{Counter, Gauge, MqttStats};
