//! The dump, unpacked into a private file and read on the way: one that is cut or hostile stops
//! here, before the server hears of it.
//!
//! Messages that a script wrote among the statements are left out. Lines `\restrict` and
//! `\unrestrict` are left out too: we put our own around the whole, so that psql takes no command
//! of its own from the dump.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::pipeline::{Expectation, Wrapping, decode, open_found};
use lifeboat_core::restore::Origin;
use lifeboat_core::scratch::{Scratch, free_bytes, stored_expectation};
use lifeboat_core::source::Engine;
use lifeboat_core::store::{ObjectReader, get_bytes};
use lifeboat_core::{Error, Kind, Result};

use crate::archive::{ArchiveReader, Contents, FrozenHead, InnerCompression, Piece};
use crate::capture::ROLE_GLOBALS;
use crate::engine::{PostgresEngine, format_of};
use crate::script::ScriptReader;
use crate::source::DumpFormat;

use super::RestoreRequest;

/// Globals larger than this are no globals.
const GLOBALS_STORED_BYTES_MAX: u64 = 64 << 20;

/// So many times the size of an archive must be free before it is unpacked.
const ROOM: u64 = 4;
/// A line longer than this is taken in pieces.
const LINE_BYTES_MAX: usize = 1 << 20;

/// A dump on our disk, as PostgreSQL's programs read it.
pub(super) struct Staged {
    scratch: Scratch,
    pub(super) format: DumpFormat,
    /// Rows per table, as the dump holds them.
    pub(super) rows: BTreeMap<String, u64>,
    /// Lines that were left out.
    pub(super) noise_lines: u64,
    /// The numbers of an archive's entries, in its order.
    pub(super) entries: Vec<i64>,
}

/// What a loaded dump held.
pub(super) struct Loaded {
    /// Rows per table, as the dump holds them.
    pub(super) rows: BTreeMap<String, u64>,
    /// Those that were counted in their table already, once all were in it.
    pub(super) counted: BTreeMap<String, u64>,
    /// Lines that were left out.
    pub(super) noise_lines: u64,
}

impl Loaded {
    /// Of a dump that holds so many rows per table.
    pub(super) fn of(rows: BTreeMap<String, u64>) -> Self {
        Loaded { rows, counted: BTreeMap::new(), noise_lines: 0 }
    }
}

impl Staged {
    pub(super) fn path(&self) -> PathBuf {
        self.scratch.path()
    }

    /// A word that is nowhere in the dump: the random part of our file's name.
    pub(super) fn guard(&self) -> String {
        let name = self.scratch.path();
        let name = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.chars().filter(char::is_ascii_alphanumeric).collect()
    }
}

/// Whether there is room to unpack an archive, so that its tables are loaded several at once, each
/// in one go: much more than it takes, for the new database may be on the same disk. Where not, or
/// where its size is not known, it is loaded while it is read.
pub(super) fn has_room(request: &RestoreRequest<'_>, plain_bytes: Option<u64>) -> Result<bool> {
    let Some(bytes) = plain_bytes else { return Ok(false) };
    Ok(free_bytes(request.scratch_folder)? / ROOM >= bytes)
}

