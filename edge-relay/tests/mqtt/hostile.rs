//! Bytes that break the standard cost their sender its connection, and nobody else anything.

use std::net::SocketAddr;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::client::{Client, connect, packet, text};
use crate::relay::Relay;

async fn first_bytes(addr: SocketAddr, bytes: &[u8]) -> Option<(u8, Vec<u8>)> {
    let mut client = Client::open(addr).await;
    client.send(bytes).await;
    client.try_packet().await
}

#[tokio::test]
async fn a_wrong_connect_is_refused_as_the_standard_says() {
    let relay = Relay::start().await;
    let addr = relay.addr;
    assert_eq!(
        first_bytes(addr, &[0x30, 3, 0, 1, b't']).await,
        None,
        "not CONNECT first"
    );
    assert_eq!(first_bytes(addr, b"GET / HTTP/1.1\r\n\r\n").await, None);
    let level_3 = connect(3, 2, 0, &[], "a", &[]);
    assert_eq!(first_bytes(addr, &level_3).await, Some((0x20, vec![0, 1])));
    let level_6 = connect(6, 2, 0, &[], "a", &[]);
    assert_eq!(
        first_bytes(addr, &level_6).await,
        Some((0x20, vec![0, 0x84, 0]))
    );
    let mut wrong_name = connect(4, 2, 0, &[], "a", &[]);
    wrong_name[5] = b'X';
    assert_eq!(first_bytes(addr, &wrong_name).await, None);
    let reserved = connect(4, 3, 0, &[], "a", &[]);
    assert_eq!(first_bytes(addr, &reserved).await, None);
    let reserved = connect(5, 3, 0, &[], "a", &[]);
    assert_eq!(
        first_bytes(addr, &reserved).await,
        Some((0x20, vec![0, 0x81, 0]))
    );
    let nul = connect(4, 2, 0, &[], "a\0b", &[]);
    assert_eq!(first_bytes(addr, &nul).await, None);
    let method = connect(5, 2, 0, &[21, 0, 1, b'x'], "a", &[]);
    assert_eq!(
        first_bytes(addr, &method).await,
        Some((0x20, vec![0, 0x8C, 0]))
    );
}

#[tokio::test]
async fn packets_that_break_the_rules_close_the_connection_with_their_reason() {
    let relay = Relay::start().await;
    let mut not_utf8 = packet(0x30, &[0, 2, 0xC3, 0x28, 0]);
    not_utf8.push(0);
    let cases: Vec<(Vec<u8>, u8)> = vec![
        (connect(5, 2, 0, &[], "x", &[]), 0x82),
        (vec![0x20, 2, 0, 0], 0x82),
        (vec![0xD0, 0], 0x82),
        (vec![0xF0, 0], 0x82),
        (vec![0xC1, 0], 0x81),
        (vec![0x36, 6, 0, 1, b't', 0, 1, 0], 0x81),
        (vec![0x32, 6, 0, 1, b't', 0, 0, 0], 0x81),
        (vec![0x30, 4, 0, 1, b'#', 0], 0x90),
        (vec![0x30, 3, 0, 0, 0], 0x82),
        (vec![0x30, 5, 0, 2, b't', 0, 0], 0x90),
        (not_utf8, 0x81),
        (vec![0x82, 3, 0, 1, 0], 0x82),
        (vec![0x80, 6, 0, 1, 0, 0, 1, b't'], 0x81),
        (vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF], 0x81),
        (vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F], 0x95),
    ];
    for (bytes, reason) in cases {
        let mut client = relay.v5("hostile").await;
        client.send(&bytes).await;
        client.closed(reason).await;
    }
    let mut old = relay.v4("hostile").await;
    old.send(&[0x82, 5, 0, 1, 0, 1, b't']).await;
    old.closed(0).await;
    relay
        .v4("still")
        .await
        .publish_acked(0, "meters/1", 1, b"fine")
        .await;
}

