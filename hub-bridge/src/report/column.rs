//! A table's columns and values, whatever is written of them.

use jiff::Timestamp;
use jiff::civil::Date;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// A day in the village's calendar.
    Day,
    /// An instant.
    Instant,
}

/// A column. Its name is part of the interface: it stays, with its meaning and unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
}

/// A column of that name and kind.
pub const fn column(name: &'static str, kind: Kind) -> Column {
    Column { name, kind }
}

/// A value of a column; `Nothing` fits every kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Not known, or does not apply.
    Nothing,
    /// Of [`Kind::Text`].
    Text(String),
    /// Of [`Kind::Integer`].
    Integer(i64),
    /// Of [`Kind::Number`]; always finite.
    Number(f64),
    /// Of [`Kind::Day`].
    Day(Date),
    /// Of [`Kind::Instant`].
    Instant(Timestamp),
}

impl Value {
    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A count.
    pub fn count(count: u64) -> Self {
        Self::Integer(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// A number to six places, so that a kWh is exact to the milliwatt hour and a sum of binary fractions reads as people
    /// write it. What is not finite is nothing.
    pub fn number(number: impl Into<Option<f64>>) -> Self {
        match number.into() {
            Some(number) if number.is_finite() => Self::Number(rounded(number, 6)),
            _ => Self::Nothing,
        }
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Nothing, Into::into)
    }
}

impl From<Date> for Value {
    fn from(day: Date) -> Self {
        Self::Day(day)
    }
}

impl From<Timestamp> for Value {
    fn from(instant: Timestamp) -> Self {
        Self::Instant(instant)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// A number to so many places after the point.
pub fn rounded(number: f64, places: i32) -> f64 {
    let scale = 10_f64.powi(places);
    let scaled = (number * scale).round() / scale;
    // Far beyond any reading, where the scale itself overflows; and never a minus before a zero.
    if scaled.is_finite() {
        scaled + 0.0
    } else {
        number
    }
}
