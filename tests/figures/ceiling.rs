//! What a hub can take at best: the same readings as an ideal client sends them, ready-made in memory, in large writes,
//! its acknowledgements read in bulk. No bridge can be faster than that.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use harness::VILLAGE;
use harness::packet::{Connect, Property, Value, Version, property};

use crate::load::Load;

/// How long the client rests between two looks at its acknowledgements: they are read in bulk, and wake nobody.
const REST: Duration = Duration::from_micros(500);
/// Bytes that wait in the hub's socket at most: it always finds the next publish there.
const AHEAD_BYTES: usize = 256 * 1024;
const DEADLINE: Duration = Duration::from_secs(120);

/// Sends `load` over one connection (more bring nothing), and returns when the last PUBACK is there. MQTT 5 with the user
/// properties of a relay's reading.
pub(crate) fn run(hub: SocketAddr, load: Load) -> Result<()> {
    let version = Version::V5;
    let wire: Vec<Vec<u8>> = (0..load.readings)
        .map(|number| publish(load, number, version))
        .collect();
    let mut socket = TcpStream::connect(hub)?;
    socket.set_nodelay(true)?;
    socket.write_all(&Connect::new(version, "ideal").encode())?;
    connack(&mut socket)?;
    let mut acks = Acks::default();
    socket.set_nonblocking(true)?;
    let until = Instant::now() + DEADLINE;
    let (mut next, mut flight_bytes, mut landed) = (0, 0, 0);
    let mut out = Vec::with_capacity(2 * AHEAD_BYTES);
    let mut written = 0;
    while acks.count < wire.len() {
        for packet in &wire[landed..acks.count] {
            flight_bytes -= packet.len();
        }
        landed = acks.count;
        if written == out.len() {
            out.clear();
            written = 0;
            while next < wire.len() && flight_bytes < AHEAD_BYTES && next - landed < 60_000 {
                out.extend_from_slice(&wire[next]);
                flight_bytes += wire[next].len();
                next += 1;
            }
        }
        if written < out.len() {
            match socket.write(&out[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("write"),
            }
        }
        std::thread::sleep(REST);
        acks.read(&mut socket)?;
        if Instant::now() > until {
            bail!("{} of {} acknowledged", acks.count, wire.len());
        }
    }
    Ok(())
}

fn publish(load: Load, number: usize, version: Version) -> Vec<u8> {
    let client = number % load.clients;
    let topic = format!("villages/{VILLAGE}/meters/meter-{client}/energy");
    let packet_id = u16::try_from(number % 65_000 + 1).unwrap_or(1);
    let mut payload = format!("{{\"n\":{number:012},\"v\":\"").into_bytes();
    payload.resize(load.payload_bytes, b'x');
    let mut properties: Vec<Property> = Vec::new();
    if version == Version::V5 {
        let pair = |key: &str, value: String| (property::USER, Value::Pair(key.to_owned(), value));
        properties.push(pair("id", format!("0a1b2c3d/{}", number + 1)));
        properties.push(pair("at", "1780000000000".to_owned()));
    }
    harness::packet::Publish {
        dup: false,
        qos: 1,
        retain: false,
        topic,
        packet_id,
        payload,
        properties,
    }
    .encode(version)
}

fn connack(socket: &mut TcpStream) -> Result<()> {
    let mut head = [0; 2];
    socket.read_exact(&mut head)?;
    let mut body = vec![0; usize::from(head[1])];
    socket.read_exact(&mut body)?;
    if head[0] != 0x20 || body.get(1) != Some(&0) {
        bail!("CONNACK {head:?} {body:?}");
    }
    Ok(())
}

/// Counts PUBACKs in a stream of bytes.
#[derive(Debug, Default)]
struct Acks {
    rest: Vec<u8>,
    count: usize,
}

impl Acks {
    fn read(&mut self, socket: &mut TcpStream) -> Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match socket.read(&mut buffer) {
                Ok(0) => bail!("the hub closed the connection"),
                Ok(count) => self.take(&buffer[..count])?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("read"),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.rest.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(&[first, length]) = self.rest.get(at..at + 2) {
            let end = at + 2 + usize::from(length);
            if first != 0x40 {
                bail!("packet {first:#x} where a PUBACK was due");
            }
            if end > self.rest.len() {
                break;
            }
            self.count += 1;
            at = end;
        }
        self.rest.drain(..at);
        Ok(())
    }
}
