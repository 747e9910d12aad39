//! Log files as bytes: what was written comes back, and nothing else is taken for a log file.

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use lifeboat_core::env::{Clock, Env, Random};
use lifeboat_core::pipeline::block_hash;
use lifeboat_core::repository::Repository;
use lifeboat_core::store::{ObjectInfo, ObjectName, ObjectReader, Put, Space, Store};
use lifeboat_core::{Error, Kind, Result};
use proptest::prelude::*;
use uuid::Uuid;

use super::delta::{Changed, encode};
use super::layout::{FOOTER_BYTES, Footer, Index};
use super::names::Span;
use super::read::LogObject;
use super::write::LogWriter;

const PREFIX: &str = "app/log/app-20250108-140000";

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<BTreeMap<ObjectName, Vec<u8>>>>);

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

    fn list(&self, _prefix: Option<&str>) -> Result<Vec<ObjectInfo>> {
        let objects = self.0.lock().unwrap();
        Ok(objects.iter().map(|(name, bytes)| info(name, bytes)).collect())
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
    }
}

#[test]
fn no_log_lies_open_in_a_sealed_repository() {
    let memory = Memory::default();
    let still = Arc::new(Still);
    let env = Env::new(still.clone(), still, "host");
    let identity = lifeboat_core::seal::Identity::generate();
    let recipients = lifeboat_core::seal::Recipients::parse(identity.recipients()).unwrap();
    let repository = Repository::open_or_create(&env, Arc::new(memory.clone())).unwrap();
    let repository = repository.sealed_to(Some(Arc::new(recipients)));
    let object = Span { from: 3, to: 4, level: 0 }.object(PREFIX).unwrap();
    let Err(error) = LogWriter::begin(&repository, object, 512) else { panic!("it was begun") };
    assert_eq!(error.kind(), lifeboat_core::Kind::Refused);
}

/// Writes them; the file as it is listed, and its store.
fn written(pages: &Pages) -> (Repository, Memory, LogObject, Footer) {
    let memory = Memory::default();
    let still = Arc::new(Still);
    let env = Env::new(still.clone(), still, "host");
    let repository = Repository::open_or_create(&env, Arc::new(memory.clone())).unwrap();
    let span = Span { from: 3, to: 4, level: 0 };
    let object = span.object(PREFIX).unwrap();
    let mut writer = LogWriter::begin(&repository, object.clone(), 512).unwrap();
    let changed = pages.iter().map(|(page, content, before)| Changed {
        page: *page,
        hash: block_hash(content),
        content: content.clone(),
        before: before.clone().map(|before| (before, 2)),
    });
    writer.add(&encode(&changed.collect::<Vec<_>>()).unwrap()).unwrap();
    let stored = writer.finish(footer(pages)).unwrap();
    let file = LogObject { object, bytes: stored.bytes, span };
    (repository, memory, file, stored.footer)
}

/// Everything that a restore reads of a file; an error, or pages with the hashes that were stored.
fn read_all(repository: &Repository, file: &LogObject, pages: &Pages) -> Result<usize> {
    let store = repository.store();
    let footer = file.footer(store)?;
    file.check_content(store, &footer)?;
    let mut reader = file.open(repository, &footer)?;
    let mut decoder = super::delta::Decoder::new();
    for at in 0..reader.index.len() {
        let entry = reader.index.entry(at);
        let before = pages.get(at).and_then(|(_, _, before)| before.clone());
        let stored = reader.stored(&entry)?.to_vec();
        let page = decoder.decode(entry.form, &stored, before.as_deref(), 512)?;
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
    fn a_file_comes_back(pages in some_pages()) {
        let (repository, memory, file, written) = written(&pages);
        let footer = file.footer(&memory).unwrap();
        prop_assert_eq!(&footer, &written);
        prop_assert_eq!(footer.own_link(), footer.link);
        prop_assert_eq!(read_all(&repository, &file, &pages).unwrap(), pages.len());
        let reader = file.open(&repository, &footer).unwrap();
        for (page, content, _) in &pages {
            prop_assert_eq!(reader.index.of_page(*page).unwrap().hash, block_hash(content));
            prop_assert_eq!(reader.index.of_page(*page + 90_000), None);
        }
    }

    #[test]
    fn any_damage_is_seen(pages in some_pages(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let (repository, memory, file, _) = written(&pages);
        let at = at.index(file.bytes as usize);
        memory.0.lock().unwrap().get_mut(&file.object).unwrap()[at] ^= 1_u8 << bit;
        let error = read_all(&repository, &file, &pages).unwrap_err();
        prop_assert_eq!(error.kind(), Kind::CheckFailed, "{}", at);
    }

    #[test]
    fn a_file_that_was_cut_is_none(pages in some_pages(), at in any::<prop::sample::Index>()) {
        let (_, memory, mut file, _) = written(&pages);
        let at = at.index(file.bytes as usize);
        memory.0.lock().unwrap().get_mut(&file.object).unwrap().truncate(at);
        // As the store lists it by now, and as it was listed before.
        for bytes in [at as u64, file.bytes] {
            file.bytes = bytes;
            prop_assert_eq!(file.footer(&memory).unwrap_err().kind(), Kind::CheckFailed);
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
        let (_, _, file, footer) = written(&vec![(1, vec![1; 512], None)]);
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

#[test]
fn a_file_that_is_named_otherwise_is_foreign() {
    let (_, memory, mut file, _) = written(&vec![(1, vec![1; 512], None)]);
    file.span = Span { from: 3, to: 5, level: 0 };
    assert_eq!(file.footer(&memory).unwrap_err().kind(), Kind::NotCovered);
    file.span = Span { from: 3, to: 4, level: 1 };
    assert_eq!(file.footer(&memory).unwrap_err().kind(), Kind::NotCovered);
}
