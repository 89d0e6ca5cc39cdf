use super::*;

fn at(file: &str, text: &str, environment: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let environment = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    parse(Path::new(file), text, &environment, NamedFiles::Checked)
}

fn local(extra: &str) -> String {
    format!("village_id = \"bamenda-01\"\nmqtt.listen = \"127.0.0.1:1883\"\n{extra}")
}

fn problems(text: &str) -> Vec<(String, Option<usize>, String)> {
    let error = at("broker.toml", text, &[]).unwrap_err();
    let line = |origin: &Origin| match origin {
        Origin::Line(line) => Some(*line),
        _ => None,
    };
    let problem = |p: &Problem| {
        let allowed = p.allowed.clone().unwrap_or_default();
        (
            p.key.clone(),
            line(&p.origin),
            format!("{} | {allowed}", p.reason),
        )
    };
    error.problems.iter().map(problem).collect()
}

/// The one problem of `text`.
fn problem(text: &str) -> (String, Option<usize>, String) {
    let found = problems(text);
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

#[test]
fn a_village_and_a_loopback_listener_are_enough() {
    let loaded = at("broker.toml", &local(""), &[]).unwrap();
    let settings = loaded.settings;
    assert_eq!(settings.bridge.village.as_str(), "bamenda-01");
    assert!(settings.listener.allow_anonymous);
    assert_eq!(settings.bridge.hub.url.port, 1884);
    assert_eq!(settings.store.bytes_max, 4 << 30);
}

#[test]
fn the_environment_overrides_every_kind_of_key() {
    let environment = [
        ("EDGE_RELAY__HUB__URL", "mqtts://hub.example:8884"),
        ("EDGE_RELAY__HUB__USERNAME", "village"),
        ("EDGE_RELAY__HUB__PASSWORD", "007"),
        ("EDGE_RELAY__MQTT__FORWARD", "meters/#, +/energy"),
        ("EDGE_RELAY__MQTT__CONNECTIONS_MAX", "17"),
        ("EDGE_RELAY__MQTT__ALLOW_ANONYMOUS", "true"),
        ("EDGE_RELAY__BACKLOG__ALARM_AT", "0.5"),
        ("EDGE_RELAY__BACKLOG__BYTES_MAX", "1 GiB"),
        ("EDGE_RELAY__MQTT__TLS__LISTEN", ""),
        ("EDGE_RELAY__DATA_DIR", "/data"),
        ("EDGE_RELAY_LOG", "debug"),
    ];
    let settings = at("broker.toml", &local(""), &environment)
        .unwrap()
        .settings;
    assert!(settings.bridge.hub.url.tls);
    assert_eq!(settings.bridge.hub.password.unwrap().expose(), "007");
    assert_eq!(settings.listener.forward, ["meters/#", "+/energy"]);
    assert_eq!(settings.listener.connections_max, 17);
    assert!((settings.store.alarm_at - 0.5).abs() < f64::EPSILON);
    assert_eq!(settings.store.bytes_max, 1 << 30);
    assert_eq!(settings.data_dir, Path::new("/data"));
}

#[test]
fn an_error_from_the_environment_names_its_variable() {
    let environment = [("EDGE_RELAY__MQTT__CONNECTIONS_MAX", "many")];
    let error = at("broker.toml", &local(""), &environment).unwrap_err();
    let expected = Origin::Environment("EDGE_RELAY__MQTT__CONNECTIONS_MAX".to_owned());
    assert_eq!(error.problems[0].origin, expected);
    assert_eq!(error.problems[0].key, "mqtt.connections_max");
}

#[test]
fn all_errors_are_reported_at_once_with_their_lines() {
    let text = "village_id = \"Bad village\"\n\
                dta_dir = \"x\"\n\
                [mqtt]\n\
                listen = \"127.0.0.1\"\n\
                connections_max = \"many\"\n\
                packet_bytes_max = \"3 parsecs\"\n\
                forward = [\"a\", \"b/#/c\"]\n\
                [hub]\n\
                url = \"http://hub\"\n\
                topic = \"solar/{topic}\"\n\
                protocol = \"4\"\n\
                colour = \"blue\"\n\
                [drain]\n\
                at = \"25:00\"\n\
                time_zone = \"Africa/Duala\"\n\
                [backlog]\n\
                alarm_at = 7.0\n\
                [hubb]\n\
                url = 1\n";
    let found = problems(text);
    let places: Vec<(&str, Option<usize>)> = found
        .iter()
        .map(|(key, line, _)| (key.as_str(), *line))
        .collect();
    let expected = [
        ("village_id", Some(1)),
        ("dta_dir", Some(2)),
        ("mqtt.listen", Some(4)),
        ("mqtt.connections_max", Some(5)),
        ("mqtt.packet_bytes_max", Some(6)),
        ("mqtt.forward", Some(7)),
        ("hub.url", Some(9)),
        ("hub.topic", Some(10)),
        ("hub.protocol", Some(11)),
        ("hub.colour", Some(12)),
        ("drain.at", Some(14)),
        ("drain.time_zone", Some(15)),
        ("backlog.alarm_at", Some(17)),
        ("hubb", Some(18)),
    ];
    assert_eq!(places, expected, "{found:#?}");
    assert!(
        found[1].2.contains("did you mean data_dir?"),
        "{}",
        found[1].2
    );
    assert!(found[13].2.contains("did you mean hub?"), "{}", found[13].2);
    assert!(found[9].2.contains("url"), "{}", found[9].2);
}

#[test]
fn a_file_that_is_no_toml_is_refused_with_its_line() {
    let (key, line, reason) = problem("village_id = \"a\"\n[mqtt]\nlisten = \n");
    assert_eq!((key.as_str(), line), ("", Some(3)), "{reason}");
}

#[test]
fn a_key_twice_is_refused_with_its_line() {
    let (_, line, reason) = problem("village_id = \"a\"\nvillage_id = \"b\"\n");
    assert_eq!(line, Some(2), "{reason}");
    assert!(reason.contains("duplicate key"), "{reason}");
}

#[test]
fn the_village_is_required() {
    let (key, line, reason) = problem("mqtt.listen = \"127.0.0.1:1883\"");
    assert_eq!((key.as_str(), line), ("village_id", None));
    assert!(reason.contains("required"), "{reason}");
}

#[test]
fn plain_readings_in_311_cannot_be_receipted() {
    let (key, _, reason) = problem(&local(
        "hub.confirm = \"receipt\"\nhub.protocol = \"3.1.1\"",
    ));
    assert_eq!(key, "hub.confirm");
    assert!(reason.contains("no identity"), "{reason}");
    let frames =
        local("hub.confirm = \"receipt\"\nhub.protocol = \"3.1.1\"\nhub.format = \"batch\"");
    let accepted = at("broker.toml", &frames, &[]).unwrap().settings;
    assert_eq!(accepted.store.confirm, hub_bridge::backlog::Mark::Stored);
}

#[test]
fn anonymous_meters_are_only_for_loopback_unless_asked_for() {
    let (key, _, reason) = problem("village_id = \"a\"\n[mqtt]\nlisten = \"0.0.0.0:1883\"");
    assert_eq!(key, "mqtt.users_file");
    assert!(reason.contains("edge-relay user add"), "{reason}");

    let asked = "village_id = \"a\"\n[mqtt]\nlisten = \"0.0.0.0:1883\"\nallow_anonymous = true";
    assert!(
        at("broker.toml", asked, &[])
            .unwrap()
            .settings
            .listener
            .allow_anonymous
    );
}

#[test]
fn an_admin_api_off_loopback_needs_a_token() {
    let (key, _, _) = problem(&local("admin.listen = \"0.0.0.0:9883\""));
    assert_eq!(key, "admin.token_file");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("broker.toml");
    let text = local("admin = { listen = \"0.0.0.0:9883\", token_file = \"token\" }");
    let file = file.to_str().unwrap();
    assert!(
        at(file, &text, &[])
            .unwrap_err()
            .to_string()
            .contains("No such file")
    );
    std::fs::write(dir.path().join("token"), "\n").unwrap();
    assert!(
        at(file, &text, &[])
            .unwrap_err()
            .to_string()
            .contains("empty")
    );
    std::fs::write(dir.path().join("token"), "s3cret\n").unwrap();
    let admin = at(file, &text, &[]).unwrap().settings.admin;
    assert_eq!(
        admin.guard,
        crate::admin::Guard::Token(hub_bridge::settings::Secret::new("s3cret"))
    );
}

#[test]
fn half_of_a_tls_setting_is_refused() {
    let keys = |text: &str| {
        problems(&local(text))
            .into_iter()
            .map(|p| p.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        keys("mqtt.tls.listen = \"127.0.0.1:8883\""),
        ["mqtt.tls.cert_file", "mqtt.tls.key_file"]
    );
    assert_eq!(
        keys("mqtt.tls.cert_file = \"/dev/null\""),
        ["mqtt.tls.listen"]
    );
    assert_eq!(keys("hub.ca_file = \"/dev/null\""), ["hub.url"]);
}

#[test]
fn values_of_the_wrong_type_are_named() {
    let (key, _, reason) = problem(&local("mqtt.in_flight_max = 70000"));
    assert_eq!(key, "mqtt.in_flight_max", "{reason}");
    let (key, _, reason) = problem(&local("mqtt.forward = 3"));
    assert_eq!(key, "mqtt.forward", "{reason}");
    let (key, _, reason) = problem(&local("hub = 3"));
    assert_eq!(key, "hub", "{reason}");
    let (key, _, reason) = problem(&local("mqtt.connect_timeout = \"soon\""));
    assert_eq!(key, "mqtt.connect_timeout", "{reason}");
    let (key, _, reason) = problem(&local("log.level = \"loud\""));
    assert_eq!(key, "log.level", "{reason}");
}

#[test]
fn a_password_is_never_shown() {
    let text = local("hub.url = \"mqtt://village:hunter2@hub.example:99999\"");
    let error = at("broker.toml", &text, &[]).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"));
    let text =
        local("hub.url = \"mqtt://village:hunter2@hub.example\"\nhub.password = \"hunter3\"");
    let loaded = at("broker.toml", &text, &[]).unwrap();
    let shown = format!("{:?} {:?}", loaded.config, loaded.settings);
    assert!(!shown.contains("hunter"), "{shown}");
    assert_eq!(
        redact_url("mqtt://village:hunter2@hub:1883"),
        "mqtt://village:***@hub:1883"
    );
}

#[test]
fn a_start_falls_back_on_the_last_accepted_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("broker.toml");
    let data_dir = dir.path().join("data");
    std::fs::create_dir(&data_dir).unwrap();
    let text = format!("data_dir = {data_dir:?}\n{}", local(""));
    std::fs::write(&file, &text).unwrap();
    let environment = Environment::new();
    let first = start(&file, &environment).unwrap();
    assert!(first.file_refused.is_none());
    LiveConfig::new(first, environment.clone(), Vec::new());

    std::fs::write(&file, format!("{text}\nnonsense = [")).unwrap();
    let second = start(&file, &environment).unwrap();
    let refused = second.file_refused.as_ref().unwrap().to_string();
    assert!(refused.contains("broker.toml:5"), "{refused}");
    assert_eq!(
        second.loaded.config.village_id.as_deref(),
        Some("bamenda-01")
    );
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(data_dir.join(ACCEPTED_FILE))
            .unwrap()
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);

    for lost in ["", "this is no toml"] {
        std::fs::write(&file, lost).unwrap();
        let third = start(&file, &environment).unwrap();
        assert_eq!(third.loaded.settings.data_dir, data_dir, "{lost:?}");
    }

    let other = dir.path().join("other.toml");
    std::fs::write(&other, format!("data_dir = {data_dir:?}\n")).unwrap();
    assert!(
        start(&other, &environment).is_err(),
        "another file's accepted one is no stand-in"
    );
}

