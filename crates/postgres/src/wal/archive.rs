//! One cluster's log in repositories: files are pushed into all of them, and fetched from any.

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use lifeboat_core::env::Env;
use lifeboat_core::log::{self, Outgoing, Placed};
use lifeboat_core::repository::Repository;
use lifeboat_core::{Error, Kind, Result};
use rustix::fs::OFlags;

use super::header::{HEADER_BYTES, SegmentHeader};
use super::name::{Kept, Segment, WalFile, log_prefix};
use super::spool::{Learned, Learning};
use super::{SEGMENT_BYTES_MAX, SMALL_BYTES_MAX};
use crate::control::DataDirectory;

/// A repository that holds the log, and the source's folder in it.
#[derive(Clone)]
pub struct Member {
    /// How the repository is called in messages.
    pub label: String,
    /// It.
    pub repository: Repository,
    /// The folder of the source.
    pub folder: String,
}

/// The log of one cluster.
#[derive(Clone)]
pub struct Archive {
    /// Where it lies.
    pub members: Vec<Member>,
    /// The cluster's system identifier.
    pub system: u64,
    /// The level of the compression.
    pub level: i32,
    /// The level while many files wait, where that may be another one.
    pub level_hurried: Option<i32>,
}

/// A file of `pg_wal` that was looked at and may be pushed.
#[derive(Clone, Debug)]
pub struct PushFile {
    /// Where it is.
    pub path: PathBuf,
    /// Which one it is.
    pub file: WalFile,
    /// How many bytes it has.
    pub bytes: u64,
}

/// How a file came into each member.
pub type Pushed = Vec<Placed>;

/// What a fetch found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// The file, whole.
    Whole,
    /// The beginning of a segment, as far as it was received, with zeros behind it; or one that a
    /// server left in its middle.
    Pieces,
    /// Each repository answered that it holds no such file.
    Absent,
}

impl PushFile {
    /// Looks at a file that is to be pushed: its name, its size, and of a segment what it says of
    /// itself against its name and the cluster.
    pub fn look(path: &Path, data: &DataDirectory) -> Result<PushFile> {
        let what = path.display().to_string();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let file = WalFile::parse(name).ok_or_else(|| {
            Error::new(Kind::Usage, format!("{what} has not the name of a file of the log"))
                .hint("archive_command = 'lifeboat wal push %p'")
        })?;
        let failed =
            |error| Error::io(Kind::SourceUnavailable, format!("cannot read {what}"), error);
        let opened = File::open(path).map_err(failed)?;
        let bytes = opened.metadata().map_err(failed)?.len();
        let Some(segment) = file.segment() else {
            if bytes == 0 || bytes > SMALL_BYTES_MAX {
                let message = format!("{what} has {bytes} bytes: it is no file of a few lines");
                return Err(Error::new(Kind::CheckFailed, message));
            }
            return Ok(PushFile { path: path.to_owned(), file, bytes });
        };
        let mut header = Vec::with_capacity(HEADER_BYTES);
        (&opened).take(HEADER_BYTES as u64).read_to_end(&mut header).map_err(failed)?;
        let header = SegmentHeader::parse(&header, &what)?;
        header.check(segment, bytes, &what)?;
        if header.system != data.system {
            let (of, own, here) = (header.system, data.system, data.path.display());
            let message = format!("{what} is of the cluster {of}, the one in {here} is {own}");
            return Err(Error::new(Kind::Refused, message)
                .hint("a segment of another cluster must not be in this cluster's pg_wal"));
        }
        Ok(PushFile { path: path.to_owned(), file, bytes })
    }

    pub(super) fn open(&self) -> Result<File> {
        File::open(&self.path).map_err(|error| {
            let message = format!("cannot read {}", self.path.display());
            Error::io(Kind::SourceUnavailable, message, error)
        })
    }
}

impl Archive {
    /// Stores a file in every member, reads it back, and is content only if all hold it. One that
    /// fails does not keep it from the others.
    pub fn push(&self, env: &Env, file: &PushFile) -> Result<Pushed> {
        let label = file.path.display().to_string();
        let open = || -> Result<Box<dyn Read>> { Ok(Box::new(file.open()?)) };
        self.store(env, Kept::File(file.file), &label, file.bytes, &open)
    }

