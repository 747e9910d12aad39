//! `lifeboat backup`: a backup of each source, in each of its repositories.

mod chain;
mod incremental;
mod said;

use std::collections::BTreeSet;
use std::process::ExitCode;

use lifeboat_core::backup::{self, BackupOutcome, BackupRequest, Destination};
use lifeboat_core::env::Env;
use lifeboat_core::manifest::{CheckLevel, Condition, Manifest, Method, Purpose};
use lifeboat_core::pipeline::Compression;
use lifeboat_core::policy::Hold;
use lifeboat_core::repository::Repository;
use lifeboat_core::{Error, Kind, Result};
use serde_json::{Value, json};

pub(crate) use self::said::{checked, restore_command};
use self::said::{options_of_run, word_of};
use super::words::{CheckWord, MethodWord};
use crate::clusters;
use crate::postgres;
use crate::rebuild;
use crate::repositories::{self, Place};
use crate::rotation::{self, Days, Rule};
use crate::runs::{self, RunArgs, RunHooks};
use crate::session::{Session, TOOL};
use crate::signals;
use crate::sources::{self, Target};
use crate::ui::printer::Style;
use crate::ui::{report, units};

/// Make a backup of each source
///
/// A source is a name in the configuration, or the path of a database. Without any, all sources
/// of the configuration are backed up. The application may go on writing.
///
/// A backup has succeeded when it is in the repository and was read back from it; the exit code
/// is then 0. If some sources fail and others succeed, it is 3.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names of sources, or paths of databases
    #[arg(value_name = "SOURCE|PATH")]
    sources: Vec<String>,
    /// Back up the whole PostgreSQL cluster at an address, as files, instead of a database
    #[arg(long)]
    physical: bool,
    /// How the moment is obtained [default: online]
    #[arg(long, value_name = "METHOD")]
    method: Option<MethodWord>,
    /// How artifacts are compressed: zstd[:1-19], gzip[:1-12] or none [default: zstd:3]
    #[arg(long, value_name = "HOW", value_parser = parse_compression)]
    compress: Option<Compression>,
    /// How thoroughly the database is checked [default: quick]
    #[arg(long, value_name = "LEVEL")]
    check: Option<CheckWord>,
    /// Store only what changed since the last run, in the log of the newest backup: the database is
    /// read and compared page by page. Where that cannot be, a backup is made, and why is said. For
    /// SQLite databases, without their companion files, and for whole PostgreSQL clusters, where it
    /// is a backup that builds on the one before; other sources are backed up as always
    #[arg(long, conflicts_with_all = ["compress", "pin", "retention_days"])]
    incremental: bool,
    /// Never let retention delete this backup, and say why
    #[arg(long, value_name = "REASON")]
    pin: Option<String>,
    /// Then prune it: remove what `keep` does not ask for, as `lifeboat prune` does, unless that
    /// needs an approval
    #[arg(long)]
    prune: bool,
    /// Keep this backup for so many days, whatever later runs ask for; and prune, keeping what is
    /// younger than that beside what `keep` asks for
    #[arg(long, value_name = "N")]
    retention_days: Option<Days>,
    #[command(flatten)]
    run: RunArgs,
    /// Print what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

fn parse_compression(text: &str) -> Result<Compression, String> {
    text.parse().map_err(|error: Error| match error.hint_text() {
        Some(hint) => format!("{error}: {hint}"),
        None => error.to_string(),
    })
}

impl Args {
    /// Whether nothing is done, of which somebody could be told.
    pub(super) fn is_dry_run(&self) -> bool {
        self.dry_run
    }
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let config = &session.loaded()?.config;
    let targets = match args.physical {
        true => clusters::named(config, &args.sources)?,
        false => sources::named(config, &args.sources)?,
    };
    if targets.is_empty() {
        return Err(Error::new(Kind::Usage, "nothing to back up: no source is configured").hint(
            "name a database: lifeboat backup app.db; or write one down: lifeboat config init",
        ));
    }
    let mut env = session.env()?;
    if !args.dry_run {
        env.stop = signals::catch();
    }
    let places = repositories::places(session)?;
    let hooks = RunHooks::of(session, &env, "backup", args.run.no_hooks)?;
    let mut runs = Runs {
        session,
        env: &env,
        args: &args,
        results: Vec::new(),
        errors: Vec::new(),
        unfinished: Vec::new(),
        kept: BTreeSet::new(),
    };
    if args.dry_run {
        let (before, after) = hooks.lines();
        runs.say_hooks(&before)?;
        runs.all(&targets, &places)?;
        runs.say_hooks(&after)?;
        return runs.end();
    }
    hooks.around(|| {
        let databases: Vec<_> =
            targets.iter().filter_map(|target| target.database.as_ref()).collect();
        postgres::hold_together(&env, &databases);
        runs.all(&targets, &places)?;
        runs.end()
    })
}

