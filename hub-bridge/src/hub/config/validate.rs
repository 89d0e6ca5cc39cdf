//! From the keys as they are written to what the commands take.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::problem::Complaints;
use super::written::{Broker, Database, Kafka, Mapping, Receive, Written};
use super::{
    BrokerSettings, DatabaseSettings, HubConfig, KafkaSettings, LogSettings, MappingSettings,
    ReceiveSettings, read_small,
};
use crate::receive::topics::PlainTopics;
use crate::settings::{HubSettings, HubUrl, Secret, TopicTemplate};

pub(super) fn validate(written: Written, base: &Path, to: &mut Complaints) -> Option<HubConfig> {
    let broker = broker(written.broker, base, to);
    let database = database(written.database, base, to);
    let receive = receive(&written.receive, to);
    let republish = topic("republish.topic", &written.republish.topic, to);
    let mapping = mapping(written.mapping, to);
    let admin = address(&written.admin.listen, to);
    let kafka = kafka(written.kafka, to);
    let log = LogSettings {
        level: written.log.level,
        format: written.log.format,
    };
    if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&log.level) {
        to.add("log.level", error, Some("error, warn, info, debug, trace"));
    }
    Some(HubConfig {
        broker: broker?,
        database: database?,
        receive: receive?,
        republish: republish?,
        mapping,
        admin: admin?,
        kafka,
        log,
        import: written.import.at(base),
    })
}

fn broker(written: Broker, base: &Path, to: &mut Complaints) -> Option<BrokerSettings> {
    let allowed = "mqtt://host[:port] or mqtts://host[:port]";
    let url = written.url.parse::<HubUrl>();
    let url = to.check("broker.url", url, Some(allowed))?;
    let mut hub = HubSettings::new(url);
    hub.username = written.username;
    let file = written.password_file;
    hub.password = password("broker", written.password, file, base, to);
    hub.ca_file = there("broker.ca_file", written.ca_file, base, to);
    hub.cert_file = there("broker.cert_file", written.cert_file, base, to);
    hub.key_file = there("broker.key_file", written.key_file, base, to);
    to.require(
        hub.cert_file.is_some() == hub.key_file.is_some(),
        "broker.cert_file",
        "a certificate needs its key, and a key its certificate",
        "both of cert_file and key_file, or none",
    );
    hub.protocol = written.protocol;
    let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
    hub.keep_alive = span(
        "broker.keep_alive",
        &written.keep_alive,
        5 * second,
        hour,
        to,
    )?;
    let timeout = &written.connect_timeout;
    hub.connect_timeout = span("broker.connect_timeout", timeout, second, hour, to)?;
    to.require(
        (1..=64).contains(&written.client_id.len())
            && written
                .client_id
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')),
        "broker.client_id",
        "cannot begin client ids",
        "1 to 64 characters of A-Z a-z 0-9 - _ .",
    );
    Some(BrokerSettings {
        hub,
        client_id: written.client_id,
    })
}

fn database(written: Database, base: &Path, to: &mut Complaints) -> Option<DatabaseSettings> {
    let key = "database.url";
    let allowed = "postgres://user@host[:port]/database[?sslmode=require]";
    let file = written.password_file;
    let password = password("database", written.password, file, base, to);
    let ca_file = there("database.ca_file", written.ca_file, base, to);
    let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
    let connect = &written.connect_timeout;
    let connect = span("database.connect_timeout", connect, second, hour, to);
    let statement = &written.statement_timeout;
    let statement = span("database.statement_timeout", statement, second, hour, to);
    // The parser's own words never hold a part of the URL.
    let config = written.url.parse::<tokio_postgres::Config>();
    let mut config = to.check(key, config, Some(allowed))?;
    to.require(
        !config.get_hosts().is_empty() && config.get_dbname().is_some(),
        key,
        "names no host or no database",
        allowed,
    );
    if let Some(password) = password {
        config.password(password.expose());
    }
    config.application_name("hub-bridge");
    config.connect_timeout(connect?);
    config.keepalives_idle(Duration::from_secs(15));
    config.tcp_user_timeout(Duration::from_secs(30));
    let options = config.get_options().unwrap_or_default().to_owned();
    let millis = statement?.as_millis();
    config.options(format!("{options} -c statement_timeout={millis} -c TimeZone=UTC").trim());
    Some(DatabaseSettings { config, ca_file })
}

