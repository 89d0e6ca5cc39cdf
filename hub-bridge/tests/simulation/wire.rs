//! The link: streams with a rate, a delay and a socket buffer, over a link that is up, mute or down.
//!
//! One queue of events in virtual time carries whole packets to the hub and bytes back. A connection's events never
//! overtake each other. On a mute link bytes are taken and stay; they go on when it moves again, as TCP would.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hub_bridge::platform::{Connecting, Network, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::hub::Session;
use super::packets::{self, Packet};
use super::scene::Scene;
use super::world::{Id, Note, Shared, World};

const SOCKET_BUFFER: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Up,
    /// Up, and moves nothing.
    Mute,
    /// Connections fail like this.
    Down(&'static str),
}

#[derive(Debug)]
pub enum Event {
    ToHub(u32, Packet),
    /// The bridge closed; nothing follows.
    HubHearsEnd(u32),
    ToBridge(u32, Vec<u8>),
    /// The hub closed, after what it said.
    BridgeHearsEnd(u32),
    /// The hub has made up its mind, as said.
    HubSays(u32, Vec<u8>),
    HubHangsUp(u32),
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct When(Duration, u64);

/// Bytes of a connection, and who waits for them.
#[derive(Default)]
pub struct Conn {
    /// Sent by the bridge and not a whole packet yet.
    partial: Vec<u8>,
    inbound: VecDeque<u8>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Written by the bridge, not through the link yet.
    unsent: usize,
    /// What the bridge reads after all bytes.
    end: Option<io::ErrorKind>,
    pub bridge_closed: bool,
    /// Nothing to the hub arrives sooner, and nothing from it.
    there_at: Duration,
    back_at: Duration,
    /// Publishes that the bridge sent and no answer came for, by packet id.
    pub flight: BTreeMap<u16, Id>,
    pub session: Session,
}

pub struct Wire {
    pub link: Link,
    pub bytes_per_s: f64,
    pub delay: Duration,
    pub conns: BTreeMap<u32, Conn>,
    opened: u32,
    up_free_at: Duration,
    down_free_at: Duration,
    queue: BinaryHeap<Reverse<(When, usize)>>,
    events: BTreeMap<usize, Event>,
    pushed: u64,
    held: Vec<Event>,
}

impl Wire {
    pub fn new(scene: &Scene) -> Self {
        Self {
            link: Link::Up,
            bytes_per_s: scene.bytes_per_s,
            delay: scene.delay,
            conns: BTreeMap::new(),
            opened: 0,
            up_free_at: Duration::ZERO,
            down_free_at: Duration::ZERO,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            pushed: 0,
            held: Vec::new(),
        }
    }

    fn carries(&self, bytes: usize) -> Duration {
        #[allow(clippy::cast_precision_loss)]
        Duration::from_secs_f64(bytes as f64 / self.bytes_per_s)
    }

    /// How many bytes a connection takes before they are through: the socket's buffer and what the link holds.
    fn window(&self) -> usize {
        let holds = self.bytes_per_s * self.delay.as_secs_f64() * 2.0;
        SOCKET_BUFFER + holds as usize
    }

    pub fn next_at(&self) -> Option<Duration> {
        self.queue.peek().map(|Reverse((When(at, _), _))| *at)
    }

    fn due(&mut self, now: Duration) -> Option<Event> {
        if self.next_at()? > now {
            return None;
        }
        let Reverse((_, key)) = self.queue.pop()?;
        self.events.remove(&key)
    }
}

impl World {
    pub fn at(&mut self, at: Duration, event: Event) {
        let sooner = self.wire.next_at().is_none_or(|next| at < next);
        self.wire.pushed += 1;
        let key = usize::try_from(self.wire.pushed).unwrap();
        let when = When(at, self.wire.pushed);
        self.wire.queue.push(Reverse((when, key)));
        self.wire.events.insert(key, event);
        if sooner {
            self.pump.notify_one();
        }
    }

    /// Does what is due.
    pub fn pump_due(&mut self) {
        let now = self.now();
        while let Some(event) = self.wire.due(now) {
            let by_link = !matches!(event, Event::HubSays(..) | Event::HubHangsUp(_));
            if by_link && self.wire.link == Link::Mute {
                self.wire.held.push(event);
            } else {
                self.carry_out(event);
            }
        }
    }

    fn carry_out(&mut self, event: Event) {
        match event {
            Event::ToHub(conn, packet) => {
                let Some(open) = self.wire.conns.get_mut(&conn) else {
                    return;
                };
                open.unsent = open.unsent.saturating_sub(packet.size);
                if let Some(writer) = open.writer.take() {
                    writer.wake();
                }
                self.hub_hears(conn, &packet);
            }
            Event::HubHearsEnd(conn) => {
                self.wire.conns.remove(&conn);
            }
            Event::HubSays(conn, bytes) => self.send_back(conn, Event::ToBridge(conn, bytes)),
            Event::HubHangsUp(conn) => {
                self.step(Note::HubCloses { conn });
                self.send_back(conn, Event::BridgeHearsEnd(conn));
            }
            Event::ToBridge(conn, bytes) => self.bridge_hears(conn, &bytes),
            Event::BridgeHearsEnd(conn) => self.end_for_bridge(conn, io::ErrorKind::UnexpectedEof),
        }
    }

