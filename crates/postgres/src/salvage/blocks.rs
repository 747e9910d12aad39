//! Damaged blocks of a data directory: every page of every relation, read where it lies.
//!
//! With data checksums a page is what the server wrote, or it is not. Without them only the header
//! of a page can be wrong to see; what lies behind it shows by nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::{Error, Kind, Result};

use crate::client::Client;
use crate::control::Control;
use crate::page::{PAGE_BYTES, PageVerdict, RelationFile, judge};
use crate::physical::{PageName, lines, names};

/// So many blocks are named; all are counted.
const NAMED_MAX: usize = 100_000;
const BATCH_BYTES: usize = 128 * PAGE_BYTES;

/// The damaged blocks of a data directory.
#[derive(Clone, Debug, Default)]
pub struct BadBlocks {
    /// Whether the cluster has data checksums.
    pub checksums: bool,
    /// How many pages were looked at.
    pub pages: u64,
    /// How many are damaged.
    pub damaged: u64,
    /// Which: a file below the directory, and the block in it.
    pub named: BTreeSet<(String, u32)>,
    /// Files that cannot be read to their end, or are no whole number of pages.
    pub problems: Vec<String>,
}

impl BadBlocks {
    /// A line for each file, with its relation where a server can be asked.
    pub fn lines(&self, client: Option<&Client>) -> Vec<String> {
        let pages: &BTreeSet<PageName> = &self.named;
        let relations = client.map(|client| names(client, pages)).unwrap_or_default();
        let mut lines = lines(pages, &relations);
        lines.extend(self.problems.iter().cloned());
        lines
    }

    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.damaged == 0 && self.problems.is_empty()
    }
}

/// Reads all pages of a data directory whose server is not running.
pub fn scan(env: &Env, data: &Path) -> Result<BadBlocks> {
    let control = Control::of_folder(data)?;
    if control.page_bytes as usize != PAGE_BYTES {
        let message = format!("{} has pages of {} bytes", data.display(), control.page_bytes);
        return Err(Error::new(Kind::Refused, message)
            .hint("only servers with pages of 8192 bytes are known: pg_checksums --check"));
    }
    let mut found = BadBlocks { checksums: control.data_checksums, ..BadBlocks::default() };
    for (relative, path) in files(data)? {
        let Some(relation) = RelationFile::of_path(&relative) else { continue };
        env.proceed()?;
        if let Err(why) = file(env, (&relative, &path), relation, &mut found) {
            found.problems.push(format!("{relative}: {why}"));
        }
    }
    Ok(found)
}

/// All files that may be of relations, by their path below the directory.
fn files(data: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut open = vec!["base".to_owned(), "global".to_owned(), "pg_tblspc".to_owned()];
    while let Some(folder) = open.pop() {
        let path = data.join(&folder);
        let unreadable = |error| {
            Error::io(Kind::SourceUnavailable, format!("cannot read {}", path.display()), error)
                .hint("run as the user of the server")
        };
        for entry in fs::read_dir(&path).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let relative = format!("{folder}/{}", entry.file_name().to_string_lossy());
            // Tablespaces are links to folders.
            match fs::metadata(entry.path()) {
                Ok(metadata) if metadata.is_dir() => open.push(relative),
                Ok(_) => drop(found.insert(relative, entry.path())),
                Err(error) => return Err(unreadable(error)),
            }
        }
    }
    Ok(found)
}

fn file(
    env: &Env,
    (relative, path): (&str, &Path),
    relation: RelationFile,
    found: &mut BadBlocks,
) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let (mut buffer, mut block) = (vec![0; BATCH_BYTES], 0_u32);
    loop {
        let filled = fill(&mut file, &mut buffer)?;
        env.tell(Event::Advanced { bytes: filled as u64 });
        let (pages, rest) = buffer[..filled].as_chunks::<PAGE_BYTES>();
        for page in pages {
            found.pages += 1;
            let is_sound = match found.checksums {
                true => !matches!(
                    judge(page, relation.first_block().wrapping_add(block), None),
                    PageVerdict::Damaged { .. }
                ),
                false => has_sound_header(page),
            };
            if !is_sound {
                found.damaged += 1;
                if found.named.len() < NAMED_MAX {
                    found.named.insert((relative.to_owned(), block));
                }
            }
            block += 1;
        }
        if !rest.is_empty() {
            return Err(std::io::Error::other("it ends within a page"));
        }
        if filled < buffer.len() {
            return Ok(());
        }
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

/// Whether the header of a page may be true: its layout, its size, the order of its parts.
fn has_sound_header(page: &[u8; PAGE_BYTES]) -> bool {
    let half = |at: usize| u16::from_le_bytes([page[at], page[at + 1]]);
    let (flags, lower, upper, special) = (half(10), half(12), half(14), half(16));
    if upper == 0 {
        return page.iter().all(|byte| *byte == 0);
    }
    let parts = 24 <= lower && lower <= upper && upper <= special;
    parts && usize::from(special) <= PAGE_BYTES && flags & !7 == 0 && half(18) & 0xff00 == 0x2000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_cannot_be_is_seen_without_checksums() {
        let mut page = [0; PAGE_BYTES];
        assert!(has_sound_header(&page), "zeros are a new page");
        page[12..20].copy_from_slice(&[28, 0, 0, 0x10, 0, 0x20, 4, 0x20]);
        assert!(has_sound_header(&page));
        for (at, value) in [(13, 0x70), (15, 0x30), (19, 0x21), (11, 1), (12, 3)] {
            let mut page = page;
            page[at] = value;
            assert!(!has_sound_header(&page), "{at}");
        }
    }
}
