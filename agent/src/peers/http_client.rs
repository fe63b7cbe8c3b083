//! Requests to what operators name: webhooks and the sanity check, over HTTP/1.1 with or without TLS.
//!
//! They are few and far between, so each has a connection of its own. A request ends after [`TIMEOUT`], whatever hangs:
//! the resolver, the connection, the handshake or the answer. Only the status of an answer counts.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{self, HeaderMap},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::ring::default_provider, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

use super::url::Url;
use crate::host::{Bounded, Stuck};

/// 5 seconds for a request with its redirects, as in `k8_networking_health`.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// 2 seconds for a connection to one address: the next one of the name then still has its turn.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// 4 seconds that a request waits for the same look-up of another one: a second less than [`TIMEOUT`], so that the error
/// says what hangs.
const TURN_PATIENCE: Duration = Duration::from_secs(4);
/// 50 milliseconds between two looks at whether the other one has ended.
const TURN_PERIOD: Duration = Duration::from_millis(50);
/// 5 redirects are more than a receiver should need.
const REDIRECTS: usize = 5;
/// 16 KiB for the head of an answer.
const HEAD: usize = 16 * 1024;
/// 1 hour until the trusted certificates are read again.
const ROOTS_KEPT: Duration = Duration::from_hours(1);

/// Why a request was not accepted, in one line without secrets.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The answer's status is not 2xx.
    #[error("it answers {0}")]
    Status(StatusCode),
    /// The name has no address.
    #[error("its name cannot be resolved: {0}")]
    Name(io::Error),
    /// The resolver, or the reading of certificates, hangs.
    #[error("{0}: {1}")]
    Stuck(&'static str, Stuck),
    /// No address of it accepts a connection.
    #[error("no connection: {0}")]
    Connect(io::Error),
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(String),
    /// What it answers is no HTTP/1.1, or the connection ended.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// The request cannot be written down.
    #[error("{0}")]
    Request(#[from] hyper::http::Error),
    /// A redirect that is not followed.
    #[error("it answers {0} with a redirect that cannot be followed")]
    Redirect(StatusCode),
    /// Too many redirects.
    #[error("it redirects more than {REDIRECTS} times")]
    Redirects,
    /// No answer in time.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
}

/// Runs a blocking call as [`Bounded::run`] does. While another request makes the same call, it waits for `patience`.
pub(super) async fn in_turn<T: Send + 'static>(
    bounded: &Bounded,
    name: String,
    (patience, deadline): (Duration, Duration),
    call: impl FnOnce() -> T + Clone + Send + 'static,
) -> Result<T, Stuck> {
    let end = Instant::now() + patience;
    loop {
        match bounded.run(name.clone(), deadline, call.clone()).await {
            Err(Stuck::Still(_)) if Instant::now() < end => sleep(TURN_PERIOD).await,
            result => return result,
        }
    }
}

/// The certificates that are trusted, and when they were read.
type Trusted = (Instant, Arc<ClientConfig>);

/// A client. Clones share what was read.
#[derive(Clone, Debug, Default)]
pub struct HttpClient {
    bounded: Bounded,
    tls: Arc<Mutex<Option<Trusted>>>,
}

impl HttpClient {
    /// A client that resolves names and reads certificates on threads of `bounded`.
    #[must_use]
    pub fn new(bounded: Bounded) -> Self {
        Self { bounded, tls: Arc::default() }
    }

    /// Asks for a URL. Any redirect is followed.
    pub async fn get(&self, url: &Url) -> Result<(), RequestError> {
        self.bounded_in_time(Method::GET, url, HeaderMap::new(), Bytes::new()).await
    }

