//! The fuzz function of the configuration: a file and the environment over it.

// What breaks an invariant ends right there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::Path;

use fuzz_harness::{Input, within};

use super::{Environment, NamedFiles, parse};

/// Stands in no input by chance.
const SECRET: &str = "hush7342";

const KEYS: [&str; 12] = [
    "VILLAGE_ID",
    "HUB__URL",
    "HUB__PASSWORD",
    "DRAIN__AT",
    "DRAIN__TIME_ZONE",
    "MQTT__FORWARD",
    "MQTT__LISTEN",
    "MQTT__PACKET_BYTES_MAX",
    "BACKLOG__KEEP_FORWARDED",
    "ADMIN__LISTEN",
    "MQTT__TLS",
    "LOG__",
];

pub(crate) fn config(data: &[u8]) {
    let mut input = Input::new(data);
    let mut environment = Environment::new();
    for _ in 0..input.below(4) {
        let name = if input.byte() < 240 {
            (*input.pick(&KEYS)).to_owned()
        } else {
            input.text()
        };
        environment.insert(format!("EDGE_RELAY__{name}"), input.text());
    }
    let secret = input.byte();
    if secret & 1 != 0 {
        let url = format!("mqtt{}://u:{SECRET}@{}", input.text(), input.text());
        environment.insert("EDGE_RELAY__HUB__URL".to_owned(), url);
    }
    if secret & 2 != 0 {
        environment.insert("EDGE_RELAY__HUB__PASSWORD".to_owned(), SECRET.to_owned());
    }
    let text = String::from_utf8_lossy(input.rest()).into_owned();
    // The files that hold secrets are read; devices among them would never end. And libFuzzer learns what it is
    // compared with.
    let known = format!("{environment:?}{text}").matches(SECRET).count();
    let bad = ["/dev", "/proc", "/sys", "\\"];
    if known > (secret & 3).count_ones() as usize || bad.iter().any(|bad| text.contains(bad)) {
        return;
    }
    // Reading a time zone's name may load the database of all of them.
    within((4 << 20) + text.len() * 1024, || {
        read(&text, &environment);
    });
}

fn read(text: &str, environment: &Environment) {
    let file = Path::new("/nowhere/broker.toml");
    let _ = super::load::data_dirs_of(text, environment);
    match parse(file, text, environment, NamedFiles::Unchecked) {
        Ok(loaded) => {
            assert!(!format!("{:?}", loaded.settings).contains(SECRET));
            let problems = loaded.settings.bridge.problems();
            assert!(problems.is_empty(), "{problems:?}");
            // As it is written out again, without the environment, it is the same.
            let written = toml::to_string(&loaded.config).expect("it can be written");
            let again = parse(file, &written, &Environment::new(), NamedFiles::Unchecked);
            let again = again.unwrap_or_else(|error| panic!("{error}\nin {written}"));
            assert_eq!(again.config, loaded.config);
        }
        Err(error) => {
            assert!(!error.problems.is_empty(), "refused without a reason");
            let lines = text.lines().count().max(1);
            for problem in &error.problems {
                if let super::Origin::Line(line) = problem.origin {
                    assert!((1..=lines + 1).contains(&line), "{problem:?} of {lines}");
                }
            }
            assert!(!format!("{error} {error:?}").contains(SECRET), "{error}");
        }
    }
}
