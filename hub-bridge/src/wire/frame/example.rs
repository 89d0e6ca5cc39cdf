//! The worked example of `docs/frame-format.md`: what stands there is what is written, and what it is read as.
//!
//! `cargo test -p hub-bridge --lib example -- --nocapture` prints it.

use super::fuzzing::plan_of;
use super::*;

const PAGE: &str = include_str!("../../../../docs/frame-format.md");

fn readings() -> Vec<Carried> {
    let reading = |sequence, meter: &str, payload: &str, at: i64| Carried {
        sequence: Sequence(sequence),
        topic: format!("m/{meter}").into(),
        client_id: meter.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos: 1,
        retain: false,
        at: UnixMillis(1_780_000_000_000 + at),
        clock: ClockQuality::Synchronised,
        properties: None,
        repeat_of: None,
    };
    let mut readings = vec![
        reading(1, "a", r#"{"kw":0.31,"n":7}"#, 0),
        reading(2, "b", r#"{"kw":1.5,"n":40}"#, 20),
        reading(3, "a", r#"{"kw":0.33,"n":8}"#, 60_000),
        reading(4, "b", r#"{"kw":-1.4,"n":41}"#, 60_020),
        reading(6, "a", "restart", 61_000),
    ];
    readings[4].retain = true;
    readings
}

fn hex(bytes: &[u8]) -> String {
    let each: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    each.join(" ")
}

/// The hex digits of the page's block that begins with `name`.
fn block(name: &str) -> String {
    let block = PAGE.split("```").find(|b| b.trim_start().starts_with(name));
    let lines = block.unwrap_or_default().trim_start().lines().skip(1);
    // What is behind two spaces explains.
    let bytes = lines.map(|line| line.split("  ").next().unwrap_or_default());
    bytes.flat_map(str::split_whitespace).collect()
}

#[test]
fn the_page_shows_what_is_written() {
    let frame = Frame {
        village: "bamenda-01".parse().unwrap(),
        epoch: Epoch(0xab),
        readings: readings(),
    };
    let bytes = encode(&frame).unwrap();
    let plan = plan_of(&bytes);
    println!("frame, {} bytes\n{}", bytes.len(), hex(&bytes));
    println!("plan, {} bytes\n{}", plan.len(), hex(&plan));
    assert_eq!(decode(&bytes).unwrap(), frame);
    let digits = |bytes: &[u8]| hex(bytes).replace(' ', "");
    assert_eq!(block("frame\n"), digits(&bytes));
    assert_eq!(block("plan\n"), digits(&plan));
    let dictionary = std::str::from_utf8(DICTIONARIES[0]).unwrap();
    assert!(PAGE.replace('\n', "").contains(dictionary.trim_end()));
}
