//! Payloads that differ only in their numbers: each shape's texts once, and its numbers column by column.
//!
//! The readings of a shape are ordered by series and then as they came, so that each column follows one meter at a time.
//! Payloads whose shape comes too seldom are kept whole.

use std::collections::HashMap;

use super::FrameError;
use super::bytes::{Reader, put_bytes, put_varint};
use super::column::{Columns, Writer};
use super::number::{DIGITS_MAX, Number, PART_DIGITS_MAX, Scale, Split, Style, split, style_of};

/// Fewer payloads of one shape are cheaper whole.
const MEMBERS_MIN: usize = 4;
/// Payloads with more numbers are kept whole.
const NUMBERS_MAX: usize = 256;
/// About what a place of a shape takes in the table of who reads it, in bytes: a slice and a style.
const PLACE_BYTES: usize = size_of::<&[u8]>() + size_of::<Style>();
/// The number of "no shape".
pub(super) const WHOLE: usize = 0;

/// What the payloads of a shape have in common, and how its numbers are written.
struct Shape<'a> {
    texts: Vec<&'a [u8]>,
    styles: Vec<Style>,
    /// Its readings, by series.
    members: Vec<usize>,
}

/// The payloads of a frame, taken apart.
pub(super) struct Shapes<'a> {
    /// The shape of each reading; [`WHOLE`] for none.
    pub(super) of_reading: Vec<usize>,
    splits: Vec<Option<Split<'a>>>,
    table: Vec<Shape<'a>>,
}

/// Readings in the order of a shape's columns: by series, then as they came.
pub(super) fn by_series(readings: impl Iterator<Item = usize>, series: &[usize]) -> Vec<usize> {
    let mut ordered: Vec<usize> = readings.collect();
    ordered.sort_by_key(|n| series.get(*n));
    ordered
}

/// Whether the `n`-th of `members` is of another series than the one before.
pub(super) fn begins_run(members: &[usize], series: &[usize], n: usize) -> bool {
    let of = |n: usize| members.get(n).and_then(|reading| series.get(*reading));
    n == 0 || of(n) != of(n - 1)
}

impl<'a> Shapes<'a> {
    /// Takes `payloads` apart; `series` says which belong together.
    pub(super) fn find(payloads: &[&'a [u8]], series: &[usize]) -> Self {
        let splits: Vec<Option<Split<'a>>> =
            payloads.iter().map(|p| split(p, NUMBERS_MAX)).collect();
        let mut by_texts: HashMap<&[&[u8]], Vec<usize>> = HashMap::new();
        for (n, split) in splits.iter().enumerate() {
            if let Some(split) = split.as_ref().filter(|split| !split.numbers.is_empty()) {
                by_texts.entry(&split.texts).or_default().push(n);
            }
        }
        let mut groups: Vec<Vec<usize>> = by_texts.into_values().collect();
        groups.retain(|members| members.len() >= MEMBERS_MIN);
        // In the order of their first reading: the same readings always give the same bytes.
        groups.sort_by_key(|members| members.first().copied());
        let mut of_reading = vec![WHOLE; payloads.len()];
        let mut shapes = Vec::new();
        for group in groups {
            let members = by_series(group.into_iter(), series);
            let first = members
                .first()
                .and_then(|n| splits.get(*n))
                .and_then(Option::as_ref);
            let Some(first) = first else { continue };
            let count = first.numbers.len();
            let column = |place| numbers(&splits, &members, place);
            let styles: Vec<Style> = (0..count).map(|place| style_of(&column(place))).collect();
            let held =
                |(place, style): (usize, &Style)| column(place).iter().all(|n| style.holds(*n));
            if !styles.iter().enumerate().all(held) {
                continue;
            }
            shapes.push(Shape {
                texts: first.texts.clone(),
                styles,
                members,
            });
            for member in &shapes.last().map(|s| s.members.clone()).unwrap_or_default() {
                if let Some(shape) = of_reading.get_mut(*member) {
                    *shape = shapes.len();
                }
            }
        }
        Self {
            of_reading,
            splits,
            table: shapes,
        }
    }

    /// The shapes' texts and styles.
    pub(super) fn put_table(&self, plan: &mut Vec<u8>) {
        put_varint(plan, self.table.len() as u64);
        for shape in &self.table {
            put_varint(plan, shape.styles.len() as u64);
            for text in &shape.texts {
                put_bytes(plan, text);
            }
            for style in &shape.styles {
                plan.push(style.width.unwrap_or(0));
                plan.push(scale_code(style.scale) << 4 | style.scale_max);
            }
        }
    }

    /// The shapes' numbers, one column a place.
    pub(super) fn put_columns(&self, series: &[usize], writer: &mut Writer) {
        for shape in &self.table {
            let begins = |n: usize| begins_run(&shape.members, series, n);
            for (place, style) in shape.styles.iter().enumerate() {
                let numbers = numbers(&self.splits, &shape.members, place);
                let mut put = |value: &dyn Fn(&Number) -> i64| {
                    let values: Vec<i64> = numbers.iter().map(value).collect();
                    writer.numbers_in_runs(&values, &begins);
                };
                put(&|number| style.value(*number));
                if style.width.is_none() {
                    put(&|number| number.width.into());
                }
                if style.scale == Scale::Each {
                    put(&|number| number.scale.into());
                }
            }
        }
    }
}

fn numbers(splits: &[Option<Split<'_>>], members: &[usize], place: usize) -> Vec<Number> {
    let of = |n: &usize| splits.get(*n)?.as_ref()?.numbers.get(place).copied();
    members.iter().filter_map(of).collect()
}

fn scale_code(scale: Scale) -> u8 {
    match scale {
        Scale::Fixed => 0,
        Scale::Shortest => 1,
        Scale::ShortestWithPoint => 2,
        Scale::Each => 3,
    }
}

/// A shape as it was read.
pub(super) struct ReadShape<'a> {
    texts: Vec<&'a [u8]>,
    styles: Vec<Style>,
}

/// Reads the table of at most `max` shapes.
pub(super) fn table<'a>(
    max: usize,
    columns: &mut Columns<'a>,
) -> Result<Vec<ReadShape<'a>>, FrameError> {
    let mut shapes = Vec::new();
    for _ in 0..columns.plan.size(max)? {
        let places = columns.plan.size(NUMBERS_MAX)?;
        columns.allow(PLACE_BYTES * (places + 1))?;
        let plan = &mut columns.plan;
        let texts: Result<Vec<_>, _> = (0..=places).map(|_| plan.bytes()).collect();
        let styles: Result<Vec<_>, _> = (0..places).map(|_| style(plan)).collect();
        shapes.push(ReadShape {
            texts: texts?,
            styles: styles?,
        });
    }
    Ok(shapes)
}

