//! One client, from its CONNACK to its end.
//!
//! The task waits on all it may do next at once ([`Connection::wait`]): read, write, a commit that is done, a
//! message for the client, time. Publishes go through three stations, each first in, first out: `reserving`
//! (a place in the store's queue), `appending` (their commit), `settling` (the broker's state). What is owed to
//! the client leaves the last one in the order it came.
//!
//! Invariant: every buffer is bounded. While one is full, the client is not read from.

mod packets;
mod stations;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rumqttd::protocol::DisconnectReasonCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use super::codec::packet;
use super::codec::write::{self, PUBREL, PublishHeader};
use super::codec::{Version, Violation, wire};
use super::connect::Admitted;
use super::inbound::{Ack, Batch, Inbound};
use super::{Shared, wills};
use crate::broker::session::Next;
use crate::broker::subscriptions::SessionKey;
use crate::broker::will::Will;
use crate::broker::{Durable, Left, Sending};
use crate::store::{AppendError, AppendPermit, Appended};

/// With so much waiting to be written, nothing more is read or taken from the session.
const OUTPUT_BYTES_MAX: usize = 256 * 1024;
/// With so much waiting to be written, nothing more is taken from the session.
const OUTPUT_BYTES_ENOUGH: usize = 32 * 1024;
/// The most publishes in one batch.
const BATCH_MAX: usize = 512;
/// The most bytes of readings in one batch, before the last one.
const BATCH_BYTES_MAX: usize = 128 * 1024;
/// The most batches on their way.
const BATCHES_MAX: usize = 64;
/// The room made for each read.
const READ_BYTES: usize = 16 * 1024;
/// How long a client of a store that takes nothing waits for its end, so that it does not come back at once.
const WITHHELD_PAUSE: Duration = Duration::from_secs(1);
/// How long the last words may take.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);

/// Who is connected.
pub(super) struct Client {
    pub(super) version: Version,
    pub(super) id: Arc<str>,
    pub(super) key: SessionKey,
    pub(super) connection: u64,
    pub(super) wake: Arc<Notify>,
    pub(super) taken_over: CancellationToken,
    /// How long it may be silent.
    pub(super) keep_alive: Option<Duration>,
    /// The largest packet it takes.
    pub(super) packet_bytes_max: usize,
    /// Whether its session outlives this connection.
    pub(super) persistent: bool,
    pub(super) will: Option<Will>,
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// DISCONNECT, perhaps with its will wanted and another session expiry.
    Disconnect {
        with_will: bool,
        expiry: Option<Duration>,
    },
    /// It closed its side, or the socket is broken.
    Gone,
    /// It broke the rules.
    Violation(Violation),
    /// A publish of it could not be kept.
    Withheld,
    /// It was silent for too long.
    Silent,
    /// It took nothing for too long.
    Stuck,
    /// Another connection has its session.
    TakenOver,
    /// The relay stops.
    Shutdown,
}

/// What a connection waits for.
enum Event {
    End(End),
    Broken,
    Read(usize),
    Written,
    Reserved(Result<AppendPermit, AppendError>),
    Appended(Result<(), AppendError>),
    Settled(bool),
    Wake,
    Time,
}

type Reserving = Pin<Box<dyn Future<Output = Result<AppendPermit, AppendError>> + Send>>;

/// What is owed to the client once the broker's state is durable.
struct Owed {
    durable: Option<Durable>,
    reply: Reply,
}

enum Reply {
    Acks(Vec<Ack>),
    Packet(BytesMut),
}

