//! The cache of manifests: what was read of a repository before, so that looking at thousands of
//! backups does not read thousands of small objects.
//!
//! It may be lost, damaged or another's at any time: then it is as if it were not there. It never
//! says that an object exists, only what the bytes of one are that the store has just listed with
//! the same name, size and time of modification. It holds those bytes as they were stored, so
//! that another version of this program reads them by its own rules. What verifies or deletes
//! does not ask it.
//!
//! The same bytes, as an object of the repository, are a pack (`repository/packs.rs`).
//!
//! The file: `LBCACHE1`, the repository's id (16 bytes), blocks, and the BLAKE3 hash of all that
//! (32 bytes). A block: its stored and plain size (4 bytes each, little-endian), and a zstd frame
//! of entries. An entry: length of the name (2), of the manifest (4), time of modification in
//! nanoseconds since 1970 (16), name, manifest.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::env::{Clock, Env};
use crate::parallel::in_parallel;
use crate::store::ObjectInfo;

const MAGIC: &[u8; 8] = b"LBCACHE1";
const HEAD_BYTES: usize = MAGIC.len() + 16;
const HASH_BYTES: usize = 32;
const BLOCK_HEAD_BYTES: usize = 8;
const ENTRY_HEAD_BYTES: usize = 2 + 4 + 16;
/// A block is closed once it holds this much. Small enough that all cores have some.
const BLOCK_BYTES: usize = 1 << 20;
/// A block holds at most this: one full block and the largest manifest.
const BLOCK_BYTES_MAX: usize = BLOCK_BYTES + (66 << 20);
const LEVEL: i32 = 1;
/// An object younger than this might yet be replaced without a change of its time, as file systems
/// count in steps of up to two seconds.
pub(crate) const SETTLED: SignedDuration = SignedDuration::from_secs(5);

/// Where caches are kept: one run of bytes for each repository. It fails in silence, as a cache
/// may be missing.
pub trait CachePlace: Send + Sync {
    /// What was saved last, if that can be had.
    fn load(&self, repository: Uuid) -> Option<Vec<u8>>;
    /// Replaces it, if that can be done.
    fn save(&self, repository: Uuid, bytes: &[u8]);
}

/// The cache of one repository.
pub(crate) struct Cache {
    place: Arc<dyn CachePlace>,
    clock: Arc<dyn Clock>,
    repository: Uuid,
    /// What was loaded or saved last, packed; the outer `None` before it was asked for.
    packed: Mutex<Option<Arc<Vec<u8>>>>,
}

impl Cache {
    pub(crate) fn new(env: &Env, place: Arc<dyn CachePlace>, repository: Uuid) -> Self {
        Cache { place, clock: Arc::clone(&env.clock), repository, packed: Mutex::default() }
    }

    /// From when on objects are too young: to be asked before they are listed.
    pub(crate) fn settled_before(&self) -> Timestamp {
        self.clock.now().saturating_sub(SETTLED).unwrap_or(Timestamp::MIN)
    }

    /// All that it holds.
    pub(crate) fn known(&self) -> Known {
        let mut packed = self.packed.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let packed =
            Arc::clone(packed.get_or_insert_with(|| {
                Arc::new(self.place.load(self.repository).unwrap_or_default())
            }));
        unpack(&packed, self.repository, u64::MAX).unwrap_or_default()
    }

    /// Holds exactly these from now on: objects, and their bytes.
    pub(crate) fn replace(&self, objects: &[(&ObjectInfo, &[u8])]) {
        let bytes = pack(objects, self.repository);
        self.place.save(self.repository, &bytes);
        let mut packed = self.packed.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *packed = Some(Arc::new(bytes));
    }
}

/// What a cache holds, unpacked.
#[derive(Default)]
pub(crate) struct Known {
    blocks: Vec<Vec<u8>>,
    entries: HashMap<String, Entry>,
}

struct Entry {
    block: usize,
    begin: usize,
    end: usize,
    modified_ns: i128,
}

