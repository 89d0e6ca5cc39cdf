//! What the bridge can be told, as plain structs that a config file is mapped to.
//!
//! Invariant: a [`BridgeSettings`] whose [`BridgeSettings::problems`] is empty can be run. Texts that
//! can be wrong by themselves ([`HubUrl`], [`TopicTemplate`], [`TimeOfDay`]) are types that cannot be.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use crate::hub_url::{HubUrl, InvalidHubUrl};
use crate::identity::VillageId;
pub use crate::policy::{AtBudget, DaySpan, Forward, InvalidDaySpan, PolicySettings};
pub use crate::secret::Secret;
pub use crate::topic::{InvalidTopicTemplate, TopicTemplate};
pub use crate::window::{InvalidTimeOfDay, TimeOfDay};

/// Everything the bridge is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeSettings {
    /// The village of today: names the connections. A reading keeps the village of its epoch.
    pub village: VillageId,
    /// The hub's broker.
    pub hub: HubSettings,
    /// How frames are made, with `hub.format = "batch"`.
    pub batch: BatchSettings,
    /// When the backlog is drained with all limits off.
    pub drain: DrainSettings,
    /// How long to wait after a failure.
    pub retry: RetrySettings,
    /// When, how fast and how much.
    pub policy: PolicySettings,
}

/// The hub's broker and how to speak with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSettings {
    /// Where it is; user and password in it count where the fields below are empty.
    pub url: HubUrl,
    /// The topic that a reading is published to.
    pub topic: TopicTemplate,
    /// Which MQTT to speak.
    pub protocol: ProtocolChoice,
    /// How readings are put into packets.
    pub format: Format,
    /// What counts as "the hub has it".
    pub confirm: Confirm,
    /// The user name.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// PEM file with the certificates that sign the hub's; the system's where `None`. Read at every connection,
    /// so that a renewed file counts without a restart.
    pub ca_file: Option<PathBuf>,
    /// PEM file with the client's certificate chain.
    pub cert_file: Option<PathBuf>,
    /// PEM file with the client's key.
    pub key_file: Option<PathBuf>,
    /// MQTT keep alive, 5 s to 18 h.
    pub keep_alive: Duration,
    /// How long a connection may take, from DNS to CONNACK.
    pub connect_timeout: Duration,
    /// A connection on which readings wait and nothing moves for so long is torn down.
    pub progress_timeout: Duration,
    /// With `confirm = "receipt"`: what is not receipted so long after the broker took it is sent again; doubled with each
    /// time in a row that nothing is.
    pub receipt_timeout: Duration,
    /// At most so many connections where the hub's receive maximum starves the link.
    pub connections_max: u16,
    /// At most so many readings in flight on one connection, whatever the hub allows.
    pub in_flight_max: u16,
    /// At most so many bytes of readings in flight on all connections, and as many read ahead.
    pub in_flight_bytes_max: usize,
}

impl HubSettings {
    /// The settings with nothing but the URL given; everything else at its default.
    pub fn new(url: HubUrl) -> Self {
        Self {
            url,
            topic: TopicTemplate::default(),
            protocol: ProtocolChoice::Auto,
            format: Format::Plain,
            confirm: Confirm::Puback,
            username: None,
            password: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            keep_alive: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(15),
            progress_timeout: Duration::from_secs(15),
            receipt_timeout: Duration::from_secs(60),
            connections_max: 16,
            in_flight_max: 4096,
            in_flight_bytes_max: 2 * 1024 * 1024,
        }
    }
}

impl HubSettings {
    /// Which versions are tried: plain readings can be receipted in MQTT 5 only, for in 3.1.1 they have no identity.
    pub(crate) fn versions(&self) -> ProtocolChoice {
        let nameless = self.format == Format::Plain && self.confirm == Confirm::Receipt;
        match self.protocol {
            ProtocolChoice::Auto if nameless => ProtocolChoice::V5,
            other => other,
        }
    }

    /// User and password: the fields, else those of the URL.
    pub(crate) fn credentials(&self) -> Option<(String, String)> {
        let username = self.username.as_ref().or(self.url.username.as_ref());
        let password = self.password.as_ref().or(self.url.password.as_ref());
        if username.is_none() && password.is_none() {
            return None;
        }
        let text = |secret: &Secret| secret.expose().to_owned();
        Some((
            username.cloned().unwrap_or_default(),
            password.map(text).unwrap_or_default(),
        ))
    }
}

