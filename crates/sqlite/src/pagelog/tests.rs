//! Log files as bytes: what was written comes back, and nothing else is taken for a log file.

mod bounded;
mod hurried;
mod laying;
mod moved;
mod packed;
mod settled;
mod thinned;
mod turned;

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use lifeboat_core::env::{Clock, Env, Random};
use lifeboat_core::pipeline::block_hash;
use lifeboat_core::repository::Repository;
use lifeboat_core::seal::{Identity, Keys, Recipients};
use lifeboat_core::store::{ObjectInfo, ObjectName, ObjectReader, Put, Space, Store};
use lifeboat_core::{Error, Kind, Result};
use proptest::prelude::*;
use uuid::Uuid;

use super::delta::{Befores, Changed, Encoding, PageBytes};
use super::label::Label;
use super::lay::{self, BATCH, Batch};
use super::layout::{FOOTER_BYTES, Footer, Index};
use super::names::Span;
use super::read::LogObject;
use super::write::LogWriter;

const PREFIX: &str = "app/log/app-20250108-140000";

/// Objects, and how many were asked for.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<BTreeMap<ObjectName, Vec<u8>>>>, Arc<AtomicUsize>);

struct MemoryPut(Memory, ObjectName, Vec<u8>);

impl Write for MemoryPut {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.2.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Put for MemoryPut {
    fn commit(self: Box<Self>) -> Result<()> {
        self.0.0.lock().unwrap().insert(self.1, self.2);
        Ok(())
    }
}

impl Store for Memory {
    fn url(&self) -> String {
        "memory".into()
    }

    fn put(&self, name: &ObjectName) -> Result<Box<dyn Put>> {
        Ok(Box::new(MemoryPut(self.clone(), name.clone(), Vec::new())))
    }

    fn get(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<ObjectReader> {
        self.1.fetch_add(1, Ordering::SeqCst);
        let objects = self.0.lock().unwrap();
        let bytes = objects.get(name).ok_or_else(|| Error::new(Kind::NotCovered, "none"))?;
        let Range { start, end } = range.unwrap_or(0..bytes.len() as u64);
        let mut cursor = Cursor::new(bytes.clone());
        cursor.set_position(start);
        Ok(Box::new(cursor.take(end - start)))
    }

    fn head(&self, name: &ObjectName) -> Result<Option<ObjectInfo>> {
        let objects = self.0.lock().unwrap();
        Ok(objects.get(name).map(|bytes| info(name, bytes)))
    }

    fn list(&self, prefix: Option<&str>) -> Result<Vec<ObjectInfo>> {
        let objects = self.0.lock().unwrap();
        let all = objects.iter().map(|(name, bytes)| info(name, bytes));
        Ok(all.filter(|found| found.name.as_str().starts_with(prefix.unwrap_or(""))).collect())
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.0.lock().unwrap().remove(name);
        Ok(())
    }

    fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }
}

fn info(name: &ObjectName, bytes: &[u8]) -> ObjectInfo {
    let (name, bytes, modified) = (name.clone(), bytes.len() as u64, Timestamp::UNIX_EPOCH);
    ObjectInfo { name, bytes, modified }
}

struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn monotonic_ms(&self) -> u64 {
        0
    }

    fn sleep_ms(&self, _milliseconds: u64) {}
}

impl Random for Still {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(7);
    }
}

/// Pages of 512 bytes with their numbers, of which some have a version before.
type Pages = Vec<(u32, Vec<u8>, Option<Vec<u8>>)>;

fn footer(pages: &Pages) -> Footer {
    let count = pages.last().map_or(1, |(page, ..)| *page);
    Footer {
        source: Uuid::from_bytes([1; 16]),
        base: Uuid::from_bytes([2; 16]),
        from: 3,
        to: 4,
        index: 0..0,
        pages: 0,
        page_size: 512,
        page_count: (count, count),
        is_compacted: false,
        commits: 0,
        since_ms: -5,
        held_ms: 6,
        until_ms: 7,
        state_before: [3; 32],
        state_after: [4; 32],
        content: [0; 32],
        link_before: [5; 32],
        link: [0; 32],
        wal_place: None,
    }
}

