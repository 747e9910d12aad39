//! `lifeboat salvage` of PostgreSQL: a database of a running server, or a data directory.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::control::{self, DataDirectory};
use lifeboat_postgres::recovery::log_state::system_of;
use lifeboat_postgres::recovery::recover::running_server;
use lifeboat_postgres::salvage::{
    BadBlocks, FolderSalvage, SalvageReport, TableReport, from_folder, salvage, scan,
};
use serde_json::{Value, json};

use super::{Args, LINES_MAX, shown};
use crate::cluster_backups::users;
use crate::commands::drill::scratch::{Scratch, remove_leftovers};
use crate::postgres::{self, Database};
use crate::repositories;
use crate::selection;
use crate::session::Session;
use crate::sources;
use crate::ui::printer::Style;
use crate::ui::units;

/// What of PostgreSQL is meant.
enum Subject {
    /// A database of a running server.
    Server(Box<Database>),
    /// A data directory.
    Folder(DataDirectory),
}

/// Runs where PostgreSQL is meant; `None` where it is not.
pub(super) fn run(session: &Session, env: &Env, args: &Args) -> Result<Option<ExitCode>> {
    let Some(subject) = subject(session, &args.database)? else { return Ok(None) };
    if args.donor.is_some() || args.deleted {
        return Err(Error::new(Kind::Usage, "--donor and --deleted are for SQLite").hint(
            "lifeboat diff compares with a backup, restore --rows-from takes rows from one",
        ));
    }
    let found = match &subject {
        Subject::Server(_) if args.dry_run => {
            return Err(Error::new(Kind::Usage, "--dry-run of a running server reads all of it")
                .hint("leave --dry-run away: nothing is written but --to"));
        }
        Subject::Server(database) => {
            let scratch = scratch(env, &args.to)?;
            let report = salvage(env, &database.client()?, &args.to, scratch.path())?;
            FolderSalvage { databases: vec![report], ..FolderSalvage::default() }
        }
        Subject::Folder(data) if args.dry_run => {
            if let Some(process) = running_server(&data.path) {
                let place = shown(&data.path);
                let message = format!("a server (process {process}) has {place} open");
                return Err(Error::new(Kind::Refused, message)
                    .hint("stop it first: pages are not whole while they are written"));
            }
            let blocks = scan(env, &data.path)?;
            return looked(session, env, args, &subject, &blocks).map(Some);
        }
        Subject::Folder(data) => {
            let scratch = scratch(env, &args.to)?;
            let places = (args.to.as_path(), scratch.path());
            from_folder(env, &postgres::options(), &data.path, places, &users(None))?
        }
    };
    session.progress.clear();
    let advice = advice(session, env, &subject);
    match session.printer.json() {
        true => session.printer.json_data(&as_json(args, &found, &advice))?,
        false => session.printer.data(&text(session, args, &found, &advice))?,
    }
    match found.is_whole() {
        true => Ok(Some(ExitCode::SUCCESS)),
        false => Err(incomplete(args, &found)),
    }
}

/// A scratch folder beside the place; what killed runs left there goes.
fn scratch(env: &Env, to: &Path) -> Result<Scratch> {
    let place = sources::place_of(to)?;
    let parent = place.parent().unwrap_or(Path::new("/"));
    remove_leftovers(parent);
    Scratch::new(env, parent)
}

fn subject(session: &Session, what: &Path) -> Result<Option<Subject>> {
    let text = what.to_string_lossy();
    if postgres::is_address(&text) {
        let typed = postgres::typed(&text)?;
        let configured = selection::target_of(session, &text)?;
        let database = match configured.and_then(|target| target.database) {
            Some(database) => database.as_typed(&typed),
            None => Database::at(typed),
        };
        return Ok(Some(Subject::Server(Box::new(database))));
    }
    if what.join(control::PATH).is_file() {
        return DataDirectory::at(what).map(|data| Some(Subject::Folder(data)));
    }
    if what.exists() {
        return Ok(None);
    }
    let target = selection::target_of(session, &text)?;
    Ok(target.and_then(|target| target.database).map(|it| Subject::Server(Box::new(it))))
}

