//! A client of somebody else's, as the scenario drives it: commands in, what it says out.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use serde_json::{Value, json};

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// CONNACK; whether a session was present, where the client tells.
    Connected(Option<bool>),
    /// SUBACK.
    Subscribed,
    /// The publish with this payload is acknowledged to the end.
    Acknowledged(String),
    /// A message.
    Message(Message),
    /// It went with a DISCONNECT.
    Disconnected,
}

/// A message as a client got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: String,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
}

/// Who connects, and how.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) relay: SocketAddr,
    /// 4 or 5.
    pub(crate) version: u8,
    pub(crate) id: String,
    pub(crate) clean: bool,
    /// Topic and payload, with `QoS` 1.
    pub(crate) will: Option<(String, String)>,
}

/// A client of any kind. It reconnects by itself.
pub(crate) trait Peer {
    /// Subscribes; [`Said::Subscribed`] follows.
    fn subscribe(&mut self, filter: &str, qos: u8);
    /// Publishes; [`Said::Acknowledged`] follows for each.
    fn publish(&mut self, topic: &str, payloads: &[String], qos: u8, retain: bool);
    /// DISCONNECT; [`Said::Disconnected`] follows.
    fn disconnect(&mut self);
    /// Gone without a word.
    fn vanish(&mut self);
    /// What it says next.
    fn said(&mut self, within: Duration) -> Option<Said>;
}

/// A script of `tests/clients` in a process of its own.
pub(crate) struct Script {
    child: Child,
    input: ChildStdin,
    said: Receiver<Said>,
}

impl Script {
    /// Starts `program script` and lets it connect.
    pub(crate) fn start(program: &str, script: &str, options: &Options) -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/").to_owned() + script;
        let mut command = Command::new(program);
        // Debian's place for libraries of node.
        command.arg(path).env("NODE_PATH", node_path());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (say, said) = channel();
        std::thread::spawn(move || listen(output, &say));
        let will = options.will.as_ref();
        let will = will.map(|(topic, payload)| json!({ "topic": topic, "payload": payload }));
        let input = child.stdin.take().unwrap();
        let mut started = Self { child, input, said };
        started.command(&json!({
            "do": "connect", "host": options.relay.ip().to_string(), "port": options.relay.port(),
            "version": options.version, "id": options.id, "clean": options.clean, "will": will,
        }));
        started
    }

    fn command(&mut self, command: &Value) {
        writeln!(self.input, "{command}").unwrap();
    }
}

/// Where node looks for MQTT.js: as the environment says, and where Debian puts it.
pub(crate) fn node_path() -> String {
    let own = std::env::var("NODE_PATH").unwrap_or_default();
    format!("{own}:/usr/share/nodejs:/usr/lib/nodejs")
}

fn listen(output: impl BufRead, say: &Sender<Said>) {
    for line in output.lines().map_while(Result::ok) {
        let what: Value = serde_json::from_str(&line).unwrap_or_default();
        if let Some(said) = parse(&what)
            && say.send(said).is_err()
        {
            return;
        }
    }
}

fn parse(what: &Value) -> Option<Said> {
    let text = |name: &str| what[name].as_str().map(str::to_owned);
    if let Some(present) = what["connected"].as_bool() {
        return (what["code"] == 0).then_some(Said::Connected(Some(present)));
    }
    if let Some(codes) = what["subscribed"].as_array() {
        let granted = codes.iter().all(|c| c.as_u64().is_some_and(|c| c <= 2));
        return granted.then_some(Said::Subscribed);
    }
    if let Some(payload) = text("acknowledged") {
        return Some(Said::Acknowledged(payload));
    }
    if what["disconnected"] == true {
        return Some(Said::Disconnected);
    }
    Some(Said::Message(Message {
        topic: text("topic")?,
        payload: text("payload")?,
        qos: u8::try_from(what["qos"].as_u64()?).ok()?,
        retain: what["retain"].as_bool()?,
    }))
}

impl Peer for Script {
    fn subscribe(&mut self, filter: &str, qos: u8) {
        self.command(&json!({ "do": "subscribe", "filter": filter, "qos": qos }));
    }

    fn publish(&mut self, topic: &str, payloads: &[String], qos: u8, retain: bool) {
        self.command(&json!({
            "do": "publish", "topic": topic, "payloads": payloads, "qos": qos, "retain": retain,
        }));
    }

    fn disconnect(&mut self) {
        self.command(&json!({ "do": "disconnect" }));
    }

    fn vanish(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn said(&mut self, within: Duration) -> Option<Said> {
        self.said.recv_timeout(within).ok()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.vanish();
    }
}