/// See the module.
pub(super) struct Connection<S> {
    shared: Arc<Shared>,
    client: Client,
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    ending: CancellationToken,
    input: BytesMut,
    output: BytesMut,
    inbound: Inbound,
    /// As told to the client in its CONNACK.
    in_flight_max: usize,
    packet_bytes_max: usize,
    reserving: Option<(Reserving, Batch)>,
    appending: VecDeque<(Option<Appended>, Batch)>,
    settling: VecDeque<Owed>,
    /// `QoS` 1 and 2 publishes that are read and not acknowledged.
    unacknowledged: usize,
    /// Packet ids of `QoS` 2 publishes among them.
    unreceived: Vec<u16>,
    /// Whether the session may have something to send.
    has_more: bool,
    end: Option<End>,
    /// Nothing can be written any more.
    broken: bool,
    heard_at: Instant,
    /// Since when output waits without progress.
    stuck_since: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(
        shared: Arc<Shared>,
        stream: S,
        admitted: Admitted,
        ending: CancellationToken,
    ) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        let settings = shared.settings();
        let client = admitted.client;
        let inbound = Inbound::new(
            client.version,
            client.id.clone(),
            settings.topic_alias_max,
            settings.forward.clone(),
        );
        Self {
            shared,
            reader,
            writer,
            ending,
            input: admitted.input,
            output: admitted.output,
            inbound,
            in_flight_max: settings.in_flight_max.into(),
            packet_bytes_max: usize::try_from(settings.packet_bytes_max).unwrap_or(usize::MAX),
            reserving: None,
            appending: VecDeque::new(),
            settling: VecDeque::new(),
            unacknowledged: 0,
            unreceived: Vec::new(),
            has_more: true,
            end: None,
            broken: false,
            heard_at: Instant::now(),
            stuck_since: None,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            client,
        }
    }

    pub(super) async fn run(mut self) {
        tracing::debug!(version = ?self.client.version, "connected");
        let count = &self.shared.stats.connections;
        count.up();
        let end = self.serve().await;
        self.say_goodbye(end).await;
        let Self { shared, client, .. } = self;
        shared.stats.connections.down();
        leave(&shared, client, end).await;
    }

    /// Until the connection is to end and all its publishes are through.
    async fn serve(&mut self) -> End {
        loop {
            self.read_packets();
            self.take_deliveries();
            if let Some(end) = self.end
                && self.reserving.is_none()
                && self.appending.is_empty()
                && self.settling.is_empty()
                && (end != End::Gone || !self.can_read_packets())
            {
                return end;
            }
            match self.wait().await {
                Event::End(end) => self.ends(end),
                Event::Broken => self.breaks(End::Gone),
                Event::Read(0) => self.ends(End::Gone),
                Event::Read(_) => self.heard_at = Instant::now(),
                Event::Written => {
                    self.stuck_since = (!self.output.is_empty()).then(Instant::now);
                }
                Event::Reserved(result) => self.reserved(result),
                Event::Appended(result) => self.appended(result),
                Event::Settled(durable) => self.settled(durable),
                Event::Wake => self.has_more = true,
                Event::Time => self.look_at_the_clock(),
            }
        }
    }

    /// What cannot be written to any more.
    fn breaks(&mut self, end: End) {
        self.broken = true;
        self.output.clear();
        self.stuck_since = None;
        self.ends(end);
    }

    /// The first reason counts.
    fn ends(&mut self, end: End) {
        if self.end.is_none() {
            if let End::Violation(violation) = end {
                self.shared.stats.protocol_errors_total.one();
                let now = std::time::Instant::now();
                if let Some(connections) = self.shared.violations.add(1, now) {
                    tracing::info!(%violation, connections, "closed for a packet that breaks the standard");
                }
            }
            self.end = Some(end);
        }
    }

    async fn wait(&mut self) -> Event {
        let wants_input = self.wants_input();
        let wants_deliveries = self.end.is_none() && self.output.len() < OUTPUT_BYTES_ENOUGH;
        let running = self.end.is_none();
        if !self.output.is_empty() && self.stuck_since.is_none() {
            self.stuck_since = Some(Instant::now());
        }
        if wants_input {
            self.input.reserve(READ_BYTES);
        }
        let may_write = !self.output.is_empty();
        tokio::select! {
            biased;
            () = self.client.taken_over.cancelled(), if running => Event::End(End::TakenOver),
            () = self.ending.cancelled(), if running => Event::End(End::Shutdown),
            result = reserved(&mut self.reserving) => Event::Reserved(result),
            result = appended(&mut self.appending) => Event::Appended(result),
            durable = settled(&mut self.settling) => Event::Settled(durable),
            written = self.writer.write_buf(&mut self.output), if may_write => match written {
                Ok(count) if count > 0 => Event::Written,
                _ => Event::Broken,
            },
            read = self.reader.read_buf(&mut self.input), if wants_input => match read {
                Ok(count) => Event::Read(count),
                Err(_) => Event::Broken,
            },
            () = self.client.wake.notified(), if wants_deliveries => Event::Wake,
            () = &mut self.timer => Event::Time,
        }
    }

    fn wants_input(&self) -> bool {
        self.end.is_none()
            && self.takes_packets()
            && self.input.len() < self.packet_bytes_max + READ_BYTES
    }

    /// Whether there is room for what packets may bring.
    fn takes_packets(&self) -> bool {
        self.reserving.is_none()
            && self.appending.len() + self.settling.len() < BATCHES_MAX
            && self.output.len() < OUTPUT_BYTES_MAX
            && (self.client.version == Version::V5 || self.unacknowledged < self.in_flight_max)
    }

    /// A whole packet waits in the input.
    fn can_read_packets(&self) -> bool {
        matches!(wire::frame(&self.input, self.packet_bytes_max), Ok(Some(_)))
    }

    /// Acts on the packets that are in the input, as far as there is room; publishes become one batch.
    fn read_packets(&mut self) {
        if !matches!(self.end, None | Some(End::Gone)) || self.input.is_empty() {
            return;
        }
        let settings = self.shared.settings();
        self.inbound.set_forward(&settings.forward);
        let bytes_max = self.packet_bytes_max;
        let mut batch = Batch::default();
        let mut input = std::mem::take(&mut self.input);
        while self.takes_packets()
            && batch.publications.len() < BATCH_MAX
            && batch.bytes < BATCH_BYTES_MAX
        {
            let act = match wire::frame(&input, bytes_max) {
                Ok(None) => break,
                Ok(Some(frame)) => packet::read(self.client.version, frame, &input)
                    .and_then(|packet| self.act(packet, &mut batch))
                    .map(|()| frame.end),
                Err(violation) => Err(violation),
            };
            match act {
                Ok(end) => input.advance(end),
                Err(violation) => {
                    self.ends(End::Violation(violation));
                    input.clear();
                }
            }
            if self.end.is_some_and(|end| end != End::Gone) {
                break;
            }
        }
        self.input = input;
        self.submit(batch);
    }

    /// Takes what the session has to send, while there is room.
    fn take_deliveries(&mut self) {
        if !self.has_more || self.end.is_some() || self.output.len() >= OUTPUT_BYTES_ENOUGH {
            return;
        }
        let stats = self.shared.stats.clone();
        let (version, bytes_max) = (self.client.version, self.client.packet_bytes_max);
        let output = &mut self.output;
        let mut all = true;
        let take = |next: &Next, now: Duration| {
            let sent = match next {
                Next::Release(id) => {
                    write::acknowledgement(output, version, PUBREL, *id, 0);
                    true
                }
                Next::Publish {
                    delivery,
                    packet_id,
                    dup,
                    ..
                } => {
                    let life = delivery.message.expires_at.map(|at| at.saturating_sub(now));
                    if !dup && life.is_some_and(|left| left.is_zero()) {
                        stats.messages_expired_total.one();
                        return Sending::Skipped;
                    }
                    let header = PublishHeader {
                        version,
                        id: *packet_id,
                        dup: *dup,
                        expiry_s: life.map(|l| u32::try_from(l.as_secs()).unwrap_or(u32::MAX)),
                    };
                    write::publish(output, header, delivery, bytes_max)
                }
            };
            if !sent {
                return Sending::Skipped;
            }
            stats
                .publishes_sent_total
                .add(u64::from(matches!(next, Next::Publish { .. })));
            all = output.len() < OUTPUT_BYTES_ENOUGH;
            Sending::Sent { more: all }
        };
        self.shared
            .broker
            .send(self.client.key, self.client.connection, take);
        self.has_more = !all;
    }

    /// Ends the silent and the stuck, and sets the timer to when to look again.
    fn look_at_the_clock(&mut self) {
        let now = Instant::now();
        let write_timeout = self.shared.settings().write_timeout;
        if self
            .stuck_since
            .is_some_and(|since| now - since >= write_timeout)
        {
            self.shared.stats.write_timeouts_total.one();
            tracing::info!("closed: it takes nothing of what is written to it");
            self.breaks(End::Stuck);
        }
        let mut next = now + write_timeout / 2;
        if let Some(keep_alive) = self.client.keep_alive {
            if !self.wants_input() {
                // It is not read from, so its silence is ours.
                self.heard_at = now;
            }
            let silent_at = self.heard_at + keep_alive;
            if silent_at <= now && self.end.is_none() {
                self.shared.stats.keep_alive_timeouts_total.one();
                self.ends(End::Silent);
            }
            next = next.min(silent_at.max(now + Duration::from_millis(10)));
        }
        self.timer.as_mut().reset(next);
    }

    /// What is left to write, and for MQTT 5 why the connection ends.
    async fn say_goodbye(&mut self, end: End) {
        let reason = match end {
            End::Disconnect { .. } | End::Gone | End::Stuck => None,
            End::Violation(violation) => Some(violation.reason),
            End::Withheld => {
                tokio::select! {
                    () = tokio::time::sleep(WITHHELD_PAUSE) => {}
                    () = self.ending.cancelled() => {}
                }
                Some(DisconnectReasonCode::QuotaExceeded)
            }
            End::Silent => Some(DisconnectReasonCode::KeepAliveTimeout),
            End::TakenOver => Some(DisconnectReasonCode::SessionTakenOver),
            End::Shutdown => Some(DisconnectReasonCode::ServerShuttingDown),
        };
        if let Some(reason) = reason {
            write::disconnect(&mut self.output, self.client.version, reason);
        }
        let last_words = async {
            if !self.broken && !self.output.is_empty() {
                let _ = self.writer.write_all_buf(&mut self.output).await;
            }
            let _ = self.writer.shutdown().await;
        };
        let _ = tokio::time::timeout(LAST_WORDS_MAX, last_words).await;
    }
}

