//! The village's clock: steps, 1970, and a kernel that says whether to trust it.

use std::time::Duration;

use hub_bridge::clock::{BootId, Clock, ClockQuality, ReceivedAt, UnixMillis};

use super::dice::Rng;
use super::world::{Note, Shared, World};

pub struct ClockState {
    /// Wall time less virtual time, in ms.
    offset: i64,
    quality: ClockQuality,
    boot: u32,
    booted: Duration,
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap()
}

impl ClockState {
    pub fn new(rng: &mut Rng) -> Self {
        let day = 24 * 3_600_000;
        // From 2026-01-01 on, any day of two years.
        let start = 1_767_225_600_000 + rng.between(0, 730) as i64 * day;
        Self {
            offset: start + rng.between(0, 86_399_999) as i64,
            quality: ClockQuality::Synchronised,
            boot: 1,
            booted: Duration::ZERO,
        }
    }
}

impl World {
    pub fn wall(&self) -> UnixMillis {
        UnixMillis(millis(self.now()) + self.clock.offset)
    }

    pub fn trusted(&self) -> bool {
        self.clock.quality == ClockQuality::Synchronised
    }

    pub fn reboot(&mut self) {
        self.clock.boot += 1;
        self.clock.booted = self.now();
    }

    /// Steps the clock, now and then to just before the night's window.
    pub fn disturb_clock(&mut self) {
        let what = match self.rng.between(0, 6) {
            0 => {
                self.clock.quality = ClockQuality::Unsynchronised;
                self.clock.offset = -millis(self.now());
                "1970, not synchronised"
            }
            1 => {
                self.clock.quality = ClockQuality::Unsynchronised;
                "not synchronised"
            }
            2 => {
                self.clock.offset -= self.rng.log_between(1e3, 2e8) as i64;
                "back"
            }
            3 => {
                self.clock.offset += self.rng.log_between(1e3, 2e8) as i64;
                "forward"
            }
            4 | 5 => {
                self.clock.quality = ClockQuality::Synchronised;
                self.jump_before_the_window();
                "to just before the window"
            }
            _ => {
                self.clock.quality = ClockQuality::Synchronised;
                "synchronised"
            }
        };
        self.drains.changed_at = Some(self.now());
        let wall = self.wall().0;
        self.step(Note::Clock { what, wall });
    }

    /// Sometimes of a day on which daylight saving begins or ends.
    fn jump_before_the_window(&mut self) {
        let near = self.wall();
        let on_transition = self.rng.chance(0.5);
        if let Some(start) = self.scene.window_start_after(near, on_transition) {
            let before = self.rng.between(0, 120_000) as i64;
            self.clock.offset += start.0 - before - near.0;
        }
    }

    pub fn trust_clock(&mut self) {
        if !self.trusted() {
            self.clock.quality = ClockQuality::Synchronised;
            self.drains.changed_at = Some(self.now());
        }
        if self.wall().0 < 1_700_000_000_000 {
            self.clock.offset += 1_767_225_600_000;
            self.drains.changed_at = Some(self.now());
        }
        let wall = self.wall().0;
        self.step(Note::Clock {
            what: "right",
            wall,
        });
    }
}

pub struct SimClock(pub Shared);

impl Clock for SimClock {
    fn wall(&self) -> UnixMillis {
        self.0.lock().wall()
    }
    fn monotonic(&self) -> Duration {
        let world = self.0.lock();
        world.now().saturating_sub(world.clock.booted)
    }
    fn boot(&self) -> BootId {
        BootId(self.0.lock().clock.boot)
    }
    fn quality(&self) -> ClockQuality {
        self.0.lock().clock.quality
    }
    fn best_time_of(&self, received: &ReceivedAt) -> (UnixMillis, ClockQuality) {
        (received.wall, received.quality)
    }
}
