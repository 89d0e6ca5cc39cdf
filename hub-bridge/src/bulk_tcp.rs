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
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long the stream rests between two looks.
const REST: Duration = Duration::from_millis(1);
/// The answers to 16 publishes.
const MANY_BYTES: usize = 64;

/// See the module.
#[derive(Debug)]
pub(crate) struct BulkTcp {
    socket: Socket,
    /// A write waits for room: then the stream must be woken for that, and does not rest.
    write_waits: bool,
    /// Who waits for the end of the rest.
    reader: Option<Waker>,
    /// Since when `came` is counted.
    counted_from: Instant,
    came: usize,
}

#[derive(Debug)]
enum Socket {
    /// Registered: the next byte wakes the reader.
    Watched(tokio::net::TcpStream),
    /// Not registered: looks when the time is over. Does not block.
    Resting(TcpStream, Pin<Box<Sleep>>),
    /// For good, after the system refused to register it.
    Gone,
}

impl Socket {
    fn watch(&mut self) -> io::Result<()> {
        *self = match std::mem::replace(self, Self::Gone) {
            Self::Resting(stream, _) => Self::Watched(tokio::net::TcpStream::from_std(stream)?),
            watched => watched,
        };
        Ok(())
    }

    fn rest(&mut self) -> io::Result<()> {
        let stream = match std::mem::replace(self, Self::Gone) {
            Self::Watched(stream) => stream.into_std()?,
            Self::Resting(stream, _) => stream,
            Self::Gone => return Err(gone()),
        };
        *self = Self::Resting(stream, Box::pin(tokio::time::sleep(REST)));
        Ok(())
    }
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl BulkTcp {
    /// Takes over a connected stream.
    pub(crate) fn new(stream: tokio::net::TcpStream) -> Self {
        Self {
            socket: Socket::Watched(stream),
            write_waits: false,
            reader: None,
            counted_from: Instant::now(),
            came: 0,
        }
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

    fn watch(&mut self) -> io::Result<()> {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        self.socket.watch()
    }
}

impl AsyncRead for BulkTcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        if let Socket::Resting(stream, rest) = &mut this.socket {
            if rest.as_mut().poll(cx).is_pending() {
                this.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            match stream.read(buffer.initialize_unfilled()) {
                Ok(count) => buffer.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => this.watch()?,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        match &mut this.socket {
            Socket::Watched(stream) => ready!(Pin::new(stream).poll_read(cx, buffer))?,
            Socket::Resting(..) => {}
            Socket::Gone => return Poll::Ready(Err(gone())),
        }
        let count = buffer.filled().len() - before;
        if count > 0 && this.comes_fast(count) && !this.write_waits {
            this.socket.rest()?;
        } else {
            this.watch()?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BulkTcp {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Socket::Resting(stream, _) = &mut this.socket {
            match stream.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => this.watch()?,
                done => return Poll::Ready(done),
            }
        }
        let Socket::Watched(stream) = &mut this.socket else {
            return Poll::Ready(Err(gone()));
        };
        let written = Pin::new(stream).poll_write(cx, bytes);
        this.write_waits = written.is_pending();
        written
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Watched(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Resting(stream, _) => Poll::Ready(stream.shutdown(Shutdown::Write)),
            Socket::Gone => Poll::Ready(Err(gone())),
        }
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
        (BulkTcp::new(ours), theirs)
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
