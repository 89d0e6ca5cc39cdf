//! A thousand villages come back: at 02:00 with a day's backlog, and at noon when the hub was restarted.
//!
//! A model of the hub and its links in steps of a tenth of a second; who comes when is not modelled but asked of the real
//! `Schedule` and the real `Backoff`. The table is printed by
//! `cargo test -p hub-bridge --test stagger -- --nocapture`, and explained in `docs/thin-links.md`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a test"
)]

use std::time::Duration;

use hub_bridge::backoff::Backoff;
use hub_bridge::classify::ErrorClass;
use hub_bridge::clock::UnixMillis;
use hub_bridge::settings::{DrainSettings, RetrySettings};
use hub_bridge::window::Schedule;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const VILLAGES: usize = 1000;
/// 500 meters, one reading each 15 minutes, for a day.
const READINGS: f64 = 48_000.0;
/// 256 kbit/s.
const LINK_BYTES_PER_S: f64 = 32_000.0;
const STEP: f64 = 0.1;
/// So long a village waits for a no.
const ROUND_TRIP: f64 = 0.6;

/// How readings cross, and what the hub makes of them.
#[derive(Clone, Copy)]
struct Format {
    name: &'static str,
    bytes_each: f64,
    /// How many readings the hub's broker takes a second: 2,000 publishes a second and core, 16 cores.
    broker_readings_per_s: f64,
}

const PLAIN: Format = Format {
    name: "plain",
    bytes_each: 228.0,
    broker_readings_per_s: 32_000.0,
};
/// Frames of a thousand readings: the broker hardly notices; rows into one PostgreSQL are the limit.
const BATCH: Format = Format {
    name: "batch",
    bytes_each: 10.0,
    broker_readings_per_s: 100_000.0,
};

/// TLS handshakes and CONNECTs that the hub makes a second; what is more waits.
const ACCEPTS_PER_S: f64 = 100.0;
/// A village that is not accepted for so long gives up and tries again (`hub.connect_timeout`).
const CONNECT_TIMEOUT: f64 = 15.0;

#[derive(Debug, Clone, Copy, Default)]
struct Load {
    /// Most connections that were asked for within one second.
    connects_per_s: f64,
    /// Attempts in all, also those that the hub was too busy to accept in time.
    attempts: u64,
    /// Most links at once that carry readings.
    links: usize,
    bytes_per_s: f64,
    readings_per_s: f64,
    /// Until the last village was done, and the mean of a village, in seconds from its own start.
    last_done_s: f64,
    mean_s: f64,
}

#[derive(Clone, Copy)]
enum Village {
    /// Comes at so many seconds.
    Away(f64),
    /// Asked for a connection at so many seconds.
    Waits(f64),
    /// Readings that are left.
    Sends(f64),
    Done,
}

/// When each village's drain begins, in seconds after 02:00 of a night.
fn starts(stagger: Duration) -> Vec<f64> {
    let settings = DrainSettings {
        stagger,
        ..DrainSettings::default()
    };
    let noon: jiff::Timestamp = "2026-06-01T11:00:00Z".parse().unwrap();
    let two: jiff::Timestamp = "2026-06-02T01:00:00Z".parse().unwrap();
    let of = |n: usize| {
        let village = format!("village-{n:04}").parse().unwrap();
        let schedule = Schedule::new(&settings, &village).unwrap();
        let next = schedule.next(UnixMillis(noon.as_millisecond())).unwrap();
        (next.start.0 - two.as_millisecond()) as f64 / 1000.0
    };
    (0..VILLAGES).map(of).collect()
}

/// Lets them all come and send.
fn night(format: Format, starts: &[f64], dice: &mut StdRng) -> Load {
    let retry = RetrySettings::default();
    let mut villages: Vec<(Village, Backoff)> = starts
        .iter()
        .map(|at| (Village::Away(*at), Backoff::default()))
        .collect();
    let mut load = Load::default();
    let mut came = Vec::new();
    let mut finished = 0.0;
    let (mut now, mut accepts) = (0.0, 0.0);
    while villages
        .iter()
        .any(|(village, _)| !matches!(village, Village::Done))
    {
        accepts = (accepts + ACCEPTS_PER_S * STEP).min(ACCEPTS_PER_S);
        let sending = villages
            .iter()
            .filter(|(v, _)| matches!(v, Village::Sends(_)));
        let share = format.broker_readings_per_s / sending.count().max(1) as f64;
        let each = (LINK_BYTES_PER_S / format.bytes_each).min(share) * STEP;
        let (mut links, mut moved, mut asked) = (0, 0.0, 0);
        for (n, (village, backoff)) in villages.iter_mut().enumerate() {
            *village = match *village {
                Village::Away(at) if at <= now => {
                    asked += 1;
                    Village::Waits(now)
                }
                Village::Waits(_) if accepts >= 1.0 => {
                    accepts -= 1.0;
                    Village::Sends(READINGS)
                }
                Village::Waits(since) if now - since >= CONNECT_TIMEOUT => {
                    let at = Duration::from_secs_f64(now);
                    let (next, wait) =
                        backoff.failed(ErrorClass::Timeout, at, &retry, dice.random());
                    *backoff = next;
                    Village::Away(now + wait.as_secs_f64())
                }
                Village::Sends(left) if left <= each => {
                    links += 1;
                    moved += left;
                    finished += now - starts[n];
                    load.last_done_s = now;
                    Village::Done
                }
                Village::Sends(left) => {
                    links += 1;
                    moved += each;
                    Village::Sends(left - each)
                }
                other => other,
            };
        }
        came.push(asked);
        load.attempts += asked;
        load.links = load.links.max(links);
        load.readings_per_s = load.readings_per_s.max(moved / STEP);
        now += STEP;
    }
    load.bytes_per_s = load.readings_per_s * format.bytes_each;
    load.connects_per_s = busiest_second(&came);
    load.mean_s = finished / VILLAGES as f64;
    load
}

