//! The sending half of a client, whatever the version.

use rumqttc::v5::mqttbytes::QoS as QoS5;
use rumqttc::{QoS as QoS4, v5};

use super::stream::{Request, Requests};
use crate::classify::{ErrorClass, Failure};
use crate::packet::Outgoing;

/// A client of rumqttc.
#[derive(Debug)]
pub(super) enum Client {
    V4(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
    /// Not rumqttc's, but over a stream that was handed in.
    Stream(Requests),
}

impl Client {
    /// Gives a `QoS` 1 publish to the event loop, whose queue is as long as the most that can be in flight.
    pub(super) fn publish(&self, outgoing: Outgoing) -> Result<(), Failure> {
        if let Self::Stream(requests) = self {
            let gone = |_| Failure::new(ErrorClass::Connect, "the connection ended");
            return requests.send(Request::Publish(outgoing)).map_err(gone);
        }
        let Outgoing {
            topic,
            retain,
            payload,
            properties,
        } = outgoing;
        let failed = |error: &dyn std::fmt::Debug| {
            // The error holds the whole publish: its payload must not get into a log.
            let kind = if format!("{error:?}").starts_with("Request") {
                "the connection ended"
            } else {
                "the client's queue is full or the topic is invalid"
            };
            Failure::new(ErrorClass::Connect, kind)
        };
        match self {
            Self::V5(client) => client
                .try_publish_with_properties(
                    topic,
                    QoS5::AtLeastOnce,
                    retain,
                    payload,
                    properties.unwrap_or_default(),
                )
                .map_err(|error| failed(&error)),
            Self::V4(client) => client
                .try_publish(topic, QoS4::AtLeastOnce, retain, payload)
                .map_err(|error| failed(&error)),
            Self::Stream(_) => Ok(()),
        }
    }

    /// Asks the event loop to say DISCONNECT.
    pub(super) fn disconnect(&self) -> Result<(), ()> {
        match self {
            Self::V5(client) => client.try_disconnect().map_err(|_| ()),
            Self::V4(client) => client.try_disconnect().map_err(|_| ()),
            Self::Stream(requests) => requests.send(Request::Disconnect).map_err(|_| ()),
        }
    }
}
