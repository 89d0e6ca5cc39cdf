//! The configuration: a file, the environment over it, and what becomes of an edit.
//!
//! `sections` holds the keys as they are written, `load` reads them and names everything that is wrong at
//! once, `settings` turns them into what the components take and cannot be wrong, `accepted` keeps the last
//! good one, `live` applies an edit while the relay runs.
//!
//! Invariant: a component never sees a configuration that did not pass as a whole. What failure leaves
//! behind: the old configuration in force, and the reasons in `/status` and the log.

mod accepted;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod human;
mod live;
mod load;
mod locate;
mod problem;
mod sections;
mod settings;
mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use accepted::{ACCEPTED_FILE, Start, start};
pub use human::{Size, Span};
pub use live::{Apply, ConfigStatus, LiveConfig};
pub use load::{ENVIRONMENT_PREFIX, Environment, environment};
pub use problem::{ConfigError, Origin, Problem};
pub use sections::Config;
pub use settings::Settings;
pub use watch::{Watcher, watch};

/// A configuration that passed as a whole.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The file it was read from.
    pub file: PathBuf,
    /// The text of the file, without what the environment added.
    pub text: String,
    /// The keys as they are written.
    pub config: Config,
    /// What the components take.
    pub settings: Settings,
}

/// Whether the files that a configuration names must be there and be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedFiles {
    /// An edit that names a file that is not there is refused.
    Checked,
    /// At a start from the last accepted configuration: better a relay without TLS than none.
    Unchecked,
}

/// Reads and validates `file` under `environment`.
pub fn load(file: &Path, environment: &Environment) -> Result<Loaded, ConfigError> {
    let text = read_text(file)?;
    parse(file, &text, environment, NamedFiles::Checked)
}

/// No configuration is so long: a wrong file must not fill a small gateway's memory.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The text of a file that is no larger than [`FILE_BYTES_MAX`].
fn read_small(file: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let opened = std::fs::File::open(file)?;
    opened.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other("larger than 1 MiB"));
    }
    Ok(text)
}

fn read_text(file: &Path) -> Result<String, ConfigError> {
    read_small(file).map_err(|error| {
        let problem = Problem {
            key: String::new(),
            origin: Origin::Absent,
            reason: format!("cannot be read: {error}"),
            allowed: None,
        };
        ConfigError::new(file.to_owned(), vec![problem])
    })
}

/// Validates `text`, the content of `file`, under `environment`.
pub fn parse(
    file: &Path,
    text: &str,
    environment: &Environment,
    files: NamedFiles,
) -> Result<Loaded, ConfigError> {
    let (config, places, mut complaints, syntax) = load::read(file, text, environment);
    if let Some(error) = syntax {
        return Err(error);
    }
    let base = file.parent().unwrap_or(Path::new(""));
    let settings = Settings::validate(&config, base, files, &mut complaints);
    match settings {
        Some(settings) if complaints.0.is_empty() => Ok(Loaded {
            file: file.to_owned(),
            text: text.to_owned(),
            config,
            settings,
        }),
        _ => Err(places.locate(file, complaints.0)),
    }
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}.{name}")
    }
}

/// A tree of tables as one flat map, `section.key` to value.
fn flatten(prefix: &str, tree: &serde_json::Value, keys: &mut BTreeMap<String, serde_json::Value>) {
    match tree {
        serde_json::Value::Object(table) => {
            for (name, value) in table {
                flatten(&join(prefix, name), value, keys);
            }
        }
        value => {
            keys.insert(prefix.to_owned(), value.clone());
        }
    }
}

/// `url` with its password, where it has one, replaced by stars.
pub fn redact_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let Some((user_info, host)) = rest.rsplit_once('@') else {
        return url.to_owned();
    };
    match user_info.split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:***@{host}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests;
