//! A script's file, looked into: what it holds, whether it is whole, what a manifest can say of it.
//!
//! It is read to its end, decompressed into a scratch file, and checked by its engine there. The
//! original is only read. Whatever is not a sound backup is told with its reason, and left.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::names::{Content, Occasion, ScriptName};
use super::survey::{self, Stat};
use super::time::Decided;
use super::writers::Writers;
use crate::catalog::SourceEntry;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::event::Event;
use crate::manifest::{CheckLevel, CheckOutcome};
use crate::pipeline::{Compression, Expectation, Sha256Hex, decode};
use crate::scratch::{Scratch, free_bytes};
use crate::source::{CheckReport, Engine, FileDescription};

/// Text that is shorter than this is a message, not a dump.
const MESSAGE_BYTES_MAX: usize = 4096;

/// A file that did not change for so long is not being written.
const WRITING_SECONDS: i64 = 3_600;

/// A file that is named like a backup.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Where it is.
    pub path: PathBuf,
    /// What it was when it was found.
    pub stat: Stat,
    /// What its name says.
    pub script: ScriptName,
    /// The moment that it shows.
    pub decided: Decided,
}

/// How files are looked into.
pub struct LookOptions<'a> {
    /// The engines of all kinds.
    pub engines: &'a [&'static dyn Engine],
    /// How thoroughly databases are checked.
    pub check: CheckLevel,
    /// How much memory a check may use, in bytes.
    pub check_memory_bytes: u64,
    /// Where files are decompressed.
    pub scratch_folder: &'a Path,
}

/// Why a file is left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// There is nothing in it to go back to.
    Nothing,
    /// It holds something else than its name says.
    Foreign,
    /// It is damaged.
    Damaged,
    /// It cannot be read now.
    Unread,
}

/// What was found.
pub enum Look {
    /// It became a backup before.
    Known(KnownBackup),
    /// It can become a backup.
    Sound(Box<Sound>),
    /// It is left, for a reason.
    Left(Because, String),
}

/// A backup that a file became before.
#[derive(Clone, Debug)]
pub struct KnownBackup {
    /// The backup's name.
    pub name: String,
    /// Whether it is listed, and not removed by a prune.
    pub is_listed: bool,
}

/// The files that became backups of a source before: SHA-256 and name.
#[derive(Debug, Default)]
pub struct Known(HashMap<(String, String), KnownBackup>);

/// A sound file.
pub struct Sound {
    pub(super) sha256: String,
    pub(super) compression: Compression,
    pub(super) plain_bytes: u64,
    pub(super) plain_sha256: String,
    pub(super) scratch: Scratch,
    /// The check, where one was asked for.
    pub check: Option<CheckReport>,
    /// What is in it.
    pub description: FileDescription,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl Known {
    /// Of what the repository holds of a source.
    pub fn of(entry: &SourceEntry) -> Self {
        let mut known = HashMap::new();
        for (backups, is_listed) in [(&entry.removed, false), (&entry.backups, true)] {
            for backup in backups {
                let Some(adopted) = &backup.adopted else { continue };
                let key = (adopted.sha256.clone(), adopted.name.clone());
                known.insert(key, KnownBackup { name: backup.name.clone(), is_listed });
            }
        }
        Known(known)
    }

    pub(super) fn add(&mut self, sha256: String, file: String, name: String) {
        self.0.insert((sha256, file), KnownBackup { name, is_listed: true });
    }

    fn get(&self, sha256: &str, file: &str) -> Option<&KnownBackup> {
        self.0.get(&(sha256.to_owned(), file.to_owned()))
    }
}

impl Candidate {
    /// Its file name.
    pub fn file_name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }
}

/// Looks into a file. An error means that nothing else can be looked into either.
pub fn look(
    env: &Env,
    candidate: &Candidate,
    known: &Known,
    options: &LookOptions<'_>,
) -> Result<Look> {
    match into(env, candidate, known, options) {
        Err(error) if error.kind() == Kind::SourceUnavailable => {
            Ok(Look::Left(Because::Unread, one_line(&error)))
        }
        looked => looked,
    }
}

