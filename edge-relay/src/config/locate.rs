//! At which line of the file a key stands.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

/// The line of every key and section of a file.
#[derive(Debug, Clone, Default)]
pub(super) struct Lines(BTreeMap<String, usize>);

impl Lines {
    /// Of a file's text, which may be broken in places.
    pub(super) fn of_text(text: &str) -> Self {
        let (table, _) = DeTable::parse_recoverable(text);
        let mut lines = BTreeMap::new();
        collect("", table.get_ref(), text, &mut lines);
        Self(lines)
    }

    /// The line of `key`, from 1.
    pub(super) fn of(&self, key: &str) -> Option<usize> {
        self.0.get(key).copied()
    }
}

fn collect(prefix: &str, table: &DeTable<'_>, text: &str, lines: &mut BTreeMap<String, usize>) {
    for (name, value) in table {
        let key = super::join(prefix, name.get_ref());
        if let DeValue::Table(inner) = value.get_ref() {
            collect(&key, inner, text, lines);
        }
        lines.insert(key, line_at(text, name.span().start));
    }
}

/// The line, from 1, of the byte at `offset`.
pub(super) fn line_at(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    before.filter(|byte| **byte == b'\n').count() + 1
}
