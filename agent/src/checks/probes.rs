//! The probes: their settings, and the list that the runner runs. A new probe is a line in both.

use std::{io, sync::Arc, time::Duration};

use tracing::debug;

use super::{
    Check, Policy,
    container_runtime::{ContainerRuntime, CriSocket},
    disk_pressure::{DiskPressure, FullestFilesystem, ImageLookup, Thresholds},
    http,
    network::{self, Network},
    runner::{Probe, Runner},
    samples::Probes,
};
use crate::host::{Bounded, Paths};

/// The lookup of the filesystems with container images. If it fails, `container_runtime` says why.
fn images_of(runtime: Arc<ContainerRuntime>) -> ImageLookup {
    Box::new(move || {
        let runtime = runtime.clone();
        Box::pin(async move {
            let answer = runtime.image_filesystems().await;
            answer.inspect_err(|error| debug!(%error, "where images are is not known")).ok()
        })
    })
}

/// What is configured for the probes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The time between two samples.
    pub interval: Duration,
    /// The URL that `okd_router_1936` gets.
    pub router_url: http::Url,
    /// The URL that `kubelet` gets.
    pub kubelet_url: http::Url,
    /// The settings of `network`.
    pub network: network::Settings,
    /// The operator's own checks, and the URL that each gets.
    pub own: Vec<(&'static Check, http::Url)>,
    /// The socket of the container runtime.
    pub cri_socket: CriSocket,
    /// How much has to be free on each filesystem.
    pub disk_thresholds: Thresholds,
}

impl Settings {
    /// The operator's own checks.
    #[must_use]
    pub fn own(&self) -> Vec<&'static Check> {
        self.own.iter().map(|(check, _)| *check).collect()
    }

    /// The lowest share of free space among the filesystems of `disk_pressure`, for the weight of the agent-check.
    #[must_use]
    pub fn fullest(&self, paths: &Paths) -> FullestFilesystem {
        FullestFilesystem::new(self.disk_thresholds.clone(), paths)
    }

    /// Starts the runner of all probes; those of the default set begin at once.
    pub fn start(&self, policy: &Policy, paths: &Paths) -> io::Result<(Runner, Probes)> {
        // One for all probes: the names of their calls differ, and their samples begin together.
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
