//! RabbitMQ as a cluster of three nodes on loopback, with the MQTT plugin and quorum queues; Debian's package.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::port;
use crate::wait::{wait_for, within};

const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";

struct Node {
    name: String,
    amqp: u16,
    distribution: u16,
    /// Where MQTT clients connect.
    mqtt: SocketAddr,
    child: Option<Child>,
}

/// A cluster of its own. Dropping it ends the nodes.
pub struct Rabbit {
    home: TempDir,
    nodes: Vec<Node>,
    epmd: Child,
    epmd_port: u16,
}

impl Rabbit {
    /// Starts `count` nodes and joins them, or says why not.
    pub fn start(count: usize) -> Option<Self> {
        if !Path::new(PROGRAMS).is_dir() {
            crate::skip("rabbitmq", "rabbitmq-server is not installed");
            return None;
        }
        let home = crate::scratch("rabbit-");
        let epmd_port = port::free().port();
        let epmd = Command::new("epmd")
            .args(["-port", &epmd_port.to_string(), "-address", "127.0.0.1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("epmd starts");
        let host = host_name();
        let nodes = (0..count).map(|n| Node {
            name: format!("relay-test-{}-{n}@{host}", std::process::id()),
            amqp: port::free().port(),
            distribution: port::free().port(),
            mqtt: port::free(),
            child: None,
        });
        let mut this = Self {
            nodes: nodes.collect(),
            home,
            epmd,
            epmd_port,
        };
        for n in 0..count {
            this.run(n);
        }
        for n in 0..count {
            this.wait_started(n);
        }
        let first = this.nodes[0].name.clone();
        for n in 1..count {
            for arguments in [&["stop_app"][..], &["join_cluster", &first], &["start_app"]] {
                assert!(
                    this.ctl(n, arguments),
                    "{arguments:?} of node {n}: {}",
                    this.log(n)
                );
            }
        }
        for n in 0..count {
            this.wait_listens(n);
        }
        Some(this)
    }

    /// Where MQTT clients reach node `n`.
    pub fn mqtt(&self, n: usize) -> SocketAddr {
        self.nodes[n].mqtt
    }

    /// kill -9 of one node: of the emulator, which is a child of the script that started it. Returns once nobody listens.
    pub fn kill(&mut self, n: usize) {
        if let Some(mut child) = self.nodes[n].child.take() {
            let group = Pid::from_raw(child.id().try_into().unwrap());
            let _ = killpg(group, Signal::SIGKILL);
            let _ = child.wait();
            wait_for("the node is dead", within(10), || {
                TcpStream::connect(self.nodes[n].mqtt)
                    .is_err()
                    .then_some(())
            });
        }
    }

    /// Starts node `n` again after [`Rabbit::kill`], and waits until it takes clients.
    pub fn start_again(&mut self, n: usize) {
        self.run(n);
        self.wait_started(n);
        self.wait_listens(n);
    }

    fn run(&mut self, n: usize) {
        let node = &self.nodes[n];
        let home = self.home.path().join(n.to_string());
        fs::create_dir_all(&home).unwrap();
        let config = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\nmqtt.listeners.tcp.1 = {}\nmqtt.durable_queue_type = quorum\nmqtt.allow_anonymous = true\n\
             mqtt.vhost = /\nmqtt.exchange = amq.topic\nmqtt.subscription_ttl = 86400000\nmqtt.prefetch = 50\n\
             log.console = false\nlog.file.level = info\nvm_memory_high_watermark.absolute = 1GB\ndisk_free_limit.absolute = 50MB\n\
             loopback_users.guest = false\n",
            node.amqp, node.mqtt
        );
        fs::write(home.join("rabbitmq.conf"), config).unwrap();
        fs::write(home.join("enabled_plugins"), "[rabbitmq_mqtt].").unwrap();
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(home.join("out"))
            .unwrap();
        let child = self
            .environment(Command::new(format!("{PROGRAMS}/rabbitmq-server")), n)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("rabbitmq-server starts");
        self.nodes[n].child = Some(child);
    }

    fn environment(&self, mut command: Command, n: usize) -> Command {
        let node = &self.nodes[n];
        let home = self.home.path().join(n.to_string());
        command
            .current_dir(self.home.path())
            .env("HOME", self.home.path())
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("RABBITMQ_NODENAME", &node.name)
            .env("RABBITMQ_NODE_PORT", node.amqp.to_string())
            .env("RABBITMQ_DIST_PORT", node.distribution.to_string())
            .env("RABBITMQ_CONFIG_FILE", home.join("rabbitmq.conf"))
            .env("RABBITMQ_CONF_ENV_FILE", home.join("none"))
            .env(
                "RABBITMQ_ENABLED_PLUGINS_FILE",
                home.join("enabled_plugins"),
            )
            .env("RABBITMQ_MNESIA_BASE", home.join("data"))
            .env("RABBITMQ_LOG_BASE", home.join("log"))
            .env("RABBITMQ_PID_FILE", home.join("pid"))
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "+S 2:2 -kernel inet_dist_use_interface {127,0,0,1}",
            )
            .env("RABBITMQ_CTL_ERL_ARGS", "+S 1:1");
        command
    }

    fn ctl(&self, n: usize, arguments: &[&str]) -> bool {
        let name = self.nodes[n].name.clone();
        let mut command = self.environment(Command::new(format!("{PROGRAMS}/rabbitmqctl")), n);
        command.args(["-n", &name]).args(arguments);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    fn wait_started(&self, n: usize) {
        wait_for(&format!("node {n} is up"), within(120), || {
            self.ctl(n, &["await_startup", "--timeout", "10"])
                .then_some(())
        });
    }

    fn wait_listens(&self, n: usize) {
        wait_for(&format!("node {n} listens"), within(60), || {
            TcpStream::connect(self.nodes[n].mqtt).ok()
        });
    }

    /// What node `n` said at its start.
    pub fn log(&self, n: usize) -> String {
        let out = self.home.path().join(n.to_string()).join("out");
        fs::read_to_string(out).unwrap_or_default()
    }
}

impl Drop for Rabbit {
    fn drop(&mut self) {
        for n in 0..self.nodes.len() {
            self.kill(n);
        }
        let _ = self.epmd.kill();
        let _ = self.epmd.wait();
    }
}

fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let short = name.trim().split('.').next().unwrap_or_default();
    if short.is_empty() {
        "localhost".to_owned()
    } else {
        short.to_owned()
    }
}