/// Unpacks the dump, and compares hashes. Rows of an archive are frozen while they are loaded, if
/// that is asked for: by several jobs only.
pub(super) fn stage(env: &Env, request: &RestoreRequest<'_>, freezes: bool) -> Result<Staged> {
    let subject = request.origin.name();
    let phase = "restoring to a scratch place";
    let (reader, wrapping, artifact) = open(request.origin)?;
    let bytes_total = artifact.map(|artifact| artifact.plain_bytes);
    env.tell(Event::PhaseBegan { subject: &subject, phase, bytes_total });
    let mut scratch = Scratch::new(request.scratch_folder, bytes_total.unwrap_or(0))?;
    let place = scratch.path();
    let mut writer = Unpacker::new(scratch.file(), place.clone(), freezes);
    let name;
    let expectation = match artifact {
        Some(artifact) => stored_expectation(artifact),
        None => {
            name = subject.clone();
            Expectation {
                object: &name,
                plain_bytes_max: Some(free_bytes(request.scratch_folder)?),
                ..Expectation::default()
            }
        }
    };
    decode(reader, wrapping, env.threads, &expectation, &mut |plain| {
        env.proceed()?;
        env.tell(Event::Advanced { bytes: plain.len() as u64 });
        writer.push(plain)
    })?;
    let read = writer.finish().map_err(|error| not_whole(error, &subject))?;
    env.tell(Event::PhaseEnded { phase });
    let (format, rows, noise_lines, entries) = read;
    Ok(Staged { scratch, format, rows, noise_lines, entries })
}

/// The error of a dump that lacks something, in a restore's words.
pub(super) fn not_whole(error: Error, subject: &str) -> Error {
    match error.kind() {
        Kind::CheckFailed => error
            .context(format!("{subject} is not a whole dump"))
            .hint("nothing was changed; choose another backup"),
        _ => error,
    }
}

type Opened<'a> = (ObjectReader, Wrapping, Option<&'a lifeboat_core::manifest::Artifact>);

pub(super) fn open(origin: Origin<'_>) -> Result<Opened<'_>> {
    match origin {
        Origin::Backup { repository, folder, manifest } => {
            let artifact = manifest.artifacts.first().ok_or_else(|| {
                let message = format!("the manifest of {} names no artifact", manifest.name);
                Error::new(Kind::CheckFailed, message)
            })?;
            let object = repository.object(folder, &artifact.name)?;
            let reader = repository.store().get(&object, None)?;
            Ok((reader, repository.wrapping(artifact)?, Some(artifact)))
        }
        Origin::File { path, keys } => {
            let found = open_found(path, keys)?;
            Ok((found.reader, found.compression.into(), None))
        }
        Origin::Made { name } => {
            Err(Error::new(Kind::Usage, format!("{name} is no dump of PostgreSQL")))
        }
    }
}

/// Roles and other globals that were stored beside a dump, as SQL.
pub(super) fn globals(env: &Env, request: &RestoreRequest<'_>) -> Result<Option<String>> {
    let Origin::Backup { repository, folder, manifest } = request.origin else { return Ok(None) };
    let Some(artifact) = manifest.artifact(ROLE_GLOBALS) else { return Ok(None) };
    let object = repository.object(folder, &artifact.name)?;
    let stored = get_bytes(repository.store(), &object, GLOBALS_STORED_BYTES_MAX)?;
    let mut plain = Vec::new();
    let reader = Box::new(std::io::Cursor::new(stored));
    let expectation = stored_expectation(artifact);
    decode(reader, repository.wrapping(artifact)?, env.threads, &expectation, &mut |bytes| {
        plain.extend_from_slice(bytes);
        Ok(())
    })?;
    Ok(Some(String::from_utf8_lossy(&plain).into_owned()))
}

/// Writes what it is given, and reads it as a dump.
struct Unpacker<'a> {
    file: BufWriter<&'a mut File>,
    place: PathBuf,
    first: Vec<u8>,
    reader: Option<Reader>,
    freezes: bool,
}

enum Reader {
    Archive {
        reader: Box<ArchiveReader>,
        /// What came so far, until the contents are known.
        held: Vec<u8>,
        /// The contents as they were written.
        frozen: Option<FrozenHead>,
    },
    Script {
        reader: Box<ScriptReader>,
        line: Vec<u8>,
        is_rest: bool,
        noise_lines: u64,
    },
}

/// Format, rows per table, lines that were left out, and the numbers of entries.
type Unpacked = (DumpFormat, BTreeMap<String, u64>, u64, Vec<i64>);

