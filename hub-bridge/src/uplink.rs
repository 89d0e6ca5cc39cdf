//! The uplink's state machine: what to do when the link comes, goes, fills and empties.
//!
//! Pure: [`Uplink::step`] takes the state and an event and gives the next state and what to do. The one who
//! calls it owns sockets and timers. Timers that come late are recognised by the state they find.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::backoff::Backoff;
use crate::classify::ErrorClass;
use crate::settings::RetrySettings;

/// The state as shown in status, logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UplinkState {
    /// Outside a window, or not running.
    #[default]
    Waiting,
    /// A connection is being made.
    Connecting,
    /// Connected, and nothing to send.
    Connected,
    /// Readings are on their way.
    Forwarding,
    /// Readings are on their way, and a drain runs.
    Draining,
    /// The last connection failed; the next comes later.
    BackingOff,
}

impl UplinkState {
    /// All of them, for metrics.
    pub const ALL: [Self; 6] = [
        Self::Waiting,
        Self::Connecting,
        Self::Connected,
        Self::Forwarding,
        Self::Draining,
        Self::BackingOff,
    ];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Forwarding => "forwarding",
            Self::Draining => "draining",
            Self::BackingOff => "backing_off",
        }
    }
}

/// Where the link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No link is wanted.
    Waiting,
    /// A connection is being made.
    Connecting,
    /// The hub said CONNACK.
    Up {
        /// Whether readings wait or are under way.
        busy: bool,
    },
    /// The next connection comes at `until`, monotonic time.
    BackingOff {
        /// Monotonic time.
        until: Duration,
    },
    /// A link that must end before the next begins; `again`: there will be one.
    Closing {
        /// Connect again once it is down.
        again: bool,
    },
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The uplink may be used from now on.
    Open,
    /// It may not (stop, or a policy's window closed).
    Close,
    /// The first connection of the link is accepted.
    Up,
    /// Readings wait, or are under way.
    Filled,
    /// All that is known of is confirmed.
    Emptied,
    /// The hub acknowledged something.
    Moved,
    /// The link ended by itself.
    Down(ErrorClass),
    /// The link ended because it was told to.
    Closed,
    /// A timer fired.
    Due,
    /// Connect at once if not connected: a drain's attempt begins, or the settings of waiting changed.
    Hurry,
    /// Other settings: what is connected must be connected anew.
    Changed,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Begin a link.
    Connect,
    /// End the link.
    Disconnect,
    /// Send [`Event::Due`] then.
    WakeAt(Duration),
}

/// The machine's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uplink {
    /// Where the link is.
    pub phase: Phase,
    /// The failures in a row.
    pub backoff: Backoff,
}

impl Default for Uplink {
    fn default() -> Self {
        Self {
            phase: Phase::Waiting,
            backoff: Backoff::default(),
        }
    }
}

impl Uplink {
    /// The next state and what to do. `now` is monotonic; `dice` is in `0.0..1.0`.
    #[must_use]
    pub fn step(
        self,
        event: Event,
        now: Duration,
        settings: &RetrySettings,
        dice: f64,
    ) -> (Self, Option<Action>) {
        use Phase::{BackingOff, Closing, Connecting, Up, Waiting};
        let to = |phase| Self { phase, ..self };
        let fresh = |phase| Self {
            phase,
            backoff: Backoff::default(),
        };
        match (self.phase, event) {
            (Waiting, Event::Open)
            | (BackingOff { .. }, Event::Changed)
            | (Closing { again: true }, Event::Closed | Event::Down(_)) => {
                (fresh(Connecting), Some(Action::Connect))
            }
            (Closing { .. }, Event::Open | Event::Hurry | Event::Changed) => {
                let again = event == Event::Open || self.phase == Closing { again: true };
                (to(Closing { again }), None)
            }
            (Closing { again: false }, Event::Closed | Event::Down(_))
            | (Connecting | Up { .. }, Event::Closed)
            | (BackingOff { .. }, Event::Close) => (fresh(Waiting), None),
            (Closing { .. }, Event::Close) => (to(Closing { again: false }), None),

            (Connecting | Up { .. }, Event::Close) => {
                (to(Closing { again: false }), Some(Action::Disconnect))
            }
            (Connecting | Up { .. }, Event::Changed) => {
                (to(Closing { again: true }), Some(Action::Disconnect))
            }
            (Connecting | Up { .. }, Event::Down(class)) => {
                self.backed_off(class, now, settings, dice)
            }

            (Connecting, Event::Up) | (Up { .. }, Event::Emptied) => (to(Up { busy: false }), None),
            (Up { .. }, Event::Filled) => (to(Up { busy: true }), None),
            (Up { .. }, Event::Moved) => (fresh(self.phase), None),

            (BackingOff { until }, Event::Due) if now < until => {
                (self, Some(Action::WakeAt(until)))
            }
            (BackingOff { .. }, Event::Due | Event::Hurry) => {
                (to(Connecting), Some(Action::Connect))
            }
            // What comes late, or changes nothing here.
            (Waiting, _)
            | (Connecting | Up { .. }, Event::Open | Event::Hurry | Event::Due)
            | (Connecting, Event::Filled | Event::Emptied | Event::Moved)
            | (Up { .. }, Event::Up)
            | (
                BackingOff { .. },
                Event::Open
                | Event::Up
                | Event::Filled
                | Event::Emptied
                | Event::Moved
                | Event::Down(_)
                | Event::Closed,
            )
            | (
                Closing { .. },
                Event::Up | Event::Filled | Event::Emptied | Event::Moved | Event::Due,
            ) => (self, None),
        }
    }

