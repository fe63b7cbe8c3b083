//! What all checks have in common: defaults, periods and bounds, each with its unit and its reason.

use std::time::Duration;

/// Of the name of a check, as of a DNS label (RFC 1035, 2.3.4): who asks for another one has it repeated in the answer.
pub const NAME_BYTES: usize = 63;
/// Conditions that node-problem-detector sets for good when the node is of no use any more (its kernel, readonly,
/// docker and systemd monitors and its health checker), and the cloud's `NetworkUnavailable`. Its `NTPProblem` is
/// not among them: a node without the right time still serves.
pub const CUSTOM_CONDITIONS: &str = "KernelDeadlock=True,ReadonlyFilesystem=True,XfsShutdown=True,\
    CperHardwareErrorFatal=True,CorruptDockerOverlay2=True,FrequentKubeletRestart=True,FrequentDockerRestart=True,\
    FrequentContainerdRestart=True,FrequentUnregisterNetDevice=True,KubeletUnhealthy=True,\
    ContainerRuntimeUnhealthy=True,NetworkUnavailable=True";
/// 1 second between samples of a probe that is in demand, and up to a tenth more at random.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// A minute after the last request for it, a probe that is not in the default set stops: load balancers ask more
/// often, and one that does not waits for the first sample each time.
pub const PROBE_IDLE: Duration = Duration::from_mins(1);
