//! The floor to compare with: the least server that could keep the promise. It reads QoS 1 publishes, appends their
//! bytes to one file, groups what waits into one fdatasync, and answers the PUBACKs. No broker, no index, no identity.
//! It runs as a process of its own, so that its processor time is its own.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, mpsc};

use anyhow::Result;

struct Append {
    bytes: Vec<u8>,
    packet_ids: Vec<u16>,
    answer: Arc<TcpStream>,
}

/// Serves on `listen` until the process ends; says a line on standard output when it listens.
pub(crate) fn serve(listen: SocketAddr, log: &Path) -> Result<()> {
    let listener = TcpListener::bind(listen)?;
    let file = OpenOptions::new().create(true).append(true).open(log)?;
    let (queue, waiting) = mpsc::channel::<Append>();
    std::thread::spawn(move || commit(file, &waiting));
    println!("listening");
    for socket in listener.incoming().flatten() {
        let queue = queue.clone();
        std::thread::spawn(move || connection(Arc::new(socket), &queue));
    }
    Ok(())
}

fn commit(mut file: File, waiting: &mpsc::Receiver<Append>) {
    while let Ok(first) = waiting.recv() {
        let mut group = vec![first];
        group.extend(waiting.try_iter());
        let bytes: Vec<u8> = group
            .iter()
            .flat_map(|append| append.bytes.iter().copied())
            .collect();
        if file
            .write_all(&bytes)
            .and_then(|()| file.sync_data())
            .is_err()
        {
            return;
        }
        for append in group {
            let acks: Vec<u8> = append
                .packet_ids
                .iter()
                .flat_map(|id| puback(*id))
                .collect();
            let _ = append.answer.as_ref().write_all(&acks);
        }
    }
}

fn puback(packet_id: u16) -> [u8; 4] {
    let [high, low] = packet_id.to_be_bytes();
    [0x40, 2, high, low]
}

/// Frames packets off the socket; what a read brought is one append.
fn connection(socket: Arc<TcpStream>, queue: &mpsc::Sender<Append>) -> Option<()> {
    socket.set_nodelay(true).ok()?;
    let mut buffer = Vec::new();
    let mut chunk = vec![0_u8; 64 * 1024];
    loop {
        let read = socket.as_ref().read(&mut chunk).ok().filter(|n| *n > 0)?;
        buffer.extend_from_slice(chunk.get(..read)?);
        let (mut bytes, mut packet_ids, mut used) = (Vec::new(), Vec::new(), 0);
        while let Some((packet, body)) = frame(buffer.get(used..)?) {
            match packet.first()? >> 4 {
                1 => socket.as_ref().write_all(&[0x20, 2, 0, 0]).ok()?,
                3 => {
                    let payload = packet.get(body..)?;
                    let topic_bytes =
                        usize::from(u16::from_be_bytes([*payload.first()?, *payload.get(1)?]));
                    let id = payload.get(2 + topic_bytes..4 + topic_bytes)?;
                    packet_ids.push(u16::from_be_bytes([*id.first()?, *id.get(1)?]));
                    bytes.extend_from_slice(packet);
                }
                _ => {}
            }
            used += packet.len();
        }
        buffer.drain(..used);
        if !packet_ids.is_empty() {
            queue
                .send(Append {
                    bytes,
                    packet_ids,
                    answer: socket.clone(),
                })
                .ok()?;
        }
    }
}

/// The first whole packet of `bytes`, and where its variable header begins.
fn frame(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (mut length, mut shift, mut at) = (0_usize, 0, 1);
    loop {
        let byte = *bytes.get(at)?;
        length |= usize::from(byte & 0x7f) << shift;
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
    }
    Some((bytes.get(..at + length)?, at))
}
