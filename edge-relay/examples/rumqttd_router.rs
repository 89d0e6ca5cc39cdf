//! What rumqttd 0.20's router and codec do where the relay promises more: the evidence of
//! `docs/adr/0003-broker-core.md`.
//!
//! `cargo run -p edge-relay --example rumqttd_router`

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::{BufMut, BytesMut};
use rumqttd::local::{LinkBuilder, LinkRx, LinkTx};
use rumqttd::protocol::v4::V4;
use rumqttd::protocol::v5::V5;
use rumqttd::protocol::{
    Disconnect, DisconnectReasonCode, Filter, Packet, Protocol, Publish, QoS, RetainForwardRule,
    Subscribe, matches,
};
use rumqttd::{Router, RouterConfig};

const PUBLISHES: u16 = 6_000;

fn main() -> Result<()> {
    let (acknowledged, delivered) = absent_subscriber()?;
    println!(
        "persistent subscriber absent: {acknowledged} acknowledged, {delivered} delivered when it is back"
    );
    println!(
        "QoS of a publish with QoS 0 at a subscription with 1: {}",
        raised_qos()?
    );
    println!(
        "retained messages before and after an empty publish without the retain flag: {:?}",
        retained()?
    );
    // What panics below is the point; its message is not.
    std::panic::set_hook(Box::new(|_| {}));
    let matching = std::panic::catch_unwind(|| matches("é/1", "#"));
    println!("matching a topic that begins with é: {}", said(&matching));
    let connack = std::panic::catch_unwind(|| decode_v5(&[0x20, 3, 0, 0, 0]));
    println!("a client of MQTT 5 that sends CONNACK: {}", said(&connack));
    // A property list of two bytes that holds a property of five.
    let beyond = decode_v5(&[0x30, 10, 0, 1, b'a', 2, 2, 0, 0, 0, 9, b'x']);
    println!("PUBLISH whose property goes past its list: {beyond:?}");
    let wildcard = decode(&[0x30, 4, 0, 1, b'#', b'x']);
    println!("PUBLISH to a wildcard: {wildcard:?}");
    let mut goodbye = BytesMut::new();
    let reason_code = DisconnectReasonCode::ServerShuttingDown;
    V5.write(
        Packet::Disconnect(Disconnect { reason_code }, None),
        &mut goodbye,
    )?;
    println!(
        "DISCONNECT 0x8B is written as {:02x?}: a byte more than its length says",
        &goodbye[..]
    );
    Ok(())
}

fn said<T: std::fmt::Debug>(result: &std::thread::Result<T>) -> String {
    result
        .as_ref()
        .map_or("it panics".to_owned(), |value| format!("{value:?}"))
}

fn decode(bytes: &[u8]) -> Result<Packet, rumqttd::protocol::Error> {
    V4.read_mut(&mut BytesMut::from(bytes), 1000)
}

fn decode_v5(bytes: &[u8]) -> Result<Packet, rumqttd::protocol::Error> {
    V5.read_mut(&mut BytesMut::from(bytes), 1000)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    Ok(builder.enable_time().build()?)
}

fn raised_qos() -> Result<u8> {
    let router = Router::new(0, config()).spawn();
    let runtime = runtime()?;
    let (mut reader, mut to_reader, _) = LinkBuilder::new("reader", router.clone()).build()?;
    runtime.block_on(reader.send(Packet::Subscribe(subscribe(), None)))?;
    let (mut meter, _to_meter, _) = LinkBuilder::new("meter", router).build()?;
    runtime.block_on(meter.send(Packet::Publish(Publish::new("a", "x", false), None)))?;
    let publish = received(&mut to_reader, &runtime)?;
    let first = publish.first().map(Publish::serialize);
    let head = first.as_ref().and_then(|bytes| bytes.first());
    Ok(head.context("nothing came")? >> 1 & 3)
}

/// How many a new subscriber gets.
fn retained() -> Result<(usize, usize)> {
    let router = Router::new(0, config()).spawn();
    let runtime = runtime()?;
    let (mut meter, _to_meter, _) = LinkBuilder::new("meter", router.clone()).build()?;
    let mut kept = |payload: &'static str, retain, id| -> Result<usize> {
        let publish = Publish::new("a", payload, retain);
        runtime.block_on(meter.send(Packet::Publish(publish, None)))?;
        std::thread::sleep(Duration::from_millis(200));
        let (mut reader, mut to_reader, _) = LinkBuilder::new(id, router.clone()).build()?;
        runtime.block_on(reader.send(Packet::Subscribe(subscribe(), None)))?;
        Ok(received(&mut to_reader, &runtime)?.len())
    };
    Ok((kept("x", true, "before")?, kept("", false, "after")?))
}

