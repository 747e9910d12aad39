//! Certificates and credentials that end: of the servers that the configuration names, of our own
//! page, and of roles and signatures.
//!
//! A certificate is looked at, and not judged: who uses it does that. What cannot be reached is for
//! those to tell who need it. Known is only what tells its own end: Amazon's keys and Google's do
//! not.

use std::io::Read as _;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use lifeboat_core::{Error, Kind, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};

use super::alert::{Alert, Code, Severity};
use crate::config::Config;
use crate::config::notify::MailTls;
use crate::postgres;
use crate::session::Session;
use crate::sources::Target;
use crate::ui::units;

/// What ends so soon is told; and so soon it is as bad as if it had ended.
const SOON: SignedDuration = SignedDuration::from_hours(14 * 24);
const NOW: SignedDuration = SignedDuration::from_hours(3 * 24);
/// How long a server may take to show its certificate.
const PATIENCE: Duration = Duration::from_secs(5);

/// Something that ends.
struct Ending {
    code: Code,
    /// The source, where it is of one.
    source: String,
    /// The repository, where it is of one.
    repository: String,
    /// What it is, in words.
    what: String,
    ends_at: Timestamp,
    command: String,
}

/// All that ends soon, or has ended.
pub(crate) fn look(session: &Session, now: Timestamp) -> Result<Vec<Alert>> {
    let config = &session.loaded()?.config;
    let mut found = Vec::new();
    of_repositories(config, &mut found);
    of_notifiers(config, &mut found);
    if let Some(tls) = config.agent.as_ref().and_then(|agent| agent.tls.as_ref()) {
        let what = "the certificate of the page";
        found.extend(of_file(&tls.certificate, what, "lifeboat agent reload"));
    }
    for (name, source) in config.source.iter().filter(|(_, source)| source.postgres.is_some()) {
        for target in Target::configured(name, source).unwrap_or_default() {
            found.extend(of_role(&target));
        }
    }
    Ok(found.iter().filter_map(|one| one.alert(now)).collect())
}

impl Ending {
    fn of(what: impl Into<String>, ends_at: Timestamp, command: &str) -> Self {
        Ending {
            code: Code::Certificate,
            source: String::new(),
            repository: String::new(),
            what: what.into(),
            ends_at,
            command: command.to_owned(),
        }
    }

    fn alert(&self, now: Timestamp) -> Option<Alert> {
        let left = self.ends_at.duration_since(now);
        let severity = match () {
            () if left <= NOW => Severity::Broken,
            () if left <= SOON => Severity::Warning,
            () => return None,
        };
        let day = self.ends_at.strftime("%Y-%m-%d");
        let word = if left.is_negative() { "ended" } else { "ends" };
        let what = units::one_line(&format!("{} {word} on {day}", self.what));
        let place = (self.source.as_str(), self.repository.as_str());
        Some(Alert::new((self.code, severity), place, what, self.command.clone()))
    }
}

fn of_repositories(config: &Config, found: &mut Vec<Ending>) {
    for (name, repository) in &config.repository {
        let url = repository.url.clone();
        let word = units::shell_word(name);
        let command = format!("lifeboat doctor; lifeboat watch {word}");
        // The providers' own are theirs.
        if let Some((host, port)) = repository.endpoint.as_deref().and_then(https) {
            let what = format!("the certificate of {host}:{port}, the server of `{name}`,");
            let ends_at = of_server(&host, port, Hello::Tls).ok();
            found.extend(ends_at.map(|ends_at| Ending {
                repository: url.clone(),
                ..Ending::of(what, ends_at, &command)
            }));
        }
        if let Some(path) = &repository.ca_certificate {
            let what = format!("the trusted certificate of `{name}`");
            found.extend(
                of_file(path, &what, &command).map(|one| Ending { repository: url.clone(), ..one }),
            );
        }
        let token = repository.sas_token.as_ref().and_then(|kept| postgres::fetch(kept).ok());
        if let Some(ends_at) = token.and_then(|token| end_of_signature(token.expose())) {
            let what = format!("the shared access signature of `{name}`");
            found.push(Ending {
                code: Code::Credential,
                repository: url,
                ..Ending::of(what, ends_at, &command)
            });
        }
    }
}

fn of_notifiers(config: &Config, found: &mut Vec<Ending>) {
    for (name, notifier) in &config.notify {
        let command = format!("lifeboat notify test {}", units::shell_word(name));
        let server = match &notifier.email {
            Some(email) => {
                let (hello, port) = match email.tls.unwrap_or_default() {
                    MailTls::Implicit => (Hello::Tls, 465),
                    MailTls::Starttls => (Hello::Starttls, 587),
                    MailTls::None => continue,
                };
                Some((email.host.clone(), email.port.unwrap_or(port), hello))
            }
            None => notifier.ways().first().and_then(|(_, url)| {
                let (host, port) = https(url.as_ref()?.text.as_deref()?)?;
                Some((host, port, Hello::Tls))
            }),
        };
        if let Some((host, port, hello)) = server
            && let Ok(ends_at) = of_server(&host, port, hello)
        {
            let what = format!("the certificate of {host}:{port}, by which `{name}` is told,");
            found.push(Ending::of(what, ends_at, &command));
        }
        if let Some(path) = &notifier.ca_certificate {
            let what = format!("the trusted certificate of the notifier `{name}`");
            found.extend(of_file(path, &what, &command));
        }
    }
}

