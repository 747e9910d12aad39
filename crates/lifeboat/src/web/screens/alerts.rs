//! What is wrong, what was and is no more, and whether those who are to be told were.

use lifeboat_core::Result;
use maud::{Markup, html};

use crate::notify;
use crate::standing::{self, Alert, Severity};
use crate::ui::units;
use crate::web::address;
use crate::web::context::Ctx;
use crate::web::layout;

pub(super) fn draw(ctx: &Ctx) -> Result<Markup> {
    let session = ctx.session();
    let resolved = standing::known(&session).resolved;
    let waiting = notify::waiting(&session)?;
    Ok(html! {
        (open(ctx, &ctx.look.alerts))
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

fn open(ctx: &Ctx, alerts: &[Alert]) -> Markup {
    html! {
        @if alerts.is_empty() {
            p.summary.good { "Nothing is wrong." }
        } @else {
            p class={ "summary " (class_of(&alerts[0])) } {
                (units::count(alerts.len() as u64))
                @if alerts.len() == 1 { " thing is wrong" } @else { " things are wrong, the worst first" }
            }
            table.sources {
                caption.unseen { "What is wrong, the worst first" }
                thead { tr {
                    th scope="col" { "What" }
                    th scope="col" { "Of" }
                    th scope="col" { "Since" }
                    th scope="col" { "What mends it" }
                } }
                tbody { @for alert in alerts { (line(ctx, alert)) } }
            }
        }
    }
}

fn line(ctx: &Ctx, alert: &Alert) -> Markup {
    html! {
        tr class=(class_of(alert)) {
            th scope="row" {
                span class={ "mark " (class_of(alert)) } { (alert.code.word()) }
                " " (units::one_line(&alert.what))
            }
            td data-label="Of" { (of(alert)) }
            td data-label="Since" {
                @match alert.since {
                    Some(at) => { (layout::time(ctx, at)) }
                    None => { "not known" }
                }
            }
            td data-label="What mends it" {
                @if !alert.command.is_empty() { code.command { (alert.command) } }
            }
        }
    }
}

fn of(alert: &Alert) -> Markup {
    html! {
        @if !alert.source.is_empty() {
            a href=(address::of_source(&alert.source)) { (units::one_line(&alert.source)) } " "
        }
        @if !alert.repository.is_empty() { span.path { (units::one_line(&alert.repository)) } }
    }
}

fn over(ctx: &Ctx, resolved: &[(jiff::Timestamp, Alert)]) -> Markup {
    html! {
        section aria-labelledby="over-head" {
            h2 id="over-head" { "Over" }
            @if resolved.is_empty() {
                p { "Nothing that was wrong was mended lately, as far as this host knows." }
            } @else {
                table.sources {
                    caption.unseen { "What was wrong and is no more, the newest first" }
                    thead { tr {
                        th scope="col" { "What was wrong" }
                        th scope="col" { "Of" }
                        th scope="col" { "Began" }
                        th scope="col" { "Seen to be over" }
                    } }
                    tbody {
                        @for (at, alert) in resolved.iter().rev() {
                            tr {
                                th scope="row" {
                                    span.mark.good { (alert.code.word()) }
                                    " " (units::one_line(&alert.what))
                                }
                                td data-label="Of" { (of(alert)) }
                                td data-label="Began" {
                                    @if let Some(since) = alert.since { (ctx.moment(since)) }
                                }
                                td data-label="Seen to be over" { (layout::time(ctx, *at)) }
                            }
                        }
                    }
                }
            }
        }
    }
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
                table.sources {
                    caption.unseen { "Who is told, and how deliveries went" }
                    thead { tr {
                        th scope="col" { "Notifier" }
                        th scope="col" { "Delivered last" }
                        th scope="col" { "Failed deliveries" }
                        th scope="col" { "Waiting" }
                    } }
                    tbody {
                        @for (name, deliveries, waiting) in &ctx.look.notifiers {
                            tr {
                                th scope="row" { (units::one_line(name)) }
                                td data-label="Delivered last" {
                                    @match deliveries.delivered_at {
                                        Some(at) => { (layout::time(ctx, at)) }
                                        None => { "never" }
                                    }
                                }
                                td data-label="Failed deliveries" {
                                    (units::count(deliveries.failures))
                                    @if let Some((at, why)) = &deliveries.last_failure {
                                        ", and the last attempt: "
                                        span.bad { (units::one_line(why)) } " " (layout::time(ctx, *at))
                                    }
                                }
                                td data-label="Waiting" { (units::count(*waiting as u64)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn waits(ctx: &Ctx, waiting: &[notify::Waiting]) -> Markup {
    html! {
        @if !waiting.is_empty() {
            section aria-labelledby="waits-head" {
                h2 id="waits-head" { "What waits to be told" }
                table.sources {
                    caption.unseen { "Messages that were not delivered yet" }
                    thead { tr {
                        th scope="col" { "Message" }
                        th scope="col" { "To" }
                        th scope="col" { "Tried" }
                        th scope="col" { "Next" }
                    } }
                    tbody {
                        @for one in waiting {
                            tr {
                                th scope="row" { (units::one_line(&one.message.title)) }
                                td data-label="To" { (units::one_line(&one.notifier)) }
                                td data-label="Tried" { (units::count(u64::from(one.attempts))) " times" }
                                td data-label="Next" { (layout::time(ctx, one.next_at)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standing::Code;

    #[test]
    fn what_an_alert_says_is_never_markup() {
        let text = "<script>alert(1)</script>";
        let alert = Alert::new((Code::Stale, Severity::Stale), (text, text), text, text);
        let drawn = of(&alert).into_string();
        assert!(!drawn.contains("<script"), "{drawn}");
        assert!(drawn.contains("/sources/%3Cscript%3E"), "{drawn}");
        assert_eq!(class_of(&alert), "bad");
    }
}
