//! What must hold of the uplink's policy: no link where nothing may cross, none outside the windows of a model.

use std::time::Duration;

use hub_bridge::clock::UnixMillis;
use hub_bridge::policy::Scope;
use hub_bridge::settings::Forward;
use hub_bridge::status::UplinkStatus;

use super::world::World;

/// A link that is told to end has said farewell, and a disk of 3 s has confirmed what it brought.
const LINK_ENDS_WITHIN: Duration = Duration::from_secs(20);
/// The bridge looks at the clock four times a second, and a connection takes a while to be made.
const MARGIN_MS: i64 = 30_000;

#[derive(Default)]
pub struct PolicyBook {
    /// Since when nothing may cross, as the status says.
    closed_since: Option<Duration>,
    /// A connection that is outside the windows if no drain called for it: wall time, and drains that had ended.
    to_judge: Option<(Duration, UnixMillis, u64)>,
}

impl PolicyBook {
    pub fn new_life(&mut self) {
        *self = Self::default();
    }
}

impl World {
    /// The clock or the schedule was changed just before `at`.
    fn just_changed(&self, at: Duration) -> bool {
        let margin = at.saturating_sub(Duration::from_secs(30));
        self.drains
            .changed_at
            .is_some_and(|changed| changed >= margin)
    }

    pub fn connected_under_policy(&mut self) {
        let drains = self.drains.running.is_some_and(|id| id > self.drains.ended);
        let windows = self.scene.settings.policy.forward == Forward::Windows;
        let now = self.now();
        if windows && !drains && self.trusted() && !self.just_changed(now) {
            self.policy.to_judge = Some((now, self.wall(), self.drains.ended));
        }
    }

    pub fn judge_policy(&mut self, status: &UplinkStatus) {
        let now = self.now();
        if status.policy.permit.scope == Scope::Nothing {
            let since = *self.policy.closed_since.get_or_insert(now);
            let ended = status.connections == 0 && status.in_flight == 0;
            self.holds(
                ended || now.saturating_sub(since) < LINK_ENDS_WITHIN,
                || {
                    format!(
                        "nothing may cross for {:?}, and there is a link: {status:?}",
                        now.saturating_sub(since)
                    )
                },
            );
        } else {
            self.policy.closed_since = None;
        }
        let Some((at, wall, ended)) = self.policy.to_judge.take() else {
            return;
        };
        let drained = status.drain.is_some() || self.drains.ended != ended;
        if !drained && !self.just_changed(now) {
            let near = self.scene.window_near(wall, MARGIN_MS);
            self.holds(near, || {
                format!("a connection at {at:?}, wall time {wall}, outside all windows")
            });
        }
    }
}