impl Known {
    /// The bytes of an object, if it is the one whose bytes are held.
    pub(crate) fn bytes_of(&self, object: &ObjectInfo) -> Option<&[u8]> {
        let entry = self.entries.get(object.name.as_str())?;
        let same = object.bytes == (entry.end - entry.begin) as u64
            && object.modified.as_nanosecond() == entry.modified_ns;
        same.then(|| &self.blocks[entry.block][entry.begin..entry.end])
    }
}

/// Those objects with their bytes, as they are kept.
pub(crate) fn pack(objects: &[(&ObjectInfo, &[u8])], repository: Uuid) -> Vec<u8> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // Each block is made where it is compressed: never all of them at once.
    let stored = in_parallel(&blocks_of(objects), cores, |objects| {
        let block = block_of(objects);
        zstd::bulk::compress(&block, LEVEL).map(|stored| (stored, block.len()))
    });
    let mut packed = [&MAGIC[..], repository.as_bytes()].concat();
    // What cannot be compressed is not held.
    for (stored, plain_bytes) in stored.into_iter().flatten() {
        packed.extend_from_slice(&(stored.len() as u32).to_le_bytes());
        packed.extend_from_slice(&(plain_bytes as u32).to_le_bytes());
        packed.extend_from_slice(&stored);
    }
    let hash = blake3::hash(&packed);
    packed.extend_from_slice(hash.as_bytes());
    packed
}

/// An object and its bytes.
type Held<'a> = (&'a ObjectInfo, &'a [u8]);

/// Cuts them into what goes into one block each.
fn blocks_of<'o, 'a>(objects: &'o [Held<'a>]) -> Vec<&'o [Held<'a>]> {
    let (mut blocks, mut begin, mut bytes) = (Vec::new(), 0, 0);
    for (place, object) in objects.iter().enumerate() {
        bytes += entry_bytes(object);
        if bytes >= BLOCK_BYTES {
            blocks.push(&objects[begin..=place]);
            (begin, bytes) = (place + 1, 0);
        }
    }
    if begin < objects.len() {
        blocks.push(&objects[begin..]);
    }
    blocks
}

fn entry_bytes((object, bytes): &Held<'_>) -> usize {
    ENTRY_HEAD_BYTES + object.name.as_str().len() + bytes.len()
}

