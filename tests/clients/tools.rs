//! mosquitto's tools: one `mosquitto_pub` for each publish, again until it succeeds; a `mosquitto_sub` that stays.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::peer::{Message, Options, Peer, Said};

/// See the module.
pub(crate) struct Tools {
    options: Options,
    subscriber: Option<Child>,
    say: Sender<Said>,
    said: Receiver<Said>,
    gone: Arc<AtomicBool>,
    /// One publisher at a time: they have one client id.
    turn: Arc<Mutex<()>>,
}

impl Tools {
    /// The tools connect when there is something to do.
    pub(crate) fn start(options: &Options) -> Self {
        let (say, said) = channel();
        say.send(Said::Connected(None)).unwrap();
        let mut tools = Self {
            options: options.clone(),
            subscriber: None,
            say,
            said,
            gone: Arc::default(),
            turn: Arc::default(),
        };
        if tools.options.will.is_some() {
            tools.subscribe("nothing/of/interest", 0);
            assert_eq!(
                tools.said.recv_timeout(Duration::from_secs(10)),
                Ok(Said::Connected(None))
            );
            assert_eq!(
                tools.said.recv_timeout(Duration::from_secs(10)),
                Ok(Said::Subscribed)
            );
            tools.say.send(Said::Connected(None)).unwrap();
        }
        tools
    }

    /// `by_line`: it stays, and what it says comes at once.
    fn command(&self, program: &str, by_line: bool) -> Command {
        let options = &self.options;
        let version = if options.version == 5 {
            "mqttv5"
        } else {
            "mqttv311"
        };
        let mut command = Command::new(if by_line { "stdbuf" } else { program });
        if by_line {
            command.args(["-oL", program]);
        }
        command.args(["-h", &options.relay.ip().to_string(), "-V", version]);
        command.args(["-p", &options.relay.port().to_string(), "-i", &options.id]);
        // A publisher that forgets its packet ids when it ends must not go on with its session.
        let keeps = by_line && !options.clean;
        if keeps {
            command.arg("-c");
        }
        if keeps && options.version == 5 {
            command.args(["-x", "3600"]);
        }
        command.stdin(Stdio::null());
        command
    }
}

impl Peer for Tools {
    fn subscribe(&mut self, filter: &str, qos: u8) {
        let mut command = self.command("mosquitto_sub", true);
        command.args([
            "-t",
            filter,
            "-q",
            &qos.to_string(),
            "-d",
            "-F",
            "MESSAGE %r %q %t %p",
        ]);
        if let Some((topic, payload)) = &self.options.will {
            command.args([
                "--will-topic",
                topic,
                "--will-payload",
                payload,
                "--will-qos",
                "1",
            ]);
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let say = self.say.clone();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let said = if line.starts_with("Subscribed") {
                    Some(Said::Subscribed)
                } else {
                    line.strip_prefix("MESSAGE ").and_then(message)
                };
                if said.is_some_and(|said| say.send(said).is_err()) {
                    return;
                }
            }
        });
        self.subscriber = Some(child);
    }

    fn publish(&mut self, topic: &str, payloads: &[String], qos: u8, retain: bool) {
        let commands: Vec<(Command, String)> = payloads
            .iter()
            .map(|payload| {
                let mut command = self.command("mosquitto_pub", false);
                command.args(["-t", topic, "-q", &qos.to_string(), "-m", payload]);
                if retain {
                    command.arg("-r");
                }
                (command, payload.clone())
            })
            .collect();
        let (say, gone, turn) = (self.say.clone(), self.gone.clone(), self.turn.clone());
        std::thread::spawn(move || {
            let _turn = turn.lock().unwrap();
            for (mut command, payload) in commands {
                command.stderr(Stdio::null());
                while !command.status().unwrap().success() {
                    if gone.load(Ordering::Relaxed) {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
                let _ = say.send(Said::Acknowledged(payload));
            }
        });
    }

    fn disconnect(&mut self) {
        if let Some(mut child) = self.subscriber.take() {
            let pid = Pid::from_raw(child.id().try_into().unwrap());
            kill(pid, Signal::SIGINT).unwrap();
            child.wait().unwrap();
        }
        self.say.send(Said::Disconnected).unwrap();
    }

    fn vanish(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
        if let Some(mut child) = self.subscriber.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn said(&mut self, within: Duration) -> Option<Said> {
        self.said.recv_timeout(within).ok()
    }
}

impl Drop for Tools {
    fn drop(&mut self) {
        self.vanish();
    }
}

/// "retain qos topic payload"; the topics here have no spaces.
fn message(line: &str) -> Option<Said> {
    let mut parts = line.splitn(4, ' ');
    Some(Said::Message(Message {
        retain: parts.next()? == "1",
        qos: parts.next()?.parse().ok()?,
        topic: parts.next()?.to_owned(),
        payload: parts.next()?.to_owned(),
    }))
}
