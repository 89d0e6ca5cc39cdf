//! A real PostgreSQL of the test's own: an ordinary user's, on a free TCP port, fsync on, gone with the test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The role and its password; the password counts over TCP.
const USER: &str = "hub";
pub const PASSWORD: &str = "hush7342";
const DATABASE: &str = "solar";
const DEADLINE: Duration = Duration::from_secs(60);

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A server and its files. Dropping it ends the server and removes them.
pub struct Postgres {
    programs: PathBuf,
    dir: tempfile::TempDir,
    server: Option<Child>,
    pub port: u16,
}

impl Postgres {
    /// Makes and starts one, or says why not.
    pub fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            eprintln!("skipped: PostgreSQL is not installed (/usr/lib/postgresql/*/bin)");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        if is_root() {
            run(Command::new("chown").arg(owner()).arg(dir.path()));
        }
        let password_file = dir.path().join("password");
        std::fs::write(&password_file, PASSWORD).unwrap();
        run(Command::new("chmod").arg("a+r").arg(&password_file));
        run(as_owner(&programs.join("initdb"))
            .args(["-U", USER, "-E", "UTF8", "--locale=C", "--auth-local=trust"])
            .args(["--auth-host=scram-sha-256", "--pwfile"])
            .arg(&password_file)
            .arg("-D")
            .arg(dir.path().join("data"))
            .stdout(Stdio::null()));
        let mut this = Self {
            programs,
            dir,
            server: None,
            port: free_port(),
        };
        this.start_again();
        this.psql_in("postgres", &format!("CREATE DATABASE {DATABASE}"));
        Some(this)
    }

    /// What a client connects with, the password in it.
    pub fn url(&self) -> String {
        format!(
            "postgres://{USER}:{PASSWORD}@127.0.0.1:{}/{DATABASE}",
            self.port
        )
    }

    /// The same without the password.
    pub fn url_without_password(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{DATABASE}", self.port)
    }

    /// Runs SQL, and gives what psql prints: a line a row, columns apart by `|`.
    pub fn psql(&self, sql: &str) -> String {
        self.psql_in(DATABASE, sql)
    }

    /// The same, `None` where the server does not answer or refuses.
    pub fn try_psql(&self, sql: &str) -> Option<String> {
        let output = self.psql_command(DATABASE, sql).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned();
        output.status.success().then_some(text)
    }

    /// A number out of the database; 0 while the server or the table is not there.
    pub fn count(&self, sql: &str) -> i64 {
        self.try_psql(sql)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    }

    /// A file that the server can read (`COPY … FROM`).
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// As after a crash: no goodbye to anybody, the log is replayed at the next start.
    pub fn stop_immediately(&mut self) {
        if let Some(mut server) = self.server.take() {
            signal("QUIT", server.id());
            let until = Instant::now() + DEADLINE;
            while server.try_wait().unwrap().is_none() {
                assert!(Instant::now() < until, "PostgreSQL does not stop");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// Starts it again, on the same port.
    pub fn start_again(&mut self) {
        assert!(self.server.is_none(), "it runs already");
        let until = Instant::now() + DEADLINE;
        let mut server = self.spawn();
        while !self.answers() {
            assert!(
                Instant::now() < until,
                "PostgreSQL does not start: {}",
                std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
            );
            if server.try_wait().unwrap().is_some() {
                // Processes of the one before still end; or somebody took the port, at the very first start.
                std::thread::sleep(Duration::from_millis(100));
                server = self.spawn();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.server = Some(server);
    }

    /// Stops it as a crash would, and starts it again.
    pub fn restart_immediately(&mut self) {
        self.stop_immediately();
        self.start_again();
    }

    fn spawn(&self) -> Child {
        let dir = self.dir.path();
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(dir.join("log"))
            .unwrap();
        as_owner(&self.programs.join("postgres"))
            .arg("-D")
            .arg(dir.join("data"))
            .args(["-p", &self.port.to_string(), "-h", "127.0.0.1", "-k"])
            .arg(dir)
            .args(["-c", "fsync=on", "-c", "shared_buffers=64MB"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn answers(&self) -> bool {
        self.psql_command("postgres", "SELECT 1")
            .output()
            .is_ok_and(|output| output.status.success())
    }

    fn psql_in(&self, database: &str, sql: &str) -> String {
        let output = self.psql_command(database, sql).output().unwrap();
        assert!(
            output.status.success(),
            "psql: {}\n{sql}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()
    }

    fn psql_command(&self, database: &str, sql: &str) -> Command {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-U", USER])
            .args(["-p", &self.port.to_string(), "-d", database, "-h"])
            .arg(self.dir.path())
            .args(["-c", sql])
            .env("PGCONNECT_TIMEOUT", "5")
            .env("PGTZ", "UTC");
        psql
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            signal("QUIT", server.id());
            let _ = server.wait();
        }
    }
}

/// The newest that Debian installed.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<PathBuf> = versions
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").exists() && bin.join("postgres").exists())
        .collect();
    found.sort();
    found.pop()
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout.trim_ascii() == b"0"
}

/// PostgreSQL does not run as root.
fn owner() -> &'static str {
    let known = Command::new("id").arg("postgres").output().unwrap();
    if known.status.success() {
        "postgres"
    } else {
        "nobody"
    }
}

fn as_owner(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .arg(format!("--reuid={}", owner()))
        .args(["--clear-groups", "--"])
        .arg(program);
    command
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

fn signal(name: &str, process: u32) {
    run(Command::new("kill").args(["-s", name, &process.to_string()]));
}
