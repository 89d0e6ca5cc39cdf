//! `identity`: on which machine this store is, which epochs it has had that still matter, and their
//! villages. First line the checksum of the rest, in hex; then JSON, for people.

use std::fs;
use std::io;
use std::path::Path;

use hub_bridge::identity::{Epoch, VillageId};
use serde::{Deserialize, Serialize};

use crate::durable::{self, DurableError};

const FILE: &str = "identity";

/// Why an epoch began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EpochReason {
    /// There was no store.
    NewStore,
    /// The store was made on another machine: the card was cloned or moved.
    OtherMachine,
    /// The village's name has changed.
    OtherVillage,
    /// After damage, the last readings cannot be proved to be all there.
    TailUnproved,
    /// The file `identity` or the marks were damaged.
    IdentityLost,
}

/// One epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EpochRecord {
    /// Its id.
    pub(super) epoch: Epoch,
    /// Its village.
    pub(super) village: VillageId,
    /// Where the checksums of its frames start.
    pub(super) salt: u32,
    /// Why it began.
    pub(super) began: EpochReason,
    /// From which sequence on nobody knows whether readings were lost: set when it is over and its end could not
    /// be proved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tail_unknown_from: Option<u64>,
}

impl EpochRecord {
    /// A new one.
    pub(super) fn draw(village: VillageId, began: EpochReason) -> Self {
        Self {
            epoch: Epoch(rand::random()),
            village,
            salt: rand::random(),
            began,
            tail_unknown_from: None,
        }
    }
}

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// The machine.
    pub(super) machine_id: String,
    /// Oldest first; the last is the current one.
    pub(super) epochs: Vec<EpochRecord>,
}

/// What is there at start.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// No file.
    Nothing,
    /// A file that cannot be read.
    Damaged,
    /// It.
    Identity(Identity),
}

impl Identity {
    /// Reads it.
    pub(super) fn read(data_dir: &Path) -> Found {
        let text = match fs::read(data_dir.join(FILE)) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Found::Nothing,
            Err(_) => return Found::Damaged,
        };
        let sound = || {
            let text = std::str::from_utf8(&text).ok()?;
            let (checksum, json) = text.split_once('\n')?;
            let checksum = u32::from_str_radix(checksum, 16).ok()?;
            (checksum == crc32fast::hash(json.as_bytes())).then_some(())?;
            serde_json::from_str(json).ok()
        };
        sound().map_or(Found::Damaged, Found::Identity)
    }

    /// Writes it, durably.
    pub(super) fn write(&self, data_dir: &Path) -> Result<(), DurableError> {
        let path = data_dir.join(FILE);
        let json = serde_json::to_string_pretty(self)
            .map_err(|e| DurableError::io(&path)(io::Error::other(e)))?;
        let text = format!("{:08x}\n{json}", crc32fast::hash(json.as_bytes()));
        durable::write_atomic(&path, text.as_bytes())
    }
}
