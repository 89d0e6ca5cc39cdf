//! Watches the directories of the configuration and of the files it names.
//!
//! Directories, not files: editors write a new file and rename it, and a Kubernetes `ConfigMap` swaps a
//! symbolic link `..data`. Events are gathered for a moment, so that a save of many steps is read once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tracing::{debug, warn};

/// How long events are gathered before one reload.
const SETTLE: Duration = Duration::from_millis(200);

/// Watches as long as it lives.
pub struct Watcher {
    inner: notify::RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
    changed: Arc<Notify>,
}

/// Begins to watch the directories of `files`.
///
/// # Errors
/// Where the system gives no watch; `SIGHUP` and `POST /reload` still reload.
pub fn watch(files: &[PathBuf]) -> notify::Result<Watcher> {
    let changed = Arc::new(Notify::new());
    let notify = changed.clone();
    let inner = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading a file is no change; anything else may be one.
        if !matches!(
            event,
            Ok(notify::Event {
                kind: EventKind::Access(_),
                ..
            })
        ) {
            notify.notify_one();
        }
    })?;
    let mut watcher = Watcher {
        inner,
        watched: BTreeSet::new(),
        changed,
    };
    watcher.follow(files);
    Ok(watcher)
}

impl Watcher {
    /// Watches the directories of `files` too, and that a link among them points to.
    pub fn follow(&mut self, files: &[PathBuf]) {
        for dir in files.iter().flat_map(|file| directories_of(file)) {
            if self.watched.contains(&dir) {
                continue;
            }
            match self.inner.watch(&dir, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    debug!(dir = %dir.display(), "watching");
                    self.watched.insert(dir);
                }
                Err(error) => warn!(dir = %dir.display(), %error, "cannot be watched"),
            }
        }
    }

    /// Resolves when something changed and has settled.
    pub async fn changed(&self) {
        self.changed.notified().await;
        while tokio::time::timeout(SETTLE, self.changed.notified())
            .await
            .is_ok()
        {}
    }
}

/// Where `file` is named, and where it lies if that name is a link.
fn directories_of(file: &Path) -> BTreeSet<PathBuf> {
    let named = file.parent().map(|dir| {
        if dir.as_os_str().is_empty() {
            PathBuf::from(".")
        } else {
            dir.to_owned()
        }
    });
    let real = file.canonicalize().ok();
    let lies = real
        .as_ref()
        .and_then(|file| file.parent())
        .map(Path::to_owned);
    let named_absolute = named.as_ref().and_then(|dir| dir.canonicalize().ok());
    named
        .into_iter()
        .chain(lies.filter(|lies| Some(lies) != named_absolute.as_ref()))
        .collect()
}
