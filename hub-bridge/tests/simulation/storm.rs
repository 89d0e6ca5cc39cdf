//! What happens to the bridge: storms of random faults, and a calm after each in which everything must arrive.

use std::time::Duration;

use hub_bridge::bridge::{ApplyError, BridgeHandle};
use hub_bridge::policy::{Permit, Scope};
use hub_bridge::settings::Forward;
use hub_bridge::status::UplinkStatus;
use tokio::time::{Instant, timeout};

use super::dice::Rng;
use super::hub::{Mood, Welcome};
use super::scene;
use super::store::{DiskFaults, Poison};
use super::wire::Link;
use super::world::{Note, Shared, World};

/// How a life of the relay ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Killed,
    Stopped,
    /// The run is over: stopped, too.
    Finished,
}

/// A bridge that does not answer its handle for so long is stuck: its disk takes 3 s at most, its jobs follow each other.
const ANSWERS_WITHIN: Duration = Duration::from_secs(120);

pub async fn direct(shared: &Shared, handle: &BridgeHandle) -> End {
    loop {
        loop {
            let wait = shared.lock().next_wait();
            let Some(wait) = wait else { break };
            tokio::time::sleep(wait).await;
            if let Some(end) = act(shared, handle).await {
                return end;
            }
        }
        calm(shared, handle).await;
        if !shared.lock().next_storm() {
            return End::Finished;
        }
    }
}

impl World {
    /// How long until the storm's next action; `None`: it is over.
    fn next_wait(&mut self) -> Option<Duration> {
        self.scene.storm_actions = self.scene.storm_actions.checked_sub(1)?;
        let rng = &mut self.rng;
        Some(match rng.between(0, 99) {
            0..=79 => rng.log_seconds(0.005, 20.0),
            80..=98 => rng.log_seconds(20.0, 400.0),
            _ => rng.log_seconds(400.0, 40_000.0),
        })
    }

    fn next_storm(&mut self) -> bool {
        self.scene.storms -= 1;
        self.scene.storm_actions = self.rng.between(5, 60);
        self.scene.storms > 0
    }

    fn meters_send(&mut self, most: f64) {
        let many = self.rng.log_between(1.0, most) as u64;
        for _ in 0..many {
            self.append();
        }
        self.store.wake();
    }

    fn disturb_link(&mut self) {
        let link = match self.rng.between(0, 7) {
            0 => Link::Mute,
            1 => Link::Down("failed to lookup address information"),
            2 => Link::Down("connection refused"),
            3 => Link::Down("no answer"),
            4 => {
                // A cut, and the link is there again at once.
                self.set_link(Link::Down("cut"));
                Link::Up
            }
            _ => Link::Up,
        };
        self.set_link(link);
        if self.rng.chance(0.2) {
            self.wire.bytes_per_s = self.rng.log_between(2e3, 1e7);
            self.wire.delay = self.rng.log_seconds(0.001, 0.8);
        }
    }

    fn disturb_hub(&mut self) {
        let reason = *self.rng.pick(&[0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]);
        let part = self.rng.log_between(0.001, 0.5);
        let mut mood = Mood::CALM;
        if self.rng.chance(0.5) {
            mood.thinks = self.rng.log_seconds(0.002, 3.0);
        }
        if self.rng.chance(0.3) {
            mood.holds = usize::try_from(self.rng.between(2, 16)).unwrap();
        }
        mood.reason = reason;
        mood.name = match self.rng.between(0, 12) {
            0 => "slow",
            1 => {
                mood.refuses = part;
                "refuses some"
            }
            2 => {
                mood.refuses = 1.0;
                "refuses all"
            }
            3 => {
                mood.closes = part;
                "closes"
            }
            4 => {
                mood.disconnects = part;
                "disconnects"
            }
            5 => {
                mood.twice = part;
                "acknowledges twice"
            }
            6 => {
                mood.bogus = part;
                "acknowledges what it was not sent"
            }
            7 => {
                mood.forgets = part;
                "forgets some"
            }
            8 => {
                mood.forgets = 1.0;
                "says nothing"
            }
            9 => {
                mood.no_subscriber = part;
                "has no subscriber"
            }
            10 => {
                mood.welcome = Welcome::Refuse(*self.rng.pick(&[0x85, 0x86, 0x87, 0x88, 0x89]));
                "refuses connections"
            }
            11 => {
                let all = [
                    Welcome::Silence,
                    Welcome::Close,
                    Welcome::Noise,
                    Welcome::Twice,
                ];
                mood.welcome = *self.rng.pick(&all);
                "does strange things to connections"
            }
            _ => "calm",
        };
        self.hub.mood = mood;
        self.step(Note::Mood(mood.name));
    }

