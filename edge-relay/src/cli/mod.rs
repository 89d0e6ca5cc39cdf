//! The command line: `run` (default), `check`, `status`, `drain`, `backlog …`, `user …`.
//!
//! Exit codes: 0 done, 1 the work failed, 2 usage, 78 no usable configuration.

mod backlog;
mod check;
mod client;
mod drain;
mod run;
mod status;
mod stick;
mod user;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Loaded};
use crate::demo;

/// `sysexits.h`: no usable configuration.
pub const EXIT_CONFIG: u8 = 78;

/// Store-and-forward MQTT relay for villages with a bad uplink.
#[derive(Debug, Parser)]
#[command(name = "edge-relay", version)]
struct Cli {
    /// The configuration file.
    #[arg(
        long,
        global = true,
        default_value = "broker.toml",
        env = "EDGE_RELAY_CONFIG"
    )]
    config: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay (the default).
    Run,
    /// Validate the configuration, and look at disk, clock and hub.
    Check(check::CheckArgs),
    /// What the relay is doing.
    Status(status::StatusArgs),
    /// Carry everything that waits to the hub now, and wait until it is there.
    Drain(drain::DrainArgs),
    /// Look at what waits, and send again.
    #[command(subcommand)]
    Backlog(backlog::BacklogCommand),
    /// The meters that may connect.
    #[command(subcommand)]
    User(user::UserCommand),
    /// A village, a bad uplink and a hub on this machine, for about a minute.
    Demo(demo::Options),
}

/// Where a running relay is asked.
#[derive(Debug, Clone, Args)]
pub(crate) struct AdminArgs {
    /// The relay's admin API, such as <http://10.0.0.7:9883>; by default the one of the configuration.
    #[arg(long, env = "EDGE_RELAY_ADMIN")]
    admin: Option<String>,
    /// A file whose first line is the bearer token; by default the one of the configuration.
    #[arg(long, env = "EDGE_RELAY_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

impl AdminArgs {
    /// Whether the relay of the configuration is meant, on this machine.
    fn is_default(&self) -> bool {
        self.admin.is_none()
    }
}

/// How a command ended.
enum Ended {
    /// 0.
    Done,
    /// 1: the work failed, and the reason was printed.
    Failed,
    /// 78: the configuration cannot be used, and the reasons were printed.
    NoConfig,
}

/// Parses the arguments, does what they say.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // What it writes, sled's files too, is for its own user.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let ended = match &cli.command {
        None | Some(Command::Run) => run::run(&cli.config),
        Some(Command::Check(args)) => Ok(check::check(&cli.config, args)),
        Some(Command::Status(args)) => status::status(&cli.config, args),
        Some(Command::Drain(args)) => drain::drain(&cli.config, args),
        Some(Command::Backlog(command)) => backlog::backlog(&cli.config, command),
        Some(Command::User(command)) => user::user(&cli.config, command),
        Some(Command::Demo(options)) => {
            demo::run(options).map(
                |complete| {
                    if complete { Ended::Done } else { Ended::Failed }
                },
            )
        }
    };
    match ended {
        Ok(Ended::Done) => ExitCode::SUCCESS,
        Ok(Ended::Failed) => ExitCode::FAILURE,
        Ok(Ended::NoConfig) => ExitCode::from(EXIT_CONFIG),
        Err(error) => {
            eprintln!("edge-relay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The configuration, or its problems on standard error.
fn load(file: &Path) -> Option<Loaded> {
    match config::load(file, &config::environment()) {
        Ok(loaded) => Some(loaded),
        Err(error) => {
            eprintln!("{error}");
            None
        }
    }
}