/// When the role of a source can sign in no more, where that is limited.
fn of_role(target: &Target) -> Option<Ending> {
    let client = match (&target.database, &target.cluster) {
        (Some(database), _) => database.client().ok()?,
        (None, Some(cluster)) => cluster.asking().ok()?,
        (None, None) => return None,
    };
    let mut server = lifeboat_postgres::Session::open(&client, "cannot connect").ok()?;
    let row = server
        .row(
            "SELECT rolname AS name, pg_catalog.to_char(rolvaliduntil AT TIME ZONE 'UTC', \
             'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS ends FROM pg_catalog.pg_roles \
             WHERE rolname = session_user AND pg_catalog.isfinite(rolvaliduntil)",
        )
        .ok()?;
    let text = |name: &str| row.get(name).and_then(|value| value.as_str());
    let ends_at = text("ends")?.parse().ok()?;
    let what = format!("the password of the role {}", text("name")?);
    let command = format!("lifeboat backup {}", units::shell_word(&target.name));
    let source = target.name.clone();
    Some(Ending { code: Code::Credential, source, ..Ending::of(what, ends_at, &command) })
}

/// Host and port of an https URL.
fn https(url: &str) -> Option<(String, u16)> {
    let url = reqwest::Url::parse(url).ok().filter(|url| url.scheme() == "https")?;
    let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
    Some((host, url.port_or_known_default()?))
}

/// When a shared access signature of Azure ends: `se`.
fn end_of_signature(token: &str) -> Option<Timestamp> {
    let url = format!("https://a/?{}", token.trim().trim_start_matches('?'));
    let url = reqwest::Url::parse(&url).ok()?;
    let (_, end) = url.query_pairs().find(|(name, _)| name == "se")?;
    // A day alone is its beginning.
    end.parse().ok().or_else(|| format!("{end}T00:00:00Z").parse().ok())
}

/// The certificates of a file: the one that ends first.
fn of_file(path: &Path, what: &str, command: &str) -> Option<Ending> {
    let all = CertificateDer::pem_file_iter(path).ok()?;
    let first = all.flatten().filter_map(|one| end_of(&one)).min()?;
    Some(Ending::of(format!("{what}, {},", path.display()), first, command))
}

/// How a server is greeted before it shows its certificate.
#[derive(Clone, Copy)]
enum Hello {
    Tls,
    Starttls,
}

/// When the certificate of a server ends.
fn of_server(host: &str, port: u16, hello: Hello) -> Result<Timestamp> {
    let failed =
        |error| Error::io(Kind::StoreUnavailable, format!("cannot ask {host}:{port}"), error);
    let wrong = |why: String| Error::new(Kind::StoreUnavailable, format!("{host}:{port}: {why}"));
    let address = (host, port).to_socket_addrs().map_err(failed)?.next();
    let address = address.ok_or_else(|| wrong("it has no address".to_owned()))?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    if matches!(hello, Hello::Starttls) {
        ask_for_tls(&mut stream).map_err(failed)?;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|error| wrong(error.to_string()))?;
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
fn ask_for_tls(stream: &mut TcpStream) -> std::io::Result<()> {
    use std::io::Write as _;
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

/// When a certificate ends.
fn end_of(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_tells_its_end() {
        let of = |token: &str| end_of_signature(token).map(|at| at.to_string());
        let token = "?sv=2022-11-02&ss=b&se=2026-03-02T12%3A30%3A00Z&sp=rw&sig=x%3D";
        assert_eq!(of(token).as_deref(), Some("2026-03-02T12:30:00Z"));
        assert_eq!(of("se=2026-03-02&sig=x").as_deref(), Some("2026-03-02T00:00:00Z"));
        assert_eq!(of("sig=x"), None);
    }

    #[test]
    fn what_ends_is_told_in_time() {
        let now: Timestamp = "2026-03-02T12:00:00Z".parse().unwrap();
        let of = |days: i64| {
            let ends_at = now + SignedDuration::from_hours(24 * days);
            Ending::of("the certificate", ends_at, "").alert(now).map(|alert| alert.severity)
        };
        assert_eq!(of(15), None);
        assert_eq!(of(14), Some(Severity::Warning));
        assert_eq!((of(3), of(-1)), (Some(Severity::Broken), Some(Severity::Broken)));
    }

    #[test]
    fn hosts_are_those_that_are_spoken_to_in_secret() {
        assert_eq!(https("https://minio:9000/x"), Some(("minio".to_owned(), 9000)));
        assert_eq!(https("https://[::1]/x"), Some(("::1".to_owned(), 443)));
        assert_eq!(https("http://minio/"), None);
    }
}
