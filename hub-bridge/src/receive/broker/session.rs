//! One connection of a session at the broker, whose messages are acknowledged when they are stored.
//!
//! rumqttc's client, thrown away with its first error: what was not acknowledged on a connection the broker delivers
//! again on the next. Invariant: an acknowledgement never leaves on another connection than the one that delivered.
//! Nothing here waits for the database: messages wait in a queue that is bounded in bytes; while it is full the broker
//! is not listened to.

use std::sync::Arc;
use std::time::Duration;

use rumqttc::v5::mqttbytes::v5::{
    ConnectReturnCode as Code5, Filter as Filter5, Packet as Packet5, SubscribeReasonCode as Sub5,
};
use rumqttc::v5::{
    AsyncClient as Client5, ConnectionError as Error5, Event as Event5, EventLoop as EventLoop5,
    MqttOptions as Options5,
};
use rumqttc::{
    AsyncClient as Client4, ConnectionError as Error4, Event as Event4, EventLoop as EventLoop4,
    MqttOptions as Options4, Packet as Packet4, SubscribeFilter, SubscribeReasonCode as Sub4,
    TlsConfiguration, Transport,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::Access;
use super::delivered::{Ack, Delivered};
use crate::classify::{self, ErrorClass, Failure, VersionHint};
use crate::version::Version;

/// More than a session can have unacknowledged: a try to queue an acknowledgement does not fail for room.
const REQUESTS_MAX: usize = 65_536 + 16;
/// The queue's room is counted in these.
const ROOM_UNIT_BYTES: usize = 256;

/// Who is at the other end.
#[derive(Debug, Clone)]
pub(in crate::receive) struct Identity {
    pub(in crate::receive) client_id: String,
    /// Whether the broker keeps the session, and its messages, while nobody is there.
    pub(in crate::receive) persistent: bool,
    /// At most so many bytes wait.
    pub(in crate::receive) queue_bytes_max: usize,
}

/// What a session says.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "all but the first few are the large one"
)]
pub(in crate::receive) enum Heard {
    /// The broker let us in, and has these subscriptions now.
    Subscribed,
    /// A message.
    Message(Delivered),
    /// The connection ended; nothing follows.
    Down(Failure),
}

enum Client {
    V5(Client5),
    V311(Client4),
}

/// A connection. Dropping it cuts it.
pub(in crate::receive) struct Session {
    client: Client,
    heard: mpsc::UnboundedReceiver<Heard>,
    pump: JoinHandle<()>,
}

impl Session {
    /// Begins to connect and to subscribe to `filters`, at quality of service 1.
    pub(in crate::receive) fn open(
        access: &Access,
        identity: Identity,
        filters: &[String],
    ) -> Result<Self, Failure> {
        let tls = access.tls()?.map(TlsConfiguration::Rustls);
        // Bounded by the room below.
        let (tell, heard) = mpsc::unbounded_channel();
        let units = identity.queue_bytes_max / ROOM_UNIT_BYTES;
        let outlet = Outlet {
            tell,
            room: Arc::new(Semaphore::new(units)),
            units: u32::try_from(units).unwrap_or(u32::MAX),
        };
        let (client, pump) = match access.version {
            Version::V5 => {
                let options = options5(access, identity, tls);
                let (client, events) = Client5::new(options, REQUESTS_MAX);
                let filters = filters.iter();
                let filters = filters
                    .map(|f| Filter5::new(f.clone(), rumqttc::v5::mqttbytes::QoS::AtLeastOnce));
                let _ = client.try_subscribe_many(filters);
                (Client::V5(client), tokio::spawn(pump5(events, outlet)))
            }
            Version::V311 => {
                let options = options4(access, identity, tls);
                let (client, events) = Client4::new(options, REQUESTS_MAX);
                let filters = filters.iter();
                let filters =
                    filters.map(|f| SubscribeFilter::new(f.clone(), rumqttc::QoS::AtLeastOnce));
                let _ = client.try_subscribe_many(filters);
                (Client::V311(client), tokio::spawn(pump4(events, outlet)))
            }
        };
        Ok(Self {
            client,
            heard,
            pump,
        })
    }

    /// The next that it says; `None` after [`Heard::Down`].
    pub(in crate::receive) async fn next(&mut self) -> Option<Heard> {
        self.heard.recv().await
    }

    /// Acknowledges a message. Without effect where the connection is gone: the broker delivers it again.
    pub(in crate::receive) fn acknowledge(&self, message: &Delivered) {
        let _ = match (&self.client, &message.ack) {
            (Client::V5(client), Ack::V5(publish)) => client.try_ack(publish).is_ok(),
            (Client::V311(client), Ack::V311(publish)) => client.try_ack(publish).is_ok(),
            (Client::V5(_), Ack::V311(_)) | (Client::V311(_), Ack::V5(_)) => false,
        };
    }