    /// Posts a body. Redirects are followed that keep the method and the body (307 and 308).
    pub async fn post(
        &self,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(), RequestError> {
        self.bounded_in_time(Method::POST, url, headers, body).await
    }

    async fn bounded_in_time(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(), RequestError> {
        let request = self.request(method, url.clone(), headers, body);
        timeout(TIMEOUT, request).await.map_err(|_| RequestError::Timeout)?
    }

    async fn request(
        &self,
        method: Method,
        mut url: Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(), RequestError> {
        for _ in 0..=REDIRECTS {
            let response = self.send(&method, &url, &headers, body.clone()).await?;
            let status = response.status();
            if status.is_success() {
                return Ok(());
            }
            let keeps_method = matches!(status.as_u16(), 307 | 308);
            let is_redirect = keeps_method || matches!(status.as_u16(), 301..=303);
            if !is_redirect {
                return Err(RequestError::Status(status));
            }
            let location = response.headers().get(header::LOCATION);
            let location = location.and_then(|location| location.to_str().ok());
            match location.and_then(|location| url.redirected(location)) {
                Some(next) if keeps_method || method == Method::GET => url = next,
                _ => return Err(RequestError::Redirect(status)),
            }
        }
        Err(RequestError::Redirects)
    }

    /// One request on a connection of its own.
    async fn send(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, RequestError> {
        let mut request = Request::builder()
            .method(method)
            .uri(&url.path)
            .header(header::HOST, url.authority.as_str())
            .header(header::USER_AGENT, concat!("tocsin/", env!("CARGO_PKG_VERSION")))
            .header(header::CONNECTION, "close")
            .body(Full::new(body))?;
        request.headers_mut().extend(headers.clone());
        if let Some(authorization) = &url.authorization {
            request.headers_mut().insert(header::AUTHORIZATION, authorization.clone());
        }
        let stream = self.connect(url).await?;
        if !url.is_tls {
            return exchange(stream, request).await;
        }
        let name = ServerName::try_from(url.host().to_owned())
            .map_err(|error| RequestError::Tls(error.to_string()))?;
        let stream = TlsConnector::from(self.tls().await?)
            .connect(name, stream)
            .await
            .map_err(|error| RequestError::Tls(error.to_string()))?;
        exchange(stream, request).await
    }

    async fn connect(&self, url: &Url) -> Result<TcpStream, RequestError> {
        let (host, port) = (url.host().to_owned(), url.port());
        let name = format!("resolve {host}");
        let resolve = move || (host.as_str(), port).to_socket_addrs().map(Vec::from_iter);
        let limits = (TURN_PATIENCE, TIMEOUT);
        let addresses: Vec<SocketAddr> = in_turn(&self.bounded, name, limits, resolve)
            .await
            .map_err(|stuck| RequestError::Stuck("its name", stuck))?
            .map_err(RequestError::Name)?;
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failure = error,
                Err(_) => failure = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(RequestError::Connect(failure))
    }

    /// The trusted certificates, which are read when they are first needed, and now and then.
    async fn tls(&self) -> Result<Arc<ClientConfig>, RequestError> {
        let lock = || self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = lock().clone().filter(|(at, _)| at.elapsed() < ROOTS_KEPT);
        if let Some((_, config)) = kept {
            return Ok(config);
        }
        let (name, limits) = ("trusted certificates".to_owned(), (TURN_PATIENCE, TIMEOUT));
        let read = in_turn(&self.bounded, name, limits, tls_config).await;
        let config = read
            .map_err(|stuck| RequestError::Stuck("the trusted certificates", stuck))?
            .map_err(RequestError::Tls)?;
        *lock() = Some((Instant::now(), config.clone()));
        Ok(config)
    }
}

/// Trusts the certificates of this system: `SSL_CERT_FILE` and `SSL_CERT_DIR`, or where distributions have them.
fn tls_config() -> Result<Arc<ClientConfig>, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        return Err(format!("no trusted certificates were found (set SSL_CERT_FILE){why}"));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// Sends the request and waits for the head of the answer.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, RequestError> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    let (mut connection, mut response) = (pin!(connection), pin!(sender.send_request(request)));
    let mut is_connected = true;
    loop {
        tokio::select! {
            biased;
            response = &mut response => return Ok(response?),
            // Its error is that of the response too.
            _ended = &mut connection, if is_connected => is_connected = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use tocsin_runtime::tls::Certificate;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A server with a certificate that the client trusts answers; one that it does not trust gets no request.
    #[tokio::test]
    async fn certificates_are_verified() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (pem, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let certificate = Certificate::from_pem(pem.as_bytes(), key.as_bytes()).unwrap();
        let acceptor = certificate.acceptor(&[]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream, TIMEOUT).await else { continue };
                let mut bytes = [0; 1024];
                let count = stream.read(&mut bytes).await.unwrap();
                assert!(bytes[..count].starts_with(b"GET / HTTP/1.1\r\n"));
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                stream.flush().await.unwrap();
            }
        });
        let url = url.parse().unwrap();
        let client = |roots: RootCertStore| {
            let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            let client = HttpClient::default();
            *client.tls.lock().unwrap() = Some((Instant::now(), Arc::new(config)));
            client
        };
        let mut roots = RootCertStore::empty();
        let error = client(roots.clone()).get(&url).await.unwrap_err();
        assert!(matches!(error, RequestError::Tls(_)), "{error}");
        roots.add(made.cert.der().clone()).unwrap();
        client(roots).get(&url).await.unwrap();
        server.abort();
    }
}
