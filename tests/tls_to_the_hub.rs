//! `mqtts://`: the hub is believed only with a certificate of the named authority, also by a gateway whose
//! clock stands in 1970.

use std::fs;
use std::path::PathBuf;

use harness::meter::Habits;
use harness::{Clock, Hub, Ledger, Meter, Relay, Subscriber, VILLAGE};
use harness::{port, skip, within};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};

/// An authority, and PEM files of what it signs.
struct Authority {
    home: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = rcgen::date_time_ymd(2024, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(home.path().join("ca.pem"), certificate.pem()).unwrap();
        Self {
            home,
            issuer: Issuer::new(params, key),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn sign(&self, name: &str, until_year: i32) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2024, 1, 1);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_after = rcgen::date_time_ymd(until_year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.file(&format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(self.file(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// A mosquitto with a second listener for TLS, which wants a certificate of `client_authority`.
fn hub_with_tls(hub: &Authority, client_authority: &Authority) -> (Hub, u16) {
    let port = port::free().port();
    let hub = Hub::start_with(&format!(
        "max_inflight_messages 0\nlistener {port} 127.0.0.1\nallow_anonymous true\nrequire_certificate true\n\
         certfile {}\nkeyfile {}\ncafile {}\n",
        hub.file("localhost.pem").display(),
        hub.file("localhost.key").display(),
        client_authority.file("ca.pem").display(),
    ));
    (hub, port)
}

fn relay(port: u16, authority: &Authority, client: &Authority) -> Relay {
    let mut relay = Relay::new(harness::port::free());
    relay.set("hub.url", format!("mqtts://localhost:{port}"));
    let path = |file: PathBuf| file.to_str().unwrap().to_owned();
    relay.set("hub.ca_file", path(authority.file("ca.pem")));
    relay.set("hub.cert_file", path(client.file("gateway.pem")));
    relay.set("hub.key_file", path(client.file("gateway.key")));
    relay
        .set("hub.retry_max", "1s")
        .set("hub.retry_max_rejected", "1s");
    relay
}

#[test]
fn readings_cross_with_the_right_certificates_only() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for one in [&authority, &stranger] {
        one.sign("localhost", 2040);
        one.sign("gateway", 2040);
    }
    let (hub, port) = hub_with_tls(&authority, &authority);
    for (name, hub_authority, client) in [
        ("hub not known", &stranger, &authority),
        ("gateway not known", &authority, &stranger),
    ] {
        let ledger = Ledger::new(VILLAGE);
        let _subscriber = Subscriber::start(hub.address, &ledger);
        let mut relay = relay(port, hub_authority, client);
        relay.start();
        Meter::new(&ledger, "meter", Habits::new(relay.mqtt))
            .publish(10)
            .unwrap();
        relay.wait_status("it backs off", within(20), |status| {
            status["uplink"]["state"] == "backing_off"
        });
        assert_eq!(
            (relay.backlog(), ledger.sums().at_hub),
            (Some(10), 0),
            "{name}"
        );

        let right = |file: &str| authority.file(file).to_str().unwrap().to_owned();
        relay.set("hub.ca_file", right("ca.pem"));
        relay.set("hub.cert_file", right("gateway.pem"));
        relay.set("hub.key_file", right("gateway.key"));
        relay.write_config();
        ledger.settle(name, within(20));
        relay.wait_drained(within(20));
    }
}

#[test]
fn an_expired_hub_is_not_believed() {
    let authority = Authority::new();
    authority.sign("localhost", 2025);
    authority.sign("gateway", 2040);
    let ledger = Ledger::new(VILLAGE);
    let (_hub, port) = hub_with_tls(&authority, &authority);
    let mut relay = relay(port, &authority, &authority);
    relay.start();
    Meter::new(&ledger, "meter", Habits::new(relay.mqtt))
        .publish(10)
        .unwrap();
    relay.wait_status("the class is tls", within(20), |status| {
        status["uplink"].to_string().contains("tls")
    });
    assert_eq!(relay.backlog(), Some(10));
}

#[test]
fn a_gateway_in_1970_reaches_its_hub() {
    let test = "a_gateway_in_1970_reaches_its_hub";
    let clock = match Clock::showing(1000) {
        Ok(clock) => clock,
        Err(reason) => return skip(test, &reason),
    };
    let authority = Authority::new();
    authority.sign("localhost", 2040);
    authority.sign("gateway", 2040);
    let ledger = Ledger::new(VILLAGE);
    let (hub, port) = hub_with_tls(&authority, &authority);
    let _subscriber = Subscriber::start(hub.address, &ledger);
    let mut relay = relay(port, &authority, &authority);
    clock.rule(&mut relay);
    relay.start();
    Meter::new(&ledger, "meter", Habits::new(relay.mqtt))
        .publish(10)
        .unwrap();
    ledger.settle(test, within(20));
}
