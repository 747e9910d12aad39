//! A plain copy of a database beside it: `superchat.db.backup-v8-20250108-143022`.
//!
//! A copy is captured as a backup is, so that what stands in the `-wal` is in it and writers go
//! on. It is written under a hidden name, synced, read back and checked, and only then gets its
//! name, which no file had. Its time is the local one, as those have it who look for it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustix::fs::{CWD, RenameFlags, XattrFlags, fsetxattr, renameat_with};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::manifest::{CheckLevel, CheckOutcome, SchemaVersion};
use crate::owner::Ownership;
use crate::restore::stage::Staged;
use crate::scratch::free_bytes;
use crate::source::{
    BlockObserver, CaptureOptions, CaptureReport, CheckReport, Engine, Sink, Source,
};

/// The extended attribute by which a copy of ours is known again.
pub(super) const ATTRIBUTE: &str = "user.lifeboat.beside";

/// As much of a version as stands in a name, in bytes.
const VERSION_BYTES_MAX: usize = 60;

const BUFFER_BYTES: usize = 1 << 20;

/// Everything that a copy is to be made with.
pub struct BesideRequest<'a> {
    /// What is copied: a database in one file.
    pub source: &'a dyn Source,
    /// The engine of its kind.
    pub engine: &'a dyn Engine,
    /// Its file, links resolved.
    pub place: &'a Path,
    /// Method, check and bounds.
    pub options: CaptureOptions,
    /// The zone of the time in the name.
    pub zone: &'a TimeZone,
}

/// A copy that was made.
#[derive(Clone, Debug, Serialize)]
pub struct Beside {
    /// Where it is.
    pub path: PathBuf,
    /// The moment that it shows.
    pub taken_at: Timestamp,
    /// Its size.
    pub plain_bytes: u64,
    /// SHA-256 of its bytes, hexadecimal.
    pub sha256: String,
    /// The version of the schema in it.
    pub schema_version: Option<SchemaVersion>,
    /// What was checked: "quick_check".
    pub checks: Vec<String>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// What the attribute says of a copy.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Attribute {
    pub(super) database: PathBuf,
    pub(super) taken_at: Timestamp,
    pub(super) plain_bytes: u64,
}

/// Makes a copy beside the database. When this returns `Ok`, it is there, whole and checked.
pub fn copy_beside(env: &Env, request: &BesideRequest<'_>) -> Result<Beside> {
    let inspection = request.source.inspect()?;
    let folder = request.place.parent().unwrap_or(Path::new("/"));
    let free = free_bytes(folder)?;
    if free < inspection.plain_bytes {
        let needed = inspection.plain_bytes;
        let message = format!(
            "a copy beside {} needs {needed} bytes, {free} are free there",
            request.place.display()
        );
        return Err(Error::new(Kind::NoSpace, message)
            .hint("make room, or keep the backup in a repository: --place repository"));
    }
    let taken_at = free_moment(env, request)?;
    let mut staged = Staged::create(request.place, request.place.display().to_string())?;
    let mut written = write(env, request, &mut staged)?;
    let read_back = hash_of(&staged.path)?;
    if read_back != (written.sha256.clone(), written.bytes) {
        let message = format!("the copy of {} is not what was written", request.place.display());
        return Err(Error::new(Kind::CheckFailed, message).hint("is the disk sound? see `dmesg`"));
    }
    let check = check(env, request, &staged, &mut written.report)?;
    let mut warnings = std::mem::take(&mut written.report.warnings);
    warnings.extend(staged.give(written.ownership)?);
    let attribute =
        Attribute { database: request.place.into(), taken_at, plain_bytes: written.bytes };
    if let Err(error) = mark(&staged.file, &attribute) {
        warnings.push(format!("it will not be rotated: this file system keeps no mark ({error})"));
    }
    let version = written.report.schema_version.clone();
    let path = name_of(request.place, version.as_ref(), taken_at, request.zone);
    place(staged, &path)?;
    Ok(Beside {
        path,
        taken_at,
        plain_bytes: written.bytes,
        sha256: written.sha256,
        schema_version: version,
        checks: check.map(|check| check.what).unwrap_or_default(),
        warnings,
    })
}

