//! One client, from its CONNACK to its end.
//!
//! The task waits on all it may do next at once ([`Connection::wait`]): read, write, a commit that is done, a
//! message for the client, time. Publishes go through three stations, each first in, first out: `reserving`
//! (a place in the store's queue), `appending` (their commit), `settling` (the broker's state). What is owed to
//! the client leaves the last one in the order it came.
//!
//! Invariant: every buffer is bounded. While one is full, the client is not read from.

mod ending;
mod packets;
mod reading;
mod sending;
mod stations;

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::codec::Version;
use super::connect::Admitted;
use super::inbound::{Ack, Batch, Inbound};
use crate::broker::Durable;
use crate::broker::subscriptions::SessionKey;
use crate::broker::will::Will;
use crate::store::{AppendError, AppendPermit, Appended, Committed};
use ending::{End, leave};
use stations::{appended, reserved, settled};

/// With so much waiting to be written, nothing more is taken from the session.
const OUTPUT_BYTES_ENOUGH: usize = 32 * 1024;
/// The room made for each read.
const READ_BYTES: usize = 16 * 1024;

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
    /// To be cancelled when all that it published is through.
    pub(super) through: CancellationToken,
    /// What its first packet waits for, its CONNACK too.
    pub(super) before: Before,
}

/// What must be done before a client is served.
pub(super) struct Before {
    /// The connection that had its session is through with what it read: or the same publish could be taken twice.
    pub(super) previous: Option<CancellationToken>,
    /// Its will is on disk.
    pub(super) will_stored: Option<Durable>,
}

/// What a connection waits for.
enum Event {
    End(End),
    Broken,
    Read(usize),
    Written,
    Reserved(Result<AppendPermit, AppendError>),
    Appended(Result<Option<Committed>, AppendError>),
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
    /// Packet ids of `QoS` 2 publishes of this connection that have their PUBREC and not their PUBREL.
    unreleased: HashSet<u16>,
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
            unreleased: HashSet::new(),
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
        self.wait_for_earlier().await;
        let end = self.serve().await;
        self.client.through.cancel();
        self.say_goodbye(end).await;
        let Self { shared, client, .. } = self;
        shared.stats.connections.down();
        leave(&shared, client, end).await;
    }

    /// See [`Before`]. What fails, or takes longer than a disk may, is waited for no more: the client is let in.
    async fn wait_for_earlier(&mut self) {
        let hold_max = self.shared.settings().hold_max + Duration::from_secs(1);
        let before = &mut self.client.before;
        let earlier = async {
            if let Some(previous) = before.previous.take() {
                previous.cancelled().await;
            }
            match before.will_stored.take() {
                Some(stored) => matches!(stored.await, Ok(Ok(()))),
                None => true,
            }
        };
        if !tokio::time::timeout(hold_max, earlier)
            .await
            .unwrap_or(false)
        {
            tracing::warn!(
                "let in before its will was on disk, or its last connection was through"
            );
        }
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
}
