//! A load of meters on one thread: packets made beforehand, one epoll, so that the generator costs little beside what
//! it measures. What it did cost is in the result.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::cpu;

/// A server that says nothing for so long has failed.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What to send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Meters, each with a connection of its own.
    pub(crate) clients: usize,
    /// QoS 1 publishes that each keeps unacknowledged.
    pub(crate) in_flight: usize,
    /// Readings in all.
    pub(crate) readings: usize,
    /// Bytes of payload of each.
    pub(crate) payload_bytes: usize,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoadResult {
    /// PUBACKs that came.
    pub(crate) acknowledged: usize,
    /// PUBACKs a second, from the first PUBLISH to the last PUBACK.
    pub(crate) rate: f64,
    /// The middle and the 99th percentile of the time from PUBLISH to PUBACK.
    pub(crate) p50: Duration,
    /// See `p50`.
    pub(crate) p99: Duration,
    /// Processor time of the generator.
    pub(crate) cpu: Duration,
}

/// Publishes `load` to `server` and waits for every PUBACK.
pub(crate) fn run(server: SocketAddr, load: Load, name: &str) -> Result<LoadResult> {
    run_within(server, load, name, Duration::MAX)
}

/// Likewise, but sends nothing more after `limit`: for servers whose pace is not known beforehand.
pub(crate) fn run_within(
    server: SocketAddr,
    load: Load,
    name: &str,
    limit: Duration,
) -> Result<LoadResult> {
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    let mut meters = Vec::with_capacity(load.clients);
    for n in 0..load.clients {
        let meter = Meter::connect(server, &format!("{name}-{n}"), load)?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, n as u64);
        epoll.add(&meter.socket, event)?;
        meters.push(meter);
    }
    let cpu_before = cpu::own_thread()?;
    let mut clock = Clock::start(limit, load.readings);
    for meter in &mut meters {
        meter.fill(&mut clock)?;
    }
    let mut events = vec![EpollEvent::empty(); load.clients];
    while meters.iter().any(Meter::busy) {
        let timeout = EpollTimeout::try_from(SILENCE_MAX).unwrap_or(EpollTimeout::NONE);
        let came = epoll.wait(&mut events, timeout)?;
        if came == 0 {
            bail!("no PUBACK for {SILENCE_MAX:?}");
        }
        for event in events.iter().take(came) {
            let n = usize::try_from(event.data())?;
            let meter = meters.get_mut(n).context("an event of no meter")?;
            meter.hear(&mut clock)?;
            meter.fill(&mut clock)?;
        }
    }
    let result = clock.result(cpu::own_thread()?.saturating_sub(cpu_before));
    for meter in &mut meters {
        let _ = meter.socket.write_all(&[0xe0, 0]);
    }
    Ok(result)
}

/// What the meters share: the time, and how long each PUBACK took.
struct Clock {
    started: Instant,
    until: Option<Instant>,
    waits_us: Vec<u32>,
    last: Duration,
}

impl Clock {
    fn start(limit: Duration, readings: usize) -> Self {
        let started = Instant::now();
        Self {
            started,
            until: started.checked_add(limit),
            waits_us: Vec::with_capacity(readings.min(1 << 20)),
            last: Duration::ZERO,
        }
    }

    fn now_us(&self) -> u32 {
        u32::try_from(self.started.elapsed().as_micros()).unwrap_or(u32::MAX)
    }

    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    #[allow(clippy::cast_precision_loss)] // far below 2^52 readings
    fn result(mut self, cpu: Duration) -> LoadResult {
        self.waits_us.sort_unstable();
        let at = |share: usize| {
            let index = self.waits_us.len() * share / 100;
            Duration::from_micros(self.waits_us.get(index).copied().unwrap_or(0).into())
        };
        LoadResult {
            acknowledged: self.waits_us.len(),
            rate: self.waits_us.len() as f64 / self.last.as_secs_f64(),
            p50: at(50),
            p99: at(99),
            cpu,
        }
    }
}

/// One meter. Its writes block, which they may: what it has in flight fits in any socket's buffer.
struct Meter {
    socket: TcpStream,
    template: Template,
    readings: usize,
    in_flight: usize,
    sent: usize,
    acknowledged: usize,
    sent_at_us: Vec<u32>,
    out: Vec<u8>,
    /// The start of a PUBACK that came in two parts.
    part: Vec<u8>,
}

impl Meter {
    fn connect(server: SocketAddr, client_id: &str, load: Load) -> Result<Self> {
        let socket = connect(server, client_id, true)?;
        Ok(Self {
            socket,
            template: Template::new(&format!("meters/{client_id}/energy"), load.payload_bytes),
            readings: load.readings / load.clients,
            in_flight: load.in_flight,
            sent: 0,
            acknowledged: 0,
            sent_at_us: vec![0; usize::from(u16::MAX) + 1],
            out: Vec::new(),
            part: Vec::new(),
        })
    }

