//! Which sources are drilled, from which repository, and to which restore point.

use std::rc::Rc;

use jiff::{SignedDuration, Timestamp};
use lifeboat_core::catalog::{BackupExpression, SourceEntry};
use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result, glob};
use lifeboat_sqlite::pagelog;

use crate::config::drill::DrillConfig;
use crate::logs::{self, State};
use crate::rebuild;
use crate::repositories::Opened;
use crate::selection::{self, Found, Meant, Selected};
use crate::session::Session;
use crate::sources::Target;

/// A source in one repository.
pub(super) struct Subject<'a> {
    /// What it is called.
    pub(super) name: String,
    /// The repository.
    pub(super) opened: &'a Opened,
    /// What that holds of it; `None` where it holds nothing.
    pub(super) entry: Option<&'a SourceEntry>,
    /// How it is configured, if it is.
    pub(super) target: Option<Rc<Target>>,
    /// What its drill asks for.
    pub(super) config: DrillConfig,
}

/// All that are meant, each in each repository that holds it.
pub(super) fn subjects<'a>(
    session: &Session,
    env: &Env,
    opened: &'a [Opened],
    arguments: &[String],
) -> Result<Vec<Subject<'a>>> {
    let mut subjects = Vec::new();
    if arguments.is_empty() {
        return configured(session, env, opened);
    }
    for argument in arguments {
        match selection::target_of(session, argument)? {
            Some(target) => add(session, env, opened, target, &mut subjects)?,
            None if session.loaded()?.config.source.contains_key(argument) => {
                let source = &session.loaded()?.config.source[argument];
                for target in Target::configured(argument, source)? {
                    add(session, env, opened, target, &mut subjects)?;
                }
            }
            None => {
                let found = selection::entries(session, env, opened, argument)?;
                subjects.extend(
                    found.into_iter().map(|Found { opened, entry }| of_entry(opened, entry)),
                );
            }
        }
    }
    Ok(subjects)
}

/// All that the repositories hold, by the configurations that they keep. Nothing of it is live
/// here.
pub(super) fn of_repositories<'a>(env: &Env, opened: &'a [Opened]) -> Result<Vec<Subject<'a>>> {
    let mut subjects = Vec::new();
    for one in opened {
        let kept = rebuild::of(&one.repository, &one.catalog, None, &env.host);
        // Of several hosts each has one: what a drill asks for is then not known.
        let sources = kept.map(|rebuilt| rebuilt.config.source).unwrap_or_default();
        for entry in &one.catalog.sources {
            let source = sources.get(&entry.record.name);
            let config = source.and_then(|source| source.drill.clone()).unwrap_or_default();
            subjects.push(Subject { config, ..of_entry(one, entry) });
        }
    }
    Ok(subjects)
}

/// Those of the configuration; without any, all that the repositories hold.
fn configured<'a>(session: &Session, env: &Env, opened: &'a [Opened]) -> Result<Vec<Subject<'a>>> {
    let config = &session.loaded()?.config;
    let mut subjects = Vec::new();
    for (name, source) in &config.source {
        match Target::configured(name, source) {
            Ok(targets) => {
                for target in targets {
                    add(session, env, opened, target, &mut subjects)?;
                }
            }
            // The databases of a glob may be lost: what there is of them is drilled.
            Err(error) => {
                let pattern = source.sqlite.as_ref().and_then(|sqlite| sqlite.0.glob.as_deref());
                let Some(pattern) = pattern else { return Err(error) };
                for one in opened {
                    let lost = one.catalog.sources.iter().filter(|entry| {
                        entry.record.kind == lifeboat_sqlite::KIND
                            && glob::fits(pattern, &entry.record.location)
                    });
                    subjects.extend(lost.map(|entry| of_entry(one, entry)));
                }
            }
        }
    }
    if config.source.is_empty() {
        for one in opened {
            subjects.extend(one.catalog.sources.iter().map(|entry| of_entry(one, entry)));
        }
    }
    Ok(subjects)
}

