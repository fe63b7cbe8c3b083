//! Fixtures for the end-to-end tests, the demo and the bench: real filesystems on real loop devices, in a mount
//! namespace of their own; a real control plane; and the binaries under test.
//!
//! Everything cleans up when it is dropped, also while a test panics. Nothing here uses the code of the agent: the
//! agent is its command line, its listeners and its log, and the types of `tocsin-api` say what it answers.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::panic,
    reason = "fixtures panic where they cannot go on: a panic shows where, and every guard still cleans up"
)]

pub mod agent;
pub mod closed_loop;
pub mod cluster;
pub mod containerd;
pub mod daemon;
pub mod emitted;
pub mod faulty_disk;
pub mod haproxy;
pub mod health;
pub mod heartbeat;
pub mod host_root;
pub mod http;
pub mod http2;
pub mod inject;
pub mod loopdev;
pub mod mount;
pub mod nameserver;
pub mod netns;
pub mod peer_net;
pub mod pool;
pub mod process;
pub mod remediation;
pub mod sandbox;
pub mod switch;
pub mod sync;
pub mod sys;
pub mod tool;
pub mod volume;
pub mod workloads;

pub use agent::Agent;
pub use cluster::ControlPlane;
pub use daemon::Daemon;
pub use emitted::Emitted;
pub use faulty_disk::FaultyDisk;
pub use haproxy::Haproxy;
pub use heartbeat::Heartbeat;
pub use loopdev::LoopDevice;
pub use mount::Mount;
pub use nameserver::Nameserver;
pub use netns::NetNs;
pub use process::Process;
pub use remediation::{Remediation, Remediator};
pub use sandbox::{Sandbox, require};
pub use volume::{Filesystem, Volume};
pub use workloads::{PodIs, Workloads};

/// One mebibyte, in bytes.
pub const MIB: u64 = 1 << 20;
