//! The bridge over a faulty network, disk, clock and hub, in virtual time, from a seed (`docs/simulation.md`).
//!
//! What runs is the bridge as it is, from `Bridge::run` to the bytes of MQTT. What is doubled: the network, the hub
//! behind it, the backlog, the clock, the drain log and the dice. A run with the same seed is the same run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    missing_docs,
    unreachable_pub,
    reason = "doubles and tests: what cannot go on fails the test"
)]

mod clock;
mod dice;
mod drains;
mod hub;
mod packets;
mod policy;
mod scene;
mod store;
mod storm;
mod wire;
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hub_bridge::bridge::{Bridge, BridgeHandle, BridgeParts, TimeFloor};
use hub_bridge::platform::Platform;
use tokio_util::sync::CancellationToken;

use storm::End;
use world::{Note, Shared, Totals};

/// A relay that is told to stop does so within this: a farewell, and jobs of a slow disk.
const STOPS_WITHIN: Duration = Duration::from_secs(60);

struct Outcome {
    totals: Totals,
    digest: u64,
    broken: Option<String>,
    trace: String,
}

/// Runs a seed to its end, or to the first violation.
fn run(seed: u64, trace_kept: usize) -> Outcome {
    let shared = Shared::new(seed, trace_kept);
    loop {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let end = runtime.block_on(live(&shared, seed));
        // What is still there dies with it, as at kill -9.
        drop(runtime);
        let mut world = shared.lock();
        world.drop_connections();
        if end == End::Killed {
            world.step(Note::Killed);
            let mut rng = world.rng.clone();
            world.store.forget(&mut rng);
            if rng.chance(0.3) {
                world.store.begin_epoch(&mut rng);
            }
            if rng.chance(0.5) {
                world.reboot();
            }
            world.rng = rng;
        }
        if end == End::Finished || world.broken().is_some() {
            return Outcome {
                totals: world.totals.clone(),
                digest: world.digest(),
                broken: world.broken().map(str::to_owned),
                trace: world.trace(),
            };
        }
    }
}

/// One process of the relay.
async fn live(shared: &Shared, seed: u64) -> End {
    let (settings, alarm, life) = {
        let mut world = shared.lock();
        world.begin_life();
        world.drains.new_life();
        world.policy.new_life();
        let life = world.totals.lives;
        (world.scene.settings.clone(), Arc::clone(&world.alarm), life)
    };
    let parts = BridgeParts {
        backlog: Arc::new(store::SimBacklog(shared.clone())),
        clock: Arc::new(clock::SimClock(shared.clone())),
        drain_log: Arc::new(drains::SimDrainLog(shared.clone())),
        time_floor: TimeFloor::default(),
        traffic_book: Arc::new(store::SimTraffic(shared.clone())),
        platform: Platform {
            network: Arc::new(wire::SimNetwork(shared.clone())),
            workers: Arc::new(store::SimWorkers(shared.clone())),
            dice: Arc::new(dice::SeededDice::new(seed ^ life)),
        },
    };
    let (bridge, handle) = Bridge::new(settings, parts).expect("settings that can be run");
    let stop = CancellationToken::new();
    tokio::spawn(pump(shared.clone()));
    tokio::spawn(watch(shared.clone(), handle.clone()));
    let mut task = tokio::spawn(bridge.run(stop.clone()));
    let end = tokio::select! {
        biased;
        () = alarm.notified() => End::Finished,
        ended = &mut task => {
            shared.lock().violated(format!("the bridge ended by itself: {ended:?}"));
            End::Finished
        }
        end = storm::direct(shared, &handle) => end,
    };
    if end != End::Killed && shared.lock().broken().is_none() {
        stop.cancel();
        let ended = tokio::time::timeout(STOPS_WITHIN, task).await;
        let mut world = shared.lock();
        world.step(Note::Stopped);
        if !matches!(ended, Ok(Ok(()))) {
            world.violated(format!("told to stop, and {ended:?} came of it"));
        }
        let (running, ended) = (world.drains.running, world.drains.ended);
        world.holds(running.is_none_or(|id| ended >= id), || {
            format!("stopped, and drain {running:?} was not recorded")
        });
    }
    shared.lock().end_life();
    end
}

/// Carries what is due over the link.
async fn pump(shared: Shared) {
    let notify = Arc::clone(&shared.lock().pump);
    loop {
        let next = {
            let mut world = shared.lock();
            world.pump_due();
            world.wire.next_at().map(|at| world.instant_of(at))
        };
        match next {
            Some(at) => tokio::select! {
                biased;
                () = notify.notified() => {}
                () = tokio::time::sleep_until(at) => {}
            },
            None => notify.notified().await,
        }
    }
}

/// Looks at the bridge's status each second.
async fn watch(shared: Shared, handle: BridgeHandle) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        storm::look(&shared, &handle);
    }
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text:?}")),
    )
}

fn fails(seed: u64, outcome: &Outcome) {
    if let Some(broken) = &outcome.broken {
        panic!(
            "{}\nseed {seed} broke after {} steps: {broken}\n\
             again: RELAY_TEST_SEED={seed} cargo test -p hub-bridge --test simulation",
            outcome.trace, outcome.totals.steps
        );
    }
}

/// Runs seeds from `first` on until so many steps are done. Gives what they came to, together.
fn simulate(first: u64, steps: u64) -> Totals {
    let began = Instant::now();
    let mut all = Totals::default();
    let mut seed = first;
    while all.steps < steps {
        let outcome = run(seed, TRACE_KEPT);
        fails(seed, &outcome);
        all.add(&outcome.totals);
        seed += 1;
    }
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    eprintln!(
        "simulation: seeds {first} to {}, {} steps in {:.1} s: {:.2} million a minute; {all:?}",
        seed - 1,
        all.steps,
        minutes * 60.0,
        all.steps as f64 / minutes / 1e6,
    );
    all
}

/// How many of the last steps a failure shows.
const TRACE_KEPT: usize = 150;
/// Steps of the slice that runs with all other tests.
const STEPS_OF_A_SLICE: u64 = 300_000;

#[test]
fn every_invariant_holds_at_every_step() {
    let (seed, long) = (
        setting("RELAY_TEST_SEED"),
        setting("RELAY_TEST_SIMULATION_STEPS"),
    );
    if let (Some(seed), None) = (seed, long) {
        let kept = setting("RELAY_TEST_TRACE").map_or(TRACE_KEPT, |kept| kept as usize);
        let outcome = run(seed, kept);
        eprintln!(
            "seed {seed}: digest {:016x}, {:?}",
            outcome.digest, outcome.totals
        );
        return fails(seed, &outcome);
    }
    // A slice is the same each time; the long form goes where none was.
    let somewhere = || {
        let since = std::time::UNIX_EPOCH.elapsed();
        since.map_or(1, |since| since.as_secs() * 1_000_000)
    };
    let first = seed.unwrap_or_else(|| if long.is_some() { somewhere() } else { 1 });
    let all = simulate(first, long.unwrap_or(STEPS_OF_A_SLICE));
    assert!(all.acknowledged > 0 && all.lives > 0 && all.drains > 0);
}

#[test]
fn the_same_seed_is_the_same_run() {
    let mut digests = std::collections::HashSet::new();
    for seed in [7, 8, 9] {
        let (one, other) = (run(seed, usize::MAX), run(seed, usize::MAX));
        let mut lines = one.trace.lines().zip(other.trace.lines()).enumerate();
        let differs = lines.find(|(_, (one, other))| one != other);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(one.digest, other.digest, "seed {seed}");
        assert!(digests.insert(one.digest), "another seed is another run");
    }
}
