//! `lifeboat copy`: what one repository has and another lacks.

use std::process::ExitCode;

use lifeboat_core::catalog::{Catalog, SourceEntry};
use lifeboat_core::copy::{self, CopyPlan, Fate, LogSelection, Options};
use lifeboat_core::env::Env;
use lifeboat_core::repository::Repository;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::wal::WalSelection;
use lifeboat_sqlite::pagelog::PageLogSelection;
use serde_json::{Value, json};

use crate::repositories::{self, Opened, Place};
use crate::rotation::Rule;
use crate::session::Session;
use crate::signals;
use crate::sources::{self, Target};
use crate::ui::printer::Style;
use crate::ui::{report, units};

/// Copy the backups that another repository lacks
///
/// What the other repository's `keep` would keep goes there byte for byte, is read back and
/// compared with the hashes of its manifest; then it is the same backup there, with its pin and
/// the log that follows it. A backup whose artifacts are missing or cut there gets them anew; with
/// --verify also one whose bytes are not those of its manifest. Nothing is ever removed by a copy,
/// and what was pruned there stays so. The source is not read.
///
/// Where the other repository seals to other recipients, a backup is sealed to them on the way.
/// One that is sealed already needs its key for that (--identity).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names of sources; without any, all that the first repository has, but for those whose
    /// `repository` does not name the other one
    #[arg(value_name = "SOURCE")]
    sources: Vec<String>,
    /// The repository that lacks them: its name in the configuration, a URL or a path
    #[arg(long, value_name = "REPO")]
    to: String,
    /// The repository that has them; without it, each of the others that are configured
    #[arg(long, value_name = "REPO")]
    from: Option<String>,
    /// Also copy what the other repository's `keep` would not keep
    #[arg(long)]
    all: bool,
    /// Read what the other repository has, and put anew what is damaged there
    #[arg(long)]
    verify: bool,
    /// Print what would be copied, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl Args {
    /// Whether nothing is done, of which somebody could be told.
    pub(super) fn is_dry_run(&self) -> bool {
        self.dry_run
    }
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let mut env = session.env()?;
    if !args.dry_run {
        env.stop = signals::catch();
    }
    let to = repositories::place(session, &args.to)?;
    let from = origins(session, &args, &to)?;
    let mut run = Run { session, env: &env, args: &args, results: Vec::new(), failed: Vec::new() };
    let mut opened = 0;
    for place in &from {
        match opened_to_read(place, &env) {
            Ok((catalog, repository)) => {
                opened += 1;
                let place = place.clone();
                run.from(&Opened { place, repository, catalog }, &to)?;
            }
            // One of several that is not there now does not hold the others up.
            Err(error) if from.len() > 1 => {
                env.warn(place.label(), &format!("left out: {error}"));
                run.failed.push(error);
            }
            Err(error) => return Err(error),
        }
    }
    if opened == 0
        && let Some(error) = run.failed.pop()
    {
        return Err(error);
    }
    run.end()
}

/// A repository to copy from, with what it holds; to whom it seals says how its log is sealed.
fn opened_to_read(place: &Place, env: &Env) -> Result<(Catalog, Repository)> {
    let recipients = place.sealing.recipients()?;
    let repository = place.open(env)?.sealed_to(recipients);
    Ok((repository.catalog()?, repository))
}

/// Who knows the log of a source of that kind.
fn log_of(kind: &str) -> Option<&'static dyn LogSelection> {
    match kind {
        lifeboat_sqlite::KIND => Some(&PageLogSelection),
        lifeboat_postgres::CLUSTER_KIND => Some(&WalSelection),
        _ => None,
    }
}

/// The repositories from which is copied.
fn origins(session: &Session, args: &Args, to: &Place) -> Result<Vec<Place>> {
    let from = match &args.from {
        Some(from) => vec![repositories::place(session, from)?],
        None => repositories::places(session)?,
    };
    let others: Vec<Place> = from.into_iter().filter(|place| place.url != to.url).collect();
    match others.is_empty() {
        false => Ok(others),
        true => Err(Error::new(Kind::Usage, "there is no other repository to copy from")
            .hint("name one with --from")),
    }
}

struct Run<'a> {
    session: &'a Session,
    env: &'a Env,
    args: &'a Args,
    results: Vec<Value>,
    failed: Vec<Error>,
}

