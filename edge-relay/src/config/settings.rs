//! From keys as they are written to settings that cannot be wrong.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hub_bridge::backlog::Mark;
use hub_bridge::identity::VillageId;
use hub_bridge::settings::{
    BridgeSettings, Confirm, DrainSettings, Format, HubSettings, ProtocolChoice, RetrySettings,
    Secret,
};

use super::problem::Complaints;
use super::sections::{self, Config};
use super::{NamedFiles, Size};
use crate::broker::topic;
use crate::listener::ListenError;
use crate::{admin, clock, listener, logs, store};

/// What each component takes.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where everything durable is kept.
    pub data_dir: PathBuf,
    /// The store.
    pub store: store::Settings,
    /// What meters connect to.
    pub listener: listener::Settings,
    /// The way to the hub.
    pub bridge: BridgeSettings,
    /// Health, status, metrics, drain trigger.
    pub admin: admin::Settings,
    /// Logs.
    pub log: logs::Settings,
    /// Whether the wall clock is trusted.
    pub clock_trust: clock::Trust,
    /// All files that the configuration names, to be watched with it.
    pub named_files: Vec<PathBuf>,
}

/// Where relative paths begin, and whether what they name must be there.
struct Named<'a> {
    base: &'a Path,
    check: NamedFiles,
    files: Vec<PathBuf>,
}

impl Settings {
    /// All of `config`, or complaints. Relative paths begin at `base`, the directory of the file.
    pub(super) fn validate(
        config: &Config,
        base: &Path,
        check: NamedFiles,
        complaints: &mut Complaints,
    ) -> Option<Self> {
        let mut named = Named {
            base,
            check,
            files: Vec::new(),
        };
        let village = village(config, complaints);
        let data_dir = base.join(&config.data_dir);
        let listener = listener_settings(&config.mqtt, &data_dir, &mut named, complaints);
        let hub = hub_settings(&config.hub, &mut named, complaints);
        let drain = drain_settings(&config.drain, complaints);
        let admin = admin_settings(&config.admin, &mut named, complaints);
        let log = log_settings(&config.log, complaints);
        let clock_trust = one_of(
            "clock.trust",
            &config.clock.trust,
            "kernel, always, never",
            complaints,
        );
        check_backlog(&config.backlog, &config.mqtt, complaints);
        let retry = RetrySettings {
            first: config.hub.retry_first.0,
            max: config.hub.retry_max.0,
            max_rejected: config.hub.retry_max_rejected.0,
        };
        check_bridge(&drain, hub.as_ref(), &retry, complaints);
        let village = village?;
        let bridge = BridgeSettings {
            village: village.clone(),
            hub: hub?,
            drain,
            retry,
        };
        let listener = listener?;
        if check == NamedFiles::Checked && complaints.0.is_empty() {
            check_listener_files(&listener, complaints);
        }
        Some(Self {
            store: store_settings(&config.backlog, data_dir.clone(), village),
            data_dir,
            listener,
            bridge,
            admin: admin?,
            log: log?,
            clock_trust: clock_trust?,
            named_files: named.files,
        })
    }
}

impl Named<'_> {
    /// The file's path. It may be missing: `user add` makes it.
    fn path(&mut self, path: Option<&PathBuf>) -> Option<PathBuf> {
        let path = self.base.join(path?);
        self.files.push(path.clone());
        Some(path)
    }

    /// The file's path; complains where it must be there and cannot be read.
    fn file(
        &mut self,
        key: &str,
        path: Option<&PathBuf>,
        complaints: &mut Complaints,
    ) -> Option<PathBuf> {
        let path = self.base.join(path?);
        if self.check == NamedFiles::Checked
            && let Err(error) = std::fs::File::open(&path)
        {
            complaints.add(key, format_args!("{}: {error}", path.display()));
        }
        self.files.push(path.clone());
        Some(path)
    }

    /// The file's first line, kept secret.
    fn secret(
        &mut self,
        key: &str,
        path: Option<&PathBuf>,
        complaints: &mut Complaints,
    ) -> Option<Secret> {
        let path = self.base.join(path?);
        self.files.push(path.clone());
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                if self.check == NamedFiles::Checked {
                    complaints.add(key, format_args!("{}: {error}", path.display()));
                }
                return None;
            }
        };
        let line = text.lines().next().unwrap_or_default().trim();
        complaints.require(
            !line.is_empty(),
            key,
            "the file's first line is empty",
            "the secret in the first line",
        );
        Some(Secret::new(line.to_owned()))
    }
}

