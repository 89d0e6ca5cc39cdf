//! A campaign: kinds take turns, a case after the other, until the time or the number of cases is reached.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::case::{self, CHILD, HELD, KINDS, Kind, QUICK, SKIPPED, case_seed};
use crate::outcome::{Outcome, table};
use crate::totals;

/// A case that takes longer has failed.
const CASE_MAX: Duration = Duration::from_secs(300);

/// What is asked for.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    minutes: Option<f64>,
    cases: Option<u64>,
    from: u64,
    kinds: Vec<&'static str>,
    seed: u64,
    single: bool,
    totals: Option<PathBuf>,
    list: bool,
}

impl Plan {
    /// From the words of the command line.
    pub(crate) fn from_arguments(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut plan = Self {
            seed: rand::random::<u32>().into(),
            ..Self::default()
        };
        while let Some(word) = words.next() {
            let mut value = || {
                words
                    .next()
                    .with_context(|| format!("{word} needs a value"))
            };
            match word.as_str() {
                "--minutes" => plan.minutes = Some(value()?.parse()?),
                "--cases" => plan.cases = Some(value()?.parse()?),
                "--from" => plan.from = value()?.parse()?,
                "--seed" => plan.seed = value()?.parse()?,
                "--totals" => plan.totals = Some(value()?.into()),
                "--list" => plan.list = true,
                "--kind" => {
                    plan.single = true;
                    plan.kinds = vec![known(&value()?)?];
                }
                "--kinds" => {
                    let names = value()?;
                    plan.kinds = names.split(',').map(known).collect::<Result<_>>()?;
                }
                _ => bail!(
                    "{word}? --minutes N --cases N --from N --kinds a,b --kind K --seed S --totals FILE --list"
                ),
            }
        }
        if plan.kinds.is_empty() {
            plan.kinds = KINDS.iter().map(|kind| kind.name).collect();
        }
        if plan.minutes.is_none() && plan.cases.is_none() {
            plan.minutes = Some(10.0);
        }
        Ok(plan)
    }

    /// The seed of a kind's `number`th case.
    fn seed(&self, kind: &str, number: u64) -> u64 {
        if self.single {
            self.seed
        } else {
            case_seed(self.seed, kind, number)
        }
    }

    fn over(&self, started: Instant, number: u64) -> bool {
        let late = self
            .minutes
            .is_some_and(|minutes| started.elapsed().as_secs_f64() >= minutes * 60.0);
        let enough = self.cases.is_some_and(|cases| number >= self.from + cases);
        late || enough || (self.single && number > self.from)
    }
}

fn known(name: &str) -> Result<&'static str> {
    let kind =
        case::kind(name).with_context(|| format!("no such kind: {name}; --list shows them"))?;
    Ok(kind.name)
}

/// How a case ended.
enum End {
    Held(Outcome),
    Skipped(String),
    Failed(String),
}

/// Runs it all and prints the table; status 1 where a case failed.
pub(crate) fn run(plan: &Plan) -> Result<ExitCode> {
    if plan.list {
        for kind in KINDS {
            println!("{:<12}{}", kind.name, kind.what);
        }
        return Ok(ExitCode::SUCCESS);
    }
    println!("torture: --seed {}", plan.seed);
    let mut sums: BTreeMap<&'static str, Outcome> = BTreeMap::new();
    let mut kinds: Vec<&'static Kind> = plan
        .kinds
        .iter()
        .filter_map(|name| case::kind(name))
        .collect();
    let started = Instant::now();
    let mut number = plan.from;
    while !kinds.is_empty() && !plan.over(started, number) {
        let mut able = Vec::new();
        for kind in kinds {
            if number > plan.from && plan.over(started, number) {
                break;
            }
            let seed = plan.seed(kind.name, number);
            if take(kind, seed, &mut sums)? {
                able.push(kind);
            }
        }
        kinds = able;
        number += 1;
    }
    println!("\n{}", table(sums.iter().map(|(kind, sum)| (*kind, sum))));
    if let Some(file) = &plan.totals {
        totals::merge(file, &sums)?;
    }
    let failed: u64 = sums.values().map(|sum| sum.failed).sum();
    Ok(ExitCode::from(u8::from(failed > 0)))
}

/// One case; false: this machine cannot run this kind.
fn take(kind: &Kind, seed: u64, sums: &mut BTreeMap<&'static str, Outcome>) -> Result<bool> {
    let home = tempfile::Builder::new()
        .prefix(&format!("torture-{}-", kind.name))
        .disable_cleanup(true)
        .tempdir()?;
    let started = Instant::now();
    let end = run_child(kind, seed, home.path())?;
    let took = started.elapsed().as_secs_f64();
    let sum = sums.entry(kind.name).or_default();
    match end {
        End::Held(outcome) => {
            sum.add(&outcome);
            println!(
                "{:<10} {seed:<20} {took:6.1} s  {} faults, {} acknowledged, {} lost, {} named",
                kind.name, outcome.faults, outcome.acknowledged, outcome.lost, outcome.named
            );
        }
        End::Skipped(reason) => {
            println!("SKIPPED {}: {reason}", kind.name);
            fs::remove_dir_all(home.path())?;
            return Ok(false);
        }
        End::Failed(words) => {
            sum.cases += 1;
            sum.failed += 1;
            let quick = std::env::var_os(QUICK).map_or_else(String::new, |_| format!("{QUICK}=1 "));
            let program = std::env::args().next().unwrap_or_default();
            println!("FAILED {} after {took:.1} s\n{words}", kind.name);
            println!("  kept:   {}", home.path().display());
            println!(
                "  replay: {quick}{program} --kind {} --seed {seed}",
                kind.name
            );
            return Ok(true);
        }
    }
    fs::remove_dir_all(home.path()).with_context(|| home.path().display().to_string())?;
    Ok(true)
}

/// The case as a process: whatever it does, the campaign goes on, and its processes end with it.
fn run_child(kind: &Kind, seed: u64, home: &Path) -> Result<End> {
    let log = home.join("case.log");
    let output = File::create(&log)?;
    let mut child = Command::new(std::env::current_exe()?)
        .env(CHILD, format!("{} {seed}", kind.name))
        .env("TMPDIR", home)
        .env("RELAY_TEST_KEEP", "1")
        .env("RUST_BACKTRACE", "0")
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0)
        .spawn()?;
    let in_time = wait(&mut child)?;
    // The relay of a case that ended badly may be left.
    let _ = killpg(Pid::from_raw(child.id().try_into()?), Signal::SIGKILL);
    let text = fs::read_to_string(&log).unwrap_or_default();
    let last = text.lines().last().unwrap_or_default();
    if let Some(outcome) = last.strip_prefix(HELD).and_then(Outcome::from_json) {
        return Ok(End::Held(outcome));
    }
    if let Some(reason) = last.strip_prefix(SKIPPED) {
        return Ok(End::Skipped(reason.to_owned()));
    }
    let why = if in_time { "" } else { "it took too long\n" };
    let mut lines: Vec<&str> = text.lines().collect();
    lines.drain(..lines.len().saturating_sub(60));
    Ok(End::Failed(format!("{why}{}", lines.join("\n"))))
}

/// Waits for its end, or ends it.
fn wait(child: &mut Child) -> Result<bool> {
    let started = Instant::now();
    while started.elapsed() < CASE_MAX {
        if child.try_wait()?.is_some() {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    killpg(Pid::from_raw(child.id().try_into()?), Signal::SIGKILL)?;
    child.wait()?;
    Ok(false)
}
