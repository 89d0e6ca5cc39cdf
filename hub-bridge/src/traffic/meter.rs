//! Counts the bytes of each connection, below TLS: a network around a network.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::Traffic;
use super::overhead::{self, Dialled, Headers, Segments};
use crate::platform::{Connecting, Network, Stream};

/// What crossed since the process began. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
    estimated: AtomicU64,
}

impl Meter {
    pub(crate) fn total(&self) -> Traffic {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            sent: count(&self.0.sent),
            received: count(&self.0.received),
            estimated: count(&self.0.estimated),
        }
    }

    fn count(&self, sent: u64, received: u64, headers: Headers) {
        let add = |counter: &AtomicU64, more| counter.fetch_add(more, Ordering::Relaxed);
        add(&self.0.sent, sent + headers.sent);
        add(&self.0.received, received + headers.received);
        add(&self.0.estimated, headers.sent + headers.received);
    }
}

/// A network whose connections are counted.
pub(crate) struct Metered {
    network: Arc<dyn Network>,
    meter: Meter,
}

impl Metered {
    pub(crate) fn new(network: Arc<dyn Network>, meter: Meter) -> Self {
        Self { network, meter }
    }
}

impl Network for Metered {
    fn connect(&self, host: &str, port: u16) -> Connecting {
        let looked_up = overhead::looking_up(host);
        let mut dialling = Dialling {
            meter: self.meter.clone(),
            began: Instant::now(),
            connecting: self.network.connect(host, port),
            looked_up,
            counted: false,
        };
        Box::pin(async move {
            let stream = std::future::poll_fn(|cx| dialling.poll(cx)).await?;
            let counted = MeteredStream {
                stream,
                meter: dialling.meter.clone(),
                segments: Segments::default(),
                began: dialling.began,
            };
            Ok(Box::new(counted) as Box<dyn Stream>)
        })
    }
}

/// An attempt to connect. Given up by being dropped, it has cost its packets all the same.
struct Dialling {
    meter: Meter,
    began: Instant,
    connecting: Connecting,
    looked_up: Headers,
    counted: bool,
}

impl Dialling {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Box<dyn Stream>>> {
        let dialled = ready!(self.connecting.as_mut().poll(cx));
        self.count(match &dialled {
            Ok(_) => Dialled::Connected,
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => {
                    Dialled::Refused
                }
                io::ErrorKind::TimedOut => Dialled::Silence,
                _ => Dialled::NoWay,
            },
        });
        Poll::Ready(dialled)
    }

    fn count(&mut self, dialled: Dialled) {
        self.counted = true;
        let packets = overhead::dialling(dialled, self.began.elapsed());
        self.meter.count(0, 0, packets);
        if dialled != Dialled::NoWay {
            self.meter.count(0, 0, self.looked_up);
        }
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        if !self.counted {
            self.count(Dialled::Silence);
        }
    }
}

struct MeteredStream {
    stream: Box<dyn Stream>,
    meter: Meter,
    segments: Segments,
    began: Instant,
}

impl AsyncRead for MeteredStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        let bytes = (buffer.filled().len() - before) as u64;
        if bytes > 0 {
            let headers = this.segments.read(bytes, this.began.elapsed());
            this.meter.count(0, bytes, headers);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MeteredStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        let headers = this.segments.wrote(written as u64, this.began.elapsed());
        this.meter.count(written as u64, 0, headers);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Drop for MeteredStream {
    fn drop(&mut self) {
        let headers = self.segments.closed(self.began.elapsed());
        self.meter.count(0, 0, headers);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::platform::Tcp;

    fn metered() -> (Metered, Meter) {
        let meter = Meter::default();
        (Metered::new(Arc::new(Tcp), meter.clone()), meter)
    }

    /// What the stream carried, without the estimate.
    fn carried(meter: &Meter) -> u64 {
        let total = meter.total();
        total.total() - total.estimated
    }

    #[tokio::test]
    async fn every_byte_of_the_stream_is_counted_in_its_direction() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (network, meter) = metered();
        let mut ours = network.connect("127.0.0.1", port).await.unwrap();
        let (mut theirs, _) = listener.accept().await.unwrap();
        let after_handshake = meter.total();
        assert_eq!((after_handshake.sent, after_handshake.received), (112, 60));
        ours.write_all(&[7; 1000]).await.unwrap();
        theirs.read_exact(&mut [0; 1000]).await.unwrap();
        theirs.write_all(&[9; 300]).await.unwrap();
        ours.read_exact(&mut [0; 300]).await.unwrap();
        assert_eq!(carried(&meter), 1300);
        let total = meter.total();
        assert!(total.sent >= 1112 && total.received >= 360, "{total:?}");
        drop(ours);
        assert_eq!(carried(&meter), 1300);
        assert!(meter.total().estimated > total.estimated, "FIN");
    }

    #[tokio::test]
    async fn an_attempt_that_fails_or_is_given_up_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let (network, meter) = metered();
        assert!(network.connect("127.0.0.1", port).await.is_err());
        assert_eq!(meter.total().total(), 100);
        drop(network.connect("127.0.0.1", port));
        assert_eq!(meter.total().total(), 160);
    }
}
