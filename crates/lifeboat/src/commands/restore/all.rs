//! `restore --all`: every source of the configuration by one plan.
//!
//! All plans are made before anything is changed, so that what can be refused is refused first.
//! Then they are carried out one after the other. Each swap keeps what was there, so that `undo`
//! goes back for each database. A source without a backup is said in the plan and makes the
//! command end as incomplete: the others are restored all the same.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use jiff::Timestamp;
use lifeboat_core::env::Env;
use lifeboat_core::manifest::CheckLevel;
use lifeboat_core::restore::{self, FilesChoice, Origin, Replay, RestorePlan, RestoreRequest};
use lifeboat_core::{Error, Kind, Result, files, glob};
use lifeboat_sqlite::pagelog::{self, LogReplay};
use serde_json::{Value, json};

use super::super::backup::level_or;
use super::super::incomplete;
use super::{Args, as_json, plan_json, plan_text, say_text};
use crate::logs::{self, State};
use crate::repositories::{self, Opened};
use crate::selection::{self, Meant, Selected};
use crate::session::Session;
use crate::sources::{self, CHECK_MEMORY_BYTES, Target};
use crate::ui::confirm::confirm;
use crate::ui::table::{Align, Table};
use crate::ui::{report, units};

/// A source with the backup that it goes back to.
struct Item {
    name: String,
    selected: Selected,
    /// What is laid over the backup.
    replay: Option<LogReplay>,
    /// How it is configured; a database that a glob no longer matches has nothing of its own.
    target: Option<Target>,
}

/// What there is to restore, and what has no backup.
#[derive(Default)]
struct Found {
    items: Vec<Item>,
    missing: Vec<(String, Error)>,
}

pub(super) fn run(session: &Session, env: &Env, args: &Args) -> Result<ExitCode> {
    let (opened, failures) = repositories::open_all(session, env)?;
    let zone = &session.surroundings.time_zone;
    let moment = args.at.as_deref().unwrap_or("latest");
    let at = lifeboat_core::moment::parse(moment, env.clock.now(), zone)?;
    let mut found = find(session, env, &opened, at)?;
    if found.items.is_empty() {
        return Err(found.missing.into_iter().next().map_or_else(nothing, |(_, error)| error));
    }
    found.items.sort_by_key(|item| item.selected.manifest.source.kind != files::KIND);
    let root = args.root.as_deref().map(std::path::absolute).transpose().map_err(|error| {
        Error::io(Kind::Usage, "cannot use the folder that --root names", error)
    })?;
    let items = found.items.iter();
    let requests: Vec<RestoreRequest<'_>> =
        items.map(|item| request(session, args, item, root.as_deref())).collect::<Result<_>>()?;
    let planned = requests.iter().zip(&found.items).map(|(request, item)| {
        restore::plan(env, request).map_err(|error| {
            error.context(format!("`{}` cannot be restored, nothing was changed", item.name))
        })
    });
    let plans: Vec<RestorePlan> = planned.collect::<Result<_>>()?;
    one_for_each_place(&found.items, &plans)?;
    let whole = Whole { session, env, found: &found, requests: &requests, plans: &plans };
    if args.dry_run {
        whole.print()?;
    } else {
        whole.agree()?;
        whole.apply()?;
    }
    whole.end(&failures)
}

fn nothing() -> Error {
    Error::new(Kind::Usage, "nothing to restore: no source is configured")
        .hint("name a source of the repository: lifeboat list; lifeboat restore SOURCE")
}

/// The backup of every source; of a glob also of the databases that are lost by now.
fn find(session: &Session, env: &Env, opened: &[Opened], at: Timestamp) -> Result<Found> {
    let mut found = Found::default();
    for (name, source) in &session.loaded()?.config.source {
        let pattern = source.sqlite.as_ref().and_then(|sqlite| sqlite.0.glob.as_deref());
        let lost = pattern.map(|pattern| of_glob(opened, pattern, at)).unwrap_or_default();
        let targets = match Target::configured(name, source) {
            Ok(targets) => targets,
            Err(_) if !lost.is_empty() => Vec::new(),
            Err(error) => {
                found.missing.push((name.clone(), error));
                continue;
            }
        };
        for target in targets {
            if target.database.is_some() {
                let message =
                    format!("`{}` is on a server, and is restored by itself", target.name);
                let error = Error::new(Kind::Incomplete, message);
                let hint = format!("lifeboat restore {}", units::shell_word(&target.name));
                found.missing.push((target.name, error.hint(hint)));
                continue;
            }
            match selection::of_target(env, opened, &target, at).and_then(logs::meant) {
                Ok(State { selected, replay }) => {
                    let (name, target) = (target.name.clone(), Some(target));
                    found.items.push(Item { name, selected, replay, target });
                }
                Err(error) => found.missing.push((target.name, error)),
            }
        }
        for selected in lost {
            let id = selected.manifest.source.id;
            if !found.items.iter().any(|item| item.selected.manifest.source.id == id) {
                let name = selected.manifest.source.name.clone();
                match logs::meant(selected) {
                    Ok(State { selected, replay }) => {
                        found.items.push(Item { name, selected, replay, target: None });
                    }
                    Err(error) => found.missing.push((name, error)),
                }
            }
        }
    }
    Ok(found)
}

