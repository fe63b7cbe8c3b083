//! `container_runtime`: deadlines and bounds, each with its unit and its reason.

use std::time::Duration;

/// Where container runtimes have their sockets by default: containerd, CRI-O (under both of its names), cri-dockerd,
/// k3s and RKE2, microk8s.
pub const CRI_SOCKETS: [&str; 6] = [
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/var/run/crio/crio.sock",
    "/run/cri-dockerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
];
/// 1 second for a runtime that tells from memory what state it is in: some milliseconds when it is busy.
pub const CRI_TIMEOUT: Duration = Duration::from_secs(1);
/// Half a second to find its socket: a stat or two in memory, but `/var` may be on a disk that hangs.
pub const CRI_LOOK_DEADLINE: Duration = Duration::from_millis(500);
/// 64 KiB for an answer: containerd's takes half a kilobyte and 100 bytes per runtime class.
pub const CRI_MESSAGE: usize = 64 * 1024;
/// Of a runtime's words, this many characters are told: Go wraps an error's causes into one long line.
pub const CRI_WORDS: usize = 300;
