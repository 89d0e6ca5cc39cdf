//! The uplink: a TCP proxy that can be cut, silenced, delayed and narrowed.
//!
//! Delay and rate act as on a thin link with little buffering: what waits in the proxy is bounded, so
//! that the sender feels the link and not the proxy's memory.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

/// One direction of the link.
#[derive(Debug, Default)]
struct Way {
    /// Bytes that have passed, ever.
    passed: AtomicU64,
    /// Bytes that may pass before the link is cut; negative: no limit.
    cut_after: AtomicI64,
    /// When the next byte may go, in a narrow link: shared by all connections.
    free_at: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Link {
    hub: SocketAddr,
    up: AtomicBool,
    silent: AtomicBool,
    closed: AtomicBool,
    delay_us: AtomicU64,
    bytes_per_s: AtomicU64,
    to_hub: Way,
    to_relay: Way,
    connections: AtomicU64,
    sockets: Mutex<Vec<TcpStream>>,
}

/// A severable TCP proxy on a port of its own.
#[derive(Debug)]
pub struct Proxy {
    link: Arc<Link>,
    /// Where the relay connects in place of the hub.
    pub address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

/// A link that goes down and up again until it is dropped, which leaves it up.
#[derive(Debug)]
pub struct Flapping {
    link: Arc<Link>,
    stop: SyncSender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// A link to `hub` that is up, quick and wide.
    pub fn start(hub: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        // Packets of a real link's size, or small windows make the loopback's 64 KiB packets stutter.
        setsockopt(&listener, sockopt::TcpMaxSeg, &1448).unwrap();
        let address = listener.local_addr().unwrap();
        let way = || Way {
            cut_after: AtomicI64::new(-1),
            ..Way::default()
        };
        let link = Arc::new(Link {
            hub,
            up: true.into(),
            silent: false.into(),
            closed: false.into(),
            delay_us: 0.into(),
            bytes_per_s: 0.into(),
            to_hub: way(),
            to_relay: way(),
            connections: 0.into(),
            sockets: Mutex::default(),
        });
        let shared = Arc::clone(&link);
        let thread = std::thread::spawn(move || accept(&listener, &shared));
        Self {
            link,
            address,
            thread: Some(thread),
        }
    }

    /// Cuts all connections (reset) and lets no new one through.
    pub fn cut(&self) {
        self.link.cut();
    }

    /// Lets connections through again.
    pub fn restore(&self) {
        self.link.restore();
    }

    /// Silence: connections stay open and nothing passes, as when a radio link fades.
    pub fn silence(&self, silent: bool) {
        self.link.silent.store(silent, Ordering::SeqCst);
    }

    /// Delay of one way, and bytes a second of each way (0: no limit). For connections made after this.
    pub fn shape(&self, one_way: Duration, bytes_per_s: u64) {
        let us = u64::try_from(one_way.as_micros()).unwrap();
        self.link.delay_us.store(us, Ordering::SeqCst);
        self.link.bytes_per_s.store(bytes_per_s, Ordering::SeqCst);
    }

    /// Cuts the link, once, after exactly `bytes` more have gone to the hub.
    pub fn cut_after_to_hub(&self, bytes: u64) {
        self.link
            .to_hub
            .cut_after
            .store(bytes.try_into().unwrap(), Ordering::SeqCst);
    }

    /// Cuts the link, once, after exactly `bytes` more have come from the hub.
    pub fn cut_after_to_relay(&self, bytes: u64) {
        self.link
            .to_relay
            .cut_after
            .store(bytes.try_into().unwrap(), Ordering::SeqCst);
    }

    /// Takes back [`Proxy::cut_after_to_hub`] and [`Proxy::cut_after_to_relay`]; whether one was still to come.
    pub fn disarm(&self) -> bool {
        let ways = [&self.link.to_hub, &self.link.to_relay];
        let armed = ways.map(|way| way.cut_after.swap(-1, Ordering::SeqCst) >= 0);
        armed.contains(&true)
    }

    /// Whether it lets connections through.
    pub fn is_up(&self) -> bool {
        self.link.up.load(Ordering::SeqCst)
    }

    /// Bytes that have gone to the hub.
    pub fn bytes_to_hub(&self) -> u64 {
        self.link.to_hub.passed.load(Ordering::SeqCst)
    }

    /// Bytes that have come from the hub.
    pub fn bytes_to_relay(&self) -> u64 {
        self.link.to_relay.passed.load(Ordering::SeqCst)
    }

    /// Connections that were let through.
    pub fn connections(&self) -> u64 {
        self.link.connections.load(Ordering::SeqCst)
    }

