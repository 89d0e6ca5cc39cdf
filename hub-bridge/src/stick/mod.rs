//! What is carried by hand while the link is dead: files of readings, a list of them, and the hub's receipt.
//!
//! # A file of readings
//!
//! ```text
//! magic "relaystk" (8) | length of the header (4, BE) | header (JSON) | age file | Ed25519 signature (64)
//! ```
//!
//! The header names village, epoch, first and last sequence, count, and the length of the age file, so that a file that
//! was cut short is told from one that was changed. The age file (X25519, <https://age-encryption.org/v1>) holds frames
//! ([`crate::wire::frame`]), each behind its length (4, BE). The village's key signs `"edge-relay stick 1\0"` and the
//! SHA-256 of all that stands before the signature.
//!
//! # Invariants
//!
//! - A file is taken as a whole or not at all: nothing of it is looked at before its signature was checked.
//! - Who finds the stick reads village, epoch, sequences and sizes, and no reading; who writes on it can make files that
//!   are refused, and no reading.
//! - A file that is read twice stores nothing twice: what counts is the identity of each reading.
//!
//! What a stick that is pulled out leaves behind: whole files, and at most one under a temporary name (`*.part`), which
//! nobody reads. The list is written last.

mod header;
mod keys;
mod manifest;
mod read;
mod receipt;
mod signed;
mod write;

pub use header::{Header, file_name};
pub use keys::{HubIdentity, KeyError, PublicKey, Recipients, SigningKey};
pub use manifest::{Listed, Manifest};
pub use read::StickFile;
pub use receipt::{StickReceipt, StickReceiptError};
pub use signed::SignedError;
pub use write::StickWriter;

use crate::identity::{Epoch, VillageId};
use crate::wire::frame::FrameError;

/// The version of the files that this program writes and reads.
pub const VERSION: u8 = 1;

/// How the names of files of readings end.
pub const READINGS_SUFFIX: &str = ".readings";

/// How the names of lists of files end.
pub const MANIFEST_SUFFIX: &str = ".manifest";

/// How the names of receipts end.
pub const RECEIPT_SUFFIX: &str = ".receipt";

/// How a name ends while its file is being written.
pub const PART_SUFFIX: &str = ".part";

/// No file is longer, in bytes: a larger one is refused unread.
pub const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

const MAGIC: &[u8; 8] = b"relaystk";
const HEADER_BYTES_MAX: usize = 4096;
const SIGNATURE_BYTES: usize = 64;
const CONTEXT: &[u8] = b"edge-relay stick 1\0";

/// Why a file is not taken, or cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum StickError {
    /// It does not begin like one.
    #[error("not a file of readings")]
    NotAStickFile,
    /// Of a later version.
    #[error("written by a later version ({0}; {VERSION} is known here)")]
    Version(u8),
    /// Shorter than it says.
    #[error(
        "cut short: {have} of {whole} bytes; the stick was pulled out, or its file system is damaged"
    )]
    CutShort {
        /// Bytes that are there.
        have: u64,
        /// Bytes that should be.
        whole: u64,
    },
    /// Longer than it says, or than any.
    #[error("{0} bytes, longer than it should be")]
    TooLong(u64),
    /// The signature does not fit.
    #[error("the signature is not that of {0}: changed on the way, or written by someone else")]
    Signature(VillageId),
    /// No identity of this hub opens it.
    #[error("encrypted for another hub: none of the recipients is this hub's identity")]
    NotForUs,
    /// age does not open it.
    #[error("cannot be decrypted: {0}")]
    Decrypt(String),
    /// What is in it are not frames.
    #[error("a frame in it: {0}")]
    Frame(#[from] FrameError),
    /// What is in it is not what its header says.
    #[error("signed, and yet not what its header says: {0}")]
    Content(&'static str),
    /// A file of other readings than its header may say.
    #[error("frames of {0}/{1} do not belong into this file")]
    OtherEpoch(VillageId, Epoch),
    /// It cannot be encrypted.
    #[error("cannot be encrypted: {0}")]
    Encrypt(String),
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
}

#[cfg(test)]
mod tests;
