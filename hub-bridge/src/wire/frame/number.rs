//! A payload as text with numbers in it: `{"kw":0.326}` is the shape `{"kw":#}` and the number 326 at scale 3.
//!
//! Splitting and rendering are exact inverses for every payload: what a number could not give back byte for byte stays text.

/// Digits before the point, and behind it, of a number with both: together they fit an `i64`.
pub(super) const PART_DIGITS_MAX: usize = 9;
/// Digits of a number without a point.
pub(super) const DIGITS_MAX: usize = 18;

/// A number as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number {
    /// All digits, without the point.
    pub(super) digits: i64,
    /// Digits before the point, leading zeros included; the sign is none.
    pub(super) width: u8,
    /// Digits behind the point.
    pub(super) scale: u8,
    /// More than one digit before the point, the first of them 0.
    pub(super) padded: bool,
}

/// A payload, split: `texts` has one more than `numbers`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Split<'a> {
    pub(super) texts: Vec<&'a [u8]>,
    pub(super) numbers: Vec<Number>,
}

/// Splits a payload; `None` where it has more than `numbers_max` numbers.
pub(super) fn split(payload: &[u8], numbers_max: usize) -> Option<Split<'_>> {
    let mut split = Split::default();
    let (mut text_from, mut at) = (0, 0);
    while at < payload.len() {
        let digits = run(payload, at);
        if digits == 0 {
            at += 1;
            continue;
        }
        let (len, number) = number(payload, at, digits);
        if let Some(mut number) = number {
            if split.numbers.len() == numbers_max {
                return None;
            }
            let mut begin = at;
            if number.digits != 0 && has_sign(payload, text_from, at) {
                begin -= 1;
                number.digits = -number.digits;
            }
            split.texts.push(payload.get(text_from..begin)?);
            split.numbers.push(number);
            text_from = at + len;
        }
        at += len;
    }
    split.texts.push(payload.get(text_from..)?);
    Some(split)
}

/// How many digits there are from `at` on.
fn run(payload: &[u8], at: usize) -> usize {
    let rest = payload.get(at..).unwrap_or_default();
    rest.iter().take_while(|b| b.is_ascii_digit()).count()
}

/// The number that begins at `at` with `digits` digits: how long it is, and what, where it can be one.
fn number(payload: &[u8], at: usize, digits: usize) -> (usize, Option<Number>) {
    let behind = if payload.get(at + digits) == Some(&b'.') {
        run(payload, at + digits + 1)
    } else {
        0
    };
    let has_point = (1..=PART_DIGITS_MAX).contains(&behind) && digits <= PART_DIGITS_MAX;
    let (len, scale) = if has_point {
        (digits + 1 + behind, behind)
    } else {
        (digits, 0)
    };
    if !has_point && digits > DIGITS_MAX {
        return (digits, None);
    }
    let text = payload.get(at..at + len).unwrap_or_default();
    let mut value = 0_i64;
    for digit in text.iter().filter(|b| b.is_ascii_digit()) {
        value = value * 10 + i64::from(digit - b'0');
    }
    let (Ok(width), Ok(scale)) = (u8::try_from(digits), u8::try_from(scale)) else {
        return (len, None);
    };
    let number = Number {
        digits: value,
        width,
        scale,
        padded: digits > 1 && text.first() == Some(&b'0'),
    };
    (len, Some(number))
}

/// Whether the byte before `at` is a sign, and not a hyphen as in `2007-02-01`.
fn has_sign(payload: &[u8], text_from: usize, at: usize) -> bool {
    let before = |n: usize| (at >= text_from + n).then(|| payload.get(at - n)).flatten();
    if before(1) != Some(&b'-') {
        return false;
    }
    match before(2) {
        Some(b) => !b.is_ascii_alphanumeric() && *b != b'.' && *b != b'-',
        // Right behind another number, or the first byte of all.
        None => at == 1,
    }
}

/// How the numbers of one place in a shape were written: what says `width` and `scale` of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Style {
    /// Zeros are put before numbers with fewer digits; `None`: each says its own width.
    pub(super) width: Option<u8>,
    /// How many digits follow the point.
    pub(super) scale: Scale,
    /// The most digits behind the point: values count in units of the last.
    pub(super) scale_max: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// Always `scale_max`.
    Fixed,
    /// As many as it takes.
    Shortest,
    /// As many as it takes, and at least one.
    ShortestWithPoint,
    /// Each says its own.
    Each,
}

/// The style that all of `numbers` have.
pub(super) fn style_of(numbers: &[Number]) -> Style {
    let scale_max = numbers.iter().map(|n| n.scale).max().unwrap_or(0);
    let all = |scale: Scale| {
        numbers
            .iter()
            .all(|n| scale_of(*n, scale, scale_max) == n.scale)
    };
    let candidates = [Scale::Fixed, Scale::Shortest, Scale::ShortestWithPoint];
    let scale = candidates.into_iter().find(|scale| all(*scale));
    let padded = numbers.iter().find(|n| n.padded).map_or(1, |n| n.width);
    let fits = |n: &Number| n.width >= padded && (!n.padded || n.width == padded);
    Style {
        width: numbers.iter().all(fits).then_some(padded),
        scale: scale.unwrap_or(Scale::Each),
        scale_max,
    }
}