fn block_of(objects: &[Held<'_>]) -> Vec<u8> {
    let mut block = Vec::with_capacity(objects.iter().map(entry_bytes).sum());
    for (object, bytes) in objects {
        let name = object.name.as_str();
        // A name of an object has at most 1,024 bytes, a manifest fewer than 2^32.
        block.extend_from_slice(&(name.len() as u16).to_le_bytes());
        block.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        block.extend_from_slice(&object.modified.as_nanosecond().to_le_bytes());
        block.extend_from_slice(name.as_bytes());
        block.extend_from_slice(bytes);
    }
    block
}

/// `None` for anything that is not whole, not of this repository, or larger than that.
pub(crate) fn unpack(packed: &[u8], repository: Uuid, plain_bytes_max: u64) -> Option<Known> {
    let (content, hash) = packed.split_at_checked(packed.len().checked_sub(HASH_BYTES)?)?;
    let (head, mut rest) = content.split_at_checked(HEAD_BYTES)?;
    let own = head.starts_with(MAGIC) && head.ends_with(repository.as_bytes());
    if !own || blake3::hash(content).as_bytes() != hash {
        return None;
    }
    let (mut stored, mut plain_sum) = (Vec::new(), 0);
    while !rest.is_empty() {
        let (head, behind) = rest.split_at_checked(BLOCK_HEAD_BYTES)?;
        let (stored_bytes, plain_bytes) = (u32_at(head, 0)?, u32_at(head, 4)?);
        let (block, behind) = behind.split_at_checked(stored_bytes)?;
        plain_sum += plain_bytes as u64;
        if plain_bytes > BLOCK_BYTES_MAX || plain_sum > plain_bytes_max {
            return None;
        }
        stored.push((block, plain_bytes));
        rest = behind;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let blocks = in_parallel(&stored, cores, |(block, plain_bytes)| {
        zstd::bulk::decompress(block, *plain_bytes).ok()
    });
    let mut known =
        Known { blocks: blocks.into_iter().collect::<Option<_>>()?, ..Known::default() };
    for (number, block) in known.blocks.iter().enumerate() {
        let mut place = 0;
        while place < block.len() {
            let head = block.get(place..place + ENTRY_HEAD_BYTES)?;
            let name_bytes = usize::from(u16::from_le_bytes(head[..2].try_into().ok()?));
            let modified_ns = i128::from_le_bytes(head[6..].try_into().ok()?);
            let begin = place + ENTRY_HEAD_BYTES + name_bytes;
            let end = begin + u32_at(head, 2)?;
            let name = str::from_utf8(block.get(place + ENTRY_HEAD_BYTES..begin)?).ok()?;
            if end > block.len() {
                return None;
            }
            let entry = Entry { block: number, begin, end, modified_ns };
            known.entries.insert(name.to_owned(), entry);
            place = end;
        }
    }
    Some(known)
}

fn u32_at(bytes: &[u8], place: usize) -> Option<usize> {
    let four = bytes.get(place..place + 4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(four)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ObjectName;

    fn objects(count: u64) -> Vec<(ObjectInfo, Vec<u8>)> {
        let object = |number: u64| {
            let bytes = format!("{{\"number\": {number}}} ").repeat(200).into_bytes();
            let name = ObjectName::new(format!("app/app-{number}.json")).unwrap();
            let modified = Timestamp::from_nanosecond(i128::from(number) * 7_000_000_001).unwrap();
            (ObjectInfo { name, bytes: bytes.len() as u64, modified }, bytes)
        };
        (0..count).map(object).collect()
    }

    fn packed(objects: &[(ObjectInfo, Vec<u8>)], repository: Uuid) -> Vec<u8> {
        let objects: Vec<_> =
            objects.iter().map(|(info, bytes)| (info, bytes.as_slice())).collect();
        pack(&objects, repository)
    }

    #[test]
    fn it_gives_what_it_was_given_for_the_very_same_object_only() {
        let (objects, repository) = (objects(2_000), Uuid::from_u128(7));
        let known = unpack(&packed(&objects, repository), repository, u64::MAX).unwrap();
        assert!(known.blocks.len() > 2, "{} blocks test nothing", known.blocks.len());
        for (info, bytes) in &objects {
            assert_eq!(known.bytes_of(info), Some(bytes.as_slice()));
            let longer = ObjectInfo { bytes: info.bytes + 1, ..info.clone() };
            assert_eq!(known.bytes_of(&longer), None);
            let modified = info.modified + SignedDuration::from_nanos(1);
            assert_eq!(known.bytes_of(&ObjectInfo { modified, ..info.clone() }), None);
        }
        let name = ObjectName::new("app/other.json").unwrap();
        assert_eq!(known.bytes_of(&ObjectInfo { name, ..objects[0].0.clone() }), None);
        let plain: u64 = known.blocks.iter().map(|block| block.len() as u64).sum();
        let whole = packed(&objects, repository);
        assert!(unpack(&whole, repository, plain).is_some());
        assert!(unpack(&whole, repository, plain - 1).is_none(), "more than is allowed");
        assert!(unpack(&packed(&[], repository), repository, u64::MAX).unwrap().entries.is_empty());
    }

    #[test]
    fn what_is_damaged_or_of_another_repository_is_not_there() {
        let (objects, repository) = (objects(3), Uuid::from_u128(7));
        let whole = packed(&objects, repository);
        assert!(unpack(&whole, Uuid::from_u128(8), u64::MAX).is_none());
        for length in 0..whole.len() {
            assert!(unpack(&whole[..length], repository, u64::MAX).is_none(), "{length}");
        }
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 4;
            assert!(unpack(&damaged, repository, u64::MAX).is_none(), "{place}");
        }
        // Sound by its hash, and still nonsense: from a hand that wanted it so.
        for nonsense in [&[1, 0, 0][..], &[255; 40], &[4, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0]]
        {
            let mut forged = [&MAGIC[..], repository.as_bytes(), nonsense].concat();
            forged.extend_from_slice(blake3::hash(&forged).as_bytes());
            assert!(unpack(&forged, repository, u64::MAX).is_none(), "{nonsense:?}");
        }
    }
}