    fn send_back(&mut self, conn: u32, event: Event) {
        let size = if let Event::ToBridge(_, bytes) = &event {
            bytes.len()
        } else {
            0
        };
        let now = self.now();
        let free = self.wire.down_free_at.max(now) + self.wire.carries(size);
        self.wire.down_free_at = free;
        let arrives = free + self.wire.delay;
        let Some(open) = self.wire.conns.get_mut(&conn) else {
            return;
        };
        open.back_at = open.back_at.max(arrives);
        let at = open.back_at;
        self.at(at, event);
    }

    fn bridge_hears(&mut self, conn: u32, bytes: &[u8]) {
        let Some(open) = self.wire.conns.get_mut(&conn) else {
            return;
        };
        if open.end.is_some() || open.bridge_closed {
            return;
        }
        open.inbound.extend(bytes);
        if let Some(reader) = open.reader.take() {
            reader.wake();
        }
        for answer in packets::from_hub(bytes) {
            let (kind, packet_id, code) = answer;
            self.step(Note::In {
                conn,
                kind,
                packet_id,
                code,
            });
            match kind {
                packets::PUBACK => self.answered(conn, packet_id, code),
                packets::CONNACK if code == 0 => {
                    if let Some(open) = self.wire.conns.get_mut(&conn) {
                        open.session.welcomed = true;
                    }
                }
                _ => {}
            }
        }
    }

    /// The hub's word on a publish is there for the bridge to read.
    fn answered(&mut self, conn: u32, packet_id: u16, code: u8) {
        let open = self.wire.conns.get_mut(&conn);
        let Some(id) = open.and_then(|open| open.flight.remove(&packet_id)) else {
            return;
        };
        if let Some(slot) = self.store.slot(id) {
            if code < 0x80 {
                self.totals.acknowledged += u64::from(!slot.acknowledged);
                slot.acknowledged = true;
            } else {
                slot.refusals += 1;
            }
        }
    }

    fn end_for_bridge(&mut self, conn: u32, kind: io::ErrorKind) {
        let Some(open) = self.wire.conns.get_mut(&conn) else {
            return;
        };
        if open.end.is_some() {
            return;
        }
        open.end = Some(kind);
        for waker in [open.reader.take(), open.writer.take()]
            .into_iter()
            .flatten()
        {
            waker.wake();
        }
        let lost: Vec<Id> = std::mem::take(&mut open.flight).into_values().collect();
        self.lost_in_flight(&lost);
    }

    fn lost_in_flight(&mut self, lost: &[Id]) {
        for id in lost {
            if let Some(slot) = self.store.slot(*id) {
                slot.losses += 1;
            }
        }
    }

    /// Cuts every connection; the bridge is told.
    pub fn reset_all(&mut self) {
        let conns: Vec<u32> = self.wire.conns.keys().copied().collect();
        for conn in conns {
            self.step(Note::Reset { conn });
            self.end_for_bridge(conn, io::ErrorKind::ConnectionReset);
            self.hub_forgets(conn);
        }
    }

    pub fn set_link(&mut self, link: Link) {
        let before = std::mem::replace(&mut self.wire.link, link);
        self.step(Note::Link(match link {
            Link::Up => "up",
            Link::Mute => "mute",
            Link::Down(how) => how,
        }));
        if let Link::Down(_) = link {
            // What was under way may still arrive, but not behind what was held back.
            if before == Link::Mute || self.rng.chance(0.5) {
                for open in self.wire.conns.values_mut() {
                    open.session.hung_up = true;
                }
            }
            self.reset_all();
            self.wire.held.clear();
        }
        if before == Link::Mute && link == Link::Up {
            for event in std::mem::take(&mut self.wire.held) {
                // Before all that is on its way still.
                self.at(Duration::ZERO, event);
            }
        }
    }

    /// kill -9: the kernel closes what was open. What was under way may still arrive.
    pub fn drop_connections(&mut self) {
        let under_way_arrives = self.rng.chance(0.5);
        if under_way_arrives {
            while let Some(Reverse((_, key))) = self.wire.queue.pop() {
                if let Some(Event::ToHub(conn, packet)) = self.wire.events.remove(&key) {
                    self.hub_hears(conn, &packet);
                }
            }
        }
        self.wire.queue.clear();
        self.wire.events.clear();
        self.wire.held.clear();
        for (_, open) in std::mem::take(&mut self.wire.conns) {
            let lost: Vec<Id> = open.flight.into_values().collect();
            self.lost_in_flight(&lost);
        }
        self.hub_forgets_all();
        let now = self.now();
        self.wire.up_free_at = now;
        self.wire.down_free_at = now;
    }

    fn accept(&mut self) -> u32 {
        self.wire.opened += 1;
        let conn = self.wire.opened;
        self.wire.conns.insert(conn, Conn::default());
        self.totals.connections += 1;
        self.step(Note::Connect { conn });
        self.connected_under_policy();
        conn
    }

