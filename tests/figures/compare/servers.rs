//! The servers that are compared, each a process of its own with its data where the caller says.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use harness::hub::{Hub, mosquitto};
use harness::packet::{self, Version};
use harness::port;
use harness::relay::{Relay, binary};
use harness::wait::wait_for;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::load;

/// Where `just compare` installs nats-server, unless `NATS_SERVER` says.
const NATS_PLACE: &str = "target/compare/nats/bin/nats-server";

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// This relay, as it is configured by default.
    Relay,
    /// This relay with `backlog.commit_delay` just under 1 s.
    RelayDelayed,
    /// Mosquitto with `persistence true` and nobody subscribed: it keeps nothing of what it acknowledges.
    Mosquitto,
    /// Mosquitto with `persistence true` that queues for an absent subscriber.
    MosquittoQueue,
    /// Mosquitto that writes its database anew at each change, for an absent subscriber.
    MosquittoAutosave,
    /// nats-server, MQTT over `JetStream` with `sync_interval: always`, for an absent subscriber.
    Nats,
    /// An append-only file with group commit and fdatasync: the least that keeps the promise.
    Floor,
}

impl Kind {
    /// As it is called in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::RelayDelayed => "relay, commit delay 0.99 s",
            Self::Mosquitto => "mosquitto (default)",
            Self::MosquittoQueue => "mosquitto (queue)",
            Self::MosquittoAutosave => "mosquitto (autosave)",
            Self::Nats => "nats-server",
            Self::Floor => "floor",
        }
    }

    /// Its settings, for the reader of a table.
    pub(crate) fn settings(self) -> &'static str {
        match self {
            Self::Relay => "default configuration, hub out of reach; durable",
            Self::RelayDelayed => "`backlog.commit_delay = \"990ms\"`, hub out of reach; durable",
            Self::Mosquitto => {
                "`persistence true`, the rest default (saves every 30 min), no subscriber; not durable, keeps nothing"
            }
            Self::MosquittoQueue => {
                "`persistence true`, an absent persistent subscriber to `#` at QoS 1; what waits is in memory, and told to \
                 save before the kill, else it would be gone"
            }
            Self::MosquittoAutosave => {
                "`autosave_on_changes true`, `autosave_interval 1`, an absent persistent subscriber to `#` at QoS 1; \
                 the PUBACK does not wait for the save"
            }
            Self::Nats => {
                "MQTT over JetStream, `sync_interval: always`, an absent persistent subscriber to `#` at QoS 1; durable"
            }
            Self::Floor => {
                "append + one fdatasync for all that waits (`figures/floor.rs`); durable"
            }
        }
    }

    /// The version, as the program says it; `None` where it is not there.
    pub(crate) fn version(self) -> Option<String> {
        let (program, argument) = match self {
            Self::Relay | Self::RelayDelayed => (binary(), "--version"),
            Self::Mosquitto | Self::MosquittoQueue | Self::MosquittoAutosave => {
                (mosquitto().into(), "-h")
            }
            Self::Nats => (nats()?, "--version"),
            Self::Floor => return Some("this repository's".to_owned()),
        };
        let output = Command::new(program).arg(argument).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().next().map(str::to_owned)
    }

    fn has_absent_subscriber(self) -> bool {
        matches!(
            self,
            Self::MosquittoQueue | Self::MosquittoAutosave | Self::Nats
        )
    }
}

/// The path of nats-server, if it was installed.
fn nats() -> Option<PathBuf> {
    let place = std::env::var_os("NATS_SERVER").map_or_else(|| NATS_PLACE.into(), PathBuf::from);
    place.is_file().then_some(place)
}

/// The kinds of `wanted` whose programs are here; says on standard error which are not.
pub(crate) fn available(wanted: &[Kind]) -> Vec<Kind> {
    let (here, missing): (Vec<Kind>, Vec<Kind>) =
        wanted.iter().partition(|k| k.version().is_some());
    for kind in missing {
        eprintln!("LEFT OUT {}: its program is not here", kind.name());
    }
    here
}

/// A running server; ended when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    /// Where meters connect.
    pub(crate) address: SocketAddr,
    process: Process,
    data: PathBuf,
}

#[derive(Debug)]
enum Process {
    Relay(Box<Relay>),
    Mosquitto(Hub),
    Other(Owned, Command),
}

