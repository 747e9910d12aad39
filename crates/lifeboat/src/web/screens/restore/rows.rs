//! Rows of a table that go back into the live database, which its application goes on using: what
//! is offered, and what a form asks for. It is `lifeboat restore SOURCE --rows-from X --table T`.

use std::collections::BTreeMap;

use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::manifest::{MANIFEST_BYTES_MAX, Manifest};
use lifeboat_core::store::get_bytes;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_sqlite::KIND;
use maud::{Markup, html};

use super::wanted::{Wanted, backup_of, when};
use crate::ui::units;
use crate::web::context::Ctx;
use crate::web::held;

/// What the choice of the scope is called.
pub(super) const SCOPE: &str = "rows";

/// Whether there is a live database of SQLite here for rows to go into.
pub(super) fn is_offered(ctx: &Ctx, source: &str) -> Result<bool> {
    let target = held::target(ctx, source)?;
    Ok(target.is_some_and(|target| target.source.kind() == KIND && target.path.is_some()))
}

/// The tables that the newest backup counted, as far as that can be read now: what was read of it
/// before is their sum.
fn tables(ctx: &Ctx, source: &str) -> Option<BTreeMap<String, u64>> {
    let held = held::find(ctx, source).ok()?;
    let (opened, entry) = held.stored?;
    let newest = entry.backups.iter().rev().find(|backup| backup.rows.is_some())?;
    let object = opened.repository.object(&entry.folder, &format!("{}.json", newest.name)).ok()?;
    let bytes = get_bytes(opened.repository.store(), &object, MANIFEST_BYTES_MAX).ok()?;
    Manifest::parse(&bytes, object.as_str()).ok()?.rows
}

/// What is asked of who wants rows.
pub(super) fn offer(ctx: &Ctx, source: &str) -> Markup {
    let tables = tables(ctx, source).unwrap_or_default();
    let given = |name: &str| ctx.given(name).unwrap_or_default();
    html! {
        p.note {
            "For rows that were deleted: they are put into the live database while its \
             application goes on. What is there stays; the place below does not count."
        }
        label for="table" { "Table" }
        input #table name="table" value=(given("table")) list="tables" autocomplete="off";
        datalist id="tables" {
            @for (table, rows) in tables {
                option value=(table) { (units::count(rows)) " rows" }
            }
        }
        label for="where" { "Which of its rows, as a condition in SQL; all without one" }
        input #where name="where" value=(given("where")) autocomplete="off"
            placeholder="id BETWEEN 100 AND 199";
        label {
            input type="checkbox" name="overwrite" value="1" checked[!given("overwrite").is_empty()];
            "Replace rows that have the same key and other values, too"
        }
    }
}

/// What the form asks for.
pub(super) fn wanted(ctx: &Ctx, source: String, entries: &[&SourceEntry]) -> Result<Wanted> {
    if !is_offered(ctx, &source)? {
        let message = format!("`{}` has no live database of SQLite here", units::one_line(&source));
        return Err(Error::new(Kind::Usage, message).hint("restore it to a new place instead"));
    }
    let table = ctx.given("table").ok_or_else(|| {
        Error::new(Kind::Usage, "no table was named").hint("go back and name one")
    })?;
    let from = match when(ctx)? {
        (Some(at), _) => format!("{source}@{at}"),
        (None, Some(backup)) => backup_of(entries, backup)?.to_owned(),
        (None, None) => format!("{source}@latest"),
    };
    let mut arguments = vec![format!("--rows-from={from}"), format!("--table={table}")];
    arguments.extend(ctx.given("where").map(|condition| format!("--where={condition}")));
    arguments.extend(ctx.given("overwrite").map(|_| "--overwrite".to_owned()));
    match ctx.given("triggers") {
        None => {}
        Some(word @ ("run" | "skip")) => arguments.push(format!("--triggers={word}")),
        Some(_) => return Err(Error::new(Kind::Usage, "triggers run, or they do not")),
    }
    arguments.extend(["--".to_owned(), source.clone()]);
    let title = format!("rows of {table} of {from}, back into {source}");
    let (is_rows, is_in_place, replaces) = (true, true, false);
    Ok(Wanted { source, arguments, title, is_in_place, replaces, is_rows })
}

/// What becomes of the table's triggers, where the plan says that this must be said.
pub(super) fn triggers(plan: &str) -> Option<Markup> {
    plan.contains("--triggers run, or --triggers skip").then(|| {
        html! {
            label for="triggers" { "The table has triggers, which the plan names. For these rows:" }
            select #triggers name="triggers" required {
                option value="" { "say what they do" }
                option value="run" { "they run, as for any new row: a search index is kept" }
                option value="skip" { "they do not run: what they made then is still there" }
            }
        }
    })
}

/// For the audit log.
pub(super) fn detail(ctx: &Ctx, when: &str) -> String {
    let given = |name: &str| ctx.given(name).unwrap_or_default();
    let condition = match given("where") {
        "" => String::new(),
        condition => format!(" where {condition}"),
    };
    let how = if given("overwrite").is_empty() { "" } else { ", replacing" };
    format!("rows of {}{condition} of {} of {when}{how}", given("table"), given("source"))
}
