//! Which packet id carries which reading, on one connection.
//!
//! rumqttc gives no notice for a publish: it draws the packet id when it sends. So readings are submitted
//! into a queue, and each `Outgoing::Publish(pkid)` takes the first of it. Invariant: a ticket is in the
//! queue, or under one packet id, or resolved, and only ever moves in that order. A PUBACK for an id that
//! carries nothing is the hub's lie, and ends the connection.

use std::collections::{HashMap, VecDeque};

/// A publish that was submitted, numbered by the one who submitted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// An MQTT packet id, 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PacketId(pub u16);

/// Why an event does not fit what was sent before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InFlightError {
    /// The client sent a publish that nobody submitted.
    #[error("packet id {0:?} was sent, but nothing was submitted")]
    NothingSubmitted(PacketId),
    /// The client gave a packet id to a second publish before the first was acknowledged.
    #[error("packet id {0:?} was given out twice")]
    StillInFlight(PacketId),
    /// The hub acknowledged what it was never sent.
    #[error("the hub acknowledged packet id {0:?}, which carries nothing")]
    NeverSent(PacketId),
}

/// The publishes of one connection.
#[derive(Debug, Default)]
pub struct InFlight {
    submitted: VecDeque<Ticket>,
    sent: HashMap<PacketId, Ticket>,
}

impl InFlight {
    /// A publish was given to the client.
    pub fn submit(&mut self, ticket: Ticket) {
        self.submitted.push_back(ticket);
    }

    /// The client sent the oldest submitted publish under `id`.
    pub fn sent(&mut self, id: PacketId) -> Result<Ticket, InFlightError> {
        if self.sent.contains_key(&id) {
            return Err(InFlightError::StillInFlight(id));
        }
        let ticket = self
            .submitted
            .pop_front()
            .ok_or(InFlightError::NothingSubmitted(id))?;
        self.sent.insert(id, ticket);
        Ok(ticket)
    }

    /// The hub acknowledged `id`.
    pub fn acknowledged(&mut self, id: PacketId) -> Result<Ticket, InFlightError> {
        self.sent.remove(&id).ok_or(InFlightError::NeverSent(id))
    }

    /// How many are submitted or sent and not acknowledged.
    pub fn len(&self) -> usize {
        self.submitted.len() + self.sent.len()
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
        flight.submit(Ticket(1));
        let id = PacketId(1);
        assert_eq!(flight.acknowledged(id), Err(InFlightError::NeverSent(id)));
        assert_eq!(flight.sent(id), Ok(Ticket(1)));
        assert_eq!(flight.acknowledged(id), Ok(Ticket(1)));
        assert_eq!(flight.acknowledged(id), Err(InFlightError::NeverSent(id)));
        assert_eq!(flight.sent(id), Err(InFlightError::NothingSubmitted(id)));
    }

    proptest! {
        /// Packet ids that roll over, acknowledgements in any order: every acknowledgement names the publish
        /// that the model says was sent under that id, and nothing is named twice.
        #[test]
        fn every_acknowledgement_names_its_publish(steps in prop::collection::vec(0u8..3, 0..400), picks in prop::collection::vec(any::<usize>(), 400)) {
            let mut flight = InFlight::default();
            let (mut submitted, mut sent_count, mut next_id) = (0u64, 0u64, 0u16);
            let mut model: Vec<(PacketId, Ticket)> = Vec::new();
            let mut seen = std::collections::HashSet::new();
            for (step, pick) in steps.into_iter().zip(picks) {
                match step {
                    0 => { submitted += 1; flight.submit(Ticket(submitted)); }
                    1 if sent_count < submitted => {
                        next_id = next_id % 7 + 1;
                        let id = PacketId(next_id);
                        if model.iter().any(|(used, _)| *used == id) {
                            prop_assert_eq!(flight.sent(id), Err(InFlightError::StillInFlight(id)));
                        } else {
                            sent_count += 1;
                            prop_assert_eq!(flight.sent(id), Ok(Ticket(sent_count)));
                            model.push((id, Ticket(sent_count)));
                        }
                    }
                    2 if !model.is_empty() => {
                        let (id, ticket) = model.remove(pick % model.len());
                        prop_assert_eq!(flight.acknowledged(id), Ok(ticket));
                        prop_assert!(seen.insert(ticket));
                    }
                    _ => {}
                }
            }
            prop_assert_eq!(flight.len() as u64, submitted - seen.len() as u64);
        }
    }
}
