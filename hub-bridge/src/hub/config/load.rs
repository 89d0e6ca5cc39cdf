//! From a file and the environment to the keys as they are written, with everything that is wrong named at once.
//!
//! The file is read twice: by the `config` crate, which layers the environment over it, and with spans, which tell the
//! line of a key. A value of the wrong type is complained of and taken out until the rest can be read.

use std::collections::BTreeMap;
use std::path::Path;

use config::{Value, ValueKind};
use toml::de::{DeTable, DeValue};

use super::Environment;
use super::problem::{Complaints, ConfigError, Origin, Problem};
use super::written::Written;

/// What environment variables that override keys begin with.
pub const ENVIRONMENT_PREFIX: &str = "HUB_BRIDGE__";

/// Where the values of a load came from, to give a complaint its place.
pub(super) struct Places {
    lines: BTreeMap<String, usize>,
    environment: Environment,
}

impl Places {
    pub(super) fn locate(&self, file: &Path, complaints: Complaints) -> ConfigError {
        let problems = complaints.0.into_iter().map(|complaint| Problem {
            origin: self.origin(&complaint.key),
            key: complaint.key,
            reason: complaint.reason,
            allowed: complaint.allowed,
        });
        ConfigError::new(file, problems.collect())
    }

    fn origin(&self, key: &str) -> Origin {
        let variable = format!("{ENVIRONMENT_PREFIX}{}", key.replace('.', "__"));
        let set = |name: &&String| name.eq_ignore_ascii_case(&variable);
        if let Some(name) = self.environment.keys().find(set) {
            return Origin::Environment(name.clone());
        }
        let line = self.lines.get(key).copied();
        line.map_or(Origin::Absent, Origin::Line)
    }
}

/// Reads `text`, the content of `file`, under `environment`.
pub(super) fn read(
    file: &Path,
    text: &str,
    environment: &Environment,
    complaints: &mut Complaints,
) -> Result<(Written, Places), ConfigError> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let problems = errors.iter().map(|error| Problem {
            key: String::new(),
            origin: error.span().map_or(Origin::Absent, |span| {
                Origin::Line(line_at(text, span.start))
            }),
            reason: error.message().replace('\n', ", "),
            allowed: None,
        });
        return Err(ConfigError::new(file, problems.collect()));
    }
    let mut lines = BTreeMap::new();
    collect_lines("", table.get_ref(), text, &mut lines);
    let places = Places {
        lines,
        environment: environment.clone(),
    };
    let mut tree = layered(text, environment)
        .map_err(|error| ConfigError::of_file(file, error.to_string()))?;
    complain_of_unknown_keys(&mut tree, complaints);
    Ok((typed(tree, complaints), places))
}

/// The environment over the file.
fn layered(text: &str, environment: &Environment) -> Result<Value, config::ConfigError> {
    let variables = config::Environment::with_prefix(ENVIRONMENT_PREFIX.trim_end_matches('_'))
        .prefix_separator("__")
        .separator("__")
        .ignore_empty(true)
        .source(Some(environment.clone().into_iter().collect()));
    let layers = config::Config::builder()
        .add_source(config::File::from_str(text, config::FileFormat::Toml))
        .add_source(variables)
        .build()?;
    Ok(layers.cache)
}

fn collect_lines(
    prefix: &str,
    table: &DeTable<'_>,
    text: &str,
    lines: &mut BTreeMap<String, usize>,
) {
    for (name, value) in table {
        let key = join(prefix, name.get_ref());
        if let DeValue::Table(inner) = value.get_ref() {
            collect_lines(&key, inner, text, lines);
        }
        lines.insert(key, line_at(text, name.span().start));
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    before.filter(|byte| **byte == b'\n').count() + 1
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}.{name}")
    }
}

/// Section to keys.
fn known() -> BTreeMap<String, Vec<String>> {
    let tree = serde_json::to_value(Written::default()).unwrap_or_default();
    let sections = tree.as_object().into_iter().flatten();
    let keys = |section: &serde_json::Value| {
        let keys = section.as_object().into_iter().flatten();
        keys.map(|(key, _)| key.clone()).collect()
    };
    sections
        .map(|(name, section)| (name.clone(), keys(section)))
        .collect()
}

fn complain_of_unknown_keys(tree: &mut Value, complaints: &mut Complaints) {
    let known = known();
    let ValueKind::Table(sections) = &mut tree.kind else {
        return;
    };
    sections.retain(|name, section| {
        let Some(keys) = known.get(name) else {
            let sections: Vec<&str> = known.keys().map(String::as_str).collect();
            complaints.add(name, "no such section", Some(&sections.join(", ")));
            return false;
        };
        let ValueKind::Table(section) = &mut section.kind else {
            complaints.add(name, "is a section, not a value", Some(&keys.join(", ")));
            return false;
        };
        section.retain(|key, _| {
            let is_known = keys.contains(key);
            if !is_known {
                let key = join(name, key);
                complaints.add(&key, "no such key", Some(&keys.join(", ")));
            }
            is_known
        });
        true
    });
}

fn typed(mut tree: Value, complaints: &mut Complaints) -> Written {
    loop {
        match serde_path_to_error::deserialize::<_, Written>(tree.clone()) {
            Ok(written) => return written,
            Err(error) => {
                let path = error.path().to_string();
                let key = path.split('[').next().unwrap_or_default().to_owned();
                complaints.add(&key, wrong_type(error.inner()), None);
                if !remove(&mut tree, &key) {
                    return Written::default();
                }
            }
        }
    }
}

fn wrong_type(error: &config::ConfigError) -> String {
    match error {
        config::ConfigError::Type { expected, .. } => format!("must be {expected}"),
        config::ConfigError::At { error, .. } => wrong_type(error),
        config::ConfigError::Message(message) => message.clone(),
        other => other.to_string(),
    }
}

/// Takes `key` out of the tree; false where it is not there.
fn remove(tree: &mut Value, key: &str) -> bool {
    let ValueKind::Table(table) = &mut tree.kind else {
        return false;
    };
    if table.remove(key).is_some() {
        return true;
    }
    key.split_once('.').is_some_and(|(first, rest)| {
        table
            .get_mut(first)
            .is_some_and(|inner| remove(inner, rest))
    })
}
