//! A hub that misbehaves on purpose. What it keeps goes to the ledger, what it drops does not: a relay
//! that believes a lie is missing readings in the end.

use std::io::{self, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::ledger::Ledger;
use crate::packet::{self, Connect, Packet, Property, Publish, Version, kind};

/// What kind of a hub it is, for connections and publishes from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Temper {
    /// Keeps and acknowledges.
    Honest,
    /// Answers CONNECT with this code and closes.
    RefusesConnect(u8),
    /// Closes when CONNECT comes.
    ClosesAtConnect,
    /// Accepts TCP and never says CONNACK.
    NeverConnacks,
    /// Connects, takes publishes, drops them, says nothing.
    Stalls,
    /// Acknowledges packet ids that were never sent, and drops all publishes.
    Lies,
    /// Drops each publish, and acknowledges a packet id far from those that are in flight.
    LiesInFlight,
    /// Says that it has a session of before, and acknowledges packet ids of it; else honest.
    ClaimsSession,
    /// Keeps and acknowledges so many publishes of a connection, keeps one more, and closes without a word.
    VanishesAfter(u64),
    /// Keeps, and acknowledges the youngest first.
    AcknowledgesBackwards,
    /// Keeps, and acknowledges each twice.
    AcknowledgesTwice,
    /// Says these bytes after its CONNACK, whatever they are; else honest.
    Says(Vec<u8>),
    /// Closes when a payload contains this; else honest.
    ClosesAt(String),
    /// Answers a payload that contains this with this reason code, and drops it; else honest.
    Refuses(String, u8),
    /// Drops it and answers every publish with this reason code.
    RefusesAll(u8),
}

#[derive(Debug)]
struct State {
    temper: Mutex<Temper>,
    connack_properties: Mutex<Vec<Property>>,
    only_v4: AtomicBool,
    ledger: Ledger,
    closed: AtomicBool,
    connects: AtomicU64,
    publishes: AtomicU64,
    sockets: Mutex<Vec<TcpStream>>,
}

