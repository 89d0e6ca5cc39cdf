//! What meters connect to.

mod settings;
mod stats;

pub use settings::{Settings, TlsSettings};
pub use stats::{Counter, Gauge, MqttStats};
