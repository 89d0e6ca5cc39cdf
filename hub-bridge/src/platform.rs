//! What the bridge takes from the machine: sockets, threads for work that blocks, and chance.
//!
//! Each is a seam, so that the simulation runs this very code over a network that fails, jobs that take long and
//! dice of a seed (`docs/simulation.md`). Time is tokio's and [`Clock`](crate::clock::Clock)'s. Invariant: nothing
//! else in this crate opens a socket, blocks, or draws a random number.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::bulk_tcp::BulkTcp;

/// Bytes there and back: a TCP connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that is being made.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send>>;

/// Where connections to the hub come from.
pub trait Network: Send + Sync + 'static {
    /// Resolves `host` and connects. Has no time limit of its own.
    fn connect(&self, host: &str, port: u16) -> Connecting;
}

/// How long an address is tried where the name has another.
const ADDRESS_MAX: Duration = Duration::from_secs(5);

/// TCP, with small packets sent at once and many small ones read in bulk.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp;

impl Network for Tcp {
    fn connect(&self, host: &str, port: u16) -> Connecting {
        let host = host.to_owned();
        Box::pin(async move {
            let stream = connect_to_any(&host, port).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(BulkTcp::new(stream)) as Box<dyn Stream>)
        })
    }
}

/// The first address of `host` that answers. Those before the last have a limit: behind one that swallows what is sent
/// there may be one that works.
async fn connect_to_any(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut addresses: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
    let last = addresses
        .pop()
        .ok_or_else(|| io::Error::other("the name has no address"))?;
    for address in addresses {
        let tried = tokio::time::timeout(ADDRESS_MAX, TcpStream::connect(address)).await;
        if let Ok(Ok(stream)) = tried {
            return Ok(stream);
        }
    }
    TcpStream::connect(last).await
}

/// Work that may block on the disk.
pub type Work = Box<dyn FnOnce() + Send>;

/// Where work that may block is done.
pub trait Workers: Send + Sync + 'static {
    /// Does `work` off the async threads, now or later.
    fn run(&self, work: Work);
}

/// tokio's threads for blocking work.
#[derive(Debug, Clone, Copy, Default)]
pub struct Threads;

impl Workers for Threads {
    fn run(&self, work: Work) {
        // Who waits hears of its end, or of a crash, through the job.
        drop(tokio::task::spawn_blocking(work));
    }
}

/// Where random numbers come from.
pub trait Dice: Send + Sync + 'static {
    /// A number in `0.0..1.0`.
    fn roll(&self) -> f64;
}

/// The thread's generator, seeded by the system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemDice;

impl Dice for SystemDice {
    fn roll(&self) -> f64 {
        rand::random()
    }
}

/// The machine that a bridge runs on.
#[derive(Clone)]
pub struct Platform {
    /// Connections to the hub.
    pub network: Arc<dyn Network>,
    /// Work that blocks.
    pub workers: Arc<dyn Workers>,
    /// Chance.
    pub dice: Arc<dyn Dice>,
}

impl Default for Platform {
    fn default() -> Self {
        Self {
            network: Arc::new(Tcp),
            workers: Arc::new(Threads),
            dice: Arc::new(SystemDice),
        }
    }
}

impl fmt::Debug for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Platform").finish_non_exhaustive()
    }
}

/// Work crashed before it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a call that blocks crashed")]
pub(crate) struct Crashed;

/// Work that was given away, and its result to come. Dropping it does not stop the work.
#[derive(Debug)]
pub(crate) struct Job<T>(oneshot::Receiver<T>);

impl Platform {
    /// Has `work` done off the async threads.
    pub(crate) fn offload<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Job<T> {
        let (done, job) = oneshot::channel();
        self.workers.run(Box::new(move || {
            // An error means that nobody waits for it any more.
            let _ = done.send(work());
        }));
        Job(job)
    }
}

impl<T> Future for Job<T> {
    type Output = Result<T, Crashed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_err(|_| Crashed)
    }
}
