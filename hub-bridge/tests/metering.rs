//! The estimate of what TCP and IP put around the bytes, beside the packets of a real link: two network namespaces, and the
//! kernel's own counters of what went through. Needs root and iproute2:
//! `cargo test -p hub-bridge --test metering -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, reason = "a test")]

mod support;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use support::backlog::MemoryBacklog;
use support::village::{Village, settings};
use support::within;

const SOON: Duration = Duration::from_secs(120);
const PORT: u16 = 18_830;

fn sh(script: &str) -> bool {
    let shell = Command::new("sh").args(["-ec", script]).status();
    shell.is_ok_and(|status| status.success())
}

/// A veth pair into a namespace of its own, 256 kbit/s each way, packets of at most 1,500 bytes, and a
/// mosquitto at its other end.
struct Village256k {
    hub: Child,
    _dir: tempfile::TempDir,
}

impl Village256k {
    fn start() -> Option<Self> {
        let made = sh("ip netns add relay-hub
            ip link add relay-v type veth peer name relay-h
            ip link set relay-h netns relay-hub
            sysctl -qw net.ipv6.conf.relay-v.disable_ipv6=1
            ip netns exec relay-hub sysctl -qw net.ipv6.conf.relay-h.disable_ipv6=1
            ip link set relay-v address 02:00:00:00:00:01 gso_max_segs 1
            ip netns exec relay-hub ip link set relay-h address 02:00:00:00:00:02 gso_max_segs 1
            ip addr add 10.77.0.1/30 dev relay-v
            ip netns exec relay-hub ip addr add 10.77.0.2/30 dev relay-h
            ip link set relay-v up
            ip netns exec relay-hub ip link set relay-h up
            ip neigh replace 10.77.0.2 lladdr 02:00:00:00:00:02 dev relay-v
            ip netns exec relay-hub ip neigh replace 10.77.0.1 lladdr 02:00:00:00:00:01 dev relay-h
            tc qdisc add dev relay-v root tbf rate 256kbit burst 3000 latency 3s
            ip netns exec relay-hub tc qdisc add dev relay-h root tbf rate 256kbit burst 3000 latency 3s");
        if !made {
            eprintln!("skipped: no network namespaces here (root, iproute2)");
            sh("ip netns del relay-hub || true");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("mosquitto.conf");
        let text = format!("listener {PORT} 10.77.0.2\nallow_anonymous true\n");
        std::fs::write(&config, text).unwrap();
        let hub = Command::new("ip")
            .args(["netns", "exec", "relay-hub", "/usr/sbin/mosquitto", "-c"])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self { hub, _dir: dir })
    }

    /// IP bytes that left, and that came.
    fn crossed() -> (u64, u64) {
        let count = |name: &str| {
            let path = format!("/sys/class/net/relay-v/statistics/{name}");
            let text = std::fs::read_to_string(path).unwrap();
            text.trim().parse::<u64>().unwrap()
        };
        // Without the 14 bytes of Ethernet.
        let sent = count("tx_bytes") - 14 * count("tx_packets");
        (sent, count("rx_bytes") - 14 * count("rx_packets"))
    }
}

impl Drop for Village256k {
    fn drop(&mut self) {
        let _ = self.hub.kill();
        let _ = self.hub.wait();
        sh("ip netns del relay-hub; ip link del relay-v 2>/dev/null || true");
    }
}

/// Counted and real, each up and down, as shares of the real ones.
fn compare(what: &str, village: &Village, before: [(u64, u64); 2]) -> (f64, f64) {
    let budget = village.handle.status().budget;
    let real = Village256k::crossed();
    let counted = (
        budget.sent_bytes - before[0].0,
        budget.received_bytes - before[0].1,
    );
    let real = (real.0 - before[1].0, real.1 - before[1].1);
    let share = |counted: u64, real: u64| counted as f64 / real as f64;
    let shares = (share(counted.0, real.0), share(counted.1, real.1));
    println!(
        "| {what} | {} | {} | {:.3} | {} | {} | {:.3} |",
        counted.0, real.0, shares.0, counted.1, real.1, shares.1
    );
    shares
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and makes network namespaces"]
async fn the_estimate_is_near_the_packets_of_a_real_link() {
    let Some(_link) = Village256k::start() else {
        return;
    };
    let backlog = MemoryBacklog::new("bamenda-01");
    let mut settings = settings(PORT);
    settings.hub.url = format!("mqtt://10.77.0.2:{PORT}").parse().unwrap();
    settings.hub.keep_alive = Duration::from_secs(5);
    let village = Village::start(settings, backlog.clone());
    let state = |village: &Village| {
        let budget = village.handle.status().budget;
        [
            (budget.sent_bytes, budget.received_bytes),
            Village256k::crossed(),
        ]
    };
    println!("| | up, counted | up, packets | share | down, counted | down, packets | share |");
    println!("|---|---|---|---|---|---|---|");
    within(SOON, "connected", || async {
        (village.handle.status().connections > 0).then_some(())
    })
    .await;
    // What came and went with the connection is in the count by then, and so below.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = state(&village);
    tokio::time::sleep(Duration::from_secs(31)).await;
    let idle = compare("idle, keep alive 5 s", &village, before);
    let before = state(&village);
    for n in 0..20 {
        backlog.append("meter-1", "m/1/energy", vec![b'x'; 200]);
        village.drained(SOON).await;
        tokio::time::sleep(Duration::from_millis(100 + n)).await;
    }
    let single = compare("20 readings, one at a time", &village, before);
    let before = state(&village);
    backlog.fill(10, 3000, 200);
    village.drained(SOON).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let many = compare("3,000 readings of 200 B at once", &village, before);
    let before = state(&village);
    for _ in 0..40 {
        backlog.append("meter-1", "m/1/energy", vec![b'x'; 9000]);
    }
    village.drained(SOON).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let large = compare("40 publishes of 9 KB, as frames are", &village, before);
    village.stop().await;
    for (up, down) in [idle, single, many, large] {
        assert!((0.9..1.1).contains(&up), "{up}");
        assert!((0.9..1.3).contains(&down), "{down}");
    }
}
