//! The command line: `receive`, `audit`, `report`, `import`.
//!
//! Exit codes: 0 done, 1 the work failed, 2 usage, 3 an audit found an alarm, 78 no usable configuration.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::config::{self, HubConfig};
use super::log;
use crate::audit::{self, AuditArgs, Outcome};
use crate::import::{self, ImportArgs};
use crate::receive;
use crate::report::{self, ReportArgs};

/// `sysexits.h`: no usable configuration.
pub const EXIT_CONFIG: u8 = 78;

/// The hub's side of the relay: from the broker into PostgreSQL, each reading once.
#[derive(Debug, Parser)]
#[command(name = "hub-bridge", version)]
struct Cli {
    /// The configuration file.
    #[arg(
        long,
        global = true,
        default_value = "hub.toml",
        env = "HUB_BRIDGE_CONFIG"
    )]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take readings from the broker into the database, until told to stop.
    Receive,
    /// Look whether every reading that was stored in a village is here; exit status 3 is an alarm.
    Audit(AuditArgs),
    /// Generation and consumption, completeness and trend, by day, week or month.
    Report(ReportArgs),
    /// Take what was carried here by hand, and write the receipt; exit status 1 where a file was not taken.
    Import(ImportArgs),
}

/// How a command ended.
enum Ended {
    /// 0.
    Done,
    /// 3: an audit found an alarm.
    Alarm,
    /// 78: the configuration cannot be used, and the reasons were printed.
    NoConfig,
}

/// Parses the arguments, does what they say.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = match &cli.command {
        Command::Receive => with_config(&cli.config, |config| async {
            let stop = CancellationToken::new();
            stop_at_signals(&stop)?;
            receive::run(config, stop).await?;
            Ok(Ended::Done)
        }),
        Command::Audit(args) => with_config(&cli.config, |config| async move {
            let outcome = audit::command(&config.database, &config.report, args).await?;
            Ok(match outcome {
                Outcome::Fine => Ended::Done,
                Outcome::Alarm => Ended::Alarm,
            })
        }),
        Command::Report(args) => with_config(&cli.config, |config| async move {
            report::command(&config.database, &config.report, args).await?;
            Ok(Ended::Done)
        }),
        Command::Import(args) => with_config(&cli.config, |config| async move {
            anyhow::ensure!(
                import::run(args, &config).await?,
                "not every file was taken"
            );
            Ok(Ended::Done)
        }),
    };
    match ended {
        Ok(Ended::Done) => ExitCode::SUCCESS,
        Ok(Ended::Alarm) => ExitCode::from(Outcome::Alarm.exit_code()),
        Ok(Ended::NoConfig) => ExitCode::from(EXIT_CONFIG),
        Err(error) => {
            eprintln!("hub-bridge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Loads the configuration, begins to log, and runs `work` to its end.
fn with_config<W: Future<Output = anyhow::Result<Ended>>>(
    file: &Path,
    work: impl FnOnce(HubConfig) -> W,
) -> anyhow::Result<Ended> {
    let config = match config::load(file, &config::environment()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return Ok(Ended::NoConfig);
        }
    };
    log::start(&config.log);
    let runtime = tokio::runtime::Runtime::new().context("no runtime")?;
    runtime.block_on(work(config))
}

/// SIGTERM and SIGINT stop gracefully, the second one at once.
fn stop_at_signals(stop: &CancellationToken) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let stop = stop.clone();
    tokio::spawn(async move {
        for times in 0.. {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            if times > 0 {
                std::process::exit(1);
            }
            info!("stopping: what is in hand is finished");
            stop.cancel();
        }
    });
    Ok(())
}
