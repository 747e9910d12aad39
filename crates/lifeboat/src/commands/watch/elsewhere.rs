//! The second observer: on another host, with nothing of the first one but its repository.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use lifeboat_core::Result;
use lifeboat_core::catalog::{Catalog, SourceEntry};
use lifeboat_core::env::Env;
use lifeboat_core::repository::Repository;

use super::Found;
use crate::commands::status::overall;
use crate::config::{Config, SourceConfig};
use crate::session::Session;
use crate::standing::{Alert, Code, Facts, Promise, Severity, SpaceHistory, judge, noted, of_disk};
use crate::{rebuild, repositories};

/// What is looked at.
struct Watch<'a> {
    session: &'a Session,
    env: &'a Env,
    repository: &'a Repository,
    catalog: &'a Catalog,
    now: Timestamp,
    max_age_ms: Option<u64>,
}

/// Looks at one repository.
pub(super) fn look(session: &Session, wanted: &str, max_age_ms: Option<u64>) -> Result<Found> {
    let env = session.env()?;
    let place = repositories::place(session, wanted)?;
    let repository = place.open(&env)?.only_looked_at(&env, None);
    let catalog = repository.catalog()?;
    let (url, now) = (repository.url(), env.clock.now());
    let (repository, catalog) = (&repository, &catalog);
    let watch = Watch { session, env: &env, repository, catalog, now, max_age_ms };
    let (facts, mut alerts) = watch.facts()?;
    alerts.extend(facts.iter().flat_map(|facts| judge(facts, now)));
    if let Some(space) = repository.store().space()? {
        let mut history = SpaceHistory::of(session, &url);
        history.note(session, now, space);
        alerts.extend(of_disk(&url, space, history.forecast(now, space).as_ref(), now));
    }
    let ahead_ms = overall::clock_ahead_ms(repository);
    alerts.extend(ahead_ms.and_then(|ahead_ms| overall::clock_alert(&url, ahead_ms)));
    let sources = facts.into_iter().map(|facts| facts.source).collect();
    Ok(Found::of_repository(url, sources, alerts))
}

impl Watch<'_> {
    /// What is known of each source, and what is wrong with what is known.
    fn facts(&self) -> Result<(Vec<Facts>, Vec<Alert>)> {
        let (mut facts, mut alerts) = (Vec::new(), Vec::new());
        let url = self.repository.url();
        let mut hosts: Vec<String> =
            self.repository.configurations()?.into_iter().map(|kept| kept.host).collect();
        hosts.extend(self.catalog.sources.iter().map(|entry| entry.record.host.clone()));
        hosts.sort();
        hosts.dedup();
        for host in hosts {
            let config = match rebuild::of(self.repository, self.catalog, Some(&host), &host) {
                Ok(rebuilt) => rebuilt.config,
                Err(error) => {
                    let what = format!("what {host} promised cannot be read: {error}");
                    let kind = (Code::PromiseUnreadable, Severity::Warning);
                    let command = "lifeboat watch --identity FILE";
                    alerts.push(Alert::new(kind, ("", &url), what, command));
                    Config::default()
                }
            };
            let mut seen = Vec::new();
            for entry in self.catalog.sources.iter().filter(|entry| entry.record.host == host) {
                let name = entry.record.name.as_str();
                let configured = configured(&config, name);
                seen.extend(configured.map(|(name, _)| name.clone()));
                let promise = self.promise(configured.map(|(_, source)| source));
                let (session, env, repository) = (self.session, self.env, self.repository);
                let mut found = Facts::of_entry(session, env, repository, (name, entry), promise)?;
                self.add_rest(&mut found, entry);
                facts.push(found);
            }
            for (name, source) in &config.source {
                if !seen.contains(name) && self.is_kept_here(&config, source) {
                    facts.push(Facts::nothing(name, &url, self.promise(Some(source))));
                }
            }
        }
        Ok((facts, alerts))
    }

    /// A cluster that rests archives nothing: its own host notes that. A note that is too old says
    /// no more than the log.
    fn add_rest(&self, facts: &mut Facts, entry: &SourceEntry) {
        let Some(end) = facts.log_end else { return };
        let source = (entry.folder.as_str(), entry.record.id);
        let until = noted(self.repository, source, end, self.now).unwrap_or_default();
        let most_ms = facts.promise.age_ms_max.map_or(i128::MAX, i128::from);
        let is_young = |until: &Timestamp| self.now.duration_since(*until).as_millis() <= most_ms;
        facts.unchanged_until = until.filter(is_young);
    }

    fn promise(&self, source: Option<&SourceConfig>) -> Promise {
        let Some(source) = source else {
            return Promise { age_ms_max: self.max_age_ms, ..Promise::default() };
        };
        let drill = source.drill.as_ref().and_then(|drill| drill.every);
        let (rpo, rto) = (source.rpo.map(|rpo| rpo.0), source.rto.map(|rto| rto.0));
        let promises = (rpo, rto, drill.map(|every| every.0));
        // The zone of that host is not known: what lies between two runs hardly depends on it.
        let clock = (self.now, &TimeZone::UTC);
        Promise::new(promises, source.schedule.as_deref(), self.max_age_ms, clock)
    }

    /// Whether the source's backups come here. Where no configured address is this one, it is
    /// reached in another way, and all do.
    fn is_kept_here(&self, config: &Config, source: &SourceConfig) -> bool {
        let trimmed = |url: &str| url.trim_end_matches('/').to_owned();
        let here = trimmed(&self.repository.url());
        let known = config.repository.iter().filter(|(_, one)| trimmed(&one.url) == here);
        let mut known = known.map(|(name, _)| name).peekable();
        match (&source.repository, known.peek()) {
            (Some(names), Some(_)) => known.any(|name| names.names().contains(name)),
            _ => true,
        }
    }
}

/// What is configured of a source: under its name, or under that of the pattern that it came from.
fn configured<'a>(config: &'a Config, name: &str) -> Option<(&'a String, &'a SourceConfig)> {
    let by_pattern = |known: &&String| {
        name.strip_prefix(known.as_str()).is_some_and(|rest| rest.starts_with('-'))
    };
    let pattern = || config.source.keys().filter(by_pattern).max_by_key(|known| known.len());
    config.source.get_key_value(name).or_else(|| config.source.get_key_value(pattern()?))
}