#[test]
fn no_log_lies_open_in_a_sealed_repository() {
    let memory = Memory::default();
    let still = Arc::new(Still);
    let env = Env::new(still.clone(), still, "host");
    let identity = Identity::generate();
    let recipients = Recipients::parse(identity.recipients()).unwrap();
    let repository = Repository::open_or_create(&env, Arc::new(memory.clone())).unwrap();
    let repository = repository.sealed_to(Some(Arc::new(recipients)));
    let object = Span { from: 3, to: 4, level: 0 }.object(PREFIX, false).unwrap();
    let label = Label::of(&footer(&Vec::new()), [0; 32], [0; 32]);
    let Err(error) = LogWriter::at(&repository, object, None, &label) else {
        panic!("it was begun")
    };
    assert_eq!(error.kind(), lifeboat_core::Kind::Refused);
}

/// A key, and who has it.
struct Key(Arc<Identity>);

impl Keys for Key {
    fn identity(&self) -> Result<Arc<Identity>> {
        Ok(Arc::clone(&self.0))
    }
}

/// Writes them, sealed or not; the file as it is listed, and its store.
fn written(pages: &Pages, sealed: bool) -> (Repository, Memory, LogObject, Footer) {
    let memory = Memory::default();
    let still = Arc::new(Still);
    let env = Env::new(still.clone(), still, "host");
    let identity = Arc::new(Identity::generate());
    let recipients = Recipients::parse(identity.recipients()).unwrap();
    let repository = Repository::open_or_create(&env, Arc::new(memory.clone())).unwrap();
    let repository = repository.with_keys(Some(Arc::new(Key(identity))));
    let span = Span { from: 3, to: 4, level: 0 };
    let object = span.object(PREFIX, sealed).unwrap();
    let label = Label::of(&footer(pages), [7; 32], [0; 32]);
    let recipients = sealed.then_some(&recipients);
    let mut writer = LogWriter::at(&repository, object.clone(), recipients, &label).unwrap();
    let changed = pages.iter().map(|(page, content, before)| Changed {
        page: *page,
        hash: block_hash(content),
        content: PageBytes::Lent(content),
        before: before.as_ref().map(|before| (PageBytes::Lent(before), 2)),
    });
    let encoding = Encoding::CAREFUL.of_file(pages.len(), 512);
    writer.add(&encoding.encode(&changed.collect::<Vec<_>>()).unwrap()).unwrap();
    let stored = writer.finish(footer(pages)).unwrap();
    stored.read_back(&env, &repository, "x").unwrap();
    let file = LogObject { object, bytes: stored.bytes, span, pack: None };
    (repository, memory, file, stored.footer)
}

/// Everything that a restore reads of a file; an error, or pages with the hashes that were stored.
fn read_all(repository: &Repository, file: &LogObject, pages: &Pages) -> Result<usize> {
    let footer = file.footer(repository)?;
    file.check_content(repository, &footer)?;
    let mut reader = file.open(repository, &footer)?;
    let mut decoder = super::delta::Decoder::new();
    for at in 0..reader.index.len() {
        let entry = reader.index.entry(at);
        let before = pages.get(at).and_then(|(_, _, before)| before.clone());
        let stored = reader.stored(&entry)?.to_vec();
        let other = entry.form.other(&stored)?;
        let other = pages.iter().find(|(page, ..)| Some(*page) == other);
        let other = other.and_then(|(_, _, before)| before.as_deref());
        let befores = Befores { own: before.as_deref(), other };
        let page = decoder.decode(entry.form, &stored, befores, 512)?;
        if block_hash(page) != entry.hash {
            return Err(Error::new(Kind::CheckFailed, "a page has another hash"));
        }
    }
    Ok(reader.index.len())
}

