//! Finds the one reading that breaks every connection, so that it does not block the village.
//!
//! A hub that cannot take a reading often has no way to say so: it closes the connection (all that MQTT 3.1.1
//! offers), or stalls. A bad link looks the same. So: when the same reading was the lowest unconfirmed one at three
//! losses in a row, the next connections go carefully: first a probe (another reading, alone, or an empty
//! publish where none waits), then the suspect, alone, and on one by one through all that was under way
//! at the loss. It is put aside when it was the lowest at [`LOSSES_MAX`] losses, and in the last of them was alone in
//! flight after a probe had passed. A link that is just bad fails the probes too, and puts nothing aside.

use crate::identity::{Epoch, Sequence};

/// Losses with one and the same lowest reading before it is put aside.
pub(crate) const LOSSES_MAX: u32 = 5;
/// Losses before the bridge goes carefully.
const LOSSES_BEFORE_CARE: u32 = 3;

/// A reading of this store.
pub(crate) type Id = (Epoch, Sequence);

/// How the next connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As fast as the link takes it.
    Normal,
    /// One reading at a time, the first after a probe. With the index of the reading to probe with, counted from
    /// the one after the suspect: another each time a probe did not pass.
    Careful { suspect: Id, probe: usize },
}

/// How a connection was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Loss {
    /// The lowest reading that was in flight, the probe left out.
    pub(crate) lowest: Option<Id>,
    /// It was alone in flight, after a probe that passed.
    pub(crate) alone_after_probe: bool,
    /// The probe was sent and did not pass.
    pub(crate) probe_lost: bool,
}

/// What is suspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Suspects {
    suspect: Option<Id>,
    losses: u32,
    probes_lost: usize,
}

impl Suspects {
    /// How to go about the next connection.
    pub(crate) fn mode(&self) -> Mode {
        match self.suspect {
            Some(suspect) if self.losses >= LOSSES_BEFORE_CARE => Mode::Careful {
                suspect,
                probe: self.probes_lost,
            },
            _ => Mode::Normal,
        }
    }

    /// A connection was lost on which something had been in flight. Gives the reading to put aside.
    pub(crate) fn lost(&mut self, loss: Loss) -> Option<Id> {
        if loss.probe_lost {
            self.probes_lost += 1;
            return None;
        }
        let lowest = loss.lowest?;
        if self.suspect == Some(lowest) {
            self.losses += 1;
        } else {
            // While going carefully, a loss with one reading in flight accuses that one as strongly as the
            // losses before accused the lowest of many.
            let careful = self.losses >= LOSSES_BEFORE_CARE && loss.alone_after_probe;
            *self = Self {
                suspect: Some(lowest),
                losses: if careful { LOSSES_BEFORE_CARE } else { 1 },
                probes_lost: 0,
            };
        }
        if self.losses >= LOSSES_MAX && loss.alone_after_probe {
            *self = Self::default();
            return Some(lowest);
        }
        None
    }

    /// How many probes did not pass since the suspicion began.
    pub(crate) fn probes_lost(&self) -> usize {
        self.probes_lost
    }

    /// The hub refused the probe: the next goes with another, for it may be this one that the hub does not want.
    pub(crate) fn probe_refused(&mut self) {
        self.probes_lost += 1;
    }

    /// A reading was confirmed. The suspicion ends when the suspect itself passes.
    pub(crate) fn confirmed(&mut self, id: Id) {
        if self.suspect == Some(id) {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: Id = (Epoch(1), Sequence(7));

    fn loss(lowest: Id, alone_after_probe: bool) -> Loss {
        Loss {
            lowest: Some(lowest),
            alone_after_probe,
            probe_lost: false,
        }
    }

    #[test]
    fn the_lowest_at_five_losses_is_put_aside_while_a_probe_passes() {
        let mut suspects = Suspects::default();
        for n in 0..3 {
            assert_eq!(suspects.mode(), Mode::Normal, "{n}");
            assert_eq!(suspects.lost(loss(BAD, false)), None);
        }
        assert!(matches!(
            suspects.mode(),
            Mode::Careful { suspect: BAD, .. }
        ));
        assert_eq!(suspects.lost(loss(BAD, true)), None);
        assert_eq!(suspects.lost(loss(BAD, true)), Some(BAD));
        assert_eq!(suspects.mode(), Mode::Normal);
    }

    #[test]
    fn a_bad_link_puts_nothing_aside() {
        let mut suspects = Suspects::default();
        for _ in 0..3 {
            assert_eq!(suspects.lost(loss(BAD, false)), None);
        }
        for _ in 0..100 {
            let probe_lost = Loss {
                lowest: None,
                alone_after_probe: false,
                probe_lost: true,
            };
            assert_eq!(suspects.lost(probe_lost), None);
            assert_eq!(suspects.lost(loss(BAD, false)), None);
        }
    }

    #[test]
    fn a_probe_that_is_refused_is_not_sent_again_and_again() {
        let mut suspects = Suspects::default();
        for _ in 0..3 {
            suspects.lost(loss(BAD, false));
        }
        let probe = |suspects: &Suspects| match suspects.mode() {
            Mode::Careful { probe, .. } => probe,
            Mode::Normal => panic!("not careful"),
        };
        let first = probe(&suspects);
        suspects.probe_refused();
        assert_ne!(probe(&suspects), first);
    }

    #[test]
    fn one_that_passes_is_no_longer_suspected() {
        let mut suspects = Suspects::default();
        for _ in 0..4 {
            suspects.lost(loss(BAD, false));
        }
        suspects.confirmed(BAD);
        assert_eq!(suspects.mode(), Mode::Normal);
        assert_eq!(suspects.lost(loss(BAD, true)), None);
    }
}
