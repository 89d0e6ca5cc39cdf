//! A thin, long link that can be cut: a proxy in front of a hub, with one rate for all its connections.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

struct Direction {
    bytes_per_s: f64,
    delay: Duration,
    free_at: Mutex<Instant>,
}

impl Direction {
    /// When these bytes are through the link, and when the link takes more.
    fn carry(&self, bytes: usize) -> (Instant, Instant) {
        let mut free_at = self.free_at.lock().unwrap();
        #[allow(clippy::cast_precision_loss)]
        let long = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s);
        *free_at = (*free_at).max(Instant::now()) + long;
        // The link's own queue holds a quarter of a second.
        let takes_more = free_at.checked_sub(Duration::from_millis(250));
        (*free_at + self.delay, takes_more.unwrap_or(*free_at))
    }
}

pub struct ThinLink {
    pub port: u16,
    pub up_bytes: Arc<AtomicU64>,
    pub down_bytes: Arc<AtomicU64>,
    up: Arc<AtomicBool>,
    cut: watch::Sender<u64>,
}

impl ThinLink {
    pub async fn start(hub: u16, bits_per_s: f64, round_trip: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let direction = || {
            Arc::new(Direction {
                bytes_per_s: bits_per_s / 8.0,
                delay: round_trip / 2,
                free_at: Mutex::new(Instant::now()),
            })
        };
        let (there, back) = (direction(), direction());
        let up_bytes = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&up_bytes);
        let down_bytes = Arc::new(AtomicU64::new(0));
        let back_counter = Arc::clone(&down_bytes);
        let up = Arc::new(AtomicBool::new(true));
        let open = Arc::clone(&up);
        let (cut, cuts) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                let Ok((village, _)) = listener.accept().await else {
                    return;
                };
                if !open.load(Ordering::SeqCst) {
                    drop(village);
                    continue;
                }
                // The handshake of TCP takes a round trip.
                let (there, back) = (Arc::clone(&there), Arc::clone(&back));
                let (counter, cuts) = (Arc::clone(&counter), cuts.clone());
                let back_counter = Arc::clone(&back_counter);
                tokio::spawn(async move {
                    tokio::time::sleep(round_trip).await;
                    let Ok(far) = TcpStream::connect(("127.0.0.1", hub)).await else {
                        return;
                    };
                    far.set_nodelay(true).unwrap();
                    village.set_nodelay(true).unwrap();
                    let (village_in, village_out) = village.into_split();
                    let (far_in, far_out) = far.into_split();
                    pipe(village_in, far_out, there, counter, cuts.clone());
                    pipe(far_in, village_out, back, back_counter, cuts);
                });
            }
        });
        Self {
            port,
            up_bytes,
            down_bytes,
            up,
            cut,
        }
    }

    pub fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::SeqCst);
        if !up {
            self.cut.send_modify(|n| *n += 1);
        }
    }
}

fn pipe(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: Arc<Direction>,
    counter: Arc<AtomicU64>,
    mut cuts: watch::Receiver<u64>,
) {
    cuts.mark_unchanged();
    let mut cuts_too = cuts.clone();
    let (sender, mut queue) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        let mut buffer = vec![0; 1448];
        loop {
            tokio::select! {
                read = from.read(&mut buffer) => {
                    let Ok(n @ 1..) = read else { return };
                    let (arrives, takes_more) = direction.carry(n);
                    counter.fetch_add(n as u64, Ordering::Relaxed);
                    if sender.send((arrives, buffer[..n].to_vec())).is_err() {
                        return;
                    }
                    tokio::time::sleep_until(takes_more).await;
                }
                _ = cuts.changed() => return,
            }
        }
    });
    tokio::spawn(async move {
        loop {
            tokio::select! {
                next = queue.recv() => {
                    let Some((arrives, bytes)) = next else { return };
                    tokio::select! {
                        () = tokio::time::sleep_until(arrives) => {}
                        _ = cuts_too.changed() => return,
                    }
                    if to.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                _ = cuts_too.changed() => return,
            }
        }
    });
}
