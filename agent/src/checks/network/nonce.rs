//! Random bytes by which an answer is known to be one.

use std::hash::{BuildHasher, Hasher, RandomState};

/// 8 bytes that no other program can know before they are sent.
pub(super) fn nonce() -> [u8; 8] {
    RandomState::new().build_hasher().finish().to_be_bytes()
}