fn receive(written: &Receive, to: &mut Complaints) -> Option<ReceiveSettings> {
    let topic = topic("receive.topic", &written.topic, to);
    if let Some(Some(topic)) = &topic {
        let plain = PlainTopics::new(topic).map(|_| ());
        to.check("receive.topic", plain, None);
    }
    to.require(
        (1..=256).contains(&written.partitions),
        "receive.partitions",
        "out of bounds",
        "1 to 256",
    );
    to.require(
        (1..=100_000).contains(&written.batch_readings_max),
        "receive.batch_readings_max",
        "out of bounds",
        "1 to 100000",
    );
    let group = &written.group;
    to.require(
        !group.is_empty() && !group.contains(['/', '+', '#', '\0']),
        "receive.group",
        "cannot name a shared subscription",
        "a text without / + #",
    );
    let (none, second) = (Duration::ZERO, Duration::from_secs(1));
    let linger = span("receive.linger", &written.linger, none, 10 * second, to);
    let queue = size("receive.queue_bytes_max", &written.queue_bytes_max, to);
    let packet = size("receive.packet_bytes_max", &written.packet_bytes_max, to);
    let (queue, packet) = (queue?, packet?);
    to.require(
        queue >= packet,
        "receive.queue_bytes_max",
        "is less than packet_bytes_max",
        "at least receive.packet_bytes_max",
    );
    Some(ReceiveSettings {
        topic: topic?,
        shared: written.shared,
        group: group.clone(),
        partitions: written.partitions,
        batch_readings_max: written.batch_readings_max,
        linger: linger?,
        queue_bytes_max: usize::try_from(queue).ok()?,
        packet_bytes_max: packet,
    })
}

fn mapping(written: Mapping, to: &mut Complaints) -> MappingSettings {
    let mut pointer = |key: &str, pointer: String| {
        to.require(
            pointer.is_empty() || pointer.starts_with('/'),
            &format!("mapping.{key}"),
            "is not a JSON pointer",
            "a pointer such as /meter or /values/0/kw, or nothing",
        );
        pointer
    };
    MappingSettings {
        meter: pointer("meter", written.meter),
        ts: pointer("ts", written.ts),
        power_kw: pointer("power_kw", written.power_kw),
        energy_kwh: pointer("energy_kwh", written.energy_kwh),
        voltage_v: pointer("voltage_v", written.voltage_v),
    }
}

fn kafka(written: Kafka, to: &mut Complaints) -> Option<KafkaSettings> {
    if written == Kafka::default() {
        return None;
    }
    to.require(
        !written.brokers.is_empty() && !written.topic.is_empty(),
        "kafka",
        "needs both brokers and topic",
        "brokers = \"host:9092\", topic = \"readings\"; or neither",
    );
    to.require(
        cfg!(feature = "kafka"),
        "kafka",
        "this program was built without Kafka",
        "a build with `--features kafka`, or no [kafka]",
    );
    Some(KafkaSettings {
        brokers: written.brokers,
        topic: written.topic,
    })
}

/// `Some(None)` where it is empty.
#[allow(clippy::option_option, reason = "complained of, not wanted, or there")]
fn topic(key: &str, text: &str, to: &mut Complaints) -> Option<Option<TopicTemplate>> {
    if text.is_empty() {
        return Some(None);
    }
    let allowed = "such as villages/{village_id}/{topic}, or nothing";
    to.check(key, text.parse(), Some(allowed)).map(Some)
}

#[allow(clippy::option_option, reason = "complained of, not wanted, or there")]
fn address(text: &str, to: &mut Complaints) -> Option<Option<std::net::SocketAddr>> {
    if text.is_empty() {
        return Some(None);
    }
    let allowed = "address:port, or nothing";
    to.check("admin.listen", text.parse(), Some(allowed))
        .map(Some)
}

fn span(
    key: &str,
    text: &str,
    min: Duration,
    max: Duration,
    to: &mut Complaints,
) -> Option<Duration> {
    let (low, high) = (
        humantime::format_duration(min),
        humantime::format_duration(max),
    );
    let allowed = format!("{low} to {high}, such as \"15s\"");
    let span = humantime::parse_duration(text.trim());
    let span = to.check(key, span, Some(&allowed))?;
    to.require((min..=max).contains(&span), key, "out of bounds", &allowed);
    Some(span)
}

fn size(key: &str, text: &str, to: &mut Complaints) -> Option<u32> {
    let allowed = "64 KiB to 2 GiB, such as \"16 MiB\"";
    let size = text.trim().parse::<bytesize::ByteSize>();
    let size = to.check(key, size, Some(allowed))?.as_u64();
    let fits = (64 << 10..=2 << 30).contains(&size);
    to.require(fits, key, "out of bounds", allowed);
    u32::try_from(size).ok()
}

fn there(key: &str, file: Option<PathBuf>, base: &Path, to: &mut Complaints) -> Option<PathBuf> {
    let file = base.join(file?);
    let opened = std::fs::File::open(&file).map(|_| ());
    to.check(
        key,
        opened.map_err(|error| format!("{}: {error}", file.display())),
        Some("a file that can be read"),
    );
    Some(file)
}

fn password(
    section: &str,
    direct: Option<String>,
    file: Option<PathBuf>,
    base: &Path,
    to: &mut Complaints,
) -> Option<Secret> {
    if let Some(direct) = direct {
        return Some(Secret::new(direct));
    }
    let key = format!("{section}.password_file");
    let file = base.join(file?);
    let text = read_small(&file).map_err(|error| format!("{}: {error}", file.display()));
    let text = to.check(&key, text, Some("a file whose first line is the password"))?;
    Some(Secret::new(text.lines().next().unwrap_or_default()))
}
