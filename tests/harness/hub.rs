//! The national hub: a real mosquitto on a free loopback port, and a subscriber that tells the ledger.

use std::fs;
use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::ledger::Ledger;
use crate::packet::{self, Connect, Packet, Publish, Value, Version, kind, property};
use crate::port;
use crate::relay::{cpu_time, memory_kib};
use crate::wait::{wait_for, within};

/// A mosquitto child process.
#[derive(Debug)]
pub struct Hub {
    home: TempDir,
    child: Option<Child>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Hub {
    /// Starts a mosquitto without limits on what is in flight or queued: a hub that is not the bottleneck.
    pub fn start() -> Self {
        Self::start_with("max_inflight_messages 0\n")
    }

    /// Starts a mosquitto with further lines of config, in which `{home}` is a directory of its own.
    pub fn start_with(lines: &str) -> Self {
        let address = port::free();
        let home = crate::scratch("hub-");
        let config = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\nuser root\nmax_queued_messages 0\n\
             set_tcp_nodelay true\n{lines}",
            address.port()
        );
        let config = config.replace("{home}", home.path().to_str().unwrap());
        fs::write(home.path().join("hub.conf"), config).unwrap();
        let mut hub = Self {
            home,
            child: None,
            address,
        };
        hub.run();
        hub
    }

    /// The directory with its config: what `{home}` stands for.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Starts it again after [`Hub::kill`] or [`Hub::stop`].
    pub fn run(&mut self) {
        assert!(self.child.is_none(), "the hub runs already");
        let log = fs::File::create(self.home.path().join("hub.log")).unwrap();
        let mut command = Command::new(mosquitto());
        command.arg("-c").arg(self.home.path().join("hub.conf"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.child = Some(command.spawn().expect("mosquitto starts"));
        wait_for("the hub listens", within(10), || {
            TcpStream::connect(self.address).ok()
        });
    }

    /// kill -9: connections end, queues are lost.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and waits for its end: with `persistence true` it saves its queues.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    /// A line such as `VmHWM` of `/proc/<pid>/status`, in KiB.
    pub fn memory_kib(&self, line: &str) -> u64 {
        memory_kib(self.child.as_ref().expect("the hub runs").id(), line)
    }

    /// The processor time that it has used so far.
    pub fn cpu(&self) -> Duration {
        cpu_time(self.child.as_ref().expect("the hub runs").id())
    }

    /// Sends a signal; SIGSTOP makes a hub that is up and moves nothing.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// The process id.
    pub fn pid(&self) -> Pid {
        let id = self.child.as_ref().expect("the hub runs").id();
        Pid::from_raw(id.try_into().unwrap())
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where mosquitto is: not in every user's search path.
pub fn mosquitto() -> &'static str {
    let places = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"];
    places
        .into_iter()
        .find(|path| Path::new(path).exists())
        .unwrap_or("mosquitto")
}

/// A subscriber at the hub that enters each arrival in the ledger. Keeps its session, and reconnects
/// for as long as it lives.
#[derive(Debug)]
pub struct Subscriber {
    link: Arc<Link>,
    thread: Option<JoinHandle<()>>,
}

/// What the owner needs to end the thread: the flag, and the socket that it reads.
#[derive(Debug, Default)]
struct Link {
    stop: AtomicBool,
    socket: Mutex<Option<TcpStream>>,
}

impl Link {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn holds(&self, connection: &BufReader<TcpStream>) {
        *self.socket.lock().unwrap() = connection.get_ref().try_clone().ok();
    }
}

impl Subscriber {
    /// Subscribes to everything of all villages, and returns when the hub has said so.
    pub fn start(hub: SocketAddr, ledger: &Ledger) -> Self {
        let ledger = ledger.clone();
        Self::start_with(hub, "villages/#", move |publish| ledger.arrived(&publish))
    }

    /// Subscribes to `filter`, and gives each publish to `sink`, on its own thread.
    pub fn start_with(
        hub: SocketAddr,
        filter: &str,
        mut sink: impl FnMut(Publish) + Send + 'static,
    ) -> Self {
        let link = Arc::new(Link::default());
        let filter = filter.to_owned();
        let client_id = format!("subscriber-{:08x}", rand::random::<u32>());
        let mut connection = subscribe(hub, &client_id, &filter).expect("a first subscription");
        link.holds(&connection);
        let shared = Arc::clone(&link);
        let thread = std::thread::spawn(move || {
            while !shared.stopped() {
                let _ = listen(&mut connection, &mut sink);
                while !shared.stopped() {
                    if let Ok(new) = subscribe(hub, &client_id, &filter) {
                        connection = new;
                        shared.holds(&connection);
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        });
        Self {
            link,
            thread: Some(thread),
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.link.stop.store(true, Ordering::SeqCst);
        let Some(thread) = self.thread.take() else {
            return;
        };
        while !thread.is_finished() {
            if let Some(socket) = self.link.socket.lock().unwrap().as_ref() {
                let _ = socket.shutdown(Shutdown::Both);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = thread.join();
    }
}

fn subscribe(hub: SocketAddr, client_id: &str, filter: &str) -> io::Result<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect(hub)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(within(5)))?;
    let mut connect = Connect::new(Version::V5, client_id);
    connect.clean = false;
    connect.keep_alive_s = 0;
    connect.properties = vec![
        (property::SESSION_EXPIRY, Value::Number(u32::MAX)),
        (property::RECEIVE_MAXIMUM, Value::Number(65_535)),
    ];
    stream.write_all(&connect.encode())?;
    let mut reader = BufReader::with_capacity(1 << 18, stream);
    let connack = Packet::read(&mut reader)?;
    if connack.kind() != kind::CONNACK || connack.body.get(1) != Some(&0) {
        return Err(io::Error::other("the hub refused the subscriber"));
    }
    if connack.body[0] & 1 == 0 {
        reader
            .get_mut()
            .write_all(&packet::subscribe(Version::V5, 1, filter, 1))?;
        while Packet::read(&mut reader)?.kind() != kind::SUBACK {}
    }
    reader.get_mut().set_read_timeout(None)?;
    Ok(reader)
}

/// Reads and acknowledges until the connection ends.
fn listen(connection: &mut BufReader<TcpStream>, sink: &mut impl FnMut(Publish)) -> io::Result<()> {
    let mut acks = Vec::new();
    loop {
        if connection.buffer().len() < 2 {
            connection.get_mut().write_all(&acks)?;
            acks.clear();
        }
        let packet = Packet::read(connection)?;
        if packet.kind() == kind::PUBLISH {
            let publish = Publish::decode(&packet, Version::V5)?;
            if publish.qos == 1 {
                acks.extend(packet::ack(kind::PUBACK, Version::V5, publish.packet_id, 0));
            }
            sink(publish);
        }
    }
}
