//! Real kernel faults, and what the agent makes of them. One module per family.
//!
//! Every test has a mount namespace of its own and runs beside others; see `e2e::sandbox`.
#![expect(clippy::panic, clippy::unwrap_used, reason = "tests panic")]

mod fixtures;
