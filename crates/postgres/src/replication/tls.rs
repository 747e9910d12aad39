//! TLS as the client library does it: from "any certificate will do" to "exactly this host".

use std::fs;
use std::path::Path;
use std::sync::Arc;

use lifeboat_core::{Error, Kind, Result};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use super::parameters::{Parameters, TlsMode};

/// Accepts what the mode accepts.
#[derive(Debug)]
struct Verifier {
    /// Checks the chain; `None` where any certificate will do.
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// What is trusted as it is: a server's own certificate may be its own root.
    roots: Vec<CertificateDer<'static>>,
    name_matters: bool,
    provider: Arc<CryptoProvider>,
}

/// The configuration for these parameters.
pub(super) fn config(parameters: &Parameters) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let verifier = verifier(parameters, &provider)?;
    let failed = |error: rustls::Error| {
        Error::new(Kind::Failed, "TLS cannot be used with these certificates").caused_by(error)
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match &parameters.client_certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| {
                let message = format!("cannot read the key {}", key.display());
                Error::new(Kind::Usage, message).caused_by(error).hint(
                    "it must be PEM, without a password, and readable by the user of this run",
                )
            })?;
            builder.with_client_auth_cert(chain, key).map_err(failed)?
        }
    };
    Ok(Arc::new(config))
}

fn verifier(parameters: &Parameters, provider: &Arc<CryptoProvider>) -> Result<Verifier> {
    let file = parameters.root_certificates.as_deref();
    let system = file == Some(Path::new("system"));
    let mode = match parameters.tls_mode {
        // A root certificate that is there is used, and the host's own want the name checked too.
        _ if system => TlsMode::VerifyFull,
        TlsMode::Require if file.is_some() => TlsMode::VerifyCa,
        mode => mode,
    };
    if mode < TlsMode::VerifyCa {
        let provider = Arc::clone(provider);
        return Ok(Verifier { chain: None, roots: Vec::new(), name_matters: false, provider });
    }
    let roots = match file {
        Some(_) if system => rustls_native_certs::load_native_certs().certs,
        Some(file) => certificates(file)?,
        None => {
            return Err(Error::new(Kind::Usage, "no root certificate is there to verify with")
                .hint("name it: sslrootcert=/path/root.crt, or sslrootcert=system"));
        }
    };
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider));
    let chain = chain.build().map_err(|error| {
        Error::new(Kind::Usage, "the root certificates cannot be used").caused_by(error)
    })?;
    let name_matters = mode == TlsMode::VerifyFull;
    Ok(Verifier { chain: Some(chain), roots, name_matters, provider: Arc::clone(provider) })
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let message = || format!("cannot read the certificate {}", file.display());
    let text = fs::read(file).map_err(|error| Error::io(Kind::Usage, message(), error))?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(Error::new(Kind::Usage, format!("{}: none is in it", message()))),
        Err(error) => Err(Error::new(Kind::Usage, message()).caused_by(error)),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        if self.roots.iter().any(|root| root.as_ref() == end_entity.as_ref()) {
            if self.name_matters {
                let parsed = rustls::server::ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&parsed, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        let verified =
            chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is looked at last: the chain is right.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.name_matters => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
