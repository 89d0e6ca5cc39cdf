//! How the rest of the program talks to a running bridge.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::drain::DrainJob;
use crate::settings::{BridgeSettings, SettingsProblem};
use crate::status::{StatusBoard, UplinkStatus};

/// The bridge has ended, or never ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bridge is not running")]
pub struct BridgeGone;

/// Why settings were not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// They cannot be run; the old ones stay.
    #[error("the settings have {} problem(s)", .0.len())]
    Invalid(Vec<SettingsProblem>),
    /// There is no bridge.
    #[error(transparent)]
    Gone(#[from] BridgeGone),
}

pub(super) enum Command {
    Drain {
        answer: oneshot::Sender<DrainJob>,
    },
    Apply {
        settings: Box<BridgeSettings>,
        answer: oneshot::Sender<()>,
    },
}

/// A cheap handle to a bridge.
#[derive(Clone)]
pub struct BridgeHandle {
    commands: mpsc::Sender<Command>,
    board: StatusBoard,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for BridgeHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BridgeHandle").finish_non_exhaustive()
    }
}

impl BridgeHandle {
    pub(super) fn new(
        commands: mpsc::Sender<Command>,
        board: StatusBoard,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            commands,
            board,
            clock,
        }
    }

    /// Begins a drain, or joins the one that runs. Dropping the job does not stop it.
    ///
    /// # Errors
    /// [`BridgeGone`] where the bridge does not run.
    pub async fn drain(&self) -> Result<DrainJob, BridgeGone> {
        let (answer, job) = oneshot::channel();
        let command = Command::Drain { answer };
        self.commands.send(command).await.map_err(|_| BridgeGone)?;
        job.await.map_err(|_| BridgeGone)
    }

    /// Replaces the settings while the bridge runs. A changed hub is connected to at once.
    ///
    /// # Errors
    /// [`ApplyError::Invalid`] where they cannot be run: then the old ones stay.
    pub async fn apply(&self, settings: BridgeSettings) -> Result<(), ApplyError> {
        let problems = settings.problems();
        if !problems.is_empty() {
            return Err(ApplyError::Invalid(problems));
        }
        let (answer, done) = oneshot::channel();
        let settings = Box::new(settings);
        let command = Command::Apply { settings, answer };
        self.commands.send(command).await.map_err(|_| BridgeGone)?;
        Ok(done.await.map_err(|_| BridgeGone)?)
    }

    /// The uplink as it is now. Never waits.
    pub fn status(&self) -> UplinkStatus {
        self.board.snapshot(self.clock.monotonic())
    }
}
