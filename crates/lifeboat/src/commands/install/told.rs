//! What it takes to tell those whom `notify` names: the way there, secrets, and a watch.

use lifeboat_core::Result;

use super::jobs::{Job, Network, Server, of_repositories};
use crate::config::notify::NotifyConfig;
use crate::config::postgres::SecretConfig;
use crate::repositories::Place;
use crate::session::Session;

/// The watch of every quarter of an hour, where anybody is told what it finds.
pub(super) fn watch(session: &Session, places: &[Place]) -> Result<Option<Job>> {
    if session.loaded()?.config.notify.is_empty() {
        return Ok(None);
    }
    let title = "Watch over all backups";
    let job = of_repositories(session, "watch", title, "*/15 * * * *", places)?;
    let arguments = vec!["watch".to_owned(), "--unattended".to_owned()];
    let mut job = Job { arguments, ..job };
    // Servers of databases are asked how their archivers do, and what ends.
    for (name, source) in &session.loaded()?.config.source {
        let Some(postgres) = &source.postgres else { continue };
        let server = Server::of(session, name, source, &postgres.0)?;
        job.network = job.network.max(server.network);
        job.sees.extend(server.sees);
        job.credentials.extend(server.credentials);
        job.runs_commands |= !postgres.0.command.is_empty();
    }
    Ok(Some(job))
}

/// Adds to a job what the deliveries at its end need.
pub(super) fn add(session: &Session, job: &mut Job) -> Result<()> {
    for notifier in session.loaded()?.config.notify.values() {
        job.network = job.network.max(network_of(notifier));
        job.sees.extend(notifier.ca_certificate.clone());
        for secret in secrets_of(notifier) {
            job.runs_commands |= !secret.command.is_empty();
            job.sees.extend(secret.file);
            job.credentials.extend(secret.credential);
        }
    }
    job.credentials.sort();
    job.credentials.dedup();
    Ok(())
}

fn secrets_of(notifier: &NotifyConfig) -> Vec<SecretConfig> {
    let ways = notifier.ways();
    let urls = ways.iter().filter_map(|(_, url)| *url).filter(|url| url.text.is_none());
    let password = notifier.email.as_ref().and_then(|email| email.password.clone());
    urls.map(|url| url.secret()).chain(notifier.token.clone()).chain(password).collect()
}

/// What of the network leads to it. Where its URL is kept elsewhere, that may be anywhere.
fn network_of(notifier: &NotifyConfig) -> Network {
    let is_here =
        |host: &str| matches!(host, "localhost" | "::1" | "[::1]") || host.starts_with("127.");
    let host = match &notifier.email {
        Some(email) => Some(email.host.clone()),
        None => notifier.ways().first().and_then(|(_, url)| {
            let url = reqwest::Url::parse(url.as_ref()?.text.as_ref()?).ok()?;
            url.host_str().map(str::to_owned)
        }),
    };
    if host.is_some_and(|host| is_here(&host)) { Network::Host } else { Network::Any }
}