/// A child process that is killed when this is dropped.
#[derive(Debug)]
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// Starts `kind` with its data below `data`, and waits until it takes meters.
    pub(crate) fn start(kind: Kind, data: &Path) -> Result<Self> {
        let server = match kind {
            Kind::Relay | Kind::RelayDelayed => relay(data, kind == Kind::RelayDelayed),
            Kind::Mosquitto => run_mosquitto(data, ""),
            Kind::MosquittoQueue => run_mosquitto(data, "max_inflight_messages 0\n"),
            Kind::MosquittoAutosave => run_mosquitto(
                data,
                "autosave_on_changes true\nautosave_interval 1\nmax_inflight_messages 0\n",
            ),
            Kind::Nats => run_nats(data)?,
            Kind::Floor => run_floor(data)?,
        };
        if kind.has_absent_subscriber() {
            subscribe_and_leave(server.address)?;
        }
        Ok(server)
    }

    /// The process.
    pub(crate) fn pid(&self) -> Pid {
        match &self.process {
            Process::Relay(relay) => relay.pid(),
            Process::Mosquitto(hub) => hub.pid(),
            Process::Other(child, _) => Pid::from_raw(child.0.id().try_into().unwrap_or(i32::MAX)),
        }
    }

    /// Where its data lie.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Mosquitto writes its database when it is told to (SIGUSR1), into one file; the others have what they have.
    pub(crate) fn save(&self) -> Result<()> {
        let Process::Mosquitto(hub) = &self.process else {
            return Ok(());
        };
        let file = self.data.join("mosquitto.db");
        let before = fs::metadata(&file).and_then(|m| m.modified()).ok();
        hub.signal(Signal::SIGUSR1);
        wait_for("mosquitto has saved", Duration::from_secs(60), || {
            let now = fs::metadata(&file).and_then(|m| m.modified()).ok();
            (now.is_some() && now != before).then_some(())
        });
        Ok(())
    }

    /// kill -9, then starts it again over the same data; returns how long it took until a meter got its CONNACK.
    pub(crate) fn kill_and_restart(&mut self) -> Result<Duration> {
        match &mut self.process {
            Process::Relay(relay) => {
                relay.kill();
                let killed = std::time::Instant::now();
                relay.start_as_is();
                wait_connack(self.address);
                Ok(killed.elapsed())
            }
            Process::Mosquitto(hub) => {
                hub.kill();
                let killed = std::time::Instant::now();
                hub.run();
                wait_connack(self.address);
                Ok(killed.elapsed())
            }
            Process::Other(child, command) => {
                child.0.kill()?;
                child.0.wait()?;
                let killed = std::time::Instant::now();
                *child = Owned(command.spawn()?);
                wait_connack(self.address);
                Ok(killed.elapsed())
            }
        }
    }
}

fn wait_connack(address: SocketAddr) {
    wait_for("a CONNACK", Duration::from_secs(120), || {
        load::connect(address, "again", true).ok()
    });
}

fn relay(data: &Path, delayed: bool) -> Server {
    let mut relay = Relay::new(port::free());
    relay.set("data_dir", data.to_string_lossy().into_owned());
    relay.set("backlog.bytes_max", "16 GiB");
    if delayed {
        relay.set("backlog.commit_delay", "990ms");
    }
    relay.start();
    Server {
        address: relay.mqtt,
        process: Process::Relay(Box::new(relay)),
        data: data.to_owned(),
    }
}

fn run_mosquitto(data: &Path, more: &str) -> Server {
    let hub = Hub::start_with(&format!(
        "persistence true\npersistence_location {}/\n{more}",
        data.display()
    ));
    Server {
        address: hub.address,
        process: Process::Mosquitto(hub),
        data: data.to_owned(),
    }
}

fn run_nats(data: &Path) -> Result<Server> {
    let address = port::free();
    let config = data.join("nats.conf");
    let text = format!(
        "server_name: compare\nlisten: \"{}\"\njetstream {{ store_dir: \"{}\", sync_interval: always }}\n\
         mqtt {{ listen: \"{address}\" }}\n",
        port::free(),
        data.display()
    );
    fs::write(&config, text)?;
    let mut command = Command::new(nats().context("nats-server is not here")?);
    command.arg("-c").arg(config);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = Owned(command.spawn()?);
    wait_connack(address);
    Ok(Server {
        address,
        process: Process::Other(child, command),
        data: data.to_owned(),
    })
}

fn run_floor(data: &Path) -> Result<Server> {
    let address = port::free();
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("floor-server");
    command.arg(format!("log={}", data.join("log").display()));
    command.arg(format!("listen={address}"));
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = Owned(command.spawn()?);
    let mut ready = String::new();
    let output = child.0.stdout.take().context("no output")?;
    BufReader::new(output).read_line(&mut ready)?;
    Ok(Server {
        address,
        process: Process::Other(child, command),
        data: data.to_owned(),
    })
}

/// A persistent session that wants everything at `QoS` 1, and is away from then on.
fn subscribe_and_leave(server: SocketAddr) -> Result<()> {
    let mut socket: TcpStream = load::connect(server, "absent", false)?;
    socket.write_all(&packet::subscribe(Version::V4, 1, "#", 1))?;
    let mut suback = [0_u8; 5];
    socket.read_exact(&mut suback)?;
    if suback[0] != 0x90 || suback[4] > 1 {
        bail!("SUBACK {suback:?}");
    }
    socket.write_all(&[0xe0, 0])?;
    Ok(())
}
