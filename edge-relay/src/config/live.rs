//! The configuration in force, and what becomes of an edit while the relay runs.
//!
//! A valid edit is applied at once, all but the keys that a running process cannot change: those are
//! named until the restart. An invalid one changes nothing but `config.last_error`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use tracing::{error, info, warn};

use super::{ConfigError, Environment, Loaded, Settings, accepted, flatten, load};

/// Keys (or whole sections) whose change takes a restart.
pub(super) const RESTART_KEYS: [&str; 8] = [
    "village_id",
    "data_dir",
    "mqtt.listen",
    "mqtt.tls.listen",
    "admin.listen",
    "backlog.queue_bytes_max",
    "log.format",
    "clock.trust",
];

/// What takes changed settings while it runs.
pub trait Apply: Send + Sync {
    /// Takes over what can be changed. What takes a restart is as it was at the start.
    ///
    /// # Errors
    /// In words, where the settings cannot be used after all; the old ones stay in force.
    fn apply(&self, settings: &Settings) -> Result<(), String>;
}

/// What `/status` says of the configuration.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ConfigStatus {
    /// The configuration file.
    pub file: PathBuf,
    /// Why the last edit was refused; null once the file is right again.
    pub last_error: Option<String>,
    /// Keys whose edit waits for a restart.
    pub restart_needed: Vec<String>,
    /// Edits applied since the start.
    pub applied_total: u64,
    /// Edits refused since the start.
    pub refused_total: u64,
    /// Whether the relay runs with the last accepted configuration, since the file was invalid at its start.
    pub from_last_accepted: bool,
}

/// What came of a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// Keys whose values are others now.
    pub changed: Vec<String>,
    /// Keys whose edit waits for a restart.
    pub restart_needed: Vec<String>,
}

/// The configuration in force.
pub struct LiveConfig {
    environment: Environment,
    /// Where the last accepted configuration is kept, whatever an edit says of the next start.
    data_dir: PathBuf,
    reloading: Mutex<()>,
    state: Mutex<State>,
    targets: Vec<Arc<dyn Apply>>,
}

struct State {
    at_start: BTreeMap<String, serde_json::Value>,
    in_force: Loaded,
    status: ConfigStatus,
}

impl LiveConfig {
    /// Of a start; keeps its configuration as accepted. `targets` are told of every edit, in order.
    pub fn new(
        start: accepted::Start,
        environment: Environment,
        targets: Vec<Arc<dyn Apply>>,
    ) -> Self {
        let status = ConfigStatus {
            file: start.loaded.file.clone(),
            last_error: start.file_refused.as_ref().map(ToString::to_string),
            from_last_accepted: start.file_refused.is_some(),
            ..ConfigStatus::default()
        };
        match &start.file_refused {
            Some(refused) => {
                error!(error = %refused, "configuration invalid, running with the last accepted one");
            }
            None => keep(&start.loaded),
        }
        Self {
            environment,
            data_dir: start.loaded.settings.data_dir.clone(),
            reloading: Mutex::new(()),
            state: Mutex::new(State {
                at_start: keys_of(&start.loaded),
                in_force: start.loaded,
                status,
            }),
            targets,
        }
    }

    /// What `/status` says.
    pub fn status(&self) -> ConfigStatus {
        self.state.lock().status.clone()
    }

    /// The settings in force.
    pub fn settings(&self) -> Settings {
        self.state.lock().in_force.settings.clone()
    }

    /// The configuration file and all files it names.
    pub fn watched_files(&self) -> Vec<PathBuf> {
        let state = self.state.lock();
        let mut files = vec![state.in_force.file.clone()];
        files.extend(state.in_force.settings.named_files.iter().cloned());
        files
    }

    /// Reads the file again and applies it. Blocks on the disk.
    ///
    /// # Errors
    /// What is wrong with the file; then the old configuration stays in force.
    pub fn reload(&self) -> Result<Reloaded, ConfigError> {
        let _one_at_a_time = self.reloading.lock();
        let in_force = self.state.lock().in_force.clone();
        let result = load(&in_force.file, &self.environment)
            .and_then(|loaded| self.take(&in_force, &loaded).map(|()| loaded));
        let mut state = self.state.lock();
        match result {
            Ok(loaded) => Ok(state.applied(loaded)),
            Err(refused) => {
                note_refused(&mut state.status, &refused);
                Err(refused)
            }
        }
    }

    /// Applies `loaded` everywhere, or `in_force` again where somebody cannot take it.
    fn take(&self, in_force: &Loaded, loaded: &Loaded) -> Result<(), ConfigError> {
        for target in &self.targets {
            let Err(reason) = target.apply(&loaded.settings) else {
                continue;
            };
            for target in &self.targets {
                if let Err(error) = target.apply(&in_force.settings) {
                    error!(
                        error,
                        "the configuration in force could not be applied again"
                    );
                }
            }
            return Err(unusable(loaded, reason));
        }
        let mut kept = loaded.clone();
        // A new data_dir counts at the next start, which looks in the old one first.
        kept.settings.data_dir.clone_from(&self.data_dir);
        keep(&kept);
        Ok(())
    }
}

impl State {
    fn applied(&mut self, loaded: Loaded) -> Reloaded {
        let wanted = keys_of(&loaded);
        let waits = |key: &String| RESTART_KEYS.contains(&key.as_str());
        let mut restart_needed = differences(&self.at_start, &wanted);
        restart_needed.retain(waits);
        let reloaded = Reloaded {
            changed: differences(&keys_of(&self.in_force), &wanted),
            restart_needed,
        };
        note_applied(&mut self.status, &reloaded);
        self.in_force = loaded;
        reloaded
    }
}

fn unusable(loaded: &Loaded, reason: String) -> ConfigError {
    let problem = super::Problem {
        key: String::new(),
        origin: super::Origin::Absent,
        reason,
        allowed: None,
    };
    ConfigError::new(loaded.file.clone(), vec![problem])
}

fn note_applied(status: &mut ConfigStatus, reloaded: &Reloaded) {
    status.last_error = None;
    status.from_last_accepted = false;
    status.restart_needed.clone_from(&reloaded.restart_needed);
    if !reloaded.changed.is_empty() {
        status.applied_total += 1;
        info!(
            changed = reloaded.changed.join(", "),
            "configuration applied"
        );
    }
    if !reloaded.restart_needed.is_empty() {
        warn!(
            keys = reloaded.restart_needed.join(", "),
            "changed keys wait for a restart"
        );
    }
}

fn note_refused(status: &mut ConfigStatus, refused: &ConfigError) {
    let text = refused.to_string();
    if status.last_error.as_ref() != Some(&text) {
        status.refused_total += 1;
        warn!(
            error = text,
            "configuration refused, the old one stays in force"
        );
    }
    status.last_error = Some(text);
}

fn keep(loaded: &Loaded) {
    if let Err(error) = accepted::keep(loaded) {
        warn!(%error, "the accepted configuration could not be kept");
    }
}

fn keys_of(loaded: &Loaded) -> BTreeMap<String, serde_json::Value> {
    let mut keys = BTreeMap::new();
    let tree = serde_json::to_value(&loaded.config).unwrap_or_default();
    flatten("", &tree, &mut keys);
    keys
}

fn differences(
    before: &BTreeMap<String, serde_json::Value>,
    after: &BTreeMap<String, serde_json::Value>,
) -> Vec<String> {
    let keys = after
        .iter()
        .filter(|(key, value)| before.get(*key) != Some(value));
    keys.map(|(key, _)| key.clone()).collect()
}
