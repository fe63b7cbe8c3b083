//! What the operator wants while the kernel side sees nothing.

/// What becomes of the kernel's checks while the kernel side sees nothing (`ON_BLIND`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnBlind {
    /// They pass, degraded, for as long as it takes.
    Degraded,
    /// They fail: at once where the mount table cannot be read, and 30 s after the last look at the host.
    Fail,
}