/// `PATH.backup-v{version}-{YYYYMMDD-HHMMSS}`.
fn name_of(
    place: &Path,
    version: Option<&SchemaVersion>,
    moment: Timestamp,
    zone: &TimeZone,
) -> PathBuf {
    let version = version.map_or("0", |version| version.version.as_str());
    let plain = |letter: char| match letter {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' => letter,
        _ => '_',
    };
    let version: String = version.chars().map(plain).take(VERSION_BYTES_MAX).collect();
    let mut name = OsString::from(place);
    name.push(format!(".backup-v{version}-{}", local(moment, zone)));
    name.into()
}

fn local(moment: Timestamp, zone: &TimeZone) -> String {
    moment.to_zoned(zone.clone()).strftime("%Y%m%d-%H%M%S").to_string()
}

/// The version and the time in the name of a copy of that database; `None` if it is no such name.
pub(super) fn parts<'a>(place: &Path, name: &'a str) -> Option<(&'a str, &'a str)> {
    let rest = name.strip_prefix(place.file_name()?.to_str()?)?.strip_prefix(".backup-v")?;
    let at = rest.len().checked_sub(16).filter(|at| rest.is_char_boundary(*at))?;
    let (version, time) = rest.split_at(at);
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (date, clock) = time.strip_prefix('-')?.split_once('-')?;
    let is_time = date.len() == 8 && clock.len() == 6 && digits(date) && digits(clock);
    (is_time && !version.is_empty()).then_some((version, &time[1..]))
}

/// A moment whose second no copy has in its name: within one, we wait for the next.
fn free_moment(env: &Env, request: &BesideRequest<'_>) -> Result<Timestamp> {
    let folder = request.place.parent().unwrap_or(Path::new("/"));
    let failed = |error| {
        Error::io(Kind::SourceUnavailable, format!("cannot list {}", folder.display()), error)
    };
    for _ in 0..100 {
        let now = env.clock.now();
        let second = local(now, request.zone);
        let mut taken = false;
        for entry in fs::read_dir(folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let name = name.to_string_lossy();
            taken |= parts(request.place, &name).is_some_and(|(_, time)| time == second);
        }
        if !taken {
            return Ok(now);
        }
        let into_second_ms = now.subsec_millisecond().max(0) as u64;
        env.clock.sleep_ms(1_000 - into_second_ms);
    }
    Err(Error::new(Kind::Failed, format!("every name beside {} is taken", request.place.display()))
        .hint("is the clock standing still? see `date`"))
}

struct Written {
    bytes: u64,
    sha256: String,
    report: CaptureReport,
    ownership: Option<Ownership>,
}

/// Captures the database into the staged file, and syncs it.
fn write(env: &Env, request: &BesideRequest<'_>, staged: &mut Staged) -> Result<Written> {
    let mut capture = request.source.capture(env, &request.options)?;
    let plans = capture.artifacts();
    let [plan] = plans.as_slice() else {
        return Err(Error::new(Kind::Usage, "only a database in one file can be copied beside it"));
    };
    let mut sink = FileSink {
        file: &mut staged.file,
        path: &staged.path,
        observer: plan.observer.clone(),
        buffer: vec![0; BUFFER_BYTES],
        offset: 0,
        hash: Sha256::new(),
    };
    capture.write(0, &mut sink)?;
    let (bytes, hash) = (sink.offset, sink.hash);
    staged.file.sync_all().map_err(|error| failed("write", &staged.path, error))?;
    let report = capture.finish()?;
    if let Some(damage) = report.damage_seen.first() {
        let message = format!("{} is damaged: {damage}", request.place.display());
        return Err(Error::new(Kind::CheckFailed, message)
            .hint("no copy was made. To go back to an older backup: lifeboat list"));
    }
    let ownership = plan.file.as_ref().map(Ownership::of);
    Ok(Written { bytes, sha256: hex(&hash.finalize()), report, ownership })
}

