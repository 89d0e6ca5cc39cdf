//! `mqtts://` to a real hub: the certificate counts, also where the village's clock stands in 1970.

#![allow(
    clippy::unwrap_used,
    reason = "a double that cannot go on fails the test"
)]

mod support;

use std::time::Duration;

use hub_bridge::classify::ErrorClass;
use hub_bridge::settings::BridgeSettings;
use support::backlog::MemoryBacklog;
use support::mosquitto::Mosquitto;
use support::village::{Village, settings};
use support::within;

const SOON: Duration = Duration::from_secs(20);

struct Pki {
    dir: tempfile::TempDir,
}

impl Pki {
    /// A self-signed certificate for `localhost`, valid in this year and the next two.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let year = jiff::Timestamp::now()
            .to_zoned(jiff::tz::TimeZone::UTC)
            .year();
        params.not_before = rcgen::date_time_ymd(i32::from(year), 1, 1);
        params.not_after = rcgen::date_time_ymd(i32::from(year) + 2, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(dir.path().join("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
        Self { dir }
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn hub(&self) -> Option<Mosquitto> {
        let (cert, key) = (self.file("cert.pem"), self.file("key.pem"));
        let extra = format!("certfile {}\nkeyfile {}", cert.display(), key.display());
        Mosquitto::start(&extra)
    }

    fn settings(&self, port: u16) -> BridgeSettings {
        let mut settings = settings(port);
        settings.hub.url = format!("mqtts://localhost:{port}").parse().unwrap();
        settings.hub.ca_file = Some(self.file("cert.pem"));
        settings
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_cross_over_tls_even_from_1970() {
    let pki = Pki::new();
    let Some(hub) = pki.hub() else { return };
    let backlog = MemoryBacklog::new("v");
    let village = Village::start(pki.settings(hub.port), backlog.clone());
    village.clock.move_to("1970-01-01T00:10:00Z");
    backlog.fill(3, 200, 100);
    village.drained(SOON).await;
    assert_eq!(backlog.confirmed(), 200);
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_someone_else_is_an_error_of_class_tls() {
    let (pki, other) = (Pki::new(), Pki::new());
    let Some(hub) = pki.hub() else { return };
    let backlog = MemoryBacklog::new("v");
    backlog.fill(3, 20, 100);
    let village = Village::start(other.settings(hub.port), backlog.clone());
    within(SOON, "tls", || async {
        let error = village.handle.status().error?;
        (error.class == ErrorClass::Tls).then_some(())
    })
    .await;
    assert_eq!(backlog.confirmed(), 0);
    village.handle.apply(pki.settings(hub.port)).await.unwrap();
    village.drained(SOON).await;
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_authority_is_an_error_of_class_tls() {
    let pki = Pki::new();
    let mut settings = pki.settings(1);
    settings.hub.ca_file = Some(pki.file("missing.pem"));
    let village = Village::start(settings, MemoryBacklog::new("v"));
    within(SOON, "tls", || async {
        let error = village.handle.status().error?;
        (error.class == ErrorClass::Tls && error.detail.contains("missing.pem")).then_some(())
    })
    .await;
    village.stop().await;
}
