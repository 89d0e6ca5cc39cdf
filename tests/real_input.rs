//! Real readings: two days of a household, sent by a real client, with the uplink down for half of them.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness::{Hub, Proxy, Relay, Subscriber, VILLAGE};
use harness::{skip, wait_for, within};
use rumqttc::{Client, Event, MqttOptions, Outgoing, Packet, QoS};

fn data_file() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let places = [
        workspace.join("../shared/data"),
        workspace.join("../../shared/data"),
    ];
    let file = |place: &PathBuf| place.join("household-2007-02.csv");
    places
        .iter()
        .map(file)
        .find(|file| file.exists())
        .unwrap_or_else(|| file(&places[0]))
}

/// The readings of the four meters, in order: the main one has all electrical figures, each sub-meter its
/// energy.
fn readings(csv: &str) -> Vec<(&'static str, String)> {
    let mut readings = Vec::new();
    for line in csv.lines().skip(1) {
        let f: Vec<&str> = line.split(',').collect();
        let [ts, active, reactive, voltage, current, subs @ ..] = &f[..] else {
            panic!("not a reading: {line}");
        };
        let main = format!(
            "{{\"ts\":\"{ts}\",\"active_power_kw\":{active},\"reactive_power_kvar\":{reactive},\
             \"voltage_v\":{voltage},\"current_a\":{current}}}"
        );
        readings.push(("household/main", main));
        for (topic, wh) in ["household/sub-1", "household/sub-2", "household/sub-3"]
            .iter()
            .zip(subs)
        {
            readings.push((topic, format!("{{\"ts\":\"{ts}\",\"energy_wh\":{wh}}}")));
        }
    }
    readings
}

/// One real client a topic; returns when each publish is acknowledged.
fn publish(broker: std::net::SocketAddr, readings: &[(&'static str, String)]) {
    std::thread::scope(|scope| {
        for topic in [
            "household/main",
            "household/sub-1",
            "household/sub-2",
            "household/sub-3",
        ] {
            let own: Vec<&String> = readings
                .iter()
                .filter(|(t, _)| *t == topic)
                .map(|(_, payload)| payload)
                .collect();
            scope.spawn(move || publish_topic(broker, topic, &own));
        }
    });
}

fn publish_topic(broker: std::net::SocketAddr, topic: &str, payloads: &[&String]) {
    let name = topic.replace('/', "-");
    let mut options = MqttOptions::new(name, broker.ip().to_string(), broker.port());
    options
        .set_inflight(50)
        .set_keep_alive(Duration::from_secs(30));
    let (client, mut connection) = Client::new(options, payloads.len() + 1);
    for payload in payloads {
        client
            .publish(topic, QoS::AtLeastOnce, false, payload.as_bytes())
            .unwrap();
    }
    let mut acknowledged = 0;
    for event in connection.iter() {
        match event.expect("the relay stays") {
            Event::Incoming(Packet::PubAck(_)) => acknowledged += 1,
            Event::Outgoing(Outgoing::Disconnect) => return,
            _ => {}
        }
        if acknowledged == payloads.len() {
            client.disconnect().unwrap();
            acknowledged += 1;
        }
    }
}

type Arrivals = Arc<Mutex<Vec<(String, Vec<u8>, String)>>>;

#[test]
fn two_days_of_a_household_arrive_exactly_as_sent() {
    let file = data_file();
    let Ok(csv) = fs::read_to_string(&file) else {
        let reason = format!("{} is not there", file.display());
        return skip("two_days_of_a_household_arrive_exactly_as_sent", &reason);
    };
    let readings = readings(&csv);
    assert_eq!(readings.len(), 4 * 2880);
    let hub = Hub::start();
    let arrivals: Arrivals = Arc::default();
    let sink = Arc::clone(&arrivals);
    let _subscriber = Subscriber::start_with(hub.address, "villages/#", move |publish| {
        let id = publish.user_property("id").unwrap_or_default().to_owned();
        sink.lock()
            .unwrap()
            .push((publish.topic, publish.payload, id));
    });
    let uplink = Proxy::start(hub.address);
    let mut relay = Relay::new(uplink.address);
    relay.set("hub.retry_max", "1s").start();

    let (first, second) = readings.split_at(readings.len() / 2);
    publish(relay.mqtt, first);
    uplink.cut();
    publish(relay.mqtt, second);
    assert!(relay.backlog() >= Some(second.len() as u64));
    relay.kill();
    relay.start();
    uplink.restore();
    relay.wait_drained(within(60));
    wait_for("all readings", within(30), || {
        (arrivals.lock().unwrap().len() >= readings.len()).then_some(())
    });
    compare(&readings, &arrivals.lock().unwrap());
}

/// Each identity once, and by topic the same payloads in the same order.
fn compare(sent: &[(&'static str, String)], arrived: &[(String, Vec<u8>, String)]) {
    let mut seen = HashMap::new();
    let mut by_topic: HashMap<&str, Vec<(u64, &[u8])>> = HashMap::new();
    for (topic, payload, id) in arrived {
        let before = seen.insert(id, (topic, payload));
        assert!(
            before.is_none_or(|before| before == (topic, payload)),
            "{id} is two readings"
        );
        let sequence = id.split_once('/').unwrap().1.parse().unwrap();
        by_topic.entry(topic).or_default().push((sequence, payload));
    }
    assert_eq!(seen.len(), sent.len(), "as many readings as were sent");
    for topic in [
        "household/main",
        "household/sub-1",
        "household/sub-2",
        "household/sub-3",
    ] {
        let at_hub = by_topic
            .get_mut(format!("villages/{VILLAGE}/{topic}").as_str())
            .unwrap();
        at_hub.sort_unstable();
        at_hub.dedup();
        let at_hub: Vec<&[u8]> = at_hub.iter().map(|(_, payload)| *payload).collect();
        let own = sent.iter().filter(|(t, _)| *t == topic);
        let own: Vec<&[u8]> = own.map(|(_, payload)| payload.as_bytes()).collect();
        assert!(
            at_hub == own,
            "{topic}: {} at the hub, {} sent",
            at_hub.len(),
            own.len()
        );
    }
    println!(
        "real input: {} readings, {} arrivals",
        sent.len(),
        arrived.len()
    );
}
