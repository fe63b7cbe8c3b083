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
use crate::host::{Bounded, Paths};

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
    /// Time between samples.
    pub interval: Duration,
    /// What `okd_router_1936` asks.
    pub router_url: http::Url,
    /// What `kubelet` asks.
    pub kubelet_url: http::Url,
    /// What `network` asks for.
    pub network: network::Settings,
    /// The operator's own checks, and what each asks.
    pub own: Vec<(&'static Check, http::Url)>,
    /// Where the container runtime is.
    pub cri_socket: CriSocket,
    /// How much has to be free.
    pub disk_thresholds: Thresholds,
}

impl Settings {
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
