//! A TCP stream that is read in bulk while much comes in small pieces.
//!
//! A hub answers each publish with a packet of four bytes. A reader that is woken for each of them costs the hub (whose
//! write has to wake it) and itself more than the reading does. So once answers come faster than
//! [`MANY_BYTES`] in [`REST`], the stream looks only once in each rest, and is not registered for being woken; with the
//! first look that finds nothing it waits as any other stream. On a thin link it never rests. What is rested is at most
//! two of tokio's ticks of 1 ms, which the slack of `pace` covers.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long the stream rests between two looks.
const REST: Duration = Duration::from_millis(1);
/// The answers to 16 publishes.
const MANY_BYTES: usize = 64;

/// See the module.
#[derive(Debug)]
pub(crate) struct BulkTcp {
    writing: AsyncFd<TcpStream>,
    reading: Reading,
    /// Since when `came` is counted.
    counted_from: Instant,
    came: usize,
}

#[derive(Debug)]
enum Reading {
    /// Woken by the next byte.
    Watching(AsyncFd<TcpStream>),
    /// Looks when the time is over.
    Resting(TcpStream, Pin<Box<Sleep>>),
    /// Between the two, or for good after an error of the system.
    Gone,
}

impl BulkTcp {
    /// Takes over a connected stream. Of the runtime it was opened in.
    pub(crate) fn new(stream: tokio::net::TcpStream) -> io::Result<Self> {
        let writing = stream.into_std()?;
        let reading = writing.try_clone()?;
        Ok(Self {
            writing: AsyncFd::with_interest(writing, Interest::WRITABLE)?,
            reading: Reading::watch(reading)?,
            counted_from: Instant::now(),
            came: 0,
        })
    }

    /// Whether so much came lately that it is worth resting.
    fn comes_fast(&mut self, count: usize) -> bool {
        let now = Instant::now();
        if now.duration_since(self.counted_from) > 2 * REST {
            self.counted_from = now;
            self.came = 0;
        }
        self.came += count;
        self.came >= MANY_BYTES
    }
}

impl Reading {
    fn watch(stream: TcpStream) -> io::Result<Self> {
        AsyncFd::with_interest(stream, Interest::READABLE).map(Self::Watching)
    }

    fn rest(stream: TcpStream) -> Self {
        Self::Resting(stream, Box::pin(tokio::time::sleep(REST)))
    }

    fn into_stream(self) -> io::Result<TcpStream> {
        match self {
            Self::Watching(watched) => Ok(watched.into_inner()),
            Self::Resting(stream, _) => Ok(stream),
            Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Reads what is there, once it is time to look.
    fn poll(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if let Self::Resting(stream, rest) = self {
            ready!(rest.as_mut().poll(cx));
            match stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let stream = std::mem::replace(self, Self::Gone).into_stream()?;
                    *self = Self::watch(stream)?;
                }
                done => return Poll::Ready(done),
            }
        }
        let Self::Watching(watched) = self else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        loop {
            let mut ready = ready!(watched.poll_read_ready(cx))?;
            if let Ok(done) = ready.try_io(|watched| watched.get_ref().read(buffer)) {
                return Poll::Ready(done);
            }
        }
    }
}

impl AsyncRead for BulkTcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = ready!(self.reading.poll(cx, buffer.initialize_unfilled()))?;
        buffer.advance(count);
        if self.comes_fast(count) && count > 0 {
            let stream = std::mem::replace(&mut self.reading, Reading::Gone).into_stream()?;
            self.reading = Reading::rest(stream);
        } else if let Reading::Resting(..) = self.reading {
            let stream = std::mem::replace(&mut self.reading, Reading::Gone).into_stream()?;
            self.reading = Reading::watch(stream)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BulkTcp {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.writing.poll_write_ready(cx))?;
            if let Ok(done) = ready.try_io(|writing| writing.get_ref().write(bytes)) {
                return Poll::Ready(done);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.writing.get_ref().shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair() -> (BulkTcp, tokio::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ours = tokio::net::TcpStream::connect(address).await.unwrap();
        let (theirs, _) = listener.accept().await.unwrap();
        (BulkTcp::new(ours).unwrap(), theirs)
    }

    #[tokio::test]
    async fn slow_and_fast_bytes_all_come_in_order_and_the_end_is_seen() {
        let (mut ours, mut theirs) = pair().await;
        let sender = tokio::spawn(async move {
            for n in 0..5_000_u16 {
                theirs.write_all(&n.to_be_bytes()).await.unwrap();
                if n % 1_000 == 0 {
                    // Long enough that the reader goes back to being woken.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        });
        for n in 0..5_000 {
            assert_eq!(ours.read_u16().await.unwrap(), n);
        }
        assert_eq!(ours.read(&mut [0]).await.unwrap(), 0);
        sender.await.unwrap();
    }

    #[tokio::test]
    async fn much_in_small_pieces_is_read_in_few_looks() {
        let (mut ours, mut theirs) = pair().await;
        theirs.set_nodelay(true).unwrap();
        let sender = tokio::spawn(async move {
            for _ in 0..5_000 {
                theirs.write_all(&[0x40, 2, 0, 1]).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let (mut came, mut looks) = (0, 0);
        let mut buffer = vec![0; 16 * 1024];
        while came < 20_000 {
            came += ours.read(&mut buffer).await.unwrap();
            looks += 1;
        }
        assert!(looks < 500, "{looks} looks for 5,000 pieces");
        sender.await.unwrap();
    }

    #[tokio::test]
    async fn more_than_the_socket_holds_is_written_as_it_is_read() {
        let (mut ours, mut theirs) = pair().await;
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).await.unwrap();
            all
        });
        let sent: Vec<u8> = (0..20_000_000_u32).map(|n| (n % 251) as u8).collect();
        ours.write_all(&sent).await.unwrap();
        ours.shutdown().await.unwrap();
        assert!(reader.await.unwrap() == sent);
    }
}
