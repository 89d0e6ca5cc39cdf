//! The village's uplink: a TCP proxy between the relay and the hub that can be cut and mended, and is
//! as slow as a radio link.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

const CHUNK_BYTES: usize = 2_048;

/// The uplink; dropping it cuts the link for good.
#[derive(Debug)]
pub(super) struct Uplink {
    address: SocketAddr,
    up: watch::Sender<bool>,
}

impl Uplink {
    /// Opens a port for the relay whose connections lead to `hub` at `bits_per_second`.
    pub(super) async fn open(hub: SocketAddr, bits_per_second: u32) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (up, state) = watch::channel(true);
        tokio::spawn(accept(
            listener,
            hub,
            f64::from(bits_per_second) / 8.0,
            state,
        ));
        Ok(Self { address, up })
    }

    /// Where the relay finds it.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection; new ones end at once.
    pub(super) fn cut(&self) {
        self.up.send_replace(false);
    }

    /// Lets connections through again.
    pub(super) fn mend(&self) {
        self.up.send_replace(true);
    }

    /// Whether connections pass.
    pub(super) fn is_up(&self) -> bool {
        *self.up.borrow()
    }
}

async fn accept(
    listener: TcpListener,
    hub: SocketAddr,
    bytes_per_second: f64,
    up: watch::Receiver<bool>,
) {
    loop {
        let Ok((village, _)) = listener.accept().await else {
            continue;
        };
        if up.has_changed().is_err() {
            return;
        }
        if *up.borrow() {
            tokio::spawn(carry(village, hub, bytes_per_second, up.clone()));
        }
    }
}

async fn carry(
    village: TcpStream,
    hub: SocketAddr,
    bytes_per_second: f64,
    mut up: watch::Receiver<bool>,
) {
    let Ok(hub) = TcpStream::connect(hub).await else {
        return;
    };
    let (from_village, to_village) = village.into_split();
    let (from_hub, to_hub) = hub.into_split();
    tokio::select! {
        () = copy(from_village, to_hub, bytes_per_second) => {}
        () = copy(from_hub, to_village, bytes_per_second) => {}
        _ = up.wait_for(|up| !up) => {}
    }
}

/// Copies until either side ends, each chunk taking the time that the link needs for it.
async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, bytes_per_second: f64) {
    let mut buffer = [0; CHUNK_BYTES];
    let mut free_at = Instant::now();
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let chunk = buffer.get(..length).unwrap_or_default();
        let bytes = u32::try_from(length).map_or(0.0, f64::from);
        free_at = free_at.max(Instant::now()) + Duration::from_secs_f64(bytes / bytes_per_second);
        sleep_until(free_at).await;
        if to.write_all(chunk).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cut_ends_connections_and_a_mended_link_carries_again() {
        let hub = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let uplink = Uplink::open(hub.local_addr().unwrap(), 8_000_000)
            .await
            .unwrap();
        let mut village = TcpStream::connect(uplink.address()).await.unwrap();
        let (mut at_hub, _) = hub.accept().await.unwrap();
        village.write_all(b"reading").await.unwrap();
        let mut got = [0; 7];
        at_hub.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"reading");

        uplink.cut();
        assert_eq!(at_hub.read(&mut got).await.unwrap_or(0), 0);
        let mut refused = TcpStream::connect(uplink.address()).await.unwrap();
        assert_eq!(refused.read(&mut got).await.unwrap_or(0), 0);

        uplink.mend();
        let mut village = TcpStream::connect(uplink.address()).await.unwrap();
        let (mut at_hub, _) = hub.accept().await.unwrap();
        village.write_all(b"another").await.unwrap();
        at_hub.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"another");
    }
}
