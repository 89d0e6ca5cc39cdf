//! Columns of numbers and of bytes: differences, split by byte, each compressed where that helps.
//!
//! A column is described in the plan (see `mod.rs`), and so is where its bytes are: in the plan itself while they are
//! few, else in the frame's body, raw or as a zstd frame of their own.

use super::FrameError;
use super::bytes::{Reader, TOO_MUCH, put_varint, unzigzag, zigzag};

/// Fewer bytes stay in the plan, which is compressed as a whole.
const INLINE_BELOW: usize = 192;
/// As strong as it gets without the modes for archives: a frame is made once and paid for by the byte.
pub(super) const LEVEL: i32 = 19;
/// To see which way is shorter.
const LEVEL_TRIAL: i32 = 1;

/// What a value is written as a difference to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Against {
    /// Nothing.
    Zero,
    /// The value before; at the beginning of a run, the value that the run before began with.
    Before,
    /// The difference before.
    Step,
}

impl Against {
    const ALL: [Self; 3] = [Self::Zero, Self::Before, Self::Step];

    fn code(self) -> u8 {
        match self {
            Self::Zero => 0,
            Self::Before => 1,
            Self::Step => 2,
        }
    }

    fn of_code(code: u8) -> Result<Self, FrameError> {
        let found = Self::ALL.into_iter().find(|against| against.code() == code);
        found.ok_or(FrameError::Damaged("an unknown kind of column"))
    }
}

/// Walks a column: what the next value is compared with.
struct Walk {
    against: Against,
    run_began_with: i64,
    before: i64,
    step: i64,
}

impl Walk {
    fn new(against: Against) -> Self {
        Self {
            against,
            run_began_with: 0,
            before: 0,
            step: 0,
        }
    }

    fn expected(&self, begins_run: bool) -> i64 {
        match self.against {
            Against::Zero => 0,
            _ if begins_run => self.run_began_with,
            Against::Before => self.before,
            Against::Step => self.before.wrapping_add(self.step),
        }
    }

    fn saw(&mut self, value: i64, begins_run: bool) {
        if begins_run {
            self.run_began_with = value;
            self.step = 0;
        } else {
            self.step = value.wrapping_sub(self.before);
        }
        self.before = value;
    }
}

fn differences(values: &[i64], begins_run: &dyn Fn(usize) -> bool, against: Against) -> Vec<u64> {
    let mut walk = Walk::new(against);
    let each = values.iter().enumerate().map(|(n, value)| {
        let begins = begins_run(n);
        let difference = value.wrapping_sub(walk.expected(begins));
        walk.saw(*value, begins);
        zigzag(difference)
    });
    each.collect()
}

/// Writes a frame: the plan, and what did not fit into it.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) plan: Vec<u8>,
    pub(super) body: Vec<u8>,
}

impl Writer {
    /// A column whose values are independent of any grouping.
    pub(super) fn numbers(&mut self, values: &[i64]) {
        self.numbers_in_runs(values, &|n| n == 0);
    }

    /// A column of values in runs that belong together: `begins_run` says where one begins.
    pub(super) fn numbers_in_runs(&mut self, values: &[i64], begins_run: &dyn Fn(usize) -> bool) {
        let mut best: Option<(usize, Against, Vec<Vec<u8>>)> = None;
        for against in Against::ALL {
            let differences = differences(values, begins_run, against);
            let planes = planes(&differences);
            let size = planes.iter().map(|plane| trial(plane)).sum();
            if best.as_ref().is_none_or(|(least, _, _)| size < *least) {
                best = Some((size, against, planes));
            }
        }
        let Some((_, against, planes)) = best else {
            return;
        };
        // At most the eight bytes of a number.
        let count = u8::try_from(planes.len()).unwrap_or(8);
        self.plan.push(against.code() << 4 | count);
        for plane in &planes {
            self.place(plane);
        }
    }

    /// A column of bytes, of a length that the reader is told.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        put_varint(&mut self.plan, bytes.len() as u64);
        self.place(bytes);
    }

    /// Puts bytes where they take the least.
    fn place(&mut self, bytes: &[u8]) {
        if bytes.len() < INLINE_BELOW {
            put_varint(&mut self.plan, 0);
            self.plan.extend_from_slice(bytes);
            return;
        }
        let packed = compress(bytes, LEVEL).filter(|packed| packed.len() < bytes.len());
        let (stored, is_zstd) = packed
            .as_ref()
            .map_or((bytes, 0), |packed| (packed.as_slice(), 1));
        put_varint(&mut self.plan, (stored.len() as u64) << 1 | is_zstd);
        self.body.extend_from_slice(stored);
    }
}

