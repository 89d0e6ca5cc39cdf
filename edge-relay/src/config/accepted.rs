//! The last configuration that was accepted, kept in `data_dir`: what a start falls back on where the
//! file has become invalid meanwhile.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tracing::debug;

use super::load::data_dirs_of;
use super::{Config, ConfigError, Environment, Loaded, NamedFiles, load, parse};
use crate::durable;

/// Its name within `data_dir`. Mode 0600: a URL in it may hold a password.
pub const ACCEPTED_FILE: &str = "config.accepted.toml";

/// With what the relay starts.
#[derive(Debug)]
pub struct Start {
    /// The configuration in force.
    pub loaded: Loaded,
    /// Set where that is the last accepted one, since the file is invalid: an alarm.
    pub file_refused: Option<ConfigError>,
}

/// Loads `file`, or where it is invalid the last accepted configuration.
///
/// # Errors
/// What is wrong with `file`, where there is no accepted one to fall back on either.
pub fn start(file: &Path, environment: &Environment) -> Result<Start, ConfigError> {
    let refused = match load(file, environment) {
        Ok(loaded) => {
            return Ok(Start {
                loaded,
                file_refused: None,
            });
        }
        Err(error) => error,
    };
    let text = std::fs::read_to_string(file).unwrap_or_default();
    match last_accepted(file, &text, environment) {
        Some(loaded) => Ok(Start {
            loaded,
            file_refused: Some(refused),
        }),
        None => Err(refused),
    }
}

fn last_accepted(file: &Path, broken: &str, environment: &Environment) -> Option<Loaded> {
    let base = file.parent().unwrap_or(Path::new(""));
    let noted = std::fs::read_to_string(note(file)).ok().map(PathBuf::from);
    data_dirs_of(broken, environment)
        .into_iter()
        .chain(noted)
        .chain([Config::default().data_dir])
        .filter_map(|dir| std::fs::read_to_string(base.join(dir).join(ACCEPTED_FILE)).ok())
        .filter(|text| text.lines().next() == Some(header(file).as_str()))
        .find_map(|text| parse(file, &text, environment, NamedFiles::Unchecked).ok())
}

/// Beside the configuration, where that is not the default: its `data_dir`. A power cut during a save may leave a
/// file of nothing, which does not say where its last accepted state is.
fn note(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!(".{name}.data_dir"))
}

/// Of which file this was accepted: another file's is not a stand-in for a mistyped `--config`.
fn header(file: &Path) -> String {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    format!("# Accepted from {}", file.display())
}

/// Keeps `loaded` as the last accepted one, durably.
pub(super) fn keep(loaded: &Loaded) -> std::io::Result<()> {
    let dir = &loaded.settings.data_dir;
    write_note(&loaded.file, dir);
    let path = dir.join(ACCEPTED_FILE);
    let body = loaded
        .text
        .strip_prefix("# Accepted from ")
        .map_or(loaded.text.as_str(), |rest| {
            rest.split_once('\n').map_or("", |(_, body)| body)
        });
    let text = format!("{}\n{body}", header(&loaded.file));
    if std::fs::read_to_string(&path).is_ok_and(|kept| kept == text) {
        return Ok(());
    }
    let temporary = dir.join(format!("{ACCEPTED_FILE}.new"));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, &path)?;
    std::fs::File::open(dir)?.sync_all()
}

/// As far as possible: the directory may well be read-only, and the note is a second string.
fn write_note(file: &Path, data_dir: &Path) {
    let path = note(file);
    let dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let text = dir.to_string_lossy();
    let noted = std::fs::read_to_string(&path).is_ok_and(|noted| noted == text);
    if noted || dir == Config::default().data_dir {
        return;
    }
    if let Err(error) = durable::write_atomic(&path, text.as_bytes()) {
        debug!(%error, "the data directory could not be noted beside the configuration");
    }
}
