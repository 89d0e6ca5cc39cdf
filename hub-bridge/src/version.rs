//! Which version of MQTT to offer the hub next, under `protocol = "auto"`.
//!
//! A hub that knows 3.1.1 only mostly closes the connection on an MQTT 5 CONNECT, or answers with a CONNACK that
//! only a 3.1.1 parser can read; a cut link looks the same. So 3.1.1 counts only when it was accepted
//! right between two refusals of 5: `auto` never gives up identities where 5 is offered. What the hub said in words
//! holds for an hour, what was guessed from its closes for ten minutes; then the next connection asks again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::classify::VersionHint;
use crate::settings::ProtocolChoice;

/// A version of MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Version {
    /// MQTT 5.
    #[serde(rename = "5")]
    V5,
    /// MQTT 3.1.1.
    #[serde(rename = "3.1.1")]
    V311,
}

/// How long the hub's own word is taken.
const SAID_HOLDS: Duration = Duration::from_secs(3600);
/// How long a guess is: a link that was cut at the wrong moments may have made it.
const GUESS_HOLDS: Duration = Duration::from_secs(600);
/// Closes of an MQTT 5 CONNECT, in a row, before 3.1.1 is tried.
const CLOSES_BEFORE_TRIAL: u8 = 2;

/// What is known of the hub's versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Versions {
    /// Settled by the settings.
    Fixed(Version),
    /// 5, with so many unclear refusals in a row.
    Asking { closes: u8 },
    /// Trying 3.1.1 to see whether it was the version.
    Trial { refused_in_words: bool },
    /// 3.1.1 was accepted; 5 is asked once more before that counts.
    CrossCheck,
    /// The hub speaks 3.1.1 only; asked again after `until`, monotonic.
    Only311 { until: Duration },
}

/// What an accepted connection is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// Use it.
    Use,
    /// Drop it and connect again at once: the other version is asked first.
    AskAgain,
}

impl Versions {
    pub(crate) fn new(choice: ProtocolChoice) -> Self {
        match choice {
            ProtocolChoice::Auto => Self::Asking { closes: 0 },
            ProtocolChoice::V5 => Self::Fixed(Version::V5),
            ProtocolChoice::V311 => Self::Fixed(Version::V311),
        }
    }

    /// The version of the next connection.
    pub(crate) fn offer(&mut self, now: Duration) -> Version {
        if let Self::Only311 { until } = *self
            && now >= until
        {
            *self = Self::Asking { closes: 0 };
        }
        match self {
            Self::Fixed(version) => *version,
            Self::Asking { .. } | Self::CrossCheck => Version::V5,
            Self::Trial { .. } | Self::Only311 { .. } => Version::V311,
        }
    }

    /// Whether the next connection is made to ask only: nothing may be sent over it.
    pub(crate) fn only_asks(self) -> bool {
        let asks = Self::Trial {
            refused_in_words: false,
        };
        self == asks
    }

    /// The hub accepted the version that was offered.
    pub(crate) fn accepted(&mut self, now: Duration) -> Accepted {
        match *self {
            Self::Fixed(_) | Self::Only311 { .. } => Accepted::Use,
            Self::Asking { .. } | Self::CrossCheck => {
                *self = Self::Asking { closes: 0 };
                Accepted::Use
            }
            Self::Trial {
                refused_in_words: true,
            } => {
                *self = Self::Only311 {
                    until: now + SAID_HOLDS,
                };
                Accepted::Use
            }
            Self::Trial {
                refused_in_words: false,
            } => {
                *self = Self::CrossCheck;
                Accepted::AskAgain
            }
        }
    }

    /// The connection failed before it was accepted. Whether the next version should be tried at once.
    pub(crate) fn failed(&mut self, hint: VersionHint, now: Duration) -> bool {
        match (*self, hint) {
            (Self::Asking { .. }, VersionHint::Refused) => {
                *self = Self::Trial {
                    refused_in_words: true,
                };
                true
            }
            (Self::Asking { closes }, VersionHint::Perhaps) => {
                if closes + 1 < CLOSES_BEFORE_TRIAL {
                    *self = Self::Asking { closes: closes + 1 };
                    return false;
                }
                *self = Self::Trial {
                    refused_in_words: false,
                };
                true
            }
            (Self::CrossCheck, VersionHint::Perhaps | VersionHint::Refused) => {
                *self = Self::Only311 {
                    until: now
                        + if hint == VersionHint::Refused {
                            SAID_HOLDS
                        } else {
                            GUESS_HOLDS
                        },
                };
                true
            }
            (Self::Fixed(_) | Self::Only311 { .. }, _) => false,
            (_, _) => {
                *self = Self::Asking { closes: 0 };
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(10);

    #[test]
    fn a_hub_that_closes_on_5_and_takes_311_is_spoken_to_in_311() {
        let mut versions = Versions::new(ProtocolChoice::Auto);
        for _ in 0..2 {
            assert_eq!(versions.offer(NOW), Version::V5);
            versions.failed(VersionHint::Perhaps, NOW);
        }
        assert_eq!(versions.offer(NOW), Version::V311);
        assert_eq!(versions.accepted(NOW), Accepted::AskAgain);
        assert_eq!(versions.offer(NOW), Version::V5);
        versions.failed(VersionHint::Perhaps, NOW);
        assert_eq!(versions.offer(NOW), Version::V311);
        assert_eq!(versions.accepted(NOW), Accepted::Use);
        assert_eq!(versions.offer(NOW + GUESS_HOLDS), Version::V5);
    }

    #[test]
    fn a_cut_link_never_costs_the_identities() {
        let mut versions = Versions::new(ProtocolChoice::Auto);
        versions.failed(VersionHint::Perhaps, NOW);
        versions.failed(VersionHint::Perhaps, NOW);
        assert_eq!(versions.offer(NOW), Version::V311);
        assert_eq!(versions.accepted(NOW), Accepted::AskAgain);
        assert_eq!(versions.offer(NOW), Version::V5);
        assert_eq!(versions.accepted(NOW), Accepted::Use);
        assert_eq!(versions.offer(NOW), Version::V5);
    }

    #[test]
    fn a_hub_that_says_so_is_believed() {
        let mut versions = Versions::new(ProtocolChoice::Auto);
        assert!(versions.failed(VersionHint::Refused, NOW));
        assert_eq!(versions.offer(NOW), Version::V311);
        assert_eq!(versions.accepted(NOW), Accepted::Use);
    }

    #[test]
    fn a_fixed_version_stays() {
        let mut versions = Versions::new(ProtocolChoice::V5);
        assert!(!versions.failed(VersionHint::Refused, NOW));
        assert_eq!(versions.offer(NOW), Version::V5);
    }
}