fn into(
    env: &Env,
    candidate: &Candidate,
    known: &Known,
    options: &LookOptions<'_>,
) -> Result<Look> {
    let left = |because, why: String| Ok(Look::Left(because, why));
    // To ask all processes takes a while: not for each of a thousand old files.
    if candidate.stat.changed_within(env.clock.now(), WRITING_SECONDS)
        && let Some(writer) = Writers::now().of(candidate.stat.identity)
    {
        return left(Because::Unread, format!("it is being written by {writer}"));
    }
    let mut file = survey::open(&candidate.path, &candidate.stat)?;
    if candidate.stat.bytes == 0 {
        return left(Because::Nothing, "it is empty (0 bytes)".into());
    }
    let (sha256, first) = fingerprint(env, candidate, &mut file)?;
    if let Some(known) = known.get(&sha256, candidate.file_name()) {
        return Ok(Look::Known(known.clone()));
    }
    let kind = candidate.script.content.kind();
    let engine = options.engines.iter().find(|engine| engine.kind() == kind);
    let engine = *engine.ok_or_else(|| {
        Error::new(Kind::Failed, format!("this program knows no source of the kind `{kind}`"))
    })?;
    let compression = Compression::detect(&first);
    if let Some(side) = side_file_in_use(engine, candidate, compression) {
        let why = format!(
            "{} belongs to it: it is not the whole database. Back both up: lifeboat backup {}",
            side.display(),
            candidate.path.display()
        );
        return left(Because::Unread, why);
    }
    let unpacked = match unpack(env, candidate, file, compression, engine, options)? {
        Ok(unpacked) => unpacked,
        Err((because, why)) => return left(because, why),
    };
    judge(env, candidate, engine, options, Found { sha256, compression, unpacked })
}

/// What is known of a file before it is judged.
struct Found {
    sha256: String,
    compression: Compression,
    unpacked: Unpacked,
}

struct Unpacked {
    scratch: Scratch,
    bytes: u64,
    sha256: String,
}

/// Checks and describes what was unpacked.
fn judge(
    env: &Env,
    candidate: &Candidate,
    engine: &dyn Engine,
    options: &LookOptions<'_>,
    found: Found,
) -> Result<Look> {
    let Found { sha256, compression, unpacked } = found;
    let path = unpacked.scratch.path();
    let phase = "checking";
    env.tell(Event::PhaseBegan { subject: candidate.file_name(), phase, bytes_total: None });
    // Of a dump nothing but its end says that it is whole.
    let check = match (options.check, candidate.script.content) {
        (CheckLevel::None, Content::Sqlite) => None,
        (level, _) => Some(engine.check_file(env, &path, level, options.check_memory_bytes)?),
    };
    env.tell(Event::PhaseEnded { phase });
    if let Some(check) = check.as_ref().filter(|check| check.outcome == CheckOutcome::Failed) {
        let lines: Vec<&str> = check.damage.iter().take(3).map(String::as_str).collect();
        let why = lines.join("; ").replace(&path.display().to_string(), "it");
        return Ok(Look::Left(Because::Damaged, why));
    }
    let description = match engine.describe_file(&path) {
        Ok(description) => description,
        Err(error) if error.kind() == Kind::CheckFailed => {
            let why = one_line(&error).replace(&path.display().to_string(), "it");
            return Ok(Look::Left(Because::Damaged, why));
        }
        Err(error) => return Err(error),
    };
    if let Some(empty) = &description.empty {
        let why = format!(
            "it is an empty database: {empty}. Scripts make such files where the path of the \
             database is wrong"
        );
        return Ok(Look::Left(Because::Nothing, why));
    }
    let notes = notes(candidate, engine, compression, &description);
    Ok(Look::Sound(Box::new(Sound {
        sha256,
        compression,
        plain_bytes: unpacked.bytes,
        plain_sha256: unpacked.sha256,
        scratch: unpacked.scratch,
        check,
        description,
        notes,
    })))
}

fn notes(
    candidate: &Candidate,
    engine: &dyn Engine,
    compression: Compression,
    description: &FileDescription,
) -> Vec<String> {
    let mut notes = candidate.decided.notes.clone();
    notes.extend(candidate.decided.far.clone());
    let named = candidate.file_name();
    if named.ends_with(".gz") && !matches!(compression, Compression::Gzip { .. })
        || named.ends_with(".zst") && !matches!(compression, Compression::Zstd { .. })
    {
        let is = match compression {
            Compression::None => "is not",
            other => other.word(),
        };
        notes.push(format!("its name says how it is compressed, and it {is}"));
    }
    let is_copy = candidate.script.occasion != Occasion::Schedule;
    if is_copy && engine.may_lack_side_files(description) {
        notes.push(
            "the file was copied without its -wal: what was only in there at that time is not in \
             this backup"
                .into(),
        );
    }
    if let (Occasion::Migration(named), Some(found)) =
        (&candidate.script.occasion, &description.schema_version)
        && *named != found.version
    {
        notes.push(format!(
            "its name says version {named} of the schema, {} says {}",
            found.read_from, found.version
        ));
    }
    notes.extend(description.notes.iter().cloned());
    notes
}

