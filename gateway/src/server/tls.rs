//! The certificate: read from its files, given to each new handshake, replaced while connections stand.
//!
//! Only the certificate changes; the rest of rustls' configuration is made once, so that sessions are
//! resumed across a change. What does not work is not taken: the old one stays, and log, metrics and
//! `/api/status` say so.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};

use crate::config::settings;
use crate::lookout::Lookout;
use crate::telemetry::Telemetry;

/// What waits to be encrypted or sent on one connection; part of what a connection costs.
const SENDING_BYTES: usize = 32 << 10;

/// Why a certificate is not taken; each text names the setting.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read {path} ({key})")]
    Unreadable {
        /// The setting.
        key: &'static str,
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{path} holds no {what} in PEM ({key})")]
    NotPem {
        /// The setting.
        key: &'static str,
        /// Its file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// Certificate and key are good and do not belong together.
    #[error(
        "the key in {key} is not that of the certificate in {certificate} (tls.key, tls.certificate)"
    )]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// rustls does not take it.
    #[error(
        "cannot use the certificate in {certificate} with the key in {key} (tls.certificate, tls.key)"
    )]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// The certificate in use.
pub struct Certificate {
    files: settings::Tls,
    current: RwLock<Current>,
}

struct Current {
    key: Arc<CertifiedKey>,
    /// SHA-256 of both files as it was read from.
    seen: [u8; 32],
    /// Why what was read last is not in use.
    failed: Option<String>,
}

/// What is told about the certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateStatus {
    /// SHA-256 of the certificate in use, in hexadecimal digits; `openssl x509 -fingerprint -sha256` shows it.
    pub sha256: String,
    /// Why what its files hold now is not in use.
    pub failed: Option<String>,
}

/// What a look at the files came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    Same,
    Taken,
    Refused,
}

impl Certificate {
    /// Reads it from its files.
    ///
    /// # Errors
    /// [`CertificateError`] names the setting.
    pub fn load(files: &settings::Tls) -> Result<Arc<Self>, CertificateError> {
        let read = Files::read(files)?;
        let current = Current {
            key: Arc::new(read.key(files)?),
            seen: read.digest(),
            failed: None,
        };
        Ok(Arc::new(Self {
            files: files.clone(),
            current: RwLock::new(current),
        }))
    }

    /// Which one is in use, and what is wrong with a newer one.
    pub fn status(&self) -> CertificateStatus {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let first = current.key.cert.first().map(AsRef::as_ref);
        CertificateStatus {
            sha256: hex::encode(Sha256::digest(first.unwrap_or_default())),
            failed: current.failed.clone(),
        }
    }

    /// Looks at the files; what is new and good is in use from here on.
    fn look(&self) -> Looked {
        // A certificate and its key are two files: read between the two changes they do not match, and
        // the next look finds them right.
        let read =
            Files::read(&self.files).and_then(|read| Ok((read.digest(), read.key(&self.files)?)));
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok((digest, _)) if digest == current.seen && current.failed.is_none() => Looked::Same,
            Ok((digest, key)) => {
                *current = Current {
                    key: Arc::new(key),
                    seen: digest,
                    failed: None,
                };
                Looked::Taken
            }
            Err(error) => {
                let text = boxgate_storage::error::chain(&error);
                let same = current.failed.as_ref() == Some(&text);
                current.failed = Some(text);
                if same { Looked::Same } else { Looked::Refused }
            }
        }
    }

    /// Looks now and then, and at each SIGHUP, for as long as it is polled.
    pub(super) async fn watch(self: Arc<Self>, telemetry: Arc<Telemetry>) {
        let mut lookout = Lookout::new(self.files.check_every);
        loop {
            lookout.next().await;
            let this = Arc::clone(&self);
            // Reading files blocks.
            let Ok(looked) = tokio::task::spawn_blocking(move || this.look()).await else {
                continue;
            };
            let told = self.status();
            telemetry
                .metrics
                .tls_certificate_ok
                .set(i64::from(told.failed.is_none()));
            match looked {
                Looked::Same => {}
                Looked::Taken => {
                    tracing::info!(sha256 = told.sha256, "a new certificate is in use");
                }
                Looked::Refused => tracing::error!(
                    error = told.failed.unwrap_or_default(),
                    in_use_sha256 = told.sha256,
                    "the new certificate is not good; the old one stays in use"
                ),
            }
        }
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&current.key))
    }
}