    /// The same, and learns meanwhile what the file is known by.
    pub(super) fn push_and_learn(
        &self,
        env: &Env,
        file: &PushFile,
        learned: &Learned,
    ) -> Result<Pushed> {
        let label = file.path.display().to_string();
        let open = || -> Result<Box<dyn Read>> {
            let learning = Learning::new(file.open()?, learned).map_err(|error| {
                Error::io(Kind::SourceUnavailable, format!("cannot read {label}"), error)
            })?;
            Ok(Box::new(learning))
        };
        self.store(env, Kept::File(file.file), &label, file.bytes, &open)
    }

    /// Stores bytes under the name of a file or piece, in every member.
    pub(super) fn store(
        &self,
        env: &Env,
        kept: Kept,
        label: &str,
        bytes: u64,
        open: &dyn Fn() -> Result<Box<dyn Read>>,
    ) -> Result<Pushed> {
        let mut pushed = Vec::with_capacity(self.members.len());
        let mut failures: Vec<Error> = Vec::new();
        // Folders of one source may have different names: those of one name go together.
        for group in self.groups() {
            let object = kept.object(&group[0].folder, self.system);
            let outgoing = Outgoing { object: &object, label, bytes, open, level: self.level };
            let repositories: Vec<&Repository> =
                group.iter().map(|member| &member.repository).collect();
            for (result, member) in log::put(env, &repositories, &outgoing).into_iter().zip(&group)
            {
                match result {
                    Ok(placed) => pushed.push(placed),
                    Err(error) => failures.push(error.context(format!(
                        "{kept} is not in {}",
                        member.label,
                        kept = kept.name()
                    ))),
                }
            }
        }
        failures_of(failures).map(|()| pushed)
    }

    fn groups(&self) -> Vec<Vec<&Member>> {
        let mut groups: Vec<Vec<&Member>> = Vec::new();
        for member in &self.members {
            match groups.iter_mut().find(|group| group[0].folder == member.folder) {
                Some(group) => group.push(member),
                None => groups.push(vec![member]),
            }
        }
        groups
    }

    /// Fetches a file to a path: written beside it, synced, and renamed. [`Fetched::Absent`] only
    /// if every member answered that it holds no such file.
    pub fn fetch(&self, env: &Env, file: WalFile, to: &Path) -> Result<Fetched> {
        self.fetch_known(env, file, to, false)
    }

    /// The same. `is_known`: it is known already that the repositories hold something of this
    /// cluster; else that is found out before a file is said to be absent, by a list of all there
    /// is.
    pub fn fetch_known(
        &self,
        env: &Env,
        file: WalFile,
        to: &Path,
        is_known: bool,
    ) -> Result<Fetched> {
        let mut failures = Vec::new();
        for member in &self.members {
            match self.fetch_from(env, member, file, to) {
                Ok(Fetched::Absent) => {}
                Ok(found) => return Ok(found),
                Err(error) => {
                    failures
                        .push(error.context(format!("cannot fetch {file} from {}", member.label)));
                }
            }
        }
        // What one cannot give the other may have had: nobody knows that it does not exist.
        failures_of(failures)?;
        if !is_known {
            self.is_known()?;
        }
        Ok(Fetched::Absent)
    }

    fn fetch_from(&self, env: &Env, member: &Member, file: WalFile, to: &Path) -> Result<Fetched> {
        let object = Kept::File(file).object(&member.folder, self.system);
        let bytes_max = if file.segment().is_some() { SEGMENT_BYTES_MAX } else { SMALL_BYTES_MAX };
        let mut target = Target::create(to)?;
        let found = log::get(env, &member.repository, &object, bytes_max, &mut |plain| {
            env.proceed()?;
            target.write(plain)
        })?;
        match (found, file) {
            (Some(bytes), _) => {
                self.check(file, &target.begin, bytes, &object)?;
                target.finish()?;
                Ok(Fetched::Whole)
            }
            (None, WalFile::Segment(segment)) => {
                let found = self.assemble(env, member, segment, &mut target)?
                    || self.left(env, member, segment, &mut target)?;
                match found {
                    true => target.finish().map(|()| Fetched::Pieces),
                    false => Ok(Fetched::Absent),
                }
            }
            (None, _) => Ok(Fetched::Absent),
        }
    }

    /// Whether what was fetched is what its name says.
    pub(super) fn check(&self, file: WalFile, begin: &[u8], bytes: u64, what: &str) -> Result<()> {
        let Some(segment) = file.segment() else { return Ok(()) };
        let header = SegmentHeader::parse(begin, what)?;
        header.check(segment, bytes, what)?;
        match header.system == self.system {
            true => Ok(()),
            false => Err(Error::new(
                Kind::CheckFailed,
                format!("{what} is of the cluster {}, not of {}", header.system, self.system),
            )),
        }
    }

