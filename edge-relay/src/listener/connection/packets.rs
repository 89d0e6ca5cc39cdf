//! What each packet of the client does.

use bytes::BytesMut;
use rumqttd::protocol::DisconnectReasonCode;
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::codec::packet::{Packet, Publish, Subscribe};
use super::super::codec::write::{self, PUBCOMP, PUBREC, PUBREL};
use super::super::codec::{Version, Violation};
use super::super::connect::limit_expiry;
use super::super::inbound::Batch;
use super::ending::End;
use super::{Connection, Reply};
use crate::broker::Received;
use crate::broker::exactly_once::Seen;

/// MQTT 5: "packet identifier not found".
const NOT_FOUND: u8 = 0x92;

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn act(&mut self, packet: Packet<'_>, batch: &mut Batch) -> Result<(), Violation> {
        let (key, connection) = (self.client.key, self.client.connection);
        let version = self.client.version;
        match packet {
            Packet::Publish(publish) => self.publish(publish, batch)?,
            Packet::PubAck { id } => {
                self.shared.broker.puback(key, connection, id);
                self.has_more = true;
            }
            Packet::PubRec { id, failed } => self.pubrec(id, failed),
            Packet::PubRel { id } => self.pubrel(id),
            Packet::PubComp { id } => {
                self.shared.broker.pubcomp(key, connection, id);
                self.has_more = true;
            }
            Packet::Subscribe(subscribe) => self.subscribe(&subscribe),
            Packet::Unsubscribe { id, filters } => {
                let (reasons, durable) = self.shared.broker.unsubscribe(key, connection, &filters);
                let mut reply = BytesMut::new();
                write::unsuback(&mut reply, version, id, reasons);
                self.owe(durable, Reply::Packet(reply));
            }
            Packet::PingReq if self.broken => {}
            Packet::PingReq => write::ping_response(&mut self.output),
            Packet::Disconnect {
                with_will,
                session_expiry_s,
            } => {
                if session_expiry_s.is_some_and(|s| s > 0) && !self.client.persistent {
                    return Err(Violation::protocol(
                        "a session expiry in DISCONNECT after none in CONNECT",
                    ));
                }
                let settings = self.shared.settings();
                let expiry = session_expiry_s.map(|s| limit_expiry(s, &settings));
                self.ends(End::Disconnect { with_will, expiry });
            }
        }
        Ok(())
    }

    fn publish(&mut self, publish: Publish<'_>, batch: &mut Batch) -> Result<(), Violation> {
        let (id, qos) = (publish.id, publish.qos);
        let mut unsettled = None;
        if qos == 2 {
            match self.seen(id) {
                Seen::Received => return Ok(()),
                Seen::Stored(stored) => unsettled = Some(stored),
                Seen::New => {}
            }
        }
        if qos > 0
            && self.unacknowledged + self.unreleased.len() >= self.in_flight_max
            && self.client.version == Version::V5
        {
            return Err(Violation::new(
                DisconnectReasonCode::ReceiveMaximumExceeded,
                "more publishes in flight than the receive maximum",
            ));
        }
        let acks = batch.acks.len();
        self.inbound
            .accept(&self.shared, publish, unsettled, batch)?;
        self.unacknowledged += batch.acks.len() - acks;
        if qos == 2 {
            self.unreceived.push(id);
        }
        Ok(())
    }

    /// What is known of a `QoS` 2 publish: one that was sent before gets its PUBREC, again or when the first one is
    /// kept.
    fn seen(&mut self, id: u16) -> Seen {
        let pending = self.unreceived.contains(&id);
        let seen = if pending {
            Seen::Received
        } else {
            self.shared.broker.seen(self.client.key, id)
        };
        if seen == Seen::Received {
            self.shared.stats.duplicates_suppressed_total.one();
            if !pending && !self.broken {
                // Over another connection, the commit that keeps it may not have ended.
                let (key, connection) = (self.client.key, self.client.connection);
                let durable = self.shared.broker.durable_so_far(key, connection);
                let mut reply = BytesMut::with_capacity(8);
                write::acknowledgement(&mut reply, self.client.version, PUBREC, id, 0);
                self.owe(durable, Reply::Packet(reply));
            }
        }
        seen
    }

    fn pubrec(&mut self, id: u16, failed: bool) {
        let (key, connection) = (self.client.key, self.client.connection);
        let mut reply = BytesMut::with_capacity(8);
        match self.shared.broker.pubrec(key, connection, id, failed) {
            Received::Release(durable) => {
                write::acknowledgement(&mut reply, self.client.version, PUBREL, id, 0);
                self.owe(durable, Reply::Packet(reply));
            }
            Received::Unknown if !failed => {
                write::acknowledgement(&mut reply, self.client.version, PUBREL, id, NOT_FOUND);
                self.owe(None, Reply::Packet(reply));
            }
            Received::Nothing | Received::Unknown => self.has_more = true,
        }
    }

    fn pubrel(&mut self, id: u16) {
        let (key, connection) = (self.client.key, self.client.connection);
        self.unreleased.remove(&id);
        let released = self.shared.broker.release(key, connection, id);
        let known = released.as_ref().is_some_and(|r| r.known);
        let reason = if known { 0 } else { NOT_FOUND };
        let mut reply = BytesMut::with_capacity(8);
        write::acknowledgement(&mut reply, self.client.version, PUBCOMP, id, reason);
        self.owe(released.and_then(|r| r.durable), Reply::Packet(reply));
    }

    fn subscribe(&mut self, subscribe: &Subscribe) {
        let (codes, durable) = self.shared.broker.subscribe(
            self.client.key,
            self.client.connection,
            &subscribe.filters,
            subscribe.subscription_id,
        );
        let mut reply = BytesMut::new();
        write::suback(&mut reply, self.client.version, subscribe.id, codes);
        self.owe(durable, Reply::Packet(reply));
    }
}
