//! What the relay acknowledged for its own subscribers survives kill -9 too: retained messages, what is queued for
//! an absent persistent session, and that a `QoS` 2 publish is delivered once however often its meter sends it.
//!
//! `RELAY_TEST_KILLS` (20) sets how often.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness::packet::{self, Connect, Packet, Publish, Version, kind};
use harness::{Raw, Relay, port, seed, setting, wait_for, within};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const RETAINED_TOPICS: u64 = 7;

/// What a publisher knows: the number it is at, and which ones were acknowledged.
#[derive(Default)]
struct Said {
    acknowledged: Vec<u64>,
    retained: HashMap<u64, u64>,
    /// Sent and perhaps not acknowledged.
    last: u64,
}

/// Publishes numbers with one `QoS`, one after the other, each until it is acknowledged.
struct Publisher {
    qos: u8,
    number: u64,
    /// The PUBREC came.
    received: bool,
    tried: bool,
    said: Arc<Mutex<Said>>,
}

impl Publisher {
    fn id(&self) -> u16 {
        u16::try_from(self.number % 60_000 + 1).unwrap()
    }

    fn publish(&self) -> Publish {
        let retained = self.qos == 1 && self.number % 2 == 1;
        let topic = match (self.qos, retained) {
            (1, true) => format!("kept/{}", self.number % RETAINED_TOPICS),
            (1, false) => "queued/once-or-more".to_owned(),
            _ => "queued/once".to_owned(),
        };
        let mut publish = Publish::new(&topic, self.number.to_string(), self.id());
        publish.qos = self.qos;
        publish.retain = retained;
        publish.dup = self.tried;
        publish
    }

    /// Publishes the number that it is at, or goes on with it.
    fn step(&mut self, raw: &mut Raw) -> io::Result<()> {
        let publish = self.publish();
        if !self.received {
            self.said.lock().unwrap().last = self.number;
            raw.send(&publish.encode(Version::V4))?;
            self.tried = true;
        }
        if self.qos == 2 {
            if !self.received {
                answer(raw, kind::PUBREC, self.id())?;
                self.received = true;
            }
            raw.send(&packet::ack(kind::PUBREL, Version::V4, self.id(), 0))?;
            answer(raw, kind::PUBCOMP, self.id())?;
        } else {
            answer(raw, kind::PUBACK, self.id())?;
        }
        let mut said = self.said.lock().unwrap();
        if publish.retain {
            said.retained
                .insert(self.number % RETAINED_TOPICS, self.number);
        } else {
            said.acknowledged.push(self.number);
        }
        self.number += 1;
        (self.received, self.tried) = (false, false);
        Ok(())
    }