    /// Sends what is acknowledged, says DISCONNECT, and waits a moment for both to leave. The session stays.
    pub(in crate::receive) async fn close(mut self) {
        let asked = match &self.client {
            Client::V5(client) => client.try_disconnect().is_ok(),
            Client::V311(client) => client.try_disconnect().is_ok(),
        };
        if asked {
            // What still comes is not acknowledged, and comes again.
            self.heard.close();
            let _ = tokio::time::timeout(Duration::from_secs(2), &mut self.pump).await;
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

fn options5(access: &Access, identity: Identity, tls: Option<TlsConfiguration>) -> Options5 {
    let hub = &access.hub;
    let mut options = Options5::new(identity.client_id, hub.url.host.clone(), hub.url.port);
    options.set_keep_alive(hub.keep_alive);
    options.set_connection_timeout(hub.connect_timeout.as_secs().max(1));
    options.set_clean_start(!identity.persistent);
    // For ever: a receiver that is away for weeks finds what came.
    let expiry = if identity.persistent { u32::MAX } else { 0 };
    options.set_session_expiry_interval(Some(expiry));
    options.set_manual_acks(true);
    options.set_receive_maximum(Some(access.receive_maximum));
    options.set_max_packet_size(Some(access.packet_bytes_max));
    if let Some((username, password)) = hub.credentials() {
        options.set_credentials(username, password);
    }
    if let Some(tls) = tls {
        options.set_transport(Transport::tls_with_config(tls));
    }
    options
}

/// The largest packet of MQTT (3.1.1, 2.2.3).
const PACKET_BYTES_MAX: usize = 268_435_455;

fn options4(access: &Access, identity: Identity, tls: Option<TlsConfiguration>) -> Options4 {
    let hub = &access.hub;
    let mut options = Options4::new(identity.client_id, hub.url.host.clone(), hub.url.port);
    options.set_keep_alive(hub.keep_alive);
    options.set_clean_session(!identity.persistent);
    options.set_manual_acks(true);
    // The broker cannot be told a limit, and a message over it would end every session that gets it.
    options.set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
    if let Some((username, password)) = hub.credentials() {
        options.set_credentials(username, password);
    }
    if let Some(tls) = tls {
        options.set_transport(Transport::tls_with_config(tls));
    }
    options
}

/// Where a pump's words go.
struct Outlet {
    tell: mpsc::UnboundedSender<Heard>,
    room: Arc<Semaphore>,
    units: u32,
}

impl Outlet {
    /// Waits for room; false where nobody listens any more.
    async fn message(&self, mut message: Delivered) -> bool {
        let units = message.size_bytes().div_ceil(ROOM_UNIT_BYTES);
        // What is larger than all the room there is gets all of it.
        let units = u32::try_from(units).unwrap_or(u32::MAX).min(self.units);
        let room = Arc::clone(&self.room).acquire_many_owned(units);
        tokio::select! {
            room = room => message.room = room.ok(),
            () = self.tell.closed() => return false,
        }
        self.tell.send(Heard::Message(message)).is_ok()
    }

    fn subscribed(&self, refused: Option<String>) -> bool {
        match refused {
            None => self.tell.send(Heard::Subscribed).is_ok(),
            Some(reason) => {
                let words = format!("the broker refused a subscription: {reason}");
                self.down(Failure::new(ErrorClass::Refused, words));
                false
            }
        }
    }

    fn down(&self, failure: Failure) {
        let _ = self.tell.send(Heard::Down(failure));
    }
}

/// Polls until the connection ends. Goes on while nobody listens, so that what was asked still leaves.
async fn pump5(mut events: EventLoop5, outlet: Outlet) {
    loop {
        match events.poll().await {
            Ok(Event5::Incoming(Packet5::SubAck(ack))) => {
                let granted = |code: &&Sub5| !matches!(code, Sub5::Success(qos) if *qos as u8 >= 1);
                let refused = ack.return_codes.iter().find(granted);
                if !outlet.subscribed(refused.map(|code| format!("{code:?}"))) {
                    return;
                }
            }
            Ok(Event5::Incoming(Packet5::Publish(publish))) => {
                outlet.message(publish.into()).await;
            }
            Ok(Event5::Incoming(Packet5::Disconnect(said))) => {
                return outlet.down(classify::of_disconnect(said.reason_code, None));
            }
            Ok(_) => {}
            Err(error) => return outlet.down(failure5(&error)),
        }
    }
}

async fn pump4(mut events: EventLoop4, outlet: Outlet) {
    loop {
        match events.poll().await {
            Ok(Event4::Incoming(Packet4::SubAck(ack))) => {
                let granted = |code: &&Sub4| !matches!(code, Sub4::Success(qos) if *qos as u8 >= 1);
                let refused = ack.return_codes.iter().find(granted);
                if !outlet.subscribed(refused.map(|code| format!("{code:?}"))) {
                    return;
                }
            }
            Ok(Event4::Incoming(Packet4::Publish(publish))) => {
                outlet.message(publish.into()).await;
            }
            Ok(_) => {}
            Err(error) => return outlet.down(failure4(&error)),
        }
    }
}

fn failure5(error: &Error5) -> Failure {
    match error {
        Error5::Io(error) => classify::of_io(error).hint(VersionHint::Perhaps),
        Error5::ConnectionRefused(Code5::Success) => {
            Failure::new(ErrorClass::Protocol, error.to_string())
        }
        Error5::ConnectionRefused(code) => classify::of_code5(*code),
        Error5::Timeout(_) => Failure::new(ErrorClass::Timeout, "no answer in time"),
        Error5::Tls(error) => Failure::new(ErrorClass::Tls, error.to_string()),
        Error5::MqttState(_) | Error5::NotConnAck(_) | Error5::RequestsDone => {
            Failure::new(ErrorClass::Connect, error.to_string())
        }
    }
}

fn failure4(error: &Error4) -> Failure {
    match error {
        Error4::Io(error) => classify::of_io(error),
        Error4::ConnectionRefused(code) => classify::of_code4(*code),
        Error4::NetworkTimeout | Error4::FlushTimeout => {
            Failure::new(ErrorClass::Timeout, "no answer in time")
        }
        Error4::Tls(error) => Failure::new(ErrorClass::Tls, error.to_string()),
        Error4::MqttState(_) | Error4::NotConnAck(_) | Error4::RequestsDone => {
            Failure::new(ErrorClass::Connect, error.to_string())
        }
    }
}
