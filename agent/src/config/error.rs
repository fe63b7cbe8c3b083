//! A value of the command line that cannot be used.

use std::{net::IpAddr, time::Duration};

use humantime::format_duration;

use crate::{
    checks::{
        BadConditionError, container_runtime::BadSocket, disk_pressure::BadThreshold,
        http::HttpProbeError, network::BadName,
    },
    kernel::sampling::required_mounts::BadRequiredMount,
    peers::settings::BadShare,
};

/// A value that cannot be used, in one line that begins with the name of its environment variable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// `DEFAULT_CHECKS` names something that is no check.
    #[error("DEFAULT_CHECKS: unknown check {0:?}; there are: {1}")]
    UnknownCheck(String, String),
    /// `DEFAULT_CHECKS` names no check at all.
    #[error("DEFAULT_CHECKS names no check; there are: {0}")]
    NoCheck(String),
    /// `DNS_PROBE_NAME` is no DNS name.
    #[error("DNS_PROBE_NAME: {0}")]
    Dns(#[from] BadName),
    /// A URL, or a list of them, that cannot be used.
    #[error("{0}: {1}")]
    Http(&'static str, #[source] HttpProbeError),
    /// `CRI_SOCKET` names no socket.
    #[error("CRI_SOCKET: {0}")]
    CriSocket(BadSocket),
    /// `DISK_THRESHOLDS` is no list of thresholds.
    #[error("DISK_THRESHOLDS: {0}")]
    Disk(#[from] BadThreshold),
    /// `REQUIRE_MOUNTS` is no list of mounts.
    #[error("REQUIRE_MOUNTS: {0}")]
    Mounts(#[from] BadRequiredMount),
    /// A list of globs with one that is none.
    #[error("{0}: {1}")]
    BadGlob(&'static str, #[source] glob::PatternError),
    /// `CUSTOM_CONDITIONS` is no list of conditions.
    #[error("CUSTOM_CONDITIONS: {0}")]
    BadCondition(#[from] BadConditionError),
    /// `NODECHECK_DOWN_STATUS` is neither 200 nor the status of an error.
    #[error("NODECHECK_DOWN_STATUS: {0} is not 200 or between 400 and 599")]
    BadStatus(u16),
    /// `PUBLISH_CONDITIONS` is set without a Node to publish on.
    #[error("PUBLISH_CONDITIONS needs {0}")]
    NothingToPublishOn(&'static str),
    /// One of `TLS_CERT` and `TLS_KEY` is set without the other.
    #[error("{0} needs {1}")]
    HalfOfTls(&'static str, &'static str),
    /// `PEERS=on` is set without something that it takes.
    #[error("PEERS=on needs {0}")]
    PeersNeed(&'static str),
    /// `POD_IP` is no address that peers can send to.
    #[error("POD_IP: {0} is not the address of one host")]
    PodIp(IpAddr),
    /// `PEERS_JOIN` is neither a list of addresses nor a name.
    #[error("PEERS_JOIN: {0:?} is neither ip:port, with commas, nor a DNS name")]
    PeersJoin(String),
    /// Both ways to find peers are set.
    #[error("PEERS_JOIN and SERVICE_NAME are two ways to find peers: set one of them")]
    TwoWaysToJoin,
    /// `SERVICE_NAME` is set without `NAMESPACE`.
    #[error("SERVICE_NAME needs NAMESPACE")]
    ServiceNeeds,
    /// A URL of the peers that cannot be used.
    #[error("{0}: {1:?} is not an http:// or https:// URL")]
    PeersUrl(&'static str, String),
    /// `STORM_GUARD` is no share.
    #[error("STORM_GUARD: {0}")]
    StormGuard(#[from] BadShare),
    /// A time that is too short or too long.
    #[error("{0}: {t} is not between {least} and {most}",
        t = format_duration(*.1), least = format_duration(*.2), most = format_duration(*.3))]
    OutOfRange(&'static str, Duration, Duration, Duration),
}

/// Refuses a time that is shorter than `least` or longer than `most`.
pub(super) fn within(
    name: &'static str,
    value: Duration,
    least: Duration,
    most: Duration,
) -> Result<(), ConfigError> {
    if value < least || value > most {
        return Err(ConfigError::OutOfRange(name, value, least, most));
    }
    Ok(())
}