fn of_entry<'a>(opened: &'a Opened, entry: &'a SourceEntry) -> Subject<'a> {
    let name = entry.folder.clone();
    Subject { name, opened, entry: Some(entry), target: None, config: DrillConfig::default() }
}

fn add<'a>(
    session: &Session,
    env: &Env,
    opened: &'a [Opened],
    target: Target,
    subjects: &mut Vec<Subject<'a>>,
) -> Result<()> {
    let target = Rc::new(target);
    for one in opened {
        let is_kept_there = match (&target.repositories, &one.place.name) {
            _ if session.globals.repo.is_some() => true,
            (Some(names), Some(name)) => names.contains(name),
            _ => true,
        };
        if is_kept_there {
            let entry = selection::own_entry(env, one, &target)?;
            subjects.push(Subject {
                name: target.name.clone(),
                opened: one,
                entry,
                config: target.drill.clone(),
                target: Some(Rc::clone(&target)),
            });
        }
    }
    Ok(())
}

/// How the restore point is chosen.
pub(super) enum Choice {
    /// The newest.
    Newest,
    /// The newest at or before a moment.
    At(Timestamp, String),
    /// Any of all moments that can be restored.
    Random,
}

impl Choice {
    /// What the arguments ask for.
    pub(super) fn of(session: &Session, env: &Env, at: Option<&str>, random: bool) -> Result<Self> {
        Ok(match at {
            _ if random => Choice::Random,
            None | Some("latest") => Choice::Newest,
            Some(text) => {
                let zone = &session.surroundings.time_zone;
                let at = lifeboat_core::moment::parse(text, env.clock.now(), zone)?;
                Choice::At(at, text.to_owned())
            }
        })
    }

    /// For the record.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Choice::Newest => "newest",
            Choice::At(..) => "at",
            Choice::Random => "random",
        }
    }

    /// The restore point of a source.
    pub(super) fn state(&self, env: &Env, subject: &Subject<'_>) -> Result<State> {
        logs::meant(self.selected(env, subject)?)
    }

    /// The backup that it begins with.
    pub(super) fn selected(&self, env: &Env, subject: &Subject<'_>) -> Result<Selected> {
        let none = || {
            let message = format!(
                "{} holds no backup of `{}`",
                subject.opened.repository.url(),
                subject.name
            );
            Error::new(Kind::NotCovered, message).hint("lifeboat list")
        };
        let entry = subject.entry.ok_or_else(none)?;
        let (at, text) = match self {
            Choice::Newest => (env.clock.now(), "latest"),
            Choice::At(at, text) => (*at, text.as_str()),
            Choice::Random => (random_moment(env, entry).ok_or_else(none)?, "random"),
        };
        let source = entry.folder.clone();
        let found = entry.meant_by(&BackupExpression { source, at, text: text.to_owned() });
        let Some(manifest) = found else {
            return Err(match self {
                Choice::At(..) if !entry.backups.is_empty() => {
                    let oldest = entry.backups.first().map(|backup| backup.taken_at.to_string());
                    let message = format!("`{}` has no backup at or before {text}", entry.folder);
                    Error::new(Kind::NotCovered, message)
                        .hint(format!("the oldest is of {}", oldest.unwrap_or_default()))
                }
                _ => none(),
            });
        };
        let target = match self {
            Choice::Newest => pagelog::Target::Latest,
            _ => pagelog::Target::At(at),
        };
        let selected = selection::selected(subject.opened, entry, manifest);
        Ok(Selected { meant: Meant::State(target), ..selected })
    }
}

/// A moment between the oldest backup and now, all as likely.
fn random_moment(env: &Env, entry: &SourceEntry) -> Option<Timestamp> {
    let oldest = entry.backups.first()?.taken_at;
    let span_ms = env.clock.now().duration_since(oldest).as_millis().max(0).unsigned_abs();
    let mut bytes = [0; 8];
    env.random.fill(&mut bytes);
    let offset_ms = u128::from(u64::from_le_bytes(bytes)) % (span_ms + 1);
    let offset = SignedDuration::from_millis(i64::try_from(offset_ms).ok()?);
    oldest.checked_add(offset).ok()
}
