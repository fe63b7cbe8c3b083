//! The keys that sign the packets of the peers.

use std::fmt;

use ring::hmac;
use subtle::ConstantTimeEq;

/// 16 bytes of HMAC-SHA256 are sent: HMAC-SHA-256-128 (RFC 4868).
pub const TAG_BYTES: usize = 16;
/// 16 characters of a key, at least: a shorter one can be guessed from recorded packets.
pub const KEY_BYTES: usize = 16;
/// 4 keys that are accepted: a rotation needs two, and each one costs a forged packet another HMAC.
pub const KEYS: usize = 4;

/// The keys: the first signs, all are accepted.
#[derive(Clone)]
pub struct Keys(Vec<hmac::Key>);

/// A text that has no keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKeys {
    /// There is no key in it.
    #[error("no key in it")]
    None,
    /// There are too many.
    #[error("{0} keys are more than {KEYS}")]
    TooMany(usize),
    /// A key is too short.
    #[error("line {0}: a key has {KEY_BYTES} characters at least")]
    TooShort(usize),
}

impl Keys {
    /// Reads a key a line. Empty lines and lines that begin with `#` do not count.
    pub fn parse(text: &str) -> Result<Self, BadKeys> {
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let key = line.trim();
            if key.is_empty() || key.starts_with('#') {
                continue;
            }
            if key.len() < KEY_BYTES {
                return Err(BadKeys::TooShort(number + 1));
            }
            keys.push(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()));
        }
        match keys.len() {
            0 => Err(BadKeys::None),
            1..=KEYS => Ok(Self(keys)),
            count => Err(BadKeys::TooMany(count)),
        }
    }

    /// The key of agents without `PEERS_KEY_FILE`. It is known to everybody: it tells damaged packets, and no forged ones.
    #[must_use]
    pub fn public() -> Self {
        Self(vec![hmac::Key::new(hmac::HMAC_SHA256, b"tocsin: no PEERS_KEY_FILE")])
    }

    /// Signs these parts, one after the other.
    #[must_use]
    pub fn sign(&self, parts: &[&[u8]]) -> [u8; TAG_BYTES] {
        self.0.first().map_or([0; TAG_BYTES], |key| tag(key, parts))
    }

    /// Whether one of the keys has signed these parts.
    #[must_use]
    pub fn verify(&self, parts: &[&[u8]], signature: &[u8]) -> bool {
        self.0.iter().any(|key| tag(key, parts).ct_eq(signature).into())
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

fn tag(key: &hmac::Key, parts: &[&[u8]]) -> [u8; TAG_BYTES] {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(part);
    }
    let whole = context.sign();
    let mut tag = [0; TAG_BYTES];
    tag.copy_from_slice(&whole.as_ref()[..TAG_BYTES]);
    tag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_signs_and_all_are_accepted() {
        let (old, new) = ("the old key of the peers", "the new key of the peers");
        let keys = |text: &str| Keys::parse(text).unwrap();
        let both = keys(&format!("# rotated\n\n{new}\n {old} \n"));
        let parts: &[&[u8]] = &[b"a", b"bc"];
        assert!(both.verify(parts, &keys(old).sign(parts)));
        assert!(keys(new).verify(parts, &both.sign(parts)));
        assert!(!keys(old).verify(parts, &both.sign(parts)));
        assert!(!both.verify(parts, &Keys::public().sign(parts)));
        assert!(!both.verify(parts, &both.sign(parts)[..15]));
    }

    #[test]
    fn bad_files() {
        let bad = |text: &str| Keys::parse(text).unwrap_err();
        assert_eq!(bad("\n#x\n"), BadKeys::None);
        assert_eq!(bad("\nshort"), BadKeys::TooShort(2));
        assert_eq!(bad(&"0123456789abcdef\n".repeat(5)), BadKeys::TooMany(5));
    }
}
