//! What may cross the uplink now: everything, new readings only, or nothing; and how fast.
//!
//! For links that are billed by the byte. Pure: [`decide`] goes from the settings and what is the case to a
//! [`Permit`]; the bridge asks it four times a second, and acts where the answer is another. Invariant: a drain
//! always gets everything through, so what a policy holds back is never held for longer than until the next.

mod settings;
mod windows;

use serde::Serialize;

pub use settings::{AtBudget, DaySpan, Forward, InvalidDaySpan, PolicySettings};
pub use windows::{Opening, Windows};

/// What may cross.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Nothing, and no link: what waits stays where it is.
    #[default]
    Nothing,
    /// New readings; what waited before stays where it is.
    Live,
    /// All that waits.
    All,
}

/// Why not everything may cross.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    /// No window is open.
    Window,
    /// The month's budget is used up.
    Budget,
}

/// What may cross now, and how fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Permit {
    /// What may cross.
    pub scope: Scope,
    /// At most so many bytes a second up; `None`: as fast as the link is.
    pub rate_bytes_per_s: Option<u64>,
    /// Why not everything may cross; `None` where it may.
    pub held_by: Option<Held>,
}

/// What is the case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// A drain runs.
    pub draining: bool,
    /// Whether a window is open.
    pub window: Opening,
    /// Whether there are nightly drains: without a trusted clock they run by uptime.
    pub drains: bool,
    /// The month's budget is used up.
    pub budget_reached: bool,
}

/// What may cross under `settings`.
pub fn decide(settings: &PolicySettings, facts: Facts) -> Permit {
    let all = Permit {
        scope: Scope::All,
        rate_bytes_per_s: None,
        held_by: None,
    };
    if facts.draining {
        return all;
    }
    if facts.budget_reached && settings.at_budget == AtBudget::DrainOnly {
        return Permit {
            scope: Scope::Nothing,
            held_by: Some(Held::Budget),
            ..all
        };
    }
    let limited = Permit {
        rate_bytes_per_s: settings.rate_limit_bytes_per_s,
        ..all
    };
    let held = Some(Held::Window);
    match (facts.window, settings.forward) {
        (Opening::Open, _) => all,
        // No time of day can be told, and nothing would ever come for what is held back.
        (Opening::Unknown, _) if !facts.drains => limited,
        (_, Forward::Always) => limited,
        (_, Forward::LiveFirst) => Permit {
            scope: Scope::Live,
            held_by: held,
            ..limited
        },
        (_, Forward::Windows) => Permit {
            scope: Scope::Nothing,
            held_by: held,
            ..all
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(forward: Forward, at_budget: AtBudget) -> PolicySettings {
        PolicySettings {
            forward,
            at_budget,
            rate_limit_bytes_per_s: Some(8000),
            ..PolicySettings::default()
        }
    }

    fn facts(window: Opening) -> Facts {
        Facts {
            draining: false,
            window,
            drains: true,
            budget_reached: false,
        }
    }

    fn scope(forward: Forward, facts: Facts) -> (Scope, Option<u64>, Option<Held>) {
        let permit = decide(&settings(forward, AtBudget::DrainOnly), facts);
        (permit.scope, permit.rate_bytes_per_s, permit.held_by)
    }

    const FORWARDS: [Forward; 3] = [Forward::Always, Forward::Windows, Forward::LiveFirst];
    const OPENINGS: [Opening; 3] = [Opening::Open, Opening::Closed, Opening::Unknown];

    #[test]
    fn outside_windows_each_policy_holds_back_its_part() {
        let closed = facts(Opening::Closed);
        let held = Some(Held::Window);
        let expected = [
            (Forward::Always, (Scope::All, Some(8000), None)),
            (Forward::Windows, (Scope::Nothing, None, held)),
            (Forward::LiveFirst, (Scope::Live, Some(8000), held)),
        ];
        for (forward, expected) in expected {
            assert_eq!(scope(forward, closed), expected, "{forward:?}");
        }
    }

    #[test]
    fn a_window_takes_the_rate_limit_off_and_lets_everything_through() {
        for forward in FORWARDS {
            let permit = scope(forward, facts(Opening::Open));
            assert_eq!(permit, (Scope::All, None, None), "{forward:?}");
        }
    }

    #[test]
    fn a_drain_takes_every_limit_off() {
        for forward in FORWARDS {
            for window in OPENINGS {
                for budget_reached in [false, true] {
                    let facts = Facts {
                        draining: true,
                        budget_reached,
                        ..facts(window)
                    };
                    assert_eq!(scope(forward, facts), (Scope::All, None, None));
                }
            }
        }
    }

    #[test]
    fn a_budget_that_is_used_up_leaves_the_drains_or_changes_nothing() {
        for window in OPENINGS {
            let reached = Facts {
                budget_reached: true,
                ..facts(window)
            };
            for forward in FORWARDS {
                let stopped = scope(forward, reached);
                assert_eq!(stopped, (Scope::Nothing, None, Some(Held::Budget)));
                let goes_on = settings(forward, AtBudget::GoOn);
                assert_eq!(decide(&goes_on, reached), decide(&goes_on, facts(window)));
            }
        }
    }

    #[test]
    fn without_a_trusted_clock_no_window_opens_and_nothing_is_held_for_ever() {
        let unknown = facts(Opening::Unknown);
        assert_eq!(scope(Forward::Windows, unknown).0, Scope::Nothing);
        assert_eq!(scope(Forward::LiveFirst, unknown).0, Scope::Live);
        let no_drains = Facts {
            drains: false,
            ..unknown
        };
        for forward in FORWARDS {
            assert_eq!(scope(forward, no_drains), (Scope::All, Some(8000), None));
        }
    }
}
