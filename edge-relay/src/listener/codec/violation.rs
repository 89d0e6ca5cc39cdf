//! What a client did that the standard does not allow, and how MQTT 5 names it.

use rumqttd::protocol::{ConnectReturnCode, DisconnectReasonCode};

/// A packet that costs its sender the connection [MQTT-4.13.1-1].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub(crate) struct Violation {
    /// What MQTT 5 calls it in a DISCONNECT.
    pub(crate) reason: DisconnectReasonCode,
    /// In words, for the log.
    pub(crate) what: &'static str,
}

impl Violation {
    pub(crate) const fn malformed(what: &'static str) -> Self {
        Self::new(DisconnectReasonCode::MalformedPacket, what)
    }

    pub(crate) const fn protocol(what: &'static str) -> Self {
        Self::new(DisconnectReasonCode::ProtocolError, what)
    }

    pub(crate) const fn too_large() -> Self {
        Self::new(
            DisconnectReasonCode::PacketTooLarge,
            "the packet is too large",
        )
    }

    pub(crate) const fn new(reason: DisconnectReasonCode, what: &'static str) -> Self {
        Self { reason, what }
    }

    /// The same in a CONNACK, where MQTT 5 knows it.
    pub(crate) fn connack_code(&self) -> ConnectReturnCode {
        match self.reason {
            DisconnectReasonCode::ProtocolError => ConnectReturnCode::ProtocolError,
            DisconnectReasonCode::PacketTooLarge => ConnectReturnCode::PacketTooLarge,
            DisconnectReasonCode::TopicNameInvalid => ConnectReturnCode::TopicNameInvalid,
            _ => ConnectReturnCode::MalformedPacket,
        }
    }
}
