//! The serde types of what Tocsin answers over HTTP: servers, terminal commands and tests use the same ones. No I/O.
//!
//! The JSON is the contract: names and order of the fields stay as they are. A reader skips fields that it does not
//! know, so that a newer agent can be read by an older command; values with a fixed set of words are texts for the same
//! reason, and their words are listed here.

pub mod faults;
pub mod health;
pub mod heartbeat;
pub mod peers;
