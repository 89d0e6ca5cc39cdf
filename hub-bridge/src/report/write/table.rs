//! Tables for people. Their widths need every row, so the rows are kept until a table ends; a report of many meters over
//! years is for the other formats.

use std::io::Write as _;

use comfy_table::{CellAlignment, Table, presets};

use super::{Document, Out, WriteError, plain};
use crate::report::column::{Column, Kind, Value};

pub(super) struct Tables {
    out: Out,
    current: Option<Table>,
}

impl Tables {
    pub(super) fn new(out: Out) -> Self {
        Self { out, current: None }
    }

    fn end_table(&mut self) -> Result<(), WriteError> {
        let Some(table) = self.current.take() else {
            return Ok(());
        };
        for line in table.lines() {
            writeln!(self.out, "{}", line.trim_end())?;
        }
        writeln!(self.out)?;
        Ok(())
    }
}

impl Document for Tables {
    fn holds_many(&self) -> bool {
        true
    }

    fn field(&mut self, name: &'static str, value: &Value) -> Result<(), WriteError> {
        writeln!(self.out, "{name}: {}", plain(value))?;
        Ok(())
    }

    fn table(&mut self, name: &'static str, columns: &'static [Column]) -> Result<(), WriteError> {
        self.end_table()?;
        writeln!(self.out, "\n{name}")?;
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(columns.iter().map(|column| column.name));
        for (column, shape) in columns.iter().zip(table.column_iter_mut()) {
            if matches!(column.kind, Kind::Integer | Kind::Number) {
                shape.set_cell_alignment(CellAlignment::Right);
            }
        }
        self.current = Some(table);
        Ok(())
    }

    fn row(&mut self, values: &[Value]) -> Result<(), WriteError> {
        if let Some(table) = &mut self.current {
            table.add_row(values.iter().map(shown));
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), WriteError> {
        self.end_table()?;
        self.out.flush()?;
        Ok(())
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Nothing => "-".to_owned(),
        Value::Number(number) => format!("{number:.3}"),
        Value::Instant(instant) => instant.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        // What came over the network must not move a terminal's cursor.
        Value::Text(text) => text.chars().filter(|c| !c.is_control()).collect(),
        other => plain(other),
    }
}