fn village(config: &Config, complaints: &mut Complaints) -> Option<VillageId> {
    let Some(text) = &config.village_id else {
        let allowed = "a name unique in the country, such as \"bamenda-01\"";
        complaints.add_allowed("village_id", "is required and has no default", allowed);
        return None;
    };
    complaints.check("village_id", VillageId::from_str(text))
}

fn address(key: &str, text: &str, complaints: &mut Complaints) -> Option<SocketAddr> {
    let parsed = text.parse();
    if parsed.is_err() {
        let allowed = "ADDRESS:PORT, such as \"0.0.0.0:1883\" or \"[::]:1883\"";
        complaints.add_allowed(
            key,
            format_args!("{text:?} is not an address and port"),
            allowed,
        );
    }
    parsed.ok()
}

/// A word of few, by its serde name.
fn one_of<T: serde::de::DeserializeOwned>(
    key: &str,
    word: &str,
    allowed: &str,
    complaints: &mut Complaints,
) -> Option<T> {
    let parsed = serde_json::from_value(serde_json::Value::from(word)).ok();
    if parsed.is_none() {
        complaints.add_allowed(key, format_args!("{word:?} is not known"), allowed);
    }
    parsed
}

fn listener_settings(
    mqtt: &sections::Mqtt,
    data_dir: &Path,
    named: &mut Named<'_>,
    complaints: &mut Complaints,
) -> Option<listener::Settings> {
    check_mqtt(mqtt, complaints);
    let listen = address("mqtt.listen", &mqtt.listen, complaints);
    let tls = tls_settings(&mqtt.tls, named, complaints);
    let users_file = named.path(mqtt.users_file.as_ref());
    let listen = listen?;
    let loopback =
        listen.ip().is_loopback() && tls.as_ref().is_none_or(|t| t.listen.ip().is_loopback());
    let allow_anonymous = mqtt.allow_anonymous.unwrap_or(loopback);
    if !allow_anonymous && users_file.is_none() && mqtt.tls.client_ca_file.is_none() {
        let reason = "is required where anonymous clients are not allowed, \
                      which is the default where mqtt.listen is not loopback";
        let allowed = "a file made by `edge-relay user add`, or mqtt.allow_anonymous = true";
        complaints.add_allowed("mqtt.users_file", reason, allowed);
    }
    let count = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    Some(listener::Settings {
        tls,
        allow_anonymous,
        users_file,
        forward: mqtt.forward.clone(),
        packet_bytes_max: u32::try_from(mqtt.packet_bytes_max.0).unwrap_or(u32::MAX),
        connections_max: count(mqtt.connections_max),
        in_flight_max: mqtt.in_flight_max,
        topic_alias_max: mqtt.topic_alias_max,
        connect_timeout: mqtt.connect_timeout.0,
        idle_timeout: (!mqtt.idle_timeout.0.is_zero()).then_some(mqtt.idle_timeout.0),
        write_timeout: mqtt.write_timeout.0,
        session_expiry_max: mqtt.session_expiry_max.0,
        sessions_max: count(mqtt.sessions_max),
        session_queue_messages_max: count(mqtt.session_queue_messages_max),
        session_queue_bytes_max: mqtt.session_queue_bytes_max.as_len(),
        queues_bytes_max: mqtt.queues_bytes_max.as_len(),
        session_subscriptions_max: count(mqtt.session_subscriptions_max),
        retained_max: count(mqtt.retained_max),
        retained_bytes_max: mqtt.retained_bytes_max.as_len(),
        ..listener::Settings::new(listen, data_dir)
    })
}

fn check_mqtt(mqtt: &sections::Mqtt, complaints: &mut Complaints) {
    for filter in &mqtt.forward {
        let wrong = match topic::parse_filter(filter) {
            Ok(parsed) if parsed.share.is_none() && !filter.starts_with('$') => continue,
            Ok(_) => "begins with $".to_owned(),
            Err(error) => error.to_string(),
        };
        let allowed = "topic filters such as \"meters/+/energy\" or \"#\", none that begins with $";
        let reason = format_args!("{filter:?}: {wrong}").to_string();
        complaints.add_allowed("mqtt.forward", reason, allowed);
    }
    let packet = mqtt.packet_bytes_max;
    let packet_fits = (Size::kib(1)..=Size::mib(16)).contains(&packet);
    complaints.require(
        packet_fits,
        "mqtt.packet_bytes_max",
        "out of bounds",
        "1 KiB to 16 MiB",
    );
    let at_least_one = [
        ("mqtt.connections_max", mqtt.connections_max),
        ("mqtt.in_flight_max", u32::from(mqtt.in_flight_max)),
        ("mqtt.sessions_max", mqtt.sessions_max),
        (
            "mqtt.session_queue_messages_max",
            mqtt.session_queue_messages_max,
        ),
        (
            "mqtt.session_subscriptions_max",
            mqtt.session_subscriptions_max,
        ),
    ];
    for (key, count) in at_least_one {
        complaints.require(count > 0, key, "is 0", "1 or more");
    }
    for (key, span) in [
        ("mqtt.connect_timeout", mqtt.connect_timeout),
        ("mqtt.write_timeout", mqtt.write_timeout),
    ] {
        complaints.require(
            span.0.as_millis() >= 100,
            key,
            "is too short",
            "100 ms or more",
        );
    }
}

