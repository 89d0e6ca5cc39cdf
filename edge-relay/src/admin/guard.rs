//! Who may use the admin API.

use std::net::SocketAddr;

use hub_bridge::settings::Secret;
use subtle::ConstantTimeEq;

/// What the admin API is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Who may use it.
    pub guard: Guard,
}

/// Who may use it. `/healthz` and `/readyz`, which probes ask, are open to all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// Anyone: only where it listens on loopback.
    Open,
    /// Those who bear the token.
    Token(Secret),
    /// Nobody: a token is configured, and its file is gone.
    Closed,
}

impl Guard {
    /// Whether a request with this `Authorization` header may pass. Takes as long for a wrong token as for
    /// the right one.
    pub(super) fn admits(&self, authorization: Option<&str>) -> bool {
        match self {
            Self::Open => true,
            Self::Closed => false,
            Self::Token(token) => authorization
                .and_then(|header| header.split_once(' '))
                .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
                .is_some_and(|(_, given)| {
                    given
                        .trim()
                        .as_bytes()
                        .ct_eq(token.expose().as_bytes())
                        .into()
                }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_is_admitted() {
        let guard = Guard::Token(Secret::new("s3cret"));
        assert!(guard.admits(Some("Bearer s3cret")));
        assert!(guard.admits(Some("bearer s3cret")));
        for wrong in [
            None,
            Some(""),
            Some("Bearer"),
            Some("Bearer "),
            Some("Bearer s3cre"),
            Some("Basic s3cret"),
            Some("s3cret"),
        ] {
            assert!(!guard.admits(wrong), "{wrong:?}");
        }
        assert!(Guard::Open.admits(None));
        assert!(!Guard::Closed.admits(Some("Bearer s3cret")));
    }
}
