//! Files from an archive back to their places.
//!
//! The archive is read whole and its hashes are compared before any file is touched. Each file is
//! staged beside its place with its final mode, then renamed; what was there is kept aside. No
//! name leads out of the target, no device is made, no set-uid bit is given.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Component, Path, PathBuf};

use tar::{Archive, Entry, EntryType};

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::event::Event;
use crate::files;
use crate::owner::Ownership;
use crate::scratch::{Scratch, decode_into, expectation};

use super::RestoreOutcome;
use super::aside::{Aside, aside_path};
use super::mapping::Mapping;
use super::request::{FilesPlace, Origin, RestoreRequest};
use super::stage::{create, give};
use super::swap::{failed, link, sync_folder_of};

pub(super) fn restore(
    env: &Env,
    request: &RestoreRequest<'_>,
    target: &FilesPlace,
    aside: &Aside,
    outcome: &mut RestoreOutcome,
) -> Result<()> {
    let Origin::Backup { repository, folder, manifest } = request.origin else { return Ok(()) };
    let Some(artifact) = manifest.artifact(files::ROLE) else { return Ok(()) };
    let object = repository.object(folder, &artifact.name)?;
    let (phase, bytes_total) = ("restoring files", Some(artifact.plain_bytes));
    env.tell(Event::PhaseBegan { subject: &artifact.name, phase, bytes_total });
    let mut scratch = Scratch::new(request.scratch_folder, artifact.plain_bytes)?;
    let place = scratch.path();
    decode_into(
        env,
        repository,
        &object,
        (artifact, &expectation(artifact)),
        scratch.file(),
        &place,
    )?;
    env.tell(Event::PhaseEnded { phase });
    unpack(scratch.file(), target, request.mapping, aside, outcome)
}

fn unpack(
    file: &mut File,
    target: &FilesPlace,
    mapping: &Mapping,
    aside: &Aside,
    outcome: &mut RestoreOutcome,
) -> Result<()> {
    let broken = |error| Error::io(Kind::CheckFailed, "the archive cannot be read", error);
    file.rewind().map_err(broken)?;
    let mut archive = Archive::new(file);
    let mut unpacker = Unpacker { target, mapping, aside, outcome, links_made: BTreeSet::new() };
    for entry in archive.entries().map_err(broken)? {
        unpacker.entry(&mut entry.map_err(broken)?)?;
    }
    Ok(())
}

struct Unpacker<'a> {
    target: &'a FilesPlace,
    mapping: &'a Mapping,
    aside: &'a Aside,
    outcome: &'a mut RestoreOutcome,
    links_made: BTreeSet<PathBuf>,
}

