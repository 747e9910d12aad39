//! Loads an archive of ours table by table, straight from the repository: several tables at once,
//! each in one go, with rows that are frozen from the beginning. Nothing is unpacked to our disk.
//!
//! The manifest says where in the archive the rows of each table begin, and the artifact can be
//! read from there. So the tables are read beside each other, the largest one first, by sessions of
//! our own ([`LoadingConnection`]). What is no row, `pg_restore` runs before and after
//! ([`super::sections`]). The hash of the stored bytes is taken meanwhile; until it agrees nothing
//! counts, and the scratch database of a failure goes.
//!
//! It is the quickest way, and not always possible: only in a local repository (elsewhere the bytes
//! would be fetched twice), without a seal, without large objects, and with a server that our own
//! sessions reach. Everything else is unpacked or loaded while it is read.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::manifest::Artifact;
use lifeboat_core::pipeline::{Compression, PartReader, Sha256Hex};
use lifeboat_core::repository::Repository;
use lifeboat_core::restore::Origin;
use lifeboat_core::store::ObjectName;
use lifeboat_core::{Error, Kind, Result};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::archive::{ArchiveReader, Contents, Entry, Head, InnerCompression, MadeTables, Piece};
use crate::capture::DATA_BEGINS;
use crate::quote::identifier;
use crate::replication::LoadingConnection;

use super::RestoreRequest;
use super::counts::count_of;
use super::load::{JOBS_MAX, nothing_changed, session_settings};
use super::plan::RestorePlan;
use super::sections::{SECTION_AFTER_DATA, SECTION_DATA, Sections, with_rights_last};
use super::stage::Loaded;

/// So much of the contents is read at once.
const PIECE_BYTES: usize = 128 << 10;
/// No more of a table's rows is taken at once.
const PIECE_BYTES_MAX: u64 = 1 << 20;
/// What is read of the stored bytes at once, for their hash.
const STORED_PIECE_BYTES: usize = 1 << 20;

/// What every session that loads is told first, as `pg_restore` tells it.
const SESSION: &[&str] = &[
    "SET lock_timeout = 0",
    "SET idle_in_transaction_session_timeout = 0",
    "SET standard_conforming_strings = on",
    "SET search_path = ''",
    "SET xmloption = content",
    "SET client_min_messages = warning",
    "SET row_security = off",
];

/// An archive whose tables can be loaded so.
pub(super) struct ByTable<'a> {
    repository: &'a Repository,
    object: ObjectName,
    artifact: &'a Artifact,
    compression: Compression,
    contents: Contents,
    /// Reads single blocks.
    reader: ArchiveReader,
    /// The contents for what runs before and after the rows.
    for_sections: Vec<u8>,
    /// The same, with nothing among the data that has rows; nothing where that leaves nothing.
    for_sequences: Option<Vec<u8>>,
    tables: Vec<Table>,
}

/// A table's rows in the archive.
struct Table {
    /// The entry's place in the contents.
    place: usize,
    begin: u64,
    bytes: u64,
}

