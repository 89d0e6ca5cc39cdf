//! Frames over real brokers and bad links, and readings that go when the hub's database has them.
//!
//! The figure is printed by the ignored test:
//! `cargo test --release -p hub-bridge --test frames -- --ignored --nocapture`.

mod support;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hub_bridge::backlog::Mark;
use hub_bridge::settings::{BridgeSettings, Confirm, Format, ProtocolChoice};
use support::backlog::MemoryBacklog;
use support::fake_hub::{Answer, FakeHub, accept};
use support::frame_taker::Receiver;
use support::mosquitto::Mosquitto;
use support::thin_link::ThinLink;
use support::village::{Village, settings};
use support::within;

const SOON: Duration = Duration::from_secs(30);

fn frames(port: u16) -> BridgeSettings {
    let mut settings = settings(port);
    settings.hub.format = Format::Batch;
    settings.batch.linger = Duration::from_millis(200);
    settings
}

fn receipts(port: u16) -> BridgeSettings {
    let mut settings = frames(port);
    settings.hub.confirm = Confirm::Receipt;
    settings.hub.receipt_timeout = Duration::from_secs(5);
    settings
}

/// Readings as a meter sends them: counters and noise.
fn fill(backlog: &MemoryBacklog, meters: u64, count: u64) {
    for n in 0..count {
        let meter = n % meters;
        let (step, noise) = (n / meters, n.wrapping_mul(2_654_435_761) % 97);
        let payload = format!(
            "{{\"meter\":\"m-{meter:03}\",\"step\":{step},\"power_kw\":0.{noise:03},\"energy_kwh\":{}.{:03}}}",
            100 + step / 1000,
            step % 1000
        );
        backlog.append(
            &format!("m-{meter:03}"),
            &format!("meters/m-{meter:03}"),
            payload,
        );
    }
}

