//! What a form of the assistant asks for: checked, and as the arguments of `lifeboat restore`.

use std::path::Path;

use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::{Error, Kind, Result};

use super::{entries, rows};
use crate::postgres;
use crate::web::context::Ctx;
use crate::web::secret::hidden;

/// What is asked for, checked.
pub(super) struct Wanted {
    pub(super) source: String,
    /// Behind `lifeboat restore`.
    pub(super) arguments: Vec<String>,
    pub(super) title: String,
    /// It goes where it was.
    pub(super) is_in_place: bool,
    /// Something is there already.
    pub(super) replaces: bool,
    /// Rows go into the live database, and nothing else.
    pub(super) is_rows: bool,
}

/// The moment and the backup that are asked for: one of them, or none for the newest state.
pub(super) fn when(ctx: &Ctx) -> Result<(Option<&str>, Option<&str>)> {
    let (at, backup) = (ctx.given("at"), ctx.given("backup"));
    match ctx.given("when") {
        Some("newest") => Ok((None, None)),
        Some("at") if at.is_some() => Ok((at, None)),
        Some("at") => Err(Error::new(Kind::Usage, "no moment was named")
            .hint("go back and write the time, such as 2025-01-08 14:03:22, or -2h")),
        Some("backup") => Ok((None, backup)),
        Some(_) => Err(Error::new(Kind::Usage, "there is no such choice of a moment")),
        // Whoever names one without the choice means it.
        None => Ok((at, backup.filter(|_| at.is_none()))),
    }
}

/// That backup, where it is one of theirs.
pub(super) fn backup_of<'a>(entries: &[&SourceEntry], backup: &'a str) -> Result<&'a str> {
    let mut all = entries.iter().flat_map(|entry| &entry.backups);
    match all.any(|it| it.name == backup) {
        true => Ok(backup),
        false => Err(Error::new(Kind::NotCovered, "there is no such backup any more")),
    }
}

/// Whether it can go to a server.
pub(super) fn is_of_a_server(kind: &str) -> bool {
    [lifeboat_postgres::KIND, lifeboat_postgres::CLUSTER_KIND].contains(&kind)
}

/// A place of this host, or a database of a server, named without a password.
fn check_place(to: &str, is_of_a_server: bool) -> Result<()> {
    if is_of_a_server && postgres::is_address(to) {
        return postgres::typed(to).map(|_| ());
    }
    match Path::new(to).is_absolute() {
        true => Ok(()),
        false => Err(Error::new(Kind::Usage, "a place begins with `/`")
            .hint("name a path of the host, such as /var/tmp/app.db")),
    }
}

/// What the form asks for.
pub(super) fn wanted(ctx: &Ctx) -> Result<Wanted> {
    let source = ctx.given("source").unwrap_or_default().to_owned();
    let entries = entries(ctx, &source)?;
    if ctx.given("scope") == Some(rows::SCOPE) {
        return rows::wanted(ctx, source, &entries);
    }
    let mut arguments = Vec::new();
    let mut what = source.clone();
    match when(ctx)? {
        (Some(at), _) => arguments.push(format!("--at={at}")),
        (None, Some(backup)) => what = backup_of(&entries, backup)?.to_owned(),
        (None, None) => {}
    }
    match ctx.given("scope") {
        None => {}
        Some(scope @ ("also" | "only")) => arguments.push(format!("--files={scope}")),
        Some(_) => return Err(Error::new(Kind::Usage, "there is no such scope")),
    }
    let is_in_place = ctx.given("place") == Some("own");
    let (title, replaces) = match ctx.given("place") {
        Some("own") => (format!("{source}, in its own place"), true),
        _ => {
            let to = ctx.given("to").unwrap_or_default();
            let is_url = postgres::is_address(to);
            check_place(to, entries.iter().any(|entry| is_of_a_server(&entry.record.kind)))?;
            arguments.push(format!("--to={to}"));
            let replaces = !is_url && Path::new(to).symlink_metadata().is_ok();
            (format!("{source} to {to}"), replaces)
        }
    };
    arguments.extend(["--".to_owned(), what]);
    Ok(Wanted { source, arguments, title, is_in_place, replaces, is_rows: false })
}

/// For the audit log.
pub(in super::super) fn detail(ctx: &Ctx) -> String {
    let text = |name: &str| ctx.given(name).unwrap_or_default();
    let place = match text("place") {
        "own" => "its own place".to_owned(),
        _ => hidden(text("to")),
    };
    let when = match when(ctx) {
        Ok((Some(at), _)) => at,
        Ok((None, Some(backup))) => backup,
        Ok((None, None)) => "newest",
        Err(_) => "no moment",
    };
    if text("scope") == rows::SCOPE {
        return rows::detail(ctx, when);
    }
    format!("{} of {when} to {place} {}", text("source"), text("scope")).trim_end().to_owned()
}
