//! JSON: one object, `version` first, then the document's fields, then each table as an array of objects. Written row by
//! row; instants are RFC 3339 in UTC, days ISO 8601.

use std::io::Write as _;

use serde::ser::{Serialize, SerializeMap as _, Serializer};

use super::{Document, Out, WriteError};
use crate::report::column::{Column, Value};

/// Of the document: raised when a field's meaning changes, not when one is added.
const VERSION: i64 = 1;

pub(super) struct Json {
    out: Out,
    place: Place,
}

enum Place {
    Begin,
    Fields,
    Table(&'static [Column], Rows),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rows {
    None,
    Some,
}

impl Json {
    pub(super) fn new(out: Out) -> Self {
        Self {
            out,
            place: Place::Begin,
        }
    }

    fn name(&mut self, name: &str) -> Result<(), WriteError> {
        match self.place {
            Place::Begin => write!(self.out, "{{\"version\":{VERSION}")?,
            Place::Fields => {}
            Place::Table(..) => self.out.write_all(b"\n]")?,
        }
        self.out.write_all(b",\n")?;
        serde_json::to_writer(&mut self.out, name)?;
        self.out.write_all(b":")?;
        Ok(())
    }
}

impl Document for Json {
    fn holds_many(&self) -> bool {
        true
    }

    fn field(&mut self, name: &'static str, value: &Value) -> Result<(), WriteError> {
        self.name(name)?;
        serde_json::to_writer(&mut self.out, value)?;
        self.place = Place::Fields;
        Ok(())
    }

    fn table(&mut self, name: &'static str, columns: &'static [Column]) -> Result<(), WriteError> {
        self.name(name)?;
        self.out.write_all(b"[")?;
        self.place = Place::Table(columns, Rows::None);
        Ok(())
    }

    fn row(&mut self, values: &[Value]) -> Result<(), WriteError> {
        let Place::Table(columns, rows) = &mut self.place else {
            return Ok(());
        };
        let before: &[u8] = match std::mem::replace(rows, Rows::Some) {
            Rows::None => b"\n",
            Rows::Some => b",\n",
        };
        self.out.write_all(before)?;
        serde_json::to_writer(&mut self.out, &Row(columns, values))?;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), WriteError> {
        match self.place {
            Place::Begin => writeln!(self.out, "{{\"version\":{VERSION}}}")?,
            Place::Fields => self.out.write_all(b"\n}\n")?,
            Place::Table(..) => self.out.write_all(b"\n]\n}\n")?,
        }
        self.out.flush()?;
        Ok(())
    }
}

struct Row<'a>(&'static [Column], &'a [Value]);

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (column, value) in self.0.iter().zip(self.1) {
            map.serialize_entry(column.name, value)?;
        }
        map.end()
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nothing => serializer.serialize_none(),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Integer(number) => serializer.serialize_i64(*number),
            Self::Number(number) => serializer.serialize_f64(*number),
            Self::Day(day) => serializer.collect_str(day),
            Self::Instant(instant) => serializer.collect_str(instant),
        }
    }
}
