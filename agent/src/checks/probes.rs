//! Every probe: what was configured for it, and what the runner is to run. A new one is a line in each of both.

use std::{io, sync::Arc, time::Duration};

use tracing::debug;

use super::{
    Check, Policy,
    container_runtime::{ContainerRuntime, CriSocket},
    disk_pressure::{AskImages, DiskPressure, Fullest, Thresholds},
    http,
    network::{self, Network},
    runner::{Probe, Probes, Runner},
};
use crate::{
    cli::ProbeArgs,
    config::{ConfigError, within},
    host::{Bounded, Paths},
};

/// Where the disks are that images fill; where the runtime does not say, its own check tells why.
fn images_of(runtime: Arc<ContainerRuntime>) -> AskImages {
    Box::new(move || {
        let runtime = runtime.clone();
        Box::pin(async move {
            let answer = runtime.image_filesystems().await;
            answer.inspect_err(|error| debug!(%error, "where images are is not known")).ok()
        })
    })
}

/// What was configured.
#[derive(Clone, Debug)]
pub struct Settings {
    interval: Duration,
    router_url: http::Url,
    kubelet_url: http::Url,
    network: network::Settings,
    own: Vec<(&'static Check, http::Url)>,
    cri_socket: CriSocket,
    disk_thresholds: Thresholds,
}

impl Settings {
    /// Reads what was typed.
    pub fn new(args: ProbeArgs) -> Result<Self, ConfigError> {
        let ProbeArgs {
            probe_interval,
            router_url,
            kubelet_url,
            http_probes,
            cri_socket,
            disk_thresholds,
            dns_probe_name,
        } = args;
        let (least, most) = (Duration::from_millis(100), Duration::from_mins(1));
        within("PROBE_INTERVAL", probe_interval, least, most)?;
        let url = |name, text: &str| {
            text.parse::<http::Url>().map_err(|error| ConfigError::Http(name, error))
        };
        Ok(Self {
            interval: probe_interval,
            router_url: url("ROUTER_URL", &router_url)?,
            kubelet_url: url("KUBELET_URL", &kubelet_url)?,
            network: dns_probe_name.unwrap_or_default().parse()?,
            own: http::own(&http_probes)
                .map_err(|error| ConfigError::Http("HTTP_PROBES", error))?,
            cri_socket: cri_socket.unwrap_or_default().parse().map_err(ConfigError::CriSocket)?,
            disk_thresholds: disk_thresholds.unwrap_or_default().parse()?,
        })
    }

    /// Time between samples.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// The checks of the operator's own.
    #[must_use]
    pub fn own(&self) -> Vec<&'static Check> {
        self.own.iter().map(|(check, _)| *check).collect()
    }

    /// How full the disks are that `disk_pressure` looks at.
    #[must_use]
    pub fn fullest(&self, paths: &Paths) -> Fullest {
        Fullest::new(self.disk_thresholds.clone(), paths)
    }

    /// Starts the runner of all of them; those of the default set begin at once.
    pub fn start(&self, policy: &Policy, paths: &Paths) -> io::Result<(Runner, Probes)> {
        // One for all of them: their names differ, and they begin together.
        let bounded = Bounded::default();
        let runtime =
            Arc::new(ContainerRuntime::new(self.cri_socket.clone(), paths, bounded.clone()));
        let disks = DiskPressure::new(
            self.disk_thresholds.clone(),
            paths,
            Some(images_of(runtime.clone())),
            bounded.clone(),
        );
        let mut probes: Vec<Probe> = vec![
            http::router(&self.router_url),
            http::kubelet(&self.kubelet_url),
            runtime.probe(),
            disks.probe(),
            Network::new(self.network.clone(), bounded).probe(),
        ];
        probes.extend(self.own.iter().map(|(check, url)| http::other(check.name, url)));
        let always: Vec<_> = policy.default_checks.iter().map(|check| check.name).collect();
        Runner::start(probes, &always, self.interval)
    }
}
