//! Structured logs on standard error: text on a terminal, JSON elsewhere.
//!
//! What is logged is filtered by `EDGE_RELAY_LOG`, else `RUST_LOG`, else `log.level`; only the last can
//! change while the relay runs.

use std::io::IsTerminal;
use std::str::FromStr;

use serde::Deserialize;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// A filter that parses, such as `info` or `edge_relay=debug,info`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(String);

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match EnvFilter::builder().parse(text) {
            // A lone word that is no level would be taken for a module, and silence everything else.
            Ok(_) if is_unknown_level(text) => Err(format!("{text:?} is not a level")),
            Ok(_) => Ok(Self(text.to_owned())),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn is_unknown_level(text: &str) -> bool {
    text.split(',')
        .filter(|directive| !directive.contains(['=', '[']))
        .any(|word| tracing::level_filters::LevelFilter::from_str(word.trim()).is_err())
}

/// What the logs are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How a line looks.
    pub format: Format,
    /// What is logged.
    pub filter: Filter,
}

/// Changes what is logged while the relay runs.
#[derive(Clone)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
    fixed: bool,
}

/// The filter of the environment, which wins over the configuration.
fn from_environment() -> Option<EnvFilter> {
    ["EDGE_RELAY_LOG", "RUST_LOG"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .filter(|text| !text.trim().is_empty())
        .find_map(|text| EnvFilter::builder().parse(text).ok())
}

/// Begins to log. `None` where a subscriber is there already, as in tests.
pub fn start(settings: &Settings) -> Option<LogHandle> {
    let environment = from_environment();
    let fixed = environment.is_some();
    let filter = environment.unwrap_or_else(|| EnvFilter::new(&settings.filter.0));
    let (filter, handle) = reload::Layer::new(filter);
    let json = match settings.format {
        Format::Auto => !std::io::stderr().is_terminal(),
        Format::Text => false,
        Format::Json => true,
    };
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines: Box<dyn Layer<_> + Send + Sync> = if json {
        Box::new(lines.json().flatten_event(true))
    } else {
        Box::new(lines.with_ansi(std::io::stderr().is_terminal()))
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    subscriber.try_init().ok()?;
    Some(LogHandle {
        filter: handle,
        fixed,
    })
}

impl LogHandle {
    /// Logs what `settings` say from now on, unless the environment said it.
    pub fn apply(&self, settings: &Settings) {
        if !self.fixed {
            // Fails only where the subscriber is gone.
            let _ = self.filter.reload(EnvFilter::new(&settings.filter.0));
        }
    }
}
