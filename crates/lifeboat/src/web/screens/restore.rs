//! The restore assistant: what, from when, where to; the plan; then the agent does it, whether or
//! not anybody looks.
//!
//! It is `lifeboat restore`, with the same plan and the same checks. A new place is offered first;
//! what replaces something needs the source's name, typed.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::{Error, Kind, Result};
use maud::{Markup, html};

use super::Done;
use crate::control::Question;
use crate::private;
use crate::ui::units;
use crate::web::context::Ctx;
use crate::web::layout;

/// So many backups are offered; others are named by their moment.
const OFFERED_MAX: usize = 50;
/// A plan is shorter.
const PLAN_BYTES_MAX: u64 = 1 << 20;

/// The screen.
pub(super) fn draw(ctx: &Ctx) -> Result<Markup> {
    match ctx.given("source") {
        None => Ok(sources(ctx)),
        Some(source) => choose(ctx, source),
    }
}

fn sources(ctx: &Ctx) -> Markup {
    let mut names: Vec<&str> = ctx.look.rows.iter().map(|row| row.source.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    html! {
        p { "Which source?" }
        form method="get" action="/restore" {
            label for="source" { "Source" }
            select #source name="source" { @for name in names { option { (name) } } }
            button { "Choose" }
        }
    }
}

/// The source in each repository that has it.
fn entries<'a>(ctx: &'a Ctx, source: &str) -> Result<Vec<&'a SourceEntry>> {
    let is_known = ctx.look.rows.iter().any(|row| row.source == source);
    if !is_known {
        let message = format!("there is no source `{}`", units::one_line(source));
        return Err(Error::new(Kind::NotCovered, message));
    }
    let all = ctx.look.opened.iter().flat_map(|opened| &opened.catalog.sources);
    let is_it = |entry: &&SourceEntry| entry.folder == source || entry.record.name == source;
    Ok(all.filter(is_it).collect())
}

fn choose(ctx: &Ctx, source: &str) -> Result<Markup> {
    let entries = entries(ctx, source)?;
    let mut backups: Vec<_> = entries.iter().flat_map(|entry| &entry.backups).collect();
    backups.sort_by_key(|backup| std::cmp::Reverse(backup.taken_at));
    backups.dedup_by_key(|backup| &backup.name);
    if backups.is_empty() {
        let message = format!("`{}` has no backup", units::one_line(source));
        let hint = format!("lifeboat backup {}", units::shell_word(source));
        return Err(Error::new(Kind::NotCovered, message).hint(hint));
    }
    let is_files = entries.iter().all(|entry| entry.record.kind == "files");
    let has = |name: &str| ctx.given("scope") == Some(name);
    let asked = ctx.given("at").unwrap_or_default();
    Ok(html! {
        form.assistant method="post" action="/restore/plan" {
            (layout::form_key(ctx))
            input type="hidden" name="source" value=(source);
            fieldset {
                legend { "From when" }
                label for="backup" { "State" }
                select #backup name="backup" {
                    option value="" { "the newest that can be restored" }
                    @for backup in backups.iter().take(OFFERED_MAX) {
                        option value=(backup.name) selected[ctx.given("backup") == Some(&backup.name)] {
                            (ctx.moment(backup.taken_at)) " (" (ctx.age(backup.taken_at)) ")"
                        }
                    }
                }
                label for="at" { "or the newest at or before" }
                input #at name="at" value=(asked) placeholder="2025-01-08 14:03:22, or -2h";
            }
            @if !is_files {
                fieldset {
                    legend { "What" }
                    label { input type="radio" name="scope" value="" checked[!has("also") && !has("only")];
                        " the database" }
                    label { input type="radio" name="scope" value="also" checked[has("also")];
                        " the database and its companion files" }
                    label { input type="radio" name="scope" value="only" checked[has("only")];
                        " its companion files alone" }
                }
            }
            fieldset {
                legend { "Where to" }
                label { input type="radio" name="place" value="new" checked; " a new place" }
                label for="to" { "Path on the host, or postgresql:// and a new database" }
                input #to name="to" value=(new_place(ctx, source));
                label { input type="radio" name="place" value="own";
                    " where it was, in place of what is there now" }
            }
            button { "Show the plan" }
        }
    })
}

/// A place that is free, and that the agent may write to.
fn new_place(ctx: &Ctx, source: &str) -> String {
    let time = ctx.now.strftime("%Y%m%d-%H%M%S");
    let folder = restores(ctx).unwrap_or_else(|| PathBuf::from("/var/tmp"));
    folder.join(format!("{source}-{time}")).display().to_string()
}

/// The folder of restores below that of our state.
fn restores(ctx: &Ctx) -> Option<PathBuf> {
    Some(ctx.control.as_deref()?.parent()?.parent()?.join("restores"))
}

/// What is asked for, checked.
struct Wanted {
    source: String,
    /// Behind `lifeboat restore`.
    arguments: Vec<String>,
    title: String,
    /// Something is there already.
    replaces: bool,
}

