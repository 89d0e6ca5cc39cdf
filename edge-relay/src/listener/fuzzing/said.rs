//! What a client said, read without a server: the measure of what it may be answered.

use crate::broker::topic;
use crate::listener::codec::connect::{self, Connect, ConnectError};
use crate::listener::codec::packet::{self, Packet};
use crate::listener::codec::{Version, Violation, wire};

/// A PUBLISH.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) qos: u8,
    pub(super) id: u16,
    /// `None`: by an alias, or no topic name.
    pub(super) topic: Option<String>,
    pub(super) payload: Vec<u8>,
    /// Whether it may break a rule that takes more than its own bytes to see.
    pub(super) doubtful: bool,
}

/// All that one connection sent.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The protocol of the answers; `None`: there can be none.
    pub(super) version: Option<Version>,
    pub(super) connect: Option<Connect>,
    pub(super) publishes: Vec<Published>,
    pub(super) releases: Vec<u16>,
    pub(super) received: Vec<u16>,
    /// Id and number of filters.
    pub(super) subscribes: Vec<(u16, usize)>,
    pub(super) unsubscribes: Vec<(u16, usize)>,
    pub(super) pings: usize,
    /// The rule that the last of it broke.
    pub(super) violation: Option<Violation>,
    /// It said DISCONNECT.
    pub(super) goodbye: bool,
    /// It cannot be let in, or not go on.
    pub(super) must_end: bool,
}

impl Said {
    pub(super) fn read(bytes: &[u8], bytes_max: usize) -> Self {
        let mut said = Self::default();
        let mut rest = said.hello(bytes, bytes_max);
        while !said.must_end {
            match wire::frame(rest, bytes_max) {
                Ok(None) => break,
                Err(violation) => said.breaks(violation),
                Ok(Some(frame)) => {
                    match packet::read(said.version.unwrap(), frame, rest) {
                        Ok(packet) => said.take(packet),
                        Err(violation) => said.breaks(violation),
                    }
                    rest = &rest[frame.end..];
                }
            }
        }
        said
    }

    /// Reads CONNECT; returns what follows it.
    fn hello<'a>(&mut self, bytes: &'a [u8], bytes_max: usize) -> &'a [u8] {
        self.must_end = bytes.first().is_some_and(|first| *first != 0x10);
        if self.must_end {
            return &[];
        }
        let frame = match wire::frame(bytes, bytes_max) {
            Ok(Some(frame)) => frame,
            Ok(None) => return &[],
            Err(_) => {
                self.must_end = true;
                return &[];
            }
        };
        match connect::read(frame.first_byte, &bytes[frame.body_at..frame.end]) {
            Ok(connect) => {
                self.version = Some(connect.version);
                // No users are known here, no other authentication either.
                self.must_end = connect.user_name.is_some()
                    || connect.properties.authentication_method.is_some()
                    || (connect.client_id.is_empty()
                        && !connect.clean_start
                        && connect.version == Version::V4);
                self.connect = Some(connect);
            }
            Err(error) => {
                self.must_end = true;
                self.version = match error {
                    ConnectError::NotMqtt | ConnectError::Violation(Version::V4, _) => None,
                    ConnectError::Level(level) if level <= 5 => Some(Version::V4),
                    ConnectError::Level(_) | ConnectError::Violation(Version::V5, _) => {
                        Some(Version::V5)
                    }
                };
            }
        }
        &bytes[frame.end..]
    }

    fn breaks(&mut self, violation: Violation) {
        self.violation = Some(violation);
        self.must_end = true;
    }

    fn take(&mut self, packet: Packet<'_>) {
        match packet {
            Packet::Publish(publish) => {
                let alias = publish
                    .properties
                    .as_ref()
                    .is_some_and(|p| p.topic_alias.is_some());
                let name = std::str::from_utf8(publish.topic)
                    .ok()
                    .filter(|t| topic::check_name(t).is_ok());
                self.publishes.push(Published {
                    qos: publish.qos,
                    id: publish.id,
                    topic: name.filter(|_| !alias).map(str::to_owned),
                    payload: publish.payload.to_vec(),
                    doubtful: alias || name.is_none(),
                });
            }
            Packet::PubAck { .. } | Packet::PubComp { .. } => {}
            Packet::PubRec { id, .. } => self.received.push(id),
            Packet::PubRel { id } => self.releases.push(id),
            Packet::Subscribe(subscribe) => self
                .subscribes
                .push((subscribe.id, subscribe.filters.len())),
            Packet::Unsubscribe { id, filters } => self.unsubscribes.push((id, filters.len())),
            Packet::PingReq => self.pings += 1,
            Packet::Disconnect { .. } => {
                self.goodbye = true;
                self.must_end = true;
            }
        }
    }

    /// Whether it broke no rule, as far as its bytes alone say.
    pub(super) fn is_lawful(&self) -> bool {
        self.violation.is_none() && self.publishes.iter().all(|p| !p.doubtful)
    }
}
