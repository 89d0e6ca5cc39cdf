//! TLS to the hub, with a floor under the clock.
//!
//! A gateway that starts in 1970 would find every certificate not yet valid, and never reach the hub that it
//! might get its time from. So validity is checked against the latest of the wall clock, the date this
//! program was built, and the last time that was known to be good.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::classify::{self, ErrorClass, Failure};
use crate::clock::{Clock, UnixMillis};
use crate::platform::Stream;
use crate::settings::HubSettings;

pub(crate) type TlsConfig = Arc<ClientConfig>;

/// When this program was built, in ms since 1970: no certificate is checked against an earlier time.
fn built_at() -> UnixMillis {
    let seconds = env!("HUB_BRIDGE_BUILT_AT").parse::<i64>().unwrap_or(0);
    UnixMillis(seconds.saturating_mul(1000))
}

/// The latest time known to be good. Cheap to clone; the one who knows raises it, and keeps it over a restart.
#[derive(Debug, Clone)]
pub struct TimeFloor(Arc<AtomicI64>);

impl TimeFloor {
    /// Begins at the later of `known_good` and the date this program was built.
    pub fn new(known_good: Option<UnixMillis>) -> Self {
        let built = built_at();
        let floor = known_good.map_or(built, |known| known.max(built));
        Self(Arc::new(AtomicI64::new(floor.0)))
    }

    /// Moves the floor up to `known_good`; never down.
    pub fn raise(&self, known_good: UnixMillis) {
        self.0.fetch_max(known_good.0, Ordering::Relaxed);
    }

    /// The floor.
    pub fn get(&self) -> UnixMillis {
        UnixMillis(self.0.load(Ordering::Relaxed))
    }
}

impl Default for TimeFloor {
    fn default() -> Self {
        Self::new(None)
    }
}

struct FlooredClock {
    clock: Arc<dyn Clock>,
    floor: TimeFloor,
}

impl fmt::Debug for FlooredClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlooredClock").finish_non_exhaustive()
    }
}

impl TimeProvider for FlooredClock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = self.clock.wall().max(self.floor.get());
        let millis = u64::try_from(now.0).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_millis(millis)))
    }
}

/// Reads the files and makes the configuration; `None` where the URL is not `mqtts://`. Blocks on the disk.
pub(crate) fn load(
    hub: &HubSettings,
    clock: Arc<dyn Clock>,
    floor: TimeFloor,
) -> Result<Option<TlsConfig>, Failure> {
    if !hub.url.tls {
        return Ok(None);
    }
    let roots = roots(hub.ca_file.as_deref())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clock = Arc::new(FlooredClock { clock, floor });
    let builder = ClientConfig::builder_with_details(provider, clock)
        .with_safe_default_protocol_versions()
        .map_err(|error| tls_failure("protocol versions", &error))?
        .with_root_certificates(roots);
    let config = match (&hub.cert_file, &hub.key_file) {
        (Some(cert_file), Some(key_file)) => {
            let chain = certificates(cert_file)?;
            let key = PrivateKeyDer::from_pem_file(key_file)
                .map_err(|error| tls_failure(&key_file.display().to_string(), &error))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| tls_failure(&cert_file.display().to_string(), &error))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Some(Arc::new(config)))
}

/// Speaks TLS over `stream` with the hub at `host`.
pub(super) async fn handshake(
    config: TlsConfig,
    host: &str,
    stream: Box<dyn Stream>,
) -> Result<Box<dyn Stream>, Failure> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| tls_failure("the hub's name", &error))?;
    let connector = tokio_rustls::TlsConnector::from(config);
    let stream = connector.connect(name, stream).await;
    stream
        .map(|stream| Box::new(stream) as Box<dyn Stream>)
        .map_err(|error| classify::of_io(&error))
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    if let Some(ca_file) = ca_file {
        for certificate in certificates(ca_file)? {
            roots
                .add(certificate)
                .map_err(|error| tls_failure(&ca_file.display().to_string(), &error))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        let words = "no certificate authority: set hub.ca_file";
        return Err(Failure::new(ErrorClass::Tls, words));
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let name = file.display().to_string();
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| tls_failure(&name, &error))?;
    if certificates.is_empty() {
        let words = format!("{name}: no certificate in it");
        return Err(Failure::new(ErrorClass::Tls, words));
    }
    Ok(certificates)
}

fn tls_failure(what: &str, error: &dyn fmt::Display) -> Failure {
    Failure::new(ErrorClass::Tls, format!("{what}: {error}"))
}
