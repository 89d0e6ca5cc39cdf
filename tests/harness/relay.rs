//! The relay as a child process: started with a config file, asked over its admin API, killed.

use std::fs::{self, File, OpenOptions};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::VILLAGE;
use crate::port;
use crate::wait::{wait_for, within};

/// The path of the built relay: beside the test's own directory `target/<profile>/deps`, or
/// `EDGE_RELAY_BIN`.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("EDGE_RELAY_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().unwrap();
    let directory = own.ancestors().find(|dir| dir.join("edge-relay").is_file());
    let missing = || {
        panic!(
            "no edge-relay above {}: run `cargo build` first",
            own.display()
        )
    };
    directory.map_or_else(missing, |dir| dir.join("edge-relay"))
}

/// A relay with its config, data and log in a directory of its own.
#[derive(Debug)]
pub struct Relay {
    home: TempDir,
    config: toml::Table,
    environment: Vec<(String, String)>,
    child: Option<Child>,
    /// Where meters connect.
    pub mqtt: SocketAddr,
    /// The admin API.
    pub admin: SocketAddr,
}

impl Relay {
    /// A relay for the hub at `hub`, not started yet. No drain window is near: `drain.at` is far off.
    pub fn new(hub: SocketAddr) -> Self {
        let home = crate::scratch("relay-");
        let mut relay = Self {
            config: toml::Table::new(),
            environment: Vec::new(),
            child: None,
            mqtt: port::free(),
            admin: port::free(),
            home,
        };
        relay.set("village_id", VILLAGE);
        relay.set("data_dir", relay.home.path().join("data").to_str().unwrap());
        relay.set("mqtt.listen", relay.mqtt.to_string());
        relay.set("admin.listen", relay.admin.to_string());
        relay.set("hub.url", format!("mqtt://{hub}"));
        relay
    }

