//! The client: kube's layers on a connection that notices a server which hangs.

use std::{
    collections::BTreeMap,
    error::Error,
    fmt, io,
    sync::{
        Arc, Mutex, PoisonError,
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
};
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};

use super::{
    last_read::{LastRead, ReadNoting},
    line_limit::LineLimit,
    source::ClusterSource,
    timer::KernelTimer,
};

/// How a client talks to the API server.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// `User-Agent` of every request, which the API server's audit log shows: `tocsin/0.1.0`.
    pub user_agent: &'static str,
    /// For a connection to be made, TLS included.
    pub connect_timeout: Duration,
    /// For a kubeconfig's login plugin, which may have to ask a cloud.
    pub login_timeout: Duration,
    /// Between HTTP/2 PINGs on a connection; also on one without a request.
    pub ping_interval: Duration,
    /// For the answer to a PING: a connection without one ends, and with it its requests and watches.
    pub ping_timeout: Duration,
    /// Bytes of an answer without the end of a line: kube reads a list, and each event of a watch, into memory as a
    /// whole.
    pub line_limit: usize,
}

impl ClientSettings {
    /// Settings for a controller that follows many objects with reflectors.
    ///
    /// 5 s for a connection, 10 s for a login plugin; a server that hangs is noticed within 10 s: a PING every 5 s (client-go
    /// waits for 30 s of silence) with 5 s for its answer. 64 MiB for a page of a list: kube-runtime asks for 500
    /// objects at once, and etcd takes some of up to 1.5 MiB, of which most have some kilobytes.
    #[must_use]
    pub fn new(user_agent: &'static str) -> Self {
        Self {
            user_agent,
            connect_timeout: Duration::from_secs(5),
            login_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(5),
            line_limit: 64 << 20,
        }
    }
}

/// Requests to the API server by the status of their answer, for a metric.
#[derive(Debug, Default)]
pub struct RequestCounts(Mutex<BTreeMap<u16, u64>>);

/// Status of a request without an answer.
const NO_ANSWER: u16 = 0;

impl RequestCounts {
    /// Counts a request that ended with that status, or without an answer.
    fn count(&self, status: Option<u16>) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(status.unwrap_or(NO_ANSWER)).or_default() += 1;
    }

    /// Requests by status (`200`), and those without an answer as `none`, which is there from the start.
    #[must_use]
    pub fn by_code(&self) -> Vec<(String, u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let without = counts.get(&NO_ANSWER).copied().unwrap_or_default();
        let answered = counts.iter().filter(|(code, _)| **code != NO_ANSWER);
        let answered = answered.map(|(code, count)| (code.to_string(), *count));
        answered.chain([("none".to_owned(), without)]).collect()
    }
}

/// A client, and what is known of its connection.
#[derive(Clone)]
pub struct ClusterClient {
    /// The client.
    pub client: Client,
    /// When anything was last read from its connections.
    pub last_read: LastRead,
    answers: Arc<Answers>,
}

impl fmt::Debug for ClusterClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client: _, last_read, answers } = self;
        f.debug_struct("ClusterClient")
            .field("last_read", last_read)
            .field("answers", answers)
            .finish_non_exhaustive()
    }
}

/// What the client notes of every answer.
#[derive(Debug, Default)]
struct Answers {
    without_http2: AtomicBool,
    status: AtomicU16,
}

impl ClusterClient {
    /// The status of the last answer; 0 before the first.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.answers.status.load(Relaxed)
    }

    /// Whether the last answer came by HTTP/1, which has no PING: such a server must be asked now and then.
    #[must_use]
    pub fn is_without_http2(&self) -> bool {
        self.answers.without_http2.load(Relaxed)
    }
}

impl ClusterSource {
    /// Reads the credentials and makes a client of them, which connects with its first request.
    ///
    /// Fails where a file cannot be read or used, or a login plugin does not answer in time; [`super::describe`] says so
    /// without secrets. The plugin then still runs on a blocking thread of the runtime, which must be ended with
    /// [`tokio::runtime::Runtime::shutdown_background`].
    pub async fn connect(
        &self,
        settings: &ClientSettings,
        requests: &Arc<RequestCounts>,
    ) -> anyhow::Result<ClusterClient> {
        let config = self.read().await?;
        let (used, requests) = (settings.clone(), requests.clone());
        // kube runs the login plugin here, and nothing else on this thread may wait for it.
        let made = tokio::task::spawn_blocking(move || connect(config, &used, requests));
        let Ok(made) = tokio::time::timeout(settings.login_timeout, made).await else {
            let seconds = settings.login_timeout.as_secs();
            bail!("the kubeconfig's login plugin gives no answer within {seconds} s")
        };
        made.context("make a client")?
    }
}

