//! The cluster's address and the credentials for it.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    path::PathBuf,
};

use anyhow::Context;
use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

/// Where the cluster's address and credentials are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterSource {
    /// This process runs in a pod: the service account's token, CA and namespace.
    InCluster,
    /// These files, merged; the first one that sets a value wins.
    Kubeconfig(Vec<PathBuf>),
}

impl ClusterSource {
    /// The kubeconfig (`KUBECONFIG`: paths with colons) where one is named, else the pod's service account; `None` where
    /// there is neither. A pod has both variables of client-go's in-cluster environment.
    #[must_use]
    pub fn find(
        kubeconfig: Option<&OsStr>,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Option<Self> {
        let files: Vec<_> = kubeconfig
            .map(env::split_paths)
            .into_iter()
            .flatten()
            .filter(|path| !path.as_os_str().is_empty())
            .collect();
        let is_set = |name| env(name).is_some_and(|value| !value.is_empty());
        if !files.is_empty() {
            Some(Self::Kubeconfig(files))
        } else if is_set("KUBERNETES_SERVICE_HOST") && is_set("KUBERNETES_SERVICE_PORT") {
            Some(Self::InCluster)
        } else {
            None
        }
    }

    /// Reads the configuration anew: certificates and tokens may have changed since the last time.
    pub(super) async fn read(&self) -> anyhow::Result<Config> {
        match self {
            Self::InCluster => {
                let mut config = Config::incluster_env().context("the pod's service account")?;
                // The way to the API server inside a cluster is never through a proxy.
                config.proxy_url = None;
                Ok(config)
            }
            Self::Kubeconfig(files) => {
                let mut merged: Option<Kubeconfig> = None;
                for file in files {
                    let one = match Kubeconfig::read_from(file) {
                        // kubectl skips a missing file too, where the list has another one.
                        Err(KubeconfigError::ReadConfig(error, _))
                            if error.kind() == io::ErrorKind::NotFound && files.len() > 1 =>
                        {
                            continue;
                        }
                        read => read.with_context(|| file.display().to_string())?,
                    };
                    merged = Some(match merged {
                        Some(merged) => merged.merge(one).context("merge the kubeconfigs")?,
                        None => one,
                    });
                }
                let merged = merged.context("none of the files of KUBECONFIG is there")?;
                let proxy = own_proxy(&merged);
                let options = KubeConfigOptions::default();
                let mut config =
                    Config::from_custom_kubeconfig(merged, &options).await.context("kubeconfig")?;
                if !proxy {
                    // kube takes the environment's proxy without a look at NO_PROXY.
                    config.proxy_url = None;
                }
                Ok(config)
            }
        }
    }
}

/// Whether the cluster in use names a proxy itself.
fn own_proxy(kubeconfig: &Kubeconfig) -> bool {
    let current = kubeconfig.current_context.as_ref();
    let context = kubeconfig.contexts.iter().find(|named| Some(&named.name) == current);
    let cluster = context.and_then(|named| named.context.as_ref()).map(|context| &context.cluster);
    let named = kubeconfig.clusters.iter().find(|named| Some(&named.name) == cluster);
    named
        .and_then(|named| named.cluster.as_ref()?.proxy_url.as_ref())
        .is_some_and(|url| !url.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_wins_over_the_pod() {
        let pod = [("KUBERNETES_SERVICE_HOST", "10.0.0.1"), ("KUBERNETES_SERVICE_PORT", "443")];
        let files = |files: &[&str]| {
            Some(ClusterSource::Kubeconfig(files.iter().map(PathBuf::from).collect()))
        };
        for (kubeconfig, env, expected) in [
            (None, &[][..], None),
            (None, &pod[..1], None),
            (None, &pod[..], Some(ClusterSource::InCluster)),
            (Some(""), &pod, Some(ClusterSource::InCluster)),
            (Some("/a:/b"), &pod, files(&["/a", "/b"])),
            (Some(":/a:"), &[], files(&["/a"])),
        ] {
            let env = |name: &str| {
                env.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value))
            };
            assert_eq!(
                ClusterSource::find(kubeconfig.map(OsStr::new), env),
                expected,
                "{kubeconfig:?}"
            );
        }
    }
}