    fn busy(&self) -> bool {
        self.acknowledged < self.sent
    }

    /// Sends what may be in flight; nothing more once the time is over.
    fn fill(&mut self, clock: &mut Clock) -> Result<()> {
        if self.sent == self.readings || clock.is_over() {
            return Ok(());
        }
        let now_us = clock.now_us();
        self.out.clear();
        while self.sent < self.readings && self.sent - self.acknowledged < self.in_flight {
            let packet_id = packet_id(self.sent);
            self.template.append(&mut self.out, packet_id, self.sent);
            if let Some(at) = self.sent_at_us.get_mut(usize::from(packet_id)) {
                *at = now_us;
            }
            self.sent += 1;
        }
        Ok(self.socket.write_all(&self.out)?)
    }

    /// Reads the PUBACKs that are there.
    fn hear(&mut self, clock: &mut Clock) -> Result<()> {
        let mut chunk = [0_u8; 4096];
        let read = self.socket.read(&mut chunk)?;
        if read == 0 {
            bail!("the server closed a meter's connection");
        }
        let now_us = clock.now_us();
        self.part
            .extend_from_slice(chunk.get(..read).unwrap_or(&[]));
        let (pubacks, rest) = self.part.as_chunks::<4>();
        for puback in pubacks {
            let [0x40, 2, high, low] = *puback else {
                bail!("{puback:?} where a PUBACK was due");
            };
            let id = usize::from(u16::from_be_bytes([high, low]));
            let sent_at_us = self.sent_at_us.get(id).copied().unwrap_or(now_us);
            clock.waits_us.push(now_us.saturating_sub(sent_at_us));
            self.acknowledged += 1;
        }
        self.part = rest.to_vec();
        clock.last = clock.started.elapsed();
        Ok(())
    }
}

/// A connection after its CONNACK.
pub(crate) fn connect(server: SocketAddr, client_id: &str, clean: bool) -> Result<TcpStream> {
    let mut socket = TcpStream::connect(server).context("connect")?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(SILENCE_MAX))?;
    let flags = if clean { 2 } else { 0 };
    let mut packet = vec![0x10, 0, 0, 4, b'M', b'Q', b'T', b'T', 4, flags, 0, 0];
    packet.extend(u16::try_from(client_id.len())?.to_be_bytes());
    packet.extend_from_slice(client_id.as_bytes());
    packet[1] = u8::try_from(packet.len() - 2)?;
    socket.write_all(&packet)?;
    let mut connack = [0_u8; 4];
    socket.read_exact(&mut connack)?;
    if connack[3] != 0 {
        bail!("{client_id}: CONNACK {connack:?}");
    }
    Ok(socket)
}

fn packet_id(sent: usize) -> u16 {
    u16::try_from(sent % 65_000 + 1).unwrap_or(1)
}

/// A QoS 1 PUBLISH whose payload begins with the reading's number; only that and the packet id differ.
#[derive(Debug)]
pub(crate) struct Template {
    bytes: Vec<u8>,
    id_at: usize,
}

impl Template {
    /// Where the number's last digit stands, from the packet id on.
    const NUMBER: std::ops::Range<usize> = 7..19;

    /// For `topic`, with payloads of so many bytes.
    pub(crate) fn new(topic: &str, payload_bytes: usize) -> Self {
        let mut remaining = 2 + topic.len() + 2 + payload_bytes;
        let mut bytes = vec![0x32];
        loop {
            let byte = u8::try_from(remaining % 128).unwrap_or(0);
            remaining /= 128;
            bytes.push(if remaining > 0 { byte | 0x80 } else { byte });
            if remaining == 0 {
                break;
            }
        }
        bytes.extend_from_slice(&u16::try_from(topic.len()).unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(topic.as_bytes());
        let id_at = bytes.len();
        let end = id_at + 2 + payload_bytes;
        bytes.extend_from_slice(b"\0\0{\"n\":000000000000,\"kwh\":1234.567,\"v\":\"");
        while bytes.len() + 2 < end {
            bytes.push(b'a' + u8::try_from((bytes.len() * 7) % 26).unwrap_or(0));
        }
        bytes.extend_from_slice(b"\"}");
        bytes.truncate(end);
        Self { bytes, id_at }
    }

    /// Appends the packet for reading `number`.
    pub(crate) fn append(&self, out: &mut Vec<u8>, packet_id: u16, number: usize) {
        let start = out.len() + self.id_at;
        out.extend_from_slice(&self.bytes);
        let Some(own) = out.get_mut(start..) else {
            return;
        };
        if let Some(id) = own.first_chunk_mut() {
            *id = packet_id.to_be_bytes();
        }
        let mut left = number;
        for digit in own
            .get_mut(Self::NUMBER)
            .unwrap_or_default()
            .iter_mut()
            .rev()
        {
            *digit = b'0' + u8::try_from(left % 10).unwrap_or(0);
            left /= 10;
        }
    }
}
