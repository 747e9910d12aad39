//! What `list` and `verify` say of a replica of Litestream.

use lifeboat_core::env::Env;
use lifeboat_core::manifest::CheckLevel;
use lifeboat_core::restore::Replay as _;
use lifeboat_core::scratch::Scratch;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_sqlite::litestream::{Replica, ReplicaReplay, ReplicaState, Target};
use serde_json::{Value, json};

use super::words::LevelWord;
use crate::session::Session;
use crate::sources::{self, CHECK_MEMORY_BYTES};
use crate::ui::printer::Style;
use crate::ui::table::{Align, Table};
use crate::ui::units;

/// How many of the newest states are listed one by one for people.
const STATES_SHOWN: usize = 10;

/// Lists the states of a replica.
pub(super) fn list(session: &Session, replica: &Replica) -> Result<()> {
    let states = replica.states();
    let shown = |state: &ReplicaState| format!("{:016x}", state.transaction);
    if session.printer.json() {
        let states =
            states.iter().map(|state| json!({"transaction": shown(state), "at": state.at}));
        let levels = replica.levels().into_iter().map(|(level, (files, bytes))| {
            json!({ "level": level, "files": files, "stored_bytes": bytes })
        });
        return session.printer.json_data(&json!({
            "kind": "litestream",
            "url": replica.url(),
            "levels": levels.collect::<Vec<_>>(),
            "states": states.collect::<Vec<_>>(),
            "gap": gap(replica),
        }));
    }
    let mut text = format!("{}: a replica of Litestream\n", units::one_line(&replica.url()));
    for (level, (files, bytes)) in replica.levels() {
        let bytes = units::bytes(bytes);
        text.push_str(&format!("level {level}: {files} files, {bytes}\n"));
    }
    if let (Some(first), Some(last)) = (states.first(), states.last()) {
        let zone = &session.surroundings.time_zone;
        let moment = |state: &ReplicaState| units::moment(state.at, zone);
        text.push_str(&format!(
            "{} states can be restored, from {} to {}; the newest of them:\n",
            states.len(),
            moment(first),
            moment(last)
        ));
        let mut table = Table::new(&[("STATE", Align::Left), ("AT", Align::Left)]);
        for state in states.iter().rev().take(STATES_SHOWN).rev() {
            table.row(vec![(shown(state), None), (moment(state), None)]);
        }
        text.push_str(&table.to_text(&session.printer));
    }
    if let Some((before, behind)) = replica.gap() {
        text.push_str(&format!("GAP: between {before:016x} and {behind:016x} files are missing\n"));
    }
    session.printer.data(&text)
}

fn gap(replica: &Replica) -> Value {
    replica.gap().map_or(Value::Null, |(before, behind)| {
        json!({ "after": format!("{before:016x}"), "before": format!("{behind:016x}") })
    })
}

/// Reads all files of a replica; with a level that checks, the newest state is restored to a
/// scratch place and checked. What is damaged or missing is an error.
pub(super) fn verify(
    session: &Session,
    env: &Env,
    replica: &Replica,
    level: LevelWord,
) -> Result<()> {
    let damaged = replica.verify(env)?;
    let (states, url) = (replica.states(), units::one_line(&replica.url()));
    let checked = match level {
        LevelWord::Stored | LevelWord::Hash => None,
        other if damaged.is_empty() && replica.gap().is_none() => {
            Some(check(session, env, replica, CheckLevel::from(other))?)
        }
        _ => None,
    };
    session.progress.clear();
    let is_sound = damaged.is_empty() && replica.gap().is_none();
    if session.printer.json() {
        let damaged =
            damaged.iter().map(|damage| json!({"object": damage.object, "why": damage.why}));
        session.printer.json_data(&json!([{
            "kind": "litestream", "url": replica.url(), "sound": is_sound,
            "states": states.len(), "gap": gap(replica), "damaged": damaged.collect::<Vec<_>>(),
            "checks": checked,
        }]))?;
    } else {
        for damage in &damaged {
            session.printer.warning(&damage.object, &damage.why);
        }
    }
    if is_sound {
        let good = session.printer.paint_err(Style::Good, "sound");
        session.printer.note(&format!("{url} is {good}: {} states", states.len()));
        return Ok(());
    }
    let what = match (damaged.len(), replica.gap()) {
        (0, Some((before, behind))) => {
            format!("files are missing between the transactions {before:016x} and {behind:016x}")
        }
        (count, _) => format!("{count} files are damaged"),
    };
    let error = Error::new(Kind::CheckFailed, format!("{url} is not whole: {what}"));
    Err(match replica.meant(Target::Latest) {
        Err(lost) => match lost.hint_text() {
            Some(hint) => error.hint(hint.to_owned()),
            None => error,
        },
        Ok(_) => error.hint("states whose files are whole can be restored: lifeboat restore"),
    })
}

fn check(
    session: &Session,
    env: &Env,
    replica: &Replica,
    level: CheckLevel,
) -> Result<Vec<String>> {
    let replay = ReplicaReplay::to(replica, replica.meant(Target::Latest)?)?;
    let mut scratch = Scratch::new(&session.folders.scratch, replay.plain_bytes())?;
    let place = scratch.path();
    replay.apply(env, scratch.file(), &place)?;
    let engine = sources::engine(lifeboat_sqlite::KIND)?;
    let report = engine.check_file(env, &place, level, CHECK_MEMORY_BYTES)?;
    match report.damage.first() {
        None => Ok(report.what),
        Some(damage) => Err(Error::new(
            Kind::CheckFailed,
            format!("the newest state of {} is damaged: {damage}", replica.url()),
        )
        .hint("restore an older state: lifeboat list shows them")),
    }
}
