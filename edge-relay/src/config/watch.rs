//! Watches the directories of the configuration and of the files it names.
//!
//! Directories, not files: editors write a new file and rename it, and a Kubernetes `ConfigMap` swaps a
//! symbolic link `..data`. Events are gathered for a moment, so that a save of many steps is read once.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tracing::{debug, warn};

/// How long events are gathered before one reload, and at most how often.
const SETTLE: Duration = Duration::from_millis(200);

/// How often the files are looked at without an event: some network and overlay file systems tell none.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Watches as long as it lives.
pub struct Watcher {
    inner: notify::RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, Option<Look>>,
    changed: Arc<Notify>,
}

/// What tells one content of a file from another without reading it.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    inode: u64,
    bytes: u64,
    modified_s: i64,
    modified_ns: i64,
}

impl Look {
    /// `None` where there is no such file.
    fn at(file: &Path) -> Option<Self> {
        let found = std::fs::metadata(file).ok()?;
        Some(Self {
            inode: found.ino(),
            bytes: found.len(),
            modified_s: found.mtime(),
            modified_ns: found.mtime_nsec(),
        })
    }
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
        files: BTreeMap::new(),
        changed,
    };
    watcher.follow(files);
    Ok(watcher)
}

impl Watcher {
    /// Watches the directories of `files` too, and that a link among them points to.
    pub fn follow(&mut self, files: &[PathBuf]) {
        for file in files {
            if !self.files.contains_key(file) {
                self.files.insert(file.clone(), Look::at(file));
            }
        }
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

    /// Resolves when one of the files became another, and has settled. Other files of the directories, such as
    /// the relay's own data, wake it and do not count.
    pub async fn changed(&mut self) {
        loop {
            let _ = tokio::time::timeout(LOOK_EVERY, self.changed.notified()).await;
            tokio::time::sleep(SETTLE).await;
            let mut changed = false;
            for (file, look) in &mut self.files {
                let now = Look::at(file);
                changed |= *look != now;
                *look = now;
            }
            if changed {
                return;
            }
        }
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
