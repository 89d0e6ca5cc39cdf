//! Structured logs on standard error: text on a terminal, JSON elsewhere.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use super::config::{LogFormat, LogSettings};

/// Begins to log what `HUB_BRIDGE_LOG` says, else `RUST_LOG`, else `settings`. Without effect where a subscriber is
/// there already.
pub fn start(settings: &LogSettings) {
    let from_environment = ["HUB_BRIDGE_LOG", "RUST_LOG"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .filter(|text| !text.trim().is_empty())
        .find_map(|text| EnvFilter::builder().parse(text).ok());
    let filter = from_environment.unwrap_or_else(|| EnvFilter::new(&settings.level));
    let terminal = std::io::stderr().is_terminal();
    let json = match settings.format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines: Box<dyn Layer<_> + Send + Sync> = if json {
        Box::new(lines.json().flatten_event(true))
    } else {
        Box::new(lines.with_ansi(terminal))
    };
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init();
}
