//! The configuration as it is written: one struct a section, one field a key, each with its default.
//!
//! `broker.toml` explains every key; a test holds it to the fields and defaults here.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::human::{Limit, Rate, Size, Span, list};

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Required: two villages must never share one.
    pub village_id: Option<String>,
    /// Where everything durable is kept.
    pub data_dir: PathBuf,
    /// What meters connect to.
    pub mqtt: Mqtt,
    /// The national hub's broker.
    pub hub: Hub,
    /// Frames, with `hub.format = "batch"`.
    pub batch: Batch,
    /// The full drain.
    pub drain: Drain,
    /// When, how fast and how much.
    pub uplink: Uplink,
    /// What waits for the hub.
    pub backlog: Backlog,
    /// Health, status, metrics, drain trigger.
    pub admin: Admin,
    /// Logs.
    pub log: Log,
    /// Whether the wall clock is trusted.
    pub clock: Clock,
    /// What is carried by hand.
    pub stick: Stick,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            village_id: None,
            data_dir: PathBuf::from("/var/lib/edge-relay"),
            mqtt: Mqtt::default(),
            hub: Hub::default(),
            batch: Batch::default(),
            drain: Drain::default(),
            uplink: Uplink::default(),
            backlog: Backlog::default(),
            admin: Admin::default(),
            log: Log::default(),
            clock: Clock::default(),
            stick: Stick::default(),
        }
    }
}

/// `[mqtt]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mqtt {
    /// Address and port for plain TCP.
    pub listen: String,
    /// Default: true only where `listen` is loopback.
    pub allow_anonymous: Option<bool>,
    /// Lines `name:hash`.
    pub users_file: Option<PathBuf>,
    /// Topic filters whose publishes are readings.
    #[serde(deserialize_with = "list")]
    pub forward: Vec<String>,
    /// The largest packet a client may send.
    pub packet_bytes_max: Size,
    /// Clients at a time.
    pub connections_max: u32,
    /// Publishes of one client that may wait for their acknowledgement.
    pub in_flight_max: u16,
    /// Topic aliases an MQTT 5 client may use.
    pub topic_alias_max: u16,
    /// How long a client may take from connecting to the end of its CONNECT.
    pub connect_timeout: Span,
    /// How long a client that asked for no keep alive may be silent; zero: for ever.
    pub idle_timeout: Span,
    /// How long a client may take nothing of what is written to it.
    pub write_timeout: Span,
    /// How long the session of an absent client is kept at most.
    pub session_expiry_max: Span,
    /// Sessions that outlive their connection.
    pub sessions_max: u32,
    /// Messages that wait for one session.
    pub session_queue_messages_max: u32,
    /// Bytes of messages that wait for one session.
    pub session_queue_bytes_max: Size,
    /// Bytes of messages that wait for all sessions.
    pub queues_bytes_max: Size,
    /// Subscriptions of one session.
    pub session_subscriptions_max: u32,
    /// Retained messages.
    pub retained_max: u32,
    /// Bytes of retained messages.
    pub retained_bytes_max: Size,
    /// TLS for meters.
    pub tls: MqttTls,
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            listen: "0.0.0.0:1883".to_owned(),
            allow_anonymous: None,
            users_file: None,
            forward: vec!["#".to_owned()],
            packet_bytes_max: Size::kib(256),
            connections_max: 1000,
            in_flight_max: 256,
            topic_alias_max: 32,
            connect_timeout: Span::seconds(10),
            idle_timeout: Span::seconds(0),
            write_timeout: Span::seconds(30),
            session_expiry_max: Span::seconds(7 * 86_400),
            sessions_max: 1000,
            session_queue_messages_max: 1000,
            session_queue_bytes_max: Size::mib(1),
            queues_bytes_max: Size::mib(16),
            session_subscriptions_max: 1000,
            retained_max: 10_000,
            retained_bytes_max: Size::mib(8),
            tls: MqttTls::default(),
        }
    }
}

/// `[mqtt.tls]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MqttTls {
    /// Address and port for TLS; none: no TLS.
    pub listen: Option<String>,
    /// The relay's certificate chain, PEM.
    pub cert_file: Option<PathBuf>,
    /// Its private key, PEM.
    pub key_file: Option<PathBuf>,
    /// Where set, clients need a certificate signed by one of these, PEM.
    pub client_ca_file: Option<PathBuf>,
}

/// `[hub]`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hub {
    /// `mqtt://` or `mqtts://`, host and port.
    pub url: String,
    /// Where a reading goes.
    pub topic: String,
    /// `auto`, `5` or `3.1.1`.
    pub protocol: String,
    /// `plain` or `batch`.
    pub format: String,
    /// `puback` or `receipt`.
    pub confirm: String,
    /// Authorities the hub's certificate may come from, PEM.
    pub ca_file: Option<PathBuf>,
    /// The relay's own certificate chain, PEM.
    pub cert_file: Option<PathBuf>,
    /// Its private key, PEM.
    pub key_file: Option<PathBuf>,
    /// The name the relay gives.
    pub username: Option<String>,
    /// Its password; better in `password_file` or the environment.
    pub password: Option<String>,
    /// A file whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// The keep alive of the connection.
    pub keep_alive: Span,
    /// How long connecting may take, TLS and CONNACK included.
    pub connect_timeout: Span,
    /// A connection that owes something and moves nothing for so long is torn down.
    pub progress_timeout: Span,
    /// The first wait between two tries to connect, doubled with each failure.
    pub retry_first: Span,
    /// The longest wait between two tries to connect.
    pub retry_max: Span,
    /// The longest wait where the hub says no, which time does not cure.
    pub retry_max_rejected: Span,
    /// What is not receipted so long after the broker took it is sent again.
    pub receipt_timeout: Span,
    /// Connections at a time, where the hub's receive maximum would starve the link.
    pub connections_max: u16,
    /// Readings in flight on one connection.
    pub in_flight_max: u16,
    /// Bytes in flight on all connections.
    pub in_flight_bytes_max: Size,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            url: "mqtt://127.0.0.1:1884".to_owned(),
            topic: "villages/{village_id}/{topic}".to_owned(),
            protocol: "auto".to_owned(),
            format: "plain".to_owned(),
            confirm: "puback".to_owned(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            username: None,
            password: None,
            password_file: None,
            keep_alive: Span::seconds(60),
            connect_timeout: Span::seconds(15),
            progress_timeout: Span::seconds(15),
            retry_first: Span::millis(200),
            retry_max: Span::seconds(60),
            retry_max_rejected: Span::seconds(900),
            receipt_timeout: Span::seconds(60),
            connections_max: 16,
            in_flight_max: 4096,
            in_flight_bytes_max: Size::mib(2),
        }
    }
}

