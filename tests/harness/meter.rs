//! Meters: clients that publish `QoS` 1 readings with several in flight, and write down every
//! acknowledgement they see.

use std::collections::VecDeque;
use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::ledger::{Key, Ledger, payload};
use crate::packet::{Connect, Packet, Publish, Version, kind};

/// How a meter behaves. All but the address has a default.
#[derive(Debug, Clone)]
pub struct Habits {
    /// The broker.
    pub broker: SocketAddr,
    /// Protocol level.
    pub version: Version,
    /// Payload size in bytes.
    pub size: usize,
    /// Most publishes without an acknowledgement.
    pub in_flight: usize,
    /// A rest after each refill of the window.
    pub pause: Duration,
    /// After a reconnect: send what was not acknowledged again with DUP (else it is given up).
    pub resend: bool,
    /// How long the broker may be silent while publishes wait, before the meter gives up.
    pub patience: Duration,
    /// User name and password.
    pub login: Option<(String, String)>,
}

impl Habits {
    /// 200 bytes, MQTT 3.1.1, 20 in flight, resends, 20 s of patience.
    pub fn new(broker: SocketAddr) -> Self {
        Self {
            broker,
            version: Version::V4,
            size: 200,
            in_flight: 20,
            pause: Duration::ZERO,
            resend: true,
            patience: Duration::from_secs(20),
            login: None,
        }
    }
}

/// One meter.
#[derive(Debug)]
pub struct Meter {
    /// May be changed between calls.
    pub habits: Habits,
    client_id: String,
    topic: String,
    ledger: Ledger,
    ledger_number: u32,
    number: u64,
    packet_id: u16,
    pending: VecDeque<(u16, Key)>,
    connection: Option<BufReader<TcpStream>>,
}

impl Meter {
    /// A meter named `client_id` that publishes on `meters/<client_id>`; not connected yet.
    pub fn new(ledger: &Ledger, client_id: &str, habits: Habits) -> Self {
        let topic = format!("meters/{client_id}");
        Self {
            habits,
            client_id: client_id.to_owned(),
            ledger_number: ledger.meter(&topic),
            topic,
            ledger: ledger.clone(),
            number: 0,
            packet_id: 0,
            pending: VecDeque::new(),
            connection: None,
        }
    }

    /// Publishes `count` new readings and waits for all acknowledgements. An error leaves what waits for
    /// its acknowledgement to the next call.
    pub fn publish(&mut self, count: u64) -> io::Result<()> {
        let last = self.number + count;
        self.run(|meter| meter.number >= last)
    }

    /// Publishes until `enough` says so, then waits for the acknowledgements that are due.
    pub fn run(&mut self, enough: impl Fn(&Self) -> bool) -> io::Result<()> {
        self.connect()?;
        loop {
            let done = enough(self);
            if done && self.pending.is_empty() {
                return Ok(());
            }
            let step = if done { Ok(()) } else { self.refill(&enough) };
            if step.is_ok() && self.pending.is_empty() {
                continue;
            }
            if let Err(error) = step.and_then(|()| self.take_acknowledgements()) {
                self.connection = None;
                return Err(error);
            }
            if !self.habits.pause.is_zero() {
                std::thread::sleep(self.habits.pause);
            }
        }
    }

    /// The same meter with another ledger, which must be a [`Ledger::fork`] of its own.
    #[must_use]
    pub fn with_ledger(mut self, ledger: &Ledger) -> Self {
        self.ledger = ledger.clone();
        self
    }

    /// Its number in the ledger.
    pub fn number(&self) -> u32 {
        self.ledger_number
    }

    /// How many readings it has made.
    pub fn made(&self) -> u64 {
        self.number
    }

