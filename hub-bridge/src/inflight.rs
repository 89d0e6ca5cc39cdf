//! Which packet id carries which reading, on one connection.
//!
//! Invariant: a ticket is under one packet id from its departure to its acknowledgement, and an id carries one ticket
//! at a time. A PUBACK for an id that carries nothing is the hub's lie, and ends the connection.

use std::collections::HashMap;

/// A publish that was submitted, numbered by the one who submitted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// An MQTT packet id, 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PacketId(pub u16);

/// Why an event does not fit what was sent before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InFlightError {
    /// Every packet id carries something.
    #[error("all 65535 packet ids are in flight")]
    Full,
    /// The hub acknowledged what it was never sent.
    #[error("the hub acknowledged packet id {0:?}, which carries nothing")]
    NeverSent(PacketId),
}

/// The publishes of one connection.
#[derive(Debug, Default)]
pub struct InFlight {
    last: u16,
    sent: HashMap<PacketId, Ticket>,
}

impl InFlight {
    /// The packet id that `ticket` leaves under: the next in turn that carries nothing.
    pub fn depart(&mut self, ticket: Ticket) -> Result<PacketId, InFlightError> {
        if self.sent.len() >= usize::from(u16::MAX) {
            return Err(InFlightError::Full);
        }
        loop {
            self.last = self.last.checked_add(1).unwrap_or(1);
            let id = PacketId(self.last);
            if let std::collections::hash_map::Entry::Vacant(place) = self.sent.entry(id) {
                place.insert(ticket);
                return Ok(id);
            }
        }
    }

    /// The hub acknowledged `id`.
    pub fn acknowledged(&mut self, id: PacketId) -> Result<Ticket, InFlightError> {
        self.sent.remove(&id).ok_or(InFlightError::NeverSent(id))
    }

    /// How many are sent and not acknowledged.
    pub fn len(&self) -> usize {
        self.sent.len()
    }

    /// Whether nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn acknowledging_what_was_never_sent_is_an_error() {
        let mut flight = InFlight::default();
        let id = PacketId(1);
        assert_eq!(flight.acknowledged(id), Err(InFlightError::NeverSent(id)));
        assert_eq!(flight.depart(Ticket(1)), Ok(id));
        assert_eq!(flight.acknowledged(id), Ok(Ticket(1)));
        assert_eq!(flight.acknowledged(id), Err(InFlightError::NeverSent(id)));
    }

    #[test]
    fn there_are_65535_packet_ids_and_zero_is_none_of_them() {
        let mut flight = InFlight::default();
        for ticket in 1..=65_535 {
            let id = flight.depart(Ticket(ticket)).unwrap();
            assert_ne!(id, PacketId(0));
        }
        assert_eq!(flight.depart(Ticket(0)), Err(InFlightError::Full));
        flight.acknowledged(PacketId(77)).unwrap();
        assert_eq!(flight.depart(Ticket(0)), Ok(PacketId(77)));
    }

    proptest! {
        /// Packet ids that roll over, acknowledgements in any order: every acknowledgement names the publish
        /// that left under that id, nothing is named twice, and no id is given out while it is in flight.
        #[test]
        fn every_acknowledgement_names_its_publish(start in 65_500u16.., steps in prop::collection::vec((any::<bool>(), any::<usize>()), 0..400)) {
            let mut flight = InFlight { last: start, ..InFlight::default() };
            let mut model: Vec<(PacketId, Ticket)> = Vec::new();
            let mut seen = std::collections::HashSet::new();
            for (number, (departs, pick)) in steps.into_iter().enumerate() {
                if departs {
                    let ticket = Ticket(number as u64);
                    let id = flight.depart(ticket).unwrap();
                    prop_assert!(model.iter().all(|(used, _)| *used != id));
                    model.push((id, ticket));
                } else if !model.is_empty() {
                    let (id, ticket) = model.swap_remove(pick % model.len());
                    prop_assert_eq!(flight.acknowledged(id), Ok(ticket));
                    prop_assert!(seen.insert(ticket));
                }
            }
            prop_assert_eq!(flight.len(), model.len());
        }
    }
}
