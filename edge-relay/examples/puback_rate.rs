//! How many durable PUBACKs a second: a listener and a store in this process, clients over loopback.
//!
//! `cargo run --release -p edge-relay --example puback_rate -- [clients] [in flight] [publishes] [payload bytes] [data dir]`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use edge_relay::listener::{Listener, MqttStats, Settings};
use edge_relay::store::{self, Store};
use hub_bridge::backlog::Mark;
use hub_bridge::clock::{BootId, Clock, ClockQuality, ReceivedAt, UnixMillis};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

struct SinceStart(Instant);

impl Clock for SinceStart {
    fn wall(&self) -> UnixMillis {
        UnixMillis(1_700_000_000_000 + i64::try_from(self.0.elapsed().as_millis()).unwrap_or(0))
    }
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
    fn boot(&self) -> BootId {
        BootId(0)
    }
    fn quality(&self) -> ClockQuality {
        ClockQuality::Synchronised
    }
    fn best_time_of(&self, received: &ReceivedAt) -> (UnixMillis, ClockQuality) {
        (received.wall, received.quality)
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: usize| -> Result<usize> {
        arguments.next().map_or(Ok(default), |a| Ok(a.parse()?))
    };
    let (clients, in_flight) = (number(10)?, number(20)?);
    let (publishes, payload) = (number(300_000)?, number(200)?);
    let data_dir = arguments
        .next()
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let data_dir = data_dir.join(format!("puback-rate-{}", std::process::id()));
    std::fs::create_dir_all(&data_dir)?;
    let clock = Arc::new(SinceStart(Instant::now()));
    let (store, _) = Store::open(&store_settings(&data_dir)?, clock.clone())?;
    // The clients have their own threads, so that what they cost is not on the relay's.
    let relay = tokio::runtime::Runtime::new()?;
    let settings = Settings::new(([127, 0, 0, 1], 0).into(), &data_dir);
    let stats = Arc::new(MqttStats::default());
    let listener = relay.block_on(Listener::bind(settings, store, clock, stats))?;
    let addr = listener.local_addr()?;
    let shutdown = CancellationToken::new();
    let running = relay.spawn(listener.run(shutdown.clone()));

    let meters = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let started = Instant::now();
    meters.block_on(async {
        let tasks: Vec<_> = (0..clients)
            .map(|n| tokio::spawn(meter(addr, n, in_flight, publishes / clients, payload)))
            .collect();
        for task in tasks {
            task.await??;
        }
        anyhow::Ok(())
    })?;
    let seconds = started.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss)] // a rate for people
    let rate = (publishes / clients * clients) as f64 / seconds;
    println!(
        "{clients} x {in_flight}, {payload} B, {}: {rate:.0} PUBACK/s",
        data_dir.display()
    );
    shutdown.cancel();
    relay.block_on(running)?;
    std::fs::remove_dir_all(&data_dir)?;
    Ok(())
}

fn store_settings(data_dir: &std::path::Path) -> Result<store::Settings> {
    Ok(store::Settings {
        data_dir: data_dir.to_owned(),
        village: "rate".parse()?,
        machine_id: "rate".to_owned(),
        bytes_max: u64::MAX / 2,
        disk_free_min: 0,
        alarm_at: 0.9,
        confirm: Mark::Forwarded,
        keep_forwarded: Duration::ZERO,
        segment_bytes: 16 * 1024 * 1024,
        commit_delay: Duration::ZERO,
        queue_bytes_max: 8 * 1024 * 1024,
        hold_max: Duration::from_secs(5),
    })
}

/// Keeps `in_flight` publishes on their way until `count` are acknowledged.
async fn meter(
    addr: std::net::SocketAddr,
    n: usize,
    in_flight: usize,
    count: usize,
    payload: usize,
) -> Result<()> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let id = format!("meter-{n:03}");
    let mut connect = vec![0x10, 12 + u8::try_from(id.len())?];
    connect.extend(b"\0\x04MQTT\x04\x02\0\0\0");
    connect.push(u8::try_from(id.len())?);
    connect.extend(id.as_bytes());
    stream.write_all(&connect).await?;
    let mut answer = vec![0; 64 * 1024];
    stream
        .read_exact(answer.get_mut(..4).context("4 bytes")?)
        .await?;
    let (mut sent, mut acked) = (0, 0);
    let mut batch = Vec::new();
    while acked < count {
        batch.clear();
        while sent < count && sent - acked < in_flight {
            sent += 1;
            put_publish(&mut batch, n, u16::try_from(sent % 65_535)? + 1, payload);
        }
        stream.write_all(&batch).await?;
        // Whole PUBACKs only: four bytes each.
        let mut got = stream.read(&mut answer).await?;
        while got % 4 != 0 {
            got += stream.read(answer.get_mut(got..).context("room")?).await?;
        }
        ensure!(got > 0, "closed");
        acked += got / 4;
    }
    Ok(())
}

fn put_publish(out: &mut Vec<u8>, n: usize, id: u16, payload: usize) {
    let topic = format!("meters/{n:03}/power");
    let mut remaining = 2 + topic.len() + 2 + payload;
    out.push(0x32);
    while remaining >= 0x80 {
        out.push(0x80 | u8::try_from(remaining & 0x7F).unwrap_or(0));
        remaining >>= 7;
    }
    out.push(u8::try_from(remaining).unwrap_or(0));
    out.extend(u16::try_from(topic.len()).unwrap_or(0).to_be_bytes());
    out.extend(topic.as_bytes());
    out.extend(id.to_be_bytes());
    out.resize(out.len() + payload, b'7');
}