const SHIPPED: &str = include_str!("../../../broker.toml");

/// Each key of the shipped file with what its comment says of the default.
fn documented() -> BTreeMap<String, String> {
    let mut section = String::new();
    let mut default = None;
    let mut keys = BTreeMap::new();
    for line in SHIPPED.lines() {
        if let Some(name) = line.strip_prefix('[') {
            name.trim_end_matches(']').clone_into(&mut section);
        } else if line == "# Required." {
            default = Some("none".to_owned());
        } else if let Some(text) = line.strip_prefix("# Default: ") {
            default = Some(text.to_owned());
        } else if let Some((name, _)) = line.trim_start_matches("# ").split_once(" = ")
            && let Some(default) = default.take()
        {
            keys.insert(join(&section, name), default);
        }
    }
    keys
}

#[test]
fn the_shipped_file_passes() {
    let loaded = at("broker.toml", SHIPPED, &[]).unwrap();
    assert_eq!(loaded.config.village_id.as_deref(), Some("bamenda-01"));
}

#[test]
fn the_shipped_file_explains_every_key_with_its_default() {
    let documented = documented();
    let known = load::known_keys();
    let names = |keys: Vec<&String>| keys.into_iter().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(documented.keys().collect()),
        names(known.keys().collect())
    );
    for (key, value) in known {
        let said = documented[&key].as_str();
        if value.is_null() {
            let computed =
                key == "mqtt.allow_anonymous" && said.starts_with("true where mqtt.listen");
            assert!(computed || said == "none", "{key}: {said}");
        } else {
            let said: toml::Table = toml::from_str(&format!("default = {said}")).unwrap();
            let said = serde_json::to_value(&said["default"]).unwrap();
            assert_eq!(said, value, "{key}");
        }
    }
}