fn some_pages() -> impl Strategy<Value = Pages> {
    let content = || proptest::collection::vec(0_u8..9, 512);
    let page = (1_u32..900, content(), proptest::option::of(content()));
    proptest::collection::btree_map(1_u32..90_000, page, 0..12).prop_map(|pages| {
        pages.into_iter().map(|(number, (_, content, before))| (number, content, before)).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_file_comes_back(pages in some_pages(), sealed in any::<bool>()) {
        let (repository, _, file, written) = written(&pages, sealed);
        let footer = file.footer(&repository).unwrap();
        prop_assert_eq!(&footer, &written);
        prop_assert_eq!(footer.own_link(), footer.link);
        prop_assert_eq!(read_all(&repository, &file, &pages).unwrap(), pages.len());
        let closed = repository.clone().with_keys(None);
        let label = file.label(&closed).unwrap();
        prop_assert!(label.fits(&footer) && (label.mark_before == [7; 32]) == sealed);
        let without_key = file.footer(&closed).map_err(|error| error.kind());
        prop_assert_eq!(without_key, if sealed { Err(Kind::WrongKey) } else { Ok(written) });
        let reader = file.open(&repository, &footer).unwrap();
        for (page, content, _) in &pages {
            prop_assert_eq!(reader.index.of_page(*page).unwrap().hash, block_hash(content));
            prop_assert_eq!(reader.index.of_page(*page + 90_000), None);
        }
    }

    /// However little is taken at once, and where the database grows by it.
    #[test]
    fn a_file_is_laid_over_a_database(
        pages in some_pages(),
        bytes in 100_u64..3_000,
        count in 1_usize..5,
        sealed in any::<bool>(),
    ) {
        let (repository, _, file, mut footer) = written(&pages, sealed);
        let still = Arc::new(Still);
        let env = Env::new(still.clone(), still, "host");
        let database = tempfile::tempfile().unwrap();
        for (page, _, before) in &pages {
            let before = before.clone().unwrap_or_default();
            database.write_all_at(&before, u64::from(page - 1) * 512).unwrap();
        }
        if pages.iter().all(|(_, _, before)| before.is_none()) {
            footer.page_count.0 = 1;
        }
        let (steps, place) = ([(file, footer)], Path::new("app.db"));
        for batch in [Batch { bytes, pages: count }, BATCH] {
            lay::all(&env, &repository, &steps, (&database, place), batch).unwrap();
            for (page, content, before) in &pages {
                let (mut laid, offset) = ([0; 512], u64::from(page - 1) * 512);
                database.read_exact_at(&mut laid, offset).unwrap();
                prop_assert_eq!(&laid[..], &content[..]);
                let before = before.clone().unwrap_or_default();
                database.write_all_at(&before, offset).unwrap();
            }
            let bytes = database.metadata().unwrap().len();
            prop_assert_eq!(bytes, u64::from(steps[0].1.page_count.1) * 512);
        }
    }

    #[test]
    fn any_damage_is_seen(
        pages in some_pages(),
        at in any::<prop::sample::Index>(),
        bit in 0..8,
        sealed in any::<bool>(),
    ) {
        let (repository, memory, file, _) = written(&pages, sealed);
        let at = at.index(file.bytes as usize);
        memory.0.lock().unwrap().get_mut(&file.object).unwrap()[at] ^= 1_u8 << bit;
        let error = read_all(&repository, &file, &pages).unwrap_err();
        // A changed recipient is nobody's key.
        let kinds = [Kind::CheckFailed, if sealed { Kind::WrongKey } else { Kind::CheckFailed }];
        prop_assert!(kinds.contains(&error.kind()), "{} {error:?}", at);
    }

    #[test]
    fn a_file_that_was_cut_is_none(
        pages in some_pages(),
        at in any::<prop::sample::Index>(),
        sealed in any::<bool>(),
    ) {
        let (repository, memory, mut file, _) = written(&pages, sealed);
        let at = at.index(file.bytes as usize);
        memory.0.lock().unwrap().get_mut(&file.object).unwrap().truncate(at);
        // As the store lists it by now, and as it was listed before.
        for bytes in [at as u64, file.bytes] {
            file.bytes = bytes;
            prop_assert_eq!(file.footer(&repository).unwrap_err().kind(), Kind::CheckFailed);
        }
    }

    #[test]
    fn any_bytes_are_an_error_and_never_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), FOOTER_BYTES),
        index in proptest::collection::vec(any::<u8>(), 0..200),
        change in proptest::collection::vec((0..FOOTER_BYTES - 40, any::<u8>()), 0..4),
    ) {
        let bytes: [u8; FOOTER_BYTES] = bytes.try_into().unwrap();
        prop_assert!(Footer::parse(&bytes, 10_000).is_err());
        // One that has the right digest but was made by somebody else.
        let (_, _, file, footer) = written(&vec![(1, vec![1; 512], None)], false);
        let mut forged = footer.to_bytes();
        change.iter().for_each(|&(at, byte)| forged[at] = byte);
        let digest = blake3::hash(&forged[..FOOTER_BYTES - 32]);
        forged[FOOTER_BYTES - 32..].copy_from_slice(digest.as_bytes());
        if let Ok(footer) = Footer::parse(&forged, file.bytes) {
            let _ = Index::parse(&index, &footer);
            prop_assert!(u64::from(footer.pages) < file.bytes);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whoever forges a file gives it right digests: what is inside is then taken apart, and is an
    /// error or pages with the hashes that the index has, and never a panic or room without end.
    #[test]
    fn a_forged_file_is_an_error_or_pages_and_never_a_panic(
        pages in some_pages(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        of_index in proptest::option::of(proptest::collection::vec(
            (any::<prop::sample::Index>(), any::<u8>()), 0..6)),
        of_footer in proptest::collection::vec((0_usize..312, any::<u8>()), 0..3),
    ) {
        let (repository, memory, file, footer) = written(&pages, false);
        let mut bytes = memory.0.lock().unwrap()[&file.object].clone();
        let index = footer.index.start as usize..footer.index.end as usize;
        if let Some(of_index) = of_index {
            // The index as it is before compression, changed and compressed again.
            let mut plain = vec![0; Index::bytes_of(footer.pages as usize)];
            zstd_safe::decompress(&mut plain[..], &bytes[index.clone()]).unwrap();
            for (at, value) in of_index {
                if !plain.is_empty() {
                    let at = at.index(plain.len());
                    plain[at] = value;
                }
            }
            let mut frame = vec![0; zstd_safe::compress_bound(plain.len())];
            let length = zstd_safe::compress(&mut frame[..], &plain, 1).unwrap();
            bytes.truncate(index.start);
            bytes.extend(&frame[..length]);
        } else {
            bytes.truncate(index.end);
            for (at, value) in edits {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
        }
        let content = *blake3::hash(&bytes).as_bytes();
        let index = footer.index.start..bytes.len() as u64;
        let mut forged = Footer { index, content, ..footer };
        forged.link = forged.own_link();
        let mut tail = forged.to_bytes();
        of_footer.iter().for_each(|&(at, value)| tail[at] = value);
        let digest = blake3::hash(&tail[..312]);
        tail[312..].copy_from_slice(digest.as_bytes());
        bytes.extend(tail);
        let file = LogObject { bytes: bytes.len() as u64, ..file };
        memory.0.lock().unwrap().insert(file.object.clone(), bytes);
        if let Err(error) = read_all(&repository, &file, &pages) {
            prop_assert!(matches!(error.kind(), Kind::CheckFailed | Kind::NotCovered), "{error:?}");
        }
    }
}

#[test]
fn a_file_that_is_named_otherwise_is_foreign() {
    let (repository, _, mut file, _) = written(&vec![(1, vec![1; 512], None)], false);
    file.span = Span { from: 3, to: 5, level: 0 };
    assert_eq!(file.footer(&repository).unwrap_err().kind(), Kind::NotCovered);
    file.span = Span { from: 3, to: 4, level: 1 };
    assert_eq!(file.footer(&repository).unwrap_err().kind(), Kind::NotCovered);
}
