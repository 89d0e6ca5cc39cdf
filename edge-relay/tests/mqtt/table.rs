//! The table of statements, `docs/mqtt-statements.md`, says what is so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// "3.1.2-24" out of "[MQTT-3.1.2-24]", for every statement that `text` names so.
fn statements(text: &str) -> impl Iterator<Item = &str> {
    text.split("[MQTT-")
        .skip(1)
        .filter_map(|rest| rest.split_once(']').map(|(number, _)| number))
}

/// The file of a test's name, and its function.
fn place(name: &str) -> (PathBuf, &str) {
    let (file, function) = name.split_once("::").expect(name);
    let edge_relay = root().join("edge-relay");
    let path = if file.starts_with("src/") {
        edge_relay.join(file)
    } else if file.starts_with("tests/") {
        root().join(file)
    } else {
        edge_relay
            .join("tests/mqtt")
            .join(file)
            .with_extension("rs")
    };
    (path, function)
}

/// Whether the file has that function, and it is run: a test, or within `proptest!`.
fn is_test(path: &Path, function: &str) -> bool {
    let Ok(text) = fs::read_to_string(path) else {
        return false;
    };
    let Some(at) = text.find(&format!("fn {function}(")) else {
        return false;
    };
    let before = text[..at].trim_end_matches("async ").trim_end();
    before.ends_with(']')
        && before
            .rsplit('\n')
            .take(3)
            .any(|line| line.contains("test"))
}

/// Version to statement to the names in its row.
fn table() -> BTreeMap<String, BTreeMap<String, Vec<String>>> {
    let text = fs::read_to_string(root().join("docs/mqtt-statements.md")).unwrap();
    let mut versions: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    let mut version = String::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            title.clone_into(&mut version);
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if !line.starts_with("| [MQTT-") {
            continue;
        }
        assert_eq!(cells.len(), 6, "{line}");
        let number = statements(cells[1]).next().expect(line).to_owned();
        let names = cells[3].split(", ").map(|n| n.trim_matches('`').to_owned());
        let rows = versions.entry(version.clone()).or_default();
        let before = rows.insert(number.clone(), names.collect());
        assert_eq!(before, None, "{version}: {number} stands twice");
    }
    versions
}

#[test]
fn every_statement_has_a_test_that_exists() {
    let table = table();
    let versions: Vec<&String> = table.keys().collect();
    assert_eq!(versions, ["MQTT 3.1.1", "MQTT 5"]);
    for (version, rows) in &table {
        for (number, names) in rows {
            for name in names {
                let (path, function) = place(name);
                let found = is_test(&path, function);
                assert!(found, "{version} {number}: no test {name}");
            }
        }
    }
}

#[test]
fn every_statement_that_the_code_names_is_in_the_table() {
    let known: BTreeSet<String> = table()
        .into_values()
        .flat_map(BTreeMap::into_keys)
        .collect();
    let mut files = Vec::new();
    for dir in ["edge-relay/src", "edge-relay/tests/mqtt", "tests"] {
        rust_files(&root().join(dir), &mut files);
    }
    assert!(files.len() > 50);
    for file in files {
        if file.ends_with("table.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        for number in statements(&text) {
            assert!(known.contains(number), "{}: {number}", file.display());
        }
    }
}

/// No gap in a run of numbers that is not said to be a gap.
#[test]
fn no_statement_is_left_out_unsaid() {
    let text = fs::read_to_string(root().join("docs/mqtt-statements.md")).unwrap();
    let parts: Vec<&str> = text.split("\n## ").skip(1).collect();
    for ((version, rows), part) in table().into_iter().zip(parts) {
        assert!(part.starts_with(&version));
        let (_, skipped) = part.split_once("Not ours to meet: ").unwrap();
        let mut all: BTreeSet<String> = rows.into_keys().collect();
        all.extend(listed(skipped));
        for number in &all {
            let (section, last) = number.rsplit_once('-').unwrap();
            for earlier in 1..last.parse::<u32>().unwrap() {
                let earlier = format!("{section}-{earlier}");
                // MQTT 5 has no statement of this number.
                if version != "MQTT 5" || earlier != "2.2.1-1" {
                    assert!(all.contains(&earlier), "{version}: {earlier} is missing");
                }
            }
        }
    }
}

/// "a-1, a-2, a-5 to a-7 (why)" as single numbers.
fn listed(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for part in text.split([',', ';', '(']) {
        let words: Vec<&str> = part.split_whitespace().collect();
        let number = |word: &str| {
            let (section, last) = word.rsplit_once('-')?;
            Some((section.to_owned(), last.parse::<u32>().ok()?))
        };
        let Some((section, first)) = words.first().and_then(|word| number(word)) else {
            continue;
        };
        let last = match words[..] {
            [_, "to", last, ..] => number(last).unwrap().1,
            _ => first,
        };
        found.extend((first..=last).map(|n| format!("{section}-{n}")));
    }
    found
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}
