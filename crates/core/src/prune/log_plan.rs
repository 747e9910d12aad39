//! What becomes of a source's log when its backups go.
//!
//! A log is nothing without a backup before it, and a backup is worth more with the log behind it.
//! So an object of the log stays as long as any backup needs it whose bytes are still there, also
//! one that has a tombstone: the grace time of a backup is that of its log. What no backup needs
//! goes when it is older than the newest good backup and older than the grace time.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::Action;
use crate::env::Env;
use crate::error::Result;
use crate::log;
use crate::manifest::Manifest;
use crate::repository::Repository;

/// Who knows what the objects of a source's log are. Made by the crate that knows the database.
pub trait LogRule: std::fmt::Debug + Send + Sync {
    /// Every object of the log in that folder, and whether one of those backups needs it. These are
    /// all whose bytes stay, oldest first.
    fn judge(
        &self,
        now: Timestamp,
        repository: &Repository,
        folder: &str,
        staying: &[&Manifest],
    ) -> Result<Vec<LogObject>>;
}

/// An object of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogObject {
    /// Its name, without the ending of objects.
    pub object: String,
    /// What it is part of, for people: "timeline 1 of 7123".
    pub part: String,
    /// Its size as stored.
    pub bytes: u64,
    /// When it was stored.
    pub modified: Timestamp,
    /// Whether a backup needs it.
    pub is_needed: bool,
}

/// Objects of a log that follow each other, and what becomes of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LogItem {
    /// What they are part of.
    pub part: String,
    /// The first one's file.
    pub first: String,
    /// The last one's.
    pub last: String,
    /// How many there are.
    pub count: usize,
    /// What they take, in bytes.
    pub stored_bytes: u64,
    /// [`Action::Keep`], [`Action::Wait`] or [`Action::Delete`].
    pub action: Action,
    /// Why, in words.
    pub reason: String,
    /// From when on the last of them may be deleted, of those that wait.
    pub delete_after: Option<Timestamp>,
    /// The objects, without their ending.
    #[serde(skip)]
    pub objects: Vec<String>,
}

/// The plan for the objects of a log. `newest_good` is the moment of the newest good backup.
pub(super) fn items(
    now: Timestamp,
    grace: SignedDuration,
    newest_good: Option<Timestamp>,
    objects: Vec<LogObject>,
) -> Vec<LogItem> {
    let mut items: Vec<LogItem> = Vec::new();
    for one in objects {
        let due = one.modified.checked_add(grace).unwrap_or(Timestamp::MAX);
        let (action, reason) = match (one.is_needed, newest_good) {
            (true, _) => (Action::Keep, "a backup needs it"),
            (false, Some(newest)) if one.modified < newest => match due <= now {
                true => (Action::Delete, "no backup needs it"),
                false => (Action::Wait, "no backup needs it"),
            },
            (false, _) => (Action::Keep, "no good backup is newer"),
        };
        let file = one.object.rsplit('/').next().unwrap_or_default().to_owned();
        let delete_after = (action == Action::Wait).then_some(due);
        match items.last_mut() {
            Some(last) if (last.action, &last.part) == (action, &one.part) => {
                last.last = file;
                last.count += 1;
                last.stored_bytes += one.bytes;
                last.delete_after = last.delete_after.max(delete_after);
                last.objects.push(one.object);
            }
            _ => items.push(LogItem {
                part: one.part,
                first: file.clone(),
                last: file,
                count: 1,
                stored_bytes: one.bytes,
                action,
                reason: reason.to_owned(),
                delete_after,
                objects: vec![one.object],
            }),
        }
    }
    items
}

/// Deletes what a plan says, the oldest first, so that what is left of a line is its end. `hold`
/// says before each whether this run may still delete.
pub(super) fn delete(
    env: &Env,
    repository: &Repository,
    items: &[LogItem],
    hold: &mut dyn FnMut() -> Result<()>,
) -> Result<(usize, u64)> {
    let (mut count, mut bytes) = (0, 0);
    for item in items.iter().filter(|item| item.action == Action::Delete) {
        for object in &item.objects {
            env.proceed()?;
            hold()?;
            log::delete(repository, object)?;
            env.crash.pass("wal.deleted")?;
            count += 1;
        }
        bytes += item.stored_bytes;
    }
    Ok((count, bytes))
}

/// What a plan does to a log, to compare it with another one.
pub(super) fn work(items: &[LogItem]) -> BTreeMap<&str, usize> {
    let deletes = items.iter().filter(|item| item.action == Action::Delete);
    deletes.map(|item| (item.first.as_str(), item.count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn object(number: u32, modified: i64, is_needed: bool) -> LogObject {
        let (object, part) = (format!("app/wal/7/{number}"), "timeline 1".to_owned());
        LogObject { object, part, bytes: 10, modified: at(modified), is_needed }
    }

    #[test]
    fn only_what_nobody_needs_and_is_old_goes() {
        let grace = SignedDuration::from_secs(100);
        let objects = vec![
            object(1, 10, false),
            object(2, 20, false),
            object(3, 450, false),
            object(4, 30, true),
            object(5, 40, false),
        ];
        let plan = items(at(500), grace, Some(at(460)), objects.clone());
        let shown: Vec<(&str, usize, Action)> =
            plan.iter().map(|item| (item.first.as_str(), item.count, item.action)).collect();
        assert_eq!(
            shown,
            [
                ("1", 2, Action::Delete),
                ("3", 1, Action::Wait),
                ("4", 1, Action::Keep),
                ("5", 1, Action::Delete)
            ]
        );
        assert_eq!(plan[1].delete_after, Some(at(550)));
        // Without a good backup, or a newer one, nothing goes.
        let kept = items(at(500), grace, None, objects.clone());
        assert!(kept.iter().all(|item| item.action == Action::Keep));
        let kept = items(at(500), grace, Some(at(15)), objects);
        assert_eq!(kept.iter().filter(|item| item.action == Action::Delete).count(), 1);
    }
}
