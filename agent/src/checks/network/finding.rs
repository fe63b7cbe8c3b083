//! What is found out about a part of the network: plain data.

/// What is found out about the resolver, the gateways, or one next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// It works.
    Good,
    /// It does not work, and why.
    Bad(String),
    /// It could not be found out, and why.
    Unknown(String),
}
