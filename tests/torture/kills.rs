//! kill -9 at any moment of the relay's life.

use harness::{Relay, within};
use rand::Rng;

use crate::case::Case;
use crate::village::{Village, listening};

/// Kills a case.
const KILLS: u64 = 20;

/// What the relay is doing when it is killed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Moment {
    /// Readings come, and go where the link is up.
    Load,
    /// It has just been started: it may be reading, mending or not listening yet.
    Start,
    /// Everything that waits is on its way out.
    Drain,
    /// Large readings end a segment and begin the next.
    RollOver,
    /// An edit of the configuration is being applied, or refused.
    Reload,
    /// It was asked to stop, and does.
    Stop,
}

const MOMENTS: [Moment; 6] = [
    Moment::Load,
    Moment::Start,
    Moment::Drain,
    Moment::RollOver,
    Moment::Reload,
    Moment::Stop,
];

impl Moment {
    /// Any.
    pub(crate) fn any(case: &mut Case) -> Self {
        case.pick(&MOMENTS)
    }

    /// Brings a relay that was started, and may not listen yet, to this moment.
    pub(crate) fn bring_about(self, village: &mut Village, case: &mut Case) {
        if matches!(self, Self::Start) {
            return case.moment(60);
        }
        listening(&mut village.relay, case);
        match self {
            Self::Load | Self::Start => village.some_traffic(case, 300),
            Self::Drain => {
                village.uplink.cut();
                village.some_traffic(case, 300);
                village.uplink.restore();
                let _ = village.relay.post("/drain");
            }
            // Of a meter's readings of 20 kB, a MiB is 52.
            Self::RollOver => village.some_traffic(case, 1500),
            Self::Reload => {
                village.some_traffic(case, 50);
                edit(&mut village.relay, case);
            }
            Self::Stop => {
                village.some_traffic(case, 100);
                village.relay.signal(nix::sys::signal::Signal::SIGTERM);
            }
        }
        case.moment(20);
    }
}

/// A valid edit of the configuration, or an invalid one.
fn edit(relay: &mut Relay, case: &mut Case) {
    if case.one_in(3) {
        let broken = format!("{}\nnonsense = [", relay.config_text());
        std::fs::write(relay.config_file(), broken).unwrap();
    } else {
        let seconds: u32 = case.random.random_range(1..4);
        relay.set("hub.retry_max", format!("{seconds}s"));
        relay.set("backlog.alarm_at", 0.5 + f64::from(seconds) / 10.0);
        relay.write_config();
    }
    if case.one_in(2) {
        let _ = relay.post("/reload");
    }
}

#[allow(clippy::unnecessary_wraps)] // other kinds may say why they cannot run
pub(crate) fn run(case: &mut Case) -> Result<(), String> {
    let mut village = Village::new(case);
    village.start(case);
    let fleet = village.fleet(&[200, 200, 2_000, 20_000]);
    for _ in 0..case.times(KILLS) {
        village.any_weather(case);
        let moment = Moment::any(case);
        moment.bring_about(&mut village, case);
        village.relay.kill();
        case.outcome.faults += 1;
        // An edit that was refused stays in the file for some starts, too.
        if case.one_in(2) {
            village.relay.write_config();
        }
        village.relay.start_as_is();
    }
    village.relay.write_config();
    listening(&mut village.relay, case);
    village.settle(case, fleet);
    let stopped = village.relay.stop();
    assert!(stopped.success(), "{stopped}");
    village.start(case);
    village.relay.wait_drained(within(30));
    Ok(())
}