    fn written(&mut self, conn: u32, bytes: &[u8]) {
        let now = self.now();
        let Some(open) = self.wire.conns.get_mut(&conn) else {
            return;
        };
        open.partial.extend(bytes);
        for packet in packets::take_whole(&mut open.partial, &mut open.session.level) {
            self.left(conn, &packet);
            let free = self.wire.up_free_at.max(now) + self.wire.carries(packet.size);
            self.wire.up_free_at = free;
            let arrives = free + self.wire.delay;
            let arrives = self.arrival(conn, arrives);
            self.at(arrives, Event::ToHub(conn, packet));
        }
    }

    /// A connection's bytes do not overtake each other, also where the delay shrinks.
    fn arrival(&mut self, conn: u32, at: Duration) -> Duration {
        let open = self.wire.conns.get_mut(&conn);
        open.map_or(at, |open| {
            open.there_at = open.there_at.max(at);
            open.there_at
        })
    }

    /// A packet left the bridge.
    fn left(&mut self, conn: u32, packet: &Packet) {
        let publish = packet.publish.as_ref();
        let id = publish.map_or((0, 0), |publish| publish.id);
        let packet_id = publish.map_or(0, |publish| publish.packet_id);
        let kind = packet.kind;
        self.step(Note::Out {
            conn,
            kind,
            packet_id,
            id,
        });
        let Some(publish) = publish else { return };
        let Some(open) = self.wire.conns.get_mut(&conn) else {
            return;
        };
        let taken = open.flight.insert(packet_id, publish.id).is_some();
        let (in_flight, limits) = (open.flight.len(), open.session.limits);
        self.holds(!taken && packet_id != 0, || {
            format!("packet id {packet_id} went out twice on connection {conn}")
        });
        self.judge_publish(conn, packet, in_flight, limits);
    }
}

/// The bridge's end of a connection.
struct SimStream {
    world: Shared,
    conn: u32,
}

impl AsyncRead for SimStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut world = self.world.lock();
        let Some(open) = world.wire.conns.get_mut(&self.conn) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        if open.inbound.is_empty() {
            return match open.end {
                Some(io::ErrorKind::UnexpectedEof) => Poll::Ready(Ok(())),
                Some(kind) => Poll::Ready(Err(kind.into())),
                None => {
                    open.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        }
        let many = open.inbound.len().min(buf.remaining());
        let bytes: Vec<u8> = open.inbound.drain(..many).collect();
        buf.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut world = self.world.lock();
        let whole = world.rng.chance(0.9);
        let Some(open) = world.wire.conns.get_mut(&self.conn) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if open.end.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let unsent = open.unsent;
        let room = world.wire.window().saturating_sub(unsent);
        let Some(open) = world.wire.conns.get_mut(&self.conn) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if room == 0 {
            open.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let many = buf.len().min(room);
        // A socket may take less than it is given.
        let many = if whole { many } else { many.div_ceil(2) };
        open.unsent += many;
        world.written(self.conn, &buf[..many]);
        Poll::Ready(Ok(many))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let mut world = self.world.lock();
        if !world.lives() {
            return;
        }
        let conn = self.conn;
        let Some(open) = world.wire.conns.get_mut(&conn) else {
            return;
        };
        if open.bridge_closed {
            return;
        }
        open.bridge_closed = true;
        let lost: Vec<Id> = std::mem::take(&mut open.flight).into_values().collect();
        world.lost_in_flight(&lost);
        world.step(Note::BridgeCloses { conn });
        let at = world.wire.up_free_at.max(world.now()) + world.wire.delay;
        let at = world.arrival(conn, at);
        world.at(at, Event::HubHearsEnd(conn));
    }
}

/// The network as one life of the bridge sees it.
pub struct SimNetwork(pub Shared);

impl Network for SimNetwork {
    fn connect(&self, _host: &str, _port: u16) -> Connecting {
        let shared = self.0.clone();
        Box::pin(async move {
            let (delay, link) = {
                let world = shared.lock();
                (world.wire.delay * 2, world.wire.link)
            };
            let fails = |shared: &Shared, why: &'static str, kind| {
                shared.lock().step(Note::ConnectFails { why });
                Err(io::Error::new(kind, why))
            };
            match link {
                Link::Up => tokio::time::sleep(delay).await,
                Link::Mute | Link::Down("no answer") => std::future::pending().await,
                Link::Down(why) if why.starts_with("failed to lookup") => {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    return fails(&shared, why, io::ErrorKind::Other);
                }
                Link::Down(why) => {
                    tokio::time::sleep(delay).await;
                    return fails(&shared, why, io::ErrorKind::ConnectionRefused);
                }
            }
            let mut world = shared.lock();
            if world.wire.link != Link::Up {
                drop(world);
                return fails(&shared, "went down meanwhile", io::ErrorKind::TimedOut);
            }
            let conn = world.accept();
            drop(world);
            let world = shared.clone();
            Ok(Box::new(SimStream { world, conn }) as Box<dyn Stream>)
        })
    }
}
