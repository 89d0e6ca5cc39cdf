//! Makes a file of readings, in memory.

use std::io::Write as _;

use age::stream::StreamWriter;

use super::header::to_sign;
use super::{Header, Recipients, SigningKey, StickError, VERSION};
use crate::identity::{Epoch, Sequence, VillageId};
use crate::wire::frame::{self, Frame};

/// A file of readings that is being made. Takes as much memory as the file, and a frame.
pub struct StickWriter {
    village: VillageId,
    epoch: Epoch,
    content: StreamWriter<Vec<u8>>,
    written_bytes: u64,
    first: Option<Sequence>,
    last: Sequence,
    count: u64,
}

impl StickWriter {
    /// An empty one.
    ///
    /// # Errors
    /// age cannot encrypt for these recipients: there are none.
    pub fn new(
        village: VillageId,
        epoch: Epoch,
        recipients: &Recipients,
    ) -> Result<Self, StickError> {
        let encrypt = |error: &dyn std::fmt::Display| StickError::Encrypt(error.to_string());
        let encryptor =
            age::Encryptor::with_recipients(recipients.each()).map_err(|e| encrypt(&e))?;
        let content = encryptor.wrap_output(Vec::new()).map_err(|e| encrypt(&e))?;
        Ok(Self {
            village,
            epoch,
            content,
            written_bytes: 0,
            first: None,
            last: Sequence(0),
            count: 0,
        })
    }

    /// About how long the file is by now, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// How many readings are in it.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The last reading in it.
    pub fn last(&self) -> Sequence {
        self.last
    }

    /// Adds a frame: of the same village and epoch, and behind those before.
    ///
    /// # Errors
    /// It is not, or it cannot be encoded.
    pub fn push(&mut self, frame: &Frame) -> Result<(), StickError> {
        if frame.village != self.village || frame.epoch != self.epoch {
            return Err(StickError::OtherEpoch(frame.village.clone(), frame.epoch));
        }
        let (Some(first), Some(last)) = (frame.readings.first(), frame.readings.last()) else {
            return Ok(());
        };
        if first.sequence <= self.last {
            return Err(StickError::Content("frames out of order"));
        }
        let bytes = frame::encode(frame)?;
        let length = u32::try_from(bytes.len()).map_err(|_| StickError::Content("a huge frame"))?;
        self.content.write_all(&length.to_be_bytes())?;
        self.content.write_all(&bytes)?;
        self.written_bytes += u64::from(length) + 4;
        self.first.get_or_insert(first.sequence);
        self.last = last.sequence;
        self.count += frame.readings.len() as u64;
        Ok(())
    }

    /// The whole file, signed; and its header.
    ///
    /// # Errors
    /// Nothing is in it, or memory is short.
    pub fn finish(self, key: &SigningKey) -> Result<(Header, Vec<u8>), StickError> {
        let first = self
            .first
            .ok_or(StickError::Content("a file without readings"))?;
        let content = self.content.finish()?;
        let header = Header {
            version: VERSION,
            village: self.village,
            epoch: self.epoch,
            first,
            last: self.last,
            count: self.count,
            content_bytes: content.len() as u64,
        };
        let mut file = header.to_bytes();
        file.extend_from_slice(&content);
        let signature = key.sign(&to_sign(&file));
        file.extend_from_slice(&signature);
        Ok((header, file))
    }
}
