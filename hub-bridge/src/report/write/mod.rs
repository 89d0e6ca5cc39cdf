//! Tables as people and programs read them. One writer a format; each is given row after row, and keeps none that it can
//! write.

mod csv;
mod json;
#[cfg(feature = "parquet")]
mod parquet;
mod table;

use std::io::Write;

use serde::Serialize;

use super::column::{Column, Value};

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// RFC 4180, with a line of names.
    Csv,
    /// One document.
    Json,
    /// Typed columns, zstd: for those who train models.
    Parquet,
}

/// Where the writers write.
pub type Out = Box<dyn Write + Send>;

/// Why a table could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The file, or the reader of a pipe.
    #[error("cannot write: {0}")]
    Io(#[from] std::io::Error),
    /// CSV.
    #[error("cannot write CSV: {0}")]
    Csv(#[from] ::csv::Error),
    /// JSON.
    #[error("cannot write JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Parquet.
    #[cfg(feature = "parquet")]
    #[error("cannot write Parquet: {0}")]
    Parquet(#[from] ::parquet::errors::ParquetError),
    /// Built without the feature.
    #[error("this hub-bridge was built without Parquet (feature `parquet`)")]
    NoParquet,
    /// CSV and Parquet are one table.
    #[error("a file of this format holds one table")]
    OneTable,
}

impl WriteError {
    /// Whether the reader of a pipe went away.
    pub fn is_broken_pipe(&self) -> bool {
        let kind = match self {
            Self::Io(error) => Some(error.kind()),
            Self::Json(error) => error.io_error_kind(),
            Self::Csv(error) => match error.kind() {
                ::csv::ErrorKind::Io(error) => Some(error.kind()),
                _ => None,
            },
            _ => None,
        };
        kind == Some(std::io::ErrorKind::BrokenPipe)
    }
}

/// A document of one or more tables.
pub trait Document: Send {
    /// Whether it can hold more than one.
    fn holds_many(&self) -> bool;

    /// A field of the whole document, before any table; formats that have no place for it leave it out.
    ///
    /// # Errors
    /// [`WriteError`].
    fn field(&mut self, name: &'static str, value: &Value) -> Result<(), WriteError>;

    /// Begins a table.
    ///
    /// # Errors
    /// [`WriteError`].
    fn table(&mut self, name: &'static str, columns: &'static [Column]) -> Result<(), WriteError>;

    /// A row of the table begun last: one value a column.
    ///
    /// # Errors
    /// [`WriteError`].
    fn row(&mut self, values: &[Value]) -> Result<(), WriteError>;

    /// Ends the document.
    ///
    /// # Errors
    /// [`WriteError`].
    fn finish(self: Box<Self>) -> Result<(), WriteError>;
}

/// A document of that format.
///
/// # Errors
/// [`WriteError::NoParquet`].
pub fn document(format: Format, out: Out) -> Result<Box<dyn Document>, WriteError> {
    Ok(match format {
        Format::Table => Box::new(table::Tables::new(out)),
        Format::Csv => Box::new(csv::Csv::new(out)),
        Format::Json => Box::new(json::Json::new(out)),
        #[cfg(feature = "parquet")]
        Format::Parquet => Box::new(parquet::Parquet::new(out)),
        #[cfg(not(feature = "parquet"))]
        Format::Parquet => return Err(WriteError::NoParquet),
    })
}

/// A value as CSV has it: instants in UTC, nothing is empty.
fn plain(value: &Value) -> String {
    match value {
        Value::Nothing => String::new(),
        Value::Text(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Day(day) => day.to_string(),
        Value::Instant(instant) => instant.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::column::{Kind, column};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    const COLUMNS: &[Column] = &[
        column("village", Kind::Text),
        column("day", Kind::Day),
        column("readings", Kind::Integer),
        column("kwh", Kind::Number),
        column("at", Kind::Instant),
    ];

    fn rows() -> Vec<Vec<Value>> {
        vec![
            vec![
                Value::text("a, \"b\""),
                Value::Day("2026-01-02".parse().unwrap()),
                Value::count(3),
                Value::number(0.1 + 0.2),
                Value::Instant("2026-01-02T03:04:05.25Z".parse().unwrap()),
            ],
            vec![
                Value::text("é"),
                Value::Nothing,
                Value::Nothing,
                Value::number(f64::NAN),
                Value::Nothing,
            ],
        ]
    }

    fn written(format: Format) -> Vec<u8> {
        let out = Shared::default();
        let mut document = document(format, Box::new(out.clone())).unwrap();
        document.field("by", &Value::text("day")).unwrap();
        document.table("rows", COLUMNS).unwrap();
        for row in rows() {
            document.row(&row).unwrap();
        }
        if document.holds_many() {
            document.table("more", COLUMNS).unwrap();
        }
        document.finish().unwrap();
        let bytes = out.0.lock().unwrap();
        bytes.clone()
    }

    #[test]
    fn csv_quotes_what_must_be() {
        let text = String::from_utf8(written(Format::Csv)).unwrap();
        assert_eq!(
            text,
            "village,day,readings,kwh,at\n\"a, \"\"b\"\"\",2026-01-02,3,0.3,2026-01-02T03:04:05.25Z\né,,,,\n"
        );
    }

    #[test]
    fn json_has_typed_values_and_null() {
        let json: serde_json::Value = serde_json::from_slice(&written(Format::Json)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"version": 1, "by": "day", "rows": [
                {"village": "a, \"b\"", "day": "2026-01-02", "readings": 3, "kwh": 0.3, "at": "2026-01-02T03:04:05.25Z"},
                {"village": "é", "day": null, "readings": null, "kwh": null, "at": null}
            ], "more": []})
        );
    }

    #[test]
    fn a_table_shows_every_value() {
        let text = String::from_utf8(written(Format::Table)).unwrap();
        for part in ["village", "a, \"b\"", "2026-01-02", "0.300", "é"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[cfg(feature = "parquet")]
    #[test]
    fn parquet_has_typed_columns_and_nulls() {
        use ::parquet::file::reader::{FileReader, SerializedFileReader};
        use ::parquet::record::RowAccessor;
        let reader =
            SerializedFileReader::new(bytes::Bytes::from(written(Format::Parquet))).unwrap();
        let rows: Vec<_> = reader
            .get_row_iter(None)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].get_string(0).unwrap(), "a, \"b\"");
        assert_eq!(rows[0].get_long(2).unwrap(), 3);
        assert!((rows[0].get_double(3).unwrap() - 0.3).abs() < 1e-12);
        assert_eq!(
            rows[0].get_timestamp_micros(4).unwrap(),
            1_767_323_045_250_000
        );
        assert_eq!(rows[1].get_string(0).unwrap(), "é");
        assert!(rows[1].get_double(3).is_err());
        let nulls = rows[1].get_column_iter();
        let nulls = nulls.filter(|(_, field)| **field == ::parquet::record::Field::Null);
        assert_eq!(nulls.count(), 4);
    }
}
