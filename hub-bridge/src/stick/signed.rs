//! Small signed texts: two lines, JSON and the signature in hex. The context says what kind it is, so that one kind
//! is never taken for another.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::keys::{from_hex, hex};
use super::{PublicKey, SigningKey};

/// Why a text is not taken.
#[derive(Debug, thiserror::Error)]
pub enum SignedError {
    /// It is not two lines, or the first is not the JSON of one.
    #[error("not a {0}")]
    Not(&'static str),
    /// The signature does not fit.
    #[error(
        "the signature of the {0} does not fit: changed on the way, or written by someone else"
    )]
    Signature(&'static str),
    /// Of a later version.
    #[error("a {0} of a later version ({1})")]
    Version(&'static str, u8),
}

/// `content` as a signed text.
pub(super) fn seal<T: Serialize>(kind: &'static str, key: &SigningKey, content: &T) -> Vec<u8> {
    // Strings and numbers always have a JSON form.
    let json = serde_json::to_string(content).unwrap_or_default();
    let signature = hex(&key.sign(&to_sign(kind, &json)));
    format!("{json}\n{signature}\n").into_bytes()
}

/// What a text says, not yet to be believed.
pub(super) fn read<T: DeserializeOwned>(kind: &'static str, text: &[u8]) -> Result<T, SignedError> {
    let (json, _) = lines(text).ok_or(SignedError::Not(kind))?;
    serde_json::from_str(json).map_err(|_| SignedError::Not(kind))
}

/// Whether the signature is that of `key`.
pub(super) fn check(kind: &'static str, text: &[u8], key: &PublicKey) -> Result<(), SignedError> {
    let (json, signature) = lines(text).ok_or(SignedError::Not(kind))?;
    let signature = from_hex(signature).ok_or(SignedError::Not(kind))?;
    if key.verifies(&to_sign(kind, json), &signature) {
        Ok(())
    } else {
        Err(SignedError::Signature(kind))
    }
}

fn lines(text: &[u8]) -> Option<(&str, &str)> {
    let (json, signature) = std::str::from_utf8(text).ok()?.split_once('\n')?;
    Some((json, signature.trim_end()))
}

fn to_sign(kind: &'static str, json: &str) -> Vec<u8> {
    format!("edge-relay {kind} 1\0{json}").into_bytes()
}
