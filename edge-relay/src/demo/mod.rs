//! `edge-relay demo`: a village, a bad uplink and a national hub on one machine, with nothing installed.
//!
//! ```text
//! meters ─QoS 1─► edge-relay (child process) ─► uplink (severable proxy) ─► rumqttd ─► subscriber
//!    │                                                                                    │
//!    └────────── ledger: PUBACK seen ──────── compared at the end ─────── ledger: arrived ┘
//! ```
//!
//! The meters live through a solar day. The uplink is cut and comes back, the relay is killed with
//! `kill -9` and started again, once with the uplink down and once while it forwards. After the day a
//! drain, by the same command as an operator's. The last line counts: every reading that a meter saw
//! acknowledged has to be at the hub, byte for byte.

mod hub;
mod ledger;
mod meter;
mod relay;
mod solar;
mod uplink;
mod view;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep_until, timeout};

use ledger::{Ledger, Verdict};
use meter::{Meter, Pace};
use relay::Relay;
use solar::{Day, Device, STEPS};
use uplink::Uplink;
use view::{Moment, View};

const UPLINK_BITS_PER_SECOND: u32 = 2_000_000;
const METERS_FINISH_WITHIN: Duration = Duration::from_secs(30);
const ARRIVE_WITHIN: Duration = Duration::from_secs(5);

/// What can be said on the command line.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Seconds that the solar day takes.
    #[arg(long, default_value_t = 36, value_parser = clap::value_parser!(u32).range(10..))]
    pub seconds: u32,
    /// Customers' meters, beside an inverter and a battery monitor.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub meters: u32,
    /// Keep the relay's configuration, data and log in this new directory.
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

/// What happens in the course of the day.
#[derive(Debug, Clone, Copy)]
enum Act {
    Cut,
    Mend,
    Kill,
    Start,
}

/// Each act with the share of the day after which it comes.
const ACTS: [(f64, Act); 10] = [
    (0.20, Act::Cut),
    (0.36, Act::Kill),
    (0.40, Act::Start),
    (0.55, Act::Mend),
    (0.62, Act::Cut),
    (0.65, Act::Mend),
    (0.68, Act::Kill),
    (0.71, Act::Start),
    (0.92, Act::Cut),
    (0.97, Act::Mend),
];

/// The directory of the relay's child process; removed at the end unless it is to be kept.
struct Directory {
    path: PathBuf,
    keep: bool,
}

impl Directory {
    fn create(keep: Option<&PathBuf>) -> anyhow::Result<Self> {
        let temporary =
            || std::env::temp_dir().join(format!("edge-relay-demo-{}", std::process::id()));
        let path = keep.cloned().unwrap_or_else(temporary);
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let path = path.canonicalize()?;
        Ok(Self {
            path,
            keep: keep.is_some(),
        })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Runs the demo; whether every acknowledged reading is at the hub. Ctrl-C ends it with an error.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(perform(options))
}

async fn perform(options: &Options) -> anyhow::Result<bool> {
    let directory = Directory::create(options.keep.as_ref())?;
    tokio::select! {
        verdict = play(options, &directory) => Ok(verdict?.is_complete()),
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    }
}

async fn play(options: &Options, directory: &Directory) -> anyhow::Result<Verdict> {
    let mut stage = Stage::set(options, directory).await?;
    let pace = Pace::new(Duration::from_secs(options.seconds.into()));
    let mut village = stage.people_village(options, pace);
    stage.live_through(pace).await?;
    stage.wait_for_meters(pace, &mut village).await?;
    stage.drain(pace).await?;
    stage.wait_for_arrival().await;
    stage.relay.kill().await?;
    Ok(stage.conclude())
}

/// Everything that the demo is made of.
struct Stage {
    ledger: Arc<Ledger>,
    uplink: Uplink,
    relay: Relay,
    view: View,
    readings: u32,
}

impl Stage {
    async fn set(options: &Options, directory: &Directory) -> anyhow::Result<Self> {
        let ledger = Arc::new(Ledger::new(Day::new(options.meters)));
        let hub = hub::start(Arc::clone(&ledger)).await?;
        let uplink = Uplink::open(hub, UPLINK_BITS_PER_SECOND).await?;
        let mut relay = Relay::configure(&directory.path, uplink.address()).await?;
        relay.start()?;
        relay.ready().await?;
        let mut view = View::new();
        view.tell(&format!(
            "The hub is at {hub}, the village's relay at {}; between them an uplink that can be cut.",
            relay.mqtt()
        ));
        let devices = u32::try_from(Device::all(options.meters).len())?;
        Ok(Self {
            ledger,
            uplink,
            relay,
            view,
            readings: devices * STEPS,
        })
    }

