//! The data types of MQTT (MQTT 5, 1.5), read from bytes that anyone may have sent.

use super::violation::Violation;

/// Reads on in a packet. Every read is checked against what is left.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Violation> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Violation::malformed(
            "a field goes past the end of the packet",
        ))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Violation> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Violation::malformed(
            "a field goes past the end of the packet",
        ))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Violation> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Violation> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Violation> {
        self.array().map(u32::from_be_bytes)
    }

    /// Binary data: two bytes of length, then so many.
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], Violation> {
        let count = usize::from(self.u16()?);
        self.take(count)
    }

    /// A UTF-8 string; NUL is not allowed in it [MQTT-1.5.4-2].
    pub(crate) fn text(&mut self) -> Result<&'a str, Violation> {
        let text = std::str::from_utf8(self.binary()?)
            .map_err(|_| Violation::malformed("a string is not UTF-8"))?;
        if text.contains('\0') {
            return Err(Violation::malformed("a string contains NUL"));
        }
        Ok(text)
    }

    /// A packet id: never 0 [MQTT-2.2.1-3].
    pub(crate) fn packet_id(&mut self) -> Result<u16, Violation> {
        match self.u16()? {
            0 => Err(Violation::malformed("packet id 0")),
            id => Ok(id),
        }
    }

    /// A variable byte integer within a packet, in its shortest form [MQTT-1.5.5-1].
    pub(crate) fn varint(&mut self) -> Result<u32, Violation> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(Violation::malformed("a variable byte integer is padded"));
                }
                return Ok(value);
            }
        }
        Err(Violation::malformed(
            "a variable byte integer of more than 4 bytes",
        ))
    }
}

/// Where a packet lies at the start of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Packet type and flags.
    pub(crate) first_byte: u8,
    /// Where what comes after the fixed header begins.
    pub(crate) body_at: usize,
    /// Where the packet ends.
    pub(crate) end: usize,
}

/// Finds the first packet in `buffer`; `Ok(None)`: more bytes are needed.
///
/// # Errors
/// A remaining length of more than four bytes; a packet of more than `bytes_max`, as soon as its header says so.
pub(crate) fn frame(buffer: &[u8], bytes_max: usize) -> Result<Option<Frame>, Violation> {
    let Some((&first_byte, rest)) = buffer.split_first() else {
        return Ok(None);
    };
    let mut remaining = 0usize;
    for (position, &byte) in rest.iter().take(4).enumerate() {
        remaining |= usize::from(byte & 0x7F) << (7 * position);
        if byte & 0x80 == 0 {
            if byte == 0 && position > 0 {
                // [MQTT-1.5.5-1]
                return Err(Violation::malformed("a remaining length is padded"));
            }
            let body_at = position + 2;
            let end = body_at + remaining;
            if end > bytes_max {
                return Err(Violation::too_large());
            }
            return Ok((buffer.len() >= end).then_some(Frame {
                first_byte,
                body_at,
                end,
            }));
        }
    }
    if rest.len() >= 4 {
        return Err(Violation::malformed(
            "a remaining length of more than 4 bytes",
        ));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_found_whole_or_not_at_all() {
        assert_eq!(frame(&[], 100).unwrap(), None);
        assert_eq!(frame(&[0x30], 100).unwrap(), None);
        assert_eq!(frame(&[0x30, 0x80], 100).unwrap(), None);
        assert_eq!(frame(&[0x30, 2, 1], 100).unwrap(), None);
        let found = frame(&[0x30, 2, 1, 2, 9], 100).unwrap().unwrap();
        assert_eq!((found.body_at, found.end), (2, 4));
        assert!(frame(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF], 100).is_err());
        assert!(frame(&[0xC0, 0x80, 0], 100).is_err(), "padded");
        assert!(
            frame(&[0x30, 99], 100).is_err(),
            "refused before its bytes came"
        );
        assert!(frame(&[0x30, 98], 100).unwrap().is_none());
    }

    #[test]
    fn strings_and_integers_are_bounded() {
        assert!(Reader::new(&[0, 3, b'a']).text().is_err());
        assert!(Reader::new(&[0, 1, 0]).text().is_err());
        assert!(Reader::new(&[0, 2, 0xC3, 0x28]).text().is_err());
        assert!(Reader::new(&[0, 0]).packet_id().is_err());
        assert!(Reader::new(&[0x80, 0]).varint().is_err());
        assert!(Reader::new(&[0xFF, 0xFF, 0xFF, 0xFF, 1]).varint().is_err());
        assert_eq!(
            Reader::new(&[0xFF, 0xFF, 0xFF, 0x7F]).varint().unwrap(),
            268_435_455
        );
    }
}