impl Unpacker<'_> {
    fn entry(&mut self, entry: &mut Entry<'_, &mut File>) -> Result<()> {
        let broken = |error| Error::io(Kind::CheckFailed, "the archive is damaged", error);
        let name = entry.path().map_err(broken)?.into_owned();
        let mapped = self.mapped(&name);
        let Some(path) = self.place(&mapped) else {
            let name = name.display();
            self.outcome.warnings.push(format!("{name} leads out of the target: left out"));
            return Ok(());
        };
        let ownership = ownership(entry, self.mapping).map_err(broken)?;
        match entry.header().entry_type() {
            EntryType::Directory => self.folder(&path, ownership),
            EntryType::Regular => self.file(entry, &path, ownership),
            EntryType::Symlink => {
                let to = entry.link_name().map_err(broken)?.unwrap_or_default().into_owned();
                self.link(&path, &to)
            }
            other => {
                let path = path.display();
                let warning = format!("{path} is a special file ({other:?}): left out");
                self.outcome.warnings.push(warning);
                Ok(())
            }
        }
    }

    /// A name of the archive as it is called here.
    fn mapped(&self, name: &Path) -> PathBuf {
        if name.is_absolute() {
            return name.to_owned();
        }
        let absolute = self.mapping.path(&Path::new("/").join(name));
        absolute.strip_prefix("/").map_or(name.to_owned(), Path::to_owned)
    }

    /// The place of an archive's name; `None` if it would lead elsewhere.
    fn place(&self, name: &Path) -> Option<PathBuf> {
        let mut path = self.target.root.clone();
        for component in name.components() {
            match component {
                Component::Normal(part) => path.push(part),
                Component::CurDir => {}
                _ => return None,
            }
            let is_last = path == self.target.root.join(name);
            // Links that the host has are its owner's will; those of the archive are not.
            let foreign = self.links_made.contains(&path)
                || (self.target.root != Path::new("/") && path.is_symlink());
            if foreign && !is_last {
                return None;
            }
        }
        (path != self.target.root).then_some(path)
    }

    fn folder(&mut self, path: &Path, ownership: Ownership) -> Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        create_folders(path)?;
        let folder = File::open(path).map_err(|error| failed("open", path, error))?;
        let warnings = give(&folder, path, Some(ownership))?;
        self.outcome.warnings.extend(warnings);
        Ok(())
    }

    fn file(
        &mut self,
        entry: &mut Entry<'_, &mut File>,
        path: &Path,
        ownership: Ownership,
    ) -> Result<()> {
        if let Some(folder) = path.parent() {
            create_folders(folder)?;
        }
        let (staged, mut file) = create(path)?;
        let written = io::copy(entry, &mut file)
            .map_err(|error| failed("write", path, error))
            .and_then(|_| give(&file, &staged, Some(ownership)));
        let modified = entry.header().mtime().unwrap_or(0);
        let modified = std::time::UNIX_EPOCH + std::time::Duration::from_secs(modified);
        let placed = written.and_then(|warnings| {
            let _ = file.set_modified(modified);
            self.outcome.warnings.extend(warnings);
            self.put(&staged, &mut file, path)
        });
        if placed.is_err() {
            let _ = fs::remove_file(&staged);
        }
        placed
    }

    /// Renames a staged file to its place, unless the same content is there already.
    fn put(&mut self, staged: &Path, file: &mut File, path: &Path) -> Result<()> {
        if same_file(file, path) {
            fs::remove_file(staged).map_err(|error| failed("remove", staged, error))?;
        } else {
            self.keep(path)?;
            fs::rename(staged, path).map_err(|error| failed("put in place", path, error))?;
            sync_folder_of(path)?;
        }
        self.outcome.files.push(path.to_owned());
        Ok(())
    }

    fn keep(&mut self, path: &Path) -> Result<()> {
        if fs::symlink_metadata(path).is_ok() {
            let aside = aside_path(path, self.aside);
            link(path, &aside)?;
            self.outcome.kept_aside.push(aside);
        }
        Ok(())
    }

    fn link(&mut self, path: &Path, to: &Path) -> Result<()> {
        if fs::read_link(path).is_ok_and(|now| now == to) {
            return Ok(());
        }
        if let Some(folder) = path.parent() {
            create_folders(folder)?;
        }
        if fs::symlink_metadata(path).is_ok() {
            let aside = aside_path(path, self.aside);
            fs::rename(path, &aside).map_err(|error| failed("keep aside", path, error))?;
            self.outcome.kept_aside.push(aside);
        }
        symlink(to, path).map_err(|error| failed("make the link", path, error))?;
        self.links_made.insert(path.to_owned());
        self.outcome.files.push(path.to_owned());
        Ok(())
    }
}

fn ownership(entry: &Entry<'_, &mut File>, mapping: &Mapping) -> io::Result<Ownership> {
    let header = entry.header();
    let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let owner = (header.username().ok().flatten(), number(header.uid()?));
    let group = (header.groupname().ok().flatten(), number(header.gid()?));
    Ok(mapping.ownership(header.mode()?, owner, group))
}

fn create_folders(folder: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(folder)
        .map_err(|error| failed("create the folder", folder, error))
}

/// Whether a regular file with the same content, mode and owner is at `path`.
fn same_file(file: &mut File, path: &Path) -> bool {
    let (Ok(new), Ok(old)) = (file.metadata(), fs::symlink_metadata(path)) else { return false };
    let facts = |found: &fs::Metadata| (found.mode(), found.uid(), found.gid(), found.len());
    if !old.is_file() || facts(&new) != facts(&old) {
        return false;
    }
    let hash = |mut reader: &mut dyn Read| {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(&mut reader).map(|hasher| hasher.finalize()).ok()
    };
    let Ok(mut there) = File::open(path) else { return false };
    if file.rewind().is_err() {
        return false;
    }
    let (new, old) = (hash(file), hash(&mut there));
    new.is_some() && new == old
}