/// What `--dry-run` found in a data directory.
fn looked(
    session: &Session,
    env: &Env,
    args: &Args,
    subject: &Subject,
    blocks: &BadBlocks,
) -> Result<ExitCode> {
    session.progress.clear();
    let advice = advice(session, env, subject);
    let lines = blocks.lines(None);
    if session.printer.json() {
        session.printer.json_data(&json!({
            "outcome": "planned",
            "database": args.database,
            "checksums": blocks.checksums,
            "pages": blocks.pages,
            "damaged": blocks.damaged,
            "blocks": blocks.named.iter()
                .map(|(file, block)| json!({ "file": file, "block": block }))
                .collect::<Vec<_>>(),
            "problems": blocks.problems,
            "restore": advice,
        }))?;
    } else {
        let pages = units::count(blocks.pages);
        let mut text = format!("{}: {pages} pages looked at", shown(&args.database));
        text.push_str(match blocks.checksums {
            true => "\n",
            false => ", by their headers alone: the cluster has no data checksums\n",
        });
        for line in &lines {
            let mark = session.printer.paint_out(Style::Doubtful, "!");
            let _ = writeln!(text, "  {mark} {}", units::one_line(line));
        }
        advice.iter().for_each(|line| {
            let _ = writeln!(text, "  {line}");
        });
        session.printer.data(&text)?;
    }
    match blocks.is_sound() {
        true => Ok(ExitCode::SUCCESS),
        false => {
            let message = format!("{} blocks are damaged", units::count(blocks.damaged));
            Err(Error::new(Kind::Incomplete, message)
                .hint("the same command without --dry-run reads what can be read of a copy"))
        }
    }
}

/// What can be restored instead: the newest backups, best first.
fn advice(session: &Session, env: &Env, subject: &Subject) -> Vec<String> {
    let Ok((opened, _)) = repositories::open_all(session, env) else { return Vec::new() };
    let zone = &session.surroundings.time_zone;
    let mut found = Vec::new();
    for entry in opened.iter().flat_map(|one| &one.catalog.sources) {
        // One that was made since the damage has it, too.
        let Some(newest) = entry.newest_good() else { continue };
        let location = &entry.record.location;
        let is_dump = entry.record.kind == postgres::KIND;
        let is_cluster = entry.record.kind == lifeboat_postgres::CLUSTER_KIND;
        let is_it = match subject {
            Subject::Server(database) => {
                is_dump && *location == database.address().label()
                    || is_cluster && *location == database.server()
            }
            Subject::Folder(data) => {
                is_cluster && system_of(newest).is_ok_and(|system| system == data.system)
            }
        };
        if is_it {
            let name = units::shell_word(&newest.name);
            let command = match is_cluster {
                // From there to the last commit; without a moment a backup is restored as it is.
                true => format!("lifeboat restore {name} --at latest --to DIR"),
                false => format!("lifeboat restore {name}"),
            };
            let newer = entry.backups.iter().rev().take_while(|it| it.id != newest.id).count();
            let newer = match newer {
                0 => String::new(),
                count => format!("; {count} newer ones have damage themselves"),
            };
            let age = units::age(newest.taken_at, env.clock.now());
            let moment = units::moment(newest.taken_at, zone);
            let log = if is_cluster { ", and the log behind it" } else { "" };
            let line =
                format!("restore instead: {command} (backup of {moment}, {age}{log}{newer})");
            // A cluster goes to its last commit: it is the better way.
            found.push((!is_cluster, line));
        }
    }
    found.sort();
    found.dedup();
    found.into_iter().map(|(_, line)| line).collect()
}

fn incomplete(args: &Args, found: &FolderSalvage) -> Error {
    let tables = found.databases.iter().flat_map(|database| &database.tables);
    let tables: Vec<&TableReport> = tables.filter(|table| !table.is_whole()).collect();
    let blocks: usize = tables.iter().map(|table| table.lost_blocks.len()).sum();
    let rows: usize = tables.iter().map(|table| table.lost_rows.len()).sum();
    let uncertain: u64 = tables.iter().map(|table| table.uncertain).sum();
    let parts = [
        (tables.len() as u64, "tables are not whole"),
        (blocks as u64, "of their blocks are lost"),
        (rows as u64, "rows could not be read"),
        (uncertain, "rows are uncertain"),
        (found.damaged, "damaged blocks in all"),
    ];
    let parts = parts.into_iter().filter(|(count, _)| *count > 0);
    let parts: Vec<String> =
        parts.map(|(count, words)| format!("{} {words}", units::count(count))).collect();
    let what = match parts.is_empty() {
        true if found.without_log => "the log is lost, and what it held".to_owned(),
        true => "something is damaged beside the rows".to_owned(),
        false => parts.join(", "),
    };
    let place = units::shell_word(&args.to.to_string_lossy());
    Error::new(Kind::Incomplete, what)
        .hint(format!("what could be read is in {place}; load.sql loads it into a new database"))
}

