//! What a client takes too much of is its own loss.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::client::{Client, connect, expiry};
use crate::relay::{Relay, settings};

#[tokio::test]
async fn one_connection_too_many_is_closed_and_a_place_that_is_free_is_given() {
    let relay = Relay::start_with(|s| s.connections_max = 2).await;
    let one = relay.v4("one").await;
    let mut two = relay.v4("two").await;
    let mut three = Client::open(relay.addr).await;
    assert_eq!(three.try_packet().await, None);
    two.quiet().await;
    one.disconnect().await;
    relay
        .until("a place is free", |s| s.connections.get() == 1)
        .await;
    relay.v4("three").await.quiet().await;
    assert_eq!(relay.stats.connections_refused_total.get(), 1);
}

#[tokio::test]
async fn the_most_connections_change_while_it_runs() {
    let relay = Relay::start_with(|s| s.connections_max = 2).await;
    let mut settings = settings(relay.dir.path());
    let mut one = relay.v4("one").await;
    let mut two = relay.v4("two").await;
    settings.connections_max = 3;
    settings.listen = relay.addr;
    let waiting = relay.handle.apply(settings.clone()).unwrap();
    assert!(!waiting.contains(&"connections_max"), "{waiting:?}");
    let three = relay.v4("three").await;
    settings.connections_max = 1;
    relay.handle.apply(settings).unwrap();
    three.disconnect().await;
    relay
        .until("three is gone", |s| s.connections.get() == 2)
        .await;
    let mut four = Client::open(relay.addr).await;
    assert_eq!(four.try_packet().await, None);
    one.quiet().await;
    two.quiet().await;
}

/// The kernel's timer of a connection: 2 is that of the keep alive (proc(5), `/proc/net/tcp`).
#[tokio::test]
async fn the_kernel_asks_whether_a_silent_client_is_still_there() {
    let relay = Relay::start().await;
    let _client = relay.v4("silent").await;
    let local = format!("0100007F:{:04X}", relay.addr.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let timer_of = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let at_relay = fields.next()? == local;
        let connected = fields.nth(1)? == "01";
        (at_relay && connected).then(|| fields.nth(1).unwrap_or_default().to_owned())
    };
    let timers: Vec<String> = table.lines().filter_map(timer_of).collect();
    assert_eq!(timers.len(), 1, "{table}");
    assert!(timers[0].starts_with("02:"), "{timers:?}");
}

#[tokio::test]
async fn who_sends_no_connect_is_closed() {
    let relay = Relay::start_with(|s| s.connect_timeout = Duration::from_millis(100)).await;
    let mut slow = Client::open(relay.addr).await;
    slow.send(&connect(4, 2, 0, &[], "slow", &[])[..5]).await;
    assert_eq!(slow.try_packet().await, None);
    assert_eq!(relay.stats.connect_timeouts_total.get(), 1);
}

#[tokio::test]
async fn more_in_flight_than_the_receive_maximum_is_an_error_in_v5_and_waits_in_v4() {
    let relay = Relay::start_with(|s| s.in_flight_max = 4).await;
    let mut old = relay.v4("old").await;
    let mut bytes = Vec::new();
    for id in 1..=100 {
        bytes.extend(old.publish_bytes(2, "meters/1", id, b"x"));
    }
    old.send(&bytes).await;
    for id in 1..=100 {
        old.expect_ack(0x40, id).await;
    }
    let mut new = relay.v5("new").await;
    let mut bytes = Vec::new();
    for id in 1..=5 {
        bytes.extend(new.publish_bytes(2, "meters/1", id, b"x"));
    }
    new.send(&bytes).await;
    let mut last = new.packet().await;
    while last.0 == 0x40 {
        last = new.packet().await;
    }
    assert_eq!((last.0, last.1[0]), (0xE0, 0x93));
}

#[tokio::test]
async fn a_full_queue_is_counted_and_keeps_the_oldest() {
    let relay = Relay::start_with(|s| s.session_queue_messages_max = 3).await;
    let (mut reader, _) = Client::v5(relay.addr, "reader", true, &expiry(100)).await;
    reader.subscribe(&[("a", 1)]).await;
    reader.disconnect().await;
    let mut meter = relay.v4("meter").await;
    for id in 1..=5 {
        meter.publish_acked(0, "a", id, &[id as u8]).await;
    }
    assert_eq!(relay.stats.queue_overflows_total.get(), 2);
    let (mut reader, _) = Client::v5(relay.addr, "reader", false, &expiry(100)).await;
    for expected in 1..=3 {
        assert_eq!(reader.published().await.payload, [expected]);
    }
    reader.quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_reads_nothing_loses_its_connection_and_holds_nobody_up() {
    let relay = Relay::start_with(|s| s.write_timeout = Duration::from_millis(400)).await;
    let mut stuck = relay.v4("stuck").await;
    stuck.subscribe(&[("a", 0)]).await;
    let mut meter = relay.v4("meter").await;
    let payload = vec![0; 100_000];
    for id in 1..=200 {
        meter.publish_acked(0, "a", id, &payload).await;
    }
    relay
        .until("it is closed", |s| s.write_timeouts_total.get() == 1)
        .await;
    meter.publish_acked(0, "a", 9, b"x").await;
    assert!(relay.stats.queue_overflows_total.get() > 0, "bounded");
    relay
        .until("its queue is gone", |s| s.queued_bytes.get() == 0)
        .await;
}

#[tokio::test]
async fn sessions_that_are_kept_are_bounded() {
    let relay = Relay::start_with(|s| s.sessions_max = 2).await;
    for id in ["a", "b"] {
        Client::v4(relay.addr, id, false).await.0.disconnect().await;
    }
    let mut client = Client::open(relay.addr).await;
    client.send(&connect(4, 0, 0, &[], "c", &[])).await;
    assert_eq!(client.packet().await, (0x20, vec![0, 3]));
    relay.v4("clean").await.quiet().await;
    assert!(
        Client::v4(relay.addr, "a", false).await.1,
        "one that exists comes back"
    );
}

#[tokio::test]
async fn a_large_packet_is_refused_by_its_header() {
    let relay = Relay::start_with(|s| s.packet_bytes_max = 1000).await;
    let mut meter = relay.v5("meter").await;
    let fits = meter.publish_bytes(2, "meters/1", 1, &[0; 980]);
    meter.send(&fits).await;
    meter.expect_ack(0x40, 1).await;
    let mut stream = TcpStream::connect(relay.addr).await.unwrap();
    stream.write_all(&[0x10, 0xFF, 0xFF, 0x7F]).await.unwrap();
    let large = meter.publish_bytes(2, "meters/1", 2, &[0; 1000]);
    meter.send(&large[..10]).await;
    meter.closed(0x95).await;
}
