//! All pages of a data directory that no server has open, on all cores.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use lifeboat_core::env::Env;
use lifeboat_core::parallel::in_parallel;
use lifeboat_core::{Error, Kind, Result};

use super::pages::{PageCounts, PageCutter};
use crate::page::RelationFile;

const READ_BYTES: usize = 1 << 20;

/// Looks at every page. Whether checksums mean anything is for `pg_control` to say.
pub fn scan_folder(env: &Env, data: &Path) -> Result<PageCounts> {
    let mut files = Vec::new();
    for folder in ["global", "base", "pg_tblspc"] {
        walk(data, folder, &mut |path, is_folder| {
            if let Some(relation) = RelationFile::of_path(path).filter(|_| !is_folder) {
                files.push((path.to_owned(), relation));
            }
        })?;
    }
    let each = in_parallel(&files, env.threads, |(path, relation)| {
        env.proceed()?;
        scan_file(data, path, *relation)
    });
    let mut counts = PageCounts::default();
    for scanned in each {
        counts.add(scanned?);
    }
    counts.named.sort();
    Ok(counts)
}

fn scan_file(data: &Path, path: &str, relation: RelationFile) -> Result<PageCounts> {
    let full = data.join(path);
    let mut file = File::open(&full).map_err(|error| unreadable(&full, error))?;
    let (mut counts, mut cutter) = (PageCounts::default(), PageCutter::default());
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let count = file.read(&mut buffer).map_err(|error| unreadable(&full, error))?;
        if count == 0 {
            return Ok(counts);
        }
        cutter.push(&buffer[..count], |index, page| {
            counts.take(path, relation, index as u32, page, None);
        });
    }
}

/// Shows every file and folder below a folder of the data directory, by its path relative to that,
/// folders before what is in them. Links of `pg_tblspc` are followed, no others.
pub(super) fn walk(data: &Path, folder: &str, show: &mut dyn FnMut(&str, bool)) -> Result<()> {
    let full: PathBuf = if folder.is_empty() { data.to_owned() } else { data.join(folder) };
    let mut entries: Vec<_> = fs::read_dir(&full)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .map_err(|error| unreadable(&full, error))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let path = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        let kind = entry.file_type().map_err(|error| unreadable(&full, error))?;
        let is_folder = kind.is_dir() || (kind.is_symlink() && folder == "pg_tblspc");
        show(&path, is_folder);
        if is_folder {
            walk(data, &path, show)?;
        }
    }
    Ok(())
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::io(Kind::SourceUnavailable, format!("cannot read {}", path.display()), error)
}
