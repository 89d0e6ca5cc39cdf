//! MQTT 5 over a byte stream that is handed in ([`Network`]), with rumqttc's packets.
//!
//! What is published is encoded in one buffer and written as far as the stream takes it. Packet ids are given
//! out in turn, passing over those in flight. An acknowledgement is passed on whatever it names: the driver knows
//! what was sent.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{
    Connect, ConnectReturnCode, Disconnect, DisconnectReasonCode, Login, Packet, PingReq, Publish,
};
use rumqttc::v5::mqttbytes::{Error as BytesError, QoS};
use rumqttc::v5::{ConnectionError, StateError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Plan, Signal, v5};
use crate::classify::{self, Failure};
use crate::inflight::PacketId;
use crate::packet::Outgoing;
use crate::platform::{Network, Stream};

/// The largest packet taken from the hub: nothing is subscribed to.
const INCOMING_BYTES_MAX: u32 = 64 * 1024;
const BUFFER_BYTES: usize = 16 * 1024;

/// What the link asks of the loop.
#[derive(Debug)]
pub(super) enum Request {
    Publish(Outgoing),
    Disconnect,
}

pub(super) type Requests = mpsc::UnboundedSender<Request>;

pub(super) struct Loop {
    network: Arc<dyn Network>,
    host: String,
    port: u16,
    client_id: String,
    login: Option<Login>,
    keep_alive: Duration,
    in_flight_max: usize,
    requests: mpsc::UnboundedReceiver<Request>,
    stream: Option<Box<dyn Stream>>,
    incoming: BytesMut,
    outgoing: BytesMut,
    signals: VecDeque<Signal>,
    last_id: u16,
    in_flight: HashSet<u16>,
    ping_at: Instant,
    ping_unanswered: bool,
}

pub(super) fn open(plan: &Plan<'_>, network: &Arc<dyn Network>) -> (Requests, Loop) {
    // Bounded by the publishes in flight, which the link bounds.
    let (sender, requests) = mpsc::unbounded_channel();
    let hub = plan.hub;
    let login = hub
        .credentials()
        .map(|(username, password)| Login { username, password });
    let event_loop = Loop {
        network: Arc::clone(network),
        host: hub.url.host.clone(),
        port: hub.url.port,
        client_id: plan.client_id.clone(),
        login,
        keep_alive: hub.keep_alive,
        in_flight_max: usize::from(plan.in_flight_max),
        requests,
        stream: None,
        incoming: BytesMut::with_capacity(BUFFER_BYTES),
        outgoing: BytesMut::with_capacity(BUFFER_BYTES),
        signals: VecDeque::new(),
        last_id: 0,
        in_flight: HashSet::new(),
        ping_at: Instant::now(),
        ping_unanswered: false,
    };
    (sender, event_loop)
}

/// What one wait ended with.
enum Woken {
    Read(usize),
    Written,
    Asked(Option<Request>),
    PingDue,
}

impl Loop {
    async fn connect(&mut self) -> Result<(), ConnectionError> {
        let mut stream = self.network.connect(&self.host, self.port).await?;
        let keep_alive = u16::try_from(self.keep_alive.as_secs()).unwrap_or(u16::MAX);
        let connect = Connect {
            keep_alive,
            client_id: self.client_id.clone(),
            clean_start: true,
            properties: None,
        };
        let packet = Packet::Connect(connect, None, self.login.clone());
        self.encode(&packet)?;
        stream.write_all_buf(&mut self.outgoing).await?;
        self.stream = Some(stream);
        loop {
            if let Some(packet) = self.decode()? {
                return self.accepted(packet);
            }
            let Some(stream) = &mut self.stream else {
                return Err(StateError::ConnectionAborted.into());
            };
            let read = stream.read_buf(&mut self.incoming).await;
            if read.map_err(StateError::Io)? == 0 {
                return Err(StateError::ConnectionAborted.into());
            }
        }
    }

    fn accepted(&mut self, packet: Packet) -> Result<(), ConnectionError> {
        match packet {
            Packet::ConnAck(ack) if ack.code == ConnectReturnCode::Success => {
                let properties = ack.properties.as_ref();
                if let Some(max) = properties.and_then(|p| p.receive_max) {
                    self.in_flight_max = self.in_flight_max.min(usize::from(max));
                }
                let theirs = properties.and_then(|p| p.server_keep_alive);
                let theirs = theirs.filter(|seconds| *seconds > 0);
                if let Some(seconds) = theirs {
                    self.keep_alive = Duration::from_secs(u64::from(seconds));
                }
                self.ping_at = Instant::now() + self.keep_alive;
                self.signals.push_back(Signal::Accepted(v5::limits(&ack)));
                Ok(())
            }
            Packet::ConnAck(ack) => Err(ConnectionError::ConnectionRefused(ack.code)),
            other => Err(ConnectionError::NotConnAck(Box::new(other))),
        }
    }

