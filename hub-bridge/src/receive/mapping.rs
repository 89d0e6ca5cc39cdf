//! Columns out of payloads: JSON pointers, and what to say where a payload does not fit them.
//!
//! A payload that does not fit is stored all the same, whole, with the reason beside it.

use jiff::Timestamp;
use serde_json::Value;

use crate::hub::config::MappingSettings;

/// The longest meter name that is extracted, in bytes: it is in an index, which holds no long texts.
const METER_BYTES_MAX: usize = 256;
/// Unix times from here on are milliseconds: in seconds it would be the year 5138.
const MILLIS_FROM: f64 = 1e11;

/// What a payload says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mapped {
    /// The meter's name.
    pub meter: Option<String>,
    /// When it was measured, in microseconds since 1970.
    pub ts_us: Option<i64>,
    /// Power in kW. Finite, as the others.
    pub power_kw: Option<f64>,
    /// Cumulative energy in kWh.
    pub energy_kwh: Option<f64>,
    /// Voltage in V.
    pub voltage_v: Option<f64>,
    /// Why it does not fit, where it does not.
    pub unmapped: Option<String>,
}

/// Reads `payload` as `mapping` says. A field that is absent or null is no fault, unless all are.
pub fn map(mapping: &MappingSettings, payload: &[u8]) -> Mapped {
    let mut mapped = Mapped::default();
    if *mapping == MappingSettings::default() {
        return mapped;
    }
    let json: Value = match serde_json::from_slice(payload) {
        Ok(json) => json,
        Err(error) => {
            mapped.unmapped = Some(format!("not JSON: {error}"));
            return mapped;
        }
    };
    let mut fields = Fields {
        json: &json,
        found: false,
        wrong: Vec::new(),
    };
    mapped.meter = fields.get("meter", &mapping.meter, meter);
    mapped.ts_us = fields.get("ts", &mapping.ts, time_us);
    mapped.power_kw = fields.get("power_kw", &mapping.power_kw, number);
    mapped.energy_kwh = fields.get("energy_kwh", &mapping.energy_kwh, number);
    mapped.voltage_v = fields.get("voltage_v", &mapping.voltage_v, number);
    if !fields.found {
        fields
            .wrong
            .push("has none of the mapped fields".to_owned());
    }
    mapped.unmapped = (!fields.wrong.is_empty()).then(|| fields.wrong.join("; "));
    mapped
}

struct Fields<'a> {
    json: &'a Value,
    found: bool,
    wrong: Vec<String>,
}

impl Fields<'_> {
    fn get<T>(
        &mut self,
        name: &str,
        pointer: &str,
        read: impl Fn(&Value) -> Result<T, &'static str>,
    ) -> Option<T> {
        if pointer.is_empty() {
            return None;
        }
        let value = self.json.pointer(pointer).filter(|v| !v.is_null())?;
        self.found = true;
        match read(value) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.wrong.push(format!("{name}: {reason}"));
                None
            }
        }
    }
}

fn meter(value: &Value) -> Result<String, &'static str> {
    let name = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err("neither a text nor a number"),
    };
    if name.len() > METER_BYTES_MAX {
        return Err("longer than 256 bytes");
    }
    if name.contains('\0') {
        return Err("has a NUL in it");
    }
    Ok(name)
}

fn number(value: &Value) -> Result<f64, &'static str> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number
        .filter(|number| number.is_finite())
        .ok_or("not a number")
}

fn time_us(value: &Value) -> Result<i64, &'static str> {
    const WRONG: &str = "neither RFC 3339 nor a Unix time";
    let time = if let Value::String(text) = value
        && let Ok(time) = text.trim().parse::<Timestamp>()
    {
        time.as_microsecond()
    } else {
        let unix = number(value).map_err(|_| WRONG)?;
        let scale = if unix.abs() >= MILLIS_FROM { 1e3 } else { 1e6 };
        // Saturates, and what is so large no calendar holds.
        #[allow(clippy::cast_possible_truncation)]
        let time_us = (unix * scale).round() as i64;
        time_us
    };
    super::store::calendar_holds(time)
        .then_some(time)
        .ok_or("outside the years 1 to 9999")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> MappingSettings {
        MappingSettings {
            meter: "/meter".to_owned(),
            ts: "/ts".to_owned(),
            power_kw: "/values/0/kw".to_owned(),
            energy_kwh: "/kwh".to_owned(),
            voltage_v: "/v".to_owned(),
        }
    }

    #[test]
    fn what_fits_is_extracted() {
        let time = 1_780_000_000_123_000;
        for ts in [
            "1780000000123",
            "1780000000.123",
            "\"1780000000123\"",
            "\"2026-05-28T20:26:40.123Z\"",
            "\"2026-05-28T21:26:40.123+01:00\"",
        ] {
            let payload = format!(
                r#"{{"meter":"m-1","ts":{ts},"values":[{{"kw":1.5}}],"kwh":"12.25","v":null}}"#
            );
            let mapped = map(&all(), payload.as_bytes());
            assert_eq!(mapped.meter.as_deref(), Some("m-1"));
            assert_eq!(mapped.ts_us, Some(time), "{ts}");
            assert_eq!(
                (mapped.power_kw, mapped.energy_kwh),
                (Some(1.5), Some(12.25))
            );
            assert_eq!((mapped.voltage_v, mapped.unmapped), (None, None));
        }
        assert_eq!(map(&all(), br#"{"meter":17}"#).meter.as_deref(), Some("17"));
    }

    #[test]
    fn what_does_not_fit_says_why() {
        for (payload, reason) in [
            ("\u{1}", "not JSON"),
            ("", "not JSON"),
            (r#"{"kwh":1e999}"#, "not JSON"),
            ("{}", "none of the mapped fields"),
            ("[1]", "none of the mapped fields"),
            (r#"{"kwh":"NaN"}"#, "energy_kwh: not a number"),
            (r#"{"kwh":"inf","v":true}"#, "voltage_v: not a number"),
            (r#"{"ts":1e300}"#, "ts: "),
            (r#"{"ts":"yesterday"}"#, "ts: neither"),
            (r#"{"meter":"a\u0000b"}"#, "meter: has a NUL"),
            (r#"{"meter":{}}"#, "meter: neither"),
        ] {
            let unmapped = map(&all(), payload.as_bytes()).unmapped.unwrap();
            assert!(unmapped.contains(reason), "{payload}: {unmapped}");
        }
        let long = format!(r#"{{"meter":"{}"}}"#, "x".repeat(257));
        assert!(map(&all(), long.as_bytes()).unmapped.is_some());
        // Without a mapping there is nothing to fit.
        assert_eq!(map(&MappingSettings::default(), b"\x01"), Mapped::default());
    }
}
