//! Unpacked readings as plain publishes, for whoever subscribes at the hub.
//!
//! With MQTT 5 they carry their identity as a relay's own would, and last of all `relayed` = `hub-bridge`, by which the
//! receiver knows what it published itself. At least once: published before the message is acknowledged, and again for
//! messages that the broker delivers again.

use rumqttc::v5::mqttbytes::v5::PublishProperties as Properties5;

use super::arrival::RELAYED;
use super::broker::Access;
use super::store::Incoming;
use crate::clock::ClockQuality;
use crate::packet::Outgoing;
use crate::settings::TopicTemplate;
use crate::version::Version;

/// The publish; `None` for what came as one.
pub(super) fn message(
    template: &TopicTemplate,
    incoming: &Incoming,
    access: &Access,
) -> Option<Outgoing> {
    if incoming.source == super::store::Source::Plain {
        return None;
    }
    let reading = &incoming.reading;
    let topic = template.render(&incoming.village, &reading.client_id, &reading.topic);
    let properties = match access.version {
        Version::V5 => Some(properties(incoming)),
        Version::V311 => None,
    };
    Some(Outgoing {
        topic,
        retain: reading.retain,
        payload: reading.payload.clone(),
        properties,
    })
}

fn properties(incoming: &Incoming) -> Properties5 {
    let reading = &incoming.reading;
    let mut properties = Properties5::default();
    if let Some(own) = reading.properties.as_deref() {
        properties.payload_format_indicator = own.payload_format_indicator;
        properties.content_type.clone_from(&own.content_type);
        properties.response_topic.clone_from(&own.response_topic);
        properties
            .correlation_data
            .clone_from(&own.correlation_data);
        properties.user_properties.clone_from(&own.user_properties);
    }
    let mut add = |name: &str, value: String| {
        properties.user_properties.push((name.to_owned(), value));
    };
    if reading.clock == ClockQuality::Unsynchronised {
        add("clock", "unsynchronised".to_owned());
    }
    add("id", format!("{}/{}", incoming.epoch, reading.sequence));
    add("at", reading.at.to_string());
    add(RELAYED.0, RELAYED.1.to_owned());
    properties
}
