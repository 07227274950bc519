//! Encrypted connections: rustls with the ring provider, TLS 1.2 and 1.3, HTTP/1.1.
//!
//! Certificates are read when the server starts; new ones need a restart, which drains. Client certificates are not asked for:
//! API keys say who asks.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

use crate::error::{Error, Result};

/// `[tls]`; empty paths are plain HTTP.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct TlsSection {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub handshake_ms: u64,
}

impl TlsSection {
    /// Whether connections are to be encrypted.
    pub fn enabled(&self) -> bool {
        !self.certificate.as_os_str().is_empty()
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.certificate.as_os_str().is_empty() == self.key.as_os_str().is_empty() {
            return Ok(());
        }
        Err(Error::params("configuration", "tls needs both certificate and key; one of them is empty"))
    }

    /// What accepts connections, if they are to be encrypted.
    ///
    /// # Errors
    /// Files that cannot be read or hold no certificate or key; a key that belongs to another certificate.
    pub(super) fn acceptor(&self) -> Result<Option<TlsAcceptor>> {
        if !self.enabled() {
            return Ok(None);
        }
        let wrong = |path: &PathBuf, reason: String| Error::input(path, "the file", reason);
        // Read apart from parsing, so that a file that is not there is told from one that is no PEM.
        let read = |path: &PathBuf| std::fs::read(path).map_err(Error::io(path));
        let chain: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(&self.certificate)?).collect();
        let chain = chain.map_err(|error| wrong(&self.certificate, format!("it is not PEM: {error}")))?;
        if chain.is_empty() {
            return Err(wrong(&self.certificate, "it holds no certificate; give a PEM file that does".into()));
        }
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|error| wrong(&self.key, format!("it holds no private key in PEM: {error}")))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map(|builder| builder.with_no_client_auth())
            .and_then(|builder| builder.with_single_cert(chain, key))
            .map_err(|error: rustls::Error| {
                wrong(&self.certificate, format!("it cannot be used with {}: {error}", self.key.display()))
            })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Some(TlsAcceptor::from(Arc::new(config))))
    }
}