fn scale_of(number: Number, scale: Scale, max: u8) -> u8 {
    match scale {
        Scale::Fixed => max,
        Scale::Shortest => shortest(number.digits, number.scale),
        Scale::ShortestWithPoint => shortest(number.digits, number.scale).max(1.min(max)),
        Scale::Each => number.scale,
    }
}

/// `scale` less the zeros at the end.
fn shortest(mut digits: i64, mut scale: u8) -> u8 {
    while scale > 0 && digits % 10 == 0 {
        digits /= 10;
        scale -= 1;
    }
    scale
}

impl Style {
    /// Whether every number of the column has a value: 18 digits before the point and some behind it have none.
    pub(super) fn holds(self, number: Number) -> bool {
        self.scale_max == 0 || usize::from(number.width) <= PART_DIGITS_MAX
    }

    /// The number in units of the style's last digit.
    pub(super) fn value(self, number: Number) -> i64 {
        (number.digits).saturating_mul(ten_to(self.scale_max - number.scale))
    }

    /// Writes a value. `width` and `scale` count only where the style does not say.
    pub(super) fn render(self, value: i64, width: u8, scale: u8, out: &mut Vec<u8>) {
        let scale = match self.scale {
            Scale::Fixed => self.scale_max,
            Scale::Shortest => shortest(value, self.scale_max),
            Scale::ShortestWithPoint => shortest(value, self.scale_max).max(1.min(self.scale_max)),
            Scale::Each => scale.min(self.scale_max),
        };
        let width = usize::from(self.width.unwrap_or(width));
        if value < 0 {
            out.push(b'-');
        }
        let digits = value.unsigned_abs() / ten_to(self.scale_max - scale).unsigned_abs();
        let unit = ten_to(scale).unsigned_abs();
        let (whole, part) = (digits / unit, digits % unit);
        out.extend_from_slice(format!("{whole:0width$}").as_bytes());
        if scale > 0 {
            let scale = usize::from(scale);
            out.extend_from_slice(format!(".{part:0scale$}").as_bytes());
        }
    }
}

/// `scale` is at most [`PART_DIGITS_MAX`]: who reads a frame has checked that.
fn ten_to(scale: u8) -> i64 {
    10_i64.saturating_pow(u32::from(scale))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn there_and_back(payload: &[u8]) -> Vec<u8> {
        let split = split(payload, usize::MAX).unwrap();
        let mut out = Vec::new();
        for (text, number) in split.texts.iter().zip(&split.numbers) {
            out.extend_from_slice(text);
            let style = style_of(&[*number]);
            style.render(style.value(*number), number.width, number.scale, &mut out);
        }
        out.extend_from_slice(split.texts.last().unwrap());
        out
    }

    #[test]
    fn numbers_are_found_as_people_write_them() {
        let split = split(
            br#"{"ts":"2007-02-01","kw":-0.326,"v":[243.10,-7,-0],"s":"a-1"}"#,
            99,
        )
        .unwrap();
        let digits: Vec<i64> = split.numbers.iter().map(|n| n.digits).collect();
        assert_eq!(digits, [2007, 2, 1, -326, 24310, -7, 0, 1]);
        assert_eq!(split.texts.len(), 9);
    }

    #[test]
    fn a_style_is_found_for_the_column() {
        let column = |texts: &[&str]| {
            let numbers = texts
                .iter()
                .map(|t| split(t.as_bytes(), 1).unwrap().numbers[0]);
            style_of(&numbers.collect::<Vec<_>>())
        };
        assert_eq!(column(&["01", "12", "100"]).width, Some(2));
        assert_eq!(column(&["01", "2"]).width, None);
        assert_eq!(column(&["0.10", "0.33"]).scale, Scale::Fixed);
        assert_eq!(column(&["0.1", "0.33", "7"]).scale, Scale::Shortest);
        assert_eq!(
            column(&["0.1", "0.33", "7.0"]).scale,
            Scale::ShortestWithPoint
        );
        assert_eq!(column(&["0.1", "0.330"]).scale, Scale::Each);
    }

    proptest! {
        #[test]
        fn every_payload_comes_back(payload in prop::collection::vec(prop::sample::select(b"0123456789.-e,:{}\" a\xff\0".to_vec()), 0..60)) {
            prop_assert_eq!(there_and_back(&payload), payload);
        }

        /// Numbers of all kinds in one column, in the style that is found for them.
        #[test]
        fn every_column_comes_back(texts in prop::collection::vec("-?[0-9]{1,9}(\\.[0-9]{1,9})?|[0-9]{1,18}", 1..8)) {
            let numbers: Vec<Number> = texts.iter().map(|t| {
                let split = split(t.as_bytes(), 1).unwrap();
                split.numbers[0]
            }).collect();
            let style = style_of(&numbers);
            for (text, number) in texts.iter().zip(&numbers) {
                let mut out = Vec::new();
                style.render(style.value(*number), number.width, number.scale, &mut out);
                let text = text.trim_start_matches(|c| c == '-' && number.digits == 0);
                if style.holds(*number) {
                    prop_assert_eq!(std::str::from_utf8(&out).unwrap(), text);
                }
            }
        }
    }
}
