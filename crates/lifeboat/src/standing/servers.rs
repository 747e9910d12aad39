//! Certificates and credentials that end: of the servers that the configuration names, of our own
//! page, and of roles and signatures.
//!
//! A certificate is looked at, and not judged: who uses it does that. What cannot be reached is for
//! those to tell who need it. Known is only what tells its own end: Amazon's keys and Google's do
//! not.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use lifeboat_core::Result;
use lifeboat_postgres::Client;
use lifeboat_postgres::replication::TlsUse;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::alert::{Alert, Code, Severity};
use super::handshake::{Hello, end_of, of_server};
use crate::config::Config;
use crate::config::notify::MailTls;
use crate::postgres;
use crate::session::Session;
use crate::sources::Target;
use crate::ui::units;

/// What ends so soon is told; and so soon it is as bad as if it had ended.
const SOON: SignedDuration = SignedDuration::from_hours(14 * 24);
const NOW: SignedDuration = SignedDuration::from_hours(3 * 24);

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
        let mut asked = Vec::new();
        for target in Target::configured(name, source).unwrap_or_default() {
            // The databases of one server share it, its certificates and the role.
            let Some(client) = client_of(&target) else { continue };
            let tls = TlsUse::of(&client).unwrap_or_default();
            if !asked.contains(&tls) || tls == TlsUse::default() {
                of_tls(&target, &tls, &mut found);
                found.extend(of_role(&target, &client));
                asked.push(tls);
            }
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
            let ends_at = of_server((&host, &host), port, Hello::Tls).ok();
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
            && let Ok(ends_at) = of_server((&host, &host), port, hello)
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

fn client_of(target: &Target) -> Option<Client> {
    match (&target.database, &target.cluster) {
        (Some(database), _) => database.client().ok(),
        (None, Some(cluster)) => cluster.asking().ok(),
        (None, None) => None,
    }
}

/// The certificates of a server of PostgreSQL, and those by which it is spoken to.
fn of_tls(target: &Target, tls: &TlsUse, found: &mut Vec<Ending>) {
    let source = &target.name;
    let command = format!("lifeboat backup {}", units::shell_word(source));
    let of_source = |one: Ending| Ending { source: source.clone(), ..one };
    for server in &tls.servers {
        let (name, port) = (&server.name, server.port);
        let ends_at = of_server((&server.address, name), port, Hello::Postgres).ok();
        let what = format!("the certificate of {name}:{port}, the server of `{source}`,");
        found.extend(ends_at.map(|ends_at| of_source(Ending::of(what, ends_at, &command))));
    }
    for path in &tls.certificates {
        let what = format!("a certificate by which `{source}` is spoken to");
        found.extend(of_file(path, &what, &command).map(of_source));
    }
}

/// When the role of a source can sign in no more, where that is limited.
fn of_role(target: &Target, client: &Client) -> Option<Ending> {
    let mut server = lifeboat_postgres::Session::open(client, "cannot connect").ok()?;
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
