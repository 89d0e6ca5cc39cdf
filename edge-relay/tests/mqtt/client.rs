//! A client that says exactly what a test wants, and reads packets as they come.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(5);

/// A packet as it came: first byte, and what follows the fixed header.
pub(crate) type Packet = (u8, Vec<u8>);

pub(crate) struct Client {
    stream: TcpStream,
    pub(crate) v5: bool,
}

/// A PUBLISH, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) dup: bool,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) topic: String,
    pub(crate) id: u16,
    pub(crate) properties: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Published {
    pub(crate) fn of((first, body): &Packet, v5: bool) -> Self {
        assert_eq!(first >> 4, 3, "{first:#x} {body:?}");
        let qos = (first >> 1) & 3;
        let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let topic = String::from_utf8(body[2..2 + length].to_vec()).unwrap();
        let mut rest = &body[2 + length..];
        let mut id = 0;
        if qos > 0 {
            id = u16::from_be_bytes([rest[0], rest[1]]);
            rest = &rest[2..];
        }
        let mut properties = Vec::new();
        if v5 {
            let length = usize::from(rest[0]);
            properties = rest[1..=length].to_vec();
            rest = &rest[1 + length..];
        }
        Self {
            dup: first & 8 != 0,
            qos,
            retain: first & 1 != 0,
            topic,
            id,
            properties,
            payload: rest.to_vec(),
        }
    }
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u16).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    loop {
        let byte = (length & 0x7F) as u8;
        length >>= 7;
        bytes.push(if length > 0 { byte | 0x80 } else { byte });
        if length == 0 {
            break;
        }
    }
    bytes.extend(body);
    bytes
}

/// What follows the flags in CONNECT is `rest`: will, user name, password.
pub(crate) fn connect(
    level: u8,
    flags: u8,
    keep_alive: u16,
    properties: &[u8],
    id: &str,
    rest: &[u8],
) -> Vec<u8> {
    let mut body = text("MQTT");
    body.extend([level, flags]);
    body.extend(keep_alive.to_be_bytes());
    if level == 5 {
        body.push(properties.len() as u8);
        body.extend(properties);
    }
    body.extend(text(id));
    body.extend(rest);
    packet(0x10, &body)
}

/// Session expiry interval.
pub(crate) fn expiry(seconds: u32) -> Vec<u8> {
    let mut bytes = vec![17];
    bytes.extend(seconds.to_be_bytes());
    bytes
}

impl Client {
    pub(crate) async fn open(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        Self { stream, v5: false }
    }

    /// Connects with MQTT 3.1.1; returns whether a session was present.
    pub(crate) async fn v4(addr: SocketAddr, id: &str, clean: bool) -> (Self, bool) {
        let mut client = Self::open(addr).await;
        let flags = if clean { 2 } else { 0 };
        client.send(&connect(4, flags, 0, &[], id, &[])).await;
        let (first, body) = client.packet().await;
        assert_eq!((first, body[1]), (0x20, 0), "{body:?}");
        (client, body[0] == 1)
    }

