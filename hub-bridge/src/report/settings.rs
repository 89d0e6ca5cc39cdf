//! The section `[report]` of `hub.toml`.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::identity::VillageId;

use super::roles::{Patterns, Roles};

/// `[report]`: what a report, and the meters' part of an audit, go by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReportSettings {
    /// The villages' time zone, an IANA name; days begin and end there. Default `Africa/Douala`.
    pub time_zone: Zone,
    /// Villages in another time zone.
    pub time_zones: BTreeMap<VillageId, Zone>,
    /// The meters that generate.
    pub generation: Patterns,
    /// Meters that are in no sum: batteries, a meter of the whole village.
    pub other: Patterns,
    /// No meter carries more, kW: a counter that rises faster was changed. Above 0; default 1,000.
    #[serde(deserialize_with = "above_zero")]
    pub power_kw_max: f64,
    /// Readings of power that are further apart say nothing of the time between. Default 1 hour.
    #[serde(serialize_with = "humane", deserialize_with = "duration")]
    pub power_gap_max: Duration,
    /// A meter's time before this day is a clock that was never set. Default 2005-01-01.
    pub oldest_day: Date,
}

impl Default for ReportSettings {
    fn default() -> Self {
        Self {
            time_zone: Zone::default(),
            time_zones: BTreeMap::new(),
            generation: Patterns::default(),
            other: Patterns::default(),
            power_kw_max: 1000.0,
            power_gap_max: Duration::from_secs(3600),
            oldest_day: jiff::civil::date(2005, 1, 1),
        }
    }
}

impl ReportSettings {
    /// A village's time zone.
    pub fn zone_of(&self, village: &str) -> &Zone {
        let own = village
            .parse()
            .ok()
            .and_then(|id: VillageId| self.time_zones.get(&id));
        own.unwrap_or(&self.time_zone)
    }

    /// Who is what.
    pub fn roles(&self) -> Roles<'_> {
        Roles {
            other: &self.other,
            generation: &self.generation,
        }
    }

    /// The oldest time that is believed.
    pub fn oldest(&self) -> Timestamp {
        let zoned = self.oldest_day.to_zoned(TimeZone::UTC);
        zoned.map_or(Timestamp::UNIX_EPOCH, |zoned| zoned.timestamp())
    }
}

/// A time zone of the tz database.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Zone(pub TimeZone);

/// Why a text is not a time zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time zone such as \"Africa/Douala\"")]
pub struct InvalidZone(String);

impl Zone {
    /// Its name.
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }
}

impl Serialize for Zone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Default for Zone {
    fn default() -> Self {
        // The tz database is compiled in, and has it.
        Self(TimeZone::get("Africa/Douala").unwrap_or(TimeZone::UTC))
    }
}

impl TryFrom<String> for Zone {
    type Error = InvalidZone;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        TimeZone::get(&text)
            .map(Self)
            .map_err(|_| InvalidZone(text))
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(text.trim()).map_err(|_| {
        serde::de::Error::custom(format!("{text:?} is not a duration such as \"1 h\""))
    })
}

fn humane<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*duration))
}

fn above_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let number = f64::deserialize(deserializer)?;
    if number.is_finite() && number > 0.0 {
        Ok(number)
    } else {
        Err(serde::de::Error::custom(format!("{number} is not above 0")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::roles::Role;

    #[test]
    fn a_section_is_read_and_a_wrong_one_refused() {
        let settings: ReportSettings = toml::from_str(
            r#"
            time_zone = "Europe/Berlin"
            power_gap_max = "30 min"
            oldest_day = "2020-01-01"
            [time_zones]
            lagos-1 = "Africa/Lagos"
            [generation]
            topics = ["pv/#"]
            meters = ["inverter-*"]
            "#,
        )
        .unwrap();
        assert_eq!(settings.zone_of("lagos-1").name(), "Africa/Lagos");
        assert_eq!(settings.zone_of("bamenda-1").name(), "Europe/Berlin");
        assert_eq!(settings.roles().of("pv/1", "x"), Role::Generation);
        assert_eq!(settings.oldest().to_string(), "2020-01-01T00:00:00Z");
        let written = toml::to_string(&settings).unwrap();
        assert_eq!(
            toml::from_str::<ReportSettings>(&written).unwrap(),
            settings
        );
        assert_eq!(ReportSettings::default().time_zone.name(), "Africa/Douala");
        for wrong in [
            "time_zone = \"Mars/Base\"",
            "power_gap_max = \"long\"",
            "generation = { topics = [\"a#\"] }",
            "time_zones = { \"a b\" = \"UTC\" }",
            "power_kw_max = 0.0",
            "tiem_zone = \"UTC\"",
        ] {
            assert!(toml::from_str::<ReportSettings>(wrong).is_err(), "{wrong}");
        }
    }
}
