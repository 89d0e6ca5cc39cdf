//! One reading at a time, to find the one that the hub never takes (see `suspect`).

use super::Link;
use crate::classify::Failure;
use crate::packet::Outgoing;
use crate::suspect::{Id, Mode};

/// The topic of the empty publish that is sent to probe where no other reading waits, below the village's
/// part of the hub's topics.
const PROBE_TOPIC: &str = "relay/probe";
const PROBE_CLIENT: &str = "edge-relay";
/// After the suspect passed, so many go one at a time before full speed: the guilty one may be a later.
const STEPS_AFTER: u32 = 32;

/// How carefully the link goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Care {
    Off,
    /// A probe must pass before anything else is sent.
    Probe {
        suspect: Id,
        skip: usize,
    },
    /// The probe is in flight.
    Probing {
        suspect: Id,
    },
    /// One at a time, until the suspect and some more have passed.
    Steps {
        suspect: Id,
        passed: Option<u32>,
    },
}

impl Care {
    pub(super) fn new(mode: Mode) -> Self {
        match mode {
            Mode::Normal => Self::Off,
            Mode::Careful { suspect, probe } => Self::Probe {
                suspect,
                skip: probe,
            },
        }
    }

    pub(super) fn is_off(self) -> bool {
        self == Self::Off
    }

    pub(super) fn wants_probe(self) -> bool {
        matches!(self, Self::Probe { .. })
    }

    pub(super) fn probe_has_passed(self) -> bool {
        matches!(self, Self::Steps { .. })
    }

    pub(super) fn ask_for_probe(&mut self, suspect: Id, skip: usize) {
        if self.is_off() {
            *self = Self::Probe { suspect, skip };
        }
    }

    pub(super) fn probe_passed(&mut self) {
        if let Self::Probing { suspect } = *self {
            *self = Self::Steps {
                suspect,
                passed: None,
            };
        }
    }

    pub(super) fn passed(&mut self, id: Id) {
        *self = match *self {
            Self::Steps { suspect, .. } if suspect == id => Self::Steps {
                suspect,
                passed: Some(0),
            },
            Self::Steps {
                passed: Some(steps),
                ..
            } if steps >= STEPS_AFTER => Self::Off,
            Self::Steps {
                suspect,
                passed: Some(steps),
            } => Self::Steps {
                suspect,
                passed: Some(steps + 1),
            },
            other => other,
        };
    }
}

impl Link {
    /// Sends a probe: another reading than the suspect's client's, or an empty publish. `false`: nothing is
    /// read yet to choose from.
    pub(super) fn send_probe(&mut self) -> Result<bool, Failure> {
        let Care::Probe { suspect, skip } = self.care else {
            return Ok(false);
        };
        if self.lanes.queued() == 0 && !self.feed.exhausted && self.put_off.is_empty() {
            return Ok(false);
        }
        self.care = Care::Probing { suspect };
        let is_suspect = |item: &super::Item| item.id() == suspect;
        // Every second time with the empty publish: other readings may be as bad as the suspect.
        let other = if skip % 2 == 0 {
            self.lanes.take_other(0, is_suspect, skip / 2)
        } else {
            None
        };
        let packed = other.as_ref().and_then(|item| self.pack(item).ok());
        if let (Some(item), Some(outgoing)) = (other, packed) {
            self.launch(0, Some(item), outgoing, true)?;
        } else {
            self.launch_empty_probe()?;
        }
        Ok(true)
    }

    fn launch_empty_probe(&mut self) -> Result<(), Failure> {
        let settings = &self.parts.settings;
        let topic = settings
            .hub
            .topic
            .render(&settings.village, PROBE_CLIENT, PROBE_TOPIC);
        let outgoing = Outgoing {
            topic,
            retain: false,
            payload: bytes::Bytes::new(),
            properties: None,
        };
        self.launch(0, None, outgoing, true)
    }
}