#[test]
fn the_shipped_file_uncommented_parses() {
    let uncommented: String = SHIPPED
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest)
                if rest.split_once(" = ").is_some_and(|(name, _)| {
                    load::known_keys().keys().any(|k| k.ends_with(name))
                }) =>
            {
                rest
            }
            _ => line,
        })
        .fold(String::new(), |text, line| text + line + "\n");
    let error = parse(
        Path::new("broker.toml"),
        &uncommented,
        &Environment::new(),
        NamedFiles::Unchecked,
    )
    .unwrap_err();
    let keys: Vec<&str> = error.problems.iter().map(|p| p.key.as_str()).collect();
    // The example values of the keys that exclude each other; everything else of them is right.
    assert_eq!(keys, ["hub.url", "hub.password_file"], "{error}");
}

#[test]
fn the_restart_keys_exist_and_are_marked_in_the_shipped_file() {
    let known = load::known_keys();
    let marked = SHIPPED
        .lines()
        .filter(|line| line.starts_with('#') && line.ends_with("(restart)"))
        .count();
    assert!(
        live::RESTART_KEYS
            .iter()
            .all(|key| known.contains_key(*key))
    );
    assert_eq!(marked, live::RESTART_KEYS.len());
}

#[test]
fn a_file_too_large_to_be_a_configuration_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("broker.toml");
    std::fs::write(&file, format!("# {}\n", "a".repeat(1 << 20))).unwrap();
    let error = load(&file, &Environment::new()).unwrap_err();
    assert!(error.to_string().contains("larger than 1 MiB"), "{error}");
}

