//! What the relay promises to its own subscribers, and the clients that hold it to that: retained messages, and
//! what is queued for persistent sessions, one that never comes back and one that comes and goes.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::journal::now_ns;
use crate::packet::{self, Connect, Publish, Version, kind};
use crate::raw::Raw;

/// Retained messages.
pub const KEPT: [&str; 5] = ["kept/0", "kept/1", "kept/2", "kept/3", "kept/4"];
/// Persistent sessions, each with the topic it subscribes to.
pub const SESSIONS: [(&str, &str); 2] =
    [("absent", "queued/absent"), ("visitor", "queued/visitor")];

/// What can happen. Topics and sessions are numbered: the sessions' topics first, then [`KEPT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalEvent {
    /// SUBACK to a session.
    Subscribed(usize),
    /// A number is about to be published on a topic.
    Sent(usize, u64),
    /// PUBACK for it.
    Acknowledged(usize, u64),
    /// A session got a number.
    Delivered(usize, u64),
}

/// Events with their time in ns.
pub type LocalJournal = Vec<(u64, LocalEvent)>;

/// The name of a topic.
pub fn topic(number: usize) -> &'static str {
    SESSIONS
        .get(number)
        .map_or_else(|| KEPT[number - SESSIONS.len()], |(_, topic)| topic)
}

/// How many topics there are.
pub const TOPICS: usize = KEPT.len() + SESSIONS.len();

/// The payload of a number: of one piece in the relay's state, or of several.
pub fn payload(number: u64) -> Vec<u8> {
    let size = [12, 400, 3_000, 9_000, 20_000][usize::try_from(number % 5).unwrap()];
    let mut bytes = format!("{number};").into_bytes();
    while bytes.len() < size {
        bytes.push(u8::try_from((number * 31 + bytes.len() as u64 * 7) % 251).unwrap());
    }
    bytes
}

/// The number of a payload, if it is whole.
pub fn number(bytes: &[u8]) -> Option<u64> {
    let end = bytes.iter().take(20).position(|byte| *byte == b';')?;
    let number = std::str::from_utf8(&bytes[..end]).ok()?.parse().ok()?;
    (bytes == payload(number)).then_some(number)
}

/// One line an event.
pub fn to_text(journal: &LocalJournal) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for (at, event) in journal {
        let (word, one, two) = match *event {
            LocalEvent::Subscribed(session) => ("subscribed", session, 0),
            LocalEvent::Sent(topic, number) => ("sent", topic, number),
            LocalEvent::Acknowledged(topic, number) => ("acknowledged", topic, number),
            LocalEvent::Delivered(session, number) => ("delivered", session, number),
        };
        let _ = writeln!(text, "{at} {word} {one} {two}");
    }
    text
}

/// As [`to_text`] wrote it.
pub fn from_text(text: &str) -> Option<LocalJournal> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let one = words.get(2)?.parse().ok()?;
        let two = words.get(3)?.parse().ok()?;
        let event = match *words.get(1)? {
            "subscribed" => LocalEvent::Subscribed(one),
            "sent" => LocalEvent::Sent(one, two),
            "acknowledged" => LocalEvent::Acknowledged(one, two),
            "delivered" => LocalEvent::Delivered(one, two),
            _ => return None,
        };
        Some((words.first()?.parse().ok()?, event))
    };
    text.lines().map(line).collect()
}

/// The clients, on threads of their own.
#[derive(Debug)]
pub struct Locals {
    stop: Arc<AtomicBool>,
    books: Arc<Mutex<LocalJournal>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Clone)]
struct Client {
    relay: SocketAddr,
    stop: Arc<AtomicBool>,
    books: Arc<Mutex<LocalJournal>>,
}

impl Locals {
    /// Subscribes the sessions and starts the clients.
    pub fn start(relay: SocketAddr) -> io::Result<Self> {
        let client = Client {
            relay,
            stop: Arc::default(),
            books: Arc::default(),
        };
        for session in 0..SESSIONS.len() {
            client.subscribe(session)?;
        }
        let run = |act: fn(&Client)| {
            let client = client.clone();
            std::thread::spawn(move || act(&client))
        };
        Ok(Self {
            threads: vec![run(Client::publish), run(Client::visit)],
            stop: client.stop,
            books: client.books,
        })
    }

    /// Stops them; what happened.
    pub fn stop(self) -> LocalJournal {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        std::mem::take(&mut *self.books.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Client {
    fn happened(&self, event: LocalEvent) {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        books.push((now_ns(), event));
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn connect(&self, client: &str) -> io::Result<Raw> {
        let mut connect = Connect::new(Version::V4, client);
        connect.clean = false;
        Ok(Raw::connect(self.relay, &connect)?.0)
    }

    fn subscribe(&self, session: usize) -> io::Result<()> {
        let (client, topic) = SESSIONS[session];
        let mut raw = self.connect(client)?;
        raw.send(&packet::subscribe(Version::V4, 1, topic, 1))?;
        raw.receive_kind(kind::SUBACK)?;
        self.happened(LocalEvent::Subscribed(session));
        Ok(())
    }

    /// Numbers on all topics in turn, each until it is acknowledged.
    fn publish(&self) {
        let mut numbers = [1; TOPICS];
        let mut at = 0;
        while !self.stopped() {
            let Ok(mut raw) = self.connect("publisher") else {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            };
            while !self.stopped() && self.publish_one(&mut raw, at, numbers[at]).is_ok() {
                numbers[at] += 1;
                at = (at + 1) % TOPICS;
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    fn publish_one(&self, raw: &mut Raw, at: usize, number: u64) -> io::Result<()> {
        self.happened(LocalEvent::Sent(at, number));
        let id = u16::try_from(number % 60_000 + 1).unwrap();
        let mut publish = Publish::new(topic(at), payload(number), id);
        publish.retain = at >= SESSIONS.len();
        raw.send(&publish.encode(Version::V4))?;
        let answer = raw.receive_within(Duration::from_secs(20))?;
        if (answer.kind(), answer.packet_id()) != (kind::PUBACK, id) {
            return Err(io::Error::other("another answer"));
        }
        self.happened(LocalEvent::Acknowledged(at, number));
        Ok(())
    }

    /// Comes, takes some of what waits, and goes without a word.
    fn visit(&self) {
        let session = SESSIONS.len() - 1;
        let mut takes = 1;
        while !self.stopped() {
            std::thread::sleep(Duration::from_millis(150));
            takes = takes * 5 % 23 + 1;
            if let Ok(mut raw) = self.connect(SESSIONS[session].0) {
                let _ = self.take(&mut raw, session, takes);
            }
        }
    }

    fn take(&self, raw: &mut Raw, session: usize, takes: u32) -> io::Result<()> {
        for _ in 0..takes {
            let packet = raw.receive_within(Duration::from_millis(300))?;
            if packet.kind() != kind::PUBLISH {
                continue;
            }
            let publish = Publish::decode(&packet, Version::V4)?;
            let number = number(&publish.payload).ok_or(io::ErrorKind::InvalidData)?;
            self.happened(LocalEvent::Delivered(session, number));
            raw.send(&packet::ack(
                kind::PUBACK,
                Version::V4,
                publish.packet_id,
                0,
            ))?;
        }
        Ok(())
    }
}
