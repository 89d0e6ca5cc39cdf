//! Reads a file of readings: header, signature, and only then what is in it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::header::to_sign;
use super::{FILE_BYTES_MAX, Header, HubIdentity, PublicKey, SIGNATURE_BYTES, StickError};
use crate::identity::Sequence;
use crate::wire::frame::{self, Frame};

/// No frame is longer, in bytes: bounds what a length can make us allocate.
const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A file in memory, as long as its header says. Held in memory as a whole, at most [`FILE_BYTES_MAX`], so that what is
/// decrypted is what was verified, whatever is done to the stick meanwhile.
#[derive(Debug)]
pub struct StickFile {
    header: Header,
    content_begins: usize,
    bytes: Vec<u8>,
}

impl StickFile {
    /// Reads `path`.
    ///
    /// # Errors
    /// It cannot be read, is none, or is cut short.
    pub fn read(path: &Path) -> Result<Self, StickError> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        if length > FILE_BYTES_MAX {
            return Err(StickError::TooLong(length));
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        Self::from_bytes(bytes)
    }

    /// As [`StickFile::read`], of what is in memory.
    ///
    /// # Errors
    /// It is none, or is cut short.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, StickError> {
        let (header, content_begins) = Header::parse(&bytes)?;
        Ok(Self {
            header,
            content_begins,
            bytes,
        })
    }

    /// What it says of itself; to be believed once it is [`verified`](Self::verify).
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// [`StickError::Signature`].
    pub fn verify(&self, village: &PublicKey) -> Result<(), StickError> {
        let end = self.bytes.len().saturating_sub(SIGNATURE_BYTES);
        let (signed, signature) = self.bytes.split_at_checked(end).unwrap_or_default();
        if village.verifies(&to_sign(signed), signature) {
            Ok(())
        } else {
            Err(StickError::Signature(self.header.village.clone()))
        }
    }

    /// Decrypts it and looks through all of it, then gives its frames, in order.
    ///
    /// # Errors
    /// It is for another hub, or is not what its header says.
    pub fn frames(
        &self,
        identity: &HubIdentity,
    ) -> Result<impl Iterator<Item = Result<Frame, StickError>>, StickError> {
        self.check_content(identity)?;
        self.each_frame(identity)
    }

    fn check_content(&self, identity: &HubIdentity) -> Result<(), StickError> {
        let (mut last, mut count) = (Sequence(0), 0);
        for frame in self.each_frame(identity)? {
            let frame = frame?;
            if frame.village != self.header.village || frame.epoch != self.header.epoch {
                return Err(StickError::OtherEpoch(frame.village, frame.epoch));
            }
            for reading in &frame.readings {
                if count == 0 && reading.sequence != self.header.first {
                    return Err(StickError::Content("another first sequence"));
                }
                if reading.sequence <= last {
                    return Err(StickError::Content("sequences out of order"));
                }
                last = reading.sequence;
                count += 1;
            }
        }
        if last != self.header.last || count != self.header.count {
            return Err(StickError::Content("another last sequence or count"));
        }
        Ok(())
    }

    fn each_frame(
        &self,
        identity: &HubIdentity,
    ) -> Result<impl Iterator<Item = Result<Frame, StickError>>, StickError> {
        let end = self.bytes.len().saturating_sub(SIGNATURE_BYTES);
        let content = self.bytes.get(self.content_begins..end).unwrap_or_default();
        let mut content = decrypt(content, identity)?;
        Ok(std::iter::from_fn(move || {
            let bytes = next_frame(&mut content).transpose()?;
            Some(bytes.and_then(|bytes| frame::decode(&bytes).map_err(StickError::from)))
        }))
    }
}

fn decrypt<'a>(
    content: &'a [u8],
    identity: &HubIdentity,
) -> Result<age::stream::StreamReader<&'a [u8]>, StickError> {
    let wrong = |error: age::DecryptError| match error {
        age::DecryptError::NoMatchingKeys => StickError::NotForUs,
        other => StickError::Decrypt(other.to_string()),
    };
    let decryptor = age::Decryptor::new(content).map_err(wrong)?;
    decryptor.decrypt(identity.each()).map_err(wrong)
}

/// The next frame's bytes; `None` at the end.
fn next_frame(content: &mut impl io::Read) -> Result<Option<Vec<u8>>, StickError> {
    let wrong = |error: io::Error| StickError::Decrypt(error.to_string());
    let mut length = Vec::with_capacity(4);
    content.take(4).read_to_end(&mut length).map_err(wrong)?;
    if length.is_empty() {
        return Ok(None);
    }
    let length = length
        .try_into()
        .map_err(|_| StickError::Content("a frame's length is cut short"))?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > FRAME_BYTES_MAX {
        return Err(StickError::Content("a frame is too long"));
    }
    let mut bytes = Vec::new();
    let read = content.take(length as u64).read_to_end(&mut bytes);
    if read.map_err(wrong)? < length {
        return Err(StickError::Content("a frame is cut short"));
    }
    Ok(Some(bytes))
}
