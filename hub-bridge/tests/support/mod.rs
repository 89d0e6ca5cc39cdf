//! Doubles of what the village gives the bridge, and hubs to cross over to.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each test file uses its part"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a double that cannot go on fails the test"
)]

pub mod backlog;
pub mod fake_hub;
pub mod frame_taker;
#[cfg(feature = "hub")]
pub mod fleet;
#[cfg(feature = "hub")]
pub mod hub;
pub mod mosquitto;
pub mod postgres;
#[cfg(feature = "hub")]
pub mod receiver;
pub mod thin_link;
pub mod village;

use std::future::Future;
use std::time::Duration;

/// Waits until `check` gives a value, and fails after `deadline`.
pub async fn within<T, F: Future<Output = Option<T>>>(
    deadline: Duration,
    what: &str,
    mut check: impl FnMut() -> F,
) -> T {
    let until = tokio::time::Instant::now() + deadline;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(
            tokio::time::Instant::now() < until,
            "not within {deadline:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