/// SHA-256 of the file, and its first bytes. It must still be what it was then.
fn fingerprint(env: &Env, candidate: &Candidate, file: &mut File) -> Result<(String, Vec<u8>)> {
    let path = &candidate.path;
    let failed = |error| {
        Error::io(Kind::SourceUnavailable, format!("cannot read {}", path.display()), error)
    };
    let (phase, bytes_total) = ("reading", Some(candidate.stat.bytes));
    env.tell(Event::PhaseBegan { subject: candidate.file_name(), phase, bytes_total });
    let (mut hash, mut first) = (Sha256::new(), Vec::new());
    let mut buffer = vec![0; 1 << 20];
    loop {
        let got = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        if first.is_empty() {
            first = buffer[..got.min(512)].to_vec();
        }
        hash.update(&buffer[..got]);
        env.tell(Event::Advanced { bytes: got as u64 });
    }
    env.tell(Event::PhaseEnded { phase });
    file.rewind().map_err(failed)?;
    match Stat::of_file(file).map_err(failed)? == candidate.stat {
        true => Ok((Sha256Hex(hash.finalize().into()).to_string(), first)),
        false => Err(survey::changed(path)),
    }
}

/// A side file with content beside a plain copy: then the copy is not the whole database.
fn side_file_in_use(
    engine: &dyn Engine,
    candidate: &Candidate,
    compression: Compression,
) -> Option<PathBuf> {
    if compression != Compression::None {
        return None;
    }
    let has_content = |side: &PathBuf| {
        let is_shared_memory = side.as_os_str().as_encoded_bytes().ends_with(b"-shm");
        !is_shared_memory && fs::metadata(side).is_ok_and(|metadata| metadata.len() > 0)
    };
    engine.side_files(&candidate.path).into_iter().find(has_content)
}

/// Decompresses into a scratch file. What does not begin as it must is not unpacked further.
fn unpack(
    env: &Env,
    candidate: &Candidate,
    file: File,
    compression: Compression,
    engine: &dyn Engine,
    options: &LookOptions<'_>,
) -> Result<Result<Unpacked, (Because, String)>> {
    let mut scratch = Scratch::new(options.scratch_folder, candidate.stat.bytes)?;
    let place = scratch.path();
    let free = free_bytes(options.scratch_folder)?;
    let mut foreign = None;
    let (mut recognized, mut hash, mut scratch_failed) = (false, Sha256::new(), None);
    let expectation =
        Expectation { object: "the file", plain_bytes_max: Some(free), ..Expectation::default() };
    let decoded = decode(Box::new(file), compression, env.threads, &expectation, &mut |plain| {
        // A stream that we did not write begins with a batch of no bytes.
        if !recognized && !plain.is_empty() {
            recognized = engine.recognizes(plain);
            if !recognized {
                foreign = Some(foreign_content(candidate, plain));
                return Err(Error::new(Kind::CheckFailed, "foreign content").hint("leave it"));
            }
        }
        hash.update(plain);
        scratch.file().write_all(plain).map_err(|error| {
            let message = format!("cannot write {}", place.display());
            let error = Error::io(Kind::Failed, message, error);
            scratch_failed = Some(error.kind());
            error
        })
    });
    match (decoded, foreign) {
        (_, Some(foreign)) => Ok(Err(foreign)),
        (Ok(_), None) if !recognized => Ok(Err(foreign_content(candidate, &[]))),
        (Ok(decoded), None) => {
            let sha256 = Sha256Hex(hash.finalize().into()).to_string();
            Ok(Ok(Unpacked { scratch, bytes: decoded.plain_bytes, sha256 }))
        }
        (Err(error), None) if scratch_failed.is_some() => Err(error),
        (Err(error), None) => match error.kind() {
            Kind::CheckFailed => Ok(Err((Because::Damaged, one_line(&error)))),
            Kind::NoSpace => Ok(Err((Because::Unread, one_line(&error)))),
            Kind::StoreUnavailable => Ok(Err((Because::Unread, one_line(&error)))),
            _ => Err(error),
        },
    }
}

fn foreign_content(candidate: &Candidate, first: &[u8]) -> (Because, String) {
    let kind = match candidate.script.content {
        Content::Sqlite => "a SQLite database",
        Content::Dump => "a dump of PostgreSQL",
    };
    let looks_like = Compression::looks_like(first);
    let is_message = looks_like == "text" && first.len() < MESSAGE_BYTES_MAX;
    match (first.len(), is_message) {
        (0, _) => (Because::Nothing, format!("it does not hold {kind}, but {looks_like}")),
        (bytes, true) => {
            (Because::Nothing, format!("it does not hold {kind}, but a message of {bytes} bytes"))
        }
        _ => (Because::Foreign, format!("it does not hold {kind}, but {looks_like}")),
    }
}

/// An error and its causes in one line.
fn one_line(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}
