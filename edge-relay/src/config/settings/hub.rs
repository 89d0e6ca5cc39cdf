//! `[hub]` and `[drain]` to the bridge's settings.

use hub_bridge::settings::{
    BatchSettings, BridgeSettings, Confirm, DrainSettings, Format, HubSettings, PolicySettings,
    ProtocolChoice, RetrySettings, Secret,
};

use super::named::Named;
use super::one_of;
use crate::config::problem::Complaints;
use crate::config::sections;

pub(super) fn hub_settings(
    hub: &sections::Hub,
    named: &mut Named<'_>,
    complaints: &mut Complaints,
) -> Option<HubSettings> {
    let url = complaints.check("hub.url", hub.url.parse());
    let topic = complaints.check("hub.topic", hub.topic.parse());
    let protocol =
        one_of::<ProtocolChoice>("hub.protocol", &hub.protocol, "auto, 5, 3.1.1", complaints);
    let format = one_of::<Format>("hub.format", &hub.format, "plain, batch", complaints);
    let confirm = one_of::<Confirm>("hub.confirm", &hub.confirm, "puback, receipt", complaints);
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
        receipt_timeout: hub.receipt_timeout.0,
        connections_max: hub.connections_max,
        in_flight_max: hub.in_flight_max,
        in_flight_bytes_max: hub.in_flight_bytes_max.as_len(),
    })
}

/// What the bridge itself says of its settings; a hub that could not be read has been complained of.
pub(super) fn check_bridge(
    drain: &DrainSettings,
    batch: &BatchSettings,
    hub: Option<&HubSettings>,
    retry: &RetrySettings,
    policy: Option<&PolicySettings>,
    complaints: &mut Complaints,
) {
    let (Ok(village), Ok(url)) = ("any".parse(), "mqtt://any".parse()) else {
        return;
    };
    let bridge = BridgeSettings {
        hub: hub.cloned().unwrap_or_else(|| HubSettings::new(url)),
        batch: batch.clone(),
        drain: drain.clone(),
        retry: retry.clone(),
        policy: policy.cloned().unwrap_or_default(),
        village,
    };
    for problem in bridge.problems() {
        complaints.add_allowed(problem.key, problem.reason, &problem.allowed);
    }
}

pub(super) fn batch_settings(batch: &sections::Batch) -> BatchSettings {
    BatchSettings {
        linger: batch.linger.0,
        frame_time: batch.frame_time.0,
        frame_bytes_max: batch.frame_bytes_max.as_len(),
    }
}

pub(super) fn drain_settings(
    drain: &sections::Drain,
    complaints: &mut Complaints,
) -> DrainSettings {
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