impl Run<'_> {
    fn from(&mut self, from: &Opened, to: &Place) -> Result<()> {
        for word in &self.args.sources {
            from.catalog.source(word)?;
        }
        let is_wanted = |entry: &&SourceEntry| {
            let named = |word: &String| *word == entry.folder || *word == entry.record.name;
            match self.args.sources.is_empty() {
                true => self.goes_there(entry, to),
                false => self.args.sources.iter().any(named),
            }
        };
        let wanted: Vec<&SourceEntry> = from.catalog.sources.iter().filter(is_wanted).collect();
        for entry in wanted {
            if let Err(error) = self.one(from, entry, to) {
                self.session.progress.clear();
                self.results.push(json!({
                    "source": entry.record.name, "from": from.place.url, "to": to.url,
                    "outcome": "failed", "error": report::as_json(&error),
                }));
                self.env.proceed()?;
                let name = &entry.record.name;
                self.failed.push(error.context(format!("the copy of `{name}` failed")));
            }
        }
        Ok(())
    }

    /// Whether a source may go to that repository. Of one that is not configured nobody says no.
    fn goes_there(&self, entry: &SourceEntry, to: &Place) -> bool {
        let target = self.target(entry);
        let names = target.and_then(|target| target.repositories);
        match (names, &to.name) {
            (Some(names), Some(name)) => self.args.all || names.contains(name),
            _ => true,
        }
    }

    fn target(&self, entry: &SourceEntry) -> Option<Target> {
        let name = std::slice::from_ref(&entry.record.name);
        let config = &self.session.loaded().ok()?.config;
        sources::named(config, name).ok().and_then(|mut targets| targets.pop())
    }

    fn one(&mut self, from: &Opened, entry: &SourceEntry, to: &Place) -> Result<()> {
        let repository = match self.args.dry_run {
            true => match to.open(self.env) {
                Err(error) if error.kind() == Kind::NoRepository => None,
                opened => Some(opened?),
            },
            false => Some(to.open_or_create(self.env)?),
        };
        let Some(repository) = repository else {
            let count = entry.backups.len();
            let name = units::one_line(&entry.record.name);
            let url = &to.url;
            let line = format!("{name}: {url} is empty, {count} backups would be looked at\n");
            return self.session.printer.data(&line);
        };
        let catalog = repository.catalog()?;
        let record = &entry.record;
        let own = catalog.sources.iter().find(|own| {
            own.record.id == record.id
                || (own.record.kind == record.kind
                    && own.record.host == record.host
                    && own.record.location == record.location)
        });
        let rule = self.rule(entry, to)?;
        let options = Options {
            keep: rule.as_ref().map(Rule::keep),
            verify: self.args.verify,
            log: log_of(&record.kind),
        };
        let first = (&from.repository, entry);
        let plan = copy::plan(self.env, first, (&repository, own), &options)?;
        self.say(&plan, entry, to)?;
        let mut outcome = json!({
            "source": record.name, "from": from.place.url, "to": to.url, "plan": plan,
            "outcome": if self.args.dry_run { "planned" } else { "copied" },
        });
        if !self.args.dry_run {
            let locks = self.session.folders.locks.as_deref();
            let copied = copy::apply(self.env, first, &repository, &plan, options.log, locks)?;
            outcome["log_objects"] = copied.log_objects.into();
            for (file, error) in copied.log_failed {
                self.session.progress.clear();
                let file = units::one_line(&file);
                self.failed.push(error.context(format!("the copy of {file} failed")));
            }
            outcome["sent"] = self.told(entry, copied.backups);
        }
        if let Some(reason) = &plan.log.reason {
            let message = format!("the log of `{}` cannot go to {}", record.name, to.label());
            self.failed.push(Error::new(Kind::Incomplete, message).caused_by(reason.clone()));
        }
        let impossible: Vec<&str> =
            plan.with(Fate::Impossible).map(|item| item.backup.as_str()).collect();
        if !impossible.is_empty() {
            let message = format!("{} cannot be copied to {}", impossible.join(", "), to.label());
            self.failed
                .push(Error::new(Kind::Incomplete, message).hint("`--dry-run` says why for each"));
        }
        self.results.push(outcome);
        Ok(())
    }

    /// What the other repository keeps of a source; nothing with `--all`, or where nobody says it.
    fn rule(&self, entry: &SourceEntry, to: &Place) -> Result<Option<Rule>> {
        if self.args.all {
            return Ok(None);
        }
        Ok(self.target(entry).and_then(|target| Rule::of(to, &target, None)))
    }

    fn say(&self, plan: &CopyPlan, entry: &SourceEntry, to: &Place) -> Result<()> {
        let name = units::one_line(&entry.record.name);
        let count = |fate| plan.with(fate).count();
        let log = match plan.log.parts.len() {
            0 => String::new(),
            count => format!(", {count} files of its log"),
        };
        let line = format!(
            "{name} to {}: {} to copy, {} to repair{log} ({}), {} there, {} not kept there\n",
            to.label(),
            count(Fate::Copy),
            count(Fate::Repair),
            units::bytes(plan.bytes()),
            count(Fate::There),
            count(Fate::NotKept) + count(Fate::Removed),
        );
        for item in plan.with(Fate::Impossible) {
            let why = item.reason.as_deref().unwrap_or("for a reason that is not known");
            let message = format!("{} cannot be copied: {why}", units::one_line(&item.backup));
            self.session.printer.warning(&name, &message);
        }
        match (self.session.printer.json(), self.args.dry_run) {
            (true, _) => Ok(()),
            (false, true) => self.session.printer.data(&line),
            (false, false) => {
                self.session.printer.note(line.trim_end());
                Ok(())
            }
        }
    }

    /// Tells how each backup ended.
    fn told(&mut self, entry: &SourceEntry, sent: Vec<(String, Result<()>)>) -> Value {
        let name = units::one_line(&entry.record.name);
        let mut told = Vec::new();
        for (backup, sent) in sent {
            let shown = units::one_line(&backup);
            match sent {
                Ok(()) => {
                    let good = self.session.printer.paint_err(Style::Good, "copied");
                    self.session.printer.note(&format!("{good} {name}: {shown}"));
                    told.push(json!({ "backup": backup, "outcome": "copied" }));
                }
                Err(error) => {
                    self.session.progress.clear();
                    let as_json = report::as_json(&error);
                    told.push(json!({ "backup": backup, "outcome": "failed", "error": as_json }));
                    self.failed.push(error.context(format!("the copy of {shown} failed")));
                }
            }
        }
        Value::Array(told)
    }

    fn end(mut self) -> Result<ExitCode> {
        if self.session.printer.json() {
            self.session.printer.json_data(&self.results)?;
        }
        if self.failed.len() == 1 && self.results.len() <= 1 {
            return Err(self.failed.remove(0));
        }
        self.failed.iter().for_each(|error| report::report(&self.session.printer, error));
        match self.failed.len() {
            0 => Ok(ExitCode::SUCCESS),
            count => {
                let message = format!("{count} of what was to be copied is not there");
                Err(Error::new(Kind::Incomplete, message)
                    .hint("the errors above say what mends each; the next copy goes on from here"))
            }
        }
    }
}
