//! The primitives of the format: varints, zigzag, length-prefixed bytes.

use super::FrameError;

/// Appends `value` in groups of seven bits, the lowest first, the top bit set in all but the last (LEB128).
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(lowest_byte(value) | 0x80);
        value >>= 7;
    }
    out.push(lowest_byte(value));
}

fn lowest_byte(value: u64) -> u8 {
    let [lowest, ..] = value.to_le_bytes();
    lowest
}

/// A count or a length as the value of a column: nothing in memory is near what does not fit.
pub(super) fn signed(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Small numbers for numbers near zero: 0, -1, 1, -2 become 0, 1, 2, 3.
pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// Takes bytes off the front; never past the end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn byte(&mut self) -> Result<u8, FrameError> {
        let (first, rest) = self.0.split_first().ok_or(SHORT)?;
        self.0 = rest;
        Ok(*first)
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], FrameError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn varint(&mut self) -> Result<u64, FrameError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(FrameError::Damaged("a number of more than 64 bits"))
    }

    /// A length or a count; `max` is what the caller is ready to hold.
    pub(super) fn size(&mut self, max: usize) -> Result<usize, FrameError> {
        let value = self.varint()?;
        let value = usize::try_from(value).map_err(|_| TOO_MUCH)?;
        if value > max {
            return Err(TOO_MUCH);
        }
        Ok(value)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], FrameError> {
        let len = self.size(self.0.len())?;
        self.take(len)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, FrameError> {
        std::str::from_utf8(self.bytes()?)
            .map_err(|_| FrameError::Damaged("a text that is not UTF-8"))
    }
}

const SHORT: FrameError = FrameError::Damaged("ends too early");
pub(super) const TOO_MUCH: FrameError =
    FrameError::Damaged("says that it holds more than a frame can");
