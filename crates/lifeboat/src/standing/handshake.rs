//! The beginning of a connection by TLS, as far as a server's certificate: when it ends.
//!
//! Every certificate is looked at, and none is judged; nothing is said to the server.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use lifeboat_core::{Error, Kind, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};

/// How long a server may take to show its certificate.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a server is greeted before it shows its certificate.
#[derive(Clone, Copy)]
pub(super) enum Hello {
    /// TLS from the first byte.
    Tls,
    /// Mail, which goes over to TLS.
    Starttls,
    /// PostgreSQL, which is asked for TLS.
    Postgres,
}

/// When the first certificate ends that a server shows: the address that is connected to, and the
/// name that is asked for.
pub(super) fn of_server((host, name): (&str, &str), port: u16, hello: Hello) -> Result<Timestamp> {
    let failed =
        |error| Error::io(Kind::StoreUnavailable, format!("cannot ask {host}:{port}"), error);
    let wrong = |why: String| Error::new(Kind::StoreUnavailable, format!("{host}:{port}: {why}"));
    // A name may have several addresses, and its server listen at one of them.
    let mut tried = Err(std::io::Error::other("it has no address"));
    for address in (host, port).to_socket_addrs().map_err(failed)? {
        tried = TcpStream::connect_timeout(&address, PATIENCE);
        if tried.is_ok() {
            break;
        }
    }
    let mut stream = tried.map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    match hello {
        Hello::Tls => {}
        Hello::Starttls => ask_mail_for_tls(&mut stream).map_err(failed)?,
        Hello::Postgres => ask_postgres_for_tls(&mut stream).map_err(failed)?,
    }
    let name = ServerName::try_from(name.to_owned()).map_err(|error| wrong(error.to_string()))?;
    let mut connection = ClientConnection::new(Arc::new(looking()), name)
        .map_err(|error| wrong(error.to_string()))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).map_err(failed)?;
    }
    let certificates = connection.peer_certificates().unwrap_or_default();
    let first = certificates.iter().filter_map(|one| end_of(one)).min();
    first.ok_or_else(|| wrong("it shows no certificate".to_owned()))
}

/// The beginning of a conversation by SMTP, up to where TLS begins.
fn ask_mail_for_tls(stream: &mut TcpStream) -> std::io::Result<()> {
    let answer = |stream: &mut TcpStream| -> std::io::Result<()> {
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            line.push(byte[0]);
            if byte[0] != b'\n' && line.len() < 1000 {
                continue;
            }
            // "250-" goes on, "250 " is the last line.
            match (line.first(), line.get(3)) {
                (Some(b'2'), Some(b'-')) => line.clear(),
                (Some(b'2'), _) => return Ok(()),
                _ => return Err(std::io::Error::other("the server does not offer TLS")),
            }
        }
    };
    answer(stream)?;
    stream.write_all(b"EHLO localhost\r\n")?;
    answer(stream)?;
    stream.write_all(b"STARTTLS\r\n")?;
    answer(stream)
}

/// PostgreSQL's question for TLS, and its answer: one letter.
fn ask_postgres_for_tls(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f])?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    match answer[0] {
        b'S' => Ok(()),
        _ => Err(std::io::Error::other("the server does not offer TLS")),
    }
}

/// When a certificate ends.
pub(super) fn end_of(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    use x509_cert::der::Decode as _;
    let certificate = x509_cert::Certificate::from_der(certificate).ok()?;
    let end = certificate.tbs_certificate.validity.not_after.to_unix_duration();
    Timestamp::from_second(i64::try_from(end.as_secs()).ok()?).ok()
}

/// A client that looks at every certificate, and sends nothing.
fn looking() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has all protocols that are the default");
    builder.dangerous().with_custom_certificate_verifier(Arc::new(Anything)).with_no_client_auth()
}

/// Takes every certificate: whether it is right is not the question, and nothing is said to it.
#[derive(Debug)]
struct Anything;

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = rustls::crypto::ring::default_provider();
        provider.signature_verification_algorithms.supported_schemes()
    }
}
