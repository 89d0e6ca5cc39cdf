//! The records of the last drains, kept in `data_dir/drains.json`.
//!
//! What failure leaves behind: a file that cannot be read or written costs the history, never a drain.

use std::path::{Path, PathBuf};

use hub_bridge::drain::{DrainLog, DrainRecord, RECORDS_KEPT};
use parking_lot::Mutex;
use tracing::warn;

use crate::durable;

/// The last [`RECORDS_KEPT`] drains, and the last scheduled one however long ago.
pub struct KeptDrains {
    path: PathBuf,
    records: Mutex<Vec<DrainRecord>>,
}

impl KeptDrains {
    /// As `data_dir` has them; none where the file is missing or damaged.
    pub fn open(data_dir: &Path) -> Self {
        let path = data_dir.join("drains.json");
        let records = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                warn!(path = %path.display(), %error, "damaged, the history of drains is lost");
                Vec::new()
            }),
            Err(_) => Vec::new(),
        };
        Self {
            path,
            records: Mutex::new(records),
        }
    }

    /// All that are kept, oldest first.
    pub fn all(&self) -> Vec<DrainRecord> {
        self.records.lock().clone()
    }
}

impl DrainLog for KeptDrains {
    fn record(&self, record: &DrainRecord) {
        let mut records = self.records.lock();
        records.push(record.clone());
        while records.len() > RECORDS_KEPT {
            let scheduled = records.iter().rposition(is_trusted_schedule);
            // The last scheduled one says whether a night was missed: it stays.
            records.remove(usize::from(scheduled == Some(0)));
        }
        let written = serde_json::to_vec(&*records)
            .map_err(|error| error.to_string())
            .and_then(|bytes| durable::write_atomic(&self.path, &bytes).map_err(|e| e.to_string()));
        if let Err(error) = written {
            warn!(error, "the record of a drain could not be kept");
        }
    }

    fn last(&self) -> Option<DrainRecord> {
        self.records.lock().last().cloned()
    }

    fn last_scheduled(&self) -> Option<DrainRecord> {
        self.records
            .lock()
            .iter()
            .rev()
            .find(|r| is_trusted_schedule(r))
            .cloned()
    }
}

fn is_trusted_schedule(record: &DrainRecord) -> bool {
    record.cause.is_scheduled() && record.clock_trusted
}

#[cfg(test)]
mod tests {
    use hub_bridge::clock::UnixMillis;
    use hub_bridge::drain::{DrainCause, DrainOutcome};

    use super::*;

    fn record(id: u64, cause: DrainCause) -> DrainRecord {
        DrainRecord {
            id,
            cause,
            started: UnixMillis(1_790_000_000_000),
            clock_trusted: true,
            ended: None,
            attempts: 1,
            readings: 10,
            bytes: 2000,
            waiting_at_start: 10,
            outcome: Some(DrainOutcome::Done),
            error: None,
        }
    }

    #[test]
    fn the_last_hundred_and_the_last_scheduled_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let drains = KeptDrains::open(dir.path());
        assert_eq!(drains.last(), None);
        drains.record(&record(1, DrainCause::Window));
        for id in 2..=250 {
            drains.record(&record(id, DrainCause::Request));
        }
        let again = KeptDrains::open(dir.path());
        assert_eq!(again.all().len(), RECORDS_KEPT);
        assert_eq!(again.last().unwrap().id, 250);
        assert_eq!(again.last_scheduled().unwrap().id, 1);
    }

    #[test]
    fn a_night_by_an_untrusted_clock_is_no_night() {
        let dir = tempfile::tempdir().unwrap();
        let drains = KeptDrains::open(dir.path());
        drains.record(&record(1, DrainCause::Window));
        drains.record(&DrainRecord {
            clock_trusted: false,
            ..record(2, DrainCause::Uptime)
        });
        for drains in [drains, KeptDrains::open(dir.path())] {
            assert_eq!(drains.last().unwrap().id, 2);
            assert_eq!(drains.last_scheduled().unwrap().id, 1);
        }
    }

    #[test]
    fn a_damaged_file_costs_the_history_only() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("drains.json"), b"[{]").unwrap();
        let drains = KeptDrains::open(dir.path());
        drains.record(&record(3, DrainCause::Missed));
        assert_eq!(KeptDrains::open(dir.path()).last_scheduled().unwrap().id, 3);
    }
}