    async fn wait(&mut self) -> Result<Woken, StateError> {
        let Some(stream) = &mut self.stream else {
            return Err(StateError::ConnectionAborted);
        };
        let (mut read_half, mut write_half) = tokio::io::split(stream);
        let has_room = self.in_flight.len() < self.in_flight_max;
        let to_write = !self.outgoing.is_empty();
        tokio::select! {
            biased;
            read = read_half.read_buf(&mut self.incoming) => Ok(Woken::Read(read?)),
            asked = self.requests.recv(), if has_room && self.outgoing.len() < BUFFER_BYTES => Ok(Woken::Asked(asked)),
            written = write_half.write_buf(&mut self.outgoing), if to_write => {
                written?;
                Ok(Woken::Written)
            }
            () = tokio::time::sleep_until(self.ping_at) => Ok(Woken::PingDue),
        }
    }

    fn publish(&mut self, publish: Outgoing) -> Result<(), StateError> {
        let mut id = self.last_id;
        loop {
            id = id.checked_add(1).unwrap_or(1);
            if !self.in_flight.contains(&id) {
                break;
            }
        }
        self.last_id = id;
        self.in_flight.insert(id);
        let Outgoing {
            topic,
            retain,
            payload,
            properties,
        } = publish;
        let mut packet = Publish::new(topic, QoS::AtLeastOnce, payload, properties);
        packet.pkid = id;
        packet.retain = retain;
        self.encode(&Packet::Publish(packet))?;
        self.signals.push_back(Signal::Sent(PacketId(id)));
        Ok(())
    }

    fn ping(&mut self) -> Result<(), StateError> {
        if self.ping_unanswered {
            return Err(StateError::AwaitPingResp);
        }
        self.ping_unanswered = true;
        self.ping_at = Instant::now() + self.keep_alive;
        self.encode(&Packet::PingReq(PingReq))
    }

    fn heard(&mut self, packet: Packet) -> Result<(), StateError> {
        match packet {
            Packet::PubAck(ack) => {
                self.in_flight.remove(&ack.pkid);
                self.signals.push_back(v5::answered(&ack));
                Ok(())
            }
            Packet::PingResp(_) => {
                self.ping_unanswered = false;
                Ok(())
            }
            Packet::ConnAck(ack) => {
                self.signals.push_back(Signal::Accepted(v5::limits(&ack)));
                Ok(())
            }
            Packet::Disconnect(disconnect) => {
                let reason_string = disconnect.properties.and_then(|p| p.reason_string);
                Err(StateError::ServerDisconnect {
                    reason_code: disconnect.reason_code,
                    reason_string,
                })
            }
            other => Err(StateError::WrongPacket).inspect_err(|_| drop(other)),
        }
    }

    fn encode(&mut self, packet: &Packet) -> Result<(), StateError> {
        packet.write(&mut self.outgoing, None)?;
        Ok(())
    }

    fn decode(&mut self) -> Result<Option<Packet>, StateError> {
        match Packet::read(&mut self.incoming, Some(INCOMING_BYTES_MAX)) {
            Ok(packet) => Ok(Some(packet)),
            Err(BytesError::InsufficientBytes(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn turn(&mut self) -> Result<(), StateError> {
        match self.wait().await? {
            Woken::Read(0) => Err(StateError::ConnectionAborted),
            Woken::Read(_) => {
                while let Some(packet) = self.decode()? {
                    self.heard(packet)?;
                }
                Ok(())
            }
            Woken::Written => Ok(()),
            Woken::Asked(Some(Request::Publish(publish))) => self.publish(publish),
            Woken::Asked(_) => {
                let reason = DisconnectReasonCode::NormalDisconnection;
                self.encode(&Packet::Disconnect(Disconnect::new(reason)))?;
                if let Some(stream) = &mut self.stream {
                    stream.write_all_buf(&mut self.outgoing).await?;
                }
                self.signals.push_back(Signal::Disconnected);
                Ok(())
            }
            Woken::PingDue => self.ping(),
        }
    }
}

impl super::EventLoop for Loop {
    async fn next(&mut self) -> Result<Signal, Failure> {
        if self.stream.is_none() {
            let connected = self.connect().await;
            connected.map_err(|error| classify::of_v5(&error))?;
        }
        loop {
            if let Some(signal) = self.signals.pop_front() {
                return Ok(signal);
            }
            let turned = self.turn().await;
            turned.map_err(|error| classify::of_v5(&error.into()))?;
        }
    }

    fn has_more(&self) -> bool {
        !self.signals.is_empty()
    }

    fn leftover(&mut self) -> Option<Signal> {
        self.signals.pop_front()
    }
}
