//! The list, for people and for programs.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::offers::{Facts, Loss, Offer, Verdict};
use crate::session::Session;
use crate::ui::printer::Style;
use crate::ui::units;

/// The list for a person.
pub(super) fn text(session: &Session, facts: &Facts, verdict: &Verdict) -> String {
    let printer = &session.printer;
    let place = units::one_line(&facts.place);
    let diagnosis = units::one_line(&verdict.diagnosis);
    let mut text = format!("{}: {place}\n  {diagnosis}\n", units::one_line(&facts.name));
    if let Some(written) = facts.written {
        let _ = writeln!(text, "  last written {}", moment(session, facts, written));
    }
    text.push_str("\nwhat can be had, the best first:\n");
    for (index, offer) in verdict.offers.iter().enumerate() {
        let title = units::one_line(&offer.title);
        let title = match verdict.recommended == Some(index) {
            true => format!("{title}  {}", printer.paint_out(Style::Good, "<- recommended")),
            false => title,
        };
        let _ = writeln!(text, "  {}. {title}", index + 1);
        detail(session, facts, offer, &mut text);
    }
    if verdict.offers.is_empty() {
        text.push_str("  nothing\n");
    }
    if !verdict.unsound.is_empty() {
        text.push_str("\nwhat cannot be taken:\n");
        for (title, why) in &verdict.unsound {
            let _ = writeln!(text, "  {}: {}", units::one_line(title), units::one_line(why));
        }
    }
    for note in &facts.notes {
        let _ = writeln!(text, "note: {}", units::one_line(note));
    }
    text
}

fn detail(session: &Session, facts: &Facts, offer: &Offer, text: &mut String) {
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "     {name:<7} {}", units::one_line(value));
    };
    if let Some(as_of) = offer.as_of {
        line("from", &moment(session, facts, as_of));
    }
    if let Some(rows) = offer.rows.filter(|rows| *rows > 0) {
        line("rows", &units::count(rows));
    }
    line("lost", &lost(&offer.loss));
    for note in &offer.notes {
        line("note", note);
    }
    for step in &offer.steps {
        line("does", &step.text());
    }
}

fn lost(loss: &Loss) -> String {
    match loss {
        Loss::Nothing => "nothing, as far as can be known".to_owned(),
        Loss::Since(milliseconds) => {
            format!("what was written in the {} before the end", units::coarse(*milliseconds))
        }
        Loss::IfTheyFit => {
            "nothing, if the -wal fits the backup; it is refused if it does not".to_owned()
        }
        Loss::Rows(text) => text.clone(),
        Loss::Everything => "everything".to_owned(),
    }
}

fn moment(session: &Session, facts: &Facts, moment: Timestamp) -> String {
    let shown = units::moment(moment, &session.surroundings.time_zone);
    format!("{shown} ({})", units::age(moment, facts.now))
}

/// The same for programs.
pub(super) fn as_json(facts: &Facts, verdict: &Verdict) -> Value {
    let offers = verdict.offers.iter().enumerate().map(|(index, offer)| {
        json!({
            "number": index + 1,
            "way": offer.way.name(),
            "what": offer.title,
            "as_of": offer.as_of,
            "rows": offer.rows,
            "lost": lost(&offer.loss),
            "lost_ms": match offer.loss {
                Loss::Nothing => Some(0),
                Loss::Since(milliseconds) => Some(milliseconds),
                Loss::IfTheyFit | Loss::Rows(_) | Loss::Everything => None,
            },
            "notes": offer.notes,
            "steps": offer.steps.iter().map(super::steps::Step::text).collect::<Vec<_>>(),
            "recommended": verdict.recommended == Some(index),
        })
    });
    let unsound = verdict.unsound.iter().map(|(what, why)| json!({ "what": what, "why": why }));
    json!({
        "outcome": "looked",
        "source": facts.name,
        "place": facts.place,
        "diagnosis": verdict.diagnosis,
        "written": facts.written,
        "offers": offers.collect::<Vec<_>>(),
        "unsound": unsound.collect::<Vec<_>>(),
        "notes": facts.notes,
    })
}