    /// The pieces of a segment that was received in part, one behind the other from its beginning,
    /// and zeros: what a server takes for the end of the log.
    fn assemble(
        &self,
        env: &Env,
        member: &Member,
        segment: Segment,
        target: &mut Target,
    ) -> Result<bool> {
        let pieces = self.pieces(member, segment)?;
        let read = read_pieces(env, member, self.system, segment, &pieces, &mut |plain| {
            env.proceed()?;
            target.write(plain)
        })?;
        if !read {
            return Ok(false);
        }
        let what = format!("the pieces of {segment}");
        let header = SegmentHeader::parse(&target.begin, &what)?;
        header.check(segment, header.segment_bytes, &what)?;
        target.set_length(header.segment_bytes)?;
        Ok(true)
    }

    /// The last segment of a timeline that a server left in its middle, and archived as such: the
    /// newest there is of that timeline. What was not written when it was left is no record.
    fn left(
        &self,
        env: &Env,
        member: &Member,
        segment: Segment,
        target: &mut Target,
    ) -> Result<bool> {
        let file = WalFile::Partial(segment);
        let object = Kept::File(file).object(&member.folder, self.system);
        let found = log::get(env, &member.repository, &object, SEGMENT_BYTES_MAX, &mut |plain| {
            env.proceed()?;
            target.write(plain)
        })?;
        let Some(bytes) = found else { return Ok(false) };
        self.check(file, &target.begin, bytes, &object).map(|()| true)
    }

    /// The pieces of a segment that a member holds, sorted.
    pub(super) fn pieces(&self, member: &Member, segment: Segment) -> Result<Vec<(u32, u32)>> {
        pieces_of(member, self.system, segment)
    }
}

impl Archive {
    /// Whether the repositories know this cluster, if they know any: a recovery that asks for the
    /// log of another one must not take "no such file" for the end of its own.
    fn is_known(&self) -> Result<()> {
        let mut others = Vec::new();
        for member in &self.members {
            let store = member.repository.store();
            if !store.list(Some(&log_prefix(&member.folder, self.system)))?.is_empty() {
                return Ok(());
            }
            let all = store.list(Some(&format!("{}/wal", member.folder)))?;
            let systems = all.iter().filter_map(|object| Kept::of_object(object.name.as_str()));
            others.extend(systems.map(|(_, system, _)| system));
            member.repository.is_still_there()?;
        }
        others.sort_unstable();
        others.dedup();
        if others.is_empty() {
            return Ok(());
        }
        let others: Vec<String> = others.iter().map(u64::to_string).collect();
        let message = format!(
            "the archive holds the log of the cluster {}, and none of {}",
            others.join(" and "),
            self.system
        );
        Err(Error::new(Kind::Refused, message)
            .hint("name the source of this cluster with --source, or its repository with --repo"))
    }
}

/// The pieces of a segment that a member holds, sorted.
fn pieces_of(member: &Member, system: u64, segment: Segment) -> Result<Vec<(u32, u32)>> {
    let prefix = format!("{}/{:08X}", log_prefix(&member.folder, system), segment.timeline);
    let objects = member.repository.store().list(Some(&prefix))?;
    let mut pieces: Vec<(u32, u32)> = objects
        .iter()
        .filter_map(|object| match Kept::of_object(object.name.as_str())?.2 {
            Kept::Piece(of, from, to) if of == segment => Some((from, to)),
            _ => None,
        })
        .collect();
    pieces.sort_unstable();
    Ok(pieces)
}

