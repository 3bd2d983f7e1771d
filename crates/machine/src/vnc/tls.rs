//! The certificates of a VNC server, from files by QEMU's names.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, crypto};

/// Where a VNC server's certificates are, and whether clients need one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsCredentials {
    /// The folder of `server-cert.pem` and `server-key.pem`, and of `ca-cert.pem` if clients are verified.
    pub dir: PathBuf,
    /// Only clients with a certificate by `ca-cert.pem` are let in.
    pub verify_peer: bool,
}

/// Certificates that can't be used.
#[derive(Debug, thiserror::Error)]
enum TlsError {
    #[error("{file}: {source}")]
    File { file: PathBuf, source: pem::Error },
    #[error("{0}: there is no certificate in it")]
    Empty(PathBuf),
    #[error("{file}: {source}")]
    Authority { file: PathBuf, source: rustls::Error },
    #[error("{file}: clients can't be verified by it: {source}")]
    Verifier { file: PathBuf, source: VerifierBuilderError },
    #[error("{dir}: server-cert.pem and server-key.pem can't be used: {source}")]
    Pair { dir: PathBuf, source: rustls::Error },
}

impl TlsCredentials {
    /// Reads them.
    ///
    /// # Errors
    /// Files that are missing or don't fit together, by name.
    pub(super) fn load(&self) -> io::Result<Arc<ServerConfig>> {
        self.config().map(Arc::new).map_err(io::Error::other)
    }

    fn config(&self) -> Result<ServerConfig, TlsError> {
        let pair = |source| TlsError::Pair { dir: self.dir.clone(), source };
        let chain = certificates(&self.dir.join("server-cert.pem"))?;
        let file = self.dir.join("server-key.pem");
        let key = PrivateKeyDer::from_pem_file(&file).map_err(|source| TlsError::File { file, source })?;
        let provider = Arc::new(crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().map_err(pair)?;
        let builder = if self.verify_peer {
            let file = self.dir.join("ca-cert.pem");
            let mut roots = RootCertStore::empty();
            for certificate in certificates(&file)? {
                roots.add(certificate).map_err(|source| TlsError::Authority { file: file.clone(), source })?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|source| TlsError::Verifier { file, source })?)
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(chain, key).map_err(pair)?;
        // Nobody comes back soon enough for them; and TigerVNC's viewer, when one comes together with data, waits for more
        // instead of reading that.
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|source| TlsError::File { file: file.into(), source })?;
    if certificates.is_empty() {
        return Err(TlsError::Empty(file.into()));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let dir = std::env::temp_dir().join(format!("ferro-tls-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let credentials = TlsCredentials { dir: dir.clone(), verify_peer: true };
        let problem = || credentials.load().unwrap_err().to_string();
        assert!(problem().contains("server-cert.pem"), "{}", problem());
        std::fs::write(dir.join("server-cert.pem"), "no certificate").unwrap();
        assert!(problem().contains("no certificate in it"), "{}", problem());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
