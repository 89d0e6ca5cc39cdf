//! The configuration of the hub's side: `hub.toml`, the environment over it (`HUB_BRIDGE__DATABASE__URL` sets
//! `database.url`), and what it means.
//!
//! Invariant: a command never sees a configuration that did not pass as a whole. A secret is never in a message.

mod load;
mod problem;
mod validate;
mod written;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use load::ENVIRONMENT_PREFIX;
pub use problem::{ConfigError, Origin, Problem};

use crate::report::settings::ReportSettings;
use crate::settings::{HubSettings, TopicTemplate};
use problem::Complaints;

/// Environment variables, by name.
pub type Environment = BTreeMap<String, String>;

/// No configuration is so long.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A configuration that passed as a whole.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// The hub's broker.
    pub broker: BrokerSettings,
    /// PostgreSQL.
    pub database: DatabaseSettings,
    /// What is taken from the broker, and in what portions.
    pub receive: ReceiveSettings,
    /// Where unpacked readings are published; `None`: nowhere.
    pub republish: Option<TopicTemplate>,
    /// What is read out of payloads.
    pub mapping: MappingSettings,
    /// Where health and metrics are served; `None`: nowhere.
    pub admin: Option<SocketAddr>,
    /// The second sink; `None`: there is none.
    pub kafka: Option<KafkaSettings>,
    /// What reports, and the meters' part of an audit, go by.
    pub report: ReportSettings,
    /// What is logged.
    pub log: LogSettings,
    /// What is carried by hand.
    pub import: crate::import::ImportConfig,
}

/// The hub's broker.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// Address, credentials, TLS, times.
    pub hub: HubSettings,
    /// What the client ids begin with. All replicas of one receiver have the same.
    pub client_id: String,
}

/// PostgreSQL.
#[derive(Debug, Clone)]
pub struct DatabaseSettings {
    /// The URL and the password, parsed; redacted by `tokio-postgres` where it is shown.
    pub config: tokio_postgres::Config,
    /// PEM file with the certificates that sign the server's; the system's where `None`. Setting it asks for TLS.
    pub ca_file: Option<PathBuf>,
}

/// Whether shared subscriptions are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// Where a probe at start proves that they work.
    Auto,
    /// Never: fixed partitions of the villages.
    Never,
}

/// What is taken from the broker, and in what portions.
#[derive(Debug, Clone)]
pub struct ReceiveSettings {
    /// Where plain readings are; `None`: none are taken.
    pub topic: Option<TopicTemplate>,
    /// Whether shared subscriptions are used.
    pub shared: Sharing,
    /// The name of the shared subscription.
    pub group: String,
    /// How many sessions the replicas share among themselves, 1 to 256.
    pub partitions: u16,
    /// At most about so many readings in a transaction; a frame is never split.
    pub batch_readings_max: usize,
    /// How long a batch waits for more.
    pub linger: Duration,
    /// At most so many bytes of messages wait for the database, for each session.
    pub queue_bytes_max: usize,
    /// The largest packet that is taken from the broker, in bytes.
    pub packet_bytes_max: u32,
}

/// JSON pointers (RFC 6901); an empty one extracts nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MappingSettings {
    /// The meter's name.
    pub meter: String,
    /// When it was measured.
    pub ts: String,
    /// Power in kW.
    pub power_kw: String,
    /// Cumulative energy in kWh.
    pub energy_kwh: String,
    /// Voltage in V.
    pub voltage_v: String,
}

/// The second sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaSettings {
    /// `host:port`, separated by commas.
    pub brokers: String,
    /// The topic.
    pub topic: String,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// What is logged.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// A filter such as `info` or `hub_bridge=debug,info`.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// The process's environment, as far as it concerns the configuration.
pub fn environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.to_ascii_uppercase().starts_with(ENVIRONMENT_PREFIX))
        .collect()
}

/// Reads and validates `file` under `environment`.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn load(file: &Path, environment: &Environment) -> Result<HubConfig, ConfigError> {
    let text = read_small(file)
        .map_err(|error| ConfigError::of_file(file, format!("cannot be read: {error}")))?;
    parse(file, &text, environment)
}

/// Validates `text`, the content of `file`, under `environment`. Reads the password files that it names.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn parse(file: &Path, text: &str, environment: &Environment) -> Result<HubConfig, ConfigError> {
    let mut complaints = Complaints::default();
    let (written, places) = load::read(file, text, environment, &mut complaints)?;
    let base = file.parent().unwrap_or(Path::new(""));
    let config = validate::validate(written, base, &mut complaints);
    match config {
        Some(config) if complaints.0.is_empty() => Ok(config),
        _ => Err(places.locate(file, complaints)),
    }
}

fn read_small(file: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let opened = std::fs::File::open(file)?;
    opened.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other("larger than 1 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
