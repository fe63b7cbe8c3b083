//! The certificate of the health listener, for load balancers that insist on TLS; read again when it changes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use rustls::{
    ServerConfig,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

use crate::{host::Bounded, serve::settings};

/// `TLS_CERT` and `TLS_KEY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate, and those that lead to who is trusted, as PEM.
    pub cert: PathBuf,
    /// Its key, as PEM: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// Files that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not readable, or too large to be any of that.
    #[error("{path}: {1}", path = .0.display())]
    Read(PathBuf, io::Error),
    /// Not what it should be.
    #[error("{path}: {1}", path = .0.display())]
    Pem(PathBuf, String),
    /// They do not belong together, or are of a kind that is not known here.
    #[error("{cert} and {key}: {1}", cert = .0.cert.display(), key = .0.key.display())]
    Pair(Files, String),
    /// A disk that hangs.
    #[error("the certificate could not be read in time")]
    Late,
}

/// What TLS is spoken with, and what keeps it current.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    read: Contents,
    current: Arc<Current>,
    failures: Arc<AtomicU64>,
}

/// What was in the files.
type Contents = (Vec<u8>, Vec<u8>);

/// The certificate of this moment.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Tls {
    /// Reads the files. `failures` counts later attempts that failed.
    pub fn new(files: Files, failures: Arc<AtomicU64>) -> Result<Self, TlsError> {
        let read = read(&files)?;
        let key = Arc::new(parse(&files, &read)?);
        Ok(Self { files, read, current: Arc::new(Current(RwLock::new(key))), failures })
    }

    /// What accepts connections with it.
    pub fn acceptor(&self) -> Result<TlsAcceptor, rustls::Error> {
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let mut config = config
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self.current.clone());
        config.alpn_protocols = [&b"h2"[..], b"http/1.1", b"http/1.0"].map(<[u8]>::to_vec).into();
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Looks every [`settings::TLS_INTERVAL`] whether the files say something else. A pair that cannot be used, such as
    /// one of which half has been written, changes nothing.
    pub async fn follow(mut self) {
        let bounded = Bounded::default();
        let mut failed = None;
        loop {
            tokio::time::sleep(settings::TLS_INTERVAL).await;
            let files = self.files.clone();
            let call = move || read(&files);
            let now = bounded.run("certificate".to_owned(), settings::TLS_DEADLINE, call).await;
            let now = now.unwrap_or(Err(TlsError::Late));
            match now.and_then(|now| self.renew(now)) {
                Ok(true) => info!(certificate = %self.files.cert.display(), "a new certificate"),
                Ok(false) => {}
                Err(error) => {
                    self.failures.fetch_add(1, Relaxed);
                    let error = error.to_string();
                    if failed.as_ref() != Some(&error) {
                        warn!(error, "the certificate could not be renewed: the last one goes on");
                    }
                    failed = Some(error);
                    continue;
                }
            }
            failed = None;
        }
    }

    fn renew(&mut self, now: Contents) -> Result<bool, TlsError> {
        if now == self.read {
            return Ok(false);
        }
        let key = Arc::new(parse(&self.files, &now)?);
        *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = key;
        self.read = now;
        Ok(true)
    }
}

fn read(files: &Files) -> Result<Contents, TlsError> {
    let one = |path: &Path| {
        let failed = |error| TlsError::Read(path.to_owned(), error);
        let mut bytes = Vec::new();
        let file = fs::File::open(path).map_err(failed)?;
        let mut file = io::Read::take(file, settings::TLS_BYTES);
        io::Read::read_to_end(&mut file, &mut bytes).map_err(failed)?;
        Ok(bytes)
    };
    Ok((one(&files.cert)?, one(&files.key)?))
}

fn parse(files: &Files, (cert, key): &Contents) -> Result<CertifiedKey, TlsError> {
    let pem = |path: &Path, what: &str| TlsError::Pem(path.to_owned(), what.to_owned());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert).collect();
    let chain = chain.map_err(|_| pem(&files.cert, "not a certificate in PEM"))?;
    if chain.is_empty() {
        return Err(pem(&files.cert, "there is no certificate in it"));
    }
    // What is wrong with a key is not told in more words than these.
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| pem(&files.key, "not a private key in PEM"))?;
    CertifiedKey::from_der(chain, key, &default_provider())
        .map_err(|error| TlsError::Pair(files.clone(), error.to_string()))
}