async fn reserved(reserving: &mut Option<(Reserving, Batch)>) -> Result<AppendPermit, AppendError> {
    match reserving {
        Some((future, _)) => future.await,
        None => std::future::pending().await,
    }
}

async fn appended(appending: &mut VecDeque<(Option<Appended>, Batch)>) -> Result<(), AppendError> {
    match appending.front_mut() {
        Some((Some(appended), _)) => match appended.await {
            Ok(result) => result.map(|_| ()),
            Err(_) => Err(AppendError::Closed),
        },
        Some((None, _)) => Ok(()),
        None => std::future::pending().await,
    }
}

async fn settled(settling: &mut VecDeque<Owed>) -> bool {
    match settling.front_mut() {
        Some(Owed {
            durable: Some(durable),
            ..
        }) => matches!(durable.await, Ok(Ok(()))),
        Some(Owed { durable: None, .. }) => true,
        None => std::future::pending().await,
    }
}

/// The session is left, ended or somebody else's; the will is published, waits, or is forgotten.
async fn leave(shared: &Shared, client: Client, end: End) {
    let expiry = match end {
        End::Disconnect { expiry, .. } => expiry,
        _ => None,
    };
    let mut will = client.will;
    if let End::Disconnect {
        with_will: false, ..
    } = end
    {
        will = None;
    }
    let due = shared.broker.leave(Left {
        key: client.key,
        connection: client.connection,
        expiry,
        will,
        stopping: end == End::Shutdown,
    });
    tracing::debug!(?end, "connection ended");
    wills::publish_all(shared, due.into_iter().collect()).await;
}