fn connect(
    mut config: Config,
    settings: &ClientSettings,
    requests: Arc<RequestCounts>,
) -> anyhow::Result<ClusterClient> {
    let agent = HeaderValue::from_str(settings.user_agent).context("user agent")?;
    config.headers.push((header::USER_AGENT, agent));
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(settings.connect_timeout));
    // Without HTTP/2, and so without its PING, this is what ends a connection that a firewall forgot.
    tcp.set_keepalive(Some(Duration::from_secs(5)));
    tcp.set_keepalive_interval(Some(Duration::from_secs(1)));
    tcp.set_keepalive_retries(Some(5));
    match config.proxy_url.clone() {
        None => client(&config, tcp, settings, requests),
        Some(proxy)
            if proxy.scheme_str() == Some("http")
                && !proxy.authority().is_some_and(|a| a.as_str().contains('@')) =>
        {
            client(&config, Tunnel::new(proxy, tcp), settings, requests)
        }
        Some(_) => bail!("the kubeconfig's proxy-url is not http://, or has a password"),
    }
}

/// kube's own stack of layers, on a connector that speaks HTTP/2 and sends PINGs.
fn client<C>(
    config: &Config,
    tcp: C,
    settings: &ClientSettings,
    requests: Arc<RequestCounts>,
) -> anyhow::Result<ClusterClient>
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
    let last_read = LastRead::new();
    let tcp = ReadNoting::new(tcp, last_read.clone());
    let mut connector =
        TimeoutConnector::new(tls.enable_http1().enable_http2().wrap_connector(tcp));
    // TLS included, unlike the TCP connector's own.
    connector.set_connect_timeout(Some(settings.connect_timeout));
    let limit = settings.connect_timeout;
    let connector = connector.map_err(move |error| name_timeout(error, limit));
    let http = legacy::Client::builder(TokioExecutor::new())
        .timer(KernelTimer)
        .pool_timer(TokioTimer::new())
        .http2_keep_alive_interval(settings.ping_interval)
        .http2_keep_alive_timeout(settings.ping_timeout)
        .http2_keep_alive_while_idle(true)
        .build::<_, Body>(connector);

    let answers = Arc::<Answers>::default();
    let (noted, counted, failed) = (answers.clone(), requests.clone(), requests);
    let line_limit = settings.line_limit;
    let stack = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().context("credentials")?)
        .layer(config.extra_headers_layer().context("headers")?)
        .map_err(BoxError::from)
        .service(http)
        .map_response(move |response: hyper::Response<_>| {
            let code = response.status().as_u16();
            counted.count(Some(code));
            noted.status.store(code, Relaxed);
            noted.without_http2.store(response.version() < Version::HTTP_2, Relaxed);
            response.map(|body| LineLimit::new(body, line_limit))
        })
        .map_err(move |error| {
            failed.count(None);
            error
        });
    let client = Client::new(stack, config.default_namespace.clone());
    Ok(ClusterClient { client, last_read, answers })
}

/// Says what timed out, in place of "deadline has elapsed".
fn name_timeout(error: BoxError, limit: Duration) -> BoxError {
    let causes =
        std::iter::successors(Some(&*error as &(dyn Error + 'static)), |&error| error.source());
    let is_timeout = |cause: &(dyn Error + 'static)| {
        cause.downcast_ref().is_some_and(|e: &io::Error| e.kind() == io::ErrorKind::TimedOut)
    };
    if !causes.into_iter().any(is_timeout) {
        return error;
    }
    format!("no connection within {} s", limit.as_secs_f64()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_status() {
        let counts = RequestCounts::default();
        assert_eq!(counts.by_code(), [("none".to_owned(), 0)]);
        for status in [Some(200), Some(403), None, Some(200)] {
            counts.count(status);
        }
        let expected = [("200", 2), ("403", 1), ("none", 1)];
        assert_eq!(counts.by_code(), expected.map(|(code, count)| (code.to_owned(), count)));
    }

    #[test]
    fn a_timeout_says_what_was_waited_for() {
        let second = Duration::from_secs(1);
        let text = |error: io::Error| name_timeout(error.into(), second).to_string();
        assert_eq!(text(io::Error::new(io::ErrorKind::TimedOut, "x")), "no connection within 1 s");
        assert_eq!(text(io::Error::other("refused")), "refused");
        let around = io::Error::other(io::Error::new(io::ErrorKind::TimedOut, "x"));
        assert_eq!(text(around), "x");
    }
}
