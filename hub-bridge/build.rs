//! Tells the program when it was built: the floor under the clock for certificates.
//! `SOURCE_DATE_EPOCH` is honoured, so that builds can be repeated.

use std::time::{SystemTime, UNIX_EPOCH};

fn main() {
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo::rerun-if-changed=build.rs");
    let built = std::env::var("SOURCE_DATE_EPOCH")
        .ok()
        .and_then(|text| text.parse::<u64>().ok())
        .or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
            Some(now.as_secs())
        })
        .unwrap_or(0);
    println!("cargo::rustc-env=HUB_BRIDGE_BUILT_AT={built}");
}
