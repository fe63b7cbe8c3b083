//! TLS for listeners: a certificate that may be replaced while it is in use, and handshakes with limits.
//!
//! [`CertificateFiles`] read the certificate and its key, [`Reload`] keeps them current, and [`Acceptor`] speaks TLS
//! with whatever the certificate is at the moment of a handshake.

use std::{
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
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
    sync::{Semaphore, oneshot},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{info, warn};

/// 10 seconds between looks at the files of a certificate, which change every few weeks.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(10);
/// 5 seconds for reading them.
pub const READ_DEADLINE: Duration = Duration::from_secs(5);
/// 1 MiB for each of them: a chain of certificates is some kilobytes.
pub const FILE_BYTES: u64 = 1024 * 1024;
/// Handshakes at once: each takes about a millisecond of a processor and some 40 KiB, so that more of them would only
/// make each other late.
pub const HANDSHAKES: usize = 64;

/// The files of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, and those that lead to one that clients trust, as PEM.
    pub cert: PathBuf,
    /// Its key, as PEM: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// A certificate that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that is not readable.
    #[error("{path}: {1}", path = .0.display())]
    Read(PathBuf, io::Error),
    /// Contents of files that cannot be used.
    #[error("{place}: {1}", place = place(.0, .1))]
    Files(CertificateFiles, PemError),
    /// A disk that hangs.
    #[error("the certificate could not be read in time")]
    Late,
}

/// The file that is to blame.
fn place(files: &CertificateFiles, error: &PemError) -> String {
    let CertificateFiles { cert, key } = files;
    match error {
        PemError::NotCertificate | PemError::NoCertificate => cert.display().to_string(),
        PemError::NotKey => key.display().to_string(),
        PemError::Pair(_) => format!("{} and {}", cert.display(), key.display()),
    }
}

/// PEM that is no certificate with its key. What is wrong with a key is not told in more words than these.
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
    /// The handshake, which has so much time, the wait for its turn ([`HANDSHAKES`]) included: then the error is
    /// [`io::ErrorKind::TimedOut`].
    pub async fn accept<S>(&self, stream: S, within: Duration) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let handshake = async {
            // Closed by nobody.
            let _turn = self.handshakes.acquire().await.map_err(io::Error::other)?;
            self.tls.accept(stream).await
        };
        timeout(within, handshake).await?
    }
}

impl CertificateFiles {
    /// Reads the files; the second value keeps the certificate current, and counts in `failures` the attempts at that
    /// which failed.
    pub fn load(self, failures: Arc<AtomicU64>) -> Result<(Certificate, Reload), TlsError> {
        let contents = self.read()?;
        let certificate = Certificate::from_pem(&contents.cert, &contents.key)
            .map_err(|error| TlsError::Files(self.clone(), error))?;
        let reload = Reload {
            files: self,
            contents,
            certificate: certificate.clone(),
            failures,
            reading: None,
        };
        Ok((certificate, reload))
    }

    fn read(&self) -> Result<Contents, TlsError> {
        let one = |path: &Path| {
            let failed = |error| TlsError::Read(path.to_owned(), error);
            let mut bytes = Vec::new();
            let file = fs::File::open(path).map_err(failed)?;
            file.take(FILE_BYTES).read_to_end(&mut bytes).map_err(failed)?;
            Ok(bytes)
        };
        Ok(Contents { cert: one(&self.cert)?, key: one(&self.key)? })
    }
}

/// What was in the files.
#[derive(PartialEq, Eq)]
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
}

/// Keeps a certificate current.
pub struct Reload {
    files: CertificateFiles,
    contents: Contents,
    certificate: Certificate,
    failures: Arc<AtomicU64>,
    /// What a thread that was started earlier will have read: a disk that hangs has one at most.
    reading: Option<oneshot::Receiver<Result<Contents, TlsError>>>,
}

