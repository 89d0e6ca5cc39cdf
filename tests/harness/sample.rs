//! The real household's minutes as the readings of a fleet: values of the sample, shifted in time and scaled for each
//! meter, so that no two meters say the same; and a counter of energy, as mini-grid meters have.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::packet::{Connect, Publish, Version, kind};
use crate::raw::Raw;

/// A reading of the fleet.
#[derive(Debug, Clone)]
pub struct Sampled {
    /// From 0.
    pub meter: usize,
    /// JSON of about 200 bytes.
    pub payload: String,
}

impl Sampled {
    /// The meter's client id.
    pub fn client_id(&self) -> String {
        client_id(self.meter)
    }

    /// Where the meter publishes.
    pub fn topic(&self) -> String {
        format!("meters/{}/readings", client_id(self.meter))
    }
}

fn client_id(meter: usize) -> String {
    format!("meter-{meter:03}")
}

/// The sample's file, if it is there.
pub fn file() -> Option<PathBuf> {
    let path = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared/data/household-2007-02.csv"
    ));
    path.exists().then_some(path)
}

/// One row of the sample.
#[derive(Debug, Clone, Copy)]
struct Minute {
    active: f64,
    reactive: f64,
    voltage: f64,
    current: f64,
    subs: [u32; 3],
}

fn minutes() -> Option<Vec<Minute>> {
    let csv = std::fs::read_to_string(file()?).ok()?;
    let row = |line: &str| {
        let f: Vec<f64> = line
            .split(',')
            .skip(1)
            .map(|f| f.parse().unwrap())
            .collect();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // whole watt hours
        let sub = |n: usize| f[n] as u32;
        Minute {
            active: f[0],
            reactive: f[1],
            voltage: f[2],
            current: f[3],
            subs: [sub(4), sub(5), sub(6)],
        }
    };
    Some(csv.lines().skip(1).map(row).collect())
}

/// `steps` readings of each of `meters`, `every` minutes apart, in the order of time; `None` where the sample is not there.
/// The first meter says the sample's own values.
pub fn fleet(meters: usize, steps: usize, every: usize) -> Option<Vec<Sampled>> {
    let minutes = minutes()?;
    let mut energy_wh = vec![0.0; meters];
    let mut readings = Vec::with_capacity(meters * steps);
    for step in 0..steps {
        for (meter, energy_wh) in energy_wh.iter_mut().enumerate() {
            let row = (step * every + meter * 211) % minutes.len();
            let factor = 1.0 + (meter * 37 % 100) as f64 / 125.0;
            let minute = minutes[row];
            *energy_wh += minute.active * factor * 1000.0 / 60.0 * every as f64;
            let seconds = 60 * step * every;
            let [one, two, three] = minute.subs;
            let payload = format!(
                "{{\"uptime_s\":{seconds},\"ts\":\"2026-02-{:02}T{:02}:{:02}:00Z\",\"meter\":\"{}\",\"active_power_kw\":{:.3},\"reactive_power_kvar\":{:.3},\
                 \"voltage_v\":{:.2},\"current_a\":{:.1},\"sub_metering_wh\":[{one},{two},{three}],\"energy_kwh\":{:.3}}}",
                1 + seconds / 86_400 % 28,
                seconds / 3600 % 24,
                seconds / 60 % 60,
                client_id(meter),
                minute.active * factor,
                minute.reactive * factor,
                minute.voltage - factor,
                minute.current * factor,
                *energy_wh / 1000.0
            );
            readings.push(Sampled { meter, payload });
        }
    }
    Some(readings)
}

/// Publishes `readings` at `QoS` 1, each meter over a connection of its own, in their order, and returns when all are
/// acknowledged.
pub fn publish(broker: SocketAddr, readings: &[Sampled]) -> io::Result<()> {
    let mut meters: Vec<(Raw, u16)> = Vec::new();
    for chunk in readings.chunks(500) {
        let mut waiting = Vec::new();
        for reading in chunk {
            while meters.len() <= reading.meter {
                let connect = Connect::new(Version::V4, &client_id(meters.len()));
                let (raw, _, code) = Raw::connect(broker, &connect)?;
                if code != 0 {
                    return Err(ErrorKind::ConnectionRefused.into());
                }
                meters.push((raw, 0));
            }
            let (raw, id) = &mut meters[reading.meter];
            *id = id.checked_add(1).unwrap_or(1);
            let publish = Publish::new(&reading.topic(), reading.payload.as_bytes(), *id);
            raw.send(&publish.encode(Version::V4))?;
            waiting.push(reading.meter);
        }
        for meter in waiting {
            meters[meter].0.receive_kind(kind::PUBACK)?;
        }
    }
    Ok(())
}
