//! Durations and sizes as people write them: `"15s"`, `"10 min"`, `"64 MiB"`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration, written as `"15s"`, `"1 h 30 min"` or `"7 days"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl Span {
    /// A hundred years: what is longer is a slip, and sums of it would overflow.
    const MAX: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

    /// Whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Whole milliseconds.
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim() == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let span = humantime::parse_duration(text.trim()).map_err(|_| {
            format!("{text:?} is not a duration such as \"15s\", \"10 min\" or \"7 days\"")
        })?;
        if span > Self::MAX {
            return Err(format!("{text:?} is longer than a hundred years"));
        }
        Ok(Self(span))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A size in bytes, written as `"256 KiB"`, `"4 GiB"` or a plain number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// Whole KiB.
    pub const fn kib(count: u64) -> Self {
        Self(count * 1024)
    }

    /// Whole MiB.
    pub const fn mib(count: u64) -> Self {
        Self::kib(count * 1024)
    }

    /// Whole GiB.
    pub const fn gib(count: u64) -> Self {
        Self::mib(count * 1024)
    }

    /// As a length in memory; the largest there is where it does not fit.
    pub fn as_len(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<bytesize::ByteSize>()
            .map(|size| Self(size.as_u64()))
            .map_err(|_| format!("{text:?} is not a size such as \"256 KiB\" or \"4 GiB\""))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        for (unit, shift) in UNITS {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{} {unit}", self.0 >> shift);
            }
        }
        write!(f, "{} B", self.0)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A rate of bytes, written as links are sold: `"64 kbit/s"`, `"1 Mbit/s"`, or `"8 kB/s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Bytes a second, rounded up.
    pub bytes_per_s: u64,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const UNITS: [(&str, u64); 6] = [
            ("kbit/s", 1_000),
            ("Mbit/s", 1_000_000),
            ("bit/s", 1),
            ("kB/s", 8_000),
            ("MB/s", 8_000_000),
            ("B/s", 8),
        ];
        let trimmed = text.trim();
        let bits = UNITS.iter().find_map(|(unit, factor)| {
            let number = trimmed.strip_suffix(unit)?.trim_end();
            number.parse::<u64>().ok()?.checked_mul(*factor)
        });
        let wrong = || format!("{text:?} is not a rate such as \"64 kbit/s\" or \"1 Mbit/s\"");
        let bytes_per_s = bits.ok_or_else(wrong)?.div_ceil(8);
        Ok(Self { bytes_per_s })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.bytes_per_s.saturating_mul(8);
        if bits != 0 && bits.is_multiple_of(1_000_000) {
            write!(f, "{} Mbit/s", bits / 1_000_000)
        } else if bits != 0 && bits.is_multiple_of(1_000) {
            write!(f, "{} kbit/s", bits / 1_000)
        } else {
            write!(f, "{bits} bit/s")
        }
    }
}

/// A limit that there may not be: `"none"`, or a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit<T>(pub Option<T>);

impl<T: FromStr<Err = String>> FromStr for Limit<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim() == "none" {
            return Ok(Self(None));
        }
        let value = text
            .parse()
            .map_err(|error| format!("{error}, nor \"none\""))?;
        Ok(Self(Some(value)))
    }
}

impl<T: fmt::Display> Serialize for Limit<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_str("none"),
        }
    }
}

impl<'de, T: FromStr<Err = String>> Deserialize<'de> for Limit<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A list of texts; from the environment, where there are no lists, separated by commas.
pub(super) fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct ListVisitor;

    impl<'de> serde::de::Visitor<'de> for ListVisitor {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of texts")
        }

        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok(text.split(',').map(|item| item.trim().to_owned()).collect())
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(
            self,
            mut items: A,
        ) -> Result<Self::Value, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = items.next_element()? {
                list.push(item);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_any(ListVisitor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_people_write_them() {
        for (text, seconds) in [
            ("15s", 15),
            ("15 min", 900),
            ("1h 30min", 5400),
            ("7 days", 604_800),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(text.parse::<Span>(), Ok(Span::seconds(seconds)), "{text}");
        }
        for text in [
            "",
            "15",
            "abc",
            "-1s",
            "15 parsecs",
            "9223372036854775807 s",
        ] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [
            ("256 KiB", 262_144),
            ("4GiB", 4 << 30),
            ("1 kB", 1000),
            ("17", 17),
            ("0 B", 0),
        ] {
            assert_eq!(text.parse::<Size>(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "KiB", "12 parsecs", "-1"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn rates_as_links_are_sold() {
        for (text, bytes_per_s) in [
            ("64 kbit/s", 8000),
            ("1Mbit/s", 125_000),
            ("100 bit/s", 13),
            ("8 kB/s", 8000),
            ("500 B/s", 500),
        ] {
            let rate = Rate { bytes_per_s };
            assert_eq!(text.parse(), Ok(rate), "{text}");
            assert_eq!(rate.to_string().parse(), Ok(rate), "{rate}");
        }
        for text in [
            "",
            "64",
            "64 kbit",
            "-1 kbit/s",
            "1.5 Mbit/s",
            "99999999999999999 MB/s",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_limit_is_a_value_or_none() {
        assert_eq!("none".parse(), Ok(Limit::<Size>(None)));
        assert_eq!("2 GB".parse(), Ok(Limit(Some(Size(2_000_000_000)))));
        let refused = "much".parse::<Limit<Size>>().unwrap_err();
        assert!(refused.contains("none"), "{refused}");
    }

    #[test]
    fn sizes_and_durations_print_as_they_are_read() {
        for size in [
            Size(0),
            Size(17),
            Size::kib(256),
            Size::mib(64),
            Size::gib(4),
            Size(1000),
        ] {
            assert_eq!(size.to_string().parse(), Ok(size));
        }
        for span in [
            Span::seconds(0),
            Span::seconds(15),
            Span::seconds(604_800),
            Span::millis(200),
        ] {
            assert_eq!(span.to_string().parse(), Ok(span));
        }
    }
}
