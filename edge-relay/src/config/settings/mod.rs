//! From keys as they are written to settings that cannot be wrong.

mod hub;
mod mqtt;
mod named;
mod uplink;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hub_bridge::backlog::Mark;
use hub_bridge::identity::VillageId;
use hub_bridge::settings::{BridgeSettings, Confirm, RetrySettings};
use hub_bridge::stick::{PublicKey, Recipients};

use super::problem::Complaints;
use super::sections::{self, Config};
use super::{NamedFiles, Size};
use crate::{admin, clock, listener, logs, stick, store};

use hub::{batch_settings, check_bridge, drain_settings, hub_settings};
use mqtt::{check_listener_files, listener_settings};
use named::Named;
use uplink::policy_settings;

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
    /// What is carried by hand.
    pub stick: stick::Settings,
    /// All files that the configuration names, to be watched with it.
    pub named_files: Vec<PathBuf>,
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
        let batch = batch_settings(&config.batch);
        let drain = drain_settings(&config.drain, complaints);
        let policy = policy_settings(&config.uplink, complaints);
        let admin = admin_settings(&config.admin, &mut named, complaints);
        let log = log_settings(&config.log, complaints);
        let clock_trust = one_of(
            "clock.trust",
            &config.clock.trust,
            "kernel, always, never",
            complaints,
        );
        let stick = stick_settings(&config.stick, complaints);
        check_backlog(&config.backlog, &config.mqtt, complaints);
        let retry = RetrySettings {
            first: config.hub.retry_first.0,
            max: config.hub.retry_max.0,
            max_rejected: config.hub.retry_max_rejected.0,
        };
        check_bridge(
            &drain,
            &batch,
            hub.as_ref(),
            &retry,
            policy.as_ref(),
            complaints,
        );
        let village = village?;
        let confirm = match hub.as_ref()?.confirm {
            Confirm::Puback => Mark::Forwarded,
            Confirm::Receipt => Mark::Stored,
        };
        let bridge = BridgeSettings {
            village: village.clone(),
            hub: hub?,
            batch,
            drain,
            retry,
            policy: policy?,
        };
        let listener = listener?;
        if check == NamedFiles::Checked && complaints.0.is_empty() {
            check_listener_files(&listener, complaints);
        }
        Some(Self {
            store: store_settings(&config.backlog, confirm, data_dir.clone(), village),
            data_dir,
            listener,
            bridge,
            admin: admin?,
            log: log?,
            clock_trust: clock_trust?,
            stick: stick?,
            named_files: named.files,
        })
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
    let delay = backlog.commit_delay.0 <= std::time::Duration::from_secs(1);
    complaints.require(delay, "backlog.commit_delay", "too long", "at most 1 s");
}

fn store_settings(
    backlog: &sections::Backlog,
    confirm: Mark,
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
        confirm,
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

fn stick_settings(
    section: &sections::Stick,
    complaints: &mut Complaints,
) -> Option<stick::Settings> {
    let given = section.recipients.iter().filter(|text| !text.is_empty());
    let recipients = Recipients::parse(&given.collect::<Vec<_>>());
    let hub_key = section.hub_key.as_deref().filter(|text| !text.is_empty());
    let hub_key = hub_key.map(PublicKey::from_str).transpose();
    if hub_key.is_err() {
        let allowed = "64 hex digits, as `hub-bridge import --keys` shows them";
        complaints.add_allowed("stick.hub_key", "is not a public key", allowed);
    }
    Some(stick::Settings {
        recipients: complaints.check("stick.recipients", recipients)?,
        hub_key: hub_key.ok()?,
    })
}
