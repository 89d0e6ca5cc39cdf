//! Where the hub's broker is: `mqtt://[user[:password]@]host[:port]` or `mqtts://…`.

use std::fmt;
use std::str::FromStr;

use crate::secret::Secret;

/// The hub's address. Shown without its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubUrl {
    /// Whether it is `mqtts://`.
    pub tls: bool,
    /// A host name or an address; an IPv6 address without its brackets.
    pub host: String,
    /// The port: 1883, or 8883 with TLS, where none is written.
    pub port: u16,
    /// The user in the URL, percent-decoded.
    pub username: Option<String>,
    /// The password in the URL, percent-decoded.
    pub password: Option<Secret>,
}

/// Why a text is not a hub URL. Never repeats the text: a password may be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHubUrl {
    /// Another scheme, or none.
    #[error("must begin with mqtt:// or mqtts://")]
    Scheme,
    /// No host.
    #[error("has no host")]
    Host,
    /// Not a port.
    #[error("port must be 1 to 65535")]
    Port,
    /// Something after the port.
    #[error("must end after the port: a hub has no path")]
    Path,
    /// A `%` that two hex digits do not follow, or that does not make UTF-8.
    #[error("user and password must be percent-encoded UTF-8")]
    Encoding,
}

impl FromStr for HubUrl {
    type Err = InvalidHubUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (tls, rest) = if let Some(rest) = text.strip_prefix("mqtts://") {
            (true, rest)
        } else if let Some(rest) = text.strip_prefix("mqtt://") {
            (false, rest)
        } else {
            return Err(InvalidHubUrl::Scheme);
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user_info, place) = match rest.rsplit_once('@') {
            Some((user_info, place)) => (Some(user_info), place),
            None => (None, rest),
        };
        if place.contains(['/', '?', '#']) {
            return Err(InvalidHubUrl::Path);
        }
        let (host, port) = split_port(place, if tls { 8883 } else { 1883 })?;
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(InvalidHubUrl::Host);
        }
        let (username, password) = match user_info {
            None => (None, None),
            Some(info) => match info.split_once(':') {
                Some((user, password)) => (
                    Some(percent_decode(user)?),
                    Some(Secret::new(percent_decode(password)?)),
                ),
                None => (Some(percent_decode(info)?), None),
            },
        };
        Ok(Self {
            tls,
            host: host.to_owned(),
            port,
            username,
            password,
        })
    }
}

fn split_port(place: &str, default: u16) -> Result<(&str, u16), InvalidHubUrl> {
    let (host, port) = if let Some(rest) = place.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or(InvalidHubUrl::Host)?;
        match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if after.is_empty() => (host, None),
            None => return Err(InvalidHubUrl::Host),
        }
    } else {
        match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        }
    };
    match port.map(str::parse) {
        None => Ok((host, default)),
        Some(Ok(port)) if port != 0 => Ok((host, port)),
        Some(_) => Err(InvalidHubUrl::Port),
    }
}

fn percent_decode(text: &str) -> Result<String, InvalidHubUrl> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    let hex = |byte: Option<u8>| {
        byte.and_then(|b| char::from(b).to_digit(16))
            .and_then(|d| u8::try_from(d).ok())
            .ok_or(InvalidHubUrl::Encoding)
    };
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = hex(bytes.next())?;
            let low = hex(bytes.next())?;
            decoded.push(high * 16 + low);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).map_err(|_| InvalidHubUrl::Encoding)
}

impl fmt::Display for HubUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "mqtts://" } else { "mqtt://" })?;
        if let Some(user) = &self.username {
            f.write_str(user)?;
            if self.password.is_some() {
                f.write_str(":[redacted]")?;
            }
            f.write_str("@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let url: HubUrl = "mqtts://u%40x:p%3Aw@hub.example:9999".parse().unwrap();
        assert!(url.tls);
        assert_eq!((url.host.as_str(), url.port), ("hub.example", 9999));
        assert_eq!(url.username.as_deref(), Some("u@x"));
        assert_eq!(url.password.as_ref().unwrap().expose(), "p:w");
        let plain: HubUrl = "mqtt://127.0.0.1".parse().unwrap();
        assert_eq!((plain.tls, plain.port), (false, 1883));
        let six: HubUrl = "mqtts://[::1]/".parse().unwrap();
        assert_eq!((six.host.as_str(), six.port), ("::1", 8883));
        assert_eq!(six.to_string(), "mqtts://[::1]:8883");
    }

    #[test]
    fn a_wrong_url_is_refused_for_its_reason() {
        let cases = [
            ("http://x", InvalidHubUrl::Scheme),
            ("mqtt://", InvalidHubUrl::Host),
            ("mqtt://:1", InvalidHubUrl::Host),
            ("mqtt://h:0", InvalidHubUrl::Port),
            ("mqtt://h:x", InvalidHubUrl::Port),
            ("mqtt://h/t", InvalidHubUrl::Path),
            ("mqtt://u%zz@h", InvalidHubUrl::Encoding),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<HubUrl>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let url: HubUrl = "mqtt://user:hush@h".parse().unwrap();
        assert!(!format!("{url} {url:?}").contains("hush"));
    }
}
