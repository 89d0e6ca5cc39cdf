//! Who saw what: the readings whose PUBACK a meter has seen, and those that the hub's subscriber got.
//! The demo's verdict is the difference.

use std::collections::HashSet;
use std::fmt;

use parking_lot::Mutex;
use serde::Deserialize;

use super::solar::{Day, Device};

/// A reading by its own content: the device and the step of the day.
type Reading = (Device, u32);

/// The ledger of one demo, shared by the meters and the hub's subscriber.
#[derive(Debug)]
pub(super) struct Ledger {
    day: Day,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    acknowledged: HashSet<Reading>,
    at_hub: HashSet<Reading>,
    ids: HashSet<String>,
    deliveries: u64,
    duplicates: u64,
    foreign: u64,
}

/// What it came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Readings whose PUBACK a meter saw.
    pub(super) acknowledged: usize,
    /// Different readings that the hub's subscriber got.
    pub(super) at_hub: usize,
    /// Acknowledged and not at the hub.
    pub(super) missing: usize,
    /// Deliveries of an `id` that had been delivered before.
    pub(super) duplicates: u64,
    /// Deliveries of a reading that had come under another `id`: the meter sent it twice.
    pub(super) repeated_by_meters: u64,
    /// Deliveries that are not, byte for byte, what a device publishes.
    pub(super) foreign: u64,
}

impl Verdict {
    /// Whether every acknowledged reading is at the hub as it was published.
    pub(super) fn is_complete(self) -> bool {
        self.missing == 0 && self.foreign == 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            acknowledged,
            at_hub,
            missing,
            duplicates,
            ..
        } = self;
        write!(
            out,
            "demo: acknowledged {acknowledged}, at the hub {at_hub}, missing {missing}, duplicates {duplicates}"
        )
    }
}

#[derive(Deserialize)]
struct Named {
    device: String,
    n: u32,
}

impl Ledger {
    /// An empty ledger for that day.
    pub(super) fn new(day: Day) -> Self {
        Self {
            day,
            entries: Mutex::default(),
        }
    }

    /// The day whose readings are counted.
    pub(super) fn day(&self) -> &Day {
        &self.day
    }

    /// A meter saw the PUBACK of its reading.
    pub(super) fn acknowledge(&self, device: Device, step: u32) {
        self.entries.lock().acknowledged.insert((device, step));
    }

    /// The hub's subscriber got a message, with the `id` that the relay gave it.
    pub(super) fn deliver(&self, payload: &[u8], id: Option<&str>) {
        let reading = self.recognise(payload);
        let mut entries = self.entries.lock();
        entries.deliveries += 1;
        let Some(reading) = reading else {
            entries.foreign += 1;
            return;
        };
        let new = entries.at_hub.insert(reading);
        let repeated = match id {
            Some(id) => !entries.ids.insert(id.to_owned()),
            // MQTT 3.1.1 carries no identity: the content is all there is to go by.
            None => !new,
        };
        entries.duplicates += u64::from(repeated);
    }

    fn recognise(&self, payload: &[u8]) -> Option<Reading> {
        let Named { device, n } = serde_json::from_slice(payload).ok()?;
        let device = Device::from_name(&device)?;
        (self.day.payload(device, n).as_bytes() == payload).then_some((device, n))
    }

    /// The state of things.
    pub(super) fn verdict(&self) -> Verdict {
        let entries = self.entries.lock();
        let unique = u64::try_from(entries.at_hub.len()).unwrap_or(u64::MAX);
        Verdict {
            acknowledged: entries.acknowledged.len(),
            at_hub: entries.at_hub.len(),
            missing: entries.acknowledged.difference(&entries.at_hub).count(),
            duplicates: entries.duplicates,
            repeated_by_meters: entries
                .deliveries
                .saturating_sub(unique)
                .saturating_sub(entries.duplicates)
                .saturating_sub(entries.foreign),
            foreign: entries.foreign,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_that_does_not_arrive_is_missing() {
        let ledger = Ledger::new(Day::new(2));
        let payload = ledger.day().payload(Device::Battery, 7);
        ledger.acknowledge(Device::Battery, 7);
        ledger.acknowledge(Device::Household(1), 7);
        ledger.deliver(payload.as_bytes(), Some("0000000a/1"));
        let verdict = ledger.verdict();
        assert_eq!(
            (verdict.acknowledged, verdict.at_hub, verdict.missing),
            (2, 1, 1)
        );
        assert!(!verdict.is_complete());
        assert_eq!(
            verdict.to_string(),
            "demo: acknowledged 2, at the hub 1, missing 1, duplicates 0"
        );
    }

    #[test]
    fn the_same_id_is_a_duplicate_and_another_id_is_the_meters_repetition() {
        let ledger = Ledger::new(Day::new(2));
        let payload = ledger.day().payload(Device::Inverter, 0);
        for id in ["0000000a/1", "0000000a/1", "0000000a/2"] {
            ledger.deliver(payload.as_bytes(), Some(id));
        }
        let verdict = ledger.verdict();
        assert_eq!(
            (
                verdict.at_hub,
                verdict.duplicates,
                verdict.repeated_by_meters
            ),
            (1, 1, 1)
        );
    }

    #[test]
    fn an_altered_payload_is_foreign() {
        let ledger = Ledger::new(Day::new(2));
        let payload = ledger
            .day()
            .payload(Device::Inverter, 0)
            .replace("night", "Night");
        ledger.deliver(payload.as_bytes(), None);
        assert!(!ledger.verdict().is_complete());
        assert_eq!(ledger.verdict().foreign, 1);
    }
}