    /// Until `stop`, over as many connections as it takes.
    fn run(mut self, relay: std::net::SocketAddr, stop: &AtomicBool, steps: &AtomicU64) {
        let mut connect = Connect::new(Version::V4, &format!("publisher-{}", self.qos));
        connect.clean = false;
        while !stop.load(Ordering::Relaxed) || self.tried {
            let Ok((mut raw, _, _)) = Raw::connect(relay, &connect) else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            while !stop.load(Ordering::Relaxed) || self.tried {
                if self.step(&mut raw).is_err() {
                    break;
                }
                steps.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn answer(raw: &mut Raw, kind: u8, id: u16) -> io::Result<Packet> {
    let packet = raw.receive_within(Duration::from_secs(20))?;
    let right = packet.kind() == kind && packet.packet_id() == id;
    right
        .then_some(packet)
        .ok_or_else(|| io::Error::other("another answer"))
}

/// Connects as the persistent subscriber; subscribes the first time.
fn subscriber(relay: &Relay, present: bool) -> Raw {
    let mut connect = Connect::new(Version::V4, "subscriber");
    connect.clean = false;
    let (mut raw, found, code) = Raw::connect(relay.mqtt, &connect).unwrap();
    assert_eq!((found, code), (present, 0), "session present");
    if !present {
        raw.send(&packet::subscribe(Version::V4, 1, "queued/#", 1))
            .unwrap();
        raw.receive_kind(kind::SUBACK).unwrap();
    }
    raw
}

/// All that comes until nothing does; acknowledged.
fn read_all(raw: &mut Raw) -> Vec<Publish> {
    let mut all = Vec::new();
    while let Ok(packet) = raw.receive_within(Duration::from_secs(2)) {
        if packet.kind() == kind::PUBLISH {
            let publish = Publish::decode(&packet, Version::V4).unwrap();
            if publish.qos > 0 {
                let ack = packet::ack(kind::PUBACK, Version::V4, publish.packet_id, 0);
                raw.send(&ack).unwrap();
            }
            all.push(publish);
        }
    }
    all
}

fn numbers(all: &[Publish], topic: &str) -> Vec<u64> {
    let of_topic = all.iter().filter(|publish| publish.topic == topic);
    let number = |publish: &Publish| String::from_utf8_lossy(&publish.payload).parse().unwrap();
    of_topic.map(number).collect()
}

#[test]
fn what_is_acknowledged_for_local_subscribers_survives_kill_9() {
    let test = "what_is_acknowledged_for_local_subscribers_survives_kill_9";
    let mut random = StdRng::seed_from_u64(seed(test));
    let mut relay = Relay::new(port::free());
    relay.set("mqtt.session_queue_messages_max", 1_000_000);
    relay.set("mqtt.session_queue_bytes_max", "64 MiB");
    relay.set("mqtt.queues_bytes_max", "128 MiB");
    relay.start();
    drop(subscriber(&relay, false));
    let (stop, steps) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut saids = Vec::new();
    let mut threads = Vec::new();
    for qos in [1, 2] {
        let said = Arc::new(Mutex::new(Said::default()));
        let publisher = Publisher {
            qos,
            number: 1,
            received: false,
            tried: false,
            said: said.clone(),
        };
        saids.push(said);
        let (mqtt, stop, steps) = (relay.mqtt, stop.clone(), steps.clone());
        threads.push(std::thread::spawn(move || {
            publisher.run(mqtt, &stop, &steps);
        }));
    }
    for _ in 0..setting("RELAY_TEST_KILLS", 20) {
        let aim = steps.load(Ordering::Relaxed) + random.random_range(1..150);
        wait_for("more acknowledgements", within(30), || {
            (steps.load(Ordering::Relaxed) >= aim).then_some(())
        });
        std::thread::sleep(Duration::from_micros(random.random_range(0..20_000)));
        relay.kill();
        relay.start();
    }
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
    relay.kill();
    relay.start();
    check(&relay, &saids[0].lock().unwrap(), &saids[1].lock().unwrap());
}

fn check(relay: &Relay, qos_1: &Said, qos_2: &Said) {
    let queued = read_all(&mut subscriber(relay, true));
    let mut once_or_more = numbers(&queued, "queued/once-or-more");
    once_or_more.dedup();
    assert_eq!(once_or_more, qos_1.acknowledged, "QoS 1, in order");
    assert_eq!(
        numbers(&queued, "queued/once"),
        qos_2.acknowledged,
        "QoS 2, once and in order"
    );
    assert_eq!(qos_2.acknowledged.last(), Some(&qos_2.last));
    let (mut reader, _, _) = Raw::connect(relay.mqtt, &Connect::new(Version::V4, "r")).unwrap();
    let all_kept = packet::subscribe(Version::V4, 1, "kept/#", 1);
    reader.send(&all_kept).unwrap();
    let kept = read_all(&mut reader);
    assert_eq!(kept.len(), qos_1.retained.len());
    for (topic, number) in &qos_1.retained {
        let topic = format!("kept/{topic}");
        assert_eq!(numbers(&kept, &topic), [*number], "retained on {topic}");
    }
    println!(
        "QoS 1 {}, QoS 2 {}, retained topics {}",
        qos_1.acknowledged.len(),
        qos_2.acknowledged.len(),
        kept.len()
    );
}
