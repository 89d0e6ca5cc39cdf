//! `[mqtt]` to the listener's settings.

use std::path::Path;

use super::address;
use super::named::Named;
use crate::broker::topic;
use crate::config::problem::Complaints;
use crate::config::{Size, sections};
use crate::listener::{self, ListenError};

pub(super) fn listener_settings(
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
    let packet_fits = (Size::kib(1)..=Size::mib(15)).contains(&packet);
    complaints.require(
        packet_fits,
        "mqtt.packet_bytes_max",
        "out of bounds",
        "1 KiB to 15 MiB: the store keeps no larger reading",
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
pub(super) fn check_listener_files(settings: &listener::Settings, complaints: &mut Complaints) {
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