    /// Sets a key such as `hub.url`, for the next start or [`Relay::write_config`].
    pub fn set(&mut self, key: &str, value: impl Into<toml::Value>) -> &mut Self {
        let mut table = &mut self.config;
        let mut parts = key.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                table.insert(part.to_owned(), value.into());
                break;
            }
            let inner = table
                .entry(part)
                .or_insert_with(|| toml::Table::new().into());
            table = inner.as_table_mut().expect("a section");
        }
        self
    }

    /// Sets an environment variable of the relay.
    pub fn env(&mut self, name: &str, value: &str) -> &mut Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The directory with `broker.toml` and `relay.log`.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.config["data_dir"].as_str().unwrap().into()
    }

    /// The config file.
    pub fn config_file(&self) -> PathBuf {
        self.home().join("broker.toml")
    }

    /// The config as it would be written.
    pub fn config_text(&self) -> String {
        toml::to_string(&self.config).unwrap()
    }

    /// Writes the config file in place.
    pub fn write_config(&self) {
        fs::write(self.config_file(), self.config_text()).unwrap();
    }

    /// A command of the binary, with the config file and the environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .arg("--config")
            .arg(self.config_file())
            .args(arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null());
        command
    }

    /// Runs a sub-command to its end.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Writes the config, starts the process, and waits until it takes meters.
    pub fn start(&mut self) -> &mut Self {
        self.write_config();
        self.start_as_is();
        self.wait_listening(within(20));
        self
    }

    /// Starts the process with the files as they are, and waits for nothing.
    pub fn start_as_is(&mut self) {
        assert!(self.child.is_none(), "the relay runs already");
        let log = self.log_file();
        let errors = log.try_clone().unwrap();
        let mut command = self.command(&["run"]);
        self.child = Some(command.stdout(log).stderr(errors).spawn().unwrap());
    }

    fn log_file(&self) -> File {
        let path = self.home().join("relay.log");
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .unwrap()
    }

    /// Waits until it accepts connections of meters.
    #[track_caller]
    pub fn wait_listening(&mut self, deadline: Duration) {
        let mqtt = self.mqtt;
        wait_for("the relay accepts meters", deadline, || {
            if let Some(status) = self.exited() {
                panic!("the relay ended with {status}:\n{}", self.log_tail(30));
            }
            TcpStream::connect(mqtt).ok()
        });
    }

    /// Waits for `GET /readyz` to say 200.
    #[track_caller]
    pub fn wait_ready(&self, deadline: Duration) {
        wait_for("the relay is ready", deadline, || {
            (self.get("/readyz").ok()?.0 == 200).then_some(())
        });
    }

    /// The exit status, if it has ended by itself.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().unwrap()?;
        self.child = None;
        Some(status)
    }

    /// The process id.
    pub fn pid(&self) -> Pid {
        let id = self.child.as_ref().expect("the relay runs").id();
        Pid::from_raw(id.try_into().unwrap())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and waits for the end.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait_exit(within(30))
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        wait_for("the relay ends", deadline, || self.exited())
    }

    /// Stops it without its knowledge (SIGSTOP) and waits until no thread is in a system call any more; it may also have
    /// ended just now.
    #[track_caller]
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
        let tasks = format!("/proc/{}/task", self.pid());
        wait_for("every thread is stopped", within(10), || {
            let mut states = fs::read_dir(&tasks).ok()?.flatten().map(|task| {
                let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                stat.rsplit_once(") ").map(|(_, rest)| rest.chars().next())
            });
            states
                .all(|state| matches!(state, Some(Some('T' | 'Z' | 'X'))))
                .then_some(())
        });
    }

    /// `GET path` of the admin API: status code and text.
    pub fn get(&self, path: &str) -> Result<(u16, String), ureq::Error> {
        let mut answer = agent().get(self.url(path)).call()?;
        Ok((
            answer.status().as_u16(),
            answer.body_mut().read_to_string()?,
        ))
    }

    /// `POST path` without a body.
    pub fn post(&self, path: &str) -> Result<(u16, String), ureq::Error> {
        let mut answer = agent().post(self.url(path)).send_empty()?;
        Ok((
            answer.status().as_u16(),
            answer.body_mut().read_to_string()?,
        ))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin)
    }

    /// `/status`; `Value::Null` while it cannot be asked.
    pub fn status(&self) -> Value {
        let text = self
            .get("/status")
            .map(|(_, text)| text)
            .unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Waits until `/status` satisfies `condition`, and gives that status.
    #[track_caller]
    pub fn wait_status(
        &self,
        what: &str,
        deadline: Duration,
        condition: impl Fn(&Value) -> bool,
    ) -> Value {
        let mut last = Value::Null;
        let start = std::time::Instant::now();
        while start.elapsed() < deadline {
            last = self.status();
            if condition(&last) {
                return last;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("waited {deadline:?} in vain: {what}; status: {last:#}");
    }

    /// Readings that wait for the hub, from `/status`.
    pub fn backlog(&self) -> Option<u64> {
        self.status()["backlog"]["readings"].as_u64()
    }

    /// Waits until nothing waits for the hub.
    #[track_caller]
    pub fn wait_drained(&self, deadline: Duration) {
        self.wait_status("the backlog is empty", deadline, |status| {
            status["backlog"]["readings"].as_u64() == Some(0)
        });
    }

    /// A line such as `VmHWM` of `/proc/<pid>/status`, in KiB.
    pub fn memory_kib(&self, line: &str) -> u64 {
        memory_kib(self.child.as_ref().expect("the relay runs").id(), line)
    }

    /// The processor time that it has used so far.
    pub fn cpu(&self) -> Duration {
        cpu_time(self.child.as_ref().expect("the relay runs").id())
    }

    /// All it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.home().join("relay.log")).unwrap_or_default()
    }

    /// The last `lines` lines of the log.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!(
                "--- last lines of the relay's log ---\n{}",
                self.log_tail(40)
            );
        }
    }
}

/// A line such as `VmHWM` of `/proc/<pid>/status`, in KiB.
pub fn memory_kib(pid: u32, line: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let found = text
        .lines()
        .find_map(|l| l.strip_prefix(line)?.strip_prefix(':'));
    let number = found.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no {line} in\n{text}"))
}

/// User and system time of a process so far, in steps of 10 ms (`proc_pid_stat(5)`, fields 14 and 15).
pub fn cpu_time(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name in parentheses may hold anything.
    let (_, fields) = text.rsplit_once(')').expect("a name");
    let ticks = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().expect("a number"));
    Duration::from_millis(10 * ticks.sum::<u64>())
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(5)))
        .http_status_as_error(false)
        .build();
    config.into()
}
