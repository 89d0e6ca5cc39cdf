//! From a file and the environment to a [`Config`], with everything that is wrong named at once.
//!
//! The file is parsed twice: by the `config` crate, which layers the environment over it, and with spans,
//! which tell the line of a key. A value of the wrong type is complained of and taken out, until the rest
//! can be read: so one load names all of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::{Value, ValueKind};
use serde::Deserialize;
use toml::de::DeTable;

use super::locate::Lines;
use super::problem::{Complaint, Complaints, ConfigError, Origin, Problem};
use super::sections::Config;

/// Environment variables, by name.
pub type Environment = BTreeMap<String, String>;

/// What environment variables that override keys begin with.
pub const ENVIRONMENT_PREFIX: &str = "EDGE_RELAY__";

/// The process's environment, as far as it concerns the configuration.
pub fn environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.to_ascii_uppercase().starts_with(ENVIRONMENT_PREFIX))
        .collect()
}

/// Where the values of a load came from, to give a later complaint its place.
#[derive(Debug, Clone)]
pub(super) struct Places {
    lines: Lines,
    environment: Environment,
}

impl Places {
    /// The complaints as problems of `file`.
    pub(super) fn locate(&self, file: &Path, complaints: Vec<Complaint>) -> ConfigError {
        let problems = complaints
            .into_iter()
            .map(|complaint| Problem {
                origin: self.origin(&complaint.key),
                key: complaint.key,
                reason: complaint.reason,
                allowed: complaint.allowed,
            })
            .collect();
        ConfigError::new(file.to_owned(), problems)
    }

    fn origin(&self, key: &str) -> Origin {
        let variable = format!("{ENVIRONMENT_PREFIX}{}", key.replace('.', "__"));
        let set = |name: &&String| name.eq_ignore_ascii_case(&variable);
        if let Some(name) = self.environment.keys().find(set) {
            return Origin::Environment(name.clone());
        }
        self.lines.of(key).map_or(Origin::Absent, Origin::Line)
    }
}

/// Reads `text`, the content of `file`, under `environment`: the keys as they are written, with no check
/// of what they mean.
pub(super) fn read(
    file: &Path,
    text: &str,
    environment: &Environment,
) -> (Config, Places, Complaints, Option<ConfigError>) {
    let places = Places {
        lines: Lines::of_text(text),
        environment: environment.clone(),
    };
    let mut complaints = Complaints::default();
    if let Some(error) = syntax_errors(file, text) {
        return (Config::default(), places, complaints, Some(error));
    }
    let config = match layered(text, environment) {
        Ok(mut tree) => {
            complain_of_unknown_keys(&mut tree, &mut complaints);
            typed(tree, &mut complaints)
        }
        Err(error) => {
            // Nothing of the file could be read: what it does not say is not to be complained of.
            let problem = Problem {
                key: String::new(),
                origin: Origin::Absent,
                reason: error.to_string(),
                allowed: None,
            };
            let error = ConfigError::new(file.to_owned(), vec![problem]);
            return (Config::default(), places, complaints, Some(error));
        }
    };
    (config, places, complaints, None)
}

