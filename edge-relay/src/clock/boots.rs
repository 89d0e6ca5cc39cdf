//! What is known of each boot's wall clock, kept in `data_dir/boots`.

use std::path::{Path, PathBuf};

use hub_bridge::clock::{BootId, UnixMillis};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{GOOD_TIME_EVERY_MS, OFFSET_KEEP_MS};
use crate::durable::{self, DurableError};

/// At most so many boots are remembered, the latest ones.
const BOOTS_MAX: usize = 256;

/// The offsets of boots, and the latest time that was right.
#[derive(Debug)]
pub(super) struct Boots {
    path: PathBuf,
    kept: Kept,
}

/// The file: JSON, small, replaced as a whole.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    /// Oldest first.
    boots: Vec<Offset>,
    /// The latest trusted wall time.
    known_good: Option<UnixMillis>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Offset {
    boot: BootId,
    /// Wall time of the boot itself.
    offset_ms: i64,
}

impl Boots {
    /// As `data_dir` has them; none where the file is missing or damaged.
    pub(super) fn open(data_dir: &Path) -> Self {
        let path = data_dir.join("boots");
        let kept = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                warn!(path = %path.display(), %error, "damaged, earlier boots' times are unknown");
                Kept::default()
            }),
            Err(_) => Kept::default(),
        };
        Self { path, kept }
    }

    /// Wall time at which `boot` began, in ms.
    pub(super) fn offset_of(&self, boot: BootId) -> Option<i64> {
        let known = self
            .kept
            .boots
            .iter()
            .rev()
            .find(|known| known.boot == boot);
        known.map(|known| known.offset_ms)
    }

    /// The latest trusted wall time that was kept.
    pub(super) fn known_good(&self) -> Option<UnixMillis> {
        self.kept.known_good
    }

    /// `boot` began at `offset_ms`, and `now` is right. Durable where it says something new.
    pub(super) fn learn(
        &mut self,
        boot: BootId,
        offset_ms: i64,
        now: UnixMillis,
    ) -> Result<(), DurableError> {
        let known = self.offset_of(boot);
        let moved = known.is_none_or(|known| known.abs_diff(offset_ms) > OFFSET_KEEP_MS);
        let good = self.kept.known_good;
        let stale = good.is_none_or(|good| now.0.saturating_sub(good.0) >= GOOD_TIME_EVERY_MS);
        if !moved && !stale {
            return Ok(());
        }
        self.kept.known_good = good.max(Some(now));
        if moved {
            self.kept.boots.retain(|known| known.boot != boot);
            self.kept.boots.push(Offset { boot, offset_ms });
            let excess = self.kept.boots.len().saturating_sub(BOOTS_MAX);
            self.kept.boots.drain(..excess);
        }
        let bytes = serde_json::to_vec(&self.kept).unwrap_or_default();
        durable::write_atomic(&self.path, &bytes)
    }
}
