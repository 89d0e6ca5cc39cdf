//! By hand, when the link is dead: from the relay onto a stick, from the stick into the hub's database, and the hub's
//! receipt back to the relay. Each command is the built one, and keys change hands as `docs/by-hand.md` says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use harness::hub_side::{self, enter_rows, holes};
use harness::meter::Habits;
use harness::postgres::Postgres;
use harness::{Ledger, Meter, Relay, VILLAGE, port, skip, within};
use tempfile::TempDir;

/// Readings of all meters together; in three files, since a file ends past 8 MiB.
const READINGS: u64 = 2_000;
const READING_BYTES: usize = 14_000;

/// A village whose hub nobody reaches, the hub's database, and a stick between them.
struct ByHand {
    relay: Relay,
    postgres: Postgres,
    ledger: Ledger,
    home: TempDir,
}

impl ByHand {
    fn start(test: &str) -> Option<Self> {
        if hub_side::binary().is_none() {
            let build = "hub-bridge is not built: cargo build -p hub-bridge --features hub";
            skip(test, build);
            return None;
        }
        let Some(postgres) = Postgres::start() else {
            skip(test, "PostgreSQL is not installed");
            return None;
        };
        let mut this = Self {
            relay: Relay::new(port::free()),
            postgres,
            ledger: Ledger::new(VILLAGE),
            home: harness::scratch("by-hand-"),
        };
        fs::create_dir(this.stick()).unwrap();
        this.write_hub_config("");
        let keys = done(&this.hub(&["import", "--keys"]));
        let keys: toml::Table = keys.parse().unwrap();
        this.relay.set("stick", keys["stick"].clone());
        this.relay.start();
        let answers = |status: &serde_json::Value| status["village_id"] == VILLAGE;
        this.relay
            .wait_status("the relay answers", within(20), answers);
        let key = done(&this.relay.cli(&["backlog", "key"]));
        this.write_hub_config(&format!("[import.villages]\n{key}"));
        this.publish();
        Some(this)
    }

    /// Two meters, and every reading acknowledged.
    fn publish(&self) {
        for n in 0..2 {
            let habits = Habits {
                size: READING_BYTES,
                ..Habits::new(self.relay.mqtt)
            };
            let mut meter = Meter::new(&self.ledger, &format!("meter-{n}"), habits);
            meter.publish(READINGS / 2).unwrap();
        }
        assert_eq!(self.relay.backlog(), Some(READINGS));
    }

    fn write_hub_config(&self, villages: &str) {
        let text = format!(
            "[broker]\nurl = \"mqtt://{}\"\n[database]\nurl = \"{}\"\n{villages}",
            port::free(),
            self.postgres.url()
        );
        fs::write(self.home.path().join("hub.toml"), text).unwrap();
    }

    fn stick(&self) -> PathBuf {
        self.home.path().join("stick")
    }

    /// A command of the hub's side.
    fn hub(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(hub_side::binary().unwrap());
        command
            .arg("--config")
            .arg(self.home.path().join("hub.toml"))
            .args(arguments)
            .stdin(Stdio::null());
        command.output().unwrap()
    }

    fn import(&self) -> Output {
        self.hub(&["import", text(&self.stick())])
    }

    /// Onto an empty stick; gives the files of readings.
    fn export(&self) -> Vec<PathBuf> {
        fs::remove_dir_all(self.stick()).unwrap();
        fs::create_dir(self.stick()).unwrap();
        done(&self.relay.cli(&["backlog", "export", text(&self.stick())]));
        let files = fs::read_dir(self.stick()).unwrap();
        let files = files.map(|file| file.unwrap().path());
        let mut files: Vec<PathBuf> = files
            .filter(|path| text(path).ends_with(".readings"))
            .collect();
        files.sort();
        files
    }

    /// The hub's receipt reaches the relay, after which `waiting` readings wait.
    fn receipt(&self, waiting: u64) {
        let file = self.stick().join(format!("{VILLAGE}.receipt"));
        done(&self.relay.cli(&["backlog", "receipt", text(&file)]));
        let waits = |status: &serde_json::Value| status["backlog"]["readings"] == waiting;
        let what = format!("{waiting} readings wait");
        self.relay.wait_status(&what, within(20), waits);
    }

