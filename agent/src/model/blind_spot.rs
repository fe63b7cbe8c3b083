//! What the kernel side cannot see, and why.

use std::collections::BTreeMap;

/// One kind of thing that the kernel side may be unable to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlindSpot {
    /// Nothing is known: the mount table cannot be read, say.
    Blind,
    /// Kernel events do not arrive; the agent polls instead.
    NoEvents,
    /// Failed block requests are not seen.
    NoBlockEvents,
    /// Some hooks of filesystems could not be attached.
    HooksFailed,
    /// Parts of the mount table are not watched, and not on purpose.
    Unwatched,
    /// After an event, some filesystems could not be tested with a write.
    Unprobed,
    /// Events were missed, and what they may have told is being looked for.
    Missed,
}

impl BlindSpot {
    /// Every kind, in the order in which they are declared.
    pub const ALL: [Self; 7] = [
        Self::Blind,
        Self::NoEvents,
        Self::NoBlockEvents,
        Self::HooksFailed,
        Self::Unwatched,
        Self::Unprobed,
        Self::Missed,
    ];

    /// The name for machines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Blind => "blind",
            Self::NoEvents => "no_events",
            Self::NoBlockEvents => "no_block_events",
            Self::HooksFailed => "hooks_failed",
            Self::Unwatched => "unwatched",
            Self::Unprobed => "unprobed",
            Self::Missed => "missed",
        }
    }
}

/// The blind spots that there are now, each with one line for people that says why.
///
/// The kernel task alone fills it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlindSpots(BTreeMap<BlindSpot, String>);

impl BlindSpots {
    /// Why this cannot be seen; `None` if it can.
    #[must_use]
    pub fn get(&self, spot: BlindSpot) -> Option<&str> {
        self.0.get(&spot).map(String::as_str)
    }

    /// All of them, in the order in which they are declared.
    pub fn iter(&self) -> impl Iterator<Item = (BlindSpot, &str)> {
        self.0.iter().map(|(spot, why)| (*spot, why.as_str()))
    }

    /// The same without that one.
    #[must_use]
    pub fn without(mut self, spot: BlindSpot) -> Self {
        self.0.remove(&spot);
        self
    }
}

impl<T: Into<Option<String>>> FromIterator<(BlindSpot, T)> for BlindSpots {
    /// Leaves out what has no reason.
    fn from_iter<I: IntoIterator<Item = (BlindSpot, T)>>(spots: I) -> Self {
        let spots = spots.into_iter().map(|(spot, why)| Some((spot, why.into()?)));
        Self(spots.flatten().collect())
    }
}
