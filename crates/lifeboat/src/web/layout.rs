//! What all pages share: head, menu, foot, and small pieces.
//!
//! No page has a style or a script in its text: the policy of `router` forbids it, so that a name
//! of a source that is markup in disguise does nothing even where it would get through. Colours and
//! sizes of drawings are attributes (`fill`, `width`) or classes of the style sheet.

use jiff::Timestamp;
use lifeboat_core::Error;
use maud::{DOCTYPE, Markup, html};

use super::context::Ctx;
use super::screens::{SCREENS, alerts};
use super::verdict::Reason;
use crate::ui::{report, units};

/// The style sheet.
pub(super) const STYLE: &str = include_str!("style.css");
/// What puts pieces of a page in their places as they change.
pub(super) const SCRIPT: &str = include_str!("live.js");

/// A whole page.
pub(crate) fn page(ctx: &Ctx, title: &str, body: &Markup) -> Markup {
    let host = ctx.look.loaded.config.host.clone();
    let menu = html! {
        nav aria-label="Screens" { ul {
            @for screen in SCREENS.iter().filter(|screen| screen.is_in_menu) {
                li {
                    a href=(screen.path) aria-current=[current(ctx, screen.path)] {
                        (screen.title)
                        @if screen.path == "/alerts" { (open_alerts(ctx)) }
                    }
                }
            }
        } }
    };
    let foot = html! {
        footer {
            p { "Read " (time(ctx, ctx.look.taken_at)) @if let Some(host) = host { " on " (host) } "." }
            @if ctx.agent.is_none() { p.doubtful { "No agent runs: nothing is backed up by itself." } }
            @if let Some(who) = &ctx.who {
                form.leave method="post" action="/logout" {
                    (form_key(ctx))
                    "You are " (who.name) @if !ctx.may_do() { ", who may look only" } ". "
                    button.quiet { "Leave" }
                }
            }
        }
    };
    frame(title, &menu, body, &foot)
}

/// A page without a menu: for who has not said who they are, and for errors.
pub(crate) fn bare(title: &str, body: &Markup) -> Markup {
    frame(title, &html! {}, body, &html! {})
}

fn frame(title: &str, menu: &Markup, body: &Markup, foot: &Markup) -> Markup {
    let is_live = body.0.contains("data-live=");
    // A form that is being filled in stays as it is.
    let is_renewed = is_live && !body.0.contains("class=\"assistant\"");
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                @if is_live { noscript { meta http-equiv="refresh" content="10"; } }
                title { (title) " · Lifeboat" }
                link rel="stylesheet" href="/style.css";
                script src="/live.js" defer {}
                link rel="icon" href="/icon.svg" type="image/svg+xml";
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header {
                    a.name href="/" {
                        img src="/icon.svg" alt="" width="22" height="22";
                        "Lifeboat"
                    }
                    (menu)
                }
                main id="main" data-renew[is_renewed] { h1 { (title) } (body) }
                (foot)
            }
        }
    }
}

/// The page itself, or one above it.
fn current(ctx: &Ctx, path: &str) -> Option<&'static str> {
    let is_below = |rest: &str| path != "/" && rest.starts_with('/');
    match ctx.path.strip_prefix(path) {
        Some("") => Some("page"),
        Some(rest) if is_below(rest) => Some("true"),
        _ => None,
    }
}

/// How many things are wrong, beside the link to them.
fn open_alerts(ctx: &Ctx) -> Markup {
    let count = alerts::things(&ctx.look);
    html! {
        @if count > 0 { " " span.count { (count) span.unseen { " open" } } }
    }
}

/// A form that looks for names, where a list is long.
pub(crate) fn search(ctx: &Ctx, label: &str) -> Markup {
    html! {
        form.search method="get" action=(ctx.path) role="search" {
            label for="q" { (label) }
            input #q name="q" type="search" value=[ctx.given("q")];
            button.quiet { "Show" }
        }
    }
}

/// What an error says, with what mends it.
pub(crate) fn error(error: &Error) -> Markup {
    html! {
        p.summary.bad { (error) }
        @for cause in report::causes(error) { p { (cause) } }
        @if let Some(hint) = error.hint_text() { p { (hint) } }
    }
}

/// What could not be read, and what was to be said while reading.
pub(crate) fn failures(ctx: &Ctx) -> Markup {
    let Ctx { look, .. } = ctx;
    html! {
        @if !look.failures.is_empty() || !look.warnings.is_empty() {
            ul.failures {
                @for failure in &look.failures { li.bad { (failure) } }
                @for (subject, message) in &look.warnings {
                    li.doubtful { @if !subject.is_empty() { (subject) ": " } (message) }
                }
            }
        }
    }
}

/// What each form of a page carries.
pub(crate) fn form_key(ctx: &Ctx) -> Markup {
    html! { input type="hidden" name="key" value=(ctx.form_key); }
}

/// Why something is as it is, and the command that mends it.
pub(crate) fn reason(reason: &Reason) -> Markup {
    html! {
        p class={ "reason " (reason.verdict.word()) } {
            (reason.text)
            @if let Some(command) = &reason.command { " " code.command { (command) } }
        }
    }
}

/// The time from a moment to now, with the moment itself for who points at it.
pub(crate) fn the_last(ctx: &Ctx, at: Timestamp) -> Markup {
    let length = ctx.now.duration_since(at).as_millis();
    let length = units::coarse(u64::try_from(length).unwrap_or(0));
    html! { time datetime=(at) title=(ctx.moment(at)) { "the last " (length) } }
}

/// How long ago a moment is, with the moment itself for who points at it.
pub(crate) fn time(ctx: &Ctx, at: Timestamp) -> Markup {
    html! { time datetime=(at) title=(ctx.moment(at)) { (ctx.age(at)) } }
}