/// A small MQTT broker without subscribers, with a [`Temper`].
#[derive(Debug)]
pub struct FakeHub {
    state: Arc<State>,
    /// Where it listens.
    pub address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl FakeHub {
    /// A hub on a port of its own; what it keeps is entered in `ledger`.
    pub fn start(ledger: &Ledger, temper: Temper) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            temper: Mutex::new(temper),
            connack_properties: Mutex::default(),
            only_v4: false.into(),
            ledger: ledger.clone(),
            closed: false.into(),
            connects: 0.into(),
            publishes: 0.into(),
            sockets: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || accept(&listener, &shared));
        Self {
            state,
            address,
            thread: Some(thread),
        }
    }

    /// Changes its temper; connections stay.
    pub fn temper(&self, temper: Temper) {
        *self.state.temper.lock().unwrap() = temper;
    }

    /// Changes its temper and closes all connections, as a hub that was repaired and started again.
    pub fn restart(&self, temper: Temper) {
        self.temper(temper);
        self.state.close_all();
    }

    /// Properties of the CONNACK, such as a receive maximum.
    pub fn connack_properties(&self, properties: Vec<Property>) {
        *self.state.connack_properties.lock().unwrap() = properties;
    }

    /// Speaks 3.1.1 only: MQTT 5 is refused as such a broker does it.
    pub fn only_v4(&self) {
        self.state.only_v4.store(true, Ordering::SeqCst);
    }

    /// CONNECT packets seen.
    pub fn connects(&self) -> u64 {
        self.state.connects.load(Ordering::SeqCst)
    }

    /// PUBLISH packets seen, kept or not.
    pub fn publishes(&self) -> u64 {
        self.state.publishes.load(Ordering::SeqCst)
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.state.closed.store(true, Ordering::SeqCst);
        self.state.close_all();
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl State {
    fn close_all(&self) {
        for socket in self.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    fn temper(&self) -> Temper {
        self.temper.lock().unwrap().clone()
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    while let Ok((socket, _)) = listener.accept() {
        if state.closed.load(Ordering::SeqCst) {
            return;
        }
        let _ = socket.set_nodelay(true);
        state.sockets.lock().unwrap().extend(socket.try_clone());
        let state = Arc::clone(state);
        std::thread::spawn(move || {
            let end = socket.try_clone();
            let _ = Connection::serve(socket, &state);
            if let Ok(end) = end {
                let _ = end.shutdown(Shutdown::Both);
            }
        });
    }
}

struct Connection<'a> {
    state: &'a State,
    reader: BufReader<TcpStream>,
    version: Version,
    taken: u64,
    backwards: Vec<u16>,
}

impl<'a> Connection<'a> {
    fn serve(socket: TcpStream, state: &'a State) -> io::Result<()> {
        let mut reader = BufReader::with_capacity(1 << 16, socket);
        let connect = Connect::decode(&Packet::read(&mut reader)?)?;
        state.connects.fetch_add(1, Ordering::SeqCst);
        let version = connect.version;
        let mut connection = Self {
            state,
            reader,
            version,
            taken: 0,
            backwards: Vec::new(),
        };
        if !connection.greet()? {
            return Ok(());
        }
        while connection.step()? {}
        Ok(())
    }

    /// Answers CONNECT; false: close.
    fn greet(&mut self) -> io::Result<bool> {
        if self.version == Version::V5 && self.state.only_v4.load(Ordering::SeqCst) {
            self.write(&packet::connack(Version::V4, false, 1, &[]))?;
            return Ok(false);
        }
        let properties = self.state.connack_properties.lock().unwrap().clone();
        let version = self.version;
        let connack = |present, code| packet::connack(version, present, code, &properties);
        match self.state.temper() {
            Temper::RefusesConnect(code) => {
                self.write(&packet::connack(version, false, code, &[]))?;
                return Ok(false);
            }
            Temper::ClosesAtConnect => return Ok(false),
            Temper::NeverConnacks => {}
            Temper::Lies => {
                self.write(&connack(false, 0))?;
                self.acknowledge(1..=50)?;
            }
            Temper::ClaimsSession => {
                self.write(&connack(true, 0))?;
                self.acknowledge(1..=5)?;
            }
            Temper::Says(bytes) => {
                self.write(&connack(false, 0))?;
                self.write(&bytes)?;
            }
            _ => self.write(&connack(false, 0))?,
        }
        Ok(true)
    }

    fn acknowledge(&mut self, ids: impl Iterator<Item = u16>) -> io::Result<()> {
        let acks: Vec<u8> = ids
            .flat_map(|id| packet::ack(kind::PUBACK, self.version, id, 0))
            .collect();
        self.write(&acks)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// Takes one packet; false: close.
    fn step(&mut self) -> io::Result<bool> {
        if !self.backwards.is_empty() && self.reader.buffer().is_empty() && !self.more_soon()? {
            let ids = std::mem::take(&mut self.backwards);
            self.acknowledge(ids.into_iter().rev())?;
        }
        let packet = Packet::read(&mut self.reader)?;
        match packet.kind() {
            kind::PUBLISH => {
                self.state.publishes.fetch_add(1, Ordering::SeqCst);
                self.take(&Publish::decode(&packet, self.version)?)
            }
            kind::PINGREQ if self.state.temper() != Temper::Stalls => {
                self.write(&[kind::PINGRESP << 4, 0])?;
                Ok(true)
            }
            kind::DISCONNECT => Ok(false),
            _ => Ok(true),
        }
    }

    fn more_soon(&mut self) -> io::Result<bool> {
        let socket = self.reader.get_ref();
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let more = socket.peek(&mut [0]).is_ok();
        socket.set_read_timeout(None)?;
        Ok(more)
    }

    fn take(&mut self, publish: &Publish) -> io::Result<bool> {
        let contains = |mark: &str| {
            publish
                .payload
                .windows(mark.len())
                .any(|part| part == mark.as_bytes())
        };
        self.taken += 1;
        match self.state.temper() {
            Temper::Stalls | Temper::Lies | Temper::NeverConnacks => Ok(true),
            Temper::LiesInFlight => {
                self.acknowledge(std::iter::once(publish.packet_id ^ 0x4000))?;
                Ok(true)
            }
            Temper::ClosesAt(mark) if contains(&mark) => Ok(false),
            Temper::Refuses(mark, reason) if contains(&mark) => self.answer(publish, reason),
            Temper::RefusesAll(reason) => self.answer(publish, reason),
            Temper::VanishesAfter(count) if self.taken > count => {
                self.state.ledger.arrived(publish);
                Ok(false)
            }
            Temper::AcknowledgesBackwards => {
                self.state.ledger.arrived(publish);
                self.backwards.push(publish.packet_id);
                Ok(true)
            }
            Temper::AcknowledgesTwice => {
                self.state.ledger.arrived(publish);
                self.answer(publish, 0)?;
                self.answer(publish, 0)
            }
            _ => {
                self.state.ledger.arrived(publish);
                self.answer(publish, 0)
            }
        }
    }

    fn answer(&mut self, publish: &Publish, reason: u8) -> io::Result<bool> {
        if publish.qos == 1 {
            self.write(&packet::ack(
                kind::PUBACK,
                self.version,
                publish.packet_id,
                reason,
            ))?;
        }
        Ok(true)
    }
}