fn style(plan: &mut Reader<'_>) -> Result<Style, FrameError> {
    let (width, scale) = (plan.byte()?, plan.byte()?);
    if usize::from(width) > DIGITS_MAX || usize::from(scale & 0x0f) > PART_DIGITS_MAX {
        return Err(FrameError::Damaged("numbers with more digits than any has"));
    }
    let style = Style {
        width: (width > 0).then_some(width),
        scale: match scale >> 4 {
            0 => Scale::Fixed,
            1 => Scale::Shortest,
            2 => Scale::ShortestWithPoint,
            3 => Scale::Each,
            _ => return Err(FrameError::Damaged("an unknown way to write a number")),
        },
        scale_max: scale & 0x0f,
    };
    Ok(style)
}

/// What the `n`-th number says of its digits; 0 where the style says it for all.
fn digits(column: Option<&[i64]>, n: usize, max: usize) -> Result<u8, FrameError> {
    let Some(said) = column.and_then(|column| column.get(n)) else {
        return Ok(0);
    };
    u8::try_from(*said)
        .ok()
        .filter(|digits| usize::from(*digits) <= max)
        .ok_or(FrameError::Damaged(
            "a number with more digits than any has",
        ))
}

impl ReadShape<'_> {
    /// Reads the shape's columns and puts its payloads together: `members` are its readings.
    pub(super) fn payloads(
        &self,
        members: &[usize],
        series: &[usize],
        columns: &mut Columns<'_>,
        mut give: impl FnMut(usize, Vec<u8>),
    ) -> Result<(), FrameError> {
        let begins = |n: usize| begins_run(members, series, n);
        let mut places = Vec::with_capacity(self.styles.len());
        for style in &self.styles {
            let mut column = || columns.numbers_in_runs(members.len(), &begins);
            let values = column()?;
            let widths = style.width.is_none().then(&mut column).transpose()?;
            let each = style.scale == Scale::Each;
            let scales = each.then(&mut column).transpose()?;
            places.push((style, values, widths, scales));
        }
        let texts: usize = self.texts.iter().map(|text| text.len()).sum();
        columns.allow(members.len().saturating_mul(texts))?;
        for (n, member) in members.iter().enumerate() {
            let mut payload = Vec::with_capacity(texts + 8 * places.len());
            let mut texts = self.texts.iter();
            for (style, values, widths, scales) in &places {
                payload.extend_from_slice(texts.next().copied().unwrap_or_default());
                let value = values.get(n).copied().unwrap_or_default();
                let (width, scale) = (
                    digits(widths.as_deref(), n, DIGITS_MAX)?,
                    digits(scales.as_deref(), n, style.scale_max.into())?,
                );
                let before = payload.len();
                style.render(value, width, scale, &mut payload);
                columns.allow(payload.len() - before)?;
            }
            payload.extend_from_slice(texts.next().copied().unwrap_or_default());
            give(*member, payload);
        }
        Ok(())
    }
}
