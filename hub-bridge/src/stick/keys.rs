//! The keys of both banks: Ed25519 to sign, age's X25519 to encrypt.

use std::fmt::{self, Write as _};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use age::secrecy::ExposeSecret as _;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

/// No key file is longer, in bytes.
const KEY_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file with something else in it.
    #[error("{}: {reason}", path.display())]
    NotAKey {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A text that should be a public key.
    #[error("a public key is 64 hex digits, as `edge-relay backlog key` shows it")]
    NotAPublicKey,
    /// A text that should be a recipient.
    #[error("{0:?} is not a recipient such as age1...: {1}")]
    NotARecipient(String, String),
    /// The system gives no random numbers.
    #[error("no key can be made: the system gives no random numbers")]
    NoRandom,
}

/// An Ed25519 public key: 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Whether `signature` is this key's over `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        key.verify(message, signature).is_ok()
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = from_hex(text).ok_or(KeyError::NotAPublicKey)?;
        let bytes = bytes.try_into().map_err(|_| KeyError::NotAPublicKey)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl serde::Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A key to sign with, kept in a file of its own (PKCS #8, for its user only).
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// The key in `file`; made there where there is no such file. A file that is there is never replaced.
    ///
    /// # Errors
    /// The file cannot be read or made, or holds something else.
    pub fn open_or_make(file: &Path) -> Result<Self, KeyError> {
        if !file.exists() {
            let made = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new())
                .map_err(|_| KeyError::NoRandom)?;
            write_new(file, made.as_ref()).map_err(io_error(file))?;
        }
        let bytes = read_secret(file)?;
        let pair = Ed25519KeyPair::from_pkcs8(&bytes).map_err(|error| KeyError::NotAKey {
            path: file.to_owned(),
            reason: format!("not an Ed25519 key: {error}"),
        })?;
        Ok(Self(pair))
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        let mut key = [0; 32];
        for (to, from) in key.iter_mut().zip(self.0.public_key().as_ref()) {
            *to = *from;
        }
        PublicKey(key)
    }

    /// The signature over `message`: 64 bytes.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }
}

/// Says whose it is, and not what it is.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public())
    }
}

/// Whom the files are encrypted for.
#[derive(Clone)]
pub struct Recipients(Vec<age::x25519::Recipient>);

impl Recipients {
    /// From their texts, `age1...`.
    ///
    /// # Errors
    /// The first that is none.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, KeyError> {
        let parsed = texts.iter().map(|text| {
            let text = text.as_ref();
            let wrong = |reason: &str| KeyError::NotARecipient(text.to_owned(), reason.to_owned());
            text.parse().map_err(wrong)
        });
        Ok(Self(parsed.collect::<Result<_, _>>()?))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn each(&self) -> impl Iterator<Item = &dyn age::Recipient> {
        self.0.iter().map(|r| r as &dyn age::Recipient)
    }
}

impl fmt::Debug for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(ToString::to_string))
            .finish()
    }
}

impl PartialEq for Recipients {
    fn eq(&self, other: &Self) -> bool {
        self.0
            .iter()
            .map(ToString::to_string)
            .eq(other.0.iter().map(ToString::to_string))
    }
}

impl Eq for Recipients {}

/// What opens the files at the hub: the identities of a file as `age-keygen` makes it.
pub struct HubIdentity(Vec<age::x25519::Identity>);

impl HubIdentity {
    /// The identities in `file`; one is made there where there is no such file.
    ///
    /// # Errors
    /// The file cannot be read or made, or holds none.
    pub fn open_or_make(file: &Path) -> Result<Self, KeyError> {
        if !file.exists() {
            let made = age::x25519::Identity::generate();
            let text = format!(
                "# public key: {}\n{}\n",
                made.to_public(),
                made.to_string().expose_secret()
            );
            write_new(file, text.as_bytes()).map_err(io_error(file))?;
        }
        Self::open(file)
    }

    /// The identities in `file`.
    ///
    /// # Errors
    /// The file cannot be read, or holds none.
    pub fn open(file: &Path) -> Result<Self, KeyError> {
        let not_a_key = |reason: &str| KeyError::NotAKey {
            path: file.to_owned(),
            reason: reason.to_owned(),
        };
        let text = String::from_utf8(read_secret(file)?).map_err(|_| not_a_key("not text"))?;
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let identities: Vec<age::x25519::Identity> = lines
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map_err(|_| {
                not_a_key(
                    "a line is not an identity such as AGE-SECRET-KEY-1..., as age-keygen makes it",
                )
            })?;
        if identities.is_empty() {
            return Err(not_a_key("no identity in it"));
        }
        Ok(Self(identities))
    }

    /// What villages are told to encrypt for: one text an identity.
    pub fn recipients(&self) -> Vec<String> {
        let each = self.0.iter();
        each.map(|identity| identity.to_public().to_string())
            .collect()
    }

    pub(super) fn each(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.0.iter().map(|i| i as &dyn age::Identity)
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> KeyError + '_ {
    move |source| KeyError::Io {
        path: path.to_owned(),
        source,
    }
}

/// A file with a secret: refused where others than its user may read it.
fn read_secret(file: &Path) -> Result<Vec<u8>, KeyError> {
    let opened = File::open(file).map_err(io_error(file))?;
    let mode = opened
        .metadata()
        .map_err(io_error(file))?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        return Err(KeyError::NotAKey {
            path: file.to_owned(),
            reason: format!("others may read it (mode {:o}): chmod 600", mode & 0o777),
        });
    }
    let mut bytes = Vec::new();
    let read = opened.take(KEY_FILE_BYTES_MAX).read_to_end(&mut bytes);
    read.map_err(io_error(file))?;
    Ok(bytes)
}

/// Makes a file, durably, for this user only; leaves one alone that another process just made.
fn write_new(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = file.as_os_str().to_owned();
    temporary.push(format!(".{}.new", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let _ = fs::remove_file(&temporary);
    let mut made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    made.write_all(bytes)?;
    made.sync_all()?;
    // A link never replaces what is there, a rename would.
    let linked = fs::hard_link(&temporary, file);
    fs::remove_file(&temporary)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let parent = file.parent().filter(|p| !p.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Lower-case hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of hex digits; `None` where they are none.
pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let pair = |[high, low]: &[u8; 2]| {
        let byte = digit(high)? * 16 + digit(low)?;
        u8::try_from(byte).ok()
    };
    pairs.iter().map(pair).collect()
}