/// Looks whether an archive can be loaded so, and reads its contents then.
pub(super) fn find<'a>(
    env: &Env,
    request: &RestoreRequest<'a>,
    plan: &RestorePlan,
) -> Result<Option<ByTable<'a>>> {
    let Origin::Backup { repository, folder, manifest } = request.origin else { return Ok(None) };
    let begins = manifest.facts.get(DATA_BEGINS).and_then(Value::as_object);
    let artifact = manifest.artifacts.first().filter(|artifact| artifact.sealed.is_none());
    let (Some(begins), Some(artifact)) = (begins, artifact) else { return Ok(None) };
    let is_whole = request.schemas.is_empty() && request.tables.is_empty();
    let is_near = repository.store().url().starts_with("file:");
    if !is_whole || !is_near || !request.target.is_local() || !can_connect(env, request, plan) {
        return Ok(None);
    }
    let mut offsets: Vec<(i64, u64)> = begins
        .iter()
        .filter_map(|(id, offset)| Some((id.parse().ok()?, offset.as_u64()?)))
        .collect();
    offsets.sort_unstable_by_key(|(_, offset)| *offset);
    let (first, last) = match (offsets.first(), offsets.last()) {
        (Some((_, first)), Some((_, last))) => (*first, *last),
        _ => return Ok(None),
    };
    // What cannot be true is no hint: the archive is read from its beginning.
    if last >= artifact.plain_bytes {
        return Ok(None);
    }
    let object = repository.object(folder, &artifact.name)?;
    let compression = repository.wrapping(artifact)?.compression;
    let sizes = (artifact.stored_bytes, artifact.plain_bytes);
    let parts = PartReader::open(repository.store(), &object, compression, sizes)?;
    let Some(mut parts) = parts else { return Ok(None) };
    let Some(read) = read_head(&mut parts, first, artifact.plain_bytes)? else {
        return Ok(None);
    };
    let contents = &read.contents;
    let with_data = contents.entries.iter().enumerate().filter(|(_, entry)| entry.has_data);
    let only_rows = with_data.clone().all(|(_, entry)| entry.has_rows);
    if !only_rows || contents.inner != InnerCompression::None {
        return Ok(None);
    }
    let ends = offsets.iter().skip(1).map(|(_, offset)| *offset);
    let ends = ends.chain([artifact.plain_bytes]);
    let sizes: BTreeMap<i64, (u64, u64)> =
        offsets.iter().zip(ends).map(|((id, begin), end)| (*id, (*begin, end - begin))).collect();
    let tables: Option<Vec<Table>> = with_data
        .map(|(place, entry)| {
            let (begin, bytes) = *sizes.get(&entry.id)?;
            Some(Table { place, begin, bytes })
        })
        .collect();
    let Some(mut tables) = tables else { return Ok(None) };
    tables.sort_by_key(|table| table.bytes);
    let Heads { contents, reader, for_sections, for_sequences } = read;
    Ok(Some(ByTable {
        repository,
        object,
        artifact,
        compression,
        contents,
        reader,
        for_sections,
        for_sequences,
        tables,
    }))
}

/// Whether our own sessions reach the server: they know fewer ways to log in than its programs.
fn can_connect(env: &Env, request: &RestoreRequest<'_>, plan: &RestorePlan) -> bool {
    let connect = |client| LoadingConnection::open(env, &client, "", "cannot load rows");
    plan.maintenance(request.target).and_then(connect).is_ok()
}

struct Heads {
    contents: Contents,
    reader: ArchiveReader,
    for_sections: Vec<u8>,
    for_sequences: Option<Vec<u8>>,
}

/// The contents. Their reader looks at them again when twice as many bytes are there: so it gets
/// more than the bytes before the first data.
fn read_head(parts: &mut PartReader<'_>, before_data: u64, all: u64) -> Result<Option<Heads>> {
    let until = all.min(2 * before_data + PIECE_BYTES as u64);
    let (mut archive, mut heads, mut at) = (ArchiveReader::new(), None, 0);
    let mut piece = vec![0; PIECE_BYTES];
    while at < until && heads.is_none() {
        let count = PIECE_BYTES.min((until - at) as usize);
        parts.read(at, &mut piece[..count])?;
        at += count as u64;
        archive.push_to(&piece[..count], &mut |found| {
            if let Piece::Head(head) = found {
                let for_sections = with_rights_last(head);
                let for_sequences = without_rows(head, &for_sections);
                heads = Some((head.contents.clone(), for_sections, for_sequences));
            }
            Ok(())
        })?;
    }
    Ok(heads.map(|(contents, for_sections, for_sequences)| {
        let reader = archive.of_blocks();
        Heads { contents, reader, for_sections, for_sequences }
    }))
}

