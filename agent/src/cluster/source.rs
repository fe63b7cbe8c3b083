//! Where the cluster is, and a client for it.

use std::{
    env,
    ffi::{OsStr, OsString},
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
    config::{KubeConfigOptions, Kubeconfig},
};
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};

use super::{
    heard::{Heard, Listening},
    stats::ApiStats,
};
use crate::config;

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
                let mut merged = Kubeconfig::default();
                for file in files {
                    let one = Kubeconfig::read_from(file).context("kubeconfig")?;
                    merged = merged.merge(one).context("kubeconfig")?;
                }
                let options = KubeConfigOptions::default();
                Config::from_custom_kubeconfig(merged, &options).await.context("kubeconfig")
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
        tcp.set_connect_timeout(Some(config::API_CONNECT_TIMEOUT));
        // Without HTTP/2, and so without its PING, this is what ends a connection that a firewall forgot.
        tcp.set_keepalive(Some(Duration::from_secs(5)));
        tcp.set_keepalive_interval(Some(Duration::from_secs(1)));
        tcp.set_keepalive_retries(Some(5));
        let proxy = config.proxy_url.clone();
        match proxy {
            None => client(&config, tcp, stats),
            Some(proxy) if proxy.scheme_str() == Some("http") => {
                client(&config, Tunnel::new(proxy, tcp), stats)
            }
            Some(proxy) => bail!("a proxy for the API server can be http:// only, not {proxy}"),
        }
    }
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
    connector.set_connect_timeout(Some(config::API_CONNECT_TIMEOUT));
    let http = legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_keep_alive_interval(config::API_PING_INTERVAL)
        .http2_keep_alive_timeout(config::API_PING_TIMEOUT)
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
            response
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
