//! `hub-bridge receive` as a process of its own, and publishers to its broker.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hub_bridge::wire::frame::{self, Frame};
use hub_bridge::wire::frames_topic;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};

use super::hub::config_text;
use super::mosquitto::{Mosquitto, free_port};
use super::postgres::Postgres;

/// A mosquitto that keeps what waits for an absent receiver.
pub const KEEPING: &str = "max_queued_messages 0\nmax_inflight_messages 200\n";

pub struct Receiver {
    child: Option<Child>,
    admin: u16,
    dir: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Receiver {
    /// Starts one; `extra` are sections of its configuration.
    pub fn start(postgres: &Postgres, broker_port: u16, extra: &str) -> Self {
        Self::start_with(postgres, broker_port, extra, &[])
    }

    /// The same, with keys set by the environment.
    pub fn start_with(
        postgres: &Postgres,
        broker_port: u16,
        extra: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        let environment = environment.iter();
        let environment = environment.map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let dir = tempfile::tempdir().unwrap();
        let mut this = Self {
            child: None,
            admin: free_port(),
            dir,
            environment: environment.collect(),
        };
        let admin = format!("[admin]\nlisten = \"127.0.0.1:{}\"\n{extra}", this.admin);
        let text = config_text(postgres, broker_port, &admin);
        std::fs::write(this.dir.path().join("hub.toml"), text).unwrap();
        this.start_again();
        this
    }

    pub fn start_again(&mut self) {
        assert!(self.child.is_none());
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_hub-bridge"))
            .arg("receive")
            .arg("--config")
            .arg(self.dir.path().join("hub.toml"))
            .env("HUB_BRIDGE_LOG", "hub_bridge=debug")
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM; gives the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        let id = child.id().to_string();
        Command::new("kill")
            .args(["-s", "TERM", &id])
            .status()
            .unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < until, "it does not stop: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The body of a `GET`, and whether it was 200; `None` while nobody listens.
    pub fn get(&self, path: &str) -> Option<(bool, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.contains(" 200 "), body.to_owned()))
    }

    pub fn status(&self) -> Option<serde_json::Value> {
        serde_json::from_str(&self.get("/status")?.1).ok()
    }

    pub fn slots_subscribed(&self) -> usize {
        let status = self.status().unwrap_or_default();
        let slots = status["broker"]["slots_subscribed"].as_array();
        slots.map_or(0, Vec::len)
    }

    /// The value of a metric, all its labels together; 0 where it is not there.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").map_or(String::new(), |(_, text)| text);
        let of = |line: &&str| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with([' ', '{']))
        };
        text.lines()
            .filter(of)
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits until it says that it is ready and holds `slots`.
    pub fn ready_with(&mut self, slots: usize) {
        eventually(&format!("ready with {slots} slots"), || {
            if let Some(child) = &mut self.child {
                assert_eq!(child.try_wait().unwrap(), None, "it ended: {}", self.log());
            }
            let ready = self.get("/readyz").is_some_and(|(ready, _)| ready);
            (ready && self.slots_subscribed() == slots)
                .then_some(())
                .ok_or_else(|| self.log())
        });
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}

/// Waits until `check` gives a value; fails with what it last said.
pub fn eventually<T, E: std::fmt::Display>(
    what: &str,
    mut check: impl FnMut() -> Result<T, E>,
) -> T {
    let until = Instant::now() + Duration::from_secs(90);
    loop {
        match check() {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < until, "not in time: {what}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until a query of a number gives `expected`.
pub fn counts(postgres: &Postgres, sql: &str, expected: i64) {
    eventually(sql, || {
        let count = postgres.count(sql);
        (count == expected)
            .then_some(())
            .ok_or_else(|| format!("{count}, and not {expected}"))
    });
}

/// A message to publish.
#[derive(Debug, Clone)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub retain: bool,
    pub user: Vec<(String, String)>,
}

impl Message {
    pub fn new(topic: &str, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            topic: topic.to_owned(),
            payload: payload.into(),
            retain: false,
            user: Vec::new(),
        }
    }

    pub fn frame(frame: &Frame) -> Self {
        Self::new(&frames_topic(&frame.village), frame::encode(frame).unwrap())
    }

    pub fn with(mut self, user: &[(&str, &str)]) -> Self {
        let user = user.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        self.user.extend(user);
        self
    }
}

/// Publishes all of them and returns when the broker acknowledged each.
pub async fn publish(mosquitto: &Mosquitto, messages: Vec<Message>) {
    let name = format!("pub-{:x}", rand::random::<u64>());
    let mut options = MqttOptions::new(name, "127.0.0.1", mosquitto.port);
    options.set_max_packet_size(Some(1 << 24));
    let (client, mut events) = AsyncClient::new(options, messages.len() + 10);
    let mut left = messages.len();
    for message in messages {
        let properties = PublishProperties {
            user_properties: message.user,
            ..PublishProperties::default()
        };
        let (topic, payload) = (message.topic, message.payload);
        client
            .publish_with_properties(topic, QoS::AtLeastOnce, message.retain, payload, properties)
            .await
            .unwrap();
    }
    while left > 0 {
        if let Event::Incoming(Packet::PubAck(_)) = events.poll().await.unwrap() {
            left -= 1;
        }
    }
    client.disconnect().await.unwrap();
    while events.poll().await.is_ok() {}
}

/// A subscriber.
pub struct Listener {
    _client: AsyncClient,
    events: EventLoop,
    got: Vec<Publish>,
}

impl Listener {
    /// Returns when it is subscribed.
    pub async fn start(mosquitto: &Mosquitto, filter: &str) -> Self {
        let name = format!("sub-{:x}", rand::random::<u64>());
        let mut options = MqttOptions::new(name, "127.0.0.1", mosquitto.port);
        options.set_max_packet_size(Some(1 << 24));
        let (client, mut events) = AsyncClient::new(options, 10);
        client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
        let mut got = Vec::new();
        loop {
            match events.poll().await.unwrap() {
                Event::Incoming(Packet::SubAck(_)) => break,
                Event::Incoming(Packet::Publish(publish)) => got.push(publish),
                _ => {}
            }
        }
        Self {
            _client: client,
            events,
            got,
        }
    }

    /// All messages so far, as soon as `enough` says so.
    pub async fn until(&mut self, mut enough: impl FnMut(&[Publish]) -> bool) -> &[Publish] {
        let all = async {
            while !enough(&self.got) {
                if let Event::Incoming(Packet::Publish(publish)) = self.events.poll().await.unwrap()
                {
                    self.got.push(publish);
                }
            }
        };
        let result = tokio::time::timeout(Duration::from_secs(60), all).await;
        assert!(result.is_ok(), "not enough: {} messages", self.got.len());
        &self.got
    }
}
