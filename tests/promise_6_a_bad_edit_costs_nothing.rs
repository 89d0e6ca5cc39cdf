//! Promise 6: a valid edit is applied while the relay runs, an invalid one is refused with file, line, key
//! and reason, and the old one stays, also over a restart.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use harness::meter::Habits;
use harness::{Hub, Ledger, Meter, Relay, Subscriber, VILLAGE, wait_for, within};

/// How an editor or an orchestrator brings a new file.
type Save = fn(&Path, &str);

fn in_place(file: &Path, text: &str) {
    fs::write(file, text).unwrap();
}

fn by_rename(file: &Path, text: &str) {
    let new = file.with_extension("toml.swp");
    fs::write(&new, text).unwrap();
    fs::rename(new, file).unwrap();
}

/// As `ConfigMap` volumes do it: `broker.toml` → `..data/broker.toml`, `..data` → `..<version>`.
fn by_symlink_swap(file: &Path, text: &str) {
    let home = file.parent().unwrap();
    let version = home.join(format!("..{:08x}", rand::random::<u32>()));
    fs::create_dir(&version).unwrap();
    fs::write(version.join("broker.toml"), text).unwrap();
    let new = home.join("..data_tmp");
    symlink(version.file_name().unwrap(), &new).unwrap();
    fs::rename(new, home.join("..data")).unwrap();
    if !file.is_symlink() {
        let link = home.join("..link_tmp");
        symlink("..data/broker.toml", &link).unwrap();
        fs::rename(link, file).unwrap();
    }
}

const SAVES: [(&str, Save); 3] = [
    ("in place", in_place),
    ("rename", by_rename),
    ("symlink swap", by_symlink_swap),
];

#[test]
fn a_valid_edit_is_applied_while_it_runs() {
    for (name, save) in SAVES {
        let ledger = Ledger::new(VILLAGE);
        let hub = Hub::start();
        let _subscriber = Subscriber::start(hub.address, &ledger);
        let mut relay = Relay::new(harness::port::free());
        relay.write_config();
        save(&relay.config_file(), &relay.config_text());
        relay.start_as_is();
        relay.wait_listening(within(20));
        let mut meter = Meter::new(&ledger, "meter", Habits::new(relay.mqtt));
        meter.publish(20).unwrap();
        assert_eq!(ledger.sums().at_hub, 0);
        relay.set("hub.url", format!("mqtt://{}", hub.address));
        save(&relay.config_file(), &relay.config_text());
        ledger.settle(name, within(20));
        // The edit after the first is seen, too: the watch outlives a rename.
        relay.set("hub.topic", "villages/{village_id}/second/{topic}");
        save(&relay.config_file(), &relay.config_text());
        relay.wait_status("the second edit is applied", within(10), |status| {
            status["config"]["applied_total"].as_u64() >= Some(2)
        });
    }
}

/// A wrong text, and what the refusal must name.
const BAD: [(&str, &[&str]); 5] = [
    ("this is no toml", &["broker.toml", "1"]),
    ("[drain]\nat = \"25:99\"\n", &["drain.at", "25:99"]),
    (
        "[mqtt]\npacket_bytes_max = \"12 parsecs\"\n",
        &["mqtt.packet_bytes_max", "parsecs"],
    ),
    ("[hub]\nurll = \"mqtt://x\"\n", &["hub.urll", "hub.url"]),
    (
        "[hub]\ntopic = \"no/village\"\n",
        &["hub.topic", "{village_id}"],
    ),
];

/// The relay's config with one section of it replaced by `bad`.
fn broken(relay: &Relay, bad: &str) -> String {
    let Ok(bad) = bad.parse::<toml::Table>() else {
        return bad.to_owned();
    };
    let mut good: toml::Table = relay.config_text().parse().unwrap();
    for (section, keys) in bad {
        let section = good
            .entry(section)
            .or_insert_with(|| toml::Table::new().into());
        section
            .as_table_mut()
            .unwrap()
            .extend(keys.as_table().unwrap().clone());
    }
    toml::to_string(&good).unwrap()
}

#[test]
fn an_invalid_edit_is_refused_and_the_old_one_stays_over_a_restart() {
    let ledger = Ledger::new(VILLAGE);
    let hub = Hub::start();
    let _subscriber = Subscriber::start(hub.address, &ledger);
    let mut relay = Relay::new(hub.address);
    relay.start();
    let mut meter = Meter::new(&ledger, "meter", Habits::new(relay.mqtt));
    for (bad, names) in BAD {
        by_rename(&relay.config_file(), &broken(&relay, bad));
        let status = relay.wait_status(&format!("{bad:?} is refused"), within(10), |status| {
            let error = status["config"]["last_error"].as_str().unwrap_or_default();
            names.iter().all(|name| error.contains(name))
        });
        println!("{}", status["config"]["last_error"]);
        meter.publish(10).expect("the old config is in force");
        let check = relay.cli(&["check"]);
        assert_eq!(check.status.code(), Some(78), "{check:?}");

        relay.kill();
        relay.start_as_is();
        relay.wait_listening(within(20));
        wait_for(
            "the old config is in force after a restart",
            within(10),
            || meter.publish(10).ok(),
        );
        relay.wait_status("it says why", within(10), |status| {
            status["config"]["last_error"].is_string()
        });
    }
    relay.write_config();
    relay.wait_status("the right file is taken again", within(10), |status| {
        status["config"]["last_error"].is_null()
    });
    ledger.settle("bad edits", within(20));
}

#[test]
fn without_any_usable_config_it_ends_with_78() {
    for (bad, names) in BAD {
        let mut relay = Relay::new(harness::port::free());
        fs::write(relay.config_file(), broken(&relay, bad)).unwrap();
        relay.start_as_is();
        assert_eq!(relay.wait_exit(within(10)).code(), Some(78));
        let log = relay.log();
        assert!(
            names.iter().all(|name| log.contains(name)),
            "{names:?} in {log}"
        );
    }
    let mut relay = Relay::new(harness::port::free());
    relay.start_as_is();
    assert_eq!(
        relay.wait_exit(within(10)).code(),
        Some(78),
        "no file at all"
    );
}

#[test]
fn all_errors_are_reported_at_once_with_their_lines() {
    let relay = Relay::new(harness::port::free());
    let text = format!(
        "{}\n[drain]\nat = \"25:99\"\ntime_zone = \"Africa/Atlantis\"\n",
        broken(&relay, "[mqtt]\npacket_bytes_max = \"12 parsecs\"\n")
    );
    fs::write(relay.config_file(), &text).unwrap();
    let check = relay.cli(&["check"]);
    let said = String::from_utf8_lossy(&check.stderr) + String::from_utf8_lossy(&check.stdout);
    for key in ["packet_bytes_max", "at = \"25:99\"", "time_zone"] {
        let line = 1 + text.lines().position(|line| line.contains(key)).unwrap();
        assert!(
            said.contains(&format!("{line}")),
            "line {line} of {key} in {said}"
        );
    }
    for key in ["mqtt.packet_bytes_max", "drain.at", "drain.time_zone"] {
        assert!(said.contains(key), "{key} in {said}");
    }
}