    pub(crate) async fn v5(
        addr: SocketAddr,
        id: &str,
        clean: bool,
        properties: &[u8],
    ) -> (Self, bool) {
        let mut client = Self::open(addr).await;
        client.v5 = true;
        let flags = if clean { 2 } else { 0 };
        client
            .send(&connect(5, flags, 0, properties, id, &[]))
            .await;
        let (first, body) = client.packet().await;
        assert_eq!((first, body[1]), (0x20, 0), "{body:?}");
        (client, body[0] == 1)
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next packet; panics where none comes in time or the connection ends.
    pub(crate) async fn packet(&mut self) -> Packet {
        self.try_packet()
            .await
            .expect("a packet, but the connection was closed")
    }

    /// The next packet, or none where the server closed.
    pub(crate) async fn try_packet(&mut self) -> Option<Packet> {
        tokio::time::timeout(PATIENCE, self.read())
            .await
            .expect("a packet in time")
    }

    async fn read(&mut self) -> Option<Packet> {
        let first = self.stream.read_u8().await.ok()?;
        let (mut length, mut shift) = (0usize, 0);
        loop {
            let byte = self.stream.read_u8().await.ok()?;
            length |= usize::from(byte & 0x7F) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.ok()?;
        Some((first, body))
    }

    /// Nothing comes: shown by a PINGRESP that is next.
    pub(crate) async fn quiet(&mut self) {
        self.send(&[0xC0, 0]).await;
        assert_eq!(self.packet().await, (0xD0, vec![]), "something came");
    }

    /// The server closes, for MQTT 5 with a DISCONNECT of this reason.
    pub(crate) async fn closed(&mut self, reason: u8) {
        match self.try_packet().await {
            None => assert!(!self.v5 || reason == 0, "closed without DISCONNECT"),
            Some((0xE0, body)) => {
                assert!(self.v5);
                assert_eq!(body.first(), Some(&reason));
                assert_eq!(body.len(), if body.len() == 1 { 1 } else { 2 });
                assert_eq!(self.try_packet().await, None, "more after DISCONNECT");
            }
            Some(other) => panic!("{other:?} in place of the end"),
        }
    }

    pub(crate) fn publish_bytes(&self, flags: u8, topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
        self.publish_with(flags, topic, id, &[], payload)
    }

    pub(crate) fn publish_with(
        &self,
        flags: u8,
        topic: &str,
        id: u16,
        properties: &[u8],
        payload: &[u8],
    ) -> Vec<u8> {
        let mut body = text(topic);
        if flags & 0x06 != 0 {
            body.extend(id.to_be_bytes());
        }
        if self.v5 {
            body.push(properties.len() as u8);
            body.extend(properties);
        }
        body.extend(payload);
        packet(0x30 | flags, &body)
    }

    pub(crate) async fn publish(&mut self, flags: u8, topic: &str, id: u16, payload: &[u8]) {
        let bytes = self.publish_bytes(flags, topic, id, payload);
        self.send(&bytes).await;
    }

    /// `QoS` 1, and waits for its PUBACK.
    pub(crate) async fn publish_acked(&mut self, flags: u8, topic: &str, id: u16, payload: &[u8]) {
        self.publish(flags | 2, topic, id, payload).await;
        self.expect_ack(0x40, id).await;
    }

    pub(crate) async fn expect_ack(&mut self, first: u8, id: u16) {
        let (found, body) = self.packet().await;
        assert_eq!((found, &body[..]), (first, &id.to_be_bytes()[..]));
    }

    pub(crate) async fn ack(&mut self, first: u8, id: u16) {
        let [high, low] = id.to_be_bytes();
        self.send(&[first, 2, high, low]).await;
    }

    pub(crate) fn subscribe_bytes(
        &self,
        id: u16,
        filters: &[(&str, u8)],
        properties: &[u8],
    ) -> Vec<u8> {
        let mut body = id.to_be_bytes().to_vec();
        if self.v5 {
            body.push(properties.len() as u8);
            body.extend(properties);
        }
        for (filter, options) in filters {
            body.extend(text(filter));
            body.push(*options);
        }
        packet(0x82, &body)
    }

    /// Subscribes; returns the codes. Publishes that come first are an error here.
    pub(crate) async fn subscribe(&mut self, filters: &[(&str, u8)]) -> Vec<u8> {
        self.subscribe_with(filters, &[]).await
    }

    pub(crate) async fn subscribe_with(
        &mut self,
        filters: &[(&str, u8)],
        properties: &[u8],
    ) -> Vec<u8> {
        let bytes = self.subscribe_bytes(7, filters, properties);
        self.send(&bytes).await;
        let (first, body) = self.packet().await;
        assert_eq!((first, &body[..2]), (0x90, &[0, 7][..]));
        body[if self.v5 { 3 } else { 2 }..].to_vec()
    }

    /// The next packet, a PUBLISH.
    pub(crate) async fn published(&mut self) -> Published {
        let packet = self.packet().await;
        Published::of(&packet, self.v5)
    }

    /// Nothing comes but packets that begin with `first`.
    pub(crate) async fn quiet_but(&mut self, first: u8) {
        self.send(&[0xC0, 0]).await;
        loop {
            match self.packet().await {
                (0xD0, _) => return,
                (found, _) if found == first || found >> 4 == 3 => {}
                other => panic!("{other:?} came"),
            }
        }
    }

    pub(crate) async fn disconnect(mut self) {
        self.send(&[0xE0, 0]).await;
        assert_eq!(self.try_packet().await, None);
    }

    /// Goes without a word.
    pub(crate) fn vanish(self) {
        drop(self.stream);
    }

    /// Closes its writing side, and goes on reading.
    pub(crate) async fn half_close(&mut self) {
        self.stream.shutdown().await.unwrap();
    }
}
