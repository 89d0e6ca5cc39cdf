//! A load of meters: threads with plain sockets, so that the generator costs little beside what it measures.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

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
#[derive(Debug, Clone)]
pub(crate) struct LoadResult {
    /// PUBACKs a second.
    pub(crate) rate: f64,
    /// The middle and the 99th percentile of the time from PUBLISH to PUBACK.
    pub(crate) p50: Duration,
    /// See `p50`.
    pub(crate) p99: Duration,
}

/// Publishes `load` to `server` and waits for every PUBACK.
pub(crate) fn run(server: SocketAddr, load: Load, name: &str) -> Result<LoadResult> {
    let started = Instant::now();
    let each = load.readings / load.clients;
    let mut waits = std::thread::scope(|scope| -> Result<Vec<u32>> {
        let meters: Vec<_> = (0..load.clients)
            .map(|n| scope.spawn(move || meter(server, &format!("{name}-{n}"), each, load)))
            .collect();
        let mut waits = Vec::with_capacity(load.readings);
        for meter in meters {
            match meter.join() {
                Ok(result) => waits.extend(result?),
                Err(_) => bail!("a meter thread panicked"),
            }
        }
        Ok(waits)
    })?;
    let elapsed = started.elapsed().as_secs_f64();
    waits.sort_unstable();
    let at = |share: usize| {
        Duration::from_micros(
            waits
                .get(waits.len() * share / 100)
                .copied()
                .unwrap_or(0)
                .into(),
        )
    };
    #[allow(clippy::cast_precision_loss)] // far below 2^52 readings
    Ok(LoadResult {
        rate: waits.len() as f64 / elapsed,
        p50: at(50),
        p99: at(99),
    })
}

/// One meter; returns the microseconds from each PUBLISH to its PUBACK.
fn meter(server: SocketAddr, client_id: &str, readings: usize, load: Load) -> Result<Vec<u32>> {
    let mut socket = TcpStream::connect(server).context("connect")?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    socket.write_all(&connect_packet(client_id))?;
    let mut answers = BufReader::with_capacity(16 * 1024, socket.try_clone()?);
    let mut connack = [0_u8; 4];
    answers.read_exact(&mut connack)?;
    if connack[3] != 0 {
        bail!("{client_id}: CONNACK {connack:?}");
    }
    let topic = format!("meters/{client_id}/energy");
    let mut sent_at = vec![Instant::now(); usize::from(u16::MAX) + 1];
    let mut waits = Vec::with_capacity(readings);
    let (mut sent, mut out) = (0_usize, Vec::with_capacity(64 * 1024));
    while waits.len() < readings {
        while sent < readings && sent - waits.len() < load.in_flight {
            let packet_id = packet_id(sent);
            publish_packet(&mut out, &topic, packet_id, sent, load.payload_bytes);
            sent_at[usize::from(packet_id)] = Instant::now();
            sent += 1;
        }
        socket.write_all(&out)?;
        out.clear();
        let mut puback = [0_u8; 4];
        loop {
            answers
                .read_exact(&mut puback)
                .with_context(|| format!("{client_id}: PUBACK {}", waits.len()))?;
            if puback[0] != 0x40 {
                bail!("{client_id}: {puback:?} where a PUBACK was due");
            }
            let id = u16::from_be_bytes([puback[2], puback[3]]);
            let wait = sent_at[usize::from(id)].elapsed().as_micros();
            waits.push(u32::try_from(wait).unwrap_or(u32::MAX));
            if answers.buffer().len() < 4 {
                break;
            }
        }
    }
    socket.write_all(&[0xe0, 0])?;
    Ok(waits)
}

fn packet_id(sent: usize) -> u16 {
    u16::try_from(sent % 65_000 + 1).unwrap_or(1)
}

fn connect_packet(client_id: &str) -> Vec<u8> {
    let mut packet = vec![0x10, 0, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60, 0];
    packet.push(u8::try_from(client_id.len()).unwrap_or(0));
    packet.extend_from_slice(client_id.as_bytes());
    packet[1] = u8::try_from(packet.len() - 2).unwrap_or(0);
    packet
}

/// Appends a QoS 1 PUBLISH whose payload begins with the reading's number.
pub(crate) fn publish_packet(
    out: &mut Vec<u8>,
    topic: &str,
    packet_id: u16,
    number: usize,
    payload_bytes: usize,
) {
    let mut remaining = 2 + topic.len() + 2 + payload_bytes;
    out.push(0x32);
    loop {
        let byte = u8::try_from(remaining % 128).unwrap_or(0);
        remaining /= 128;
        out.push(if remaining > 0 { byte | 0x80 } else { byte });
        if remaining == 0 {
            break;
        }
    }
    out.extend_from_slice(&u16::try_from(topic.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(topic.as_bytes());
    out.extend_from_slice(&packet_id.to_be_bytes());
    let head = format!(
        "{{\"n\":{number:012},\"kwh\":{}.{:03},\"v\":\"",
        number / 1000,
        number % 1000
    );
    let end = out.len() + payload_bytes;
    out.extend_from_slice(head.as_bytes());
    while out.len() + 2 < end {
        out.push(b'a' + u8::try_from((number * 7 + out.len()) % 26).unwrap_or(0));
    }
    out.extend_from_slice(b"\"}");
    out.truncate(end);
}