/// The backups of databases that a glob means, as the repositories know them: one for each.
fn of_glob(opened: &[Opened], pattern: &str, at: Timestamp) -> Vec<Selected> {
    let mut found: Vec<Selected> = Vec::new();
    for one in opened {
        let fits = one.catalog.sources.iter().filter(|entry| {
            let record = &entry.record;
            record.kind == lifeboat_sqlite::KIND && glob::fits(pattern, &record.location)
        });
        for entry in fits {
            let Some(manifest) = entry.at_or_before(at) else { continue };
            let new = Selected {
                meant: Meant::State(pagelog::Target::At(at)),
                ..selection::selected(one, entry, manifest)
            };
            let same = |old: &&mut Selected| old.manifest.source.id == new.manifest.source.id;
            match found.iter_mut().find(same) {
                Some(old) if old.manifest.taken_at < new.manifest.taken_at => *old = new,
                Some(_) => {}
                None => found.push(new),
            }
        }
    }
    found
}

fn request<'a>(
    session: &'a Session,
    args: &Args,
    item: &'a Item,
    root: Option<&Path>,
) -> Result<RestoreRequest<'a>> {
    let Selected { repository, folder, manifest, .. } = &item.selected;
    let is_files = manifest.source.kind == files::KIND;
    let below = |root: &Path| match is_files {
        true => root.to_owned(),
        false => root.join(manifest.source.location.trim_start_matches('/')),
    };
    let has_files = manifest.artifact(files::ROLE).is_some();
    let target = item.target.as_ref();
    Ok(RestoreRequest {
        origin: Origin::Backup { repository, folder, manifest },
        replay: item.replay.as_ref().map(|replay| replay as &dyn Replay),
        engine: sources::engine(&manifest.source.kind)?,
        to: root.map(below),
        files: if has_files && !is_files { FilesChoice::Also } else { FilesChoice::No },
        files_root: root.map(Path::to_owned),
        check: level_or(args.check, CheckLevel::Quick),
        check_memory_bytes: target
            .map_or(CHECK_MEMORY_BYTES, |target| target.options.check_memory_bytes),
        service: target.filter(|_| root.is_none()).and_then(|target| target.service.as_ref()),
        scratch_folder: &session.folders.scratch,
    })
}

/// Two sources that go to one place would undo each other.
fn one_for_each_place(items: &[Item], plans: &[RestorePlan]) -> Result<()> {
    let mut places = BTreeSet::new();
    for (item, plan) in items.iter().zip(plans) {
        if plan.place.as_ref().is_some_and(|place| !places.insert(place)) {
            let message = format!("`{}` and another source go to the same place", item.name);
            return Err(Error::new(Kind::Usage, message)
                .hint("restore one of them by its name: lifeboat restore SOURCE"));
        }
    }
    Ok(())
}

/// The one plan.
struct Whole<'a> {
    session: &'a Session,
    env: &'a Env,
    found: &'a Found,
    requests: &'a [RestoreRequest<'a>],
    plans: &'a [RestorePlan],
}

