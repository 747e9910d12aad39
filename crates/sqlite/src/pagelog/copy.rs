//! Which files of a page log another repository lacks.

use std::collections::BTreeMap;

use lifeboat_core::Kind;
use lifeboat_core::Result;
use lifeboat_core::copy::LogSelection;
use lifeboat_core::env::Env;
use lifeboat_core::manifest::Manifest;
use lifeboat_core::repository::Repository;
use lifeboat_core::store::{ObjectInfo, ObjectName};

use super::names::Span;
use super::read::{files_of, split};
use super::write;

/// The rule for page logs: a log belongs to one backup, and goes where that is.
#[derive(Clone, Copy, Debug)]
pub struct PageLogSelection;

impl LogSelection for PageLogSelection {
    fn lacking(
        &self,
        _: &Env,
        (from, folder): (&Repository, &str),
        (to, to_folder): (&Repository, Option<&str>),
        staying: &[&Manifest],
    ) -> Result<Vec<ObjectInfo>> {
        let here = all(from, folder)?;
        if here.is_empty() {
            return Ok(Vec::new());
        }
        let there = to_folder.map(|folder| all(to, folder)).transpose()?.unwrap_or_default();
        let mut lacking = Vec::new();
        for backup in staying {
            let Some(files) = here.get(&backup.name) else { continue };
            let covered = there.get(&backup.name).map(Vec::as_slice).unwrap_or_default();
            lacking.extend(of_log(files, covered).into_iter().cloned());
        }
        Ok(lacking)
    }

    fn check(&self, repository: &Repository, object: &ObjectInfo) -> Result<()> {
        for file in files_of(object)? {
            // What is sealed was compared byte for byte; that it is what it says, shows without a
            // key.
            if file.is_sealed() {
                file.label(repository)?;
                continue;
            }
            let footer = file.footer(repository)?;
            file.check_content(repository, &footer)?;
        }
        Ok(())
    }

    fn can_seal(&self, object: &str) -> bool {
        let (_, rest) = split(object);
        Span::parse(rest).or_else(|| Span::parse_pack(rest)).is_some()
    }

    fn seal(
        &self,
        env: &Env,
        (from, object): (&Repository, &ObjectInfo),
        (to, target): (&Repository, &ObjectName),
    ) -> Result<()> {
        // Each file of a pack is sealed for itself, and lies for itself until it is packed there.
        let (prefix, _) = split(target.as_str());
        for file in files_of(object)? {
            env.proceed()?;
            let footer = file.footer(from)?;
            file.check_content(from, &footer)?;
            let target = file.span.object(prefix, true)?;
            match write::seal_copy(to, target.clone(), from, (&file, &footer)) {
                // Another copy was faster.
                Err(error) if error.kind() == Kind::Refused => {}
                stored => stored?.read_back(env, to, target.as_str())?,
            }
        }
        Ok(())
    }
}

/// An object of a log, and what it covers.
type Covering = (Span, ObjectInfo);

/// Which objects of a log are wanted where those others are.
fn of_log<'o>(here: &'o [Covering], there: &[Covering]) -> Vec<&'o ObjectInfo> {
    let is_pack = |one: &Covering| one.0.to - one.0.from > 1 && one.0.level == 0;
    let packs: Vec<Span> = here.iter().filter(|one| is_pack(one)).map(|(span, _)| *span).collect();
    let is_wanted = |one: &&Covering| {
        let span = one.0;
        // What is in a pack goes with it.
        let is_packed = span.level == 0
            && packs.iter().any(|pack| {
                (pack.from, pack.to) != (span.from, span.to)
                    && pack.from <= span.from
                    && span.to <= pack.to
            });
        let is_covered = match is_pack(one) {
            // Maybe it lies there in other packs, or in none.
            true => covers(there, span),
            // What was put together there is not taken apart again.
            false => there.iter().any(|(other, _)| other.from <= span.from && span.to <= other.to),
        };
        !is_packed && !is_covered
    };
    here.iter().filter(is_wanted).map(|(_, object)| object).collect()
}

/// Whether objects, sorted, cover all positions of a span.
fn covers(objects: &[Covering], span: Span) -> bool {
    let mut reached = span.from;
    for (one, _) in objects {
        if one.from > reached {
            break;
        }
        reached = reached.max(one.to);
    }
    reached >= span.to
}

/// The files of all logs in a folder by the backup that they belong to, each sorted.
fn all(repository: &Repository, folder: &str) -> Result<BTreeMap<String, Vec<Covering>>> {
    let prefix = format!("{folder}/log");
    let mut found: BTreeMap<String, Vec<Covering>> = BTreeMap::new();
    for object in repository.store().list(Some(&prefix))? {
        let rest = object.name.as_str().strip_prefix(&prefix);
        let rest = rest.and_then(|rest| rest.strip_prefix('/')?.split_once('/'));
        let Some((backup, file)) = rest else { continue };
        let span = Span::parse(file).or_else(|| Span::parse_pack(file));
        let (backup, Some(span)) = (backup.to_owned(), span) else { continue };
        found.entry(backup).or_default().push((span, object));
    }
    found.values_mut().for_each(|files| files.sort_by_key(|(span, _)| *span));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn objects(spans: &[(u64, u64, u8)]) -> Vec<Covering> {
        let mut objects: Vec<Covering> = spans
            .iter()
            .map(|&(from, to, level)| {
                let span = Span { from, to, level };
                let name = match level == 0 && to - from > 1 {
                    true => span.pack_object("a/log/b", false),
                    false => span.object("a/log/b", false),
                };
                let modified = Timestamp::UNIX_EPOCH;
                (span, ObjectInfo { name: name.unwrap(), bytes: 1, modified })
            })
            .collect();
        objects.sort_by_key(|(span, _)| *span);
        objects
    }

    #[test]
    fn what_is_packed_goes_once_and_only_where_it_is_not_yet() {
        let here = objects(&[(0, 1, 0), (1, 2, 0), (0, 4, 0), (4, 5, 0), (5, 9, 2)]);
        let wanted = |there: &[(u64, u64, u8)]| -> Vec<String> {
            let there = objects(there);
            let wanted = of_log(&here, &there);
            wanted.iter().map(|object| object.name.as_str()[10..].to_owned()).collect()
        };
        let pack = "0000000000-0000000004.pagelogs".to_owned();
        let next = "0000000004-0000000005.pagelog".to_owned();
        let merged = "0000000005-0000000009.pagelog".to_owned();
        assert_eq!(wanted(&[]), [pack.clone(), next.clone(), merged.clone()]);
        let single = [(0, 1, 0), (1, 2, 0), (2, 3, 0), (3, 4, 0)];
        assert_eq!(wanted(&single), [next.clone(), merged.clone()]);
        assert_eq!(wanted(&single[..3]), [pack, next.clone(), merged.clone()]);
        assert_eq!(wanted(&[(0, 3, 0), (3, 4, 0)]), [next, merged.clone()]);
        assert_eq!(wanted(&[(0, 9, 2)]), [""; 0]);
        assert_eq!(wanted(&[(0, 5, 0)]), [merged]);
    }
}