/// Both files as they are.
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    fn read(files: &settings::Tls) -> Result<Self, CertificateError> {
        Ok(Self {
            certificate: read("tls.certificate", &files.certificate)?,
            key: read("tls.key", &files.key)?,
        })
    }

    fn digest(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(self.certificate.len().to_be_bytes());
        hasher.update(&self.certificate);
        hasher.update(&self.key);
        hasher.finalize().into()
    }

    fn key(&self, files: &settings::Tls) -> Result<CertifiedKey, CertificateError> {
        let not_pem = |key, path: &Path, what| CertificateError::NotPem {
            key,
            path: path.to_owned(),
            what,
        };
        let chain: Result<Vec<_>, pem::Error> =
            CertificateDer::pem_slice_iter(&self.certificate).collect();
        let chain = chain
            .ok()
            .filter(|chain| !chain.is_empty())
            .ok_or_else(|| not_pem("tls.certificate", &files.certificate, "certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .ok()
            .ok_or_else(|| not_pem("tls.key", &files.key, "private key"))?;
        // Judges as well whether the two belong together.
        CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|source| {
            let (certificate, key) = (files.certificate.clone(), files.key.clone());
            match source {
                rustls::Error::InconsistentKeys(_) => {
                    CertificateError::Mismatch { certificate, key }
                }
                source => CertificateError::Unusable {
                    certificate,
                    key,
                    source,
                },
            }
        })
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, CertificateError> {
    std::fs::read(path).map_err(|source| CertificateError::Unreadable {
        key,
        path: path.to_owned(),
        source,
    })
}

/// rustls' configurations, all with the one certificate.
#[derive(Debug)]
pub(super) struct Configurations {
    /// HTTP/2 and 1.1.
    pub(super) both: Arc<ServerConfig>,
    /// HTTP/1.1 alone, once no more connections of HTTP/2 are taken.
    pub(super) http1: Arc<ServerConfig>,
    /// HTTP/3.
    pub(super) quic: ServerConfig,
}

impl Configurations {
    /// With `client_ca`, only clients are let in that show a certificate of one of these authorities.
    ///
    /// # Errors
    /// When one of them is no certificate of an authority.
    pub(super) fn try_new(
        certificate: &Arc<Certificate>,
        client_ca: &[CertificateDer<'static>],
    ) -> io::Result<Self> {
        let clients = clients(client_ca).map_err(|error| {
            let why = format!("tls.client_ca: {error}");
            io::Error::new(io::ErrorKind::InvalidData, why)
        })?;
        let with = |alpn: &[&[u8]]| {
            let mut config =
                ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                    .with_protocol_versions(if alpn == H3 {
                        TLS13
                    } else {
                        rustls::DEFAULT_VERSIONS
                    })
                    .expect("ring has suites of both versions")
                    .with_client_cert_verifier(Arc::clone(&clients))
                    .with_cert_resolver(Arc::clone(certificate) as _);
            config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
            // No byte is taken before the handshake is over: who sent it could be repeating another.
            config.max_early_data_size = 0;
            config
        };
        Ok(Self {
            both: Arc::new(with(&[b"h2", b"http/1.1"])),
            http1: Arc::new(with(&[b"http/1.1"])),
            quic: with(H3),
        })
    }
}

/// Who judges what clients show.
fn clients(
    authorities: &[CertificateDer<'static>],
) -> Result<Arc<dyn ClientCertVerifier>, Box<dyn std::error::Error + Send + Sync>> {
    if authorities.is_empty() {
        return Ok(WebPkiClientVerifier::no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone())?;
    }
    let provider = Arc::new(ring::default_provider());
    let built = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
    Ok(built)
}

const H3: &[&[u8]] = &[b"h3"];
const TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// Bounds what one connection keeps.
pub(super) fn bounded(connection: &mut rustls::ServerConnection) {
    connection.set_buffer_limit(Some(SENDING_BYTES));
}
