//! `restore --all`: every source of the configuration by one plan.
//!
//! All plans are made before anything is changed, so that what can be refused is refused first.
//! Then they are carried out one after the other. Each swap keeps what was there, so that `undo`
//! goes back for each database; databases of servers come last. A source without a backup is said
//! in the plan and makes the command end as incomplete: the others are restored all the same.

mod clusters;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use jiff::Timestamp;
use lifeboat_core::env::Env;
use lifeboat_core::manifest::CheckLevel;
use lifeboat_core::restore::{
    self, FilesChoice, Mapping, Origin, Replay, RestorePlan, RestoreRequest,
};
use lifeboat_core::{Error, Kind, Result, files, glob};
use lifeboat_sqlite::pagelog::{self, LogReplay};
use serde_json::{Value, json};

use self::clusters::Cluster;
use super::super::backup::level_or;
use super::super::incomplete;
use super::server::{self, Planned};
use super::{Args, as_json, plan_json, plan_text, say_text};
use crate::config::Config;
use crate::logs::{self, State};
use crate::rebuild::{self, Rebuilt};
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
    servers: Vec<Server>,
    clusters: Vec<Cluster>,
    /// Databases that come back with a cluster, and with which.
    brought: Vec<(String, String)>,
    missing: Vec<(String, Error)>,
}

/// A database of a server with the dump that it goes back to.
struct Server {
    selected: Selected,
    target: Target,
}

pub(super) fn run(session: &Session, env: &Env, args: &Args) -> Result<ExitCode> {
    let (opened, failures) = repositories::open_all(session, env)?;
    let zone = &session.surroundings.time_zone;
    let moment = args.at.as_deref().unwrap_or("latest");
    let at = lifeboat_core::moment::parse(moment, env.clock.now(), zone)?;
    let (config, env) = configuration(session, env, args, &opened)?;
    let (begun_ms, env) = (env.clock.monotonic_ms(), &env);
    let root = args.root.as_deref().map(std::path::absolute).transpose().map_err(|error| {
        Error::io(Kind::Usage, "cannot use the folder that --root names", error)
    })?;
    let is_root = root.as_deref().is_none_or(|root| root == Path::new("/"));
    let below = root.as_deref().filter(|_| !is_root);
    let mapping = args.mapping.read()?;
    let mut found = find(env, &config, &opened, at, (&mapping, below))?;
    if found.items.is_empty() && found.servers.is_empty() && found.clusters.is_empty() {
        return Err(found.missing.into_iter().next().map_or_else(nothing, |(_, error)| error));
    }
    found.items.sort_by_key(|item| item.selected.manifest.source.kind != files::KIND);
    let mapped = (&mapping, root.as_deref());
    let items = found.items.iter();
    let requests: Vec<RestoreRequest<'_>> =
        items.map(|item| request(session, args, item, mapped)).collect::<Result<_>>()?;
    let planned = requests.iter().zip(&found.items).map(|(request, item)| {
        restore::plan(env, request).map_err(|error| {
            error.context(format!("`{}` cannot be restored, nothing was changed", item.name))
        })
    });
    let plans: Vec<RestorePlan> = planned.collect::<Result<_>>()?;
    one_for_each_place(&found.items, &plans)?;
    let planned = found.servers.iter().map(|one| {
        server::plan_one(session, env, args, &one.selected, &one.target).map_err(|error| {
            let name = &one.target.name;
            error.context(format!("`{name}` cannot be restored, nothing was changed"))
        })
    });
    let servers: Vec<Planned> = planned.collect::<Result<_>>()?;
    let planned = found.clusters.iter().map(|one| {
        one.plan(session, env, args).map_err(|error| {
            let name = &one.target.name;
            error.context(format!("`{name}` cannot be restored, nothing was changed"))
        })
    });
    let clusters: Vec<clusters::Planned> = planned.collect::<Result<_>>()?;
    let (found, requests, plans, servers) = (&found, &requests[..], &plans[..], &servers[..]);
    let clusters = &clusters[..];
    let whole = Whole { session, env, args, found, requests, plans, servers, clusters };
    if args.dry_run {
        whole.print()?;
    } else {
        whole.agree()?;
        whole.apply()?;
        whole.say_total(begun_ms);
    }
    whole.end(&failures)
}

