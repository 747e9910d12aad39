//! What a backup of a whole cluster needs besides itself: the backups that it builds on, the log of
//! its cluster, and roles that may ask what is made of it.

use lifeboat_core::env::Env;
use lifeboat_core::manifest::Manifest;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::recovery::log_state::{LogState, system_of};
use lifeboat_postgres::recovery::target::{Target, Timeline};
use lifeboat_postgres::wal::{Archive, Member};

use crate::postgres::Database;
use crate::repositories;
use crate::selection::{self, Selected};
use crate::session::Session;
use crate::sources;
use crate::ui::units;

/// The log of the cluster in every repository that holds its source.
pub(crate) fn archive(session: &Session, env: &Env, selected: &Selected) -> Result<Archive> {
    let mut members = vec![Member {
        label: selected.repository.url(),
        repository: selected.repository.clone(),
        folder: selected.folder.clone(),
    }];
    let (opened, _) = repositories::open_all(session, env).unwrap_or_default();
    for one in &opened {
        let is_known = members.iter().any(|member| member.label == one.repository.url());
        let id = selected.manifest.source.id;
        let entry = one.catalog.sources.iter().find(|entry| entry.record.id == id);
        if let Some(entry) = entry.filter(|_| !is_known) {
            members.push(Member {
                label: one.repository.url(),
                repository: one.repository.clone(),
                folder: entry.folder.clone(),
            });
        }
    }
    let (system, level_hurried) = (system_of(&selected.manifest)?, None);
    Ok(Archive { members, system, level: 1, level_hurried })
}

/// The backups that one is built on, the oldest first.
pub(crate) fn ancestors(selected: &Selected) -> Result<Vec<Manifest>> {
    let mut chain: Vec<Manifest> = Vec::new();
    if selected.manifest.parent.is_none() {
        return Ok(chain);
    }
    let catalog = selected.repository.catalog()?;
    let entry = catalog.sources.into_iter().find(|entry| entry.folder == selected.folder);
    // One with a tombstone is as good while its bytes are there.
    let mut all: Vec<Manifest> =
        entry.map(|entry| [entry.backups, entry.removed].concat()).unwrap_or_default();
    loop {
        let youngest = chain.last().unwrap_or(&selected.manifest);
        let Some(parent) = youngest.parent else { break };
        let Some(found) = all.iter().position(|backup| backup.id == parent) else {
            let message = format!("the backup that {} builds on is not there", youngest.name);
            return Err(Error::new(Kind::NotCovered, message)
                .hint(format!("choose another: lifeboat list {}", selected.folder)));
        };
        let found = all.swap_remove(found);
        chain.push(found);
    }
    chain.reverse();
    Ok(chain)
}

/// Roles that may ask the restored cluster, where everybody is let in.
pub(crate) fn users(target: Option<&sources::Target>) -> Vec<String> {
    let mut users = vec!["postgres".to_owned()];
    let client = target.and_then(|target| target.cluster.as_ref()?.client().ok());
    users.extend(client.and_then(|client| client.address().get("user").map(str::to_owned)));
    users.extend(lifeboat_core::owner::user_name(rustix::process::geteuid().as_raw()));
    users
}

/// Of a dump that was asked for at a moment: the command that restores its server to that very
/// moment, where a whole cluster of it is backed up with its log.
pub(crate) fn covering(
    session: &Session,
    env: &Env,
    database: &Database,
    moment: &str,
) -> Option<String> {
    let zone = &session.surroundings.time_zone;
    let at = lifeboat_core::moment::parse(moment, env.clock.now(), zone).ok()?;
    let config = &session.loaded().ok()?.config;
    let (opened, _) = repositories::open_all(session, env).ok()?;
    let targets = config.source.iter().filter_map(|(name, source)| {
        sources::Target::configured(name, source).ok().map(Vec::into_iter)
    });
    targets.flatten().find_map(|target| {
        let cluster = target.cluster.as_ref()?;
        if !cluster.is_server_of(database.address()) {
            return None;
        }
        let selected = selection::of_target(env, &opened, &target, at).ok()?;
        let archive = archive(session, env, &selected).ok()?;
        let log = LogState::of(env, &archive, &selected.manifest).ok()?;
        log.decide(&Target::Time(at), Timeline::Latest).ok()?;
        let (name, moment) = (units::shell_word(&target.name), units::shell_word(moment));
        Some(format!("lifeboat restore {name} --at {moment} --to DIR"))
    })
}

/// A moment that no dump covers may be one that the cluster of the same server does.
pub(crate) fn point_to_cluster(
    session: &Session,
    env: &Env,
    what: &str,
    at: Option<&str>,
    error: Error,
) -> Error {
    let (Some(at), Kind::NotCovered) = (at, error.kind()) else { return error };
    let target = selection::target_of(session, what).ok().flatten();
    let database = target.as_ref().and_then(|target| target.database.as_ref());
    match database.and_then(|database| covering(session, env, database, at)) {
        Some(command) => error.hint(format!("the whole cluster covers that moment: {command}")),
        None => error,
    }
}
