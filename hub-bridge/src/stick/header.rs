//! What a file of readings says of itself, in the open.

use serde::{Deserialize, Serialize};

use super::{
    CONTEXT, HEADER_BYTES_MAX, MAGIC, READINGS_SUFFIX, SIGNATURE_BYTES, StickError, VERSION,
};
use crate::identity::{Epoch, Sequence, VillageId};
use sha2::{Digest as _, Sha256};

/// The header of a file of readings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Of this format: [`VERSION`].
    pub version: u8,
    /// The village that the readings were received in.
    pub village: VillageId,
    /// Their epoch.
    pub epoch: Epoch,
    /// The sequence of the first.
    pub first: Sequence,
    /// The sequence of the last.
    pub last: Sequence,
    /// How many there are.
    pub count: u64,
    /// The length of the age file, in bytes.
    pub content_bytes: u64,
}

impl Header {
    /// The name that the file is given.
    pub fn file_name(&self) -> String {
        file_name(&self.village, self.epoch, self.first, self.last)
    }

    /// As the file begins: magic, length and header.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // Strings and numbers always have a JSON form.
        let json = serde_json::to_vec(self).unwrap_or_default();
        let length = u32::try_from(json.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(MAGIC.len() + 4 + json.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&json);
        bytes
    }

    /// Reads the header of a file, and says where the age file begins.
    ///
    /// # Errors
    /// Where it is none, of a later version, or the file is not as long as it says.
    pub fn parse(file: &[u8]) -> Result<(Self, usize), StickError> {
        let have = file.len() as u64;
        let begins = MAGIC.len().min(file.len());
        if file.is_empty() || file.get(..begins) != MAGIC.get(..begins) {
            return Err(StickError::NotAStickFile);
        }
        let cut = |whole: usize| StickError::CutShort {
            have,
            whole: whole as u64,
        };
        let after_magic = file.get(MAGIC.len()..).unwrap_or_default();
        let (length, rest) = after_magic.split_first_chunk::<4>().ok_or(cut(12))?;
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > HEADER_BYTES_MAX {
            return Err(StickError::NotAStickFile);
        }
        let json = rest.get(..length).ok_or(cut(12 + length))?;
        let version: OfVersion =
            serde_json::from_slice(json).map_err(|_| StickError::NotAStickFile)?;
        if version.version != VERSION {
            return Err(StickError::Version(version.version));
        }
        let header: Self = serde_json::from_slice(json).map_err(|_| StickError::NotAStickFile)?;
        let begins = MAGIC.len() + 4 + length;
        let whole = (begins as u64)
            .saturating_add(header.content_bytes)
            .saturating_add(SIGNATURE_BYTES as u64);
        match have.cmp(&whole) {
            std::cmp::Ordering::Less => Err(StickError::CutShort { have, whole }),
            std::cmp::Ordering::Greater => Err(StickError::TooLong(have)),
            std::cmp::Ordering::Equal => Ok((header, begins)),
        }
    }
}

#[derive(Deserialize)]
struct OfVersion {
    version: u8,
}

/// The name of a file of readings: the same readings always get the same name.
pub fn file_name(village: &VillageId, epoch: Epoch, first: Sequence, last: Sequence) -> String {
    format!(
        "{village}-{epoch}-{:020}-{:020}{READINGS_SUFFIX}",
        first.0, last.0
    )
}

/// What the village signs of a file.
pub(super) fn to_sign(before_signature: &[u8]) -> Vec<u8> {
    let mut text = CONTEXT.to_vec();
    text.extend_from_slice(&Sha256::digest(before_signature));
    text
}
