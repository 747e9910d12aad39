//! Which files of a page log another repository lacks.

use std::collections::BTreeMap;

use lifeboat_core::Result;
use lifeboat_core::copy::LogSelection;
use lifeboat_core::env::Env;
use lifeboat_core::manifest::Manifest;
use lifeboat_core::repository::Repository;
use lifeboat_core::store::{ObjectInfo, ObjectName};
use lifeboat_core::{Error, Kind};

use super::names::Span;
use super::read::LogObject;
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
            // What was put together there is not taken apart again.
            let is_covered = |span: &Span| {
                covered.iter().any(|(other, _)| other.from <= span.from && span.to <= other.to)
            };
            let wanted = files.iter().filter(|(span, _)| !is_covered(span));
            lacking.extend(wanted.map(|(_, object)| object.clone()));
        }
        Ok(lacking)
    }

    fn check(&self, repository: &Repository, object: &ObjectInfo) -> Result<()> {
        let name = object.name.as_str();
        let Some(span) = span_of(name) else {
            return Err(Error::new(Kind::CheckFailed, format!("{name} is no file of a log")));
        };
        let file = LogObject { object: object.name.clone(), bytes: object.bytes, span };
        // What is sealed was compared byte for byte; that it is what it says, shows without a key.
        match file.is_sealed() {
            true => file.label(repository).map(drop),
            false => {
                let footer = file.footer(repository)?;
                file.check_content(repository, &footer)
            }
        }
    }

    fn can_seal(&self, object: &str) -> bool {
        span_of(object).is_some()
    }

    fn seal(
        &self,
        env: &Env,
        (from, object): (&Repository, &ObjectInfo),
        (to, target): (&Repository, &ObjectName),
    ) -> Result<()> {
        let name = object.name.as_str();
        let Some(span) = span_of(name) else {
            return Err(Error::new(Kind::CheckFailed, format!("{name} is no file of a log")));
        };
        let file = LogObject { object: object.name.clone(), bytes: object.bytes, span };
        let footer = file.footer(from)?;
        file.check_content(from, &footer)?;
        match write::seal_copy(to, target.clone(), from, (&file, &footer)) {
            // Another copy was faster.
            Err(error) if error.kind() == Kind::Refused => Ok(()),
            stored => stored?.read_back(env, to, target.as_str()),
        }
    }
}

/// What the name of an object of a log says.
fn span_of(name: &str) -> Option<Span> {
    let mut parts = name.rsplitn(3, '/');
    let (file, level) = (parts.next()?, parts.next()?);
    Span::parse(&format!("{level}/{file}"))
}

/// The files of all logs in a folder by the backup that they belong to, each sorted.
fn all(repository: &Repository, folder: &str) -> Result<BTreeMap<String, Vec<(Span, ObjectInfo)>>> {
    let prefix = format!("{folder}/log");
    let mut found: BTreeMap<String, Vec<(Span, ObjectInfo)>> = BTreeMap::new();
    for object in repository.store().list(Some(&prefix))? {
        let rest = object.name.as_str().strip_prefix(&prefix);
        let rest = rest.and_then(|rest| rest.strip_prefix('/')?.split_once('/'));
        let Some((backup, file)) = rest else { continue };
        let (backup, Some(span)) = (backup.to_owned(), Span::parse(file)) else { continue };
        found.entry(backup).or_default().push((span, object));
    }
    found.values_mut().for_each(|files| files.sort_by_key(|(span, _)| *span));
    Ok(found)
}
