//! The settings of the listeners for load balancers.

use std::{net::SocketAddr, num::NonZero, path::PathBuf};

use tocsin_runtime::tls::CertificateFiles;

use super::ConfigError;
use crate::{
    cli::ListenerArgs,
    serve::{health::settings::HEALTH_THREADS, weight::WeightSource},
};

/// How load balancers are answered.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// Address of the health listener.
    pub health: SocketAddr,
    /// Threads of the health listener.
    pub threads: usize,
    /// Connections of the health listener at the same time, at most.
    pub connections: usize,
    /// Address of the listener for `HAProxy`'s agent-check.
    pub agent_check: SocketAddr,
    /// The agent-check answers `maint` instead of `drain`.
    pub maint: bool,
    /// What the weight in the agent-check follows.
    pub weight: WeightSource,
    /// Certificate and key for TLS on the health listener.
    pub tls: Option<CertificateFiles>,
    /// The file that has the verdict.
    pub state_file: Option<PathBuf>,
}

impl ListenerSettings {
    pub(super) fn new(args: ListenerArgs) -> Result<Self, ConfigError> {
        let ListenerArgs {
            listen_addr,
            listen_port,
            agent_check_addr,
            agent_check_port,
            agent_check_maint,
            agent_weight,
            state_file,
            tls_cert,
            tls_key,
            health_threads,
            max_connections,
        } = args;
        let some = |path: Option<PathBuf>| path.filter(|path| !path.as_os_str().is_empty());
        let tls = match (some(tls_cert), some(tls_key)) {
            (Some(cert), Some(key)) => Some(CertificateFiles { cert, key }),
            (None, None) => None,
            (Some(_), None) => return Err(ConfigError::HalfOfTls("TLS_CERT", "TLS_KEY")),
            (None, Some(_)) => return Err(ConfigError::HalfOfTls("TLS_KEY", "TLS_CERT")),
        };
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        Ok(Self {
            health: SocketAddr::new(listen_addr, listen_port),
            threads: health_threads.map_or(HEALTH_THREADS.min(processors), NonZero::get),
            connections: max_connections.get(),
            agent_check: SocketAddr::new(agent_check_addr.unwrap_or(listen_addr), agent_check_port),
            maint: agent_check_maint,
            weight: agent_weight,
            tls,
            state_file: some(state_file),
        })
    }
}