/// The contents without rows among the data: they are loaded by then. `None` where the data are
/// nothing else.
fn without_rows(head: &Head<'_>, bytes: &[u8]) -> Option<Vec<u8>> {
    let (mut bytes, mut are_others) = (bytes.to_vec(), false);
    for (entry, place) in head.contents.entries.iter().zip(head.section_places) {
        let number = *place + 1;
        match (bytes[number] == SECTION_DATA, entry.has_rows) {
            (true, true) => bytes[number] = SECTION_AFTER_DATA,
            (true, false) => are_others = true,
            (false, _) => {}
        }
    }
    are_others.then_some(bytes)
}

/// Loads all of it; the first error ends it.
pub(super) fn load(sections: Sections<'_>, by_table: &ByTable<'_>) -> Result<Loaded> {
    let (env, plan) = (sections.env, sections.plan);
    let phase = "loading";
    let bytes_total = Some(by_table.artifact.plain_bytes);
    env.tell(Event::PhaseBegan { subject: &plan.what, phase, bytes_total });
    let contents = sections.keep(&by_table.for_sections)?;
    sections.before_data(&contents)?;
    let rows = Rows {
        sections,
        by_table,
        made: MadeTables::of(&by_table.contents),
        waiting: Mutex::new(by_table.tables.iter().collect()),
        loaded: Mutex::new(Loaded::of(BTreeMap::new())),
        failed: AtomicBool::new(false),
    };
    let loaders = env.threads.clamp(1, JOBS_MAX).min(by_table.tables.len());
    std::thread::scope(|scope| {
        let mut running: Vec<_> = (0..loaders).map(|_| scope.spawn(|| rows.load())).collect();
        running.push(scope.spawn(|| rows.compare_stored()));
        let ended = running.into_iter().map(|thread| {
            let panicked = |_| Err(Error::new(Kind::Failed, "a thread that loads ended badly"));
            thread.join().unwrap_or_else(panicked)
        });
        // All of them are waited for; what only followed from another's error is none of its own.
        let errors = ended.filter_map(std::result::Result::err).collect::<Vec<_>>();
        let first = errors.into_iter().min_by_key(|error| error.kind() == Kind::Interrupted);
        first.map_or(Ok(()), Err)
    })
    .map_err(nothing_changed)?;
    if let Some(for_sequences) = &by_table.for_sequences {
        sections.beside_data(&sections.keep(for_sequences)?)?;
    }
    sections.after_data(&contents)?;
    env.tell(Event::PhaseEnded { phase });
    let loaded = rows.loaded.into_inner();
    loaded.map_err(|_| Error::new(Kind::Failed, "a thread that loads ended badly"))
}

/// The rows of all tables, on their way.
struct Rows<'a> {
    sections: Sections<'a>,
    by_table: &'a ByTable<'a>,
    made: MadeTables,
    /// The largest one is last, and taken first.
    waiting: Mutex<Vec<&'a Table>>,
    loaded: Mutex<Loaded>,
    failed: AtomicBool,
}

