//! The least hub: takes publishes and acknowledges them in bulk, and counts what arrived. It routes nothing and keeps
//! nothing, so that it is not what limits a bridge. Any bridge may connect to it, with MQTT 3.1.1 or 5.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result};
use harness::packet::kind;

use crate::arrivals::Arrivals;

/// Serves `address` until the process ends, and tells `arrivals` of each PUBLISH.
pub(crate) fn serve(address: SocketAddr, arrivals: &Arrivals) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    let arrivals = arrivals.clone();
    thread::spawn(move || {
        while let Ok((socket, _)) = listener.accept() {
            let arrivals = arrivals.clone();
            thread::spawn(move || {
                // A bridge that goes away, or speaks otherwise, is simply done.
                let _ = converse(socket, &arrivals);
            });
        }
    });
    Ok(())
}

fn converse(mut socket: TcpStream, arrivals: &Arrivals) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut incoming = Vec::with_capacity(512 * 1024);
    let mut chunk = vec![0; 256 * 1024];
    let mut answers = Vec::new();
    let mut level = 4;
    loop {
        let count = socket.read(&mut chunk)?;
        if count == 0 {
            return Ok(());
        }
        incoming.extend_from_slice(&chunk[..count]);
        let mut used = 0;
        arrivals.count_all(|seen| {
            while let Some((first, body, length)) = frame(&incoming[used..]) {
                used += length;
                match first >> 4 {
                    kind::CONNECT => {
                        // A bridge of mosquitto's sets the highest bit to say what it is.
                        level = body.get(6).context("a protocol level")? & 0x7f;
                        let accepted: &[u8] = if level == 5 {
                            &[0x20, 3, 0, 0, 0]
                        } else {
                            &[0x20, 2, 0, 0]
                        };
                        answers.extend_from_slice(accepted);
                    }
                    kind::PUBLISH => {
                        let (topic, id, payload) = publish(body, level).context("a PUBLISH")?;
                        seen.count(topic, payload);
                        if first & 0b110 != 0 {
                            answers.extend_from_slice(&[0x40, 2, id[0], id[1]]);
                        }
                    }
                    kind::PINGREQ => answers.extend_from_slice(&[0xd0, 0]),
                    _ => {}
                }
            }
            anyhow::Ok(())
        })?;
        incoming.drain(..used);
        socket.write_all(&answers)?;
        answers.clear();
    }
}

/// The first whole packet: its first byte, its body and its length in all.
fn frame(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (mut length, mut at) = (0_usize, 1);
    loop {
        let byte = *bytes.get(at)?;
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    Some((bytes[0], bytes.get(at..at + length)?, at + length))
}

/// Topic, packet id and payload of a PUBLISH of `QoS` 1.
fn publish(body: &[u8], level: u8) -> Option<(&str, [u8; 2], &[u8])> {
    let (length, rest) = body.split_first_chunk()?;
    let (topic, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let (id, rest) = rest.split_first_chunk()?;
    let payload = if level == 5 {
        // Properties of a reading fit in 127 bytes.
        let (length, rest) = rest.split_first()?;
        rest.get(usize::from(*length)..)?
    } else {
        rest
    };
    Some((std::str::from_utf8(topic).ok()?, *id, payload))
}