#[test]
fn spans_that_would_overflow_are_refused_by_name() {
    let text = "village_id = \"v\"\nmqtt.idle_timeout = \"9223372036854775807 s\"\n";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("broker.toml");
    std::fs::write(&file, text).unwrap();
    let error = load(&file, &Environment::new()).unwrap_err();
    assert_eq!(error.problems[0].key, "mqtt.idle_timeout");
}

#[test]
fn a_number_that_no_integer_holds_is_the_only_complaint() {
    let found = problems(&local("mqtt.connections_max = 99999999999999999999"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].2.contains("too large"), "{found:?}");
}

/// The store keeps no reading over 15 MiB: a packet that could hold one would be refused for ever.
#[test]
fn a_packet_limit_over_what_the_store_keeps_is_refused() {
    let with = |limit: &str| {
        local(&format!(
            "mqtt.packet_bytes_max = \"{limit}\"\nbacklog.queue_bytes_max = \"32 MiB\"\n"
        ))
    };
    at("broker.toml", &with("15 MiB"), &[]).unwrap();
    let (key, line, reason) = problem(&with("16 MiB"));
    assert_eq!((key.as_str(), line), ("mqtt.packet_bytes_max", Some(3)));
    assert!(reason.contains("15 MiB"), "{reason}");
}
