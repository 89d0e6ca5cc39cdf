//! The built binary: exit codes, a relay that runs, its admin API, edits while it runs, users.

// The lint's exception for tests does not cover their helpers.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A configuration in a directory of its own, and the relay that runs on it.
struct Relay {
    dir: tempfile::TempDir,
    admin: u16,
    child: Option<Child>,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

impl Relay {
    fn new(extra: &str) -> Self {
        let relay = Self {
            dir: tempfile::tempdir().unwrap(),
            admin: free_port(),
            child: None,
        };
        let (mqtt, hub, admin) = (free_port(), free_port(), relay.admin);
        relay.write(&format!(
            "village_id = \"cli-01\"\ndata_dir = \"data\"\nmqtt.listen = \"127.0.0.1:{mqtt}\"\n\
             hub.url = \"mqtt://127.0.0.1:{hub}\"\nadmin.listen = \"127.0.0.1:{admin}\"\n{extra}\n"
        ));
        relay
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("broker.toml")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    fn write(&self, text: &str) {
        let new = self.dir.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.file()).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edge-relay"));
        command.args(arguments).arg("--config").arg(self.file());
        command
    }

    fn cli(&self, arguments: &[&str]) -> Output {
        self.command(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn start(&mut self) {
        let log = fs::File::create(self.dir.path().join("log")).unwrap();
        let child = self.command(&["run"]).stderr(log).spawn().unwrap();
        self.child = Some(child);
        self.until("the relay answers", |_| true);
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn get(&self, path: &str, token: Option<&str>) -> (u16, String) {
        self.request("GET", path, token)
    }

    fn request(&self, method: &str, path: &str, token: Option<&str>) -> (u16, String) {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .into();
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("http://127.0.0.1:{}{path}", self.admin));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        match agent.run(request.body(()).unwrap()) {
            Ok(mut answer) => (
                answer.status().as_u16(),
                answer.body_mut().read_to_string().unwrap(),
            ),
            Err(error) => (0, error.to_string()),
        }
    }

    fn status(&self) -> Option<Value> {
        serde_json::from_slice(&self.cli(&["status", "--json"]).stdout).ok()
    }

    fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let status = self.status();
            if let Some(status) = &status
                && holds(status)
            {
                return status.clone();
            }
            assert!(
                Instant::now() < deadline,
                "not in time: {what}\n{status:?}\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn stop(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        let pid = child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        child.wait().unwrap().code()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn without_a_usable_configuration_the_exit_code_is_78_and_every_problem_is_named() {
    let relay = Relay::new("drain.at = \"25:00\"\nhub.colour = 1");
    for command in [&["run"][..], &["check"], &["user", "list"]] {
        let output = relay.cli(command);
        assert_eq!(output.status.code(), Some(78), "{command:?}");
        let said = words(&output.stderr);
        assert!(said.contains("broker.toml:6: drain.at"), "{said}");
        assert!(said.contains("broker.toml:7: hub.colour"), "{said}");
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    assert_eq!(Relay::new("").cli(&["fly"]).status.code(), Some(2));
}

#[test]
fn a_command_without_a_relay_fails_with_1() {
    let relay = Relay::new("");
    for command in [&["status"][..], &["drain"]] {
        let output = relay.cli(command);
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        assert!(words(&output.stderr).contains("cannot be reached"));
    }
    let check = relay.cli(&["check"]);
    assert_eq!(check.status.code(), Some(1), "no hub is there");
    assert!(
        words(&check.stdout).contains("FAILED   hub"),
        "{}",
        words(&check.stdout)
    );
    assert_eq!(
        relay.cli(&["check", "--config-only"]).status.code(),
        Some(0)
    );
}

#[test]
fn status_names_everything_that_programs_rely_on() {
    let mut relay = Relay::new("");
    relay.start();
    let status = relay.status().unwrap();
    for path in [
        "/village_id",
        "/epoch",
        "/backlog/readings",
        "/backlog/bytes",
        "/backlog/oldest_age_s",
        "/backlog/first_sequence",
        "/backlog/next_sequence",
        "/uplink/state",
        "/uplink/limited_by",
        "/uplink/last_progress_age_s",
        "/drain/at",
        "/drain/next",
        "/drain/last",
        "/config/last_error",
        "/clock/synchronised",
    ] {
        assert!(
            status.pointer(path).is_some(),
            "{path} is not in {status:#}"
        );
    }
    assert_eq!(relay.get("/healthz", None).0, 200);
    assert_eq!(relay.get("/readyz", None).0, 200);
    let (code, metrics) = relay.get("/metrics", None);
    assert_eq!(code, 200);
    for line in [
        "edge_relay_backlog_readings 0.0",
        "edge_relay_uplink_state{state=\"draining\"} 0.0",
        "# EOF",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    assert!(words(&relay.cli(&["status"]).stdout).contains("village   cli-01"));
    assert_eq!(relay.stop(), Some(0), "{}", relay.log());
}

#[test]
fn the_token_guards_all_but_the_probes() {
    let mut relay = Relay::new("admin.token_file = \"token\"");
    fs::write(relay.dir.path().join("token"), "s3cret\n").unwrap();
    relay.start();
    for path in [
        "/status",
        "/metrics",
        "/drain",
        "/backlog/segments",
        "/backlog/peek",
    ] {
        assert_eq!(relay.get(path, None).0, 401, "{path}");
        assert_eq!(relay.get(path, Some("s3cre")).0, 401, "{path}");
    }
    assert_eq!(relay.request("POST", "/drain", None).0, 401);
    assert_eq!(relay.request("POST", "/reload", None).0, 401);
    assert_eq!(relay.get("/healthz", None).0, 200);
    assert_eq!(relay.get("/readyz", None).0, 200);
    assert_eq!(relay.get("/status", Some("s3cret")).0, 200);

    fs::write(relay.dir.path().join("token"), "another\n").unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while relay.get("/status", Some("another")).0 != 200 {
        assert!(Instant::now() < deadline, "the new token is taken over");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(relay.get("/status", Some("s3cret")).0, 401);
    assert!(!relay.log().contains("s3cret"));
}

#[test]
fn an_edit_is_applied_a_bad_one_refused_and_a_restart_named() {
    let mut relay = Relay::new("");
    relay.start();
    let good = relay.text();
    relay.write(&format!("{good}drain.at = \"03:30\"\n"));
    relay.until("the edit is applied", |s| s["drain"]["at"] == "03:30");

    relay.write(&format!("{good}drain.at = \"soon\"\n"));
    let status = relay.until("the bad edit is refused", |s| {
        s["config"]["last_error"].is_string()
    });
    let error = status["config"]["last_error"].as_str().unwrap();
    assert!(
        error.contains("broker.toml:7: drain.at: \"soon\" must be HH:MM"),
        "{error}"
    );
    assert_eq!(status["drain"]["at"], "03:30", "the old one stays");
    let (code, refused) = relay.request("POST", "/reload", None);
    assert_eq!(code, 422);
    assert!(refused.contains("drain.at"), "{refused}");

    relay.write(&good.replace("cli-01", "cli-02"));
    let status = relay.until("a restart is needed", |s| {
        s["config"]["last_error"].is_null()
    });
    assert_eq!(
        status["config"]["restart_needed"],
        serde_json::json!(["village_id"])
    );
    assert_eq!(status["village_id"], "cli-01");
    assert_eq!(status["drain"]["at"], "02:00");
    assert_eq!(relay.stop(), Some(0));

    relay.write("");
    relay.start();
    let status = relay.status().unwrap();
    assert_eq!(status["config"]["from_last_accepted"], true);
    assert_eq!(status["village_id"], "cli-02", "the last accepted one");
}

#[test]
fn sighup_reloads() {
    let mut relay = Relay::new("");
    relay.start();
    // The same size and time as before, written in place: only the signal says that something changed.
    let before = fs::metadata(relay.file()).unwrap().modified().unwrap();
    let text = relay.text().replace("cli-01", "cli-09");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .open(relay.file())
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.set_modified(before).unwrap();
    drop(file);
    let pid = relay.child.as_ref().unwrap().id().to_string();
    assert!(
        Command::new("kill")
            .args(["-HUP", &pid])
            .status()
            .unwrap()
            .success()
    );
    relay.until("the edit is seen", |s| {
        s["config"]["restart_needed"] == serde_json::json!(["village_id"])
    });
}

#[test]
fn a_second_relay_on_the_same_directory_says_so() {
    let mut relay = Relay::new("");
    relay.start();
    let output = relay.cli(&["run"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        words(&output.stderr).contains("in use"),
        "{}",
        words(&output.stderr)
    );
}

#[test]
fn the_backlog_can_be_looked_at_with_and_without_a_relay() {
    let mut relay = Relay::new("");
    relay.start();
    let commands: [&[&str]; 6] = [
        &["backlog", "list"],
        &["backlog", "peek", "--count", "3"],
        &["backlog", "verify"],
        &["backlog", "refused", "--json"],
        &["backlog", "retry", "--all"],
        &[
            "backlog",
            "replay",
            "--from",
            "2026-01-01T00:00",
            "--to",
            "2026-01-02T00:00+01:00",
        ],
    ];
    for command in commands {
        let output = relay.cli(command);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{command:?}: {}",
            words(&output.stderr)
        );
    }
    relay.stop();
    for command in commands {
        let output = relay.cli(command);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{command:?}: {}",
            words(&output.stderr)
        );
    }
}

#[test]
fn users_are_added_listed_and_removed() {
    let relay = Relay::new("mqtt.users_file = \"users\"");
    let mut add = relay
        .command(&["user", "add", "meter-1"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    add.stdin.take().unwrap().write_all(b"secret\n").unwrap();
    assert!(add.wait().unwrap().success());
    assert_eq!(words(&relay.cli(&["user", "list"]).stdout), "meter-1\n");
    let users = fs::read_to_string(relay.dir.path().join("users")).unwrap();
    assert!(
        users.starts_with("meter-1:$argon2id$") && !users.contains("secret"),
        "{users}"
    );
    assert_eq!(
        relay.cli(&["user", "remove", "meter-1"]).status.code(),
        Some(0)
    );
    assert_eq!(
        relay.cli(&["user", "remove", "meter-1"]).status.code(),
        Some(1)
    );
    assert_eq!(
        relay.cli(&["user", "add", "nobody"]).status.code(),
        Some(1),
        "no password"
    );
}

fn meter(relay: &Relay, id: u8) -> std::net::TcpStream {
    let text = relay.text();
    let listen = text.lines().find(|l| l.starts_with("mqtt.listen")).unwrap();
    let address = listen.split('"').nth(1).unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let mut bytes = vec![0x10, 13, 0, 4];
    bytes.extend(b"MQTT\x04\x02\0\0\0\x01");
    bytes.push(id);
    stream.write_all(&bytes).unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
    stream
}

/// Publishes 60 times 200,000 bytes with `QoS` 0, and waits until all are read.
fn publish_much(relay: &Relay) {
    let mut loud = meter(relay, b'l');
    // The remaining length is 200,003.
    let mut publish = vec![0x30, 0xC3, 0x9A, 0x0C];
    publish.extend([0, 1, b'x']);
    publish.extend(vec![b'.'; 200_000]);
    for _ in 0..60 {
        loud.write_all(&publish).unwrap();
    }
    loud.write_all(&[0xC0, 0]).unwrap();
    loud.read_exact(&mut [0; 2]).unwrap();
}

/// A client that takes nothing keeps a stopping relay for two seconds: long enough to ask it.
#[test]
fn a_relay_that_stops_is_not_ready() {
    let mut relay = Relay::new("");
    relay.start();
    let mut deaf = meter(&relay, b'd');
    deaf.write_all(&[0x82, 6, 0, 1, 0, 1, b'#', 0]).unwrap();
    deaf.read_exact(&mut [0; 5]).unwrap();
    publish_much(&relay);
    assert_eq!(relay.get("/readyz", None).0, 200);
    let mut child = relay.child.take().unwrap();
    let pid = child.id().to_string();
    let killed = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    assert!(killed.success());
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(relay.get("/readyz", None).0, 503);
    assert_eq!(relay.get("/healthz", None).0, 200);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_peek_is_bounded_in_bytes() {
    let mut relay = Relay::new("");
    relay.start();
    publish_much(&relay);
    relay.until("all are kept", |s| s["backlog"]["readings"] == 60);
    let (code, text) = relay.get("/backlog/peek?count=1000", None);
    let shown: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(code, 200);
    assert!((11..20).contains(&shown.len()), "{}", shown.len());
}

fn add_user(relay: &Relay, name: &str, password: &str) {
    let mut add = relay
        .command(&["user", "add", name])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    writeln!(add.stdin.take().unwrap(), "{password}").unwrap();
    assert!(add.wait().unwrap().success());
}

#[test]
fn check_asks_the_hub_with_the_credentials_and_shows_none() {
    let mut hub = Relay::new("mqtt.users_file = \"users\"\nmqtt.allow_anonymous = false");
    add_user(&hub, "gateway", "open-sesame");
    hub.start();
    let text = hub.text();
    let listen = text.lines().find(|l| l.starts_with("mqtt.listen")).unwrap();
    let address = listen.split('"').nth(1).unwrap();
    let relay = Relay::new("");
    let plain = relay.text();
    let url = plain.lines().find(|l| l.starts_with("hub.url")).unwrap();
    for (login, code, wanted) in [
        ("gateway:open-sesame@", 0, "lets us in, with MQTT 5"),
        ("gateway:open-barley@", 1, "auth: "),
        ("", 1, "auth: "),
    ] {
        let with = format!("hub.url = \"mqtt://{login}{address}\"");
        relay.write(&plain.replace(url, &with));
        let check = relay.cli(&["check"]);
        let said = words(&check.stdout);
        assert_eq!(check.status.code(), Some(code), "{said}");
        let hub_line = said.lines().find(|l| l.contains("hub: ")).unwrap();
        assert!(hub_line.contains(wanted), "{said}");
        let all = said.clone() + &words(&check.stderr);
        assert!(!all.contains("open-"), "{all}");
    }
}