/// What was chosen for one run, instead of what is configured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choices {
    /// How the moment is obtained.
    pub(crate) method: Option<Method>,
    /// How thoroughly the database is checked.
    pub(crate) check: Option<CheckLevel>,
    /// How artifacts are compressed.
    pub(crate) compression: Option<Compression>,
    /// Why the backup must stay, and until when.
    pub(crate) pin: Option<Hold>,
    /// What it is made for.
    pub(crate) purpose: Option<Purpose>,
}

/// What a backup of that source in that repository is to be made with.
pub(crate) fn request<'t>(
    session: &'t Session,
    env: &Env,
    target: &'t Target,
    place: &Place,
    choices: Choices,
) -> Result<BackupRequest<'t>> {
    let mut options = target.options.clone();
    options.method = choices.method.unwrap_or(options.method);
    options.check = choices.check.unwrap_or(options.check);
    if options.method == Method::Cold && target.service.is_none() && target.path.is_none() {
        return Err(Error::new(Kind::Usage, "the method `cold` is for databases"));
    }
    let compression = choices.compression.or(target.compression).or(place.compression);
    Ok(BackupRequest {
        source: &*target.source,
        engine: target.engine()?,
        identity: target.identity(env)?,
        companions: target.companions.as_ref(),
        options,
        compression: compression.unwrap_or(Compression::DEFAULT),
        pattern: target.pattern.clone(),
        pin: choices.pin,
        purpose: choices.purpose,
        service: target.service.as_ref(),
        on_change: target.on_change,
        lock_folder: session.folders.locks.as_deref(),
        scratch_folder: &session.folders.scratch,
        tool: TOOL,
        warnings: &target.warnings,
    })
}

/// The repositories that take the backups of a source. `--repo` overrides what it is configured
/// with.
pub(crate) fn chosen(target: &Target, places: &[Place], session: &Session) -> Result<Vec<Place>> {
    let Some(names) = &target.repositories else { return Ok(places.to_vec()) };
    if session.globals.repo.is_some() {
        return Ok(places.to_vec());
    }
    let is_named = |place: &&Place| place.name.as_ref().is_some_and(|name| names.contains(name));
    Ok(places.iter().filter(is_named).cloned().collect())
}

/// The runs of one command: each is attempted, whatever happens to the others.
struct Runs<'a> {
    session: &'a Session,
    env: &'a Env,
    args: &'a Args,
    results: Vec<Value>,
    errors: Vec<Error>,
    /// Of good backups after which something failed: a prune, a hook.
    unfinished: Vec<Error>,
    /// The repositories that were given the configuration.
    kept: BTreeSet<String>,
}