    /// Up for `up`, then down for `down`, again and again.
    pub fn flap(&self, up: Duration, down: Duration) -> Flapping {
        let link = Arc::clone(&self.link);
        let (stop, stopped) = sync_channel::<()>(1);
        let thread = std::thread::spawn(move || {
            let waits = |time| stopped.recv_timeout(time).is_err_and(|e| e == TIMEOUT);
            while waits(up) {
                link.cut();
                let goes_on = waits(down);
                link.restore();
                if !goes_on {
                    break;
                }
            }
        });
        Flapping {
            link: Arc::clone(&self.link),
            stop,
            thread: Some(thread),
        }
    }
}

const TIMEOUT: std::sync::mpsc::RecvTimeoutError = std::sync::mpsc::RecvTimeoutError::Timeout;

impl Drop for Flapping {
    fn drop(&mut self) {
        let _ = self.stop.try_send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.link.restore();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.link.closed.store(true, Ordering::SeqCst);
        self.link.cut();
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Link {
    fn cut(&self) {
        self.up.store(false, Ordering::SeqCst);
        for socket in self.sockets.lock().unwrap().drain(..) {
            let _ = setsockopt(
                &socket,
                sockopt::Linger,
                &libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                },
            );
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    fn restore(&self) {
        if !self.closed.load(Ordering::SeqCst) {
            self.up.store(true, Ordering::SeqCst);
        }
    }

    fn delay(&self) -> Duration {
        Duration::from_micros(self.delay_us.load(Ordering::SeqCst))
    }

    /// How many of `count` bytes may pass, and whether the link is to be cut after them.
    fn allow(way: &Way, count: usize) -> (usize, bool) {
        let allowance = way.cut_after.load(Ordering::SeqCst);
        let Ok(left) = usize::try_from(allowance) else {
            return (count, false);
        };
        if left > count {
            way.cut_after
                .fetch_sub(count.try_into().unwrap(), Ordering::SeqCst);
            return (count, false);
        }
        way.cut_after.store(-1, Ordering::SeqCst);
        (left, true)
    }

    /// When `count` bytes that come now have passed the narrow place.
    fn passes_at(&self, way: &Way, count: usize) -> Instant {
        let now = Instant::now();
        let bytes_per_s = self.bytes_per_s.load(Ordering::SeqCst);
        if bytes_per_s == 0 {
            return now;
        }
        let mut free_at = way.free_at.lock().unwrap();
        let takes = Duration::from_secs_f64(count as f64 / bytes_per_s as f64);
        let at = free_at.map_or(now, |free| free.max(now)) + takes;
        *free_at = Some(at);
        at
    }
}

fn accept(listener: &TcpListener, link: &Arc<Link>) {
    while let Ok((relay, _)) = listener.accept() {
        if link.closed.load(Ordering::SeqCst) {
            return;
        }
        if link.up.load(Ordering::SeqCst) {
            let _ = connect(relay, link);
        }
    }
}

fn connect(relay: TcpStream, link: &Arc<Link>) -> io::Result<()> {
    let hub = TcpStream::connect(link.hub)?;
    for socket in [&relay, &hub] {
        socket.set_nodelay(true)?;
        if link.bytes_per_s.load(Ordering::SeqCst) > 0 {
            setsockopt(socket, sockopt::RcvBuf, &(32 << 10))?;
        }
        link.sockets.lock().unwrap().push(socket.try_clone()?);
    }
    link.connections.fetch_add(1, Ordering::SeqCst);
    carry(relay.try_clone()?, hub.try_clone()?, link, |link| {
        &link.to_hub
    });
    carry(hub, relay, link, |link| &link.to_relay);
    if !link.up.load(Ordering::SeqCst) {
        link.cut();
    }
    Ok(())
}

/// A piece of the stream, and when it is due at the other end.
type Piece = (Instant, Vec<u8>);

/// On a shaped link a piece is a packet, and at most so many bytes are under way.
const PACKET_BYTES: usize = 1460;
const UNDER_WAY_BYTES: usize = 2 << 20;

fn carry(from: TcpStream, to: TcpStream, link: &Arc<Link>, way: fn(&Link) -> &Way) {
    let shaped = !link.delay().is_zero() || link.bytes_per_s.load(Ordering::SeqCst) > 0;
    let piece_bytes = if shaped { PACKET_BYTES } else { 1 << 16 };
    let (pieces, under_way) = sync_channel(UNDER_WAY_BYTES / piece_bytes);
    let (reads, writes) = (Arc::clone(link), Arc::clone(link));
    std::thread::spawn(move || {
        let _ = take_in(from, &reads, way(&reads), &pieces, piece_bytes);
    });
    std::thread::spawn(move || {
        let _ = give_out(&under_way, &to, &writes, way(&writes));
        let _ = to.shutdown(Shutdown::Both);
    });
}

fn take_in(
    mut from: TcpStream,
    link: &Link,
    way: &Way,
    pieces: &SyncSender<Piece>,
    piece_bytes: usize,
) -> io::Result<()> {
    let mut buffer = vec![0; piece_bytes];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let at = link.passes_at(way, count);
        // What does not fit the narrow place stays in the sender's socket.
        let ahead = at.saturating_duration_since(Instant::now());
        std::thread::sleep(ahead.saturating_sub(Duration::from_millis(20)));
        if pieces
            .send((at + link.delay(), buffer[..count].to_vec()))
            .is_err()
        {
            return Ok(());
        }
    }
}

fn give_out(
    under_way: &Receiver<Piece>,
    mut to: &TcpStream,
    link: &Link,
    way: &Way,
) -> io::Result<()> {
    while let Ok((due, piece)) = under_way.recv() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        while link.silent.load(Ordering::SeqCst) && link.up.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let (allowed, cut) = Link::allow(way, piece.len());
        to.write_all(&piece[..allowed])?;
        way.passed.fetch_add(allowed as u64, Ordering::SeqCst);
        if cut {
            std::thread::sleep(Duration::from_millis(5));
            link.cut();
            link.restore();
            return Ok(());
        }
    }
    Ok(())
}
