//! Defaults, periods and bounds that all checks share, each with its unit and its reason.

use std::time::Duration;

/// 63 bytes for the name of a check, as for a DNS label (RFC 1035, 2.3.4): an answer repeats the names of the request.
pub const NAME_BYTES: usize = 63;
/// The permanent conditions of node-problem-detector that mean a node cannot serve any more (of its kernel, readonly,
/// docker and systemd monitors and its health checker), and `NetworkUnavailable` of the cloud provider. `NTPProblem` is
/// left out: a node with a wrong clock still serves.
pub const CUSTOM_CONDITIONS: &str = "KernelDeadlock=True,ReadonlyFilesystem=True,XfsShutdown=True,\
    CperHardwareErrorFatal=True,CorruptDockerOverlay2=True,FrequentKubeletRestart=True,FrequentDockerRestart=True,\
    FrequentContainerdRestart=True,FrequentUnregisterNetDevice=True,KubeletUnhealthy=True,\
    ContainerRuntimeUnhealthy=True,NetworkUnavailable=True";
/// 3 seconds since the kernel side last looked at the host, which it does every second: then its checks say so.
pub const LOOK_IS_OLD: Duration = Duration::from_secs(3);
/// 30 seconds since then: its checks fail, and `/livez` does if the kernel task stands still. Nothing that comes back by
/// itself takes so long.
pub const LOOK_IS_TOO_OLD: Duration = Duration::from_secs(30);
/// 1 second between two samples of a probe that is in demand, and up to a tenth more at random.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// 1 minute after the last request for it, a probe outside the default set stops. Load balancers ask more often; a
/// client that does not waits for a first sample each time.
pub const PROBE_IDLE: Duration = Duration::from_mins(1);