impl<'a> Unpacker<'a> {
    fn new(file: &'a mut File, place: PathBuf, freezes: bool) -> Self {
        let file = BufWriter::with_capacity(1 << 20, file);
        Unpacker { file, place, first: Vec::new(), reader: None, freezes }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        if self.reader.is_none() {
            self.first.extend_from_slice(bytes);
            if self.first.len() < 8 {
                return Ok(());
            }
            let first = std::mem::take(&mut self.first);
            self.begin(&first)?;
            return self.take(&first);
        }
        self.take(bytes)
    }

    fn begin(&mut self, first: &[u8]) -> Result<()> {
        self.reader = Some(match format_of(first) {
            Some(DumpFormat::Custom) => Reader::Archive {
                reader: Box::new(ArchiveReader::new()),
                held: Vec::new(),
                frozen: None,
            },
            Some(DumpFormat::Plain) => Reader::Script {
                reader: Box::new(ScriptReader::new()),
                line: Vec::new(),
                is_rest: false,
                noise_lines: 0,
            },
            None => {
                return Err(Error::new(Kind::CheckFailed, "it does not begin as a dump does"));
            }
        });
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let failed = |place: &PathBuf, error| {
            Error::io(Kind::Failed, format!("cannot write {}", place.display()), error)
        };
        match &mut self.reader {
            Some(Reader::Archive { reader, held, frozen }) => {
                let write = |bytes: &[u8]| {
                    self.file.write_all(bytes).map_err(|error| failed(&self.place, error))
                };
                take_archive(bytes, self.freezes, (reader, held, frozen), write)
            }
            Some(Reader::Script { reader, line, is_rest, noise_lines }) => {
                for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
                    line.extend_from_slice(piece);
                    if !piece.ends_with(b"\n") && line.len() < LINE_BYTES_MAX {
                        break;
                    }
                    // A line so long is a row: its rest begins no other one.
                    if std::mem::replace(is_rest, !piece.ends_with(b"\n")) {
                        reader.push(line)?;
                        self.file.write_all(line).map_err(|error| failed(&self.place, error))?;
                        line.clear();
                        continue;
                    }
                    let is_guard =
                        line.starts_with(b"\\restrict ") || line.starts_with(b"\\unrestrict ");
                    let is_guard = is_guard && reader.is_outside();
                    let is_noise = reader.is_noise(line);
                    reader.push(line)?;
                    *noise_lines += u64::from(is_noise);
                    if !is_noise && !is_guard {
                        self.file.write_all(line).map_err(|error| failed(&self.place, error))?;
                    }
                    line.clear();
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn finish(mut self) -> Result<Unpacked> {
        if self.reader.is_none() {
            let first = std::mem::take(&mut self.first);
            if first.is_empty() {
                return Err(Error::new(Kind::CheckFailed, "the dump is empty (0 bytes)"));
            }
            self.begin(&first)?;
            self.take(&first)?;
        }
        let failed = |error| {
            Error::io(Kind::Failed, format!("cannot write {}", self.place.display()), error)
        };
        let mut offsets = Vec::new();
        let read = match self.reader.take() {
            Some(Reader::Archive { reader, held, frozen }) => {
                self.file.write_all(&held).map_err(failed)?;
                offsets = match &frozen {
                    Some(frozen) => reader.offsets_moved(|offset| frozen.moved(offset)),
                    None => reader.offsets(),
                };
                let (contents, rows) = reader.finish()?;
                let entries = contents.entries.iter().map(|entry| entry.id).collect();
                (DumpFormat::Custom, rows, 0, entries)
            }
            Some(Reader::Script { mut reader, line, noise_lines, .. }) => {
                reader.push(&line)?;
                let script = reader.finish()?;
                if let Some(command) = script.commands.first() {
                    return Err(Error::new(
                        Kind::CheckFailed,
                        format!("the dump holds a command for psql, as no dump does: {command}"),
                    ));
                }
                (DumpFormat::Plain, script.rows, noise_lines, Vec::new())
            }
            None => return Err(Error::new(Kind::CheckFailed, "the dump is empty (0 bytes)")),
        };
        self.file.flush().map_err(failed)?;
        for (place, bytes) in offsets {
            self.file.get_ref().write_all_at(&bytes, place).map_err(failed)?;
        }
        Ok(read)
    }
}

/// Passes an archive on, with contents that freeze the rows where that is asked for.
fn take_archive(
    bytes: &[u8],
    freezes: bool,
    (reader, held, frozen): (&mut ArchiveReader, &mut Vec<u8>, &mut Option<FrozenHead>),
    mut write: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let is_known = reader.contents().is_some();
    let mut head_bytes = 0;
    reader.push_to(bytes, &mut |piece| {
        if let Piece::Head(head) = piece {
            head_bytes = head.bytes.len();
            let is_plain = head.contents.inner == InnerCompression::None;
            *frozen = (freezes && is_plain).then(|| FrozenHead::of(head));
        }
        Ok(())
    })?;
    if is_known {
        return write(bytes);
    }
    held.extend_from_slice(bytes);
    if reader.contents().is_none() {
        return Ok(());
    }
    let held = std::mem::take(held);
    match frozen {
        Some(frozen) => {
            write(&frozen.bytes)?;
            write(&held[head_bytes..])
        }
        None => write(&held),
    }
}

/// What the beginning of a dump shows.
pub(super) struct Head {
    pub(super) format: DumpFormat,
    pub(super) contents: Option<Contents>,
    /// Whether it says of itself that it is a dump.
    pub(super) is_dump: bool,
}

/// The format that the first bytes show, if they are those of a dump.
pub(super) fn begins_as(env: &Env, origin: Origin<'_>) -> Result<Option<DumpFormat>> {
    let (reader, wrapping, _) = open(origin)?;
    let name = origin.name();
    let expectation = Expectation { object: &name, ..Expectation::default() };
    let mut first = Vec::new();
    let read = decode(reader, wrapping, env.threads, &expectation, &mut |plain| {
        first.extend_from_slice(plain);
        match first.len() < 8 {
            true => Ok(()),
            false => Err(Error::new(Kind::Interrupted, "enough was read")),
        }
    });
    match read {
        Err(error) if error.kind() != Kind::Interrupted => Err(error),
        _ => Ok(format_of(&first)),
    }
}

/// Reads as far as the table of contents reaches, and no further.
pub(super) fn head(env: &Env, origin: Origin<'_>) -> Result<Head> {
    let (reader, wrapping, _) = open(origin)?;
    let name = origin.name();
    let expectation = Expectation { object: &name, ..Expectation::default() };
    let mut first = Vec::new();
    let (mut format, mut archive) = (None, ArchiveReader::new());
    let enough = || Error::new(Kind::Interrupted, "enough was read");
    let read = decode(reader, wrapping, env.threads, &expectation, &mut |plain| {
        if format.is_none() {
            first.extend_from_slice(plain);
            if first.len() < 8 {
                return Ok(());
            }
            format = format_of(&first);
            if format != Some(DumpFormat::Custom) {
                return Err(enough());
            }
            archive.push(&first)?;
        } else {
            archive.push(plain)?;
        }
        match archive.contents() {
            Some(_) => Err(enough()),
            None => Ok(()),
        }
    });
    match read {
        Err(error) if error.kind() != Kind::Interrupted => return Err(error),
        _ => {}
    }
    let format = format.ok_or_else(|| {
        let message = match first.is_empty() {
            true => format!("{name} is empty (0 bytes)"),
            false => format!("{name} does not begin as a dump of PostgreSQL does"),
        };
        Error::new(Kind::CheckFailed, message).hint("nothing was changed; choose another backup")
    })?;
    let is_dump = PostgresEngine::default().recognizes(&first);
    Ok(Head { format, contents: archive.contents().cloned(), is_dump })
}