/// What the files for meters hold: certificates, keys, users.
fn check_listener_files(settings: &listener::Settings, complaints: &mut Complaints) {
    let Err(error) = listener::check_settings(settings) else {
        return;
    };
    let key = match &error {
        ListenError::Tls(_) => "mqtt.tls.cert_file",
        ListenError::Users(_) => "mqtt.users_file",
        ListenError::Forward { .. } => "mqtt.forward",
        ListenError::Bind { .. } | ListenError::State(_) | ListenError::Start(_) => "mqtt.listen",
    };
    complaints.add(key, error);
}

fn tls_settings(
    tls: &sections::MqttTls,
    named: &mut Named<'_>,
    complaints: &mut Complaints,
) -> Option<listener::TlsSettings> {
    let cert_file = named.file("mqtt.tls.cert_file", tls.cert_file.as_ref(), complaints);
    let key_file = named.file("mqtt.tls.key_file", tls.key_file.as_ref(), complaints);
    let client_ca_file = named.file(
        "mqtt.tls.client_ca_file",
        tls.client_ca_file.as_ref(),
        complaints,
    );
    let Some(listen) = &tls.listen else {
        if cert_file.is_some() || key_file.is_some() || client_ca_file.is_some() {
            let reason = "is required where certificates for meters are set";
            complaints.add_allowed(
                "mqtt.tls.listen",
                reason,
                "ADDRESS:PORT, such as \"0.0.0.0:8883\"",
            );
        }
        return None;
    };
    let missing = "is required where mqtt.tls.listen is set";
    complaints.require(
        cert_file.is_some(),
        "mqtt.tls.cert_file",
        missing,
        "a PEM file",
    );
    complaints.require(
        key_file.is_some(),
        "mqtt.tls.key_file",
        missing,
        "a PEM file",
    );
    Some(listener::TlsSettings {
        listen: address("mqtt.tls.listen", listen, complaints)?,
        cert_file: cert_file?,
        key_file: key_file?,
        client_ca_file,
    })
}

fn hub_settings(
    hub: &sections::Hub,
    named: &mut Named<'_>,
    complaints: &mut Complaints,
) -> Option<HubSettings> {
    let url = complaints.check("hub.url", hub.url.parse());
    let topic = complaints.check("hub.topic", hub.topic.parse());
    let protocol =
        one_of::<ProtocolChoice>("hub.protocol", &hub.protocol, "auto, 5, 3.1.1", complaints);
    let format = one_of::<Format>("hub.format", &hub.format, "plain", complaints);
    let confirm = one_of::<Confirm>("hub.confirm", &hub.confirm, "puback", complaints);
    if hub.password.is_some() && hub.password_file.is_some() {
        let reason = "hub.password is set too";
        complaints.add_allowed("hub.password_file", reason, "one of the two");
    }
    let from_file = named.secret("hub.password_file", hub.password_file.as_ref(), complaints);
    Some(HubSettings {
        ca_file: named.file("hub.ca_file", hub.ca_file.as_ref(), complaints),
        cert_file: named.file("hub.cert_file", hub.cert_file.as_ref(), complaints),
        key_file: named.file("hub.key_file", hub.key_file.as_ref(), complaints),
        url: url?,
        topic: topic?,
        protocol: protocol?,
        format: format?,
        confirm: confirm?,
        username: hub.username.clone(),
        password: hub.password.clone().map(Secret::new).or(from_file),
        keep_alive: hub.keep_alive.0,
        connect_timeout: hub.connect_timeout.0,
        progress_timeout: hub.progress_timeout.0,
        connections_max: hub.connections_max,
        in_flight_max: hub.in_flight_max,
        in_flight_bytes_max: hub.in_flight_bytes_max.as_len(),
    })
}

