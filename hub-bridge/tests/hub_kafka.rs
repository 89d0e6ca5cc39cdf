//! The second sink: what is a row is in Kafka too, under its identity.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what cannot go on fails the test"
)]

mod support;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message as _};
use rdkafka::mocking::MockCluster;
use support::hub::frame;
use support::mosquitto::Mosquitto;
use support::postgres::Postgres;
use support::receiver::{KEEPING, Message, Receiver, counts, eventually, publish};

const ROWS: &str = "SELECT count(*) FROM readings";

/// Everything in the topic, by key.
fn consume(brokers: &str, keys: usize) -> BTreeMap<String, (Vec<u8>, HashSet<String>, usize)> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", format!("test-{:x}", rand::random::<u64>()))
        .set("auto.offset.reset", "earliest")
        .create()
        .unwrap();
    consumer.subscribe(&["readings"]).unwrap();
    let mut got = BTreeMap::new();
    eventually("all readings in Kafka", || {
        while let Some(Ok(message)) = consumer.poll(Duration::from_millis(500)) {
            let key = String::from_utf8(message.key().unwrap().to_vec()).unwrap();
            let headers = message.headers().unwrap().iter();
            let headers =
                headers.map(|h| format!("{}={}", h.key, String::from_utf8_lossy(h.value.unwrap())));
            let entry = (message.payload().unwrap().to_vec(), headers.collect(), 0);
            got.entry(key).or_insert(entry).2 += 1;
        }
        (got.len() >= keys).then_some(()).ok_or(got.len())
    });
    got
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_is_in_kafka_under_its_identity_also_after_a_kill() {
    let Some((postgres, mosquitto)) = Postgres::start().zip(Mosquitto::start(KEEPING)) else {
        return;
    };
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("readings", 4, 1).unwrap();
    let brokers = cluster.bootstrap_servers();
    let kafka = format!("[kafka]\nbrokers = \"{brokers}\"\ntopic = \"readings\"\n");
    let mut receiver = Receiver::start(&postgres, mosquitto.port, &kafka);
    receiver.ready_with(4);
    let frames = |from: u64| {
        (0..20).map(move |n| Message::frame(&frame("v", 1, from + n * 10..from + n * 10 + 10)))
    };
    publish(&mosquitto, frames(1).collect()).await;
    counts(&postgres, ROWS, 200);

    // While Kafka is away nothing is committed, and nothing acknowledged.
    cluster.broker_down(1).unwrap();
    publish(&mosquitto, frames(201).collect()).await;
    eventually("the batch is held back", || {
        let held = receiver.metric("hub_bridge_database_errors_total") > 0.5;
        held.then_some(()).ok_or("not yet")
    });
    assert_eq!(postgres.count(ROWS), 200);
    receiver.kill();
    cluster.broker_up(1).unwrap();
    receiver.start_again();
    counts(&postgres, ROWS, 400);

    let got = consume(&brokers, 400);
    assert_eq!(got.len(), 400);
    let (payload, headers, _) = &got["v/00000001/7"];
    assert_eq!(payload, br#"{"meter":"m-0","energy_kwh":7}"#);
    for header in [
        "topic=m/0/energy",
        "client_id=meter-01",
        "at=1780000000007",
        "clock=synchronised",
    ] {
        assert!(headers.contains(header), "{header} is not in {headers:?}");
    }
    // What the database knew already was not produced again.
    publish(&mosquitto, frames(1).collect()).await;
    eventually("known", || {
        let known = receiver.metric("hub_bridge_readings_known_total");
        (known >= 200.0).then_some(()).ok_or(known)
    });
    let again = consume(&brokers, 400);
    assert_eq!(again["v/00000001/1"].2, 1);
}
