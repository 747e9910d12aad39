//! Files out of the streams of a backup, without the rest of these streams.
//!
//! A stream that can be read in parts is walked from header to header; what nobody wants is passed
//! over unread. Whatever is read is compared with the server's manifest like everything else.

use std::collections::HashMap;

use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::manifest::Artifact;
use lifeboat_core::pipeline::PartReader;
use lifeboat_core::{Error, Kind, Result};

use super::assemble::Stored;
use super::increment::{FIXED_BYTES, MAGIC};
use super::member::{MemberStream, result_path};
use super::tar_stream::{BLOCK_BYTES, EntryKind, TarEntry, TarSink, read_header};

const PIECE_BYTES: usize = 1 << 20;

/// What an increment would do with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// Blocks that it replaces.
    pub(super) blocks: u32,
    /// So many blocks of the older state are still meant.
    pub(super) truncation_blocks: u32,
}

/// An archive that is walked.
struct Walk<'a> {
    name: &'a str,
    reader: PartReader<'a>,
    bytes: u64,
    at: u64,
}

impl<'a> Walk<'a> {
    /// `None` where the archive must be read from its beginning.
    fn open(stored: &Stored<'a>, artifact: &'a Artifact) -> Result<Option<Self>> {
        if artifact.sealed.is_some() {
            return Ok(None);
        }
        let object = stored.repository.object(stored.folder, &artifact.name)?;
        let compression = stored.repository.wrapping(artifact)?.compression;
        let sizes = (artifact.stored_bytes, artifact.plain_bytes);
        let reader = PartReader::open(stored.repository.store(), &object, compression, sizes)?;
        let walk =
            |reader| Walk { name: &artifact.name, reader, bytes: artifact.plain_bytes, at: 0 };
        Ok(reader.map(walk))
    }

    /// The next entry, and where its bytes begin.
    fn next(&mut self) -> Result<Option<(TarEntry, u64)>> {
        if self.at >= self.bytes {
            return Ok(None);
        }
        let mut header = [0; BLOCK_BYTES];
        self.reader.read(self.at, &mut header)?;
        if header.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let entry = read_header(&header)?;
        let begin = self.at + BLOCK_BYTES as u64;
        self.at = begin + size_of(&entry).next_multiple_of(BLOCK_BYTES as u64);
        match self.at > self.bytes {
            false => Ok(Some((entry, begin))),
            true => Err(Error::new(
                Kind::CheckFailed,
                format!("{} is damaged: it is cut short within {}", self.name, entry.path),
            )),
        }
    }
}

fn size_of(entry: &TarEntry) -> u64 {
    match entry.kind {
        EntryKind::File(bytes) => bytes,
        _ => 0,
    }
}

impl<'a> Stored<'a> {
    /// Shows of a stream what its destination wants. `false`: it cannot be read in parts.
    pub(super) fn pick(
        &self,
        env: &Env,
        artifact: &'a Artifact,
        sink: &mut MemberStream<'_, '_>,
    ) -> Result<bool> {
        let Some(mut walk) = Walk::open(self, artifact)? else { return Ok(false) };
        let mut piece = vec![0; PIECE_BYTES];
        while let Some((entry, begin)) = walk.next()? {
            env.proceed()?;
            env.tell(Event::Advanced { bytes: BLOCK_BYTES as u64 + size_of(&entry) });
            if sink.pass_over(&entry)? {
                continue;
            }
            sink.entry(&entry)?;
            if !matches!(entry.kind, EntryKind::File(_)) {
                continue;
            }
            let (mut at, end) = (begin, begin + size_of(&entry));
            while at < end {
                env.proceed()?;
                let count = (end - at).min(PIECE_BYTES as u64) as usize;
                walk.reader.read(at, &mut piece[..count])?;
                sink.data(&piece[..count])?;
                at += count as u64;
            }
            sink.end()?;
        }
        Ok(true)
    }

    /// What each increment of this backup changes, by the file that it is for. `None`: that cannot
    /// be known without reading all of it.
    pub(super) fn changes(&self, env: &Env) -> Result<Option<HashMap<String, Change>>> {
        let mut changes = HashMap::new();
        for (prefix, artifact) in self.streams()? {
            let Some(mut walk) = Walk::open(self, artifact)? else { return Ok(None) };
            while let Some((entry, begin)) = walk.next()? {
                env.proceed()?;
                let Some(path) = result_path(&format!("{prefix}{}", entry.path)) else { continue };
                let mut words = [0; FIXED_BYTES];
                if size_of(&entry) < FIXED_BYTES as u64 {
                    continue;
                }
                walk.reader.read(begin, &mut words)?;
                let (words, _) = words.as_chunks::<4>();
                let [magic, blocks, truncation_blocks] =
                    [0, 1, 2].map(|index| u32::from_le_bytes(words[index]));
                if magic == MAGIC {
                    changes.insert(path, Change { blocks, truncation_blocks });
                }
            }
        }
        Ok(Some(changes))
    }
}