    fn rows(&self) -> u64 {
        let rows = self.postgres.psql("SELECT count(*) FROM readings");
        rows.parse().unwrap()
    }

    /// Every acknowledged publish is a row as it was sent, and every stored reading is one row.
    fn settle(&self, test: &str) {
        assert_eq!(enter_rows(&self.postgres, VILLAGE, &self.ledger), READINGS);
        let sums = self.ledger.settle(test, within(1));
        assert_eq!((sums.acknowledged, sums.at_hub), (READINGS, READINGS));
        assert_eq!(holes(&self.postgres), "");
        for table in ["conflicts", "dead_letters"] {
            let sql = format!("SELECT count(*) FROM {table}");
            assert_eq!(self.postgres.psql(&sql), "0", "{table}");
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What a command said that went well.
#[track_caller]
fn done(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}{errors}", output.status);
    said
}

/// The first and the last sequence in a file, by its name.
fn sequences(file: &Path) -> (u64, u64) {
    let name = file.file_stem().unwrap().to_str().unwrap();
    let numbers: Vec<u64> = name
        .rsplit('-')
        .take(2)
        .map(|n| n.parse().unwrap())
        .collect();
    (numbers[1], numbers[0])
}

#[test]
fn what_is_carried_by_hand_is_rows_once_and_waits_no_more() {
    let test = "what_is_carried_by_hand_is_rows_once_and_waits_no_more";
    let Some(village) = ByHand::start(test) else {
        return;
    };
    let files = village.export();
    assert!(files.len() > 1, "{files:?}");
    assert_eq!(
        village.relay.backlog(),
        Some(READINGS),
        "a copy confirms nothing"
    );
    let said = done(&village.import());
    assert!(
        said.contains("2000 readings new, 0 were here already"),
        "{said}"
    );
    assert_eq!(village.rows(), READINGS);
    // The same stick once more, before anybody took the receipt home.
    let said = done(&village.import());
    assert!(
        said.contains("0 readings new, 2000 were here already"),
        "{said}"
    );
    assert_eq!(village.rows(), READINGS);
    assert_eq!(village.relay.backlog(), Some(READINGS));
    village.receipt(0);
    village.settle(test);
    assert_eq!(village.export(), Vec::<PathBuf>::new(), "nothing waits");
}

#[test]
fn a_file_that_was_cut_short_costs_no_other_and_comes_with_the_next_stick() {
    let test = "a_file_that_was_cut_short_costs_no_other_and_comes_with_the_next_stick";
    let Some(village) = ByHand::start(test) else {
        return;
    };
    let files = village.export();
    assert!(files.len() > 2, "one between others: {files:?}");
    let cut = &files[1];
    let (first, last) = sequences(cut);
    let bytes = fs::metadata(cut).unwrap().len();
    let opened = fs::OpenOptions::new().write(true).open(cut).unwrap();
    opened.set_len(bytes / 2).unwrap();

    let import = village.import();
    let said = String::from_utf8_lossy(&import.stdout).into_owned();
    let errors = String::from_utf8_lossy(&import.stderr);
    assert_eq!(import.status.code(), Some(1), "{said}{errors}");
    let verdict = format!("REFUSED  {}: cut short", cut.display());
    assert!(said.contains(&verdict), "{said}");
    assert!(errors.contains("not every file was taken"), "{errors}");
    let lacking = last - first + 1;
    assert_eq!(village.rows(), READINGS - lacking);
    let within_it =
        format!("SELECT count(*) FROM readings WHERE sequence BETWEEN {first} AND {last}");
    assert_eq!(
        village.postgres.psql(&within_it),
        "0",
        "a file is taken whole or not"
    );
    village.receipt(lacking);

    let files = village.export();
    assert_eq!(files.len(), 1, "what waits, and nothing else: {files:?}");
    let said = done(&village.import());
    assert!(said.contains(&format!("{lacking} readings new")), "{said}");
    village.receipt(0);
    village.settle(test);
}
