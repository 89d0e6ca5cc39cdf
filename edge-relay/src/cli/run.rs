//! `run`: the relay itself, until a signal.

use std::path::Path;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::Ended;
use crate::{config, logs, run};

pub(super) fn run(file: &Path) -> anyhow::Result<Ended> {
    let environment = config::environment();
    let start = match config::start(file, &environment) {
        Ok(start) => start,
        Err(error) => {
            eprintln!("{error}");
            return Ok(Ended::NoConfig);
        }
    };
    let log_handle = logs::start(&start.loaded.settings.log);
    // The listener and all that is not the bridge's or blocks. A second thread would cost each reading a wake-up; what
    // one takes stands in `docs/performance.md` (100 × 20).
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("no runtime")?;
    let result = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        tokio::spawn(stop_on_signal(shutdown.clone()));
        run::run(start, environment, log_handle, shutdown).await
    });
    // What still blocks (a resolver, a disk) must not hold the exit up.
    runtime.shutdown_background();
    match result {
        Ok(()) => {
            info!("stopped");
            Ok(Ended::Done)
        }
        Err(error) => {
            error!(error = format!("{error:#}"), "the relay has failed");
            Ok(Ended::Failed)
        }
    }
}

/// The first SIGTERM or SIGINT ends the work in order, a second one at once.
async fn stop_on_signal(shutdown: CancellationToken) {
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        error!("signals cannot be caught");
        return;
    };
    let mut stopping = false;
    loop {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        if stopping {
            // As the shell says of a process that a signal ended.
            std::process::exit(128 + 15);
        }
        stopping = true;
        info!("stopping; a second signal stops at once");
        shutdown.cancel();
    }
}
