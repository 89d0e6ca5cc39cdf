//! The list of the files of an export, written last: what is on the list and not on the stick is missing.

use serde::{Deserialize, Serialize};

use super::{MANIFEST_SUFFIX, PublicKey, SignedError, SigningKey, VERSION, signed};
use crate::clock::{ClockQuality, UnixMillis};
use crate::identity::{Epoch, Sequence, VillageId};

const KIND: &str = "list of files";

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its length, in bytes.
    pub bytes: u64,
    /// The epoch of its readings.
    pub epoch: Epoch,
    /// The sequence of the first.
    pub first: Sequence,
    /// The sequence of the last.
    pub last: Sequence,
    /// How many there are.
    pub count: u64,
}

/// The list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this format: [`VERSION`].
    pub version: u8,
    /// The village of the relay that wrote it.
    pub village: VillageId,
    /// When it was written.
    pub at: UnixMillis,
    /// Whether that time is to be trusted.
    pub clock: ClockQuality,
    /// The files, in the order they were written.
    pub files: Vec<Listed>,
}

impl Manifest {
    /// The name its file is given.
    pub fn file_name(village: &VillageId) -> String {
        format!("{village}{MANIFEST_SUFFIX}")
    }

    /// Its file, signed.
    pub fn seal(&self, key: &SigningKey) -> Vec<u8> {
        signed::seal(KIND, key, self)
    }

    /// What a file says, whoever signed it: `key_of` gives the village's key.
    ///
    /// # Errors
    /// It is none, or the signature is not the village's.
    pub fn open(
        text: &[u8],
        key_of: impl FnOnce(&VillageId) -> Option<PublicKey>,
    ) -> Result<Self, SignedError> {
        let manifest: Self = signed::read(KIND, text)?;
        let key = key_of(&manifest.village).ok_or(SignedError::Signature(KIND))?;
        signed::check(KIND, text, &key)?;
        if manifest.version == VERSION {
            Ok(manifest)
        } else {
            Err(SignedError::Version(KIND, manifest.version))
        }
    }
}