impl Rows<'_> {
    /// Loads tables, until there are none or somebody failed.
    fn load(&self) -> Result<()> {
        let loaded = self.load_tables();
        if loaded.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        loaded
    }

    fn load_tables(&self) -> Result<()> {
        let ByTable { repository, object, artifact, compression, .. } = self.by_table;
        let sizes = (artifact.stored_bytes, artifact.plain_bytes);
        let parts = PartReader::open(repository.store(), object, *compression, sizes)?;
        let Some(mut parts) = parts else { return Err(self.damaged("it cannot be read in parts")) };
        let Sections { env, plan, scratch, .. } = self.sections;
        let what = format!("cannot load {} into {}", plan.what, scratch.name());
        let settings = session_settings(plan);
        let mut connection = LoadingConnection::open(env, scratch.client(), &settings, &what)?;
        for statement in SESSION {
            connection.execute(statement)?;
        }
        // That of the texts in the archive, by its own statement.
        let entries = &self.by_table.contents.entries;
        for encoding in entries.iter().filter(|entry| entry.kind == "ENCODING") {
            connection.execute(&encoding.definition)?;
        }
        let mut reader = self.by_table.reader.of_blocks();
        loop {
            let next = self.waiting.lock().ok().and_then(|mut waiting| waiting.pop());
            let Some(table) = next else { return Ok(()) };
            let entry = &entries[table.place];
            self.load_table(table, entry, (&mut parts, &mut reader), &mut connection)
                .map_err(|error| error.context(format!("table {}", entry.table())))?;
        }
    }

    fn load_table(
        &self,
        table: &Table,
        entry: &Entry,
        (parts, reader): (&mut PartReader<'_>, &mut ArchiveReader),
        connection: &mut LoadingConnection,
    ) -> Result<()> {
        let frozen = self.made.frozen_copy(entry);
        if frozen.is_some() {
            // Only a table that was made empty in the same transaction takes frozen rows.
            let name = format!("{}.{}", identifier(&entry.schema), identifier(&entry.name));
            connection.execute("BEGIN")?;
            connection.execute(&format!("TRUNCATE TABLE ONLY {name}"))?;
        }
        let mut rows = connection.copy_in(frozen.as_deref().unwrap_or(&entry.copy))?;
        let (mut at, end) = (table.begin, table.begin + table.bytes);
        let (mut is_its_own, mut ended) = (false, false);
        while at < end {
            self.sections.env.proceed()?;
            if self.failed.load(Ordering::Relaxed) {
                return Err(Error::new(Kind::Interrupted, "another table could not be loaded"));
            }
            let piece = parts.some(at, (end - at).min(PIECE_BYTES_MAX) as usize)?;
            let count = piece.len() as u64;
            at += count;
            reader.push_to(piece, &mut |found| match found {
                // Before any row of it is sent: a server refuses another table's rows in words that
                // say nothing of the archive.
                Piece::Block(place) if place != table.place => Err(self.misplaced()),
                Piece::Block(_) => {
                    is_its_own = true;
                    Ok(())
                }
                Piece::Data(bytes) => rows.put(bytes),
                Piece::BlockEnd => {
                    ended = true;
                    Ok(())
                }
                _ => Ok(()),
            })?;
            self.sections.env.tell(Event::Advanced { bytes: count });
        }
        let taken = rows.finish()?;
        let name = entry.table();
        if !is_its_own || !ended {
            return Err(self.misplaced());
        }
        if taken != reader.rows_of(&name) {
            return Err(self.damaged(&format!(
                "{} rows are in it, the server took {taken}",
                reader.rows_of(&name)
            )));
        }
        let mut counted = None;
        if frozen.is_some() {
            connection.execute("COMMIT")?;
            // Now, while others still load; and what is not as it must be is known before indexes.
            counted = Some(connection.number(&count_of(&entry.schema, &entry.name))?);
        }
        if let Ok(mut loaded) = self.loaded.lock() {
            loaded.counted.extend(counted.map(|counted| (name.clone(), counted)));
            *loaded.rows.entry(name).or_default() += taken;
        }
        Ok(())
    }

    /// Takes the hash of the stored bytes, and compares it.
    fn compare_stored(&self) -> Result<()> {
        let ByTable { repository, object, artifact, .. } = self.by_table;
        let mut stored = repository.store().get(object, None)?;
        let mut piece = vec![0; STORED_PIECE_BYTES];
        let mut hash = Sha256::new();
        loop {
            self.sections.env.proceed()?;
            if self.failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let count = stored.read(&mut piece).map_err(|error| {
                Error::io(Kind::StoreUnavailable, format!("cannot read {object}"), error)
            })?;
            if count == 0 {
                break;
            }
            hash.update(&piece[..count]);
        }
        match Sha256Hex(hash.finalize().into()).to_string() == artifact.stored_sha256 {
            true => Ok(()),
            false => {
                self.failed.store(true, Ordering::Relaxed);
                Err(self.damaged("the SHA-256 of its stored bytes is not that of its manifest"))
            }
        }
    }

    fn misplaced(&self) -> Error {
        self.damaged("its data are not where its manifest says")
    }

    fn damaged(&self, why: &str) -> Error {
        Error::new(Kind::CheckFailed, format!("{} is damaged: {why}", self.by_table.object))
    }
}
