//! What the listener is told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of the listener and the broker behind it. All but `listen`, `tls.listen`, `hold_max` and the two
/// directories can change while it runs (`Handle::apply`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where meters connect, without TLS. Port 0 takes any free one.
    pub listen: SocketAddr,
    /// A second listener, with TLS.
    pub tls: Option<TlsSettings>,
    /// Whether a client may connect without a user name.
    pub allow_anonymous: bool,
    /// `name:argon2id-hash` lines; `None`: no users.
    pub users_file: Option<PathBuf>,
    /// Topic filters whose publishes are readings. Topics that start with `$` never are.
    pub forward: Vec<String>,
    /// The largest packet a client may send, in bytes, its fixed header included.
    pub packet_bytes_max: u32,
    /// The most connections at a time; one more is closed at once.
    pub connections_max: usize,
    /// How many `QoS` 1 and 2 publishes of one client may wait for their acknowledgement; told to
    /// MQTT 5 clients as receive maximum. Also how many go out unacknowledged to one subscriber.
    pub in_flight_max: u16,
    /// How many topic aliases an MQTT 5 client may use.
    pub topic_alias_max: u16,
    /// How long a client may take from the first byte (TLS handshake included) to its CONNECT.
    pub connect_timeout: Duration,
    /// How long a client that asked for no keep alive may be silent; `None`: for ever.
    pub idle_timeout: Option<Duration>,
    /// How long a client may take nothing of what is written to it.
    pub write_timeout: Duration,
    /// How long the session of an absent client is kept at most; MQTT 3.1.1 sessions are kept so long.
    pub session_expiry_max: Duration,
    /// The most sessions, connected or not, that outlive their connection.
    pub sessions_max: usize,
    /// The most messages that wait for one session.
    pub session_queue_messages_max: usize,
    /// The most bytes of messages that wait for one session.
    pub session_queue_bytes_max: usize,
    /// The most bytes of messages that wait for all sessions together.
    pub queues_bytes_max: usize,
    /// The most subscriptions of one session.
    pub session_subscriptions_max: usize,
    /// The most retained messages.
    pub retained_max: usize,
    /// The most bytes of retained messages.
    pub retained_bytes_max: usize,
    /// How long a publish that must be durable in `state_dir` waits for a disk that fails.
    pub hold_max: Duration,
    /// Where sessions and retained messages are kept: `data_dir/state`.
    pub state_dir: PathBuf,
    /// Where damaged state is moved to: `data_dir/quarantine`.
    pub quarantine_dir: PathBuf,
}

/// The listener with TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// Where meters connect with TLS.
    pub listen: SocketAddr,
    /// The server's certificate chain, PEM.
    pub cert_file: PathBuf,
    /// Its private key, PEM.
    pub key_file: PathBuf,
    /// Where given, a client must show a certificate of this CA (PEM), and then needs no password.
    pub client_ca_file: Option<PathBuf>,
}

impl Settings {
    /// The defaults of everything that has one, for a relay that listens on `listen` and keeps its data in
    /// `data_dir`.
    pub fn new(listen: SocketAddr, data_dir: &std::path::Path) -> Self {
        Self {
            listen,
            tls: None,
            allow_anonymous: listen.ip().is_loopback(),
            users_file: None,
            forward: vec!["#".to_owned()],
            packet_bytes_max: 256 * 1024,
            connections_max: 1_000,
            in_flight_max: 256,
            topic_alias_max: 32,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: None,
            write_timeout: Duration::from_secs(30),
            session_expiry_max: Duration::from_secs(7 * 24 * 3600),
            sessions_max: 1_000,
            session_queue_messages_max: 1_000,
            session_queue_bytes_max: 1024 * 1024,
            queues_bytes_max: 16 * 1024 * 1024,
            session_subscriptions_max: 1_000,
            retained_max: 10_000,
            retained_bytes_max: 8 * 1024 * 1024,
            hold_max: Duration::from_secs(5),
            state_dir: data_dir.join("state"),
            quarantine_dir: data_dir.join("quarantine"),
        }
    }
}