pub(super) fn compress(bytes: &[u8], level: i32) -> Option<Vec<u8>> {
    zstd::bulk::compress(bytes, level).ok()
}

fn trial(plane: &[u8]) -> usize {
    compress(plane, LEVEL_TRIAL).map_or(plane.len(), |packed| packed.len().min(plane.len()))
}

/// The first bytes of all values, then the second, as far as any value has them: none at all where all are zero.
fn planes(values: &[u64]) -> Vec<Vec<u8>> {
    let all = values.iter().fold(0, |all, value| all | value);
    let count = all.to_le_bytes().iter().rposition(|byte| *byte != 0);
    let plane = |n: usize| {
        let byte = |value: &u64| value.to_le_bytes().get(n).copied().unwrap_or(0);
        values.iter().map(byte).collect()
    };
    (0..count.map_or(0, |last| last + 1)).map(plane).collect()
}

/// Reads what [`Writer`] wrote.
pub(super) struct Columns<'a> {
    pub(super) plan: Reader<'a>,
    pub(super) body: Reader<'a>,
    /// How many bytes may still be unpacked.
    pub(super) left: usize,
}

impl Columns<'_> {
    pub(super) fn numbers(&mut self, count: usize) -> Result<Vec<i64>, FrameError> {
        self.numbers_in_runs(count, &|n| n == 0)
    }

    pub(super) fn numbers_in_runs(
        &mut self,
        count: usize,
        begins_run: &dyn Fn(usize) -> bool,
    ) -> Result<Vec<i64>, FrameError> {
        let head = self.plan.byte()?;
        let against = Against::of_code(head >> 4)?;
        let planes = head & 0x0f;
        if planes > 8 {
            return Err(FrameError::Damaged("a number of more than eight bytes"));
        }
        self.allow(count.saturating_mul(8))?;
        let mut coded = vec![0_u64; count];
        for shift in (0..planes).map(|plane| 8 * plane) {
            for (value, byte) in coded.iter_mut().zip(self.placed(count)?) {
                *value |= u64::from(byte) << shift;
            }
        }
        let mut walk = Walk::new(against);
        let values = coded.into_iter().enumerate().map(|(n, coded)| {
            let begins = begins_run(n);
            let value = unzigzag(coded).wrapping_add(walk.expected(begins));
            walk.saw(value, begins);
            value
        });
        Ok(values.collect())
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, FrameError> {
        let len = self.plan.size(self.left)?;
        self.placed(len)
    }

    fn placed(&mut self, len: usize) -> Result<Vec<u8>, FrameError> {
        self.allow(len)?;
        let place = self.plan.varint()?;
        if place == 0 {
            return Ok(self.plan.take(len)?.to_vec());
        }
        let stored = usize::try_from(place >> 1).map_err(|_| TOO_MUCH)?;
        let stored = self.body.take(stored)?;
        if place & 1 == 1 {
            return decompress(stored, len);
        }
        if stored.len() == len {
            return Ok(stored.to_vec());
        }
        Err(FrameError::Damaged(
            "a column of another length than it says",
        ))
    }

    /// Takes `bytes` from what may still be unpacked.
    pub(super) fn allow(&mut self, bytes: usize) -> Result<(), FrameError> {
        self.left = self.left.checked_sub(bytes).ok_or(TOO_MUCH)?;
        Ok(())
    }
}

fn decompress(packed: &[u8], len: usize) -> Result<Vec<u8>, FrameError> {
    zstd::bulk::decompress(packed, len)
        .ok()
        .filter(|bytes| bytes.len() == len)
        .ok_or(FrameError::Damaged(
            "a column that cannot be unpacked, or not to the length it says",
        ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_column_comes_back(values in prop::collection::vec(prop_oneof![any::<i64>(), -300_i64..300, Just(0)], 0..400), every in 1_usize..50) {
            let begins = |n: usize| n.is_multiple_of(every);
            let mut writer = Writer::default();
            writer.numbers_in_runs(&values, &begins);
            let mut columns = Columns { plan: Reader(&writer.plan), body: Reader(&writer.body), left: 1 << 20 };
            prop_assert_eq!(columns.numbers_in_runs(values.len(), &begins).unwrap(), values);
            prop_assert!(columns.plan.0.is_empty() && columns.body.0.is_empty());
        }
    }

    #[test]
    fn what_would_take_too_much_memory_is_refused() {
        let mut writer = Writer::default();
        writer.bytes(&vec![0; 1 << 20]);
        let mut columns = Columns {
            plan: Reader(&writer.plan),
            body: Reader(&writer.body),
            left: 1 << 19,
        };
        assert_eq!(columns.bytes(), Err(TOO_MUCH));
    }
}