fn syntax_errors(file: &Path, text: &str) -> Option<ConfigError> {
    let (_, errors) = DeTable::parse_recoverable(text);
    let problem = |error: &toml::de::Error| Problem {
        key: String::new(),
        origin: error.span().map_or(Origin::Absent, |span| {
            Origin::Line(super::locate::line_at(text, span.start))
        }),
        reason: error.message().replace('\n', ", "),
        allowed: None,
    };
    let problems: Vec<Problem> = errors.iter().map(problem).collect();
    (!problems.is_empty()).then(|| ConfigError::new(file.to_owned(), problems))
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

/// Every key there is, with its default: `None` for a section's own table.
pub(super) fn known_keys() -> BTreeMap<String, serde_json::Value> {
    let mut keys = BTreeMap::new();
    let tree = serde_json::to_value(Config::default()).unwrap_or_default();
    super::flatten("", &tree, &mut keys);
    keys
}

fn complain_of_unknown_keys(tree: &mut Value, complaints: &mut Complaints) {
    let known: Vec<String> = known_keys().into_keys().collect();
    let mut unknown = Vec::new();
    find_unknown("", tree, &known, &mut unknown);
    for key in unknown {
        remove(tree, &key);
        let allowed = suggestion(&key, &known);
        complaints.add_allowed(&key, "no such key", &allowed);
    }
}

fn find_unknown(prefix: &str, value: &Value, known: &[String], unknown: &mut Vec<String>) {
    let ValueKind::Table(table) = &value.kind else {
        return;
    };
    for (name, inner) in table {
        let key = super::join(prefix, name);
        let section = format!("{key}.");
        if known.iter().any(|k| k.starts_with(&section)) {
            find_unknown(&key, inner, known, unknown);
        } else if !known.contains(&key) {
            unknown.push(key);
        }
    }
}

/// The nearest key, or all of the section.
fn suggestion(key: &str, known: &[String]) -> String {
    let sections = known
        .iter()
        .filter_map(|k| k.split_once('.').map(|(section, _)| section));
    let nearest = known
        .iter()
        .map(String::as_str)
        .chain(sections)
        .map(|k| (strsim::damerau_levenshtein(k, key), k))
        .min()
        .filter(|(distance, _)| *distance <= 1 + key.len() / 4);
    if let Some((_, nearest)) = nearest {
        return format!("did you mean {nearest}?");
    }
    let same_name = |k: &&String| k.rsplit('.').next() == key.rsplit('.').next();
    if let Some(elsewhere) = known.iter().find(same_name) {
        return format!("did you mean {elsewhere}?");
    }
    let section = key.rsplit_once('.').map_or("", |(section, _)| section);
    let within: Vec<&str> = known
        .iter()
        .filter(|k| k.rsplit_once('.').map_or("", |(s, _)| s) == section)
        .map(String::as_str)
        .collect();
    if within.is_empty() {
        "sections mqtt, mqtt.tls, hub, drain, backlog, admin, log, clock".to_owned()
    } else {
        within.join(", ")
    }
}

fn typed(mut tree: Value, complaints: &mut Complaints) -> Config {
    loop {
        match serde_path_to_error::deserialize::<_, Config>(tree.clone()) {
            Ok(config) => return config,
            Err(error) => {
                let path = error.path().to_string();
                let key = list_key(&path);
                complaints.add(&key, wrong_type(error.inner()));
                if !remove(&mut tree, &key) {
                    return Config::default();
                }
            }
        }
    }
}

/// `mqtt.forward[1]` is of the key `mqtt.forward`.
fn list_key(path: &str) -> String {
    path.split('[').next().unwrap_or(path).to_owned()
}

fn wrong_type(error: &config::ConfigError) -> String {
    match error {
        config::ConfigError::Type {
            unexpected,
            expected,
            ..
        } => format!("is a {unexpected}, not {expected}"),
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
    match key.split_once('.') {
        Some((first, rest)) => table
            .get_mut(first)
            .is_some_and(|inner| remove(inner, rest)),
        None => false,
    }
}

/// `data_dir` as the environment and a file that may be broken say it: where to look for the last accepted
/// configuration.
pub(super) fn data_dirs_of(text: &str, environment: &Environment) -> Vec<PathBuf> {
    #[derive(Deserialize)]
    struct OnlyDataDir {
        data_dir: PathBuf,
    }
    let variable = format!("{ENVIRONMENT_PREFIX}DATA_DIR");
    let line = text
        .lines()
        .take_while(|line| !line.trim_start().starts_with('['))
        .filter(|line| line.trim_start().starts_with("data_dir"))
        .find_map(|line| toml::from_str::<OnlyDataDir>(line).ok());
    let from_environment = environment.get(&variable).map(PathBuf::from);
    from_environment
        .into_iter()
        .chain(line.map(|only| only.data_dir))
        .collect()
}