    fn disturb_disk(&mut self) {
        let rng = &mut self.rng;
        let part = |rng: &mut Rng| {
            if rng.chance(0.5) {
                rng.log_between(0.01, 1.0)
            } else {
                0.0
            }
        };
        self.store.faults = DiskFaults {
            read: part(rng),
            confirm: part(rng),
            refuse: part(rng),
            slow: part(rng) * 0.3,
        };
    }

    /// Everything works from now on. How long the bridge may take for what waits.
    fn begin_calm(&mut self) -> Duration {
        self.calm = true;
        self.step(Note::Calm);
        self.wire.bytes_per_s = self.wire.bytes_per_s.max(self.scene.bytes_per_s);
        self.wire.delay = self.wire.delay.min(self.scene.delay);
        self.set_link(Link::Up);
        self.hub_calms();
        self.store.faults = DiskFaults::default();
        if self.rng.chance(0.5) {
            self.trust_clock();
        }
        let (mut readings, mut bytes, mut poisoned) = (0, 0u64, 0);
        for slot in self.store.waiting() {
            readings += 1;
            bytes += u64::from(slot.bytes) + 200;
            poisoned += u32::from(slot.poison != Poison::None);
        }
        self.scene.patience(readings, bytes, poisoned)
    }

    fn end_calm(&mut self, status: &UplinkStatus) {
        self.calm = false;
        let alive = self.store.alive();
        self.holds(alive == 0, || {
            format!("all is done, and the bridge still holds {alive} readings: {status:?}")
        });
        self.holds(status.in_flight == 0, || {
            format!("all is done, and {} are in flight", status.in_flight)
        });
        self.step(Note::CalmEnds);
    }
}

async fn act(shared: &Shared, handle: &BridgeHandle) -> Option<End> {
    let action = {
        let mut world = shared.lock();
        if world.rng.chance(0.6) {
            world.meters_send(200.0);
        }
        world.rng.between(0, 99)
    };
    match action {
        0..=29 => shared.lock().disturb_link(),
        30..=54 => shared.lock().disturb_hub(),
        55..=62 => shared.lock().disturb_disk(),
        63..=70 => shared.lock().disturb_clock(),
        71..=77 => ask_for_drain(shared, handle).await,
        78..=82 => edit_settings(shared, handle).await,
        83 | 84 => {
            let mut world = shared.lock();
            let reason = *world.rng.pick(&[0x8e, 0x8b, 0x00, 0x87, 0x98]);
            world.hub_disconnects_all(reason);
        }
        85 => shared.lock().lose_some(),
        86 | 87 => {
            let mut world = shared.lock();
            let max = world.rng.log_between(1.0, 65_536.0) as u16;
            world.hub.receive_maximum = world.rng.clone().chance(0.8).then_some(max.max(1));
        }
        88..=90 => shared.lock().store.sync(),
        91..=93 => return Some(End::Killed),
        94 => return Some(End::Stopped),
        _ => shared.lock().meters_send(1500.0),
    }
    None
}

