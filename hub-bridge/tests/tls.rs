//! `mqtts://` to a real hub: the certificate counts, also where the village's clock stands in 1970.

#![allow(
    clippy::unwrap_used,
    reason = "a double that cannot go on fails the test"
)]

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use hub_bridge::classify::ErrorClass;
use hub_bridge::secret::Secret;
use hub_bridge::settings::{BridgeSettings, ProtocolChoice};
use support::backlog::MemoryBacklog;
use support::mosquitto::Mosquitto;
use support::thin_link::ThinLink;
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

    /// What makes a mosquitto listen with this certificate.
    fn listener(&self) -> String {
        let (cert, key) = (self.file("cert.pem"), self.file("key.pem"));
        format!("certfile {}\nkeyfile {}", cert.display(), key.display())
    }

    fn hub(&self) -> Option<Mosquitto> {
        Mosquitto::start(&self.listener())
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
async fn what_tls_adds_is_counted_byte_for_byte() {
    let pki = Pki::new();
    let Some(hub) = pki.hub() else { return };
    let link = ThinLink::start(hub.port, 1e8, Duration::from_millis(2)).await;
    let backlog = MemoryBacklog::new("v");
    backlog.fill(3, 200, 100);
    let village = Village::start(pki.settings(link.port), backlog.clone());
    village.drained(SOON).await;
    let crossed = || {
        let (up, down) = (&link.up_bytes, &link.down_bytes);
        up.load(Ordering::Relaxed) + down.load(Ordering::Relaxed)
    };
    let counted = || {
        let budget = village.handle.status().budget;
        budget.used_bytes - budget.estimated_bytes
    };
    let plain = 200 * 150;
    within(SOON, "every byte is counted", || async {
        (counted() == crossed() && crossed() > plain).then_some(())
    })
    .await;
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
async fn a_hub_that_wants_a_client_certificate_gets_ours() {
    let (pki, other) = (Pki::new(), Pki::new());
    let extra = format!(
        "{}\ncafile {}\nrequire_certificate true",
        pki.listener(),
        pki.file("cert.pem").display()
    );
    let Some(hub) = Mosquitto::start(&extra) else {
        return;
    };
    let backlog = MemoryBacklog::new("v");
    backlog.fill(3, 20, 100);
    let with = |owner: &Pki| {
        let mut settings = pki.settings(hub.port);
        settings.hub.cert_file = Some(owner.file("cert.pem"));
        settings.hub.key_file = Some(owner.file("key.pem"));
        settings
    };
    let strangers = [pki.settings(hub.port), with(&other)];
    for stranger in strangers {
        let village = Village::start(stranger, backlog.clone());
        within(SOON, "refused", || async { village.handle.status().error }).await;
        assert_eq!(backlog.confirmed(), 0);
        village.stop().await;
    }
    let village = Village::start(with(&pki), backlog.clone());
    village.drained(SOON).await;
    assert_eq!(backlog.confirmed(), 20);
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_wants_a_password_gets_ours() {
    let dir = tempfile::tempdir().unwrap();
    let passwords = dir.path().join("passwords");
    let made = std::process::Command::new("mosquitto_passwd")
        .arg("-c")
        .arg("-b")
        .arg(&passwords)
        .args(["bamenda-01", "correct horse"])
        .status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("skipped: mosquitto_passwd does not run");
        return;
    }
    // The broker gives up root, and must still be able to read it.
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), readable).unwrap();
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&passwords, readable).unwrap();
    let extra = format!(
        "allow_anonymous false\npassword_file {}",
        passwords.display()
    );
    let Some(hub) = Mosquitto::start(&extra) else {
        return;
    };
    let backlog = MemoryBacklog::new("v");
    for version in [ProtocolChoice::V5, ProtocolChoice::V311] {
        let mut wrong = settings(hub.port);
        wrong.hub.protocol = version;
        wrong.hub.username = Some("bamenda-01".to_owned());
        wrong.hub.password = Some(Secret::new("battery staple"));
        let mut right = wrong.clone();
        right.hub.password = Some(Secret::new("correct horse"));
        backlog.fill(3, 20, 100);
        let before = backlog.confirmed();
        let village = Village::start(wrong, backlog.clone());
        within(SOON, "auth", || async {
            let error = village.handle.status().error?;
            (error.class == ErrorClass::Auth && !error.detail.contains("staple")).then_some(())
        })
        .await;
        assert_eq!(backlog.confirmed(), before);
        village.handle.apply(right).await.unwrap();
        village.drained(SOON).await;
        village.stop().await;
    }
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
