use super::*;

const LEAST: &str =
    "[broker]\nurl = \"mqtt://127.0.0.1\"\n[database]\nurl = \"postgres://hub@localhost/solar\"\n";

fn read(text: &str, environment: &[(&str, &str)]) -> Result<HubConfig, ConfigError> {
    let environment = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    parse(Path::new("/nowhere/hub.toml"), text, &environment.collect())
}

#[test]
fn the_shipped_file_is_a_configuration_and_says_the_defaults() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/hub/hub.toml");
    let shipped = load(&file, &Environment::new()).unwrap_or_else(|error| panic!("{error}"));
    let least = read(LEAST, &[]).unwrap();
    assert_eq!(
        format!("{:?}", shipped.receive),
        format!("{:?}", least.receive)
    );
    assert_eq!(shipped.admin, least.admin);
    assert_eq!(shipped.mapping.power_kw, "/power_kw");
}

/// What is commented out there must be right too: people take the `#` away.
#[test]
fn the_import_section_that_is_commented_out_says_the_defaults() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/hub/hub.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let key = "12".repeat(32);
    let mut inside = false;
    let lines = text.lines().map(|line| {
        inside = (inside || line.starts_with("[import]")) && !line.starts_with("[log]");
        let bare = line.strip_prefix("# ").filter(|_| inside);
        bare.unwrap_or(line).replace("64 hex digits", &key)
    });
    let text: Vec<String> = lines.collect();
    let import = read(&text.join("\n"), &[]).unwrap().import;
    let default = crate::import::ImportConfig::default().at(Path::new("/nowhere"));
    assert_eq!(import.identity_file, default.identity_file);
    assert_eq!(import.receipt_key_file, default.receipt_key_file);
    assert_eq!(import.keys_dir, Some("/nowhere/villages".into()));
    assert_eq!(import.villages.len(), 1);
}

#[test]
fn the_environment_overrides_every_key() {
    let config = read(
        LEAST,
        &[
            ("HUB_BRIDGE__DATABASE__URL", "postgres://x@db:5433/other"),
            ("HUB_BRIDGE__RECEIVE__PARTITIONS", "7"),
            ("HUB_BRIDGE__DATABASE__PASSWORD", "hush7342"),
        ],
    )
    .unwrap();
    assert_eq!(config.database.config.get_dbname(), Some("other"));
    assert_eq!(config.receive.partitions, 7);
    assert_eq!(
        config.database.config.get_password(),
        Some(&b"hush7342"[..])
    );
    assert!(!format!("{config:?}").contains("hush7342"), "{config:?}");
}

#[test]
fn everything_that_is_wrong_is_said_at_once_with_its_place() {
    let text = "[broker]\nurl = \"http://u:hush7342@x\"\nurll = 1\n[database]\nurl = \"postgres://u:hush7342@h:p/d\"\n\
                [receive]\npartitions = \"many\"\nlinger = \"an hour\"\ntopic = \"all/{topic}\"\n[mapping]\nts = \"ts\"\n\
                [broken]\na = 1\n";
    let error = read(text, &[("HUB_BRIDGE__ADMIN__LISTEN", "here")]).unwrap_err();
    let said = error.to_string();
    for expected in [
        "hub.toml:2: broker.url: must begin with mqtt:// or mqtts://",
        "hub.toml:3: broker.urll: no such key",
        "hub.toml:5: database.url: ",
        "hub.toml:7: receive.partitions: ",
        "hub.toml:8: receive.linger: ",
        "hub.toml:9: receive.topic: must contain {village_id}",
        "hub.toml:11: mapping.ts: is not a JSON pointer",
        "hub.toml:12: broken: no such section",
        "environment HUB_BRIDGE__ADMIN__LISTEN: admin.listen: ",
    ] {
        assert!(said.contains(expected), "{expected} is not in:\n{said}");
    }
    assert!(!said.contains("hush7342"), "{said}");
    assert_eq!(error.problems.len(), 9, "{said}");
}

#[test]
fn a_password_file_counts_and_a_missing_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "s3cret\n").unwrap();
    let text = format!("{LEAST}password_file = {file:?}\n");
    let config = read(&text, &[]).unwrap();
    assert_eq!(config.database.config.get_password(), Some(&b"s3cret"[..]));
    std::fs::remove_file(&file).unwrap();
    let said = read(&text, &[]).unwrap_err().to_string();
    assert!(
        said.contains("hub.toml:5: database.password_file: "),
        "{said}"
    );
}
