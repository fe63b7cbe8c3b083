//! TLS for listeners: a certificate that may be replaced while it is in use, and handshakes with limits.
//!
//! [`CertificateFiles`] read the certificate and its key, [`Reload`] keeps them current, and [`Acceptor`] speaks TLS
//! with whatever the certificate is at the moment of a handshake.

mod reload;

use std::{
    fmt, io,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

pub use self::reload::{CertificateFiles, Reload, TlsError};

/// Handshakes at once: each takes about a millisecond of a processor and some 40 KiB, so that more of them would only
/// make each other late.
pub const HANDSHAKES: usize = 64;

/// PEM that is no certificate with its key. The texts say nothing more about a key, which is secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// No certificate can be read.
    #[error("not a certificate in PEM")]
    NotCertificate,
    /// The text has none.
    #[error("there is no certificate in it")]
    NoCertificate,
    /// No key can be read.
    #[error("not a private key in PEM")]
    NotKey,
    /// They do not belong together, or are of a kind that is not known here.
    #[error("{0}")]
    Pair(String),
}

/// A certificate and its key, which may be replaced while connections are accepted. Clones are the same certificate.
#[derive(Clone)]
pub struct Certificate(Arc<Current>);

struct Current(RwLock<Arc<CertifiedKey>>);

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate")
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Certificate {
    /// From a chain of certificates and a key, both as PEM.
    pub fn from_pem(cert: &[u8], key: &[u8]) -> Result<Self, PemError> {
        let key = Arc::new(parse(cert, key)?);
        Ok(Self(Arc::new(Current(RwLock::new(key)))))
    }

    /// Uses another one from the next handshake on. A pair that cannot be used changes nothing.
    pub fn replace(&self, cert: &[u8], key: &[u8]) -> Result<(), PemError> {
        let key = Arc::new(parse(cert, key)?);
        *self.0.0.write().unwrap_or_else(PoisonError::into_inner) = key;
        Ok(())
    }

    /// An acceptor that offers these application protocols (ALPN), the best one first.
    pub fn acceptor(&self, protocols: &[&[u8]]) -> Result<Acceptor, rustls::Error> {
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let mut config = config
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self.0.clone());
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        Ok(Acceptor { tls: TlsAcceptor::from(Arc::new(config)), handshakes })
    }
}

fn parse(cert: &[u8], key: &[u8]) -> Result<CertifiedKey, PemError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert).collect();
    let chain = chain.map_err(|_| PemError::NotCertificate)?;
    if chain.is_empty() {
        return Err(PemError::NoCertificate);
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| PemError::NotKey)?;
    CertifiedKey::from_der(chain, key, &default_provider())
        .map_err(|error| PemError::Pair(error.to_string()))
}

/// Speaks TLS on connections that were accepted. Clones share the limit of handshakes.
#[derive(Clone)]
pub struct Acceptor {
    tls: TlsAcceptor,
    handshakes: Arc<Semaphore>,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor")
    }
}

impl Acceptor {
    /// Makes the handshake within that time, which includes the wait for its turn ([`HANDSHAKES`]). The error after it is
    /// [`io::ErrorKind::TimedOut`].
    pub async fn accept<S>(&self, stream: S, within: Duration) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let handshake = async {
            // The semaphore is never closed.
            let _turn = self.handshakes.acquire().await.map_err(io::Error::other)?;
            self.tls.accept(stream).await
        };
        timeout(within, handshake).await?
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio_rustls::TlsConnector;

    use super::*;

    pub(super) const PATIENCE: Duration = Duration::from_secs(30);

    /// A certificate for `localhost`, and its key: (for a client that trusts it, PEM, PEM).
    pub(super) fn made() -> (CertificateDer<'static>, String, String) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (cert.der().clone(), cert.pem(), signing_key.serialize_pem())
    }

    /// Whether a client that trusts `root` alone speaks with the acceptor.
    pub(super) async fn is_trusted(acceptor: &Acceptor, root: &CertificateDer<'static>) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(root.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (ours, theirs) = duplex(4096);
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let client = async {
            let mut stream = connector.connect(name, theirs).await.ok()?;
            stream.write_all(b"x").await.ok()?;
            stream.flush().await.ok()?;
            stream.read_u8().await.ok()
        };
        let server = async {
            let mut stream = acceptor.accept(ours, PATIENCE).await.ok()?;
            let byte = stream.read_u8().await.ok()?;
            stream.write_u8(byte).await.ok()?;
            stream.flush().await.ok()
        };
        let (client, _) = tokio::join!(client, server);
        client == Some(b'x')
    }

    #[tokio::test]
    async fn handshakes_are_limited_in_number_and_time() {
        let (root, cert, key) = made();
        let certificate = Certificate::from_pem(cert.as_bytes(), key.as_bytes()).unwrap();
        let acceptor = certificate.acceptor(&[]).unwrap();
        // Clients that say nothing.
        let mut silent = Vec::new();
        for _ in 0..HANDSHAKES {
            let (ours, theirs) = duplex(64);
            let acceptor = acceptor.clone();
            let task = tokio::spawn(async move {
                acceptor.accept(ours, Duration::from_millis(200)).await.map(drop)
            });
            silent.push((task, theirs));
        }
        while acceptor.handshakes.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        // One more waits for its turn, and has it.
        assert!(is_trusted(&acceptor, &root).await);
        for (task, _theirs) in silent {
            assert_eq!(task.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
    }
}