    fn backed_off(
        self,
        class: ErrorClass,
        now: Duration,
        settings: &RetrySettings,
        dice: f64,
    ) -> (Self, Option<Action>) {
        let (backoff, wait) = self.backoff.failed(class, now, settings, dice);
        if wait.is_zero() {
            let phase = Phase::Connecting;
            return (Self { phase, backoff }, Some(Action::Connect));
        }
        let until = now + wait;
        let phase = Phase::BackingOff { until };
        (Self { phase, backoff }, Some(Action::WakeAt(until)))
    }

    /// The state to show.
    pub fn shown(self, draining: bool) -> UplinkState {
        match self.phase {
            Phase::Waiting | Phase::Closing { again: false } => UplinkState::Waiting,
            Phase::Connecting | Phase::Closing { again: true } => UplinkState::Connecting,
            Phase::Up { busy: false } => UplinkState::Connected,
            Phase::Up { busy: true } if draining => UplinkState::Draining,
            Phase::Up { busy: true } => UplinkState::Forwarding,
            Phase::BackingOff { .. } => UplinkState::BackingOff,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn walk(events: &[Event]) -> (Uplink, Vec<Action>) {
        let settings = RetrySettings::default();
        let mut uplink = Uplink::default();
        let mut actions = Vec::new();
        for event in events {
            let (next, action) = uplink.step(*event, Duration::ZERO, &settings, 0.5);
            uplink = next;
            actions.extend(action);
        }
        (uplink, actions)
    }

    #[test]
    fn a_link_comes_fills_and_empties() {
        let (uplink, actions) = walk(&[Event::Open, Event::Up, Event::Filled]);
        assert_eq!(uplink.shown(false), UplinkState::Forwarding);
        assert_eq!(uplink.shown(true), UplinkState::Draining);
        assert_eq!(actions, [Action::Connect]);
        let (uplink, _) = walk(&[Event::Open, Event::Up, Event::Filled, Event::Emptied]);
        assert_eq!(uplink.shown(true), UplinkState::Connected);
    }

    #[test]
    fn the_first_cut_is_answered_at_once_and_the_next_waits() {
        let down = Event::Down(ErrorClass::Connect);
        let (uplink, actions) = walk(&[Event::Open, Event::Up, Event::Moved, down]);
        assert_eq!(uplink.phase, Phase::Connecting);
        assert_eq!(actions, [Action::Connect, Action::Connect]);
        let (uplink, _) = walk(&[Event::Open, Event::Up, Event::Moved, down, down]);
        assert_eq!(
            uplink.phase,
            Phase::BackingOff {
                until: Duration::from_millis(100)
            }
        );
    }

    #[test]
    fn only_progress_resets_the_waits() {
        let down = Event::Down(ErrorClass::Connect);
        let (stuck, _) = walk(&[Event::Open, down, down, Event::Hurry, Event::Up, down]);
        assert_eq!(stuck.backoff.failures(), 3);
        let (moved, _) = walk(&[
            Event::Open,
            down,
            down,
            Event::Hurry,
            Event::Up,
            Event::Moved,
        ]);
        assert_eq!(moved.backoff.failures(), 0);
    }

    #[test]
    fn a_change_of_settings_connects_anew_and_at_once() {
        let (_, actions) = walk(&[Event::Open, Event::Up, Event::Changed, Event::Closed]);
        assert_eq!(
            actions,
            [Action::Connect, Action::Disconnect, Action::Connect]
        );
        let auth = Event::Down(ErrorClass::Auth);
        let (uplink, actions) = walk(&[Event::Open, auth, Event::Changed]);
        assert_eq!(uplink.phase, Phase::Connecting);
        assert_eq!(actions.len(), 3);
    }

    #[test]
    fn a_timer_that_comes_early_is_set_again() {
        let auth = Event::Down(ErrorClass::Auth);
        let (uplink, actions) = walk(&[Event::Open, auth, Event::Due]);
        assert!(matches!(uplink.phase, Phase::BackingOff { .. }));
        assert!(matches!(actions.last(), Some(Action::WakeAt(_))));
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Open),
            Just(Event::Close),
            Just(Event::Up),
            Just(Event::Filled),
            Just(Event::Emptied),
            Just(Event::Moved),
            prop::sample::select(ErrorClass::ALL.to_vec()).prop_map(Event::Down),
            Just(Event::Closed),
            Just(Event::Due),
            Just(Event::Hurry),
            Just(Event::Changed),
        ]
    }

    proptest! {
        /// Whatever comes: never two links at once, none ended that is not there, and a machine that backs
        /// off has a timer that ends it.
        #[test]
        fn there_is_at_most_one_link(events in prop::collection::vec((any_event(), 0.0f64..1.0), 0..200)) {
            let settings = RetrySettings::default();
            let mut uplink = Uplink::default();
            let mut linked = false;
            let mut now = Duration::ZERO;
            for (event, dice) in events {
                now += Duration::from_millis(50);
                // A link that is not there does not speak.
                let of_link = matches!(event, Event::Up | Event::Filled | Event::Emptied | Event::Moved | Event::Down(_) | Event::Closed);
                if of_link && !linked {
                    continue;
                }
                if matches!(event, Event::Down(_) | Event::Closed) {
                    linked = false;
                }
                let (next, action) = uplink.step(event, now, &settings, dice);
                match action {
                    Some(Action::Connect) => {
                        prop_assert!(!linked);
                        linked = true;
                    }
                    Some(Action::Disconnect) => prop_assert!(linked),
                    Some(Action::WakeAt(at)) => prop_assert!(at >= now),
                    None => {}
                }
                let wants = matches!(next.phase, Phase::Connecting | Phase::Up { .. } | Phase::Closing { .. });
                prop_assert_eq!(linked, wants, "{:?}", next);
                uplink = next;
            }
        }
    }
}
