//! The plan of a restore, which is what `lifeboat restore --dry-run` prints, and its beginning.

use std::io::Read as _;
use std::process::{Command, Stdio};

use lifeboat_core::service::Service;
use lifeboat_core::{Error, Kind, Result};
use maud::{Markup, html};

use super::super::Done;
use super::wanted::{Wanted, wanted};
use super::{restores, rows, steps};
use crate::control::Question;
use crate::private;
use crate::ui::units;
use crate::web::address;
use crate::web::context::Ctx;
use crate::web::held;
use crate::web::layout;

/// A plan is shorter.
const PLAN_BYTES_MAX: u64 = 1 << 20;
/// What is handed from step to step.
const KEPT: [&str; 11] = [
    "source",
    "when",
    "backup",
    "at",
    "scope",
    "table",
    "where",
    "overwrite",
    "triggers",
    "place",
    "to",
];

/// Shows what would be done, as `lifeboat restore --dry-run` does.
pub(in super::super) fn plan(ctx: &Ctx) -> Result<Done> {
    let wanted = wanted(ctx)?;
    let text = dry_run(ctx, &wanted)?;
    let command: Vec<String> =
        wanted.arguments.iter().map(|word| units::shell_word(word)).collect();
    let again: Vec<(&str, &str)> = KEPT.iter().map(|name| (*name, given(ctx, name))).collect();
    Ok(Done::Show(html! {
        (steps(2))
        h2 { (units::one_line(&wanted.title)) }
        pre tabindex="0" role="region" aria-label="The plan" { (text) }
        p { (service(ctx, &wanted, &text)?) }
        p { "It is the same as " code.command { "lifeboat restore " (command.join(" ")) } }
        form.assistant method="post" action="/restore/begin" {
            (layout::form_key(ctx))
            @for name in KEPT { @if let Some(value) = ctx.given(name) {
                input type="hidden" name=(name) value=(value);
            } }
            @if wanted.replaces {
                p.summary.doubtful { "This replaces what is there; that is kept beside it." }
            }
            @if wanted.is_rows { (rows::triggers(&text).unwrap_or_default()) }
            label for="name" { "To go on, type the name of the source: " b { (wanted.source) } }
            input #name name="name" autocomplete="off" required;
            p.actions {
                button class=[wanted.replaces.then_some("danger")] { "Restore" }
                a href=(address::to("/restore", &again)) { "Choose again" }
            }
        }
    }))
}

fn given<'a>(ctx: &'a Ctx, name: &str) -> &'a str {
    ctx.given(name).unwrap_or_default()
}

/// What becomes of the programs that have the source open.
fn service(ctx: &Ctx, wanted: &Wanted, plan: &str) -> Result<Markup> {
    let target = held::target(ctx, &wanted.source)?;
    let service = target.as_ref().and_then(|target| target.service.as_ref());
    let name = |service: &Service| html! { strong { (units::one_line(&service.name)) } };
    let is_stopped = |service: &&Service| plan.contains(&format!("stop {}", service.name));
    if wanted.is_rows {
        return Ok(html! {
            "Nothing is stopped: the rows go in, in one transaction, while programs use the \
             database. A copy of the file as it is before that is kept beside it, for "
            code { "lifeboat undo" } "."
        });
    }
    Ok(match (service, wanted.is_in_place) {
        (Some(service), _) if is_stopped(&service) => html! {
            "The service " (name(service)) " goes on until everything is staged and checked; then it \
             is stopped, and started again when the restore is in place."
        },
        (Some(service), false) => html! {
            "The service " (name(service)) " goes on with what it has: nothing of it is stopped or \
             changed."
        },
        (Some(service), true) => html! {
            "The service " (name(service)) " is not stopped for this: begin it anew afterwards where \
             it reads what is restored only when it begins."
        },
        (None, false) => html! { "Nothing is stopped: programs go on with what they have." },
        (None, true) => html! {
            "No " code { "service" } " is configured for it, so nothing is stopped or started: end \
             what uses it before, and begin it again after. A program that has the database open \
             keeps the restore from being begun."
        },
    })
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
pub(in super::super) fn begin(ctx: &Ctx) -> Result<Done> {
    let wanted = wanted(ctx)?;
    if ctx.given("name") != Some(&wanted.source) {
        let message = "the name that was typed is not that of the source";
        return Err(Error::new(Kind::Refused, message)
            .hint(format!("go back, and type {}", units::one_line(&wanted.source))));
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
