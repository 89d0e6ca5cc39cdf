//! What went wrong with a connection, in the eight words that logs, metrics and status use.
//!
//! Each error is classified once, here; what follows from the class is the state machine's.

use std::fmt;
use std::io;

use rumqttc::mqttbytes::v4::ConnectReturnCode as Code4;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode as Code5, DisconnectReasonCode as Reason5};
use serde::{Deserialize, Serialize};

/// Why the hub is out of reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The hub's name could not be resolved.
    Dns,
    /// No connection, or one that broke.
    Connect,
    /// Certificates, or the handshake.
    Tls,
    /// The hub does not know who we are.
    Auth,
    /// The hub knows and does not want.
    Refused,
    /// Another client used our client id: two gateways with one name.
    TakenOver,
    /// Nothing moved for too long.
    Timeout,
    /// The hub broke the rules of MQTT, or speaks another version.
    Protocol,
}

impl ErrorClass {
    /// All of them, for metrics.
    pub const ALL: [Self; 8] = [
        Self::Dns,
        Self::Connect,
        Self::Tls,
        Self::Auth,
        Self::Refused,
        Self::TakenOver,
        Self::Timeout,
        Self::Protocol,
    ];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Auth => "auth",
            Self::Refused => "refused",
            Self::TakenOver => "taken_over",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
        }
    }

    /// Whether someone has to change something before it can work: then the waits are long.
    pub fn needs_a_change(self) -> bool {
        match self {
            Self::Auth | Self::Tls | Self::Refused | Self::TakenOver => true,
            Self::Dns | Self::Connect | Self::Timeout | Self::Protocol => false,
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failed connection: the class, and the words for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{class}: {detail}")]
pub struct Failure {
    /// The class.
    pub class: ErrorClass,
    /// What happened. Holds no secrets.
    pub detail: String,
    /// What it says about MQTT 5 at this hub, where it happened before CONNACK.
    pub(crate) version: VersionHint,
    /// Whether it may be the fault of a reading that was in flight.
    pub(crate) accuses: bool,
    /// Whether the hub said it, in a DISCONNECT.
    pub(crate) was_said: bool,
}

/// What a failure before CONNACK says about the version that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VersionHint {
    /// Nothing.
    None,
    /// The hub closed, or answered what this version's parser cannot read: perhaps it does not know it.
    Perhaps,
    /// The hub said that it does not speak it.
    Refused,
}

impl Failure {
    /// A failure of `class`.
    pub fn new(class: ErrorClass, detail: impl Into<String>) -> Self {
        Self {
            class,
            detail: detail.into(),
            version: VersionHint::None,
            accuses: true,
            was_said: false,
        }
    }

    /// A failure that says of itself that no reading is to blame for it: the hub lied, or wants nothing now.
    pub(crate) fn of_no_reading(mut self) -> Self {
        self.accuses = false;
        self
    }

    pub(crate) fn hint(mut self, version: VersionHint) -> Self {
        self.version = version;
        self
    }
}

pub(crate) fn of_io(error: &io::Error) -> Failure {
    let text = error.to_string();
    let class = if text.contains("failed to lookup address")
        || text.contains("could not resolve to any address")
    {
        ErrorClass::Dns
    } else {
        match error.kind() {
            io::ErrorKind::TimedOut => ErrorClass::Timeout,
            io::ErrorKind::InvalidData if is_tls(error) => ErrorClass::Tls,
            _ => ErrorClass::Connect,
        }
    };
    Failure::new(class, text)
}

fn is_tls(error: &io::Error) -> bool {
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .is_some()
}

/// A CONNACK of MQTT 3.1.1 where 5 was offered.
pub(crate) fn of_connack_in_311(code: u8) -> Failure {
    let code = match code {
        1 => {
            return Failure::new(ErrorClass::Protocol, "the hub does not speak MQTT 5")
                .hint(VersionHint::Refused);
        }
        2 => Code4::BadClientId,
        3 => Code4::ServiceUnavailable,
        4 => Code4::BadUserNamePassword,
        5 => Code4::NotAuthorized,
        _ => {
            return Failure::new(ErrorClass::Protocol, "a CONNACK of MQTT 3.1.1, offered 5")
                .hint(VersionHint::Perhaps);
        }
    };
    of_code4(code).hint(VersionHint::Perhaps)
}

/// A CONNACK of MQTT 3.1.1 that refuses.
pub(crate) fn of_code4(code: Code4) -> Failure {
    let class = match code {
        Code4::BadUserNamePassword | Code4::NotAuthorized => ErrorClass::Auth,
        Code4::RefusedProtocolVersion => ErrorClass::Protocol,
        Code4::ServiceUnavailable => ErrorClass::Connect,
        Code4::BadClientId | Code4::Success => ErrorClass::Refused,
    };
    Failure::new(class, format!("CONNACK {code:?}"))
}

/// A CONNACK of MQTT 5 that refuses.
pub(crate) fn of_code5(code: Code5) -> Failure {
    let class = match code {
        Code5::BadUserNamePassword
        | Code5::NotAuthorized
        | Code5::BadAuthenticationMethod
        | Code5::Banned => ErrorClass::Auth,
        Code5::UnsupportedProtocolVersion
        | Code5::RefusedProtocolVersion
        | Code5::MalformedPacket
        | Code5::ProtocolError => ErrorClass::Protocol,
        Code5::ServerUnavailable | Code5::ServerBusy | Code5::ServiceUnavailable => {
            ErrorClass::Connect
        }
        _ => ErrorClass::Refused,
    };
    let version = match code {
        Code5::UnsupportedProtocolVersion | Code5::RefusedProtocolVersion => VersionHint::Refused,
        _ => VersionHint::None,
    };
    Failure::new(class, format!("CONNACK {code:?}")).hint(version)
}

/// A DISCONNECT of the hub's.
pub(crate) fn of_disconnect(reason: Reason5, words: Option<&str>) -> Failure {
    let class = match reason {
        Reason5::SessionTakenOver => ErrorClass::TakenOver,
        Reason5::NotAuthorized => ErrorClass::Auth,
        Reason5::ServerBusy
        | Reason5::ServerShuttingDown
        | Reason5::NormalDisconnection
        | Reason5::MessageRateTooHigh
        | Reason5::ConnectionRateExceeded
        | Reason5::MaximumConnectTime
        | Reason5::AdministrativeAction => ErrorClass::Connect,
        Reason5::KeepAliveTimeout => ErrorClass::Timeout,
        Reason5::MalformedPacket
        | Reason5::ProtocolError
        | Reason5::ReceiveMaximumExceeded
        | Reason5::TopicAliasInvalid => ErrorClass::Protocol,
        _ => ErrorClass::Refused,
    };
    let words = words.unwrap_or("no reason string");
    Failure {
        was_said: true,
        ..Failure::new(class, format!("DISCONNECT {reason:?} ({words})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_hub_says_has_one_class() {
        assert_eq!(of_code5(Code5::NotAuthorized).class, ErrorClass::Auth);
        assert_eq!(of_code5(Code5::ServerBusy).class, ErrorClass::Connect);
        assert_eq!(
            of_code5(Code5::ClientIdentifierNotValid).class,
            ErrorClass::Refused
        );
        let version = of_code5(Code5::UnsupportedProtocolVersion);
        assert_eq!(
            (version.class, version.version),
            (ErrorClass::Protocol, VersionHint::Refused)
        );
        assert_eq!(
            of_disconnect(Reason5::SessionTakenOver, None).class,
            ErrorClass::TakenOver
        );
    }

    #[test]
    fn a_certificate_that_is_not_liked_is_tls() {
        let alert = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::DecryptError);
        assert_eq!(of_io(&alert).class, ErrorClass::Tls);
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(of_io(&reset).class, ErrorClass::Connect);
    }

    #[test]
    fn a_connack_in_311_hints_at_the_version() {
        let refused = of_connack_in_311(1);
        assert_eq!(
            (refused.class, refused.version),
            (ErrorClass::Protocol, VersionHint::Refused)
        );
        let stranger = of_connack_in_311(5);
        assert_eq!(
            (stranger.class, stranger.version),
            (ErrorClass::Auth, VersionHint::Perhaps)
        );
    }

    #[test]
    fn a_name_that_does_not_resolve_is_dns() {
        use std::net::ToSocketAddrs;
        let error = ("no-such-host.invalid", 1).to_socket_addrs().unwrap_err();
        assert_eq!(of_io(&error).class, ErrorClass::Dns);
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(of_io(&refused).class, ErrorClass::Connect);
    }
}
