//! What is wrong, what was and is no more, and whether those who are to be told were.

use std::collections::BTreeMap;

use lifeboat_core::Result;
use maud::{Markup, html};

use crate::commands::status::overall::Notifier;
use crate::notify;
use crate::standing::{self, Alert, Code, Severity};
use crate::ui::units;
use crate::web::address;
use crate::web::context::Ctx;
use crate::web::layout;
use crate::web::look::Look;
use crate::web::table::{Row, Table};

pub(super) fn draw(ctx: &Ctx) -> Result<Markup> {
    let session = ctx.session();
    let resolved = standing::known(&session).resolved;
    let waiting = notify::waiting(&session)?;
    Ok(html! {
        (open(ctx))
        (over(ctx, &resolved))
        (told(ctx))
        (waits(ctx, &waiting))
    })
}

fn class_of(alert: &Alert) -> &'static str {
    match alert.severity {
        Severity::Stale | Severity::Broken => "bad",
        Severity::Warning => "doubtful",
    }
}

fn open(ctx: &Ctx) -> Markup {
    let gathered = gathered(&ctx.look);
    html! {
        @if gathered.is_empty() {
            p.summary.good { "Nothing is wrong." }
        } @else {
            p class={ "summary " (class_of(gathered[0].0)) } {
                (units::counted(gathered.len(), "thing"))
                @if gathered.len() == 1 { " is wrong" } @else { " are wrong, the worst first" }
            }
            (Table {
                caption: "What is wrong, the worst first",
                heads: &["What", "Of", "Since", "What mends it"],
            }
            .of(gathered.iter().map(|(alert, places)| line(ctx, alert, places))))
        }
    }
}

/// The same in several repositories is one thing, with where that is.
fn gathered(look: &Look) -> Vec<(&Alert, Vec<&str>)> {
    let mut known: BTreeMap<(Code, &str, &str, &str), usize> = BTreeMap::new();
    let mut gathered: Vec<(&Alert, Vec<&str>)> = Vec::new();
    for alert in &look.alerts {
        let key = (alert.code, &*alert.source, &*alert.what, &*alert.command);
        let index = *known.entry(key).or_insert(gathered.len());
        if index == gathered.len() {
            gathered.push((alert, Vec::new()));
        }
        gathered[index].1.push(look.label_of(&alert.repository));
    }
    gathered
}

/// How many things are wrong.
pub(in crate::web) fn things(look: &Look) -> usize {
    gathered(look).len()
}

fn line(ctx: &Ctx, alert: &Alert, places: &[&str]) -> Row {
    let what = html! {
        span class={ "mark " (class_of(alert)) } { (alert.code.word()) }
        " " (units::one_line(&alert.what))
    };
    let since = html! {
        @match alert.since {
            Some(at) => { (layout::time(ctx, at)) }
            None => { "not known" }
        }
    };
    let mends = html! { @if !alert.command.is_empty() { code.command { (alert.command) } } };
    Row::marked(class_of(alert), [what, of(&alert.source, places), since, mends])
}

fn of(source: &str, places: &[&str]) -> Markup {
    let places: Vec<String> =
        places.iter().filter(|place| !place.is_empty()).map(|it| units::one_line(it)).collect();
    html! {
        @if !source.is_empty() {
            a href=(address::of_source(source)) { (units::one_line(source)) } " "
        }
        @if !places.is_empty() { small.path { "in " (places.join(", ")) } }
    }
}

fn over(ctx: &Ctx, resolved: &[(jiff::Timestamp, Alert)]) -> Markup {
    html! {
        section aria-labelledby="over-head" {
            h2 id="over-head" { "Over" }
            @if resolved.is_empty() {
                p { "Nothing that was wrong was mended lately, as far as this host knows." }
            } @else {
                (Table {
                    caption: "What was wrong and is no more, the newest first",
                    heads: &["What was wrong", "Of", "Began", "Seen to be over"],
                }
                .of(resolved.iter().rev().map(|(at, alert)| was(ctx, *at, alert))))
            }
        }
    }
}

fn was(ctx: &Ctx, over_at: jiff::Timestamp, alert: &Alert) -> Row {
    Row::new([
        html! {
            span.mark.good { (alert.code.word()) }
            " " (units::one_line(&alert.what))
        },
        of(&alert.source, &[ctx.look.label_of(&alert.repository)]),
        html! { @if let Some(since) = alert.since { (ctx.moment(since)) } },
        layout::time(ctx, over_at),
    ])
}

fn told(ctx: &Ctx) -> Markup {
    html! {
        section aria-labelledby="told-head" {
            h2 id="told-head" { "Who is told" }
            @if ctx.look.notifiers.is_empty() {
                p.doubtful {
                    "Nobody is: write a " code { "[notify.NAME]" } " to the configuration, and try it \
                     with " code.command { "lifeboat notify test" }
                }
            } @else {
                (Table {
                    caption: "Who is told, and how deliveries went",
                    heads: &["Notifier", "Delivered last", "Failed deliveries", "Waiting"],
                }
                .of(ctx.look.notifiers.iter().map(|notifier| notifier_row(ctx, notifier))))
            }
        }
    }
}

fn notifier_row(ctx: &Ctx, (name, deliveries, waiting): &Notifier) -> Row {
    let delivered = html! {
        @match deliveries.delivered_at {
            Some(at) => { (layout::time(ctx, at)) }
            None => { "never" }
        }
    };
    let failed = html! {
        (units::count(deliveries.failures))
        @if let Some((at, why)) = &deliveries.last_failure {
            ", and the last attempt: "
            span.bad { (units::one_line(why)) } " " (layout::time(ctx, *at))
        }
    };
    let waiting = html! { (units::count(*waiting as u64)) };
    Row::new([html! { (units::one_line(name)) }, delivered, failed, waiting])
}

fn waits(ctx: &Ctx, waiting: &[notify::Waiting]) -> Markup {
    let row = |one: &notify::Waiting| {
        Row::new([
            html! { (units::one_line(&one.message.title)) },
            html! { (units::one_line(&one.notifier)) },
            html! { (units::counted(one.attempts as usize, "time")) },
            layout::time(ctx, one.next_at),
        ])
    };
    let table = Table {
        caption: "Messages that were not delivered yet",
        heads: &["Message", "To", "Tried", "Next"],
    };
    html! {
        @if !waiting.is_empty() {
            section aria-labelledby="waits-head" {
                h2 id="waits-head" { "What waits to be told" }
                (table.of(waiting.iter().map(row)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_alert_says_is_never_markup() {
        let text = "<script>alert(1)</script>";
        let alert = Alert::new((Code::Stale, Severity::Stale), (text, text), text, text);
        let drawn = of(&alert.source, &[text]).into_string();
        assert!(!drawn.contains("<script"), "{drawn}");
        assert!(drawn.contains("/sources/%3Cscript%3E"), "{drawn}");
        assert_eq!(class_of(&alert), "bad");
    }
}
