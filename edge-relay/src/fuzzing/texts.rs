//! Texts that people write: what is understood is written as it is read, and a secret is never shown.

use std::fmt::{Debug, Display};
use std::str::FromStr;
use std::time::Duration;

use fuzz_harness::{Input, within};
use hub_bridge::clock::{ClockQuality, UnixMillis};
use hub_bridge::hub_url::HubUrl;
use hub_bridge::identity::{Epoch, VillageId};
use hub_bridge::settings::{DrainSettings, TimeOfDay, TopicTemplate};
use hub_bridge::window::{LastRun, Schedule};

use crate::broker::topic;
use crate::config::{Size, Span, redact_url};

/// Stands in no input by chance.
const SECRET: &str = "hush7342";

pub(super) fn texts(data: &[u8]) {
    let mut input = Input::new(data);
    within((1 << 20) + data.len() * 64, || match input.below(9) {
        0 => there_and_back::<Size>(&input.text()),
        1 => there_and_back::<Span>(&input.text()),
        2 => there_and_back::<TimeOfDay>(&input.text()),
        3 => there_and_back::<VillageId>(&input.text()),
        4 => there_and_back::<Epoch>(&input.text()),
        5 => hub_url(&mut input),
        6 => template(&mut input),
        7 => schedule(&mut input),
        _ => topics(&mut input),
    });
}

fn there_and_back<T>(text: &str)
where
    T: FromStr<Err: Debug> + Display + Debug + PartialEq,
{
    if let Ok(value) = text.parse::<T>() {
        let written = value.to_string();
        assert_eq!(
            written.parse::<T>().expect(&written),
            value,
            "{text:?} as {written:?}"
        );
    }
}

fn hub_url(input: &mut Input<'_>) {
    let text = input.text();
    if let Ok(url) = text.parse::<HubUrl>() {
        assert!(url.port > 0 && !url.host.is_empty());
        if url.username.is_none() {
            let written = url.to_string();
            assert_eq!(
                written.parse::<HubUrl>().as_ref(),
                Ok(&url),
                "{text:?} as {written:?}"
            );
        }
    }
    let scheme = if input.flag() { "mqtts" } else { "mqtt" };
    // libFuzzer learns what it is compared with.
    let (user, host) = (
        input.text().replace(SECRET, "").replace(':', "_"),
        input.text().replace(SECRET, "").replace('@', "_"),
    );
    let secret = format!("{}{SECRET}{}", input.text(), input.text());
    let text = format!("{scheme}://{user}:{secret}@{host}");
    assert!(!redact_url(&text).contains(SECRET), "{text}");
    match text.parse::<HubUrl>() {
        Ok(url) => assert!(!format!("{url} {url:?}").contains(SECRET), "{text}"),
        Err(error) => assert!(!format!("{error} {error:?}").contains(SECRET), "{text}"),
    }
}

fn template(input: &mut Input<'_>) {
    if let Ok(template) = input.text().parse::<TopicTemplate>() {
        let village = "bamenda-01".parse().unwrap();
        let name = template.render(&village, &input.text(), "a/b");
        assert!(name.contains("bamenda-01"));
        assert_eq!(topic::check_name(&name), Ok(()), "{name}");
    }
}

fn schedule(input: &mut Input<'_>) {
    let zones = [
        "Africa/Douala",
        "Europe/Berlin",
        "Australia/Lord_Howe",
        "Antarctica/Troll",
        "UTC",
    ];
    let time =
        |input: &mut Input<'_>| TimeOfDay::new(input.byte() % 24, input.byte() % 60).unwrap();
    let settings = DrainSettings {
        time_zone: (*input.pick(&zones)).to_owned(),
        at: time(input),
        until: time(input),
        stagger: Duration::from_secs(u64::from(input.u16())),
        ..DrainSettings::default()
    };
    let schedule = Schedule::new(&settings, &"bamenda-01".parse().unwrap()).unwrap();
    let now = UnixMillis(input.u64().cast_signed());
    let uptime = Duration::from_millis(input.u64());
    let last = LastRun {
        wall: input.flag().then(|| UnixMillis(input.u64().cast_signed())),
        monotonic: input.flag().then(|| Duration::from_millis(input.u64())),
    };
    for quality in [ClockQuality::Synchronised, ClockQuality::Unsynchronised] {
        let _ = schedule.due(now, uptime, quality, last);
    }
    if let Some(next) = schedule.next(now) {
        assert!(next.start > now && next.end > next.start);
        assert_eq!(
            schedule.latest(next.start).map(|w| w.start),
            Some(next.start)
        );
        let begun = LastRun {
            wall: Some(next.start),
            monotonic: None,
        };
        let again = schedule.due(next.start, uptime, ClockQuality::Synchronised, begun);
        assert_eq!(again, None, "a night that ran is due again");
    }
}

/// Names and filters: what is a name is matched by itself, by `#` and level by level by `+`.
fn topics(input: &mut Input<'_>) {
    let (name, filter) = (input.text(), input.text());
    let Ok(parsed) = topic::parse_filter(&filter) else {
        return;
    };
    if topic::check_name(&name).is_err() {
        return;
    }
    let matched = topic::matches(&name, parsed.pattern);
    // For rumqttc no filter at all matches what begins with $.
    let theirs = name.is_ascii() && parsed.pattern.is_ascii();
    if theirs && !name.starts_with('$') {
        let (name, pattern) = (&name, parsed.pattern);
        assert_eq!(
            matched,
            rumqttc::mqttbytes::matches(name, pattern),
            "{name:?} {pattern:?}"
        );
    }
    assert!(topic::matches(&name, &name));
    assert_eq!(topic::matches(&name, "#"), !name.starts_with('$'));
    let level_by_level: Vec<&str> = name.split('/').map(|_| "+").collect();
    assert_eq!(
        topic::matches(&name, &level_by_level.join("/")),
        !name.starts_with('$')
    );
}
