//! `container_runtime`: deadlines and bounds, each with its unit and its reason.

use std::time::Duration;

/// The default sockets of container runtimes: containerd, CRI-O (two paths), cri-dockerd, k3s and RKE2, microk8s.
pub const CRI_SOCKETS: [&str; 6] = [
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/var/run/crio/crio.sock",
    "/run/cri-dockerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
];
/// 1 second for an answer. A runtime answers from memory, within some milliseconds when it is busy.
pub const CRI_TIMEOUT: Duration = Duration::from_secs(1);
/// 0.5 seconds to find the socket: it takes a few stat(2) in memory, but `/var` may be on a disk that hangs.
pub const CRI_SEARCH_DEADLINE: Duration = Duration::from_millis(500);
/// 64 KiB for an answer: that of containerd takes half a kilobyte, and 100 bytes more for each runtime class.
pub const CRI_MESSAGE: usize = 64 * 1024;
/// 300 characters of a runtime's text are shown: Go puts all causes of an error on one long line.
pub const CRI_TEXT: usize = 300;
