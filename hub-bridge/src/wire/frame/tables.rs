//! What readings share: clients, topics, series of one client and topic, sets of properties.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use bytes::Bytes;

use super::FrameError;
use super::bytes::{Reader, put_bytes, put_varint, signed};
use crate::reading::PublishProperties;

/// Two empty texts in memory.
const PAIR_BYTES: usize = size_of::<(String, String)>();

/// Values numbered in the order in which they first came.
#[derive(Debug)]
pub(super) struct Numbered<T> {
    numbers: HashMap<T, usize>,
    pub(super) values: Vec<T>,
}

impl<T: Clone + Eq + Hash> Numbered<T> {
    pub(super) fn new() -> Self {
        Self {
            numbers: HashMap::new(),
            values: Vec::new(),
        }
    }

    pub(super) fn number(&mut self, value: &T) -> usize {
        if let Some(number) = self.numbers.get(value) {
            return *number;
        }
        let number = self.values.len();
        self.numbers.insert(value.clone(), number);
        self.values.push(value.clone());
        number
    }
}

pub(super) fn put_texts(out: &mut Vec<u8>, texts: &[Arc<str>]) {
    put_varint(out, texts.len() as u64);
    for text in texts {
        put_bytes(out, text.as_bytes());
    }
}

/// At most `max` texts, each without the character that MQTT forbids (and PostgreSQL cannot store).
pub(super) fn texts(max: usize, plan: &mut Reader<'_>) -> Result<Vec<Arc<str>>, FrameError> {
    let count = plan.size(max)?;
    let text = |_| {
        let text = plan.text()?;
        if text.contains('\0') {
            return Err(FrameError::Damaged("a name with U+0000 in it"));
        }
        Ok(Arc::from(text))
    };
    (0..count).map(text).collect()
}

/// Which series comes next: the one that followed the last time, or one that was not there yet. Meters take turns, so
/// this is right nearly always, and what is right costs nothing.
#[derive(Debug, Default)]
pub(super) struct Turns {
    followers: HashMap<Option<usize>, usize>,
    last: Option<usize>,
    seen: usize,
}

impl Turns {
    fn expected(&self) -> usize {
        self.followers.get(&self.last).copied().unwrap_or(self.seen)
    }

    fn came(&mut self, series: usize) {
        self.followers.insert(self.last, series);
        self.last = Some(series);
        self.seen = self.seen.max(series + 1);
    }

    /// 0 for what was expected, else the number and one.
    pub(super) fn code(&mut self, series: usize) -> i64 {
        let code = if series == self.expected() {
            0
        } else {
            signed(series) + 1
        };
        self.came(series);
        code
    }

    /// The series of a code, of `count` that there are.
    pub(super) fn series(&mut self, code: i64, count: usize) -> Result<usize, FrameError> {
        let series = match usize::try_from(code) {
            Ok(0) => self.expected(),
            Ok(code) => code - 1,
            Err(_) => usize::MAX,
        };
        if series >= count {
            return Err(FrameError::Damaged("a series that is not in the table"));
        }
        self.came(series);
        Ok(series)
    }
}

/// Properties as bytes: a byte that says which of the first four are there, these, and the user properties.
pub(super) fn put_properties(properties: &PublishProperties) -> Vec<u8> {
    let texts = [&properties.content_type, &properties.response_topic];
    let mut out = vec![
        u8::from(properties.payload_format_indicator.is_some())
            | u8::from(properties.content_type.is_some()) << 1
            | u8::from(properties.response_topic.is_some()) << 2
            | u8::from(properties.correlation_data.is_some()) << 3,
    ];
    out.extend(properties.payload_format_indicator);
    for text in texts.into_iter().flatten() {
        put_bytes(&mut out, text.as_bytes());
    }
    if let Some(data) = &properties.correlation_data {
        put_bytes(&mut out, data);
    }
    put_varint(&mut out, properties.user_properties.len() as u64);
    for (name, value) in &properties.user_properties {
        put_bytes(&mut out, name.as_bytes());
        put_bytes(&mut out, value.as_bytes());
    }
    out
}

/// What properties take unpacked, in bytes: a user property is two texts, however short.
pub(super) fn held_bytes(properties: &PublishProperties) -> usize {
    properties.size_bytes() + PAIR_BYTES * properties.user_properties.len()
}

/// Reads properties. `allow` is asked before memory is taken for what `bytes` claims.
pub(super) fn properties(
    bytes: &[u8],
    allow: &mut dyn FnMut(usize) -> Result<(), FrameError>,
) -> Result<PublishProperties, FrameError> {
    let mut from = Reader(bytes);
    let there = from.byte()?;
    if there > 0b1111 {
        return Err(FrameError::Damaged("an unknown property"));
    }
    let mut properties = PublishProperties::default();
    if there & 1 != 0 {
        properties.payload_format_indicator = Some(from.byte()?);
    }
    if there & 2 != 0 {
        properties.content_type = Some(from.text()?.to_owned());
    }
    if there & 4 != 0 {
        properties.response_topic = Some(from.text()?.to_owned());
    }
    if there & 8 != 0 {
        properties.correlation_data = Some(Bytes::copy_from_slice(from.bytes()?));
    }
    let pairs = from.size(bytes.len() / 2)?;
    allow(bytes.len() + PAIR_BYTES * pairs)?;
    for _ in 0..pairs {
        let (name, value) = (from.text()?, from.text()?);
        let pair = (name.to_owned(), value.to_owned());
        properties.user_properties.push(pair);
    }
    if from.0.is_empty() {
        Ok(properties)
    } else {
        Err(FrameError::Damaged("more properties than it says"))
    }
}