/// Leaves the password out.
impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub")
            .field("url", &super::redact_url(&self.url))
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

/// `[batch]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    /// How long a reading waits for others to share its frame.
    pub linger: Span,
    /// How long a frame may take on the link.
    pub frame_time: Span,
    /// The largest frame.
    pub frame_bytes_max: Size,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            linger: Span::seconds(60),
            frame_time: Span::seconds(2),
            frame_bytes_max: Size::kib(128),
        }
    }
}

/// `[drain]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// Whether there is a nightly drain at all.
    pub enabled: bool,
    /// Village time it begins.
    pub at: String,
    /// Village time it gives up.
    pub until: String,
    /// An IANA time zone.
    pub time_zone: String,
    /// Villages begin spread over so long after `at`.
    pub stagger: Span,
    /// Failed attempts after which the drain ends as failed.
    pub attempts_max: u32,
    /// An attempt fails when so long passes without progress.
    pub attempt_timeout: Span,
    /// The wait after the first failed attempt; the second waits twice as long, and so on.
    pub attempt_wait: Span,
    /// How often a drain runs where the clock cannot be trusted, in uptime.
    pub untrusted_interval: Span,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            enabled: true,
            at: "02:00".to_owned(),
            until: "06:00".to_owned(),
            time_zone: "Africa/Douala".to_owned(),
            stagger: Span::seconds(900),
            attempts_max: 5,
            attempt_timeout: Span::seconds(15),
            attempt_wait: Span::seconds(10),
            untrusted_interval: Span::seconds(86_400),
        }
    }
}

/// `[uplink]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Uplink {
    /// `always`, `windows` or `live-first`.
    pub forward: String,
    /// Windows beside the nightly drain's, village time.
    #[serde(deserialize_with = "list")]
    pub windows: Vec<String>,
    /// `none`, or what may leave a second outside windows and drains.
    pub rate_limit: Limit<Rate>,
    /// `none`, or what may cross in a month.
    pub monthly_budget: Limit<Size>,
    /// The share of the budget at which the alarm begins.
    pub budget_alarm_at: f64,
    /// `drain-only` or `go-on`.
    pub at_budget: String,
    /// The day on which the month of the bill begins.
    pub month_begins: u8,
}

impl Default for Uplink {
    fn default() -> Self {
        Self {
            forward: "always".to_owned(),
            windows: Vec::new(),
            rate_limit: Limit(None),
            monthly_budget: Limit(None),
            budget_alarm_at: 0.8,
            at_budget: "drain-only".to_owned(),
            month_begins: 1,
        }
    }
}

/// `[backlog]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Backlog {
    /// Most bytes of waiting readings.
    pub bytes_max: Size,
    /// Free space on the disk below which nothing is taken.
    pub disk_free_min: Size,
    /// The share of `bytes_max` at which the alarm begins.
    pub alarm_at: f64,
    /// How long forwarded readings stay for a replay.
    pub keep_forwarded: Span,
    /// At what size a segment is closed.
    pub segment_bytes: Size,
    /// How long a commit waits for company.
    pub commit_delay: Span,
    /// Memory for readings that wait for their commit.
    pub queue_bytes_max: Size,
    /// How long readings wait in memory for a disk that fails.
    pub hold_max: Span,
}

impl Default for Backlog {
    fn default() -> Self {
        Self {
            bytes_max: Size::gib(4),
            disk_free_min: Size::mib(256),
            alarm_at: 0.8,
            keep_forwarded: Span::seconds(7 * 86_400),
            segment_bytes: Size::mib(8),
            commit_delay: Span::seconds(0),
            queue_bytes_max: Size::mib(4),
            hold_max: Span::seconds(10),
        }
    }
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Address and port.
    pub listen: String,
    /// A file whose first line is the bearer token.
    pub token_file: Option<PathBuf>,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9883".to_owned(),
            token_file: None,
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `auto` (text on a terminal, JSON elsewhere), `text` or `json`.
    pub format: String,
    /// A filter such as `info` or `edge_relay=debug,info`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: "auto".to_owned(),
            level: "info".to_owned(),
        }
    }
}

/// `[clock]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Clock {
    /// `kernel`, `always` or `never`.
    pub trust: String,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            trust: "kernel".to_owned(),
        }
    }
}

/// `[stick]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stick {
    /// Whom exported readings are encrypted for: the hub's age recipients.
    #[serde(deserialize_with = "list")]
    pub recipients: Vec<String>,
    /// The public key that the hub signs receipts with.
    pub hub_key: Option<String>,
}
