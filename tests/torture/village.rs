//! A village under torture: meters, a relay, an uplink and a hub, and the one ledger.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use harness::hub::mosquitto;
use harness::meter::Habits;
use harness::packet::{Connect, Version};
use harness::{FakeHub, Fleet, Hub, Ledger, Meter, Proxy, Raw, Relay, Subscriber, Temper, VILLAGE};
use harness::{wait_for, within};
use rand::Rng;

use crate::case::Case;

/// The relay is listening again within this, whatever happened: the promise.
pub(crate) const LISTENING_WITHIN: Duration = Duration::from_secs(30);

/// How long a backlog of these sizes may take to reach the hub, on a machine that does much else.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);

/// What takes the readings in.
enum Taker {
    Own(FakeHub),
    Mosquitto {
        address: SocketAddr,
        _alive: (Subscriber, Hub),
    },
}

impl Taker {
    fn own(ledger: &Ledger) -> Self {
        Self::Own(FakeHub::start(ledger, Temper::Honest))
    }

    fn mosquitto(ledger: &Ledger) -> Self {
        let hub = Hub::start();
        Self::Mosquitto {
            address: hub.address,
            _alive: (Subscriber::start(hub.address, ledger), hub),
        }
    }

    fn address(&self) -> SocketAddr {
        match self {
            Self::Own(hub) => hub.address,
            Self::Mosquitto { address, .. } => *address,
        }
    }
}

/// All of it.
pub(crate) struct Village {
    /// What was published, acknowledged, and has arrived.
    pub(crate) ledger: Ledger,
    /// The link to the hub.
    pub(crate) uplink: Proxy,
    /// The relay, not yet started.
    pub(crate) relay: Relay,
    hub: Taker,
}

impl Village {
    /// With an honest hub: a real mosquitto in every other case, where there is one.
    pub(crate) fn new(case: &mut Case) -> Self {
        let real = case.one_in(2) && Path::new(mosquitto()).exists();
        Self::with(if real { Taker::mosquitto } else { Taker::own })
    }

    /// With the harness's own hub, which can be given a temper.
    pub(crate) fn with_own_hub() -> Self {
        Self::with(Taker::own)
    }

    fn with(hub: fn(&Ledger) -> Taker) -> Self {
        let ledger = Ledger::new(VILLAGE);
        let hub = hub(&ledger);
        let uplink = Proxy::start(hub.address());
        let mut relay = Relay::new(uplink.address);
        relay
            .set("hub.retry_max", "1s")
            .set("backlog.segment_bytes", "1 MiB")
            .set("backlog.hold_max", "500ms");
        Self {
            ledger,
            uplink,
            relay,
            hub,
        }
    }

    /// The harness's own hub.
    pub(crate) fn own_hub(&self) -> &FakeHub {
        match &self.hub {
            Taker::Own(hub) => hub,
            Taker::Mosquitto { .. } => panic!("this village has a mosquitto"),
        }
    }

    /// Puts its data on `disk`, of which it leaves `free_min` alone.
    pub(crate) fn on_disk(&mut self, disk: &harness::Disk, free_min: &str) {
        let data = disk.mount_point().join("data");
        self.relay.set("data_dir", data.to_str().unwrap());
        self.relay.set("backlog.disk_free_min", free_min);
    }

    /// Meters of both versions that publish until told to stop, `sizes` bytes each.
    pub(crate) fn fleet(&self, sizes: &[usize]) -> Fleet {
        let meters = sizes.iter().enumerate().map(|(number, size)| {
            let mut habits = Habits::new(self.relay.mqtt);
            habits.version = [Version::V4, Version::V5][number % 2];
            habits.size = *size;
            habits.in_flight = if *size > 10_000 { 3 } else { 20 };
            habits.pause = Duration::from_millis(if *size > 10_000 { 20 } else { 2 });
            habits.patience = Duration::from_secs(8);
            Meter::new(&self.ledger, &format!("meter-{number}"), habits)
        });
        Fleet::start(meters.collect())
    }

    /// Link up or down, by chance.
    pub(crate) fn any_weather(&self, case: &mut Case) {
        if case.one_in(2) {
            self.uplink.cut();
        } else {
            self.uplink.restore();
        }
    }

    /// Waits until meters saw some more acknowledgements, up to `most`.
    pub(crate) fn some_traffic(&self, case: &mut Case, most: u64) {
        let aim = self.ledger.sums().acknowledged + case.random.random_range(1..=most);
        wait_for("more acknowledgements", within(60), || {
            (self.ledger.sums().acknowledged >= aim).then_some(())
        });
    }

    /// Starts it and waits until it answers a CONNECT.
    pub(crate) fn start(&mut self, case: &mut Case) {
        self.relay.write_config();
        self.relay.start_as_is();
        listening(&mut self.relay, case);
    }

    /// All is well again: what was acknowledged must come to the hub, and nothing else; nothing is named as lost.
    pub(crate) fn settle(&mut self, case: &mut Case, fleet: Fleet) {
        let in_vain = self.settle_after_power_cuts(case, fleet);
        assert_eq!(in_vain, 0, "it names readings as lost that are not");
    }

    /// As [`Village::settle`], and how many readings it names as lost: of a commit that the cut came in the middle of,
    /// some frames may be on the disk and others before them not.
    pub(crate) fn settle_after_power_cuts(&mut self, case: &mut Case, fleet: Fleet) -> u64 {
        self.uplink.restore();
        for mut meter in fleet.stop() {
            wait_for("the relay takes what was left", within(60), || {
                meter.publish(1).ok()
            });
        }
        self.settled(case);
        self.relay.wait_drained(within(60));
        let named = self.relay.status()["backlog"]["lost_readings"]
            .as_u64()
            .unwrap();
        case.outcome.in_vain += named;
        named
    }

    /// Waits for the hub to have everything, checks the ledger and takes it into the sums.
    pub(crate) fn settled(&self, case: &mut Case) {
        let sums = self.ledger.settle("settled", SETTLED_WITHIN);
        case.outcome.acknowledged += sums.acknowledged;
        case.outcome.duplicates += sums.duplicates;
    }
}

/// Waits until `relay` answers a CONNECT, from now on; the longest of all goes into the table.
pub(crate) fn listening(relay: &mut Relay, case: &mut Case) {
    let started = Instant::now();
    let connect = Connect::new(Version::V4, "torture");
    loop {
        if matches!(Raw::connect(relay.mqtt, &connect), Ok((_, _, 0))) {
            break;
        }
        if let Some(status) = relay.exited() {
            panic!("the relay ended with {status}:\n{}", relay.log_tail(30));
        }
        assert!(
            started.elapsed() < LISTENING_WITHIN,
            "not listening after {:?}:\n{}",
            started.elapsed(),
            relay.log_tail(30)
        );
        std::thread::sleep(Duration::from_millis(3));
    }
    let took = u64::try_from(started.elapsed().as_millis()).unwrap();
    case.outcome.listen_ms = case.outcome.listen_ms.max(took);
}
