//! A tar stream in which files of relations become what changed of them since an older backup, in
//! the form that PostgreSQL 17 and newer have for it.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use lifeboat_core::source::Sink;
use lifeboat_core::{Error, Kind, Result};
use tempfile::SpooledTempFile;

use super::capture::put;
use crate::page::PAGE_BYTES;
use crate::recovery::increment::{IncrementHeader, PREFIX};
use crate::recovery::tar_stream::TarEntry;

const BLOCK_BYTES: u64 = 512;
/// Changed blocks of one file are kept in memory up to this size, then in a file.
const MEMORY_BYTES: usize = 4 << 20;

/// The state of it.
pub(super) struct Rewrite {
    folder: PathBuf,
    /// The file whose changed blocks are being collected.
    open: Option<Open>,
    /// Bytes that fill the last block of the file that is passed on.
    padding: u64,
}

/// A file, and what changed of it.
struct Open {
    header: Vec<u8>,
    file_blocks: u32,
    numbers: Vec<u32>,
    blocks: SpooledTempFile,
}

impl Rewrite {
    pub(super) fn new(folder: PathBuf) -> Self {
        Rewrite { folder, open: None, padding: 0 }
    }

    /// An entry that is passed on as it is. What it holds follows by [`Rewrite::data`].
    pub(super) fn pass(&mut self, entry: &TarEntry, bytes: u64, sink: &mut dyn Sink) -> Result<()> {
        self.padding = bytes.next_multiple_of(BLOCK_BYTES) - bytes;
        put(&entry.header, sink)
    }

    /// A file of which only some blocks follow, by [`Rewrite::block`].
    pub(super) fn collect(&mut self, entry: &TarEntry, bytes: u64) {
        self.open = Some(Open {
            header: entry.header.clone(),
            file_blocks: (bytes / PAGE_BYTES as u64) as u32,
            numbers: Vec::new(),
            blocks: tempfile::spooled_tempfile_in(MEMORY_BYTES, &self.folder),
        });
    }

    /// Whether blocks are being collected.
    pub(super) fn collects(&self) -> bool {
        self.open.is_some()
    }

    /// Bytes of a file that is passed on.
    pub(super) fn data(&mut self, bytes: &[u8], sink: &mut dyn Sink) -> Result<()> {
        put(bytes, sink)
    }

    /// A block that changed.
    pub(super) fn block(&mut self, number: u32, block: &[u8]) -> Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.numbers.push(number);
        open.blocks.write_all(block).map_err(|error| unwritable(&self.folder, error))
    }

    /// The file ended.
    pub(super) fn end(&mut self, sink: &mut dyn Sink) -> Result<()> {
        if let Some(open) = self.open.take() {
            let bytes = open.write(&self.folder, sink)?;
            self.padding = bytes.next_multiple_of(BLOCK_BYTES) - bytes;
        }
        put(&vec![0; std::mem::take(&mut self.padding) as usize], sink)
    }

    /// The archive ended.
    pub(super) fn finish(&mut self, sink: &mut dyn Sink) -> Result<()> {
        put(&[0; 2 * BLOCK_BYTES as usize], sink)
    }
}

impl Open {
    /// Writes header and blocks. Gives their bytes.
    fn write(mut self, folder: &std::path::Path, sink: &mut dyn Sink) -> Result<u64> {
        let increment =
            IncrementHeader { truncation_blocks: self.file_blocks, blocks: self.numbers };
        let bytes = increment.file_bytes();
        put(&renamed(&self.header, bytes)?, sink)?;
        put(&increment.to_bytes(), sink)?;
        let failed = |error| unwritable(folder, error);
        self.blocks.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut buffer = vec![0; 1 << 18];
        loop {
            match self.blocks.read(&mut buffer).map_err(failed)? {
                0 => return Ok(bytes),
                count => put(&buffer[..count], sink)?,
            }
        }
    }
}

/// The header of the same file under the name of an incremental one, with another size.
fn renamed(header: &[u8], bytes: u64) -> Result<Vec<u8>> {
    let mut header = tar::Header::from_byte_slice(header).clone();
    let name = String::from_utf8_lossy(&header.path_bytes()).into_owned();
    let (folder, file) = name.rsplit_once('/').unwrap_or(("", &name));
    let name = format!("{folder}/{PREFIX}{file}");
    header.set_path(&name).map_err(|error| {
        Error::new(Kind::Failed, format!("{name} is too long")).caused_by(error)
    })?;
    header.set_size(bytes);
    header.set_cksum();
    Ok(header.as_bytes().to_vec())
}

fn unwritable(folder: &std::path::Path, error: std::io::Error) -> Error {
    let message = format!("cannot keep changed blocks in {}", folder.display());
    Error::io(Kind::Failed, message, error)
        .hint("choose another folder for scratch files with TMPDIR")
}