fn wanted(ctx: &Ctx) -> Result<Wanted> {
    let source = ctx.given("source").unwrap_or_default().to_owned();
    let entries = entries(ctx, &source)?;
    let mut arguments = Vec::new();
    let mut what = source.clone();
    match (ctx.given("backup"), ctx.given("at")) {
        (_, Some(at)) => arguments.push(format!("--at={at}")),
        (Some(backup), None) => {
            let is_one =
                entries.iter().flat_map(|entry| &entry.backups).any(|it| it.name == backup);
            if !is_one {
                return Err(Error::new(Kind::NotCovered, "there is no such backup any more"));
            }
            backup.clone_into(&mut what);
        }
        (None, None) => {}
    }
    match ctx.given("scope") {
        None => {}
        Some(scope @ ("also" | "only")) => arguments.push(format!("--files={scope}")),
        Some(_) => return Err(Error::new(Kind::Usage, "there is no such scope")),
    }
    let (title, replaces) = match ctx.given("place") {
        Some("own") => (format!("{source}, in its own place"), true),
        _ => {
            let to = ctx.given("to").unwrap_or_default();
            let is_url = to.starts_with("postgresql://") || to.starts_with("postgres://");
            if !is_url && !Path::new(to).is_absolute() {
                return Err(Error::new(Kind::Usage, "a place begins with `/`, or is a URL")
                    .hint("name a path of the host, such as /var/tmp/app.db"));
            }
            arguments.push(format!("--to={to}"));
            let replaces = !is_url && Path::new(to).symlink_metadata().is_ok();
            (format!("{source} to {to}"), replaces)
        }
    };
    arguments.extend(["--".to_owned(), what]);
    Ok(Wanted { source, arguments, title, replaces })
}

/// For the audit log.
pub(super) fn detail(ctx: &Ctx) -> String {
    let text = |name: &str| ctx.given(name).unwrap_or_default();
    let place = if text("place") == "own" { "its own place" } else { text("to") };
    let when = match (text("at"), text("backup")) {
        ("", "") => "newest",
        ("", backup) => backup,
        (at, _) => at,
    };
    format!("{} of {when} to {place} {}", text("source"), text("scope")).trim_end().to_owned()
}

/// Shows what would be done, as `lifeboat restore --dry-run` does.
pub(super) fn plan(ctx: &Ctx) -> Result<Done> {
    let wanted = wanted(ctx)?;
    let text = dry_run(ctx, &wanted)?;
    let kept = ["source", "backup", "at", "scope", "place", "to"];
    let command: Vec<String> =
        wanted.arguments.iter().map(|word| units::shell_word(word)).collect();
    Ok(Done::Show(html! {
        pre tabindex="0" aria-label="The plan" { (text) }
        p { "It is the same as " code { "lifeboat restore " (command.join(" ")) } }
        form.assistant method="post" action="/restore/begin" {
            (layout::form_key(ctx))
            @for name in kept { @if let Some(value) = ctx.given(name) {
                input type="hidden" name=(name) value=(value);
            } }
            @if wanted.replaces {
                p.summary.doubtful { "This replaces what is there; that is kept beside it." }
                label for="name" { "To go on, type the name of the source: " b { (wanted.source) } }
                input #name name="name" autocomplete="off" required;
            }
            button { "Restore" }
        }
        p { a href={ "/restore" } { "Choose again" } }
    }))
}

fn dry_run(ctx: &Ctx, wanted: &Wanted) -> Result<String> {
    let failed = |error| Error::io(Kind::Failed, "cannot make the plan", error);
    let (program, options) = ctx.base.split_first().ok_or_else(|| {
        Error::new(Kind::Failed, "cannot make the plan: this program is not known")
    })?;
    let mut command = Command::new(program);
    command
        .args(options)
        .args(["--color", "never", "restore", "--dry-run"])
        .args(&wanted.arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let mut said = Vec::new();
    let errors = child.stderr.take();
    let listening = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = errors.map(|stream| stream.take(PLAN_BYTES_MAX).read_to_string(&mut text));
        text
    });
    if let Some(stream) = child.stdout.take() {
        stream.take(PLAN_BYTES_MAX).read_to_end(&mut said).map_err(failed)?;
    }
    let status = child.wait().map_err(failed)?;
    let errors = listening.join().unwrap_or_default();
    if !status.success() {
        return Err(Error::new(Kind::Refused, errors.trim().to_owned()));
    }
    Ok(format!("{}{errors}", String::from_utf8_lossy(&said)))
}

/// Has the agent do it.
pub(super) fn begin(ctx: &Ctx) -> Result<Done> {
    let wanted = wanted(ctx)?;
    if wanted.replaces && ctx.given("name") != Some(&wanted.source) {
        return Err(Error::new(
            Kind::Refused,
            "what is there would be replaced, and the name that \
                                              was typed is not that of the source",
        )
        .hint(format!("go back, and type {}", wanted.source)));
    }
    if let Some(folder) = restores(ctx) {
        private::folder(&folder).map_err(|error| {
            let message = format!("cannot make {}", folder.display());
            Error::io(Kind::Failed, message, error)
        })?;
    }
    let Wanted { arguments, title, .. } = wanted;
    let by = ctx.who.as_ref().map(|who| who.name.clone()).unwrap_or_default();
    let id = ctx.ask(&Question::Restore { arguments, title, by })?;
    Ok(Done::Go(format!("/runs/{id}")))
}
