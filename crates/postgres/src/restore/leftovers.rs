//! What restores left that were killed: databases that were loaded and never took their place.

use lifeboat_core::Result;
use serde_json::Value;

use crate::client::Client;
use crate::quote::{identifier, literal};
use crate::session::Session;

use super::load::SCRATCH_MARK;
use super::plan::short_name;

/// The databases that have names as restores of that database give them while they load.
pub(super) fn leftovers(database: &str, databases: &[String]) -> Vec<String> {
    // What was kept of `chat` looks like a leftover of `chat_before`.
    if database.ends_with("_before") {
        return Vec::new();
    }
    let sample = short_name(database, "_restore_00000000_000000");
    let stem = &sample[..sample.len() - "00000000_000000".len()];
    let is_time = |text: &str| {
        text.len() == 15 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_')
    };
    let left = databases.iter().filter(|name| name.strip_prefix(stem).is_some_and(is_time));
    left.cloned().collect()
}

/// Those of them that a restore of ours made and did not end: they bear its mark, and nobody is in
/// them, as a restore that is at work would be.
pub(super) fn abandoned(session: &mut Session, leftovers: &[String]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in leftovers {
        let row = session.row(&format!("SELECT {} AS is_one", is_abandoned(name)))?;
        found.extend((row.get("is_one") == Some(&Value::Bool(true))).then(|| name.clone()));
    }
    Ok(found)
}

/// A condition: that database is a scratch one that nobody is in.
fn is_abandoned(database: &str) -> String {
    let (name, mark) = (literal(database), literal(SCRATCH_MARK));
    format!(
        "EXISTS (SELECT FROM pg_catalog.pg_database d WHERE d.datname = {name} \
          AND pg_catalog.shobj_description(d.oid, 'pg_database') = {mark} \
          AND pg_catalog.pg_has_role(d.datdba, 'USAGE')) \
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.datname = {name})"
    )
}

/// Drops what killed restores left, if nobody came back to it. What cannot be dropped hinders
/// nobody, and stays: a warning each.
pub(super) fn drop_abandoned(server: &Client, names: &[String]) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    if names.is_empty() {
        return Ok(warnings);
    }
    let mut session = Session::open(server, "cannot remove what a killed restore left")?;
    for name in abandoned(&mut session, names)? {
        if let Err(error) = session.execute(&format!("DROP DATABASE {}", identifier(&name))) {
            warnings.push(format!("{name} could not be dropped: {error}"));
            break;
        }
    }
    Ok(warnings)
}

/// A warning for each of the others.
pub(super) fn left(leftovers: &[String], abandoned: &[String]) -> Vec<String> {
    let others = leftovers.iter().filter(|name| !abandoned.contains(name));
    others
        .map(|name| {
            format!(
                "{name} was left by a restore that did not end; if none is running, drop it: \
                 DROP DATABASE {}",
                identifier(name)
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_restore_of_ours_left_is_named() {
        let of = |database: &str| {
            let there = [
                "chat",
                "chat_restore_20260102_030405",
                "chat_restore_of_may",
                "chat_before_restore_20260102_030405",
                "chatter_restore_20260102_030405",
            ];
            leftovers(database, &there.map(str::to_owned))
        };
        assert_eq!(of("chat").len(), 1, "{:?}", of("chat"));
        assert_eq!(of("chat"), ["chat_restore_20260102_030405"]);
        assert!(left(&of("chat"), &[])[0].contains("DROP DATABASE \"chat_restore_2026"));
        assert!(left(&of("chat"), &of("chat")).is_empty());
        assert!(of("chat_before").is_empty());
        assert!(of("other").is_empty());
    }
}