    fn people_village(&mut self, options: &Options, pace: Pace) -> JoinSet<()> {
        let mut village = JoinSet::new();
        for device in Device::all(options.meters) {
            let meter = Meter::new(device, self.relay.mqtt(), pace, Arc::clone(&self.ledger));
            village.spawn(meter.run());
        }
        self.view.tell(&format!(
            "{} meters, an inverter and a battery monitor publish a solar day in {} seconds.",
            options.meters, options.seconds
        ));
        village
    }

    async fn live_through(&mut self, pace: Pace) -> anyhow::Result<()> {
        for (share, act) in ACTS {
            self.watch_until(pace, pace.at(share)).await;
            self.act(act).await?;
        }
        self.watch_until(pace, pace.at(1.0)).await;
        Ok(())
    }

    async fn act(&mut self, act: Act) -> anyhow::Result<()> {
        match act {
            Act::Cut => {
                self.view.tell("--- the uplink is cut");
                self.uplink.cut();
            }
            Act::Mend => {
                self.view.tell("--- the uplink is back");
                self.uplink.mend();
            }
            Act::Kill => {
                self.view.tell(
                    "--- kill -9: the relay is gone; the meters keep what it has not acknowledged",
                );
                self.relay.kill().await?;
            }
            Act::Start => {
                let started = Instant::now();
                self.relay.start()?;
                self.relay.ready().await?;
                let took = started.elapsed().as_millis();
                self.view.tell(&format!(
                    "--- the relay is started again, ready after {took} ms"
                ));
            }
        }
        Ok(())
    }

    /// Draws the view each second until that time.
    async fn watch_until(&mut self, pace: Pace, end: Instant) {
        let mut second = interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                () = sleep_until(end) => return,
                _ = second.tick() => self.draw(pace).await,
            }
        }
    }

    async fn draw(&mut self, pace: Pace) {
        let step = pace.step();
        let moment = Moment {
            step,
            site: self.ledger.day().site(step),
            relay_runs: self.relay.is_running(),
            uplink_up: self.uplink.is_up(),
            status: self.relay.status().await,
            verdict: self.ledger.verdict(),
            readings: self.readings,
        };
        self.view.show(&moment);
    }

    async fn wait_for_meters(
        &mut self,
        pace: Pace,
        village: &mut JoinSet<()>,
    ) -> anyhow::Result<()> {
        let finish = async { while village.join_next().await.is_some() {} };
        if timeout(METERS_FINISH_WITHIN, finish).await.is_err() {
            let words = self.relay.last_words();
            anyhow::bail!(
                "the relay did not acknowledge every reading within {METERS_FINISH_WITHIN:?}:\n{words}"
            );
        }
        self.draw(pace).await;
        Ok(())
    }

    async fn drain(&mut self, pace: Pace) -> anyhow::Result<()> {
        self.view.tell("--- the day is over: edge-relay drain");
        let drained = self.relay.drain().await?;
        self.draw(pace).await;
        self.view.keep();
        let how = if drained {
            "has done its work"
        } else {
            "FAILED"
        };
        self.view.tell(&format!("--- the drain {how}"));
        Ok(())
    }

    /// The hub's broker has acknowledged everything; its subscriber may be a moment behind.
    async fn wait_for_arrival(&self) {
        let deadline = Instant::now() + ARRIVE_WITHIN;
        while self.ledger.verdict().missing > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn conclude(mut self) -> Verdict {
        let verdict = self.ledger.verdict();
        if verdict.repeated_by_meters > 0 {
            self.view.tell(&format!(
                "{} readings were published twice: their meter never saw the first PUBACK.",
                verdict.repeated_by_meters
            ));
        }
        if verdict.foreign > 0 {
            self.view.tell(&format!(
                "{} messages at the hub are not what was published",
                verdict.foreign
            ));
        }
        if !verdict.is_complete() {
            self.view.tell(&format!(
                "The relay's log ends with:\n{}",
                self.relay.last_words()
            ));
        }
        self.view.tell(&verdict.to_string());
        verdict
    }
}
