//! What every record on disk is wrapped in, so that it can be found again in a raw file and a damaged
//! one is never taken for a sound one.
//!
//! ```text
//! magic (4) | version (1) | kind (1) | length of body (4, LE) | crc32 (4, LE) | body (bincode)
//! ```
//!
//! The checksum runs over version, kind, length and body, and starts from the epoch's *salt*, a secret
//! of this store: a meter that puts a well-formed record into a payload cannot make one that passes
//! when a damaged file is carved. The version stands outside of bincode: each version has its frozen
//! structs.

use bincode::Options;
use serde::{Deserialize, Serialize};

/// First bytes of every record; chosen to be rare in text and in packed numbers.
pub(super) const MAGIC: [u8; 4] = [0xd7, b'R', 0x9e, 0xb1];

/// The version of every record that is written today.
pub(super) const VERSION: u8 = 1;

/// What stands before the body, in bytes.
pub(super) const HEADER_BYTES: usize = 14;

/// No body is longer, in bytes: bounds what a corrupt length can make us allocate.
pub(super) const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The salt of records that are found by their file's name, not by carving.
pub(super) const NO_SALT: u32 = 0;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Readings committed together.
    Readings = 1,
    /// A piece of a reading too large for one value.
    Piece = 2,
    /// A reading that the hub never took.
    Refused = 3,
    /// The sidecar of a closed segment.
    Sidecar = 4,
    /// The marks of all epochs.
    Marks = 5,
    /// The relay's own account.
    Account = 6,
}

/// Why bytes are not a sound record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum EnvelopeError {
    /// Too short, or without the magic.
    #[error("not a record")]
    NotARecord,
    /// Made by a later version of this program.
    #[error("record version {0} is not known")]
    Version(u8),
    /// Another kind of record than was looked for.
    #[error("record kind {0} is not what belongs here")]
    Kind(u8),
    /// Checksum or length are wrong.
    #[error("checksum does not match")]
    Checksum,
    /// The checksum is right but the body is not what it should be.
    #[error("body: {0}")]
    Body(String),
}

fn options() -> impl Options {
    bincode::DefaultOptions::new()
        .with_limit(BODY_BYTES_MAX as u64)
        .reject_trailing_bytes()
}

fn checksum(version_to_length: &[u8], body: &[u8], salt: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(version_to_length);
    hasher.update(body);
    hasher.finalize()
}

/// Wraps `body` as a record of `kind`.
///
/// # Errors
/// [`EnvelopeError::Body`] where the body is over [`BODY_BYTES_MAX`].
pub(super) fn seal<T: Serialize>(
    kind: Kind,
    salt: u32,
    body: &T,
) -> Result<Vec<u8>, EnvelopeError> {
    let mut record = Vec::with_capacity(1024);
    record.extend_from_slice(&MAGIC);
    record.extend_from_slice(&[VERSION, kind as u8]);
    record.extend_from_slice(&[0; 8]);
    options()
        .serialize_into(&mut record, body)
        .map_err(|e| EnvelopeError::Body(e.to_string()))?;
    let length = u32::try_from(record.len().saturating_sub(HEADER_BYTES))
        .map_err(|e| EnvelopeError::Body(e.to_string()))?;
    put(&mut record, 6, length);
    let crc = {
        let (head, body) = record.split_at_checked(HEADER_BYTES).unwrap_or_default();
        checksum(head.get(4..10).unwrap_or_default(), body, salt)
    };
    put(&mut record, 10, crc);
    Ok(record)
}

fn put(record: &mut [u8], at: usize, number: u32) {
    if let Some(place) = record.get_mut(at..at + 4) {
        place.copy_from_slice(&number.to_le_bytes());
    }
}

/// A sound record at the start of some bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sealed<'a> {
    /// The kind byte.
    pub(super) kind: u8,
    /// The version byte.
    pub(super) version: u8,
    /// The body.
    pub(super) body: &'a [u8],
}

impl Sealed<'_> {
    /// Header and body, in bytes.
    pub(super) fn len(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }
}

/// The record that `bytes` begin with; what follows it is not looked at.
///
/// # Errors
/// [`EnvelopeError::NotARecord`] and [`EnvelopeError::Checksum`].
pub(super) fn unseal_prefix(bytes: &[u8], salt: u32) -> Result<Sealed<'_>, EnvelopeError> {
    let (head, rest) = bytes
        .split_at_checked(HEADER_BYTES)
        .ok_or(EnvelopeError::NotARecord)?;
    if !head.starts_with(&MAGIC) {
        return Err(EnvelopeError::NotARecord);
    }
    let length = usize::try_from(number(head, 6)).map_err(|_| EnvelopeError::Checksum)?;
    let body = rest.get(..length).ok_or(EnvelopeError::Checksum)?;
    let covered = head.get(4..10).unwrap_or_default();
    if checksum(covered, body, salt) != number(head, 10) {
        return Err(EnvelopeError::Checksum);
    }
    let at = |i: usize| head.get(i).copied().unwrap_or_default();
    Ok(Sealed {
        kind: at(5),
        version: at(4),
        body,
    })
}

fn number(head: &[u8], at: usize) -> u32 {
    head.get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map(u32::from_le_bytes)
        .unwrap_or_default()
}

/// The body of the record that `bytes` are, decoded.
pub(super) fn open<'a, T: Deserialize<'a>>(
    kind: Kind,
    salt: u32,
    bytes: &'a [u8],
) -> Result<T, EnvelopeError> {
    let sealed = unseal_prefix(bytes, salt)?;
    if sealed.kind != kind as u8 {
        return Err(EnvelopeError::Kind(sealed.kind));
    }
    body(&sealed)
}

/// Decodes the whole body of a sound record.
pub(super) fn body<'a, T: Deserialize<'a>>(sealed: &Sealed<'a>) -> Result<T, EnvelopeError> {
    if sealed.version != VERSION {
        return Err(EnvelopeError::Version(sealed.version));
    }
    options()
        .deserialize(sealed.body)
        .map_err(|e| EnvelopeError::Body(e.to_string()))
}

/// Decodes the first fields of the body of a sound record.
pub(super) fn body_prefix<'a, T: Deserialize<'a>>(sealed: &Sealed<'a>) -> Result<T, EnvelopeError> {
    if sealed.version != VERSION {
        return Err(EnvelopeError::Version(sealed.version));
    }
    bincode::DefaultOptions::new()
        .with_limit(BODY_BYTES_MAX as u64)
        .allow_trailing_bytes()
        .deserialize(sealed.body)
        .map_err(|e| EnvelopeError::Body(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_anywhere_is_seen() {
        let record = seal(Kind::Marks, 7, &(1u32, "text", vec![1u64, 2, 3])).unwrap();
        let back: (u32, &str, Vec<u64>) = open(Kind::Marks, 7, &record).unwrap();
        assert_eq!(back, (1, "text", vec![1, 2, 3]));
        for bit in 0..record.len() * 8 {
            let mut bad = record.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(
                open::<(u32, &str, Vec<u64>)>(Kind::Marks, 7, &bad).is_err(),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn another_salt_or_kind_is_refused() {
        let record = seal(Kind::Readings, 7, &1u32).unwrap();
        assert_eq!(
            open::<u32>(Kind::Readings, 8, &record),
            Err(EnvelopeError::Checksum)
        );
        assert_eq!(
            open::<u32>(Kind::Marks, 7, &record),
            Err(EnvelopeError::Kind(1))
        );
    }
}
