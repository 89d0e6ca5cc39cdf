//! Keeps an old reading from overwriting a newer retained one at the hub.
//!
//! Readings can overtake each other: a replay, one that was put aside and is tried again, another
//! connection. One that comes after a newer of its topic is sent without the retain flag.

use std::collections::{BTreeMap, HashMap};

use crate::identity::{Epoch, Sequence};

/// How many topics are remembered. With more, the one that was longest ago forwarded is forgotten, and
/// an old reading of it would overwrite: a village has some hundred topics.
const TOPICS_KEPT: usize = 10_000;

/// What retained readings were sent last.
#[derive(Debug, Default)]
pub(crate) struct Retained {
    newest: HashMap<String, Entry>,
    by_use: BTreeMap<u64, String>,
    uses: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    epoch_age: usize,
    epoch: Epoch,
    sequence: Sequence,
    used: u64,
}

impl Retained {
    /// Whether a retained reading may be sent with the flag. `epoch_age` counts epochs from the oldest.
    pub(crate) fn allows(
        &mut self,
        topic: &str,
        epoch_age: usize,
        epoch: Epoch,
        sequence: Sequence,
    ) -> bool {
        self.uses += 1;
        let used = self.uses;
        if let Some(entry) = self.newest.get_mut(topic) {
            let newer = if entry.epoch == epoch {
                sequence >= entry.sequence
            } else {
                epoch_age >= entry.epoch_age
            };
            self.by_use.remove(&entry.used);
            entry.used = used;
            self.by_use.insert(used, topic.to_owned());
            if newer {
                entry.epoch_age = epoch_age;
                entry.epoch = epoch;
                entry.sequence = sequence;
            }
            return newer;
        }
        if self.newest.len() >= TOPICS_KEPT
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.newest.remove(&oldest);
        }
        let entry = Entry {
            epoch_age,
            epoch,
            sequence,
            used,
        };
        self.newest.insert(topic.to_owned(), entry);
        self.by_use.insert(used, topic.to_owned());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_reading_does_not_overwrite_a_newer_one() {
        let mut retained = Retained::default();
        let (old, new) = (Epoch(9), Epoch(1));
        assert!(retained.allows("t", 1, new, Sequence(5)));
        assert!(!retained.allows("t", 1, new, Sequence(4)));
        assert!(retained.allows("t", 1, new, Sequence(5)), "the same again");
        assert!(!retained.allows("t", 0, old, Sequence(900)));
        assert!(retained.allows("other", 0, old, Sequence(900)));
        assert!(retained.allows("other", 1, new, Sequence(1)));
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut retained = Retained::default();
        for n in 0..TOPICS_KEPT as u64 + 500 {
            retained.allows(&format!("t{n}"), 0, Epoch(1), Sequence(n));
        }
        assert_eq!(retained.newest.len(), TOPICS_KEPT);
        assert_eq!(retained.by_use.len(), TOPICS_KEPT);
    }
}
