//! What an edit of the configuration changes while the relay runs.

use std::sync::Arc;
use std::time::Duration;

use hub_bridge::bridge::BridgeHandle;
use parking_lot::RwLock;

use crate::admin::Guard;
use crate::config::{Apply, Settings};
use crate::listener;
use crate::logs::LogHandle;
use crate::store::Store;

/// How long the bridge may take to take new settings over.
const APPLY_MAX: Duration = Duration::from_secs(10);

/// Everything that takes an edit of the configuration while it runs.
pub(super) struct Targets {
    pub(super) store: Store,
    pub(super) meters: listener::Handle,
    pub(super) uplink: BridgeHandle,
    pub(super) guard: Arc<RwLock<Guard>>,
    pub(super) logs: Option<LogHandle>,
    pub(super) at_start: Settings,
    /// Reloads run on a thread that may block.
    pub(super) runtime: tokio::runtime::Handle,
}

impl Apply for Targets {
    fn apply(&self, settings: &Settings) -> Result<(), String> {
        // The one that can still say no comes first.
        let mut listener = settings.listener.clone();
        listener
            .state_dir
            .clone_from(&self.at_start.listener.state_dir);
        listener
            .quarantine_dir
            .clone_from(&self.at_start.listener.quarantine_dir);
        self.meters
            .apply(listener)
            .map_err(|error| error.to_string())?;
        self.store.apply(&settings.store);
        let mut bridge = settings.bridge.clone();
        bridge.village.clone_from(&self.at_start.bridge.village);
        let applied = self
            .runtime
            .block_on(async { tokio::time::timeout(APPLY_MAX, self.uplink.apply(bridge)).await });
        applied
            .map_err(|_| "the bridge did not take the settings in time".to_owned())?
            .map_err(|error| error.to_string())?;
        // What listens off loopback never becomes open to all, also where the address changes at the restart only.
        let opens =
            settings.admin.guard == Guard::Open && !self.at_start.admin.listen.ip().is_loopback();
        *self.guard.write() = if opens {
            Guard::Closed
        } else {
            settings.admin.guard.clone()
        };
        if let Some(logs) = &self.logs {
            logs.apply(&settings.log);
        }
        Ok(())
    }
}
