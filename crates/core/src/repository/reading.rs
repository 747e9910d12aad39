//! Reading everything that a repository says of itself: one list, then each small object that
//! says something, several at once where the store is faster so; manifests, where somebody only
//! looks, from the cache and from packs.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;

use super::{FORMAT, Repository, SOURCE};
use crate::cache::{self, Cache};
use crate::catalog::{Catalog, Listed, SourceEntry, SourceRecord, Unreadable};
use crate::error::{Error, Kind, Result};
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest};
use crate::marks::{Drilled, MarkKind, Marker, Outcome, Pin, Tombstone};
use crate::parallel::in_parallel;
use crate::store::{ObjectInfo, ObjectName, get_bytes};

/// So many objects for each thread, or it is not worth its start.
const OBJECTS_PER_READER_MIN: usize = 16;
/// The cache is written anew when it lacks one of so many manifests.
const LACKING_ONE_OF: usize = 100;
/// So many more that are new are read without it, by who looks again.
const FEW: usize = 16;

/// An object that says something of a source.
struct Wanted<'a> {
    object: &'a ObjectInfo,
    /// The place of its source in the catalog.
    source: usize,
    /// What it is and of which backup, if it is not a manifest.
    mark: Option<(MarkKind, &'a str)>,
}

/// What it said.
enum Said {
    Backup(Box<Manifest>, Origin),
    Tombstone(Tombstone),
    Pin(Pin),
    Marker(Marker),
    Outcome(Outcome),
    Drilled(Box<Drilled>),
}

/// What was read of manifests before: by this host, or by who wrote the packs.
#[derive(Default)]
struct Known {
    cache: cache::Known,
    packs: Vec<cache::Known>,
}

impl Known {
    fn bytes_of(&self, object: &ObjectInfo) -> Option<(&[u8], Origin)> {
        if let Some(bytes) = self.cache.bytes_of(object) {
            return Some((bytes, Origin::Cache));
        }
        let packed = self.packs.iter().find_map(|pack| pack.bytes_of(object));
        packed.map(|bytes| (bytes, Origin::Pack))
    }
}

/// Manifests that an older catalog has.
#[derive(Default)]
struct Older<'a> {
    /// By folder and name. `None` where two have one name: nobody knows which of them a file was.
    manifests: HashMap<(&'a str, &'a str), Option<&'a Manifest>>,
    listed: Option<&'a HashMap<String, Listed>>,
}

impl<'a> Older<'a> {
    fn of(catalog: &'a Catalog) -> Self {
        let mut manifests = HashMap::new();
        for entry in &catalog.sources {
            for backup in entry.backups.iter().chain(&entry.removed) {
                manifests
                    .entry((entry.folder.as_str(), backup.name.as_str()))
                    .and_modify(|known| *known = None)
                    .or_insert(Some(backup));
            }
        }
        Older { manifests, listed: Some(&catalog.listed) }
    }

    fn manifest_of(&self, object: &ObjectInfo) -> Option<&'a Manifest> {
        let listed = self.listed?.get(object.name.as_str())?;
        let (folder, file) = object.name.as_str().split_once('/')?;
        let manifest = self.manifests.get(&(folder, file.strip_suffix(".json")?))?;
        manifest.filter(|_| *listed == (object.bytes, object.modified))
    }

    fn has(&self, object: &ObjectInfo) -> bool {
        self.manifest_of(object).is_some()
    }
}

/// Where a manifest was read.
enum Origin {
    /// It was read for an older catalog.
    Older,
    Cache,
    Pack,
    /// With its bytes, where a cache wants them.
    Store(Vec<u8>),
}

impl Repository {
    /// Reads everything that it says of itself: one list, then each `source.json`, manifest,
    /// tombstone and pin.
    pub fn catalog(&self) -> Result<Catalog> {
        let settled_before = self.cache.as_deref().map(Cache::settled_before);
        self.read_catalog(&self.store.list(None)?, settled_before)
    }

    /// The same, for who looks again: a manifest that an older catalog has, and that is listed as
    /// it was then, is not read once more. That catalog must have been read in the same way.
    pub fn catalog_after(&self, older: &Catalog) -> Result<Catalog> {
        let settled_before = self.cache.as_deref().map(Cache::settled_before);
        self.read_catalog_after(&self.store.list(None)?, settled_before, Older::of(older))
    }

