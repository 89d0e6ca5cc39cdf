//! `status`: what the relay is doing, for a person or as JSON.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::client::AdminClient;
use super::{AdminArgs, Ended};
use crate::config::Size;

/// `status`
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// As JSON, for programs.
    #[arg(long)]
    json: bool,
}

pub(super) fn status(config: &Path, args: &StatusArgs) -> anyhow::Result<Ended> {
    let status = AdminClient::new(config, &args.admin)?.get("/status")?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", in_words(&status));
    }
    Ok(Ended::Done)
}

/// A value of the tree, such as `backlog.readings`.
fn at<'a>(status: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(status, |value, name| {
        value.get(name).unwrap_or(&Value::Null)
    })
}

fn text(status: &Value, path: &str) -> String {
    match at(status, path) {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn age(status: &Value, path: &str) -> String {
    at(status, path).as_f64().map_or_else(
        || "-".to_owned(),
        |seconds| {
            let whole = Duration::from_secs_f64(seconds.max(0.0)).as_secs();
            humantime::format_duration(Duration::from_secs(whole)).to_string()
        },
    )
}

/// About how much, in the largest unit that leaves a digit before the point.
fn size(status: &Value, path: &str) -> String {
    let bytes = at(status, path).as_u64().unwrap_or(0);
    if bytes < 10 * 1024 {
        return Size(bytes).to_string();
    }
    bytesize::ByteSize::b(bytes).display().iec().to_string()
}

/// What crossed this month, and what the policy holds back.
fn traffic(status: &Value) -> String {
    let budget = match at(status, "uplink.budget.budget_bytes") {
        Value::Null => String::new(),
        _ => format!(" of {}", size(status, "uplink.budget.budget_bytes")),
    };
    let window = match at(status, "uplink.policy.held_by").as_str() {
        Some("window") => format!(
            ", what waits goes at {}",
            text(status, "uplink.policy.window_opens")
        ),
        Some("budget") => ", the budget is used up".to_owned(),
        _ => String::new(),
    };
    format!(
        "{}{budget} in {}{window}",
        size(status, "uplink.budget.used_bytes"),
        text(status, "uplink.budget.month"),
    )
}

/// Lines for a person, what is wrong first.
fn in_words(status: &Value) -> String {
    let mut lines = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(lines, "{name:<10}{value}");
    };
    line(
        "village",
        format!(
            "{}  epoch {}",
            text(status, "village_id"),
            text(status, "epoch")
        ),
    );
    for alarm in at(status, "alarms").as_array().into_iter().flatten() {
        line("ALARM", alarm.as_str().unwrap_or_default().to_owned());
    }
    let backlog = format!(
        "{} readings wait, {}, oldest {}, next sequence {}",
        text(status, "backlog.readings"),
        size(status, "backlog.bytes"),
        age(status, "backlog.oldest_age_s"),
        text(status, "backlog.next_sequence"),
    );
    line("backlog", backlog);
    line("store", text(status, "store.health.state"));
    let limited = match at(status, "uplink.limited_by") {
        Value::Null => String::new(),
        by => format!(", limited by {}", by.as_str().unwrap_or_default()),
    };
    let uplink = format!(
        "{}{limited}, last progress {} ago, {}",
        text(status, "uplink.state"),
        age(status, "uplink.last_progress_age_s"),
        text(status, "uplink.hub"),
    );
    line("uplink", uplink);
    if let Some(error) = at(status, "uplink.last_error").as_object() {
        let part = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
        line(
            "",
            format!("last error: {} {}", part("class"), part("detail")),
        );
    }
    line("traffic", traffic(status));
    line(
        "drain",
        format!(
            "at {}, next {}",
            text(status, "drain.at"),
            text(status, "drain.next")
        ),
    );
    if let Some(last) = at(status, "drain.last").as_object() {
        let part = |name: &str| {
            last.get(name)
                .map_or_else(String::new, Value::to_string)
                .replace('"', "")
        };
        line(
            "",
            format!(
                "last: {}, {} readings, {} attempts",
                part("outcome"),
                part("readings"),
                part("attempts")
            ),
        );
    }
    line(
        "meters",
        format!("{} connected", text(status, "mqtt.connections")),
    );
    let clock = if at(status, "clock.synchronised") == &Value::Bool(true) {
        ""
    } else {
        "not "
    };
    line(
        "clock",
        format!("{clock}synchronised, {}", text(status, "clock.now")),
    );
    if let Some(error) = at(status, "config.last_error").as_str() {
        line(
            "config",
            format!("edit refused: {}", error.replace('\n', "\n          ")),
        );
    }
    let restart = at(status, "config.restart_needed").as_array();
    if let Some(keys) = restart.filter(|keys| !keys.is_empty()) {
        let keys: Vec<&str> = keys.iter().filter_map(Value::as_str).collect();
        line(
            "config",
            format!("waits for a restart: {}", keys.join(", ")),
        );
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_hold_what_an_operator_asks_first() {
        let status = serde_json::json!({
            "village_id": "bamenda-01", "epoch": "0000002a",
            "alarms": ["backlog: 83 % of backlog.bytes_max"],
            "backlog": {"readings": 12345, "bytes": 3_000_000, "oldest_age_s": 3723.4, "next_sequence": 99},
            "store": {"health": {"state": "alarm"}},
            "uplink": {"state": "backing_off", "limited_by": null, "last_progress_age_s": 61.0,
                "policy": {"held_by": "window", "window_opens": "2026-11-22T12:00:00+01:00"},
                "budget": {"used_bytes": 83_886_080, "budget_bytes": 1_073_741_824_u64, "month": "2026-11"},
                "hub": "mqtt://hub:1883", "last_error": {"class": "dns", "detail": "no such host"}},
            "drain": {"at": "02:00", "next": "2026-11-22T02:04:11+01:00", "last": null},
            "mqtt": {"connections": 4},
            "clock": {"synchronised": false, "now": "1970-01-01T00:00:09Z"},
            "config": {"last_error": "broker.toml:3: hub.url: has no host", "restart_needed": ["village_id"]},
        });
        let words = in_words(&status);
        for part in [
            "bamenda-01",
            "ALARM",
            "12345 readings",
            "2.9 MiB",
            "1h 2m 3s",
            "backing_off",
            "80.0 MiB of 1.0 GiB in 2026-11, what waits goes at 2026-11-22T12:00",
            "dns no such host",
            "not synchronised",
            "broker.toml:3",
            "village_id",
        ] {
            assert!(words.contains(part), "{part} is not in\n{words}");
        }
    }

    #[test]
    fn nothing_known_is_no_panic() {
        assert!(in_words(&Value::Null).contains("uplink"));
    }
}
