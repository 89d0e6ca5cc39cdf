//! The live view: on a terminal a panel that is drawn again in place, elsewhere a line a second.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _, stdout};

use super::ledger::Verdict;
use super::relay::Status;
use super::solar::{Site, time_of_day};

const BAR_WIDTH: u32 = 32;
const PANEL_LINES: usize = 5;

/// What the view shows at one moment.
#[derive(Debug)]
pub(super) struct Moment {
    /// The step of the day.
    pub(super) step: u32,
    /// Sun, households and battery.
    pub(super) site: Site,
    /// Whether the relay's process is there.
    pub(super) relay_runs: bool,
    /// Whether the uplink passes anything.
    pub(super) uplink_up: bool,
    /// The relay's own view, while it answers.
    pub(super) status: Option<Status>,
    /// The ledger so far.
    pub(super) verdict: Verdict,
    /// All readings of the day.
    pub(super) readings: u32,
}

/// Draws moments, and tells what happens between them.
#[derive(Debug)]
pub(super) struct View {
    terminal: bool,
    drawn: bool,
}

impl View {
    /// A view for wherever the output goes.
    pub(super) fn new() -> Self {
        Self {
            terminal: stdout().is_terminal(),
            drawn: false,
        }
    }

    /// Says what happens; the line stays.
    pub(super) fn tell(&mut self, what: &str) {
        self.erase();
        println!("{what}");
    }

    /// Shows a moment in the place of the one before.
    pub(super) fn show(&mut self, moment: &Moment) {
        self.erase();
        if self.terminal {
            println!("{}", panel(moment));
            self.drawn = true;
        } else {
            println!("{}", line(moment));
        }
        let _ = stdout().flush();
    }

    /// Leaves what is drawn where it stands.
    pub(super) fn keep(&mut self) {
        self.drawn = false;
    }

    fn erase(&mut self) {
        if std::mem::take(&mut self.drawn) {
            print!("\x1b[{PANEL_LINES}A\x1b[J");
        }
    }
}

fn relay_and_uplink(moment: &Moment) -> (&str, &str) {
    let link = if moment.uplink_up { "up" } else { "cut" };
    let relay = match &moment.status {
        _ if !moment.relay_runs => "killed",
        Some(status) => status.uplink.as_str(),
        None => "starting",
    };
    (link, relay)
}

fn line(moment: &Moment) -> String {
    let (link, relay) = relay_and_uplink(moment);
    let backlog = moment
        .status
        .as_ref()
        .map_or("-".to_owned(), |status| status.backlog.to_string());
    format!(
        "{}  sun {:.1} kW, battery {:>3.0} %  | acknowledged {:>6} | backlog {backlog:>6} | uplink {link:<3} {relay:<11} | at the hub {:>6}",
        time_of_day(moment.step),
        moment.site.pv_w / 1_000.0,
        moment.site.battery_percent,
        moment.verdict.acknowledged,
        moment.verdict.at_hub,
    )
}

fn panel(moment: &Moment) -> String {
    let (link, relay) = relay_and_uplink(moment);
    let count = |readings: usize| u32::try_from(readings).unwrap_or(u32::MAX);
    let (acknowledged, at_hub) = (
        count(moment.verdict.acknowledged),
        count(moment.verdict.at_hub),
    );
    let backlog = moment
        .status
        .as_ref()
        .and_then(|status| u32::try_from(status.backlog).ok());
    let mut text = String::new();
    let site = &moment.site;
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "\n  {}   sun {:.1} kW   households {:.1} kW   battery {:.0} %",
        time_of_day(moment.step),
        site.pv_w / 1_000.0,
        site.load_w / 1_000.0,
        site.battery_percent
    );
    let _ = writeln!(
        text,
        "  village  {} {acknowledged:>6} acknowledged",
        bar(acknowledged, moment.readings)
    );
    let _ = writeln!(
        text,
        "  backlog  {} {:>6} waiting; uplink {link}, relay: {relay}",
        bar(backlog.unwrap_or_default(), moment.readings),
        backlog.map_or("?".to_owned(), |readings| readings.to_string())
    );
    let _ = write!(
        text,
        "  hub      {} {at_hub:>6} arrived",
        bar(at_hub, moment.readings)
    );
    text
}

fn bar(part: u32, whole: u32) -> String {
    let full = (part.min(whole) * BAR_WIDTH)
        .checked_div(whole)
        .unwrap_or_default();
    (0..BAR_WIDTH)
        .map(|cell| if cell < full { '█' } else { '░' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Ledger;
    use super::super::solar::Day;
    use super::*;

    fn moment() -> Moment {
        let day = Day::new(3);
        let site = day.site(150);
        let status = Some(Status {
            backlog: 12,
            uplink: "backing_off".to_owned(),
        });
        let verdict = Ledger::new(day).verdict();
        Moment {
            step: 150,
            site,
            relay_runs: true,
            uplink_up: false,
            status,
            verdict,
            readings: 100,
        }
    }

    #[test]
    fn the_panel_has_as_many_lines_as_are_erased() {
        assert_eq!(panel(&moment()).lines().count(), PANEL_LINES);
    }

    #[test]
    fn a_line_says_backlog_uplink_and_hub() {
        let text = line(&moment());
        for part in [
            "12:30",
            "backlog     12",
            "uplink cut backing_off",
            "at the hub      0",
        ] {
            assert!(text.contains(part), "{part:?} in {text:?}");
        }
    }
}