    /// What it says of one source, with its tombstones and pins, and the files of its folder.
    pub fn source_entry(&self, folder: &str) -> Result<(SourceEntry, Vec<ObjectInfo>)> {
        let files = self.store.list(Some(folder))?;
        let mut objects = files.clone();
        for kind in [MarkKind::Tombstone, MarkKind::Pin, MarkKind::Drilled] {
            objects.extend(self.store.list(Some(&kind.prefix(folder)))?);
        }
        // A source may be named `pins`: then its folder's objects are among the marks, and the
        // other way round, and its files are one level higher.
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        objects.dedup_by(|a, b| a.name == b.name);
        let own = |object: &ObjectInfo| object.name.as_str().matches('/').count() == 1;
        let files = files.into_iter().filter(own).collect();
        let catalog = self.catalog_of(&objects)?;
        let entry = catalog.sources.into_iter().find(|entry| entry.folder == folder);
        let entry = entry.ok_or_else(|| {
            Error::new(Kind::NotCovered, format!("the repository holds no source `{folder}`"))
                .hint("lifeboat list")
        })?;
        Ok((entry, files))
    }

    /// Reads what those objects say. A tombstone or pin without its source is left out.
    pub(crate) fn catalog_of(&self, objects: &[ObjectInfo]) -> Result<Catalog> {
        self.read_catalog(objects, None)
    }

    /// With `settled_before`, these are all objects: the cache then holds the manifests among them
    /// that were stored before.
    fn read_catalog(
        &self,
        objects: &[ObjectInfo],
        settled_before: Option<Timestamp>,
    ) -> Result<Catalog> {
        self.read_catalog_after(objects, settled_before, Older::default())
    }

    fn read_catalog_after(
        &self,
        objects: &[ObjectInfo],
        settled_before: Option<Timestamp>,
        mut older: Older<'_>,
    ) -> Result<Catalog> {
        let mut catalog = Catalog { sources: self.sources(objects)?, listed: HashMap::default() };
        let wanted = wanted(&catalog, objects);
        let is_old = |one: &&Wanted<'_>| one.mark.is_none() && older.has(one.object);
        let old = wanted.iter().filter(is_old).count();
        let manifests = wanted.iter().filter(|one| one.mark.is_none()).count();
        // The few that are new are read as they are, without what was kept of all.
        let goes_on = old > 0 && manifests - old <= manifests / LACKING_ONE_OF + FEW;
        let known = match goes_on {
            true => Known::default(),
            false => self.known(objects, &catalog, &wanted),
        };
        if !goes_on {
            older = Older::default();
        }
        let to_read = if goes_on { wanted.len() - old } else { wanted.len() };
        let readers = self.store.readers().min(to_read / OBJECTS_PER_READER_MIN);
        // An error that is not of one object ends it: the others need not wait for theirs.
        let ended = AtomicBool::new(false);
        let read = in_parallel(&wanted, readers, |wanted| {
            let said = (!ended.load(Ordering::Relaxed)).then(|| self.read(wanted, &known, &older));
            if let Some(Err(error)) = &said
                && !is_of_one_object(error)
            {
                ended.store(true, Ordering::Relaxed);
            }
            said
        });
        if ended.into_inner() {
            let first = read
                .into_iter()
                .flatten()
                .find_map(|said| said.err().filter(|error| !is_of_one_object(error)));
            return match first {
                Some(error) => Err(error),
                None => Err(Error::new(Kind::Failed, "reading the catalog ended too early")),
            };
        }
        let read: Vec<Result<Said>> = read.into_iter().flatten().collect();
        if let (Some(cache), Some(settled_before)) = (&self.cache, settled_before) {
            if !goes_on {
                refresh(cache, &known, &wanted, &read, settled_before);
            }
            catalog.listed = listed(&wanted, &read, settled_before);
        }
        drop(known);
        for (wanted, said) in wanted.iter().zip(read) {
            note(&mut catalog.sources[wanted.source], wanted, said)?;
        }
        catalog.sources.iter_mut().for_each(SourceEntry::settle);
        Ok(catalog)
    }

