//! What can happen to a file.

use std::fs;
use std::path::Path;

use rand::Rng;
use rand::rngs::StdRng;

/// A kind of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    /// One bit anywhere.
    FlippedBit,
    /// A block of 4 KiB, as a disk has it, is all zero.
    ZeroedBlock,
    /// The last hundredth is gone, at least a byte.
    TruncatedByAPercent,
    /// The last half is gone.
    TruncatedByHalf,
    /// The file is gone.
    Missing,
}

/// All of them.
pub(crate) const DAMAGES: [Damage; 5] = [
    Damage::FlippedBit,
    Damage::ZeroedBlock,
    Damage::TruncatedByAPercent,
    Damage::TruncatedByHalf,
    Damage::Missing,
];

const BLOCK: usize = 4096;

impl Damage {
    /// Does it to `file`; where, in words. `None`: an empty file has nothing to lose.
    pub(crate) fn inflict(self, file: &Path, random: &mut StdRng) -> Option<String> {
        let mut bytes = fs::read(file).unwrap();
        let length = bytes.len();
        if self == Self::Missing {
            fs::remove_file(file).unwrap();
            return Some(format!("{length} bytes"));
        }
        if length == 0 {
            return None;
        }
        let place = match self {
            Self::FlippedBit => {
                let (at, bit) = (random.random_range(0..length), random.random_range(0..8));
                bytes[at] ^= 1 << bit;
                format!("bit {bit} of byte {at} of {length}")
            }
            Self::ZeroedBlock => {
                let start = random.random_range(0..length) / BLOCK * BLOCK;
                let end = length.min(start + BLOCK);
                bytes[start..end].fill(0);
                format!("bytes {start} to {end} of {length}")
            }
            Self::TruncatedByAPercent => {
                bytes.truncate(length - (length / 100).max(1));
                format!("to {} of {length}", bytes.len())
            }
            Self::TruncatedByHalf | Self::Missing => {
                bytes.truncate(length / 2);
                format!("to {} of {length}", bytes.len())
            }
        };
        fs::write(file, bytes).unwrap();
        Some(place)
    }
}