/// What the bridge itself says of its settings; a hub that could not be read has been complained of.
fn check_bridge(
    drain: &DrainSettings,
    hub: Option<&HubSettings>,
    retry: &RetrySettings,
    complaints: &mut Complaints,
) {
    let (Ok(village), Ok(url)) = ("any".parse(), "mqtt://any".parse()) else {
        return;
    };
    let bridge = BridgeSettings {
        hub: hub.cloned().unwrap_or_else(|| HubSettings::new(url)),
        drain: drain.clone(),
        retry: retry.clone(),
        village,
    };
    for problem in bridge.problems() {
        complaints.add_allowed(problem.key, problem.reason, &problem.allowed);
    }
}

fn drain_settings(drain: &sections::Drain, complaints: &mut Complaints) -> DrainSettings {
    let at = complaints.check("drain.at", drain.at.parse());
    let until = complaints.check("drain.until", drain.until.parse());
    let defaults = DrainSettings::default();
    DrainSettings {
        enabled: drain.enabled,
        at: at.unwrap_or(defaults.at),
        until: until.unwrap_or(defaults.until),
        time_zone: drain.time_zone.clone(),
        stagger: drain.stagger.0,
        attempts_max: drain.attempts_max,
        attempt_timeout: drain.attempt_timeout.0,
        attempt_wait: drain.attempt_wait.0,
        untrusted_interval: drain.untrusted_interval.0,
    }
}

fn check_backlog(backlog: &sections::Backlog, mqtt: &sections::Mqtt, complaints: &mut Complaints) {
    let alarm = backlog.alarm_at > 0.0 && backlog.alarm_at <= 1.0;
    complaints.require(
        alarm,
        "backlog.alarm_at",
        "out of bounds",
        "more than 0.0, at most 1.0",
    );
    let room = backlog.bytes_max >= Size::mib(1);
    complaints.require(room, "backlog.bytes_max", "too little", "1 MiB or more");
    let segment = (Size::mib(1)..=Size::mib(256)).contains(&backlog.segment_bytes);
    complaints.require(
        segment,
        "backlog.segment_bytes",
        "out of bounds",
        "1 MiB to 256 MiB",
    );
    let queue = backlog.queue_bytes_max.0 >= mqtt.packet_bytes_max.0.saturating_mul(2);
    let allowed = "at least twice mqtt.packet_bytes_max";
    complaints.require(
        queue,
        "backlog.queue_bytes_max",
        "too little for the largest packet",
        allowed,
    );
    let delay = backlog.commit_delay.0.as_secs() < 1;
    complaints.require(delay, "backlog.commit_delay", "too long", "less than 1 s");
}

fn store_settings(
    backlog: &sections::Backlog,
    data_dir: PathBuf,
    village: VillageId,
) -> store::Settings {
    store::Settings {
        data_dir,
        village,
        machine_id: crate::machine::id(),
        bytes_max: backlog.bytes_max.0,
        disk_free_min: backlog.disk_free_min.0,
        alarm_at: backlog.alarm_at,
        confirm: Mark::Forwarded,
        keep_forwarded: backlog.keep_forwarded.0,
        segment_bytes: backlog.segment_bytes.0,
        commit_delay: backlog.commit_delay.0,
        queue_bytes_max: backlog.queue_bytes_max.as_len(),
        hold_max: backlog.hold_max.0,
    }
}

fn admin_settings(
    admin: &sections::Admin,
    named: &mut Named<'_>,
    complaints: &mut Complaints,
) -> Option<admin::Settings> {
    let token = named.secret("admin.token_file", admin.token_file.as_ref(), complaints);
    let listen = address("admin.listen", &admin.listen, complaints)?;
    if !listen.ip().is_loopback() && admin.token_file.is_none() {
        let reason = "is required where admin.listen is not loopback";
        complaints.add_allowed(
            "admin.token_file",
            reason,
            "a file whose first line is the token",
        );
    }
    let guard = match (token, admin.token_file.is_some()) {
        (Some(token), _) => admin::Guard::Token(token),
        // Its file is gone: better no admin API than an open one.
        (None, true) => admin::Guard::Closed,
        (None, false) => admin::Guard::Open,
    };
    Some(admin::Settings { listen, guard })
}

fn log_settings(log: &sections::Log, complaints: &mut Complaints) -> Option<logs::Settings> {
    let format = one_of("log.format", &log.format, "auto, text, json", complaints);
    let filter = logs::Filter::from_str(&log.level);
    if let Err(error) = &filter {
        let allowed =
            "error, warn, info, debug, trace, or a filter such as \"edge_relay=debug,info\"";
        complaints.add_allowed("log.level", error, allowed);
    }
    Some(logs::Settings {
        format: format?,
        filter: filter.ok()?,
    })
}
