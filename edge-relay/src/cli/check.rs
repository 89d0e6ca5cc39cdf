//! `check`: whether a start would go well.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use clap::Args;
use hub_bridge::clock::{Clock, ClockQuality};

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

fn hub(settings: &Settings) -> Finding {
    let url = &settings.bridge.hub.url;
    let timeout = settings
        .bridge
        .hub
        .connect_timeout
        .min(Duration::from_secs(10));
    let connect = || -> std::io::Result<()> {
        let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "no address");
        for address in (url.host.as_str(), url.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, timeout) {
                Ok(_) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    Finding {
        what: "hub",
        result: match connect() {
            Ok(()) => Ok(format!("{url} accepts connections")),
            Err(error) => Err(format!("{url}: {error}; readings wait until it is there")),
        },
        fatal: true,
    }
}
