//! What a thin, long or flapping link carries. The figures are printed by the ignored tests:
//! `cargo test --release -p hub-bridge --test thin_links -- --ignored --nocapture --test-threads 1`.

mod support;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use support::backlog::MemoryBacklog;
use support::mosquitto::{Mosquitto, Subscriber};
use support::thin_link::ThinLink;
use support::village::{Village, settings};
use support::within;

/// Carries `count` readings of 200 bytes from `clients` meters over 256 kbit/s and 600 ms, into a hub with
/// mosquitto's default receive maximum of 20. Gives the seconds and the bytes that went up.
async fn over_the_village_link(clients: u64, count: u64) -> Option<(f64, u64)> {
    let hub = Mosquitto::start("max_queued_messages 0")?;
    let link = ThinLink::start(hub.port, 256_000.0, Duration::from_millis(600)).await;
    let backlog = MemoryBacklog::new("bamenda-01");
    backlog.fill(clients, count, 200);
    let began = Instant::now();
    let village = Village::start(settings(link.port), backlog);
    let seen = async {
        for second in 0.. {
            let status = village.handle.status();
            eprintln!(
                "{second:3} s: {} forwarded, {} in flight on {} connections, limited by {}",
                status.counters.forwarded_readings,
                status.in_flight,
                status.connections,
                status.limited_by.as_str()
            );
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        () = seen => {}
        () = village.drained(Duration::from_secs(600)) => {}
    }
    let seconds = began.elapsed().as_secs_f64();
    eprintln!("{:#?}", village.handle.status());
    village.stop().await;
    Some((seconds, link.up_bytes.load(Ordering::Relaxed)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receive_maximum_of_20_does_not_starve_a_long_link() {
    // One connection would carry 20 readings a round trip: 500 of them in 15 s.
    let Some((seconds, _)) = over_the_village_link(10, 500).await else {
        return;
    };
    assert!(seconds < 11.0, "{seconds}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a figure: takes a minute"]
async fn figure_thin_and_long() {
    let Some((seconds, bytes)) = over_the_village_link(10, 20_000).await else {
        return;
    };
    #[allow(clippy::cast_precision_loss)]
    let (could, each) = (bytes as f64 / 32_000.0, bytes as f64 / 20_000.0);
    println!(
        "256 kbit/s, 600 ms, receive maximum 20: {:.1} % of the link, {each:.1} bytes a reading",
        could / seconds * 100.0
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a figure: takes a minute"]
async fn figure_flapping() {
    let Some(hub) = Mosquitto::start("max_queued_messages 0\nmax_inflight_messages 0") else {
        return;
    };
    let at_hub = Subscriber::connect(hub.port).await;
    let link = ThinLink::start(hub.port, 2_000_000.0, Duration::from_millis(200)).await;
    let backlog = MemoryBacklog::new("bamenda-01");
    backlog.fill(10, 20_000, 200);
    let began = Instant::now();
    let village = Village::start(settings(link.port), backlog.clone());
    let flapping = async {
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            link.set_up(false);
            tokio::time::sleep(Duration::from_secs(1)).await;
            link.set_up(true);
        }
    };
    tokio::select! {
        () = flapping => {}
        () = village.drained(Duration::from_secs(300)) => {}
    }
    let seconds = began.elapsed().as_secs_f64();
    within(Duration::from_secs(10), "all at the hub", || async {
        (at_hub.counts().len() == 20_000).then_some(())
    })
    .await;
    #[allow(clippy::cast_precision_loss)]
    let repeated = (at_hub.len() - 20_000) as f64 / 200.0;
    println!(
        "up 2 s, down 1 s, 2 Mbit/s, 200 ms: {seconds:.1} s, {repeated:.1} % twice at the hub"
    );
    println!("{:#?}", village.handle.status().counters);
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a figure"]
async fn figure_loopback() {
    let extra = "max_inflight_messages 0\nmax_queued_messages 0";
    let Some(hub) = Mosquitto::start(extra) else {
        return;
    };
    let backlog = MemoryBacklog::new("bamenda-01");
    backlog.fill(10, 200_000, 200);
    let began = Instant::now();
    let village = Village::start(settings(hub.port), backlog);
    village.drained(Duration::from_secs(100)).await;
    let seconds = began.elapsed().as_secs_f64();
    println!("loopback: {:.0} readings/s", 200_000.0 / seconds);
    println!("{:#?}", village.handle.status());
    village.stop().await;
}