/// Which version of MQTT the hub is spoken to with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum ProtocolChoice {
    /// 5, and 3.1.1 only where the hub refuses 5.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// MQTT 5 or nothing.
    #[serde(rename = "5")]
    V5,
    /// MQTT 3.1.1: readings have no identity.
    #[serde(rename = "3.1.1")]
    V311,
}

/// How readings are put into packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One publish a reading.
    #[default]
    Plain,
    /// Frames of many readings.
    Batch,
}

/// What counts as "the hub has it".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confirm {
    /// The hub broker's PUBACK.
    #[default]
    Puback,
    /// The word of the hub's database.
    Receipt,
}

/// How frames are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchSettings {
    /// How long a reading waits for others to share its frame.
    pub linger: Duration,
    /// How long a frame may take on the link, at the rate that the link showed.
    pub frame_time: Duration,
    /// The largest frame, in bytes.
    pub frame_bytes_max: usize,
}

impl Default for BatchSettings {
    fn default() -> Self {
        Self {
            linger: Duration::from_secs(60),
            frame_time: Duration::from_secs(2),
            frame_bytes_max: 128 * 1024,
        }
    }
}

impl BatchSettings {
    fn check(&self, found: &mut Vec<SettingsProblem>) {
        within(found, "batch.linger", self.linger, (0, 24 * 3600));
        within(found, "batch.frame_time", self.frame_time, (1, 60));
        if !(4096..=16 << 20).contains(&self.frame_bytes_max) {
            let reason = format!("{} bytes", self.frame_bytes_max);
            wrong(found, "batch.frame_bytes_max", &reason, "4 KiB to 16 MiB");
        }
    }
}

/// The nightly drain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainSettings {
    /// Whether there is a nightly drain at all.
    pub enabled: bool,
    /// When it begins, village time.
    pub at: TimeOfDay,
    /// When it ends if the backlog is not empty before; on the next day where it is before `at`.
    pub until: TimeOfDay,
    /// An IANA time zone name, such as `Africa/Douala`.
    pub time_zone: String,
    /// The start is put off by a part of this, hashed from the village id.
    pub stagger: Duration,
    /// A drain ends as failed after so many failed attempts.
    pub attempts_max: u32,
    /// An attempt fails when so long passes without progress.
    pub attempt_timeout: Duration,
    /// The wait after the first failed attempt; the n-th is n times as long, each ± 20 %.
    pub attempt_wait: Duration,
    /// How often a drain runs where the clock cannot be trusted, in uptime.
    pub untrusted_interval: Duration,
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            at: TimeOfDay::new(2, 0).unwrap_or_default(),
            until: TimeOfDay::new(6, 0).unwrap_or_default(),
            time_zone: "Africa/Douala".to_owned(),
            stagger: Duration::from_secs(15 * 60),
            attempts_max: 5,
            attempt_timeout: Duration::from_secs(15),
            attempt_wait: Duration::from_secs(10),
            untrusted_interval: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// How long to wait before the next connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySettings {
    /// The first wait's upper end, doubled with each failure without progress.
    pub first: Duration,
    /// The longest wait's upper end.
    pub max: Duration,
    /// The same for the classes `auth`, `tls`, `refused` and `taken_over`, which time does not cure.
    pub max_rejected: Duration,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            max: Duration::from_secs(60),
            max_rejected: Duration::from_secs(15 * 60),
        }
    }
}

/// A setting that cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}; allowed: {allowed}")]
pub struct SettingsProblem {
    /// The key, as in the config file (`hub.keep_alive`).
    pub key: &'static str,
    /// What is wrong.
    pub reason: String,
    /// What would be right.
    pub allowed: String,
}

impl BridgeSettings {
    /// The settings of `village` with everything but the hub's URL at its default.
    pub fn new(village: VillageId, url: HubUrl) -> Self {
        Self {
            village,
            hub: HubSettings::new(url),
            batch: BatchSettings::default(),
            drain: DrainSettings::default(),
            retry: RetrySettings::default(),
            policy: PolicySettings::default(),
        }
    }

    /// Everything that is wrong, not only the first; empty where the settings can be run.
    pub fn problems(&self) -> Vec<SettingsProblem> {
        let mut found = Vec::new();
        self.hub.check(&mut found);
        self.batch.check(&mut found);
        self.drain.check(&mut found);
        self.retry.check(&mut found);
        self.policy.check(&self.drain, &mut found);
        found
    }
}