#[tokio::test]
async fn a_subscription_to_something_shared_must_not_be_no_local() {
    let relay = Relay::start().await;
    let mut client = relay.v5("x").await;
    let bytes = client.subscribe_bytes(1, &[("$share/g/a", 4)], &[]);
    client.send(&bytes).await;
    client.closed(0x82).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_bytes_stop_the_relay() {
    let relay = Relay::start().await;
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..300 {
        let version = if round % 2 == 0 { 4 } else { 5 };
        let mut stream = TcpStream::connect(relay.addr).await.unwrap();
        let mut bytes = connect(version, 2, 0, &[], &format!("r{}", round % 7), &[]);
        for _ in 0..random.random_range(1..20) {
            bytes.extend(random_packet(&mut random));
        }
        let _ = stream.write_all(&bytes).await;
        if random.random() {
            stream.set_zero_linger().unwrap();
        }
    }
    relay
        .until("all are gone", |s| s.connections.get() == 0)
        .await;
    relay
        .v4("still")
        .await
        .publish_acked(0, "meters/1", 1, b"fine")
        .await;
}

/// Mostly right, here and there wrong.
fn random_packet(random: &mut StdRng) -> Vec<u8> {
    let mut body = match random.random_range(0..4) {
        0 => text("meters/1"),
        1 => vec![0, random.random()],
        _ => (0..random.random_range(0..30))
            .map(|_| random.random())
            .collect(),
    };
    body.extend((0..random.random_range(0..6)).map(|_| random.random_range(0..4u8)));
    let first = random.random_range(0..=15u8) << 4
        | [0, 2, random.random_range(0..16)][random.random_range(0..3)];
    packet(first, &body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connect_and_reset_with_one_id_does_not_hurt() {
    let relay = Relay::start().await;
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let addr = relay.addr;
        tasks.push(tokio::spawn(async move {
            for _ in 0..50 {
                let mut stream = TcpStream::connect(addr).await.unwrap();
                let _ = stream.write_all(&connect(4, 0, 0, &[], "same", &[])).await;
                stream.set_zero_linger().unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    relay
        .until("all are gone", |s| s.connections.get() == 0)
        .await;
    // One of those may still be on its way, and takes the session once more.
    for _ in 0..20 {
        let mut client = Client::open(relay.addr).await;
        client.send(&connect(4, 0, 0, &[], "same", &[])).await;
        let publish = client.publish_bytes(2, "meters/1", 1, b"fine");
        client.send(&publish).await;
        let answers = (client.try_packet().await, client.try_packet().await);
        if let (Some((0x20, _)), Some((0x40, _))) = answers {
            return;
        }
    }
    panic!("the id is of no use any more");
}

#[tokio::test]
async fn what_breaks_the_rules_of_3_1_1_closes_the_connection() {
    let relay = Relay::start().await;
    let filter = |first: u8, id: u8, filter: &[u8], rest: &[u8]| {
        let length = [0, filter.len() as u8];
        packet(first, &[&[0, id], &length[..], filter, rest].concat())
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (connect(4, 2, 0, &[], "x", &[]), "a second CONNECT"),
        (vec![0x20, 2, 0, 0], "CONNACK"),
        (vec![0x90, 3, 0, 1, 0], "SUBACK"),
        (vec![0xB0, 2, 0, 1], "UNSUBACK"),
        (vec![0xD0, 0], "PINGRESP"),
        (vec![0x00, 0], "type 0"),
        (vec![0xF0, 0], "type 15"),
        (vec![0x36, 5, 0, 1, b't', 0, 1], "QoS 3"),
        (vec![0x38, 3, 0, 1, b't'], "DUP with QoS 0"),
        (vec![0x32, 5, 0, 1, b't', 0, 0], "packet id 0"),
        (vec![0x30, 3, 0, 1, b'+'], "a wildcard in a topic"),
        (vec![0x30, 2, 0, 0], "an empty topic"),
        (vec![0x30, 4, 0, 2, b't', 0], "NUL in a topic"),
        (vec![0x30, 4, 0, 2, 0xC3, 0x28], "a topic that is not UTF-8"),
        (
            vec![0x30, 5, 0, 3, 0xED, 0xA0, 0x80],
            "a surrogate in a topic",
        ),
        (vec![0x30, 1, 0], "no topic"),
        (vec![0x60, 2, 0, 1], "PUBREL without its flag"),
        (vec![0x42, 2, 0, 1], "PUBACK with flags"),
        (filter(0x80, 1, b"t", &[0]), "SUBSCRIBE without its flag"),
        (filter(0x82, 0, b"t", &[0]), "SUBSCRIBE with packet id 0"),
        (filter(0x82, 1, b"t", &[3]), "SUBSCRIBE with QoS 3"),
        (filter(0x82, 1, b"t", &[4]), "SUBSCRIBE with a reserved bit"),
        (
            filter(0x82, 1, b"\xC3\x28", &[0]),
            "a filter that is not UTF-8",
        ),
        (vec![0x82, 2, 0, 1], "SUBSCRIBE without a filter"),
        (filter(0xA0, 1, b"t", &[]), "UNSUBSCRIBE without its flag"),
        (
            filter(0xA2, 1, b"\xFF", &[]),
            "UNSUBSCRIBE of what is not UTF-8",
        ),
        (vec![0xA2, 2, 0, 1], "UNSUBSCRIBE without a filter"),
        (vec![0xC1, 0], "PINGREQ with flags"),
        (vec![0xE1, 0], "DISCONNECT with flags"),
    ];
    for (bytes, what) in cases {
        let before = relay.stats.protocol_errors_total.get();
        let mut old = relay.v4("hostile").await;
        old.send(&bytes).await;
        old.closed(0).await;
        let errors = relay.stats.protocol_errors_total.get();
        assert_eq!(errors, before + 1, "{what}");
    }
}

#[tokio::test]
async fn what_breaks_the_rules_of_subscribe_and_disconnect_in_5_closes_the_connection() {
    let relay = Relay::start().await;
    for (bytes, reason) in [
        (packet(0x82, &[0, 1, 0, 0, 1, b't', 0x40]), 0x81),
        (packet(0x82, &[0, 1, 0, 0, 1, b't', 0x30]), 0x82),
        (packet(0x82, &[0, 1, 0, 0, 1, b't', 0x03]), 0x81),
        (packet(0x82, &[0, 1, 2, 11, 0, 0, 1, b't', 0]), 0x82),
        (packet(0x82, &[0, 1, 0, 0, 1, 0xFF, 0]), 0x81),
        (packet(0xA0, &[0, 1, 0, 0, 1, b't']), 0x81),
        (packet(0xA2, &[0, 1, 0]), 0x82),
        (packet(0xA2, &[0, 1, 0, 0, 1, 0xFF]), 0x81),
        (packet(0x60, &[0, 1]), 0x81),
        (packet(0xE1, &[]), 0x81),
        (vec![0xC0, 0x80, 0x00], 0x81),
    ] {
        let mut client = relay.v5("hostile").await;
        client.send(&bytes).await;
        client.closed(reason).await;
    }
}