fn text(session: &Session, args: &Args, found: &FolderSalvage, advice: &[String]) -> String {
    let mark = session.printer.paint_out(Style::Doubtful, "!");
    let mut text =
        format!("{}: what could be read of {}\n", shown(&args.to), shown(&args.database));
    let mut line = |words: &str| {
        let _ = writeln!(text, "  {words}");
    };
    if found.pages > 0 {
        let (pages, damaged) = (units::count(found.pages), units::count(found.damaged));
        line(&format!("{pages} pages looked at, {damaged} damaged"));
    }
    for block in found.blocks.iter().take(LINES_MAX) {
        line(&format!("{mark} {}", units::one_line(block)));
    }
    found.notes.iter().for_each(|note| line(&units::one_line(note)));
    for database in &found.databases {
        database_text(session, database, &mut line);
    }
    advice.iter().for_each(|words| line(words));
    text
}

fn database_text(session: &Session, database: &SalvageReport, line: &mut dyn FnMut(&str)) {
    let mark = session.printer.paint_out(Style::Doubtful, "!");
    let name = session.printer.paint_out(Style::Strong, &units::one_line(&database.database));
    let (whole, harmed): (Vec<&TableReport>, Vec<_>) =
        database.tables.iter().partition(|table| table.is_whole());
    let rows: u64 = whole.iter().map(|table| table.rows).sum();
    let (tables, rows) = (units::count(whole.len() as u64), units::count(rows));
    line(&format!("{name}: {tables} tables are whole, with {rows} rows"));
    for table in harmed {
        line(&format!("  {mark} {}: {}", units::one_line(&table.name), table_text(table)));
        if let Some(why) = &table.why {
            line(&format!("    {}", units::one_line(why)));
        }
        for row in table.lost_rows.iter().take(LINES_MAX) {
            let key = row.key.as_deref().map(|key| format!(", key {key}")).unwrap_or_default();
            line(&format!("    lost: row {}{}", row.place, units::one_line(&key)));
        }
    }
    for found in database.heap.iter().take(LINES_MAX) {
        line(&format!("  {mark} {}", units::one_line(found)));
    }
    for index in database.indexes.iter().take(LINES_MAX) {
        line(&format!("  {mark} index {}: REINDEX makes it anew", units::one_line(index)));
    }
    for problem in &database.problems {
        line(&format!("  {mark} {}", units::one_line(problem)));
    }
    database.notes.iter().for_each(|note| line(&format!("  {}", units::one_line(note))));
}

fn table_text(table: &TableReport) -> String {
    let blocks: Vec<String> = table.lost_blocks.iter().take(8).map(u32::to_string).collect();
    let more = if table.lost_blocks.len() > 8 { ", ..." } else { "" };
    let parts = [
        (table.rows, "rows read".to_owned()),
        (table.uncertain, "uncertain".to_owned()),
        (table.lost_rows.len() as u64, "rows not readable".to_owned()),
        (table.lost_blocks.len() as u64, format!("blocks lost ({}{more})", blocks.join(", "))),
    ];
    let parts = parts.into_iter().filter(|(count, words)| *count > 0 || words == "rows read");
    let parts: Vec<String> =
        parts.map(|(count, words)| format!("{} {words}", units::count(count))).collect();
    parts.join(", ")
}

fn as_json(args: &Args, found: &FolderSalvage, advice: &[String]) -> Value {
    json!({
        "outcome": "salvaged",
        "database": args.database,
        "to": args.to,
        "pages": found.pages,
        "damaged": found.damaged,
        "blocks": found.blocks,
        "without_log": found.without_log,
        "notes": found.notes,
        "databases": found.databases.iter().map(database_json).collect::<Vec<_>>(),
        "restore": advice,
    })
}

fn database_json(database: &SalvageReport) -> Value {
    let table = |table: &TableReport| {
        json!({
            "table": table.name,
            "rows": table.rows,
            "uncertain": table.uncertain,
            "lost_blocks": table.lost_blocks,
            "lost_rows": table.lost_rows.iter()
                .map(|row| json!({ "place": row.place, "key": row.key }))
                .collect::<Vec<_>>(),
            "why": table.why,
            "file": table.file,
            "uncertain_file": table.uncertain_file,
        })
    };
    json!({
        "database": database.database,
        "tables": database.tables.iter().map(table).collect::<Vec<_>>(),
        "heap": database.heap,
        "indexes": database.indexes,
        "problems": database.problems,
        "notes": database.notes,
    })
}
