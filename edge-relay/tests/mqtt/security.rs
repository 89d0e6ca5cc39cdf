//! Who is let in; TLS.

use std::sync::Arc;

use edge_relay::listener::TlsSettings;
use edge_relay::users;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::client::{Client, connect, text};
use crate::relay::{Relay, settings};

async fn login(
    relay: &Relay,
    level: u8,
    name: Option<&str>,
    password: Option<&str>,
) -> (u8, Vec<u8>) {
    let mut flags = 2;
    let mut rest = Vec::new();
    if let Some(name) = name {
        flags |= 0x80;
        rest.extend(text(name));
    }
    if let Some(password) = password {
        flags |= 0x40;
        rest.extend(text(password));
    }
    let mut client = Client::open(relay.addr).await;
    client
        .send(&connect(level, flags, 0, &[], "c", &rest))
        .await;
    client.packet().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_may_is_let_in_and_users_change_while_it_runs() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let file = dir.path().join("users");
    users::add(&file, "meter", "right").unwrap();
    let of_relay = file.clone();
    let strict = move |s: &mut edge_relay::listener::Settings| {
        s.allow_anonymous = false;
        s.users_file = Some(of_relay);
    };
    let relay = Relay::start_in(dir.clone(), u64::MAX / 2, strict.clone()).await;
    assert_eq!(
        login(&relay, 4, Some("meter"), Some("right")).await,
        (0x20, vec![0, 0])
    );
    assert_eq!(
        login(&relay, 4, Some("meter"), Some("wrong")).await,
        (0x20, vec![0, 4])
    );
    assert_eq!(login(&relay, 4, None, None).await, (0x20, vec![0, 5]));
    assert_eq!(
        login(&relay, 5, Some("meter"), Some("wrong")).await.1[1],
        0x86
    );
    assert_eq!(
        login(&relay, 5, Some("nobody"), Some("right")).await.1[1],
        0x86
    );
    assert_eq!(login(&relay, 5, None, None).await.1[1], 0x87);
    assert_eq!(relay.stats.auth_failures_total.get(), 5);

    users::add(&file, "meter", "changed").unwrap();
    let mut again = settings(dir.path());
    strict(&mut again);
    again.listen = relay.addr;
    assert_eq!(relay.handle.apply(again).unwrap(), ["listen"]);
    assert_eq!(
        login(&relay, 4, Some("meter"), Some("right")).await,
        (0x20, vec![0, 4])
    );
    assert_eq!(
        login(&relay, 4, Some("meter"), Some("changed")).await,
        (0x20, vec![0, 0])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn meters_may_come_over_tls_and_a_certificate_is_as_good_as_a_password() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let meter = rcgen::generate_simple_self_signed(vec!["meter".to_owned()]).unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("cert"), server.cert.pem()).unwrap();
    std::fs::write(path("key"), server.signing_key.serialize_pem()).unwrap();
    std::fs::write(path("ca"), meter.cert.pem()).unwrap();
    let tls = TlsSettings {
        listen: ([127, 0, 0, 1], 0).into(),
        cert_file: path("cert"),
        key_file: path("key"),
        client_ca_file: Some(path("ca")),
    };
    let relay = Relay::start_in(dir.clone(), u64::MAX / 2, |s| {
        s.allow_anonymous = false;
        s.tls = Some(tls);
    })
    .await;

    // A plain client on the TLS port disturbs nobody.
    let mut plain = Client::open(relay.tls_addr.unwrap()).await;
    plain.send(&connect(4, 2, 0, &[], "plain", &[])).await;

    let mut roots = rustls::RootCertStore::empty();
    roots.add(server.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let certificate = CertificateDer::from_pem_slice(meter.cert.pem().as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(meter.signing_key.serialize_pem().as_bytes()).unwrap();
    let config = builder
        .with_client_auth_cert(vec![certificate], key)
        .unwrap();
    let stream = TcpStream::connect(relay.tls_addr.unwrap()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap();
    stream
        .write_all(&connect(4, 2, 0, &[], "meter", &[]))
        .await
        .unwrap();
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).await.unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
    relay
        .until("the plain one was noticed", |s| {
            s.tls_failures_total.get() == 1
        })
        .await;
}
