//! CSV: RFC 4180 with a line of names, lines end in a line feed.

use super::{Document, Out, WriteError, plain};
use crate::report::column::{Column, Value};

pub(super) struct Csv {
    writer: ::csv::Writer<Out>,
    begun: bool,
}

impl Csv {
    pub(super) fn new(out: Out) -> Self {
        Self {
            writer: ::csv::Writer::from_writer(out),
            begun: false,
        }
    }
}

impl Document for Csv {
    fn holds_many(&self) -> bool {
        false
    }

    fn field(&mut self, _: &'static str, _: &Value) -> Result<(), WriteError> {
        Ok(())
    }

    fn table(&mut self, _: &'static str, columns: &'static [Column]) -> Result<(), WriteError> {
        if std::mem::replace(&mut self.begun, true) {
            return Err(WriteError::OneTable);
        }
        self.writer.write_record(columns.iter().map(|c| c.name))?;
        Ok(())
    }

    fn row(&mut self, values: &[Value]) -> Result<(), WriteError> {
        self.writer.write_record(values.iter().map(plain))?;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), WriteError> {
        self.writer.flush()?;
        Ok(())
    }
}
