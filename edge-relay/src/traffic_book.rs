//! The bytes that crossed the uplink in each month, kept in `data_dir/traffic.json`.
//!
//! What failure leaves behind: a crash or a power cut forgets what was counted since the file was last written (see
//! `hub_bridge::traffic::budget`); the file is the old one or the new one, never half of one. One that is damaged is kept
//! aside, and the count begins anew: better a bill than a village that is silent.

use std::path::{Path, PathBuf};

use hub_bridge::traffic::{TrafficBook, Usage};
use tracing::warn;

use crate::durable;

/// The file.
pub struct KeptTraffic {
    path: PathBuf,
}

impl KeptTraffic {
    /// In `data_dir`.
    pub fn new(data_dir: &Path) -> Self {
        Self {
            path: data_dir.join("traffic.json"),
        }
    }
}

impl TrafficBook for KeptTraffic {
    fn load(&self) -> Option<Usage> {
        let bytes = std::fs::read(&self.path).ok()?;
        match serde_json::from_slice(&bytes) {
            Ok(usage) => Some(usage),
            Err(error) => {
                let aside = self.path.with_extension("json.damaged");
                let kept = std::fs::rename(&self.path, &aside).is_ok();
                warn!(path = %self.path.display(), kept, %error, "damaged, the month's bytes are counted anew");
                None
            }
        }
    }

    fn keep(&self, usage: &Usage) -> Result<(), String> {
        let bytes = serde_json::to_vec(usage).map_err(|error| error.to_string())?;
        durable::write_atomic(&self.path, &bytes).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use hub_bridge::traffic::Traffic;

    use super::*;

    fn usage(sent: u64) -> Usage {
        let mut usage = Usage::default();
        let traffic = Traffic {
            sent,
            received: 7,
            estimated: 1,
        };
        usage.count(traffic, Some("2026-11".parse().unwrap()));
        usage
    }

    #[test]
    fn the_count_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(KeptTraffic::new(dir.path()).load(), None);
        KeptTraffic::new(dir.path()).keep(&usage(5)).unwrap();
        KeptTraffic::new(dir.path()).keep(&usage(900)).unwrap();
        // A power cut while it was written leaves this beside it.
        std::fs::write(dir.path().join("traffic.json.new"), b"{").unwrap();
        assert_eq!(KeptTraffic::new(dir.path()).load(), Some(usage(900)));
    }

    #[test]
    fn a_damaged_file_is_kept_aside_and_the_count_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("traffic.json"), b"{]").unwrap();
        let book = KeptTraffic::new(dir.path());
        assert_eq!(book.load(), None);
        book.keep(&usage(1)).unwrap();
        assert_eq!(book.load(), Some(usage(1)));
        let aside = std::fs::read(dir.path().join("traffic.json.damaged")).unwrap();
        assert_eq!(aside, b"{]");
    }
}