/// Gives the bytes of a segment: of the whole one, of its pieces as far as they follow each other,
/// or of one that was left in its middle. `false` if there is nothing of it.
pub(super) fn read_segment(
    env: &Env,
    member: &Member,
    system: u64,
    segment: Segment,
    consume: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<bool> {
    let object = Kept::File(WalFile::Segment(segment)).object(&member.folder, system);
    match log::get(env, &member.repository, &object, SEGMENT_BYTES_MAX, consume)? {
        Some(_) => Ok(true),
        None => {
            let pieces = pieces_of(member, system, segment)?;
            if read_pieces(env, member, system, segment, &pieces, consume)? {
                return Ok(true);
            }
            let left = Kept::File(WalFile::Partial(segment)).object(&member.folder, system);
            let found = log::get(env, &member.repository, &left, SEGMENT_BYTES_MAX, consume)?;
            Ok(found.is_some())
        }
    }
}

/// Gives the bytes of pieces that follow each other from the beginning of a segment on. `false` if
/// there are none.
fn read_pieces(
    env: &Env,
    member: &Member,
    system: u64,
    segment: Segment,
    pieces: &[(u32, u32)],
    consume: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<bool> {
    let mut end = 0_u32;
    for (from, to) in chain(pieces) {
        let object = Kept::Piece(segment, from, to).object(&member.folder, system);
        let length = u64::from(to - from);
        // What the piece before gave already.
        let mut skip = (end - from) as usize;
        let read = log::get(env, &member.repository, &object, length, &mut |plain| {
            let known = skip.min(plain.len());
            skip -= known;
            consume(&plain[known..])
        })?;
        match read {
            Some(bytes) if bytes == length => end = to,
            Some(bytes) => {
                let message = format!("{object} holds {bytes} bytes, not {length}");
                return Err(Error::new(Kind::CheckFailed, message));
            }
            // The whole segment came meanwhile: the caller asks again.
            None => {
                let message = format!("{object} came and went");
                return Err(Error::new(Kind::StoreUnavailable, message));
            }
        }
    }
    Ok(end > 0)
}

/// The pieces that follow each other from the beginning of a segment on; where several overlap, the
/// one that reaches the furthest.
pub(super) fn chain(pieces: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let (mut chain, mut end) = (Vec::new(), 0);
    loop {
        let goes_on = pieces.iter().filter(|(from, to)| *from <= end && *to > end);
        let Some(next) = goes_on.max_by_key(|(_, to)| *to) else { return chain };
        chain.push(*next);
        end = next.1;
    }
}

/// One error of several: the first, whose kind counts, with the others behind it.
fn failures_of(mut failures: Vec<Error>) -> Result<()> {
    if failures.is_empty() {
        return Ok(());
    }
    let first = failures.remove(0);
    if failures.is_empty() {
        return Err(first);
    }
    let others: Vec<String> = failures.iter().map(Error::to_string).collect();
    let message = format!("{first}; {}", others.join("; "));
    Err(first.context(message))
}

/// A file that is being fetched: beside its place until it is whole.
struct Target {
    file: File,
    part: PathBuf,
    place: PathBuf,
    begin: Vec<u8>,
    position: u64,
    is_finished: bool,
}

impl Target {
    fn create(place: &Path) -> Result<Target> {
        let mut name = place.file_name().unwrap_or_default().to_owned();
        name.push(".lifeboat-part");
        let part = place.with_file_name(name);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(&part)
            .map_err(|error| failed(&part, error))?;
        let place = place.to_owned();
        Ok(Target { file, part, place, begin: Vec::new(), position: 0, is_finished: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.position == self.begin.len() as u64 && self.begin.len() < HEADER_BYTES {
            let share = bytes.len().min(HEADER_BYTES - self.begin.len());
            self.begin.extend_from_slice(&bytes[..share]);
        }
        self.position += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|error| failed(&self.part, error))
    }

    fn set_length(&mut self, bytes: u64) -> Result<()> {
        self.file.set_len(bytes).map_err(|error| failed(&self.part, error))
    }

    fn finish(&mut self) -> Result<()> {
        self.file.sync_all().map_err(|error| failed(&self.part, error))?;
        fs::rename(&self.part, &self.place).map_err(|error| failed(&self.place, error))?;
        self.is_finished = true;
        let folder = self.place.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| failed(folder, error))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.is_finished {
            let _ = fs::remove_file(&self.part);
        }
    }
}

fn failed(path: &Path, error: std::io::Error) -> Error {
    Error::io(Kind::Failed, format!("cannot write {}", path.display()), error)
}

/// BLAKE3 of a file's bytes.
pub(super) fn hash_of(file: File) -> std::io::Result<(u64, String)> {
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut hasher = blake3::Hasher::new();
    let bytes = std::io::copy(&mut reader, &mut hasher)?;
    Ok((bytes, hasher.finalize().to_hex().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_chained_as_far_as_they_follow_each_other() {
        assert_eq!(chain(&[]), []);
        assert_eq!(chain(&[(5, 9)]), []);
        assert_eq!(chain(&[(0, 4), (4, 6), (0, 5), (7, 9)]), [(0, 5), (4, 6)]);
        assert_eq!(chain(&[(0, 4), (2, 8), (8, 9)]), [(0, 4), (2, 8), (8, 9)]);
    }
}
