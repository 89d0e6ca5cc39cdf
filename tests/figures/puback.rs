//! Acknowledgements a second: the relay, mosquitto with its default persistence, and a file.

use std::fs::OpenOptions;
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use harness::packet::{Connect, Packet, Publish, Version, kind};
use harness::{Hub, port, setting};

use crate::contender;

const CLIENTS: usize = 10;
const IN_FLIGHT: usize = 20;
const PAYLOAD_BYTES: usize = 200;

/// Rounds of all three in turn; the ratio of the middle ones.
pub(crate) fn measure() {
    let time = Duration::from_secs(setting("SECONDS", 5));
    let rounds = setting("ROUNDS", 3);
    println!(
        "{CLIENTS} clients x {IN_FLIGHT} in flight, {PAYLOAD_BYTES} bytes, {time:?} a round, data in {}",
        std::env::temp_dir().display()
    );
    let mut results: [Vec<f64>; 3] = Default::default();
    for round in 1..=rounds {
        let rates = [relay(time), mosquitto(time), file(time)];
        println!(
            "round {round}: relay {:.0}/s, mosquitto {:.0}/s, file with fdatasync {:.0}/s",
            rates[0], rates[1], rates[2]
        );
        for (result, rate) in results.iter_mut().zip(rates) {
            result.push(rate);
        }
    }
    let [relay, mosquitto, file] = results.map(median);
    println!("relay / mosquitto: {:.2}", relay / mosquitto);
    println!("relay / file:      {:.2}", relay / file);
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn relay(time: Duration) -> f64 {
    // No hub: nothing but taking and keeping is measured.
    let relay = contender::relay(port::free());
    publish_for(relay.mqtt, time)
}

fn mosquitto(time: Duration) -> f64 {
    let hub = Hub::start_with("persistence true\npersistence_location {home}/\n");
    // Someone it must keep them for, as the relay keeps them.
    let absent = Connect {
        clean: false,
        ..Connect::new(Version::V4, "absent")
    };
    let (mut raw, _, _) = harness::Raw::connect(hub.address, &absent).unwrap();
    raw.send(&harness::packet::subscribe(Version::V4, 1, "#", 1))
        .unwrap();
    raw.receive_kind(kind::SUBACK).unwrap();
    drop(raw);
    publish_for(hub.address, time)
}

/// Acknowledgements a second of all clients.
fn publish_for(broker: SocketAddr, time: Duration) -> f64 {
    let start = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| std::thread::spawn(move || client(broker, n, time)))
        .collect();
    let sum: u64 = clients
        .into_iter()
        .map(|client| client.join().unwrap())
        .sum();
    sum as f64 / start.elapsed().as_secs_f64()
}

fn client(broker: SocketAddr, number: usize, time: Duration) -> u64 {
    let mut stream = TcpStream::connect(broker).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
        .write_all(&Connect::new(Version::V4, &format!("c{number}")).encode())
        .unwrap();
    let mut reader = BufReader::with_capacity(1 << 16, stream);
    assert_eq!(Packet::read(&mut reader).unwrap().kind(), kind::CONNACK);
    let topic = format!("meters/c{number}");
    let start = Instant::now();
    let (mut sent, mut acknowledged, mut bytes) = (0_u64, 0_u64, Vec::new());
    while start.elapsed() < time || sent > acknowledged {
        bytes.clear();
        while start.elapsed() < time && sent - acknowledged < IN_FLIGHT as u64 {
            sent += 1;
            let packet_id = u16::try_from(sent % 60_000).unwrap() + 1;
            let publish = Publish::new(&topic, [b'x'; PAYLOAD_BYTES], packet_id);
            bytes.extend(publish.encode(Version::V4));
        }
        reader.get_mut().write_all(&bytes).unwrap();
        while sent > acknowledged {
            let packet = Packet::read(&mut reader).unwrap();
            assert_eq!(packet.kind(), kind::PUBACK);
            acknowledged += 1;
            if reader.buffer().len() < 4 {
                break;
            }
        }
    }
    acknowledged
}

/// The least that any durable store must do: the same number of writers, one thread that writes what waits and
/// syncs it.
fn file(time: Duration) -> f64 {
    let (waiting, queue) = sync_channel(CLIENTS * IN_FLIGHT);
    let committer = std::thread::spawn(move || commit(&queue));
    let start = Instant::now();
    let writers: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let waiting = waiting.clone();
            std::thread::spawn(move || write_for(&waiting, time))
        })
        .collect();
    drop(waiting);
    let sum: u64 = writers
        .into_iter()
        .map(|writer| writer.join().unwrap())
        .sum();
    let rate = sum as f64 / start.elapsed().as_secs_f64();
    committer.join().unwrap();
    rate
}

type Record = ([u8; PAYLOAD_BYTES], SyncSender<()>);

fn write_for(waiting: &SyncSender<Record>, time: Duration) -> u64 {
    let (done, acknowledgements) = sync_channel(IN_FLIGHT);
    let start = Instant::now();
    let (mut sent, mut acknowledged) = (0, 0);
    while start.elapsed() < time || sent > acknowledged {
        while start.elapsed() < time && sent - acknowledged < IN_FLIGHT as u64 {
            waiting.send(([b'x'; PAYLOAD_BYTES], done.clone())).unwrap();
            sent += 1;
        }
        acknowledgements.recv().unwrap();
        acknowledged += 1;
        acknowledged += acknowledgements.try_iter().count() as u64;
    }
    acknowledged
}

fn commit(queue: &Receiver<Record>) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("log");
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    while let Ok(first) = queue.recv() {
        let batch: Vec<Record> = std::iter::once(first).chain(queue.try_iter()).collect();
        let bytes: Vec<u8> = batch.iter().flat_map(|(payload, _)| *payload).collect();
        file.write_all(&bytes).unwrap();
        file.sync_data().unwrap();
        for (_, done) in batch {
            let _ = done.send(());
        }
    }
}
