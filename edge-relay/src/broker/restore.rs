//! Puts the broker together again from what its state database held.
//!
//! What is damaged is left out, counted and said; the rest stands.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::record::{self, Key};
use super::session::Session;
use super::{Core, topic};

impl Core {
    /// Puts together what the state database held.
    pub(super) fn restore(
        &mut self,
        found: Vec<(Vec<u8>, Vec<u8>)>,
        now: Duration,
        in_flight_max: usize,
    ) {
        let mut later = Vec::new();
        let mut released = HashSet::new();
        let mut damaged = 0u64;
        for (key, value) in found {
            let done = match Key::decode(&key) {
                Some(Key::Session(client)) => record::decode_session(&value)
                    .map(|stored| self.restore_session(&client, stored, now)),
                Some(Key::Retained(topic)) => record::decode_message(&value, now)
                    .map(|message| self.retained.restore(&topic, message)),
                Some(Key::Will(_)) => {
                    record::decode_will(&value, now).map(|waiting| self.wills.restore(waiting, now))
                }
                Some(Key::Released(client, number)) => {
                    released.insert((client, number));
                    Some(())
                }
                Some(key) => {
                    later.push((key, value));
                    Some(())
                }
                None => None,
            };
            damaged += u64::from(done.is_none());
        }
        later.sort_by_key(|(key, _)| match key {
            Key::Queued(_, number) => *number,
            _ => 0,
        });
        for (key, value) in later {
            let done = self.restore_part(key, &value, &released, now, in_flight_max);
            damaged += u64::from(done.is_none());
        }
        if damaged > 0 {
            tracing::error!(
                damaged,
                "records of the broker's state were damaged and are lost"
            );
        }
    }

    fn restore_session(&mut self, client: &str, stored: record::StoredSession, now: Duration) {
        let client: Arc<str> = client.into();
        let key = self.new_key();
        let mut session = Session::new(client.clone(), stored.expiry);
        session.absent_since = Some(now);
        session.set_next_number(stored.next_number);
        for (filter, options) in &stored.subscriptions {
            if let Ok(parsed) = topic::parse_filter(filter) {
                self.subscriptions.insert(parsed, key, *options);
            }
        }
        session.subscriptions = stored.subscriptions;
        self.by_client.insert(client, key);
        self.sessions.insert(key, session);
    }

    fn restore_part(
        &mut self,
        key: Key,
        value: &[u8],
        released: &HashSet<(String, u64)>,
        now: Duration,
        in_flight_max: usize,
    ) -> Option<()> {
        match key {
            Key::Queued(client, number) => {
                let delivery = record::decode_delivery(value, now)?;
                let bytes = delivery.message.size_bytes();
                let session = self.by_client.get(client.as_str())?;
                let session = self.sessions.get_mut(session)?;
                let released = released.contains(&(client, number));
                session.restore(number, delivery, released, in_flight_max);
                self.queued_bytes += bytes;
            }
            Key::Settled(client) => {
                let position = record::decode_position(value)?;
                let session = self.by_client.get(client.as_str())?;
                self.sessions.get_mut(session)?.settled = Some(position);
            }
            Key::Received(client, id) => {
                let session = self.by_client.get(client.as_str())?;
                self.sessions.get_mut(session)?.received.insert(id);
            }
            Key::Session(_) | Key::Released(..) | Key::Retained(_) | Key::Will(_) => {}
        }
        Some(())
    }
}