    /// What need not be read once more, by who only looks.
    fn known(&self, objects: &[ObjectInfo], catalog: &Catalog, wanted: &[Wanted<'_>]) -> Known {
        let cache = self.cache.as_deref().map(Cache::known).unwrap_or_default();
        if !self.only_looks {
            return Known { cache, packs: Vec::new() };
        }
        let mut lacking: BTreeMap<&str, Vec<&ObjectInfo>> = BTreeMap::new();
        for one in wanted.iter().filter(|one| one.mark.is_none()) {
            if cache.bytes_of(one.object).is_none() {
                let folder = catalog.sources[one.source].folder.as_str();
                lacking.entry(folder).or_default().push(one.object);
            }
        }
        let packs = self.packed(objects, &lacking);
        Known { cache, packs }
    }

    /// Whose the folders are.
    fn sources(&self, objects: &[ObjectInfo]) -> Result<Vec<SourceEntry>> {
        let mut sources = Vec::new();
        for object in objects {
            if let Some((folder, SOURCE)) = object.name.as_str().split_once('/') {
                match self.read_record(&object.name) {
                    Ok(record) => sources.push(SourceEntry::new(folder.into(), record)),
                    Err(error) if error.kind() == Kind::CheckFailed => {
                        // One damaged file must not hide the backups beside it, nor all others.
                        let Some(record) = self.record_of_manifests(folder, objects) else {
                            continue;
                        };
                        let mut entry = SourceEntry::new(folder.into(), record);
                        let (object, reason) = (object.name.to_string(), error.message().into());
                        entry.unreadable.push(Unreadable { object, reason });
                        sources.push(entry);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(sources)
    }

    /// Whose folder it is as its newest readable manifest says, which holds the same facts.
    fn record_of_manifests(&self, folder: &str, objects: &[ObjectInfo]) -> Option<SourceRecord> {
        let in_folder = |object: &&ObjectInfo| {
            let file = object.name.as_str().strip_prefix(folder)?.strip_prefix('/')?;
            (!file.contains('/') && file != SOURCE && file.ends_with(".json")).then_some(())
        };
        let manifests = objects.iter().rev().filter(|object| in_folder(object).is_some());
        let label = manifests.filter_map(|object| self.read_manifest(&object.name).ok()).next()?;
        let label = label.source;
        let (id, name, kind) = (label.id, label.name, label.kind);
        let (host, location) = (label.host, label.location);
        Some(SourceRecord { format: FORMAT, id, name, kind, host, location })
    }

    fn read(&self, wanted: &Wanted<'_>, known: &Known, older: &Older<'_>) -> Result<Said> {
        let name = &wanted.object.name;
        match wanted.mark {
            Some((MarkKind::Tombstone, _)) => return Ok(Said::Tombstone(self.read_mark(name)?)),
            Some((MarkKind::Pin, _)) => return Ok(Said::Pin(self.read_mark(name)?)),
            Some((MarkKind::Marker, _)) => return Ok(Said::Marker(self.read_mark(name)?)),
            Some((MarkKind::Outcome, _)) => return Ok(Said::Outcome(self.read_mark(name)?)),
            Some((MarkKind::Drilled, _)) => {
                return Ok(Said::Drilled(Box::new(self.read_mark(name)?)));
            }
            Some((kind, _)) if is_read_apart(kind) => {
                return Err(Error::new(Kind::NotCovered, format!("{name} is not read")));
            }
            _ => {}
        }
        if let Some(manifest) = older.manifest_of(wanted.object) {
            return Ok(Said::Backup(Box::new(manifest.clone()), Origin::Older));
        }
        // What of the cache cannot be read says nothing: the store does.
        if let Some((bytes, origin)) = known.bytes_of(wanted.object)
            && let Ok(manifest) = self.parse(bytes, name)
        {
            return Ok(Said::Backup(Box::new(manifest), origin));
        }
        let bytes = get_bytes(&*self.store, name, MANIFEST_BYTES_MAX)?;
        let manifest = self.parse(&bytes, name)?;
        let kept = if self.cache.is_some() { bytes } else { Vec::new() };
        Ok(Said::Backup(Box::new(manifest), Origin::Store(kept)))
    }

    fn parse(&self, bytes: &[u8], name: &ObjectName) -> Result<Manifest> {
        match self.brief {
            None => Manifest::parse(bytes, name.as_str()),
            Some(facts_of) => Manifest::parse_brief(bytes, name.as_str(), facts_of),
        }
    }

    fn read_manifest(&self, name: &ObjectName) -> Result<Manifest> {
        let bytes = get_bytes(&*self.store, name, MANIFEST_BYTES_MAX)?;
        Manifest::parse(&bytes, name.as_str())
    }
}

/// Whether only a prune, or who asks for one backup, wants them.
fn is_read_apart(kind: MarkKind) -> bool {
    use MarkKind::{Begun, Levels, Proof, Record, Rested};
    matches!(kind, Record | Levels | Begun | Proof | Rested)
}

/// The manifests, tombstones and pins of the sources.
fn wanted<'a>(catalog: &Catalog, objects: &'a [ObjectInfo]) -> Vec<Wanted<'a>> {
    let numbered = catalog.sources.iter().enumerate();
    let places: HashMap<&str, usize> =
        numbered.map(|(place, entry)| (entry.folder.as_str(), place)).collect();
    let mut found = Vec::new();
    for object in objects {
        let name = object.name.as_str();
        let (mark, folder) = match (MarkKind::of_object(name), name.split_once('/')) {
            (Some((kind, _, _)), _) if is_read_apart(kind) => continue,
            (Some((kind, folder, backup)), _) => (Some((kind, backup)), folder),
            // A file `*.json` right in a source's folder is a manifest.
            (None, Some((folder, file)))
                if !file.contains('/') && file != SOURCE && file.ends_with(".json") =>
            {
                (None, folder)
            }
            _ => continue,
        };
        if let Some(source) = places.get(folder).copied() {
            found.push(Wanted { object, source, mark });
        }
    }
    found
}

/// Damage of an object, or that it is gone. Others are of the store.
fn is_of_one_object(error: &Error) -> bool {
    matches!(error.kind(), Kind::CheckFailed | Kind::Failed | Kind::NotCovered)
}

/// Adds what an object said to what is known of its source.
fn note(entry: &mut SourceEntry, wanted: &Wanted<'_>, said: Result<Said>) -> Result<()> {
    match said {
        Ok(Said::Backup(manifest, _)) => entry.backups.push(*manifest),
        Ok(Said::Tombstone(tombstone)) => entry.tombstones.push(tombstone),
        Ok(Said::Pin(pin)) => entry.pins.push(pin),
        Ok(Said::Marker(marker)) => entry.markers.push(marker),
        Ok(Said::Outcome(outcome)) => entry.outcomes.push(outcome),
        Ok(Said::Drilled(drilled)) => entry.drilled.push(*drilled),
        Err(error) if matches!(error.kind(), Kind::CheckFailed | Kind::Failed) => {
            let (object, reason) = (wanted.object.name.to_string(), error.message().to_owned());
            entry.unreadable.push(Unreadable { object, reason });
            if let Some((MarkKind::Pin, backup)) = wanted.mark {
                entry.pins.push(Pin::unreadable(entry.record.id, backup));
            }
        }
        // Deleted since the list was made.
        Err(error) if error.kind() == Kind::NotCovered => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// How the objects were listed whose manifests were read, and that cannot be replaced any more
/// without being listed otherwise.
fn listed(
    wanted: &[Wanted<'_>],
    read: &[Result<Said>],
    settled_before: Timestamp,
) -> HashMap<String, Listed> {
    let is_settled = |said: &Result<Said>, object: &ObjectInfo| match said {
        Ok(Said::Backup(_, Origin::Store(bytes))) => {
            object.modified < settled_before && object.bytes == bytes.len() as u64
        }
        Ok(Said::Backup(..)) => true,
        _ => false,
    };
    wanted
        .iter()
        .zip(read)
        .filter(|(wanted, said)| is_settled(said, wanted.object))
        .map(|(wanted, _)| {
            let object = wanted.object;
            (object.name.to_string(), (object.bytes, object.modified))
        })
        .collect()
}

/// Writes the cache anew if it lacks so much that it is worth it.
fn refresh(
    cache: &Cache,
    known: &Known,
    wanted: &[Wanted<'_>],
    read: &[Result<Said>],
    settled_before: Timestamp,
) {
    let (mut all, mut lacking) = (Vec::new(), 0);
    for (wanted, said) in wanted.iter().zip(read) {
        match said {
            Ok(Said::Backup(_, origin @ (Origin::Cache | Origin::Pack))) => {
                all.extend(known.bytes_of(wanted.object).map(|(bytes, _)| (wanted.object, bytes)));
                lacking += usize::from(matches!(origin, Origin::Pack));
            }
            // What was replaced while it was read has another size, or is too young.
            Ok(Said::Backup(_, Origin::Store(bytes)))
                if wanted.object.modified < settled_before
                    && wanted.object.bytes == bytes.len() as u64 =>
            {
                all.push((wanted.object, bytes.as_slice()));
                lacking += 1;
            }
            _ => {}
        }
    }
    if lacking > all.len() / LACKING_ONE_OF {
        cache.replace(&all);
    }
}
