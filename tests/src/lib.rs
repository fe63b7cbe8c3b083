//! Fixtures for the end-to-end tests, the demo and the bench: real filesystems on real loop devices,
//! in a mount namespace of their own, and the agent's binary watching them.
//!
//! Everything cleans up when it is dropped, also while a test panics. Nothing here knows the agent's
//! code: the agent is what its command line, its two ports and its log say.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::panic,
    reason = "fixtures panic where they cannot go on: a panic shows where, and every guard still cleans up"
)]

pub mod agent;
pub mod cluster;
pub mod containerd;
pub mod daemon;
pub mod faultfs;
pub mod haproxy;
pub mod health;
pub mod http;
pub mod http2;
pub mod inject;
pub mod loopdev;
pub mod mount;
pub mod nameserver;
pub mod netns;
pub mod pool;
pub mod sandbox;
pub mod sys;
pub mod tool;
pub mod volume;

pub use agent::Agent;
pub use cluster::ControlPlane;
pub use daemon::Daemon;
pub use faultfs::FaultFs;
pub use haproxy::Haproxy;
pub use loopdev::LoopDevice;
pub use mount::Mount;
pub use nameserver::Nameserver;
pub use netns::NetNs;
pub use sandbox::{Sandbox, require};
pub use volume::{Filesystem, Volume};

/// One mebibyte, in bytes.
pub const MIB: u64 = 1 << 20;
