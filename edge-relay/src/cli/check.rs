//! `check`: whether a start would go well.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use hub_bridge::bridge::TimeFloor;
use hub_bridge::clock::{Clock, ClockQuality};
use hub_bridge::probe::{self, Welcome};
use hub_bridge::version::Version;

use super::{Ended, load};
use crate::clock::SystemClock;
use crate::config::{Settings, Size};
use crate::disk;

/// `check`
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Look at the configuration only.
    #[arg(long)]
    config_only: bool,
}

/// One thing that was looked at.
struct Finding {
    what: &'static str,
    /// An error is what would keep the relay from its work here; the hub may well be away.
    result: Result<String, String>,
    fatal: bool,
}

pub(super) fn check(file: &Path, args: &CheckArgs) -> Ended {
    let Some(loaded) = load(file) else {
        return Ended::NoConfig;
    };
    println!("ok       config: {}", file.display());
    if args.config_only {
        return Ended::Done;
    }
    let settings = &loaded.settings;
    let findings = [
        data_dir(settings),
        space(settings),
        users(settings),
        clock(settings),
        hub(settings),
    ];
    let mut failed = false;
    for finding in findings {
        let (verdict, words) = match &finding.result {
            Ok(words) => ("ok", words),
            Err(words) if finding.fatal => ("FAILED", words),
            Err(words) => ("warning", words),
        };
        println!("{verdict:<9}{}: {words}", finding.what);
        failed |= finding.fatal && finding.result.is_err();
    }
    if failed { Ended::Failed } else { Ended::Done }
}

fn data_dir(settings: &Settings) -> Finding {
    let dir = &settings.data_dir;
    let probe = dir.join(".check");
    let result = std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::File::create(&probe)?.sync_all())
        .and_then(|()| std::fs::remove_file(&probe))
        .map(|()| format!("{} can be written", dir.display()))
        .map_err(|error| format!("{}: {error}", dir.display()));
    Finding {
        what: "data_dir",
        result,
        fatal: true,
    }
}

fn space(settings: &Settings) -> Finding {
    let result = match disk::free_bytes(&settings.data_dir) {
        Err(error) => Err(error.to_string()),
        Ok(free) => {
            let least = settings.store.disk_free_min;
            let words = format!("{} free", bytesize::ByteSize::b(free).display().iec());
            if free <= least {
                Err(format!(
                    "{words}, less than backlog.disk_free_min ({})",
                    Size(least)
                ))
            } else {
                Ok(words)
            }
        }
    };
    Finding {
        what: "disk",
        result,
        fatal: true,
    }
}

fn users(settings: &Settings) -> Finding {
    let result = match &settings.listener.users_file {
        None => Ok(format!(
            "none, anonymous meters {}",
            if settings.listener.allow_anonymous {
                "may connect"
            } else {
                "may not connect"
            }
        )),
        Some(file) => match crate::users::list(file) {
            Ok(names) if names.is_empty() => Err(format!("{}: no users yet", file.display())),
            Ok(names) => Ok(format!("{} in {}", names.len(), file.display())),
            Err(error) => Err(error.to_string()),
        },
    };
    Finding {
        what: "users",
        result,
        fatal: false,
    }
}

fn clock(settings: &Settings) -> Finding {
    let clock = SystemClock::open(&settings.data_dir, settings.clock_trust);
    let now = jiff::Timestamp::from_millisecond(clock.wall().0)
        .map_or_else(|e| e.to_string(), |t| t.to_string());
    Finding {
        what: "clock",
        result: match clock.quality() {
            ClockQuality::Synchronised => Ok(format!("{now}, synchronised")),
            ClockQuality::Unsynchronised => Err(format!(
                "{now}, not synchronised: readings are marked so until it is"
            )),
        },
        fatal: false,
    }
}

/// A real connection: address, TLS, credentials and what the hub says in its CONNACK.
fn hub(settings: &Settings) -> Finding {
    let url = &settings.bridge.hub.url;
    let result = knock(settings)
        .map_err(|failure| format!("{url}: {failure}; readings wait until it lets us in"));
    Finding {
        what: "hub",
        result: result.map(|welcome| format!("{url} lets us in, with {}", told(&welcome))),
        fatal: true,
    }
}

fn knock(settings: &Settings) -> Result<Welcome, String> {
    let bridge = &settings.bridge;
    let clock = Arc::new(SystemClock::open(&settings.data_dir, settings.clock_trust));
    let floor = TimeFloor::new(clock.known_good());
    // Not the name of the relay that may be running.
    let client_id = format!("{}-check", bridge.village);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let welcome = runtime.block_on(probe::knock(&bridge.hub, &client_id, clock, floor));
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    welcome.map_err(|failure| failure.to_string())
}

fn told(welcome: &Welcome) -> String {
    let mut words = match welcome.version {
        Version::V5 => "MQTT 5".to_owned(),
        Version::V311 => "MQTT 3.1.1 only: readings have no identity there".to_owned(),
    };
    if let Some(count) = welcome.receive_maximum {
        let _ = write!(words, ", {count} publishes in flight");
    }
    if let Some(bytes) = welcome.packet_bytes_max {
        let _ = write!(words, ", packets up to {bytes} bytes");
    }
    words
}