fn busiest_second(came: &[u64]) -> f64 {
    let steps = (1.0 / STEP).round() as usize;
    let second = came.windows(steps).map(|second| second.iter().sum());
    second.max().unwrap_or_else(|| came.iter().sum::<u64>()) as f64
}

/// How villages wait before they try again.
#[derive(Clone, Copy)]
enum Waits {
    /// As they do: anywhere between nothing and the bound.
    Jitter,
    /// As they must not: the bound itself.
    Bound,
}

/// The hub goes away for `gone` seconds while all are connected, and takes connections again after. Gives the attempts
/// in the busiest second once it is back, those while it was gone, and when the last village was back, in seconds.
fn restart(gone: f64, waits: Waits, dice: &mut StdRng) -> (f64, f64, f64) {
    let retry = RetrySettings::default();
    // A connection's end is seen within a round trip.
    let mut villages: Vec<(Village, Backoff)> = (0..VILLAGES)
        .map(|_| {
            (
                Village::Waits(dice.random::<f64>() * ROUND_TRIP),
                Backoff::default(),
            )
        })
        .collect();
    let (mut now, mut accepts, mut last) = (0.0, 0.0, 0.0);
    let (mut during, mut after) = (Vec::new(), Vec::new());
    while villages
        .iter()
        .any(|(village, _)| !matches!(village, Village::Done))
    {
        let back = now >= gone;
        accepts = (accepts + ACCEPTS_PER_S * STEP).min(ACCEPTS_PER_S);
        let mut asked = 0;
        for (village, backoff) in &mut villages {
            *village = match *village {
                // The link ends, or the port is closed: the same to it.
                Village::Away(at) | Village::Waits(at) if at <= now && !back => {
                    asked += 1;
                    let roll = match waits {
                        Waits::Jitter => dice.random(),
                        Waits::Bound => 1.0,
                    };
                    let at = Duration::from_secs_f64(now);
                    let (next, wait) = backoff.failed(ErrorClass::Connect, at, &retry, roll);
                    *backoff = next;
                    Village::Away(now + wait.as_secs_f64() + ROUND_TRIP)
                }
                Village::Away(at) if at <= now => {
                    asked += 1;
                    Village::Sends(0.0)
                }
                Village::Sends(_) if accepts >= 1.0 => {
                    accepts -= 1.0;
                    last = now;
                    Village::Done
                }
                other => other,
            };
        }
        let seconds = if back { &mut after } else { &mut during };
        seconds.push(asked);
        now += STEP;
    }
    (busiest_second(&after), busiest_second(&during), last - gone)
}

fn show(name: &str, stagger: u64, load: &Load) {
    println!(
        "| {name} | {stagger} min | {:.0} | {} | {} | {:.1} | {:.0} | {:.0} | {:.0} |",
        load.connects_per_s,
        load.attempts,
        load.links,
        load.bytes_per_s / 1e6,
        load.readings_per_s,
        load.mean_s,
        load.last_done_s / 60.0,
    );
}

#[test]
fn a_stagger_flattens_the_night() {
    let dice = &mut StdRng::seed_from_u64(1);
    println!(
        "| format | stagger | connects/s | attempts | links | MB/s | readings/s | a village, s | all done, min |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for format in [PLAIN, BATCH] {
        let loads = [0, 15, 60].map(|minutes| {
            let starts = starts(Duration::from_secs(minutes * 60));
            let load = night(format, &starts, dice);
            show(format.name, minutes, &load);
            load
        });
        let [at_once, staggered, hour] = loads;
        assert!(at_once.connects_per_s >= VILLAGES as f64);
        assert!(staggered.connects_per_s <= 10.0, "{staggered:?}");
        assert!(
            staggered.attempts == VILLAGES as u64,
            "none waits: {staggered:?}"
        );
        assert!(hour.readings_per_s <= staggered.readings_per_s);
        assert!(
            staggered.mean_s < at_once.mean_s,
            "{staggered:?} {at_once:?}"
        );
    }
    let starts = starts(Duration::from_secs(900));
    let batch = night(BATCH, &starts, dice);
    assert!(batch.links < 60, "{batch:?}");
    assert!(batch.last_done_s < 1000.0, "{batch:?}");
}

#[test]
fn a_hub_that_was_restarted_is_not_stormed() {
    println!(
        "| hub away | waits | connects/s once it is back | while it is away | all back after, s |"
    );
    println!("|---|---|---|---|---|");
    let mut rows = Vec::new();
    for gone in [5.0, 30.0, 300.0] {
        let dice = &mut StdRng::seed_from_u64(2);
        let (jitter, jitter_away, back) = restart(gone, Waits::Jitter, dice);
        let (bound, bound_away, bound_back) = restart(gone, Waits::Bound, dice);
        println!("| {gone:.0} s | jitter | {jitter:.0} | {jitter_away:.0} | {back:.0} |");
        println!("| {gone:.0} s | none | {bound:.0} | {bound_away:.0} | {bound_back:.0} |");
        rows.push((jitter, bound));
    }
    // A hub that is back soon finds them near: a link that was cut is used again at once. One that was away for long
    // does not, and none is kept waiting for longer than its own longest wait and the hub's queue.
    let [_, (half, half_bound), (long, long_bound)] = rows[..] else {
        unreachable!("three rows")
    };
    assert!(half * 2.0 <= half_bound, "{half} against {half_bound}");
    assert!(long * 5.0 <= long_bound, "{long} against {long_bound}");
}
