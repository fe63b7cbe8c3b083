//! Whose word a reason gives: the deepest witness knows the cause, and those above it only what they made of it.

use tocsin_ebpf::Kind;

/// A witness of a fault, the deepest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Witness {
    /// A filesystem, a statistic or a probe. A full thin device shows as EIO here.
    Filesystem,
    /// The block layer, which has the result from the driver.
    BlockLayer,
}

impl Witness {
    /// The witness of an event of this kind.
    pub(super) fn of(kind: Kind) -> Self {
        match kind.operation() {
            Kind::BlockRead
            | Kind::BlockWrite
            | Kind::BlockFlush
            | Kind::BlockDiscard
            | Kind::BlockZeroes
            | Kind::BlockReadahead => Self::BlockLayer,
            _ => Self::Filesystem,
        }
    }
}
