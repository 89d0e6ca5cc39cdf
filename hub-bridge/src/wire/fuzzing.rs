//! The fuzz function of what is retained beside frames: receipts and accounts. What is understood is written as the same.

// What breaks an invariant ends right there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use fuzz_harness::{Input, within};

use super::account::Account;
use super::receipt::{RANGES_MAX, Receipt};

pub(crate) fn receipts(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.byte() % 4;
    let bytes = match kind {
        0 | 1 => input.rest().to_vec(),
        2 => like_a_receipt(&mut input),
        _ => like_an_account(&mut input),
    };
    within((16 << 10) + bytes.len() * 32, || {
        if kind == 0 || kind == 2 {
            receipt(&bytes);
        } else {
            account(&bytes);
        }
    });
}

fn receipt(bytes: &[u8]) {
    let Ok(receipt) = Receipt::from_json(bytes) else {
        return;
    };
    let mut after = 0;
    for range in &receipt.stored {
        assert!(after < range.first.0 && range.first <= range.last);
        after = range.last.0;
    }
    let again = Receipt::from_json(&receipt.to_json()).expect("what was written");
    let said = receipt.stored.len().min(RANGES_MAX);
    assert_eq!(again.stored, receipt.stored[..said]);
    assert_eq!(
        (again.village, again.epoch),
        (receipt.village, receipt.epoch)
    );
}

fn account(bytes: &[u8]) {
    let Ok(account) = Account::from_json(bytes) else {
        return;
    };
    assert_eq!(
        Account::from_json(&account.to_json()).expect("what was written"),
        account
    );
}

fn like_a_receipt(input: &mut Input<'_>) -> Vec<u8> {
    let ranges: Vec<String> = (0..input.byte() % 8)
        .map(|_| format!("[{},{}]", input.byte(), input.byte()))
        .collect();
    let more = String::from_utf8_lossy(input.short()).into_owned();
    format!(
        r#"{{"version":1,"village":"b-1","epoch":"{:08x}","stored":[{}]{more}}}"#,
        input.u32(),
        ranges.join(",")
    )
    .into_bytes()
}

fn like_an_account(input: &mut Input<'_>) -> Vec<u8> {
    let absent = |input: &mut Input<'_>| {
        let reason = serde_json::Value::from(input.text());
        let (first, last) = (input.byte(), input.byte());
        format!(r#"[{{"first":{first},"last":{last},"reason":{reason}}}]"#)
    };
    let (lost, refused) = (absent(input), absent(input));
    let more = String::from_utf8_lossy(input.short()).into_owned();
    format!(
        r#"{{"version":1,"village":"b-1","epoch":"{:08x}","current":{},"through":{},"stored":{},"digest":"{:032x}","lost":{lost},"refused":{refused},"at":{},"clock":"synchronised"{more}}}"#,
        input.u32(),
        input.flag(),
        input.byte(),
        input.byte(),
        input.u64(),
        input.u32(),
    )
    .into_bytes()
}
