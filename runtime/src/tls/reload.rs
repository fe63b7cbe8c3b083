//! A certificate that is kept in files, and read again when they change.

use std::{
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{Certificate, PemError};

/// 10 seconds between looks at the files of a certificate, which change every few weeks.
const RELOAD_INTERVAL: Duration = Duration::from_secs(10);
/// 5 seconds for reading them.
const READ_DEADLINE: Duration = Duration::from_secs(5);
/// 1 MiB for each of them: a chain of certificates is some kilobytes.
const FILE_BYTES: u64 = 1024 * 1024;

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
    /// The result of a thread that has not returned yet: while a disk hangs, there is one at most.
    reading: Option<oneshot::Receiver<Result<Contents, TlsError>>>,
}

impl fmt::Debug for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reload").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Reload {
    /// Reads the files every 10 seconds, and replaces the certificate when they have changed. A pair that cannot be used,
    /// such as one of which half has been written, changes nothing. Never returns.
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

    /// Reads the files once; returns whether the certificate was replaced.
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

/// Reads the files on a thread of its own, which may hang with its disk without keeping the process from ending.
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
    use super::*;
    use crate::tls::tests::{PATIENCE, is_trusted, made};

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
}
