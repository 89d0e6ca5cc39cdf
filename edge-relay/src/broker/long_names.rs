//! Keys with long names in the state's database: kept under a hash, the key itself before the value.
//!
//! A topic or client id may have 64 KiB. In a key that makes a leaf that sled moves out of its log, into a file that it never
//! syncs, and the state refuses to be kept there (`state`).

use blake2::{Blake2s256, Digest as _};

use super::state::{Change, PIECE_BYTES};

/// The longest key that is kept as it is, in bytes: 17 of them and of the pieces above make a leaf, which stays in sled's
/// log up to 131,052 bytes.
const KEY_BYTES_MAX: usize = 384;
/// The first byte of the key of one that is longer; no kind of record has it (`record`).
const OF_LONG_NAME: u8 = b'#';
const _: () = assert!(17 * (PIECE_BYTES + KEY_BYTES_MAX + 64) < 131_052);

/// The key that something is kept under: its own, or the hash of one with a name so long that sled would move the leaf
/// out of its log.
fn short(key: &[u8]) -> Vec<u8> {
    if key.len() <= KEY_BYTES_MAX {
        return key.to_vec();
    }
    let mut short = vec![OF_LONG_NAME];
    short.extend(Blake2s256::digest(key));
    short
}

/// A change as it is kept; where its key is long that stands before the value.
pub(super) fn with_short_key((key, value): Change) -> Change {
    let short = short(&key);
    if short == key {
        return (key, value);
    }
    let with_key = |value: Vec<u8>| {
        let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
        [&length.to_be_bytes()[..], &key[..], &value[..]].concat()
    };
    (short, value.map(with_key))
}

/// What was kept, under its own key again. What cannot be read stays as it is: nobody knows such a key, and it is said.
pub(super) fn of_long_name((key, value): (Vec<u8>, Vec<u8>)) -> (Vec<u8>, Vec<u8>) {
    let parts = || {
        let (length, rest) = value.split_first_chunk::<4>()?;
        rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
    };
    match (key.first(), parts()) {
        (Some(&OF_LONG_NAME), Some((own, value))) if short(own) == key => {
            (own.to_vec(), value.to_vec())
        }
        _ => (key, value),
    }
}
