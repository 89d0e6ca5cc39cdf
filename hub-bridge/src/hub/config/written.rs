//! The keys of `hub.toml` as they are written, with their defaults. `deploy/hub/hub.toml` says what each is for.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::LogFormat;
use crate::report::settings::ReportSettings;
use crate::settings::ProtocolChoice;

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Written {
    pub(super) broker: Broker,
    pub(super) database: Database,
    pub(super) receive: Receive,
    pub(super) republish: Republish,
    pub(super) mapping: Mapping,
    pub(super) admin: Admin,
    pub(super) kafka: Kafka,
    pub(super) report: ReportSettings,
    pub(super) log: Log,
    pub(super) import: crate::import::ImportConfig,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Broker {
    pub(super) url: String,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) cert_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) client_id: String,
    pub(super) protocol: ProtocolChoice,
    pub(super) keep_alive: String,
    pub(super) connect_timeout: String,
}

impl Default for Broker {
    fn default() -> Self {
        Self {
            url: String::new(),
            username: None,
            password: None,
            password_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            client_id: "hub-bridge".to_owned(),
            protocol: ProtocolChoice::Auto,
            keep_alive: "30s".to_owned(),
            connect_timeout: "15s".to_owned(),
        }
    }
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Database {
    pub(super) url: String,
    pub(super) password: Option<String>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) connect_timeout: String,
    pub(super) statement_timeout: String,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            url: String::new(),
            password: None,
            password_file: None,
            ca_file: None,
            connect_timeout: "10s".to_owned(),
            statement_timeout: "60s".to_owned(),
        }
    }
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Receive {
    pub(super) topic: String,
    pub(super) shared: super::Sharing,
    pub(super) group: String,
    pub(super) partitions: u16,
    pub(super) batch_readings_max: usize,
    pub(super) linger: String,
    pub(super) queue_bytes_max: String,
    pub(super) packet_bytes_max: String,
}

impl Default for Receive {
    fn default() -> Self {
        Self {
            topic: "villages/{village_id}/{topic}".to_owned(),
            shared: super::Sharing::Auto,
            group: "hub-bridge".to_owned(),
            partitions: 4,
            batch_readings_max: 5000,
            linger: "20ms".to_owned(),
            queue_bytes_max: "64 MiB".to_owned(),
            packet_bytes_max: "16 MiB".to_owned(),
        }
    }
}

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Republish {
    pub(super) topic: String,
}

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Mapping {
    pub(super) meter: String,
    pub(super) ts: String,
    pub(super) power_kw: String,
    pub(super) energy_kwh: String,
    pub(super) voltage_v: String,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Admin {
    pub(super) listen: String,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9884".to_owned(),
        }
    }
}

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Kafka {
    pub(super) brokers: String,
    pub(super) topic: String,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Log {
    pub(super) level: String,
    pub(super) format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Auto,
        }
    }
}