impl fmt::Debug for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reload").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Reload {
    /// Looks every [`RELOAD_INTERVAL`] whether the files say something else. A pair that cannot be used, such as one of
    /// which half has been written, changes nothing. Ends with the task that it is.
    pub async fn run(mut self) {
        let mut told = None;
        loop {
            sleep(RELOAD_INTERVAL).await;
            match self.look(READ_DEADLINE).await {
                Ok(true) => info!(certificate = %self.files.cert.display(), "a new certificate"),
                Ok(false) => {}
                Err(error) => {
                    self.failures.fetch_add(1, Relaxed);
                    let error = error.to_string();
                    if told.as_ref() != Some(&error) {
                        warn!(error, "the certificate could not be renewed: the last one goes on");
                    }
                    told = Some(error);
                    continue;
                }
            }
            told = None;
        }
    }

    /// Reads the files once; whether the certificate is another one now.
    async fn look(&mut self, within: Duration) -> Result<bool, TlsError> {
        let mut reading = match self.reading.take() {
            Some(reading) => reading,
            None => read_on_a_thread(self.files.clone())?,
        };
        let Ok(read) = timeout(within, &mut reading).await else {
            self.reading = Some(reading);
            return Err(TlsError::Late);
        };
        // A thread without an answer has panicked.
        let contents = read.unwrap_or(Err(TlsError::Late))?;
        if contents == self.contents {
            return Ok(false);
        }
        self.certificate
            .replace(&contents.cert, &contents.key)
            .map_err(|error| TlsError::Files(self.files.clone(), error))?;
        self.contents = contents;
        Ok(true)
    }
}

/// A thread of its own may hang with its disk, and the process still ends.
fn read_on_a_thread(
    files: CertificateFiles,
) -> Result<oneshot::Receiver<Result<Contents, TlsError>>, TlsError> {
    let (answer, answered) = oneshot::channel();
    let cert = files.cert.clone();
    thread::Builder::new()
        .name("certificate".to_owned())
        .spawn(move || drop(answer.send(files.read())))
        .map_err(|error| TlsError::Read(cert, error))?;
    Ok(answered)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio_rustls::TlsConnector;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A certificate for `localhost`, and its key: (for a client that trusts it, PEM, PEM).
    fn made() -> (CertificateDer<'static>, String, String) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (cert.der().clone(), cert.pem(), signing_key.serialize_pem())
    }

    /// Whether a client that trusts `root` alone speaks with the acceptor.
    async fn is_trusted(acceptor: &Acceptor, root: &CertificateDer<'static>) -> bool {
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
    async fn a_changed_certificate_is_used_and_a_broken_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let files = CertificateFiles {
            cert: directory.path().join("cert.pem"),
            key: directory.path().join("key.pem"),
        };
        let write = |cert: &str, key: &str| {
            fs::write(&files.cert, cert).unwrap();
            fs::write(&files.key, key).unwrap();
        };
        let [(root_a, cert_a, key_a), (root_b, cert_b, key_b)] = [made(), made()];
        write(&cert_a, &key_a);
        let (certificate, mut reload) = files.clone().load(Arc::default()).unwrap();
        let acceptor = certificate.acceptor(&[b"http/1.1"]).unwrap();
        assert!(is_trusted(&acceptor, &root_a).await && !is_trusted(&acceptor, &root_b).await);
        assert!(!reload.look(PATIENCE).await.unwrap());

        // (what is written, what the error says)
        for (cert, key, expected) in [
            (&*cert_b, &*key_a, "keys may not be consistent"),
            (&cert_b[..100], &key_b, "cert.pem: not a certificate in PEM"),
            ("", &key_b, "cert.pem: there is no certificate in it"),
            (&cert_b, "", "key.pem: not a private key in PEM"),
        ] {
            write(cert, key);
            let error = reload.look(PATIENCE).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(is_trusted(&acceptor, &root_a).await);
        }
        write(&cert_b, &key_b);
        assert!(reload.look(PATIENCE).await.unwrap());
        assert!(is_trusted(&acceptor, &root_b).await && !is_trusted(&acceptor, &root_a).await);

        fs::remove_file(&files.key).unwrap();
        let error = reload.look(PATIENCE).await.unwrap_err();
        assert!(matches!(error, TlsError::Read(path, _) if path == files.key));
    }

    #[tokio::test]
    async fn a_disk_that_hangs_has_one_thread() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("cert.pem");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let (_, cert, key) = made();
        let key_file = directory.path().join("key.pem");
        fs::write(&key_file, &key).unwrap();
        let mut reload = Reload {
            files: CertificateFiles { cert: fifo.clone(), key: key_file },
            contents: Contents { cert: Vec::new(), key: Vec::new() },
            certificate: Certificate::from_pem(cert.as_bytes(), key.as_bytes()).unwrap(),
            failures: Arc::default(),
            reading: None,
        };
        for _ in 0..2 {
            let late = reload.look(Duration::from_millis(20)).await.unwrap_err();
            assert!(matches!(late, TlsError::Late) && reload.reading.is_some());
        }
        // The one thread that waits is served by one writer.
        thread::spawn(move || fs::write(fifo, cert).unwrap());
        assert!(reload.look(PATIENCE).await.unwrap());
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