/// The check that was asked for: of the moment while it was held, else of the copy.
fn check(
    env: &Env,
    request: &BesideRequest<'_>,
    staged: &Staged,
    report: &mut CaptureReport,
) -> Result<Option<CheckReport>> {
    let (level, memory) = (request.options.check, request.options.check_memory_bytes);
    let check = match (report.check.take(), level) {
        (_, CheckLevel::None) => return Ok(None),
        (Some(check), _) if report.check_deferred.is_none() => check,
        _ => request.engine.check_file(env, &staged.path, level, memory)?,
    };
    if check.outcome != CheckOutcome::Failed {
        return Ok(Some(check));
    }
    let place = request.place.display();
    let lines: Vec<&str> = check.damage.iter().take(3).map(String::as_str).collect();
    Err(Error::new(Kind::CheckFailed, format!("{place} is damaged: {}", lines.join("; ")))
        .hint("no copy was made. To go back to an older backup: lifeboat list"))
}

/// Gives the copy its name. One that is taken is an error, never overwritten.
fn place(staged: Staged, path: &Path) -> Result<()> {
    let moved = renameat_with(CWD, &staged.path, CWD, path, RenameFlags::NOREPLACE);
    match moved {
        Ok(()) => staged.placed(),
        // A file system that cannot do so in one step: a second name, then the first one goes.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            fs::hard_link(&staged.path, path).map_err(|error| failed("name", path, error))?;
        }
        Err(error) => return Err(failed("name", path, error.into())),
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| failed("sync the folder of", path, error))
}

fn mark(file: &File, attribute: &Attribute) -> std::io::Result<()> {
    let text = serde_json::to_vec(attribute)?;
    fsetxattr(file, ATTRIBUTE, &text, XattrFlags::empty())?;
    file.sync_all()
}

fn hash_of(path: &Path) -> Result<(String, u64)> {
    let cannot = |error| failed("read back", path, error);
    let mut file = File::open(path).map_err(cannot)?;
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; BUFFER_BYTES]);
    loop {
        match file.read(&mut buffer).map_err(cannot)? {
            0 => return Ok((hex(&hash.finalize()), bytes)),
            read => {
                hash.update(&buffer[..read]);
                bytes += read as u64;
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn failed(verb: &str, path: &Path, error: std::io::Error) -> Error {
    Error::io(Kind::Failed, format!("cannot {verb} {}", path.display()), error)
}

/// Writes what a capture gives to a file, in its order.
struct FileSink<'a> {
    file: &'a mut File,
    path: &'a Path,
    observer: Option<Arc<dyn BlockObserver>>,
    buffer: Vec<u8>,
    offset: u64,
    hash: Sha256,
}

impl Sink for FileSink<'_> {
    fn buffer(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    fn advance(&mut self, bytes: usize) -> Result<()> {
        let plain = &self.buffer[..bytes];
        self.file.write_all(plain).map_err(|error| failed("write", self.path, error))?;
        self.hash.update(plain);
        if let Some(observer) = &self.observer {
            observer.observe(self.offset, plain);
        }
        self.offset += bytes as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> SchemaVersion {
        SchemaVersion { read_from: "user_version".into(), version: text.into() }
    }

    #[test]
    fn names_are_those_of_the_server_and_are_read_again() {
        let place = Path::new("/var/lib/super chat/superchat.db");
        let moment: Timestamp = "2025-01-08T13:30:22Z".parse().unwrap();
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let path = name_of(place, Some(&version("8")), moment, &zone);
        let expected = "/var/lib/super chat/superchat.db.backup-v8-20250108-143022";
        assert_eq!(path, Path::new(expected));
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(parts(place, name), Some(("8", "20250108-143022")));
        let hostile = name_of(place, Some(&version("../../x y-1")), moment, &zone);
        let name = hostile.file_name().unwrap().to_str().unwrap();
        assert_eq!(parts(place, name), Some((".._.._x_y_1", "20250108-143022")));
        assert!(name_of(place, None, moment, &zone).to_str().unwrap().contains(".backup-v0-"));
    }

    #[test]
    fn other_names_are_not_taken_for_copies() {
        let place = Path::new("/x/a.db");
        for name in [
            "a.db",
            "a.db.backup-v1",
            "a.db.backup-v-20250108-143022",
            "b.db.backup-v1-20250108-143022",
            "a.db.backup-v1-20250108-14302",
            "a.db.backup-v1-20250108-143022.gz",
            "a.db.backup-v1-20250108-143022-wal",
            "a.db.backup-v1é20250108-143022",
        ] {
            assert_eq!(parts(place, name), None, "{name}");
        }
    }
}