impl Whole<'_> {
    fn each(&self) -> impl Iterator<Item = (&Item, &RestorePlan)> {
        self.found.items.iter().zip(self.plans)
    }

    fn table(&self) -> String {
        let mut table = Table::new(&[
            ("SOURCE", Align::Left),
            ("BACKED UP", Align::Left),
            ("SIZE", Align::Right),
            ("GOES TO", Align::Left),
        ]);
        let mut row = |cells: [String; 4]| {
            table.row(cells.into_iter().map(|cell| (cell, None)).collect());
        };
        for (item, plan) in self.each() {
            let manifest = &item.selected.manifest;
            let below = plan.files.as_ref().map(|files| files.root.join("..."));
            let places: Vec<PathBuf> = plan.place.clone().into_iter().chain(below).collect();
            let places: Vec<String> =
                places.iter().map(|place| units::one_line(&place.to_string_lossy())).collect();
            row([
                units::one_line(&item.name),
                match &item.replay {
                    Some(replay) => {
                        units::moment(replay.moment().until, &self.session.surroundings.time_zone)
                    }
                    None => selection::moment(self.session, manifest),
                },
                units::bytes(manifest.plain_bytes()),
                places.join(", "),
            ]);
        }
        for (name, _) in &self.found.missing {
            row([units::one_line(name), "no backup".into(), String::new(), String::new()]);
        }
        table.to_text(&self.session.printer)
    }

    fn text(&self) -> String {
        let mut text = self.table();
        for (item, plan) in self.each() {
            let plan = plan_text(plan);
            text.push_str(&format!("\n{}, {plan}", units::one_line(&item.name)));
        }
        text
    }

    fn print(&self) -> Result<()> {
        if !self.session.printer.json() {
            return self.session.printer.data(&self.text());
        }
        let plans = self.each().map(|(item, plan)| named(item, plan_json(plan))).collect();
        self.session.printer.json_data(&self.with_missing(plans))
    }

    fn with_missing(&self, mut values: Vec<Value>) -> Vec<Value> {
        values.extend(self.found.missing.iter().map(|(name, error)| {
            let error = report::as_json(error);
            json!({ "source": name, "outcome": "no-backup", "error": error })
        }));
        values
    }

    fn agree(&self) -> Result<()> {
        let overwrites = |plan: &RestorePlan| plan.in_place || !plan.kept_aside.is_empty();
        let printer = &self.session.printer;
        if !self.plans.iter().any(overwrites) || self.session.globals.yes {
            self.text().lines().for_each(|line| printer.detail(line));
            return Ok(());
        }
        self.text().lines().for_each(|line| printer.line(line));
        let question = format!("restoring {} sources", self.plans.len());
        confirm(&self.session.surroundings, printer, &question, "all")
    }

    /// Carries the plans out; the first that fails is the end.
    fn apply(&self) -> Result<()> {
        let (mut results, mut failed) = (Vec::new(), None);
        for (index, (item, plan)) in self.each().enumerate() {
            match restore::apply(self.env, &self.requests[index], plan) {
                Ok(outcome) => {
                    self.session.progress.clear();
                    for warning in &outcome.warnings {
                        self.session.printer.warning(&units::one_line(&item.name), warning);
                    }
                    say_text(self.session, plan, &outcome);
                    results.push(named(item, as_json(plan, &outcome)));
                }
                Err(error) => {
                    self.session.progress.clear();
                    failed = Some((index, error));
                    break;
                }
            }
        }
        for (item, plan) in self.each().skip(results.len()) {
            let mut value = named(item, plan_json(plan));
            value["outcome"] = "not-done".into();
            results.push(value);
        }
        if self.session.printer.json() {
            self.session.printer.json_data(&self.with_missing(results))?;
        }
        failed.map_or(Ok(()), |(index, error)| Err(self.stopped(index, error)))
    }

    /// What was done and what was not, around the error of the one that failed.
    fn stopped(&self, index: usize, error: Error) -> Error {
        let names = |items: &[Item]| {
            let names: Vec<&str> = items.iter().map(|item| item.name.as_str()).collect();
            match names.is_empty() {
                true => "nothing".to_owned(),
                false => units::one_line(&names.join(", ")),
            }
        };
        let items = &self.found.items;
        error.context(format!(
            "the restore of `{}` failed and the rest was not tried; restored: {}; not done: {}",
            items[index].name,
            names(&items[..index]),
            names(&items[index..])
        ))
    }

    /// Sources without a backup, and repositories that could not be read, make it incomplete.
    fn end(&self, failures: &[Error]) -> Result<ExitCode> {
        let missing = &self.found.missing;
        if missing.is_empty() {
            return incomplete(failures);
        }
        for (name, error) in missing {
            self.session.printer.warning(&units::one_line(name), &error.to_string());
        }
        let names: Vec<&str> = missing.iter().map(|(name, _)| name.as_str()).collect();
        let message = format!(
            "{} of {} sources have no backup to go back to: {}",
            missing.len(),
            missing.len() + self.found.items.len(),
            units::one_line(&names.join(", "))
        );
        Err(Error::new(Kind::Incomplete, message).hint("the warnings above say why"))
    }
}

fn named(item: &Item, mut value: Value) -> Value {
    value["source"] = item.name.as_str().into();
    value
}
