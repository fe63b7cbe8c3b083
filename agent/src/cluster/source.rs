//! Where the cluster is, and a client for it.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use hyper::{
    Version,
    header::{self, HeaderValue},
};
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{
        self,
        connect::{HttpConnector, proxy::Tunnel},
    },
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Client, Config,
    client::{Body, ConfigExt},
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};

use super::{
    body::Lines,
    heard::{Heard, Listening},
    stats::ApiStats,
    timer::KernelTimer,
};
use crate::cluster::settings;

/// Where the cluster is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// This process runs in a pod: the service account's token, CA and namespace.
    InCluster,
    /// These files, merged; the first one has the last word.
    Kubeconfig(Vec<PathBuf>),
}

impl Source {
    /// A kubeconfig where one is named, else the pod's environment (both its variables, as client-go wants it).
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

    /// Reads it anew: certificates and tokens may have changed since the last time.
    async fn read(&self) -> anyhow::Result<Config> {
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
                        // As kubectl has it, where another one is there.
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
                    // The environment's, which kube takes without a look at NO_PROXY.
                    config.proxy_url = None;
                }
                Ok(config)
            }
        }
    }

    /// A new client on a new connection.
    pub async fn connect(&self, stats: &Arc<ApiStats>) -> anyhow::Result<Connection> {
        let mut config = self.read().await?;
        let agent = concat!("tocsin/", env!("CARGO_PKG_VERSION"));
        config.headers.push((header::USER_AGENT, HeaderValue::from_static(agent)));
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(settings::API_CONNECT_TIMEOUT));
        // Without HTTP/2, and so without its PING, this is what ends a connection that a firewall forgot.
        tcp.set_keepalive(Some(Duration::from_secs(5)));
        tcp.set_keepalive_interval(Some(Duration::from_secs(1)));
        tcp.set_keepalive_retries(Some(5));
        let stats = stats.clone();
        // A login plugin is run here, and nothing else on this thread may wait for it.
        let made = tokio::task::spawn_blocking(move || Self::client(&config, tcp, &stats));
        let Ok(made) = tokio::time::timeout(settings::LOGIN_TIMEOUT, made).await else {
            let seconds = settings::LOGIN_TIMEOUT.as_secs();
            bail!("the kubeconfig's login plugin gives no answer within {seconds} s")
        };
        made.context("make a client")?
    }

    fn client(
        config: &Config,
        tcp: HttpConnector,
        stats: &Arc<ApiStats>,
    ) -> anyhow::Result<Connection> {
        match config.proxy_url.clone() {
            None => client(config, tcp, stats),
            Some(proxy)
                if proxy.scheme_str() == Some("http")
                    && !proxy.authority().is_some_and(|a| a.as_str().contains('@')) =>
            {
                client(config, Tunnel::new(proxy, tcp), stats)
            }
            Some(_) => bail!("the kubeconfig's proxy-url is not http://, or has a password"),
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

/// A client, and what its connection turned out to be.
#[derive(Clone)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// When anything was read from it.
    pub heard: Heard,
    answered: Arc<Answered>,
}

/// What is noted of every answer.
#[derive(Debug, Default)]
struct Answered {
    without_http2: AtomicBool,
    status: AtomicU16,
}

impl Connection {
    /// The status of the last answer.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.answered.status.load(Relaxed)
    }

    /// Whether the server answered in HTTP/1, which has no PING.
    #[must_use]
    pub fn is_without_http2(&self) -> bool {
        self.answered.without_http2.load(Relaxed)
    }
}

/// kube's own stack of layers, on a connector that speaks HTTP/2 and asks with PINGs whether the server is there.
fn client<C>(config: &Config, tcp: C, stats: &Arc<ApiStats>) -> anyhow::Result<Connection>
where
    C: Service<hyper::Uri> + Clone + Send + Sync + 'static,
    C::Response: legacy::connect::Connection + hyper::rt::Read + hyper::rt::Write + Send + Unpin,
    C::Future: Send + 'static,
    C::Error: Into<BoxError>,
{
    let mut tls = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(config.rustls_client_config().context("TLS")?)
        .https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = name.clone().try_into().context("tls-server-name")?;
        tls = tls.with_server_name_resolver(hyper_rustls::FixedServerNameResolver::new(name));
    }
    let heard = Heard::new();
    let tcp = Listening::new(tcp, heard.clone());
    let mut connector =
        TimeoutConnector::new(tls.enable_http1().enable_http2().wrap_connector(tcp));
    // TLS included, unlike the TCP connector's own.
    connector.set_connect_timeout(Some(settings::API_CONNECT_TIMEOUT));
    let http = legacy::Client::builder(TokioExecutor::new())
        .timer(KernelTimer)
        .pool_timer(TokioTimer::new())
        .http2_keep_alive_interval(settings::API_PING_INTERVAL)
        .http2_keep_alive_timeout(settings::API_PING_TIMEOUT)
        .http2_keep_alive_while_idle(true)
        .build::<_, Body>(connector);

    let answered = Arc::<Answered>::default();
    let (noted, counted, failed) = (answered.clone(), stats.clone(), stats.clone());
    let stack = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().context("credentials")?)
        .layer(config.extra_headers_layer().context("headers")?)
        .map_err(BoxError::from)
        .service(http)
        .map_response(move |response: hyper::Response<_>| {
            let code = response.status().as_u16();
            counted.request(Some(code));
            noted.status.store(code, Relaxed);
            noted.without_http2.store(response.version() < Version::HTTP_2, Relaxed);
            response.map(Lines::new)
        })
        .map_err(move |error| {
            failed.request(None);
            error
        });
    let client = Client::new(stack, config.default_namespace.clone());
    Ok(Connection { client, heard, answered })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_wins_over_the_pod() {
        let pod = [("KUBERNETES_SERVICE_HOST", "10.0.0.1"), ("KUBERNETES_SERVICE_PORT", "443")];
        let files =
            |files: &[&str]| Some(Source::Kubeconfig(files.iter().map(PathBuf::from).collect()));
        for (kubeconfig, env, expected) in [
            (None, &[][..], None),
            (None, &pod[..1], None),
            (None, &pod[..], Some(Source::InCluster)),
            (Some(""), &pod, Some(Source::InCluster)),
            (Some("/a:/b"), &pod, files(&["/a", "/b"])),
            (Some(":/a:"), &[], files(&["/a"])),
        ] {
            let env = |name: &str| {
                env.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value))
            };
            assert_eq!(Source::find(kubeconfig.map(OsStr::new), env), expected, "{kubeconfig:?}");
        }
    }
}