fn within(
    found: &mut Vec<SettingsProblem>,
    key: &'static str,
    value: Duration,
    (low, high): (u64, u64),
) {
    if value < Duration::from_secs(low) || value > Duration::from_secs(high) {
        found.push(SettingsProblem {
            key,
            reason: format!("{value:?} is out of bounds"),
            allowed: format!("{low} s to {high} s"),
        });
    }
}

fn wrong(found: &mut Vec<SettingsProblem>, key: &'static str, reason: &str, allowed: &str) {
    found.push(SettingsProblem {
        key,
        reason: reason.to_owned(),
        allowed: allowed.to_owned(),
    });
}

impl HubSettings {
    fn check(&self, found: &mut Vec<SettingsProblem>) {
        let nameless = self.format == Format::Plain && self.protocol == ProtocolChoice::V311;
        if self.confirm == Confirm::Receipt && nameless {
            let reason = "plain readings have no identity in MQTT 3.1.1, so none can be receipted";
            wrong(
                found,
                "hub.confirm",
                reason,
                "puback, or hub.format = \"batch\"",
            );
        }
        within(
            found,
            "hub.receipt_timeout",
            self.receipt_timeout,
            (5, 24 * 3600),
        );
        if self.cert_file.is_some() != self.key_file.is_some() {
            let reason = "a client certificate needs its key and a key its certificate";
            let allowed = "both hub.cert_file and hub.key_file, or neither";
            wrong(found, "hub.cert_file", reason, allowed);
        }
        if !self.url.tls && (self.ca_file.is_some() || self.cert_file.is_some()) {
            let reason = "certificates are set, but hub.url is not mqtts://";
            wrong(found, "hub.url", reason, "mqtts://HOST:PORT");
        }
        if self.url.tls && self.url.host.contains(':') {
            let reason = "an IPv6 address cannot be checked against a certificate here";
            wrong(found, "hub.url", reason, "mqtts:// with a host name");
        }
        within(found, "hub.keep_alive", self.keep_alive, (5, 65_535));
        within(found, "hub.connect_timeout", self.connect_timeout, (1, 600));
        within(
            found,
            "hub.progress_timeout",
            self.progress_timeout,
            (1, 3600),
        );
        if !(1..=256).contains(&self.connections_max) {
            let reason = format!("{} connections", self.connections_max);
            wrong(found, "hub.connections_max", &reason, "1 to 256");
        }
        if self.in_flight_max == 0 || self.in_flight_max == u16::MAX {
            wrong(
                found,
                "hub.in_flight_max",
                "out of bounds",
                "1 to 65534 readings",
            );
        }
        if self.in_flight_bytes_max < 4096 {
            wrong(
                found,
                "hub.in_flight_bytes_max",
                "too little",
                "4 KiB or more",
            );
        }
    }
}

impl DrainSettings {
    fn check(&self, found: &mut Vec<SettingsProblem>) {
        if jiff::tz::TimeZone::get(&self.time_zone).is_err() {
            let reason = format!("{:?} is not a known time zone", self.time_zone);
            let allowed = "an IANA name such as Africa/Douala";
            wrong(found, "drain.time_zone", &reason, allowed);
        }
        if self.at == self.until {
            let reason = "the window is empty";
            wrong(found, "drain.until", reason, "another time than drain.at");
        }
        within(found, "drain.stagger", self.stagger, (0, 12 * 3600));
        within(
            found,
            "drain.attempt_timeout",
            self.attempt_timeout,
            (1, 3600),
        );
        within(found, "drain.attempt_wait", self.attempt_wait, (0, 3600));
        if self.attempts_max == 0 {
            wrong(found, "drain.attempts_max", "no attempt", "1 or more");
        }
    }
}

impl RetrySettings {
    fn check(&self, found: &mut Vec<SettingsProblem>) {
        if self.first.is_zero() || self.first > self.max {
            let allowed = "more than 0 and at most hub.retry_max";
            wrong(found, "hub.retry_first", "out of bounds", allowed);
        }
        within(found, "hub.retry_max", self.max, (1, 24 * 3600));
        within(
            found,
            "hub.retry_max_rejected",
            self.max_rejected,
            (1, 24 * 3600),
        );
    }
}