fn nothing() -> Error {
    Error::new(Kind::Usage, "nothing to restore: no source is configured")
        .hint("name a source of the repository: lifeboat list; lifeboat restore SOURCE")
}

/// The configuration whose sources are meant: this host's; where there is none, the one that the
/// repository keeps, of the host that is meant then.
fn configuration(
    session: &Session,
    env: &Env,
    args: &Args,
    opened: &[Opened],
) -> Result<(Config, Env)> {
    let config = &session.loaded()?.config;
    let Some(one) = opened.first().filter(|_| config.source.is_empty()) else {
        return Ok((config.clone(), env.clone()));
    };
    let Rebuilt { config, .. } =
        rebuild::of(&one.repository, &one.catalog, args.host.as_deref(), &env.host)?;
    let host = config.host.clone().unwrap_or_else(|| env.host.clone());
    session.printer.detail(&format!("the sources are those of {host}, as the repository has them"));
    Ok((config, Env { host, ..env.clone() }))
}

/// The backup of every source; of a glob also of the databases that are lost by now.
fn find(
    env: &Env,
    config: &Config,
    opened: &[Opened],
    at: Timestamp,
    (mapping, below): (&Mapping, Option<&Path>),
) -> Result<Found> {
    let mut found = Found::default();
    // First, as each brings its databases along.
    for (name, source) in &config.source {
        let targets = Target::configured(name, source).unwrap_or_default();
        for target in targets.into_iter().filter(Target::is_cluster) {
            match clusters::find(env, opened, target, at, (mapping, below)) {
                Ok(cluster) => found.clusters.push(cluster),
                Err(missing) => found.missing.push(missing),
            }
        }
    }
    for (name, source) in &config.source {
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
        for target in targets.into_iter().filter(|target| !target.is_cluster()) {
            if target.database.is_some() {
                found.add_server(env, opened, target, at, below);
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

impl Found {
    /// A database of a server is restored there, and nowhere below a folder.
    fn add_server(
        &mut self,
        env: &Env,
        opened: &[Opened],
        target: Target,
        at: Timestamp,
        below: Option<&Path>,
    ) {
        if let Some(cluster) = clusters::bringing(&self.clusters, &target) {
            self.brought.push((target.name, cluster.to_owned()));
            return;
        }
        if below.is_some() {
            let message = format!("`{}` is on a server, not below a folder", target.name);
            let hint = format!("lifeboat restore {}", units::shell_word(&target.name));
            let error = Error::new(Kind::Incomplete, message).hint(hint);
            self.missing.push((target.name, error));
            return;
        }
        match selection::of_target(env, opened, &target, at) {
            Ok(selected) => self.servers.push(Server { selected, target }),
            Err(error) => self.missing.push((target.name, error)),
        }
    }
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
    (mapping, root): (&'a Mapping, Option<&Path>),
) -> Result<RestoreRequest<'a>> {
    let Selected { repository, folder, manifest, .. } = &item.selected;
    let is_files = manifest.source.kind == files::KIND;
    let below = |root: &Path| match is_files {
        true => root.to_owned(),
        false => {
            let place = mapping.path(Path::new(&manifest.source.location));
            root.join(place.strip_prefix("/").unwrap_or(&place))
        }
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
        mapping,
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
    args: &'a Args,
    requests: &'a [RestoreRequest<'a>],
    plans: &'a [RestorePlan],
    servers: &'a [Planned],
    clusters: &'a [clusters::Planned],
}

impl Whole<'_> {
    fn each_server(&self) -> impl Iterator<Item = (&Server, &Planned)> {
        self.found.servers.iter().zip(self.servers)
    }

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
        for (one, planned) in self.each_server() {
            let manifest = &one.selected.manifest;
            row([
                units::one_line(&one.target.name),
                selection::moment(self.session, manifest),
                units::bytes(manifest.plain_bytes()),
                format!("{} on {}", units::one_line(&planned.plan.database), planned.plan.server),
            ]);
        }
        for one in &self.found.clusters {
            let manifest = &one.selected.manifest;
            row([
                units::one_line(&one.target.name),
                selection::moment(self.session, manifest),
                units::bytes(manifest.plain_bytes()),
                units::one_line(&one.place.to.to_string_lossy()),
            ]);
        }
        for (name, cluster) in &self.found.brought {
            let comes = format!("comes back with {}", units::one_line(cluster));
            row([units::one_line(name), String::new(), String::new(), comes]);
        }
        for (name, error) in &self.found.missing {
            let why = match error.kind() {
                Kind::Incomplete => "not restored",
                _ => "no backup",
            };
            row([units::one_line(name), why.into(), String::new(), String::new()]);
        }
        table.to_text(&self.session.printer)
    }

    fn text(&self) -> String {
        let mut text = self.table();
        for (item, plan) in self.each() {
            let plan = plan_text(plan);
            text.push_str(&format!("\n{}, {plan}", units::one_line(&item.name)));
        }
        for (one, planned) in self.each_server() {
            let plan = server::plan_text(self.args, &planned.plan);
            text.push_str(&format!("\n{}, {plan}", units::one_line(&one.target.name)));
        }
        for (one, planned) in self.found.clusters.iter().zip(self.clusters) {
            let plan = &planned.text;
            text.push_str(&format!("\n{}, {plan}", units::one_line(&one.target.name)));
        }
        text
    }

    fn print(&self) -> Result<()> {
        if !self.session.printer.json() {
            return self.session.printer.data(&self.text());
        }
        let plans = self.each().map(|(item, plan)| named(&item.name, plan_json(plan)));
        let servers = self
            .each_server()
            .map(|(one, planned)| named(&one.target.name, server::plan_json(&planned.plan)));
        let plans = plans.chain(servers).chain(self.clusters_json()).collect();
        self.session.printer.json_data(&self.with_missing(plans))
    }

    fn clusters_json(&self) -> impl Iterator<Item = Value> {
        let clusters = self.found.clusters.iter().zip(self.clusters);
        clusters.map(|(one, planned)| named(&one.target.name, planned.json.clone()))
    }

    fn with_missing(&self, mut values: Vec<Value>) -> Vec<Value> {
        values.extend(self.found.brought.iter().map(|(name, cluster)| {
            json!({ "source": name, "outcome": "with-cluster", "cluster": cluster })
        }));
        values.extend(self.found.missing.iter().map(|(name, error)| {
            let outcome = match error.kind() {
                Kind::Incomplete => "not-restored",
                _ => "no-backup",
            };
            json!({ "source": name, "outcome": outcome, "error": report::as_json(error) })
        }));
        values
    }

    fn agree(&self) -> Result<()> {
        let overwrites = |plan: &RestorePlan| plan.in_place || !plan.kept_aside.is_empty();
        let printer = &self.session.printer;
        let replaces = |planned: &Planned| planned.plan.replaces;
        let is_nothing_lost = !self.plans.iter().any(overwrites)
            && !self.servers.iter().any(replaces)
            && !self.found.clusters.iter().any(|one| one.place.is_taken);
        if is_nothing_lost || self.session.globals.yes {
            self.text().lines().for_each(|line| printer.detail(line));
            return Ok(());
        }
        self.text().lines().for_each(|line| printer.line(line));
        let question = format!("restoring {} sources", self.names().len());
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
                    results.push(named(&item.name, as_json(plan, &outcome)));
                }
                Err(error) => {
                    self.session.progress.clear();
                    failed = Some((index, error));
                    break;
                }
            }
        }
        for (index, (one, planned)) in self.each_server().enumerate() {
            if failed.is_some() {
                break;
            }
            let (session, what) = (self.session, (&one.selected, &one.target));
            match server::apply_one(session, self.env, self.args, what, planned) {
                Ok(value) => results.push(named(&one.target.name, value)),
                Err(error) => {
                    session.progress.clear();
                    failed = Some((self.plans.len() + index, error));
                }
            }
        }
        let before = self.plans.len() + self.servers.len();
        for (index, one) in self.found.clusters.iter().enumerate() {
            if failed.is_some() {
                break;
            }
            match one.apply(self.session, self.env, self.args) {
                Ok(value) => results.push(named(&one.target.name, value)),
                Err(error) => {
                    self.session.progress.clear();
                    failed = Some((before + index, error));
                }
            }
        }
        results.extend(self.not_done(results.len()));
        if self.session.printer.json() {
            self.session.printer.json_data(&self.with_missing(results))?;
        }
        failed.map_or(Ok(()), |(index, error)| Err(self.stopped(index, error)))
    }

    /// What was not begun, or failed.
    fn not_done(&self, done: usize) -> Vec<Value> {
        let plans = self.each().map(|(item, plan)| named(&item.name, plan_json(plan)));
        let servers = self
            .each_server()
            .map(|(one, planned)| named(&one.target.name, server::plan_json(&planned.plan)));
        let left = plans.chain(servers).chain(self.clusters_json()).skip(done);
        left.map(|mut value| {
            value["outcome"] = "not-done".into();
            value
        })
        .collect()
    }

    fn names(&self) -> Vec<&str> {
        let items = self.found.items.iter().map(|item| item.name.as_str());
        let servers = self.found.servers.iter().map(|one| one.target.name.as_str());
        let clusters = self.found.clusters.iter().map(|one| one.target.name.as_str());
        items.chain(servers).chain(clusters).collect()
    }

    /// The time that all of it took.
    fn say_total(&self, begun_ms: u64) {
        let elapsed_ms = self.env.elapsed_ms(begun_ms);
        let plain = self.found.items.iter().map(|item| item.selected.manifest.plain_bytes());
        let dumps = self.found.servers.iter().map(|one| one.selected.manifest.plain_bytes());
        let clusters = self.found.clusters.iter();
        let clusters = clusters.map(|one| one.selected.manifest.plain_bytes());
        let plain_bytes = plain.chain(dumps).chain(clusters).sum::<u64>();
        let sources = self.names().len();
        let printer = &self.session.printer;
        match printer.json() {
            true => printer.json_line(&json!({
                "event": "all_restored",
                "sources": sources,
                "plain_bytes": plain_bytes,
                "elapsed_ms": elapsed_ms,
            })),
            false => printer.note(&format!(
                "all of it: {sources} sources, {} in {}",
                units::bytes(plain_bytes),
                units::duration(elapsed_ms)
            )),
        }
    }

    /// What was done and what was not, around the error of the one that failed.
    fn stopped(&self, index: usize, error: Error) -> Error {
        let names = |names: &[&str]| match names.is_empty() {
            true => "nothing".to_owned(),
            false => units::one_line(&names.join(", ")),
        };
        let items = self.names();
        error.context(format!(
            "the restore of `{}` failed and the rest was not tried; restored: {}; not done: {}",
            items[index],
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
        let why = match missing.iter().any(|(_, error)| error.kind() == Kind::Incomplete) {
            true => "are not restored",
            false => "have no backup to go back to",
        };
        let message = format!(
            "{} of {} sources {why}: {}",
            missing.len(),
            missing.len() + self.names().len(),
            units::one_line(&names.join(", "))
        );
        Err(Error::new(Kind::Incomplete, message).hint("the warnings above say why"))
    }
}

fn named(name: &str, mut value: Value) -> Value {
    value["source"] = name.into();
    value
}
