//! The hub's side as processes: `hub-bridge receive` over a real PostgreSQL, and what its rows say, entered in the ledger.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use crate::ledger::Ledger;
use crate::packet::{Publish, Value, property};
use crate::port;
use crate::postgres::Postgres;

/// The path of the built hub-bridge, beside the relay's, or `HUB_BRIDGE_BIN`; `None` where it was not built.
pub fn binary() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("HUB_BRIDGE_BIN") {
        return Some(path.into());
    }
    let beside = crate::relay::binary().with_file_name("hub-bridge");
    beside.is_file().then_some(beside)
}

/// A receiver with its configuration and log in a directory of its own.
#[derive(Debug)]
pub struct Receiver {
    home: TempDir,
    child: Option<Child>,
}

impl Receiver {
    /// Starts one for the broker at `hub`; `more` are further sections of its configuration.
    pub fn start(hub: SocketAddr, postgres: &Postgres, more: &str) -> Self {
        let home = crate::scratch("receiver-");
        let config = format!(
            "[broker]\nurl = \"mqtt://{hub}\"\n[database]\nurl = \"{}\"\n[admin]\nlisten = \"{}\"\n\
             [mapping]\nmeter = \"/meter\"\nts = \"/ts\"\nenergy_kwh = \"/energy_kwh\"\n{more}\n",
            postgres.url(),
            port::free()
        );
        std::fs::write(home.path().join("hub.toml"), config).unwrap();
        let mut this = Self { home, child: None };
        this.run();
        this
    }

    /// Starts it again after [`Receiver::kill`].
    pub fn run(&mut self) {
        assert!(self.child.is_none(), "the receiver runs already");
        let log = self.home.path().join("receiver.log");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        let child = self
            .command(&["receive"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
    }

    /// Runs another sub-command with the same configuration, to its end.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary().expect("hub-bridge is built"));
        command
            .args(arguments)
            .arg("--config")
            .arg(self.home.path().join("hub.toml"));
        command.stdin(Stdio::null());
        command
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// What it logged last.
    pub fn log_tail(&self, lines: usize) -> String {
        let log =
            std::fs::read_to_string(self.home.path().join("receiver.log")).unwrap_or_default();
        let from = log.lines().count().saturating_sub(lines);
        log.lines().skip(from).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Enters every row into the ledger as an arrival at the hub, under the identity of its key. Returns how many there are.
pub fn enter_rows(postgres: &Postgres, village: &str, ledger: &Ledger) -> u64 {
    let rows = postgres.psql(&format!(
        "SELECT epoch, sequence, topic, encode(payload, 'hex') FROM readings WHERE village = '{village}' ORDER BY epoch, sequence"
    ));
    let mut count = 0;
    for row in rows.lines() {
        let fields: Vec<&str> = row.split('|').collect();
        let [epoch, sequence, topic, payload] = fields[..] else {
            panic!("not a row: {row}");
        };
        let mut publish = Publish::new(&format!("villages/{village}/{topic}"), unhex(payload), 1);
        let id = Value::Pair("id".to_owned(), format!("{epoch}/{sequence}"));
        publish.properties.push((property::USER, id));
        ledger.arrived(&publish);
        count += 1;
    }
    count
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}

/// Holes in the rows: epochs whose sequences are not 1 to the number of rows, as `epoch|rows|highest`.
pub fn holes(postgres: &Postgres) -> String {
    postgres.psql(
        "SELECT epoch, count(*), max(sequence) FROM readings GROUP BY village, epoch HAVING count(*) <> max(sequence) \
         OR count(DISTINCT sequence) <> count(*)",
    )
}