/// The publishes that come until nothing does for a moment.
fn received(rx: &mut LinkRx, runtime: &tokio::runtime::Runtime) -> Result<Vec<Publish>> {
    let mut publishes = Vec::new();
    loop {
        let Ok(notification) = rx.recv_deadline(Instant::now() + Duration::from_millis(300)) else {
            return Ok(publishes);
        };
        match notification.map(Option::<Packet>::from) {
            Some(Some(Packet::Publish(publish, _))) => publishes.push(publish),
            Some(None) => runtime.block_on(async {
                let _ = tokio::time::timeout(Duration::from_millis(50), rx.wake()).await;
            }),
            _ => {}
        }
    }
}

fn config() -> RouterConfig {
    RouterConfig {
        max_connections: 10,
        max_outgoing_packet_count: 200,
        max_segment_size: 100 * 1024,
        max_segment_count: 8,
        ..RouterConfig::default()
    }
}

/// A persistent subscriber goes, 6,000 publishes of 200 bytes are acknowledged, it comes back.
fn absent_subscriber() -> Result<(usize, usize)> {
    let router = Router::new(0, config()).spawn();
    let link = |id, clean| {
        LinkBuilder::new(id, router.clone())
            .clean_session(clean)
            .build()
            .context("a link")
    };
    let runtime = runtime()?;
    let (mut reader, mut to_reader, _) = link("reader", false)?;
    runtime.block_on(reader.send(Packet::Subscribe(subscribe(), None)))?;
    until_quiet(&mut to_reader, &mut reader, &runtime)?;
    let goodbye = Disconnect {
        reason_code: DisconnectReasonCode::NormalDisconnection,
    };
    runtime.block_on(reader.send(Packet::Disconnect(goodbye, None)))?;

    let (mut meter, mut to_meter, _) = link("meter", true)?;
    let mut acknowledged = 0;
    for id in 1..=PUBLISHES {
        runtime.block_on(meter.send(publish(id)?))?;
        if id % 100 == 0 {
            acknowledged += until_quiet(&mut to_meter, &mut meter, &runtime)?;
        }
    }
    let (mut reader, mut to_reader, _) = link("reader", false)?;
    let delivered = until_quiet(&mut to_reader, &mut reader, &runtime)?;
    Ok((acknowledged, delivered))
}

/// Counts acknowledgements and messages until nothing comes for a moment; acknowledges the latter.
fn until_quiet(
    rx: &mut LinkRx,
    tx: &mut LinkTx,
    runtime: &tokio::runtime::Runtime,
) -> Result<usize> {
    let mut count = 0;
    loop {
        let Ok(notification) = rx.recv_deadline(Instant::now() + Duration::from_millis(300)) else {
            return Ok(count);
        };
        match notification.map(Option::<Packet>::from) {
            Some(Some(Packet::PubAck(..))) => {
                count += 1;
                if count == 100 {
                    return Ok(count);
                }
            }
            Some(Some(Packet::Publish(publish, _))) => {
                count += 1;
                let head = publish.serialize();
                let (Some(high), Some(low)) = (head.get(1), head.get(2)) else {
                    bail!("a publish without a head");
                };
                let ack = decode(&[0x40, 2, *high, *low])?;
                runtime.block_on(tx.send(ack))?;
            }
            Some(None) => runtime.block_on(async {
                let _ = tokio::time::timeout(Duration::from_millis(50), rx.wake()).await;
            }),
            _ => {}
        }
    }
}

fn subscribe() -> Subscribe {
    Subscribe {
        pkid: 1,
        filters: vec![Filter {
            path: "a".to_owned(),
            qos: QoS::AtLeastOnce,
            nolocal: false,
            preserve_retain: false,
            retain_forward_rule: RetainForwardRule::OnEverySubscribe,
        }],
    }
}

/// Through the codec, since `Publish` keeps `QoS` and packet id to itself.
fn publish(id: u16) -> Result<Packet> {
    let mut bytes = BytesMut::new();
    bytes.put_slice(&[0x32, 0xCD, 0x01, 0, 1, b'a']);
    bytes.put_u16(id);
    bytes.put_bytes(b'x', 200);
    Ok(V4.read_mut(&mut bytes, 1000)?)
}