impl Runs<'_> {
    fn all(&mut self, targets: &[Target], places: &[Place]) -> Result<()> {
        for target in targets {
            self.one(target, &chosen(target, places, self.session)?);
            if self.is_ended() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether a signal ended the last one: then no other is begun.
    fn is_ended(&self) -> bool {
        let last = self.errors.last().map(Error::kind);
        matches!(last, Some(Kind::Interrupted | Kind::Terminated))
    }

    fn say_hooks(&self, lines: &[String]) -> Result<()> {
        match self.session.printer.json() {
            true => Ok(()),
            false => lines
                .iter()
                .try_for_each(|line| self.session.printer.data(&format!("all sources: {line}\n"))),
        }
    }

    fn one(&mut self, target: &Target, places: &[Place]) {
        let results = match self.args.dry_run {
            true => places.iter().map(|place| self.plan(target, place)).collect(),
            false => {
                let (session, args) = (self.session, self.args);
                let urls: Vec<&str> = places.iter().map(|place| place.url.as_str()).collect();
                let (env, run) = (self.env, (target, &urls[..]));
                let mut make = |env: &Env, which: &[usize]| {
                    let places: Vec<&Place> = which.iter().map(|index| &places[*index]).collect();
                    self.make(env, target, &places)
                };
                let ended = runs::backup(session, env, &args.run, run, &mut make);
                self.unfinished.extend(ended.after_failed);
                ended.results
            }
        };
        let is_partial = results.iter().any(Result::is_ok);
        for (place, result) in places.iter().zip(results) {
            match result {
                Ok(result) => self.results.push(result),
                Err(error) => self.failed(target, place, error, is_partial),
            }
        }
    }

    fn failed(&mut self, target: &Target, place: &Place, error: Error, is_partial: bool) {
        self.session.progress.clear();
        // No manifest says them.
        for warning in target.warnings.iter().filter(|_| !is_partial) {
            self.session.printer.warning(&units::one_line(&target.name), warning);
        }
        let name = &target.name;
        let error = match is_partial {
            true => error.context(format!("the backup of `{name}` in `{}` failed", place.label())),
            false if error.message().contains(name.as_str()) => error,
            false => error.context(format!("the backup of `{name}` failed")),
        };
        self.results.push(json!({
            "source": target.name,
            "repository": place.url,
            "outcome": "failed",
            "error": report::as_json(&error),
        }));
        self.errors.push(error);
    }

    fn request<'t>(&'t self, target: &'t Target, place: &Place) -> Result<BackupRequest<'t>> {
        let choices = Choices {
            method: self.args.method.map(Method::from),
            check: self.args.check.map(CheckLevel::from),
            compression: self.args.compress,
            pin: self.pin(),
            purpose: None,
        };
        request(self.session, self.env, target, place, choices)
    }

    /// A reason holds the backup for ever, a number of days so long.
    fn pin(&self) -> Option<Hold> {
        let forever = self.args.pin.clone().map(|reason| Hold { reason, until: None });
        forever.or_else(|| Some(self.args.retention_days?.hold(self.env.clock.now())))
    }

    /// Whether this source is added to a log, if it can be.
    fn is_incremental(&self, target: &Target) -> Result<bool> {
        let asked = self.args.incremental && target.source.kind() == lifeboat_sqlite::KIND;
        let method = self.args.method.map_or(target.options.method, Method::from);
        match asked && method == Method::Cold {
            true => {
                Err(Error::new(Kind::Usage, "--incremental does not go with the method `cold`")
                    .hint("leave --incremental away, or say --method online"))
            }
            false => Ok(asked),
        }
    }

    fn prunes(&self, target: &Target) -> bool {
        self.args.prune || self.args.retention_days.is_some() || target.prune_after_backup
    }

    fn plan(&self, target: &Target, place: &Place) -> Result<Value> {
        let mut plan = backup::plan(&place.url, &self.request(target, place)?)?;
        if self.is_incremental(target)? {
            let request = self.request(target, place)?;
            let increment = incremental::plan(self.env, place, &request)?;
            match increment.base {
                Ok(_) => plan.steps = increment.steps,
                Err(_) => plan.steps.splice(0..0, increment.steps).for_each(drop),
            }
        }
        if let Some(cluster) = target.cluster.as_ref().filter(|_| self.args.incremental) {
            plan.steps
                .insert(0, chain::plan(self.env, place, cluster, &self.request(target, place)?)?);
        }
        if let Some(recipients) = place.sealing.recipients()? {
            plan.steps.push(format!("seal all of it to {}", recipients.names().join(", ")));
        }
        if self.prunes(target) {
            plan.steps.push("prune: remove what `keep` does not ask for".into());
        }
        if !self.args.run.no_hooks {
            target.manner.hooks.surround(&mut plan.steps);
        }
        for warning in &target.warnings {
            self.session.printer.warning(&units::one_line(&target.name), warning);
        }
        if !self.session.printer.json() {
            let mut text = format!("{}:\n", target.name);
            for (index, step) in plan.steps.iter().enumerate() {
                text.push_str(&format!("  {}. {step}\n", index + 1));
            }
            self.session.printer.data(&text)?;
        }
        Ok(json!({
            "source": target.name,
            "repository": place.url,
            "outcome": "planned",
            "plain_bytes": plan.inspection.plain_bytes,
            "steps": plan.steps,
        }))
    }

    /// One attempt in those repositories: the source is read once.
    fn make(&mut self, env: &Env, target: &Target, places: &[&Place]) -> Vec<Result<Value>> {
        let all: Vec<usize> = (0..places.len()).collect();
        // Before a repository is created: nothing is made for a source that does not exist.
        let prepared = target.source.inspect().and_then(|_| self.is_incremental(target));
        let is_incremental = match prepared {
            Ok(is_incremental) => is_incremental,
            Err(error) => return runs::shared(&error, &all),
        };
        let (mut ended, mut ready) = (Vec::new(), Vec::new());
        for (index, place) in places.iter().enumerate() {
            let opened = self.open(env, target, place, is_incremental);
            ended.push(match opened {
                Ok(Ok((request, repository))) => {
                    ready.push((index, request.compression, repository));
                    None
                }
                Ok(Err(added)) => Some(Ok(added)),
                Err(error) => Some(Err(error)),
            });
        }
        let first = ready.first().map(|(index, ..)| self.request(target, places[*index]));
        let outcomes = match first {
            Some(Ok(request)) => {
                let destinations: Vec<Destination<'_>> = ready
                    .iter()
                    .map(|(_, compression, repository)| Destination {
                        repository,
                        compression: *compression,
                    })
                    .collect();
                let repositories: Vec<&Repository> =
                    ready.iter().map(|(_, _, repository)| repository).collect();
                match self.build_on(env, target, &repositories, &request) {
                    Ok(()) => backup::run_all(env, &destinations, &request),
                    Err(error) => runs::shared(&error, &all[..ready.len()]),
                }
            }
            Some(Err(error)) => runs::shared(&error, &all[..ready.len()]),
            None => Vec::new(),
        };
        for ((index, _, repository), outcome) in ready.into_iter().zip(outcomes) {
            let made =
                outcome.and_then(|outcome| self.made(target, places[index], &repository, &outcome));
            ended[index] = Some(made);
        }
        ended.into_iter().flatten().collect()
    }

    /// A cluster is told on what its next backup builds.
    fn build_on(
        &self,
        env: &Env,
        target: &Target,
        repositories: &[&Repository],
        request: &BackupRequest<'_>,
    ) -> Result<()> {
        match (&target.cluster, self.args.incremental) {
            (None, _) => Ok(()),
            (Some(cluster), false) => cluster.build_on(None),
            (Some(cluster), true) => {
                chain::build_on(self.session, env, repositories, cluster, request)
            }
        }
    }

    /// The repository of a place, and what a backup there is made with; or what was added to its
    /// log.
    fn open<'t>(
        &'t self,
        env: &Env,
        target: &'t Target,
        place: &Place,
        is_incremental: bool,
    ) -> Result<Result<(BackupRequest<'t>, Repository), Value>> {
        let request = self.request(target, place)?;
        let repository = place.open_or_create(env)?;
        if is_incremental
            && let Some(added) = incremental::add(self.session, env, &repository, &request)?
        {
            return Ok(Err(added));
        }
        Ok(Ok((request, repository)))
    }

    /// Tells of a backup that was made, and prunes after it.
    fn made(
        &mut self,
        target: &Target,
        place: &Place,
        repository: &Repository,
        outcome: &BackupOutcome,
    ) -> Result<Value> {
        let (folder, manifest, word) = match outcome {
            BackupOutcome::Committed { folder, manifest } => (folder, manifest, "committed"),
            BackupOutcome::Unchanged { folder, manifest } => (folder, manifest, "unchanged"),
        };
        if word == "committed" {
            said::committed(self.session, repository, folder, manifest);
            self.lock(target, place, repository, (folder, manifest));
        } else {
            let (name, taken) = (&manifest.name, said::taken(self.session, manifest));
            let place = &repository.url();
            self.session.printer.note(&format!(
                "{}: unchanged since {name} ({taken}) in {place}, no new backup",
                target.name
            ));
        }
        self.keep_configuration(self.env, repository);
        if manifest.condition == Condition::Damaged && target.cluster.is_some() {
            return Err(chain::damaged(manifest));
        }
        let pruned = match word == "committed" && self.prunes(target) {
            true => self.prune(target, place, repository, folder),
            // Nothing goes without a newer backup.
            false => Value::Null,
        };
        Ok(json!({
            "source": target.name,
            "repository": repository.url(),
            "outcome": word,
            "prune": pruned,
            "folder": folder,
            "backup": manifest.name,
            "stored_bytes": manifest.stored_bytes(),
            "plain_bytes": manifest.plain_bytes(),
            "restore": restore_command(self.session, folder, manifest),
            "manifest": &**manifest,
        }))
    }

    /// Keeps the configuration beside the backups, for a bare host. The backups are as good
    /// without it.
    fn keep_configuration(&mut self, env: &Env, repository: &Repository) {
        let Ok(loaded) = self.session.loaded() else { return };
        if loaded.config.source.is_empty() || !self.kept.insert(repository.url()) {
            return;
        }
        let kept = rebuild::text(&loaded.config, &env.host)
            .and_then(|text| repository.keep_configuration(env, &env.host, &text));
        match kept {
            Ok(true) => {
                self.session.printer.detail("the configuration was kept beside the backups")
            }
            Ok(false) => {}
            Err(error) => {
                let message = format!("the configuration could not be kept there: {error}");
                self.session.printer.warning(&repository.url(), &message);
            }
        }
    }

    /// Where a bucket locks what it gets: for as long as the backup is to be kept.
    fn lock(
        &mut self,
        target: &Target,
        place: &Place,
        repository: &Repository,
        backup: (&str, &Manifest),
    ) {
        let Some(rule) = Rule::of(place, target, self.args.retention_days) else { return };
        let by = (&rule, target.schedule.as_deref());
        if let Err(error) =
            rotation::lock_as_planned(self.session, self.env, repository, backup, by)
        {
            self.session.progress.clear();
            self.unfinished.push(rotation::failed(&target.name, "its lock", error));
        }
    }

    /// Prunes after a good backup, which stays one whatever happens here.
    fn prune(
        &mut self,
        target: &Target,
        place: &Place,
        repository: &Repository,
        folder: &str,
    ) -> Value {
        let (session, days) = (self.session, self.args.retention_days);
        let rule = Rule::of(place, target, days);
        let mut command =
            format!("lifeboat prune {}", units::shell_word(&word_of(session, target)));
        if let Some(days) = days {
            command.push_str(&format!(" --retention-days {}", days.number()));
        }
        command.push_str(&options_of_run(session));
        let name = units::one_line(&target.name);
        match rotation::after_backup(session, self.env, repository, folder, rule.as_ref(), &command)
        {
            Ok(rotated) => {
                if let Some(note) = rotated.note {
                    let pruned = session.printer.paint_err(Style::Good, "pruned");
                    session.printer.note(&format!("{pruned} {name}: {note}"));
                }
                if let Some(warning) = rotated.warning {
                    session.printer.warning(&name, &warning);
                }
                rotated.json
            }
            Err(error) => {
                session.progress.clear();
                let error = rotation::failed(&target.name, "the prune after it", error);
                let json = json!({ "outcome": "failed", "error": report::as_json(&error) });
                self.unfinished.push(error);
                json
            }
        }
    }

    /// Prints the results, and makes one exit code of all.
    fn end(mut self) -> Result<ExitCode> {
        if self.session.printer.json() {
            self.session.printer.json_data(&self.results)?;
        }
        let (failed, all) = (self.errors.len(), self.results.len());
        if failed == 0 && self.unfinished.len() <= 1 {
            return self.unfinished.pop().map_or(Ok(ExitCode::SUCCESS), Err);
        }
        for error in &self.unfinished {
            report::report(&self.session.printer, error);
        }
        if failed == 0 {
            let message =
                format!("{all} backups are good, {} prunes or hooks failed", self.unfinished.len());
            return Err(
                Error::new(Kind::Incomplete, message).hint("the errors above say what mends each")
            );
        }
        if all == 1 {
            return Err(self.errors.remove(0));
        }
        for error in &self.errors {
            report::report(&self.session.printer, error);
        }
        let kind = match self.is_ended() {
            true => return Err(self.errors.remove(failed - 1)),
            false => self.errors[0].kind(),
        };
        let kind = match self.errors.iter().all(|error| error.kind() == kind) {
            // A drive that is not there is no surprise: its own exit code tells it apart.
            true if kind == Kind::StoreAbsent => kind,
            _ if failed < all => Kind::Incomplete,
            true => kind,
            false => Kind::Failed,
        };
        Err(Error::new(
            kind,
            format!("{failed} of {all} backups failed, {} are good", all - failed),
        )
        .hint("the errors above say what mends each"))
    }
}

/// The level of a check, for whoever asks for one on the command line.
pub(crate) fn level_or(word: Option<CheckWord>, default: CheckLevel) -> CheckLevel {
    word.map_or(default, CheckLevel::from)
}
