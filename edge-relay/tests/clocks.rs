//! Readings that were received before the clock was right, and what is done about them at the crossing.

// The lint's exception for tests does not cover their helpers.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use edge_relay::clock::{SystemClock, TimeSource, Trust};
use edge_relay::config;
use edge_relay::stick::{Desk, Settings, Wanted};
use edge_relay::store::{NewReading, Store};
use hub_bridge::clock::{BootId, Clock as _, ClockQuality, UnixMillis};
use hub_bridge::identity::Sequence;
use hub_bridge::stick::{HubIdentity, Recipients, StickFile};
use hub_bridge::wire::frame::Carried;

/// A machine's clock, moved by hand.
struct Moved {
    boot: BootId,
    wall: AtomicI64,
    since_boot_ms: AtomicU64,
    synchronised: AtomicBool,
}

#[derive(Clone)]
struct Source(Arc<Moved>);

impl TimeSource for Source {
    fn wall(&self) -> UnixMillis {
        UnixMillis(self.0.wall.load(Ordering::Relaxed))
    }
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.since_boot_ms.load(Ordering::Relaxed))
    }
    fn boot(&self) -> BootId {
        self.0.boot
    }
    fn synchronised(&self) -> bool {
        self.0.synchronised.load(Ordering::Relaxed)
    }
}

/// A boot that begins at `wall`, 5 s ago, and is not synchronised.
fn boot(number: u32, wall: i64, dir: &Path) -> (Arc<Moved>, Arc<SystemClock<Source>>) {
    let moved = Arc::new(Moved {
        boot: BootId(number),
        wall: AtomicI64::new(wall),
        since_boot_ms: AtomicU64::new(5_000),
        synchronised: AtomicBool::new(false),
    });
    let source = Source(Arc::clone(&moved));
    let clock = Arc::new(SystemClock::with_source(source, dir, Trust::Kernel));
    (moved, clock)
}

fn take(store: &Store, clock: &SystemClock<Source>) {
    let reading = NewReading {
        topic: "meter".into(),
        client_id: "meter".into(),
        payload: "12".into(),
        qos: 1,
        retain: false,
        dup: false,
        packet_id: 1,
        received: clock.stamp(),
        properties: None,
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let permit = store.reserve(reading.size_bytes()).await.unwrap();
        permit.append(vec![reading]).await.unwrap().unwrap();
    });
}

const IN_1970: i64 = 5_000;
/// 2026-09-21, plausible, and wrong.
const YESTERDAY: i64 = 1_790_000_000_000;
const NOW: i64 = 1_795_000_000_000;

#[test]
fn earlier_readings_of_a_boot_are_corrected_once_its_clock_is_right_and_others_are_marked() {
    let dir = tempfile::tempdir().unwrap();
    let text = "village_id = \"clock-01\"\ndata_dir = \"data\"\nmqtt.listen = \"127.0.0.1:1\"\n";
    std::fs::write(dir.path().join("broker.toml"), text).unwrap();
    let loaded = config::load(&dir.path().join("broker.toml"), &config::Environment::new());
    let settings = loaded.unwrap().settings.store;
    let data_dir = settings.data_dir.clone();
    std::fs::create_dir(&data_dir).unwrap();
    // A boot that never learnt the time.
    let (_, never) = boot(1, YESTERDAY, &data_dir);
    let (store, _) = Store::open(&settings, never.clone()).unwrap();
    take(&store, &never);
    store.close();
    // One that learnt it a minute after its first reading.
    let (moved, clock) = boot(2, IN_1970, &data_dir);
    let (store, _) = Store::open(&settings, clock.clone()).unwrap();
    take(&store, &clock);
    moved.since_boot_ms.store(65_000, Ordering::Relaxed);
    moved.wall.store(NOW, Ordering::Relaxed);
    moved.synchronised.store(true, Ordering::Relaxed);
    clock.observe();
    take(&store, &clock);

    let identity = HubIdentity::open_or_make(&dir.path().join("identity")).unwrap();
    let desk = Desk {
        store: store.clone(),
        clock,
        village: settings.village.clone(),
        data_dir,
        settings: Settings {
            recipients: Recipients::parse(&identity.recipients()).unwrap(),
            hub_key: None,
        },
    };
    let waiting = desk.waiting(false);
    let wanted = Wanted {
        epoch: waiting[0].epoch,
        from: Sequence::FIRST,
        below: waiting[0].next,
        all: false,
    };
    let file = StickFile::from_bytes(desk.file(wanted).unwrap().unwrap()).unwrap();
    let frames = file.frames(&identity).unwrap();
    let readings: Vec<Carried> = frames.flat_map(|frame| frame.unwrap().readings).collect();
    let times: Vec<(i64, ClockQuality)> = readings.iter().map(|r| (r.at.0, r.clock)).collect();
    let expected = [
        (YESTERDAY, ClockQuality::Unsynchronised),
        (NOW - 60_000, ClockQuality::Synchronised),
        (NOW, ClockQuality::Synchronised),
    ];
    assert_eq!(times, expected);
    store.close();
}
