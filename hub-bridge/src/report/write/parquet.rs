//! Parquet: one typed column for each of ours, all optional, zstd. Rows are gathered into row groups of a bounded size.

use std::sync::Arc;

use ::parquet::basic::{
    Compression, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel,
};
use ::parquet::column::writer::ColumnWriter;
use ::parquet::data_type::ByteArray;
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::format::MicroSeconds;
use ::parquet::schema::types::Type;

use super::{Document, Out, WriteError};
use crate::report::column::{Column, Kind, Value};

/// Rows of a row group: what is in memory at a time.
const GROUP_ROWS: usize = 50_000;

pub(super) struct Parquet {
    place: Place,
}

enum Place {
    Begin(Out),
    Table(Box<Open>),
    Nowhere,
}

struct Open {
    writer: SerializedFileWriter<Out>,
    columns: Vec<Vec<Value>>,
    kinds: &'static [Column],
}

impl Parquet {
    pub(super) fn new(out: Out) -> Self {
        Self {
            place: Place::Begin(out),
        }
    }
}

impl Document for Parquet {
    fn holds_many(&self) -> bool {
        false
    }

    fn field(&mut self, _: &'static str, _: &Value) -> Result<(), WriteError> {
        Ok(())
    }

    fn table(&mut self, name: &'static str, columns: &'static [Column]) -> Result<(), WriteError> {
        let Place::Begin(out) = std::mem::replace(&mut self.place, Place::Nowhere) else {
            return Err(WriteError::OneTable);
        };
        let fields: Result<Vec<_>, _> = columns.iter().map(field).collect();
        let schema = Type::group_type_builder(name)
            .with_fields(fields?)
            .build()?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(6)?))
            .build();
        self.place = Place::Table(Box::new(Open {
            writer: SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties))?,
            columns: vec![Vec::new(); columns.len()],
            kinds: columns,
        }));
        Ok(())
    }

    fn row(&mut self, values: &[Value]) -> Result<(), WriteError> {
        let Place::Table(open) = &mut self.place else {
            return Ok(());
        };
        for (column, value) in open.columns.iter_mut().zip(values) {
            column.push(value.clone());
        }
        if open.columns.first().is_some_and(|c| c.len() >= GROUP_ROWS) {
            open.end_group()?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), WriteError> {
        let Place::Table(mut open) = self.place else {
            return Ok(());
        };
        open.end_group()?;
        open.writer.close()?;
        Ok(())
    }
}

fn field(column: &Column) -> Result<Arc<Type>, ParquetError> {
    let (physical, logical) = match column.kind {
        Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        Kind::Integer => (Physical::INT64, None),
        Kind::Number => (Physical::DOUBLE, None),
        Kind::Day => (Physical::INT32, Some(LogicalType::Date)),
        Kind::Instant => {
            let logical = LogicalType::Timestamp {
                is_adjusted_to_u_t_c: true,
                unit: TimeUnit::MICROS(MicroSeconds::default()),
            };
            (Physical::INT64, Some(logical))
        }
    };
    Type::primitive_type_builder(column.name, physical)
        .with_logical_type(logical)
        .with_repetition(Repetition::OPTIONAL)
        .build()
        .map(Arc::new)
}

impl Open {
    fn end_group(&mut self) -> Result<(), WriteError> {
        if self.columns.first().is_none_or(Vec::is_empty) {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        for (column, values) in self.kinds.iter().zip(&mut self.columns) {
            let Some(mut writer) = group.next_column()? else {
                break;
            };
            write_column(column.kind, values, writer.untyped())?;
            writer.close()?;
            values.clear();
        }
        group.close()?;
        Ok(())
    }
}

fn write_column(
    kind: Kind,
    values: &[Value],
    writer: &mut ColumnWriter<'_>,
) -> Result<(), ParquetError> {
    let fits: Vec<bool> = values.iter().map(|value| fits(kind, value)).collect();
    let levels: Vec<i16> = fits.iter().copied().map(i16::from).collect();
    let present = || {
        values
            .iter()
            .zip(&fits)
            .filter(|(_, fits)| **fits)
            .map(|(value, _)| value)
    };
    let levels = Some(levels.as_slice());
    match writer {
        ColumnWriter::ByteArrayColumnWriter(writer) => {
            let texts: Vec<ByteArray> = present().map(text).collect();
            writer.write_batch(&texts, levels, None)?;
        }
        ColumnWriter::Int64ColumnWriter(writer) => {
            let numbers: Vec<i64> = present().map(long).collect();
            writer.write_batch(&numbers, levels, None)?;
        }
        ColumnWriter::DoubleColumnWriter(writer) => {
            let numbers: Vec<f64> = present().map(double).collect();
            writer.write_batch(&numbers, levels, None)?;
        }
        ColumnWriter::Int32ColumnWriter(writer) => {
            let days: Vec<i32> = present().map(day).collect();
            writer.write_batch(&days, levels, None)?;
        }
        _ => {}
    }
    Ok(())
}

fn fits(kind: Kind, value: &Value) -> bool {
    matches!(
        (kind, value),
        (Kind::Text, Value::Text(_))
            | (Kind::Integer, Value::Integer(_))
            | (Kind::Number, Value::Number(_))
            | (Kind::Day, Value::Day(_))
            | (Kind::Instant, Value::Instant(_))
    )
}

fn text(value: &Value) -> ByteArray {
    match value {
        Value::Text(text) => text.as_str().into(),
        _ => ByteArray::new(),
    }
}

fn long(value: &Value) -> i64 {
    match value {
        Value::Integer(number) => *number,
        Value::Instant(instant) => instant.as_microsecond(),
        _ => 0,
    }
}

fn double(value: &Value) -> f64 {
    match value {
        Value::Number(number) => *number,
        _ => 0.0,
    }
}

/// Days since 1970-01-01.
fn day(value: &Value) -> i32 {
    match value {
        Value::Day(day) => (*day - jiff::civil::date(1970, 1, 1)).get_days(),
        _ => 0,
    }
}