    /// How many wait for their acknowledgement.
    pub fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// Connects, unless it is, and sends again what was not acknowledged.
    pub fn connect(&mut self) -> io::Result<()> {
        if self.connection.is_some() {
            return Ok(());
        }
        let mut stream = TcpStream::connect_timeout(&self.habits.broker, self.habits.patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.habits.patience))?;
        stream.set_write_timeout(Some(self.habits.patience))?;
        let mut connect = Connect::new(self.habits.version, &self.client_id);
        connect.clean = !self.habits.resend;
        connect.login.clone_from(&self.habits.login);
        stream.write_all(&connect.encode())?;
        let mut reader = BufReader::with_capacity(1 << 16, stream);
        let connack = Packet::read(&mut reader)?;
        if connack.kind() != kind::CONNACK || connack.body.get(1) != Some(&0) {
            return Err(io::Error::other(format!("connection refused: {connack:?}")));
        }
        self.connection = Some(reader);
        if !self.habits.resend {
            self.pending.clear();
        }
        self.resend()
    }

    fn resend(&mut self) -> io::Result<()> {
        for (packet_id, key) in self.pending.clone() {
            let bytes = self.encode(key, packet_id, true);
            self.write(&bytes)?;
        }
        Ok(())
    }

    fn encode(&self, key: Key, packet_id: u16, dup: bool) -> Vec<u8> {
        let payload = payload(key, self.habits.size);
        self.ledger.sending(key, &payload);
        let mut publish = Publish::new(&self.topic, payload, packet_id);
        publish.dup = dup;
        publish.encode(self.habits.version)
    }

    fn refill(&mut self, enough: &impl Fn(&Self) -> bool) -> io::Result<()> {
        let mut bytes = Vec::new();
        while self.pending.len() < self.habits.in_flight && !enough(self) {
            self.number += 1;
            self.packet_id = self.packet_id.checked_add(1).unwrap_or(1);
            let key = Key {
                meter: self.ledger_number,
                number: self.number,
            };
            bytes.extend_from_slice(&self.encode(key, self.packet_id, false));
            self.pending.push_back((self.packet_id, key));
        }
        self.write(&bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let connection = self
            .connection
            .as_mut()
            .ok_or(io::ErrorKind::NotConnected)?;
        connection.get_mut().write_all(bytes)
    }

    /// Waits for one packet, then takes those that came with it.
    fn take_acknowledgements(&mut self) -> io::Result<()> {
        loop {
            let connection = self
                .connection
                .as_mut()
                .ok_or(io::ErrorKind::NotConnected)?;
            let packet = Packet::read(connection)?;
            let more = connection.buffer().len() >= 4;
            self.take(&packet)?;
            if !more || self.pending.is_empty() {
                return Ok(());
            }
        }
    }

    fn take(&mut self, packet: &Packet) -> io::Result<()> {
        match packet.kind() {
            kind::PUBACK => {}
            kind::PINGRESP => return Ok(()),
            _ => return Err(io::Error::other(format!("the broker sent {packet:02x?}"))),
        }
        let id = packet.packet_id();
        let Some(place) = self.pending.iter().position(|(pending, _)| *pending == id) else {
            self.ledger
                .violation(format!("{}: PUBACK {id} without a publish", self.client_id));
            return Ok(());
        };
        if place > 0 {
            self.ledger
                .violation(format!("{}: PUBACK {id} out of order", self.client_id));
        }
        let (_, key) = self.pending.remove(place).unwrap();
        match packet.ack_reason() {
            0..0x80 => self.ledger.acknowledged(key),
            reason => self
                .ledger
                .violation(format!("{key:?} refused with {reason:#04x}")),
        }
        Ok(())
    }
}

/// Meters that publish on threads of their own until told to stop, through kills and cuts.
#[derive(Debug)]
pub struct Fleet {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Meter>>,
}

impl Fleet {
    /// Starts the meters; each reconnects as often as it must.
    pub fn start(meters: Vec<Meter>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = meters
            .into_iter()
            .map(|meter| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || publish_until(&stop, meter))
            })
            .collect();
        Self { stop, threads }
    }

    /// Stops them and gives them back. What they published is acknowledged, if the broker is there.
    pub fn stop(self) -> Vec<Meter> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    }
}

fn publish_until(stop: &AtomicBool, mut meter: Meter) -> Meter {
    loop {
        let result = meter.run(|_| stop.load(Ordering::Relaxed));
        if stop.load(Ordering::Relaxed) {
            return meter;
        }
        if result.is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
