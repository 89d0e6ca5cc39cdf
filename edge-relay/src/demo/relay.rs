//! The relay as a child process, so that `kill -9` is what it says.

use std::fs::{self, File, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::hub::free_address;

const READY_WITHIN: Duration = Duration::from_secs(10);
const DRAIN_WITHIN: Duration = Duration::from_mins(1);
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// The beginning of every environment variable that overrides a key.
const ENVIRONMENT: &str = "EDGE_RELAY";

/// The relay's process, its configuration and its log, all in one directory.
pub(super) struct Relay {
    program: PathBuf,
    directory: PathBuf,
    mqtt: SocketAddr,
    admin: SocketAddr,
    child: Option<Child>,
}

/// What the view shows of `/status`.
#[derive(Debug, Clone)]
pub(super) struct Status {
    /// Readings that wait.
    pub(super) backlog: u64,
    /// `uplink.state`.
    pub(super) uplink: String,
}

impl Relay {
    /// Writes a configuration that leads to `hub`; starts nothing yet.
    pub(super) async fn configure(directory: &Path, hub: SocketAddr) -> anyhow::Result<Self> {
        let (mqtt, admin) = (free_address().await?, free_address().await?);
        let data = toml::Value::from(directory.join("data").display().to_string());
        let configuration = format!(
            "village_id = \"demo-01\"\ndata_dir = {data}\n\n[mqtt]\nlisten = \"{mqtt}\"\n\n\
             [hub]\nurl = \"mqtt://{hub}\"\nretry_max = \"2s\"\n\n[admin]\nlisten = \"{admin}\"\n"
        );
        fs::write(directory.join("broker.toml"), configuration)?;
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        Ok(Self {
            program,
            directory: directory.to_owned(),
            mqtt,
            admin,
            child: None,
        })
    }

    /// Where meters connect.
    pub(super) fn mqtt(&self) -> SocketAddr {
        self.mqtt
    }

    /// Whether a process is there.
    pub(super) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Starts the process.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        let mut command = self.command()?;
        command
            .arg("run")
            .arg("--config")
            .arg(self.directory.join("broker.toml"));
        self.child = Some(command.spawn().context("cannot start the relay")?);
        Ok(())
    }

    /// Kills the process with SIGKILL, at whatever it is doing.
    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await.context("cannot kill the relay")?;
        }
        Ok(())
    }

    /// Waits until the relay would acknowledge a reading.
    pub(super) async fn ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        while self.ask("/readyz").await.is_none() {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                bail!("the relay ended with {status}:\n{}", self.last_words());
            }
            if Instant::now() > deadline {
                bail!(
                    "the relay was not ready within {READY_WITHIN:?}:\n{}",
                    self.last_words()
                );
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Asks the relay how it is; `None` while it does not answer.
    pub(super) async fn status(&self) -> Option<Status> {
        let status: Value = serde_json::from_str(&self.ask("/status").await?).ok()?;
        Some(Status {
            backlog: status.pointer("/backlog/readings")?.as_u64()?,
            uplink: status.pointer("/uplink/state")?.as_str()?.to_owned(),
        })
    }

    /// Runs `edge-relay drain` and waits for it; whether it succeeded.
    pub(super) async fn drain(&self) -> anyhow::Result<bool> {
        let mut command = self.command()?;
        command.args(["drain", "--admin", &format!("http://{}", self.admin)]);
        let mut child = command.spawn().context("cannot start the drain")?;
        match tokio::time::timeout(DRAIN_WITHIN, child.wait()).await {
            Ok(status) => Ok(status?.success()),
            Err(_) => Ok(false),
        }
    }

    /// The end of the log, for when something went wrong.
    pub(super) fn last_words(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines
            .get(lines.len().saturating_sub(20)..)
            .unwrap_or_default()
            .join("\n")
    }

    fn log(&self) -> PathBuf {
        self.directory.join("relay.log")
    }

    /// This program as a child that dies with the demo, writes into the log, and hears of no setting but
    /// the demo's.
    fn command(&self) -> anyhow::Result<Command> {
        let log: File = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())?;
        let mut command = Command::new(&self.program);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        command.current_dir(&self.directory);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with(ENVIRONMENT) {
                command.env_remove(name);
            }
        }
        Ok(command)
    }

    /// The body of a successful answer of the admin API.
    async fn ask(&self, path: &str) -> Option<String> {
        let url = format!("http://{}{path}", self.admin);
        let answer = move || {
            let agent: ureq::Agent = ureq::Agent::config_builder()
                .timeout_global(Some(ANSWER_WITHIN))
                .build()
                .into();
            agent
                .get(&url)
                .call()
                .ok()?
                .body_mut()
                .read_to_string()
                .ok()
        };
        tokio::task::spawn_blocking(answer).await.ok().flatten()
    }
}
