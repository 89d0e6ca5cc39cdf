//! MQTT's bytes: what clients send is read here, strictly; what they get is written here or by rumqttd's codec.
//!
//! Invariant: whatever the bytes, reading returns a packet or a [`Violation`]; it never panics and never
//! allocates more than the packet's own size.

pub(crate) mod connect;
#[cfg(test)]
mod differential;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub(crate) mod packet;
pub(crate) mod properties;
pub(crate) mod violation;
pub(crate) mod wire;
pub(crate) mod write;

pub(crate) use violation::Violation;

/// Which MQTT a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// MQTT 3.1.1, protocol level 4.
    V4,
    /// MQTT 5.
    V5,
}