fn holds_all(receiver: &Receiver, count: u64) -> bool {
    let stored = receiver.stored.lock();
    stored.is_ok_and(|stored| stored.readings.len() as u64 == count)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_arrives_in_frames_byte_for_byte() {
    for protocol in [ProtocolChoice::V5, ProtocolChoice::V311] {
        let Some(hub) = Mosquitto::start("") else {
            return;
        };
        let receiver = Receiver::connect(hub.port, false, |_, _| true).await;
        let backlog = MemoryBacklog::new("bamenda-01");
        fill(&backlog, 20, 20_000);
        let expected: Vec<_> = (1..=20_000).filter_map(|n| backlog.get(n)).collect();
        let mut settings = frames(hub.port);
        settings.hub.protocol = protocol;
        let village = Village::start(settings, backlog);
        village.drained(SOON).await;
        within(SOON, "all at the hub", || async {
            holds_all(&receiver, 20_000).then_some(())
        })
        .await;
        let stored = receiver.stored.lock().unwrap();
        for reading in expected {
            let got = &stored.readings[&reading.sequence.0];
            assert_eq!(got.payload, reading.payload);
            assert_eq!(
                (&got.topic, &got.client_id),
                (&reading.topic, &reading.client_id)
            );
            assert_eq!(got.at, reading.received.wall);
        }
        assert_eq!(stored.repeated, 0);
        let frames = stored.frames.len();
        assert!(frames < 200, "{frames} frames");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn live_readings_share_a_frame_after_lingering() {
    let Some(hub) = Mosquitto::start("") else {
        return;
    };
    let receiver = Receiver::connect(hub.port, false, |_, _| true).await;
    let backlog = MemoryBacklog::new("bamenda-01");
    let mut settings = frames(hub.port);
    settings.batch.linger = Duration::from_secs(1);
    let village = Village::start(settings, backlog.clone());
    for _ in 0..10 {
        fill(&backlog, 1, 1);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    village.drained(SOON).await;
    let sizes = receiver.stored.lock().unwrap().frames.clone();
    // On a machine that is busy with other things the ten may take longer than the linger.
    assert!(sizes.len() <= 4, "{sizes:?}");
    // A drain waits for none.
    village
        .handle
        .apply({
            let mut settings = frames(hub.port);
            settings.batch.linger = Duration::from_secs(600);
            settings
        })
        .await
        .unwrap();
    fill(&backlog, 1, 5);
    let drained = village.handle.drain().await.unwrap();
    drop(drained);
    village.drained(SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_receipt_is_sent_again_and_what_has_one_is_not() {
    let Some(hub) = Mosquitto::start("") else {
        return;
    };
    // Every second frame is lost between broker and database, once.
    let receiver =
        Receiver::connect(hub.port, true, |number, _| number > 8 || number % 2 == 0).await;
    let backlog = MemoryBacklog::confirmed_by(Mark::Stored, "bamenda-01");
    fill(&backlog, 5, 20_000);
    let village = Village::start(receipts(hub.port), backlog.clone());
    village.drained(Duration::from_secs(60)).await;
    assert!(holds_all(&receiver, 20_000));
    let status = village.handle.status();
    assert!(status.counters.resent_readings > 0);
    let repeated = receiver.stored.lock().unwrap().repeated;
    assert_eq!(repeated, 0, "only what was lost goes again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pubacks_alone_confirms_nothing_where_receipts_count() {
    let Some(hub) = Mosquitto::start("") else {
        return;
    };
    let receiver = Receiver::connect(hub.port, false, |_, _| true).await;
    let backlog = MemoryBacklog::confirmed_by(Mark::Stored, "bamenda-01");
    fill(&backlog, 5, 1_000);
    let village = Village::start(receipts(hub.port), backlog.clone());
    within(SOON, "all at the hub", || async {
        holds_all(&receiver, 1_000).then_some(())
    })
    .await;
    assert_eq!(backlog.waiting(), 1_000);
    // A receipt for what was never appended is no receipt; one for what is there is.
    let name = "bamenda-01".parse().unwrap();
    receiver.lie(&name, backlog.epoch, 1, 5_000).await;
    receiver.lie(&name, backlog.epoch, 1, 600).await;
    within(SOON, "600 are confirmed", || async {
        (backlog.waiting() == 400).then_some(())
    })
    .await;
    village.stop().await;
    // The next start hears the retained receipt before it sends: nothing of it goes again.
    receiver.lie(&name, backlog.epoch, 1, 1_000).await;
    let before = receiver.stored.lock().unwrap().frames.len();
    let village = Village::start(receipts(hub.port), backlog.clone());
    village.drained(SOON).await;
    assert_eq!(receiver.stored.lock().unwrap().frames.len(), before);
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_readings_can_be_receipted_too() {
    let Some(hub) = Mosquitto::start("") else {
        return;
    };
    let receiver = Receiver::connect(hub.port, false, |_, _| true).await;
    let backlog = MemoryBacklog::confirmed_by(Mark::Stored, "bamenda-01");
    fill(&backlog, 5, 3_000);
    let mut settings = receipts(hub.port);
    settings.hub.format = Format::Plain;
    let village = Village::start(settings, backlog.clone());
    // No more leaves than a hub with defaults would queue for a receiver that is away.
    within(SOON, "the window is full", || async {
        (village.handle.status().limited_by.as_str() == "receipt").then_some(())
    })
    .await;
    assert_eq!(backlog.waiting(), 3_000);
    let forwarded = village.handle.status().counters.forwarded_readings;
    assert!(forwarded < 1_000, "{forwarded}");
    receiver
        .lie(&"bamenda-01".parse().unwrap(), backlog.epoch, 1, 3_000)
        .await;
    village.drained(SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_flaps_gets_frames_that_it_can_carry() {
    let Some(hub) = Mosquitto::start("") else {
        return;
    };
    let receiver = Receiver::connect(hub.port, true, |_, _| true).await;
    // 2 s up, 1 s down, of which three round trips go for connecting: 8 KB at best.
    let link = ThinLink::start(hub.port, 64_000.0, Duration::from_millis(200)).await;
    let backlog = MemoryBacklog::confirmed_by(Mark::Stored, "bamenda-01");
    fill(&backlog, 10, 20_000);
    let village = Village::start(receipts(link.port), backlog);
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
        () = village.drained(Duration::from_secs(90)) => {}
    }
    assert!(holds_all(&receiver, 20_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_the_hub_does_not_want_is_halved_until_one_reading_is_to_blame() {
    use hub_bridge::wire::frame;
    let guilty = 333;
    // Does not want what holds reading 333, for no reason given.
    let hub = FakeHub::start(
        |level, _| accept(level),
        move |publish| {
            let from = publish.rest.windows(4).position(|w| w == b"ERF\x01");
            let Some(from) = from else {
                return Answer::PubAck(publish.id, 0);
            };
            let frame = frame::decode(&publish.rest[from..]).unwrap();
            let bad = frame.readings.iter().any(|r| r.sequence.0 == guilty);
            Answer::PubAck(publish.id, if bad { 0x80 } else { 0 })
        },
    )
    .await;
    let backlog = MemoryBacklog::new("bamenda-01");
    fill(&backlog, 3, 1_000);
    let mut settings = frames(hub.port);
    settings.hub.protocol = ProtocolChoice::V5;
    settings.batch.linger = Duration::ZERO;
    settings.retry.max_rejected = Duration::from_secs(1);
    let village = Village::start(settings, backlog.clone());
    village.drained(Duration::from_secs(60)).await;
    let refused: Vec<u64> = backlog.refused().into_iter().map(|r| r.0).collect();
    assert_eq!(refused, [guilty]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_ends_each_connection_is_halved_until_one_reading_is_to_blame() {
    use hub_bridge::wire::frame;
    let guilty = 17;
    let hub = FakeHub::start(
        |level, _| accept(level),
        move |publish| {
            let from = publish.rest.windows(4).position(|w| w == b"ERF\x01");
            let Some(from) = from else {
                return Answer::PubAck(publish.id, 0);
            };
            let frame = frame::decode(&publish.rest[from..]).unwrap();
            if frame.readings.iter().any(|r| r.sequence.0 == guilty) {
                Answer::Close
            } else {
                Answer::PubAck(publish.id, 0)
            }
        },
    )
    .await;
    let backlog = MemoryBacklog::new("bamenda-01");
    fill(&backlog, 3, 500);
    let mut settings = frames(hub.port);
    settings.hub.protocol = ProtocolChoice::V5;
    settings.batch.linger = Duration::ZERO;
    settings.retry.first = Duration::from_millis(10);
    settings.retry.max = Duration::from_secs(1);
    let village = Village::start(settings, backlog.clone());
    village.drained(Duration::from_secs(60)).await;
    let refused: Vec<u64> = backlog.refused().into_iter().map(|r| r.0).collect();
    assert_eq!(refused, [guilty]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_is_sent_though_new_readings_never_cease() {
    let Some(hub) = Mosquitto::start("") else {
        return;
    };
    let receiver = Receiver::connect(hub.port, false, |_, _| true).await;
    let backlog = MemoryBacklog::new("bamenda-01");
    fill(&backlog, 1, 100);
    let first = backlog.get(1).unwrap();
    let mut settings = frames(hub.port);
    settings.batch.linger = Duration::from_secs(2);
    let village = Village::start(settings, backlog.clone());
    within(SOON, "the first are at the hub", || async {
        receiver
            .stored
            .lock()
            .unwrap()
            .readings
            .contains_key(&1)
            .then_some(())
    })
    .await;
    let coming = async {
        loop {
            fill(&backlog, 1, 1);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let back = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        backlog.bring_back(first);
        within(SOON, "it comes a second time", || async {
            (receiver.stored.lock().unwrap().repeated > 0).then_some(())
        })
        .await;
    };
    tokio::select! {
        () = coming => {}
        () = back => {}
    }
    drop(village);
}

/// The sample as JSON of about 200 bytes, over the village's link.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a figure"]
async fn figure_frames_over_the_village_link() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared/data/household-2007-02.csv"
    );
    let Ok(csv) = std::fs::read_to_string(path) else {
        return;
    };
    let Some(hub) = Mosquitto::start("") else {
        return;
    };
    let receiver = Receiver::connect(hub.port, false, |_, _| true).await;
    let link = ThinLink::start(hub.port, 256_000.0, Duration::from_millis(600)).await;
    let backlog = MemoryBacklog::new("bamenda-01");
    let mut count = 0;
    for round in 0..10 {
        for line in csv.lines().skip(1) {
            let f: Vec<&str> = line.split(',').collect();
            let payload = format!(
                "{{\"ts\":\"{}\",\"active_power_kw\":{},\"reactive_power_kvar\":{},\"voltage_v\":{},\"current_a\":{},\
                 \"sub_metering_1_wh\":{},\"sub_metering_2_wh\":{},\"sub_metering_3_wh\":{}}}",
                f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7]
            );
            backlog.append(&format!("m-{round}"), &format!("meters/m-{round}"), payload);
            count += 1;
        }
    }
    let began = Instant::now();
    let village = Village::start(frames(link.port), backlog);
    village.drained(Duration::from_secs(600)).await;
    let seconds = began.elapsed().as_secs_f64();
    let up = link.up_bytes.load(Ordering::Relaxed);
    let stored = receiver.stored.lock().unwrap();
    #[allow(clippy::cast_precision_loss)] // some megabytes
    let up_each = up as f64 / f64::from(count);
    println!(
        "{count} readings in {seconds:.1} s: {:.0} a second, {up_each:.2} bytes up each",
        f64::from(count) / seconds,
    );
    println!(
        "frames of {:?}; {:?}",
        stored.frames,
        village.handle.status()
    );
}
