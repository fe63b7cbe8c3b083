//! Counters of the peers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a packet was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Rejection {
    /// It has more bytes than a packet may have.
    Oversized,
    /// It ends too early.
    Truncated,
    /// It has a version or a kind that this agent does not know.
    Unknown,
    /// No accepted key has signed it.
    Forged,
    /// It was received before, or long ago.
    Replayed,
    /// Its session is not known to this agent, and it has not answered the challenge.
    Unproven,
    /// It is signed, and says something that makes no sense.
    Malformed,
    /// It is for another agent.
    Misaddressed,
    /// There is no room for one more sender.
    TooManySenders,
}

impl Rejection {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Oversized,
        Self::Truncated,
        Self::Unknown,
        Self::Forged,
        Self::Replayed,
        Self::Unproven,
        Self::Malformed,
        Self::Misaddressed,
        Self::TooManySenders,
    ];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Oversized => "oversized",
            Self::Truncated => "truncated",
            Self::Unknown => "unknown",
            Self::Forged => "forged",
            Self::Replayed => "replayed",
            Self::Unproven => "unproven",
            Self::Malformed => "malformed",
            Self::Misaddressed => "misaddressed",
            Self::TooManySenders => "too_many_senders",
        }
    }
}

/// Counters of the peers, written by the peers task.
#[derive(Debug, Default)]
pub struct PeerStats {
    rejected: [AtomicU64; Rejection::ALL.len()],
    sent: Traffic,
    received: Traffic,
    probes_dropped: AtomicU64,
    key_reload_failures: AtomicU64,
}

/// Packets and their bytes.
#[derive(Debug, Default)]
struct Traffic {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Traffic {
    fn add(&self, bytes: usize) {
        self.packets.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    fn get(&self) -> (u64, u64) {
        (self.packets.load(Relaxed), self.bytes.load(Relaxed))
    }
}

impl PeerStats {
    /// Counts a packet that was refused.
    pub fn reject(&self, why: Rejection) {
        self.rejected[why as usize].fetch_add(1, Relaxed);
    }

    /// The packets that were refused for this reason.
    #[must_use]
    pub fn rejected(&self, why: Rejection) -> u64 {
        self.rejected[why as usize].load(Relaxed)
    }

    /// Counts a packet that was sent, with its bytes of UDP payload.
    pub fn count_sent(&self, bytes: usize) {
        self.sent.add(bytes);
    }

    /// Counts a packet that was received, refused ones too.
    pub fn count_received(&self, bytes: usize) {
        self.received.add(bytes);
    }

    /// Packets that were sent, and their bytes of UDP payload.
    #[must_use]
    pub fn sent(&self) -> (u64, u64) {
        self.sent.get()
    }

    /// Packets that were received, and their bytes of UDP payload.
    #[must_use]
    pub fn received(&self) -> (u64, u64) {
        self.received.get()
    }

    /// Counts a probe packet for which a queue had no room.
    pub fn drop_probe(&self) {
        self.probes_dropped.fetch_add(1, Relaxed);
    }

    /// Probe packets for which a queue had no room.
    #[must_use]
    pub fn probes_dropped(&self) -> u64 {
        self.probes_dropped.load(Relaxed)
    }

    /// Counts a key file that could not be read again.
    pub fn fail_key_reload(&self) {
        self.key_reload_failures.fetch_add(1, Relaxed);
    }

    /// How often the key file could not be read again.
    #[must_use]
    pub fn key_reload_failures(&self) -> u64 {
        self.key_reload_failures.load(Relaxed)
    }
}