async fn ask_for_drain(shared: &Shared, handle: &BridgeHandle) {
    look(shared, handle);
    let before = shared.lock().store.ends();
    let asked = timeout(ANSWERS_WITHIN, handle.drain()).await;
    let mut world = shared.lock();
    let Ok(Ok(job)) = asked else {
        return world.violated(format!(
            "a drain was asked for, and {asked:?} was the answer"
        ));
    };
    let (id, joined) = (job.progress().id, job.joined());
    world.step(Note::Drain { id, joined });
    // One that was joined may have begun just now.
    if id > world.drains.ended {
        world.drain_seen(id);
        if !joined {
            world.drains.promised = Some((id, before));
        }
    }
}

async fn edit_settings(shared: &Shared, handle: &BridgeHandle) {
    let (wrong, edited) = {
        let mut world = shared.lock();
        let mut edited = world.scene.settings.clone();
        let wrong = world.rng.chance(0.2);
        if wrong {
            edited.hub.connections_max = 0;
        } else {
            scene::change(&mut edited, &mut world.rng);
            if world.rng.chance(0.3) {
                let n = world.rng.between(0, 3);
                edited.hub.url = format!("mqtt://hub-{n}.example:1883").parse().unwrap();
            }
            world.drains.changed_at = Some(world.now());
            world.drains.edits += 1;
            world.hub.two_lanes |= edited.policy.forward == Forward::LiveFirst;
            world.step(Note::Settings("edited"));
            world.scene.settings = edited.clone();
            world.flight_max = world.flight_max.max(world.scene.flight_max());
        }
        (wrong, edited)
    };
    let applied = timeout(ANSWERS_WITHIN, handle.apply(edited)).await;
    let mut world = shared.lock();
    world.drains.changed_at = Some(world.now());
    let as_it_should = match applied {
        Ok(Ok(())) => !wrong,
        Ok(Err(ApplyError::Invalid(_))) => wrong,
        _ => false,
    };
    world.holds(as_it_should, || {
        "settings were edited, and the answer was wrong".to_owned()
    });
}

async fn calm(shared: &Shared, handle: &BridgeHandle) {
    let (patience, ends, trickles) = {
        let mut world = shared.lock();
        let patience = world.begin_calm();
        (patience, world.store.ends(), world.rng.chance(0.5))
    };
    let until = Instant::now() + patience;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let status = drained(shared, handle).await;
        let mut world = shared.lock();
        if world.store.all_done_below(&ends) {
            break;
        }
        if trickles && world.rng.chance(0.1) {
            world.append();
            world.store.wake();
        }
        if Instant::now() >= until {
            let left = world.store.waiting().count();
            let first = world.store.waiting().next().cloned();
            return world.violated(format!(
                "{left} readings wait after {patience:?} of calm; the first: {first:?}; {status:?}"
            ));
        }
    }
    // Until what trickled is through, too.
    let until = Instant::now() + patience;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let status = drained(shared, handle).await;
        let world = &mut *shared.lock();
        let ends = world.store.ends();
        if world.store.all_done_below(&ends) && (status.in_flight == 0 || Instant::now() >= until) {
            return world.end_calm(&status);
        }
        if Instant::now() >= until {
            return world.violated("what trickled in did not get through");
        }
    }
}

/// The status; what a policy holds back is asked for.
async fn drained(shared: &Shared, handle: &BridgeHandle) -> UplinkStatus {
    let status = handle.status();
    let open = Permit {
        scope: Scope::All,
        ..Permit::default()
    };
    let waits = shared.lock().store.waiting().next().is_some();
    if waits && status.policy.permit != open && status.drain.is_none() {
        ask_for_drain(shared, handle).await;
    }
    status
}

/// What status says must be possible.
pub fn look(shared: &Shared, handle: &BridgeHandle) {
    let status = handle.status();
    let mut world = shared.lock();
    if let Some(drain) = &status.drain {
        world.drain_seen(drain.id);
    }
    world.judge_policy(&status);
    if let Some(error) = &status.error {
        let crashed = error.detail.contains("crashed") || error.detail.contains("panicked");
        world.holds(!crashed, || format!("the link crashed: {error:?}"));
    }
}
