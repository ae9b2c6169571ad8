//! The listener's certificate, which can be changed while connections are open.

use std::io;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{ServerConfig, version};

pub type Certificate = Arc<CertifiedKey>;

/// From PEM texts. The error says which of the two cannot be used.
pub fn certificate(chain: &[u8], key: &[u8]) -> Result<Certificate, String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the certificate cannot be read: {error}"))?;
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("the key cannot be read: {error}"))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider())
        .map(Arc::new)
        .map_err(|error| format!("the certificate cannot be used: {error}"))
}

/// Gives every handshake the certificate of the moment.
#[derive(Debug)]
pub struct Current(RwLock<Certificate>);

impl Current {
    pub fn new(certificate: Certificate) -> Arc<Current> {
        Arc::new(Current(RwLock::new(certificate)))
    }

    pub fn set(&self, certificate: Certificate) {
        *self.0.write() = certificate;
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Certificate> {
        Some(self.0.read().clone())
    }
}

/// TLS 1.2 and 1.3, HTTP/2 alone.
pub fn acceptor(current: Arc<Current>) -> io::Result<TlsAcceptor> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(current);
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
