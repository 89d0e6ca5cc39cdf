//! Which meters generate, which consume, and which are in neither sum.
//!
//! A meter is named by its topic (as the meter published it, an MQTT topic filter) or by its name (`*` stands for any
//! characters). What is named nowhere consumes. A meter of the whole village beside those of its customers, or a battery,
//! belongs under `other`: it would be counted twice.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a meter's energy counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Produced in the village.
    Generation,
    /// Used in the village.
    Consumption,
    /// Reported, and in no sum.
    Other,
}

impl Role {
    /// As in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Generation => "generation",
            Self::Consumption => "consumption",
            Self::Other => "other",
        }
    }
}

/// The patterns of one role.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Patterns {
    /// Topic filters, such as `pv/#`.
    pub topics: Vec<TopicPattern>,
    /// Names of meters, such as `inverter-*`.
    pub meters: Vec<MeterPattern>,
}

impl Patterns {
    fn name(&self, topic: &str, meter: &str) -> bool {
        self.topics.iter().any(|pattern| pattern.matches(topic))
            || self.meters.iter().any(|pattern| pattern.matches(meter))
    }
}

/// Who is what.
#[derive(Debug, Clone, Copy)]
pub struct Roles<'a> {
    /// First asked.
    pub other: &'a Patterns,
    /// Asked next.
    pub generation: &'a Patterns,
}

impl Roles<'_> {
    /// The role of a meter.
    pub fn of(&self, topic: &str, meter: &str) -> Role {
        if self.other.name(topic, meter) {
            Role::Other
        } else if self.generation.name(topic, meter) {
            Role::Generation
        } else {
            Role::Consumption
        }
    }
}

/// A topic filter as in MQTT: `+` one level, `#` all that follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct TopicPattern(String);

/// Why a text is not a topic filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a topic filter: + and # stand alone in their level, and # is the last one")]
pub struct InvalidTopicPattern(String);

impl TopicPattern {
    fn matches(&self, topic: &str) -> bool {
        let mut names = topic.split('/');
        for level in self.0.split('/') {
            if level == "#" {
                return true;
            }
            match names.next() {
                Some(name) if level == "+" || level == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }
}

impl FromStr for TopicPattern {
    type Err = InvalidTopicPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let levels: Vec<&str> = text.split('/').collect();
        let last = levels.len().saturating_sub(1);
        let valid = |(index, level): (usize, &&str)| {
            !level.contains(['+', '#', '\0']) || *level == "+" || (*level == "#" && index == last)
        };
        if text.is_empty() || !levels.iter().enumerate().all(valid) {
            return Err(InvalidTopicPattern(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for TopicPattern {
    type Error = InvalidTopicPattern;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// A meter's name; `*` stands for any characters, none too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MeterPattern(String);

impl MeterPattern {
    fn matches(&self, meter: &str) -> bool {
        let Some((head, rest)) = self.0.split_once('*') else {
            return self.0 == meter;
        };
        let Some(mut left) = meter.strip_prefix(head) else {
            return false;
        };
        let Some((middle, tail)) = rest.rsplit_once('*') else {
            return left.ends_with(rest);
        };
        for part in middle.split('*') {
            let Some((_, after)) = left.split_once(part) else {
                return false;
            };
            left = after;
        }
        left.ends_with(tail)
    }
}

impl From<&str> for MeterPattern {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        let cases = [
            ("pv-1", "pv-1", true),
            ("pv-1", "pv-10", false),
            ("pv-*", "pv-10", true),
            ("pv-*", "xpv-1", false),
            ("*-pv", "roof-pv", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*pv*", "roof-pv-1", true),
            ("m*b*c*z", "m1b2c3z", true),
            ("m*b*c*z", "m1c2b3z", false),
            ("*", "", true),
        ];
        for (pattern, meter, is) in cases {
            assert_eq!(
                MeterPattern::from(pattern).matches(meter),
                is,
                "{pattern} {meter}"
            );
        }
    }

    #[test]
    fn what_is_named_nowhere_consumes() {
        let patterns = |topic: &str, meter: &str| Patterns {
            topics: vec![topic.parse().unwrap()],
            meters: vec![meter.into()],
        };
        let (other, generation) = (patterns("grid/total", "battery*"), patterns("pv/#", "inv*"));
        let roles = Roles {
            other: &other,
            generation: &generation,
        };
        assert_eq!(roles.of("pv/roof/1", "x"), Role::Generation);
        assert_eq!(roles.of("pv", "x"), Role::Generation);
        assert_eq!(roles.of("a/b", "inv-1"), Role::Generation);
        assert_eq!(roles.of("pv/1", "battery-1"), Role::Other);
        assert_eq!(roles.of("grid/total", "x"), Role::Other);
        assert_eq!(roles.of("grid/total/1", "x"), Role::Consumption);
    }

    #[test]
    fn a_filter_that_is_none_is_refused() {
        for bad in ["", "a/#/b", "a#", "a/b+", "\0"] {
            assert!(bad.parse::<TopicPattern>().is_err(), "{bad}");
        }
        for good in ["#", "+/a/#", "a//b", "/"] {
            assert!(good.parse::<TopicPattern>().is_ok(), "{good}");
        }
    }
}
