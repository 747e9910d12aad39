//! `lifeboat adopt URL`: a host that knows nothing goes on where the one that wrote a repository
//! stopped.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lifeboat_core::env::Env;
use lifeboat_core::restore::Mapping;
use lifeboat_core::{Error, Kind, Result};
use serde_json::json;

use super::Args;
use crate::cache::CacheFolder;
use crate::private;
use crate::rebuild::{self, Rebuilt};
use crate::repositories;
use crate::selection;
use crate::session::Session;
use crate::ui::printer::Style;
use crate::ui::table::{Align, Table};
use crate::ui::units;

/// Whether an argument names a repository, and not a folder of scripts' backups.
pub(super) fn is_meant(session: &Session, argument: &Path) -> Result<bool> {
    let text = argument.to_string_lossy();
    let is_name = || session.loaded().map(|loaded| loaded.config.repository.contains_key(&*text));
    Ok(text.contains("://")
        || argument.join("lifeboat.json").is_file()
        || (!argument.exists() && is_name()?))
}

/// What is to be done.
struct Plan {
    url: String,
    host: String,
    /// Where the configuration goes, and what it is.
    file: PathBuf,
    text: String,
    kept: Option<String>,
    sources: Vec<Row>,
    schedules: usize,
    anew: Vec<String>,
    next: Vec<String>,
}

struct Row {
    name: String,
    kind: String,
    backups: usize,
    newest: String,
}

pub(super) fn run(session: &Session, args: &Args, argument: &Path) -> Result<ExitCode> {
    let env = session.env()?;
    let file = match &args.to {
        Some(file) => std::path::absolute(file).map_err(|error| {
            Error::io(Kind::Usage, format!("cannot use {}", file.display()), error)
        })?,
        None => default_file(session)?,
    };
    private::must_be_free(&file).map_err(|error| {
        error.hint("it is left as it is; write the configuration elsewhere: --to FILE")
    })?;
    let plan = plan(session, &env, args, &argument.to_string_lossy(), file)?;
    if !args.dry_run {
        private::write_new(&plan.file, &plan.text)?;
    }
    say(session, &plan, args.dry_run)?;
    Ok(ExitCode::SUCCESS)
}

fn default_file(session: &Session) -> Result<PathBuf> {
    if let Some(named) = &session.globals.config {
        return Ok(named.clone());
    }
    let root = session.surroundings.is_root.then(|| PathBuf::from("/etc/lifeboat"));
    let of_user = session.surroundings.config_folder();
    // As the configuration is found: a folder that XDG_CONFIG_HOME names comes before root's.
    let named = session.surroundings.path("XDG_CONFIG_HOME").and(of_user.clone());
    let folder = named.or(root).or(of_user).ok_or_else(|| {
        Error::new(Kind::Usage, "no place for a configuration: HOME is not set")
            .hint("name one with --to FILE")
    })?;
    Ok(folder.join("config.toml"))
}

fn plan(session: &Session, env: &Env, args: &Args, argument: &str, file: PathBuf) -> Result<Plan> {
    let mapping = args.mapping.read()?;
    let place = repositories::place_of(session, argument)?;
    let cache = session.folders.caches.as_deref().filter(|_| !args.dry_run);
    let cache = cache.map(|folder| CacheFolder::place(folder, env));
    let repository = place.open(env)?.only_looked_at(env, cache);
    let catalog = repository.catalog()?;
    let Rebuilt { mut config, kept } =
        rebuild::of(&repository, &catalog, args.host.as_deref(), &env.host)?;
    let anew = rebuild::apply(&mapping, &mut config, &catalog);
    rebuild::add_repository(&mut config, &place.config);
    let host = config.host.clone().unwrap_or_else(|| env.host.clone());
    let of_host = catalog.sources.iter().filter(|entry| entry.record.host == host);
    let sources = of_host.map(|entry| Row {
        name: entry.folder.clone(),
        kind: entry.record.kind.clone(),
        backups: entry.backups.len(),
        newest: entry
            .newest_good()
            .map_or("none".into(), |newest| selection::moment(session, newest)),
    });
    Ok(Plan {
        url: place.url.clone(),
        text: rebuild::text(&config, &host)?,
        kept: kept.map(|kept| kept.object.to_string()),
        sources: sources.collect(),
        schedules: config.source.values().filter(|source| source.schedule.is_some()).count(),
        next: next(session, &mapping, args, &place.url, &file, &config),
        host,
        file,
        anew,
    })
}

/// The commands that come next.
fn next(
    session: &Session,
    mapping: &Mapping,
    args: &Args,
    url: &str,
    file: &Path,
    config: &crate::config::Config,
) -> Vec<String> {
    let found = default_file(session).is_ok_and(|default| default == file);
    let config_option = match found && session.globals.config.is_none() {
        true => String::new(),
        false => format!(" --config {}", units::shell_word(&file.to_string_lossy())),
    };
    let mut restore = format!("lifeboat restore --all --repo {}", units::shell_word(url));
    restore.push_str(&config_option);
    for identity in &session.globals.identity {
        restore
            .push_str(&format!(" --identity {}", units::shell_word(&identity.to_string_lossy())));
    }
    if !mapping.is_empty() {
        restore.push_str(&args.mapping.as_typed());
    }
    let mut next = vec![restore];
    if config.source.values().any(|source| source.schedule.is_some()) {
        next.push(format!("lifeboat install systemd{config_option}"));
    }
    next.push(format!("lifeboat doctor{config_option}"));
    next
}

fn say(session: &Session, plan: &Plan, dry_run: bool) -> Result<()> {
    let printer = &session.printer;
    if printer.json() {
        return printer.json_data(&json!({
            "outcome": if dry_run { "planned" } else { "adopted" },
            "repository": plan.url,
            "host": plan.host,
            "configuration": plan.file,
            "kept_as": plan.kept,
            "sources": plan.sources.iter().map(|row| json!({
                "source": row.name, "kind": row.kind, "backups": row.backups, "newest": row.newest,
            })).collect::<Vec<_>>(),
            "schedules": plan.schedules,
            "begin_anew": plan.anew,
            "next": plan.next,
        }));
    }
    let mut table = Table::new(&[
        ("SOURCE", Align::Left),
        ("KIND", Align::Left),
        ("BACKUPS", Align::Right),
        ("NEWEST GOOD", Align::Left),
    ]);
    for row in &plan.sources {
        let cells = [
            units::one_line(&row.name),
            row.kind.clone(),
            row.backups.to_string(),
            row.newest.clone(),
        ];
        table.row(cells.into_iter().map(|cell| (cell, None)).collect());
    }
    printer.data(&table.to_text(printer))?;
    let (url, file) = (units::one_line(&plan.url), plan.file.display());
    let of = match &plan.kept {
        Some(kept) => format!("as it was kept in {kept}"),
        None => "made of its sources, as it kept none".to_owned(),
    };
    let word = match dry_run {
        true => "would adopt".to_owned(),
        false => printer.paint_err(Style::Good, "adopted"),
    };
    printer.note(&format!(
        "{word} {url}\n  configuration of {} ({of})\n  in {file}, {} schedules",
        units::one_line(&plan.host),
        plan.schedules
    ));
    for name in &plan.anew {
        printer
            .warning(name, "its paths are other ones now: its backups begin anew beside the old");
    }
    let lines: Vec<String> = plan.next.iter().map(|line| format!("\n  {line}")).collect();
    printer.note(&format!("next:{}", lines.concat()));
    Ok(())
}
