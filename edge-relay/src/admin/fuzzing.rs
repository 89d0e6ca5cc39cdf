//! The fuzz function of the admin API: any bytes through HTTP and the real router, on a stream in memory.
//!
//! Nothing is answered with a failure of our own; who does not bear the token learns nothing; the next one is served.

// What breaks an invariant ends right there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuzz_harness::Input;
use hub_bridge::bridge::{Bridge, BridgeParts, TimeFloor};
use hub_bridge::platform::Platform;
use hub_bridge::settings::Secret;
use parking_lot::RwLock;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Admin, Guard, router};
use crate::clock::{SystemClock, Trust};
use crate::config::{self, Environment, LiveConfig};
use crate::drain_log::KeptDrains;
use crate::listener::{Listener, MqttStats};
use crate::store::Store;

const TOKEN: &str = "s3cret-token";
const PATIENCE: Duration = Duration::from_secs(20);

const PATHS: [&str; 15] = [
    "/healthz",
    "/readyz",
    "/status",
    "/metrics",
    "/reload",
    "/drain",
    "/drain/1",
    "/drains",
    "/backlog/segments",
    "/backlog/peek",
    "/backlog/verify",
    "/backlog/replay",
    "/backlog/refused",
    "/backlog/retry",
    "/nothing",
];

struct Rig {
    runtime: Runtime,
    admin: Arc<Admin>,
    connections: mpsc::Sender<DuplexStream>,
    _dir: TempDir,
}

thread_local! {
    static RIG: RefCell<Option<Rig>> = const { RefCell::new(None) };
}

pub(crate) fn admin(data: &[u8]) {
    let rig = RIG.take().unwrap_or_else(Rig::start);
    let mut input = Input::new(data);
    let mut guarded = input.flag();
    *rig.admin.guard.write() = if guarded {
        Guard::Token(Secret::new(TOKEN.to_owned()))
    } else {
        Guard::Open
    };
    let (request, whole) = request(&mut input);
    guarded &= !contains(&request, TOKEN);
    rig.runtime.block_on(async {
        let answer = rig.ask(&request, whole).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || text.starts_with("HTTP/1."), "{text}");
        assert!(!text.contains("HTTP/1.1 500"), "{text}");
        if guarded {
            for inside in ["village_id", "edge_relay_", "segments", "\"readings\""] {
                assert!(!text.contains(inside), "without the token: {text}");
            }
        }
        let alive = rig
            .ask(
                b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
                true,
            )
            .await;
        assert!(alive.starts_with(b"HTTP/1.1 200"), "not alive any more");
    });
    RIG.set(Some(rig));
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|found| found == text.as_bytes())
}

/// Mostly a request for one of the paths, after whose answer the server closes; else anything.
fn request(input: &mut Input<'_>) -> (Vec<u8>, bool) {
    let how = input.byte();
    if how >= 128 {
        return (input.rest().to_vec(), false);
    }
    let method = *input.pick(&["GET", "POST", "HEAD", "DELETE", "OPTIONS"]);
    let path = *input.pick(&PATHS);
    let authorization = *input.pick(&[
        "",
        "Authorization: Bearer s3cret-token\r\n",
        "Authorization: Bearer x\r\n",
    ]);
    let mut request = format!("{method} {path}").into_bytes();
    if how & 1 != 0 {
        request.push(b'?');
        request.extend(input.short().iter().filter(|byte| byte.is_ascii_graphic()));
    }
    let body = if how & 2 != 0 { input.short() } else { &[] };
    let rest = format!(
        " HTTP/1.1\r\nHost: x\r\n{authorization}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    request.extend(rest.into_bytes());
    request.extend(body);
    (request, true)
}

impl Rig {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let dir = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let admin = Arc::new(runtime.block_on(relay(dir.path())));
        let (connections, accepted) = mpsc::channel(1);
        let served = axum::serve(InMemory(accepted), router(admin.clone()));
        runtime.spawn(async move { served.await });
        Self {
            runtime,
            admin,
            connections,
            _dir: dir,
        }
    }

    /// Sends the bytes and, where they are not a whole request, closes our side: all that was answered.
    async fn ask(&self, bytes: &[u8], whole: bool) -> Vec<u8> {
        let (mut ours, theirs) = tokio::io::duplex(1 << 20);
        self.connections
            .send(theirs)
            .await
            .expect("the server has ended");
        let mut answer = Vec::new();
        let asked = async {
            let _ = ours.write_all(bytes).await;
            if !whole {
                // The server gives up what it does when our side is closed.
                for _ in 0..8 {
                    tokio::task::yield_now().await;
                }
                let _ = ours.shutdown().await;
            }
            let _ = ours.read_to_end(&mut answer).await;
        };
        tokio::time::timeout(PATIENCE, asked)
            .await
            .expect("the server is stuck");
        answer
    }
}

/// All of a relay that the admin API shows, without a hub.
async fn relay(dir: &Path) -> Admin {
    let file = dir.join("broker.toml");
    let text = format!(
        "village_id = \"bamenda-01\"\ndata_dir = \"{}\"\n[mqtt]\nlisten = \"127.0.0.1:0\"\n\
         [hub]\nurl = \"mqtt://127.0.0.1:1\"\n[admin]\nlisten = \"127.0.0.1:0\"\n",
        dir.join("data").display()
    );
    std::fs::write(&file, text).unwrap();
    let start = config::start(&file, &Environment::new()).unwrap();
    let settings = start.loaded.settings.clone();
    std::fs::create_dir_all(&settings.data_dir).unwrap();
    let clock = Arc::new(SystemClock::open(&settings.data_dir, Trust::Always));
    let (store, opened) = Store::open(&settings.store, clock.clone()).unwrap();
    let stats = Arc::new(MqttStats::default());
    let listener = Listener::bind(
        settings.listener.clone(),
        store.clone(),
        clock.clone(),
        stats,
    )
    .await
    .unwrap();
    let drains = Arc::new(KeptDrains::open(&settings.data_dir));
    let parts = BridgeParts {
        backlog: Arc::new(store.clone()),
        clock: clock.clone(),
        drain_log: drains.clone(),
        time_floor: TimeFloor::new(None),
        traffic_book: Arc::new(hub_bridge::traffic::NoBook),
        platform: Platform::default(),
    };
    let (_, uplink) = Bridge::new(settings.bridge.clone(), parts).unwrap();
    Admin {
        store,
        opened,
        uplink,
        meters: listener.handle(),
        live: Arc::new(LiveConfig::new(start, Environment::new(), Vec::new())),
        clock,
        drains,
        started: Instant::now(),
        start_alarms: Vec::new(),
        guard: Arc::new(RwLock::new(Guard::Open)),
        stopping: CancellationToken::new(),
    }
}

/// Accepts what it is handed.
struct InMemory(mpsc::Receiver<DuplexStream>);

impl axum::serve::Listener for InMemory {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (Self::Io, ()) {
        match self.0.recv().await {
            Some(stream) => (stream, ()),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}
