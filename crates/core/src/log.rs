//! Objects of a log: files that fill the time between backups, such as segments of a server's log.
//!
//! This is the one place that knows how such an object is stored. It is compressed as an artifact
//! is, put only if absent, read back and compared before anything is called a success. The same
//! bytes a second time are a success; other bytes under a name that is taken are an error that
//! names both. What it is called is for the crate that knows the database.
//!
//! In a repository that seals, the object is sealed as well. Whoever writes it has no key to
//! compare it by later; so the hash of its plain bytes is stored beside it before.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::pipeline::{
    Compression, EncodeOptions, Encoded, Expectation, Wrapping, decode, encode_unhashed,
    read_back_bytes,
};
use crate::repository::Repository;
use crate::seal;
use crate::source::Sink;
use crate::store::{ObjectInfo, ObjectName, ObjectReader, Put, get_bytes, put_bytes};

/// The ending of every object of a log: it is compressed with zstd.
pub const ENDING: &str = ".zst";
/// The ending of what holds the hash of a sealed object's plain bytes.
const HASH_ENDING: &str = ".blake3";
/// That is a line of 64 digits.
const HASH_BYTES_MAX: u64 = 100;

/// A file on its way into a log.
pub struct Outgoing<'a> {
    /// The object's name without its [`ENDING`].
    pub object: &'a str,
    /// What people call the file, for errors.
    pub label: &'a str,
    /// How many bytes it must have.
    pub bytes: u64,
    /// Opens it at its beginning; may be asked more than once.
    pub open: &'a dyn Fn() -> Result<Box<dyn Read>>,
    /// The level of the compression.
    pub level: i32,
}

/// How a file came to be in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It was stored and read back; so many bytes as stored.
    Stored(u64),
    /// The same bytes were there already.
    AlreadyThere,
}

/// The names that an object may have: first the one under which it is stored now.
fn names(repository: &Repository, object: &str) -> Result<[ObjectName; 2]> {
    let plain = ObjectName::new(format!("{object}{ENDING}"))?;
    let sealed = ObjectName::new(format!("{object}{ENDING}{}", seal::SUFFIX))?;
    Ok(if repository.recipients().is_some() { [sealed, plain] } else { [plain, sealed] })
}

fn hash_name(object: &str) -> Result<ObjectName> {
    ObjectName::new(format!("{object}{HASH_ENDING}"))
}

/// Where the hash of a sealed object's plain bytes is; `None` for one that is not sealed.
pub(crate) fn hash_beside(object: &ObjectName) -> Result<Option<ObjectName>> {
    let sealed = object.as_str().ends_with(seal::SUFFIX);
    file_of(object.as_str()).filter(|_| sealed).map(hash_name).transpose()
}

/// The file that an object is, if it is one of a log by its ending.
pub fn file_of(object: &str) -> Option<&str> {
    object.strip_suffix(seal::SUFFIX).unwrap_or(object).strip_suffix(ENDING)
}

/// What the store says of a file of a log; `None` only if it answered that it holds none.
pub fn head(repository: &Repository, object: &str) -> Result<Option<ObjectInfo>> {
    for name in names(repository, object)? {
        if let Some(info) = repository.store().head(&name)? {
            return Ok(Some(info));
        }
    }
    Ok(None)
}

/// Removes a file of a log, and the hash beside it.
pub fn delete(repository: &Repository, object: &str) -> Result<()> {
    for name in names(repository, object)?.iter().chain([&hash_name(object)?]) {
        repository.store().delete(name)?;
    }
    Ok(())
}

/// Stores a file in each of the repositories: it is read and compressed once. The results are in
/// their order; an error in one does not keep the file from the others.
///
/// [`Kind::Refused`] where other bytes have its name.
pub fn put(
    env: &Env,
    repositories: &[&Repository],
    outgoing: &Outgoing<'_>,
) -> Vec<Result<Placed>> {
    let mut results: Vec<Option<Result<Placed>>> = Vec::new();
    // What is not sealed is the same everywhere: those are written together.
    let mut groups: Vec<Vec<(usize, Box<dyn Put>)>> = vec![Vec::new()];
    for (index, repository) in repositories.iter().enumerate() {
        match begin(env, repository, outgoing) {
            Ok(Some(put)) => {
                match repository.recipients() {
                    None => groups[0].push((index, put)),
                    Some(_) => groups.push(vec![(index, put)]),
                }
                results.push(None);
            }
            Ok(None) => results.push(Some(Ok(Placed::AlreadyThere))),
            Err(error) => results.push(Some(Err(error))),
        }
    }
    for puts in groups.into_iter().filter(|puts| !puts.is_empty()) {
        store(env, repositories, outgoing, puts, &mut results);
    }
    let missing = || Err(Error::new(Kind::Failed, "a repository was left out"));
    results.into_iter().map(|result| result.unwrap_or_else(missing)).collect()
}

/// Begins the object; `None` if the same bytes are there.
fn begin(
    env: &Env,
    repository: &Repository,
    outgoing: &Outgoing<'_>,
) -> Result<Option<Box<dyn Put>>> {
    if head(repository, outgoing.object)?.is_some() {
        return compare(env, repository, outgoing).map(|()| None);
    }
    if repository.recipients().is_some() {
        put_hash(env, repository, outgoing)?;
    }
    let [name, _] = names(repository, outgoing.object)?;
    repository.store().put(&name).map(Some)
}

/// Stores the hash of the plain bytes, by which the sealed object is known again.
fn put_hash(env: &Env, repository: &Repository, outgoing: &Outgoing<'_>) -> Result<()> {
    let (store, name) = (repository.store(), hash_name(outgoing.object)?);
    let hash = hash_of(env, outgoing)?;
    if store.head(&name)?.is_some() {
        if get_bytes(store, &name, HASH_BYTES_MAX)? == hash {
            return Ok(());
        }
        // Of a push that was never ended: there is no object.
        store.delete(&name)?;
    }
    put_bytes(store, &name, &hash)
}

fn hash_of(env: &Env, outgoing: &Outgoing<'_>) -> Result<Vec<u8>> {
    let (mut reader, mut hasher) = ((outgoing.open)()?, blake3::Hasher::new());
    let mut buffer = vec![0; 1 << 20];
    loop {
        env.proceed()?;
        match reader.read(&mut buffer).map_err(|error| unreadable(outgoing, error))? {
            0 => return Ok(format!("{}\n", hasher.finalize()).into_bytes()),
            got => hasher.update(&buffer[..got]),
        };
    }
}

fn store(
    env: &Env,
    repositories: &[&Repository],
    outgoing: &Outgoing<'_>,
    puts: Vec<(usize, Box<dyn Put>)>,
    results: &mut [Option<Result<Placed>>],
) {
    let ended: Ended = Arc::default();
    // Each group has one repository that seals, or only such that do not.
    let seal = puts.first().and_then(|(index, _)| repositories[*index].recipients().cloned());
    let indices: Vec<usize> = puts.iter().map(|(index, _)| *index).collect();
    let tee = Box::new(Tee { puts, ended: Arc::clone(&ended) });
    let options = EncodeOptions {
        compression: Compression::Zstd { level: outgoing.level },
        block_bytes: None,
        observer: None,
        threads: env.threads,
        plain_bytes_estimate: outgoing.bytes,
        seal,
    };
    let encoded = encode_unhashed(&options, tee, |sink| copy(env, outgoing, sink));
    let ended = std::mem::take(&mut *ended.lock().unwrap_or_else(PoisonError::into_inner));
    for (index, committed) in ended {
        let repository = repositories[index];
        results[index] = Some(match (committed, &encoded) {
            (Ok(()), Ok(encoded)) => read_back(env, repository, outgoing, encoded),
            // Another process was faster. What is sealed is compared by a hash that may be ours.
            (Err(error), Ok(_)) if error.kind() == Kind::Refused => match repository.recipients() {
                None => compare(env, repository, outgoing).map(|()| Placed::AlreadyThere),
                Some(_) => Err(came_and_went(repository, outgoing)),
            },
            (Err(error), _) => Err(error),
            (Ok(()), Err(error)) => Err(same(error)),
        });
    }
    // What never came to a commit failed with the stream.
    if let Err(error) = &encoded {
        for index in indices {
            results[index].get_or_insert_with(|| Err(same(error)));
        }
    }
}

/// The same error for a further repository.
fn same(error: &Error) -> Error {
    let again = Error::new(error.kind(), format!("{error:?}"));
    match error.hint_text() {
        Some(hint) => again.hint(hint),
        None => again,
    }
}

fn copy(env: &Env, outgoing: &Outgoing<'_>, sink: &mut dyn Sink) -> Result<()> {
    let mut reader = (outgoing.open)()?;
    let mut left = outgoing.bytes;
    // One byte more than there must be: a file that grew is another one than was looked at.
    loop {
        env.proceed()?;
        let got = reader.read(sink.buffer()).map_err(|error| unreadable(outgoing, error))?;
        if got == 0 {
            break;
        }
        left = left.checked_sub(got as u64).ok_or_else(|| changed(outgoing))?;
        sink.advance(got)?;
    }
    if left > 0 { Err(changed(outgoing)) } else { Ok(()) }
}

fn unreadable(outgoing: &Outgoing<'_>, error: std::io::Error) -> Error {
    Error::io(Kind::SourceUnavailable, format!("cannot read {}", outgoing.label), error)
}

fn changed(outgoing: &Outgoing<'_>) -> Error {
    let (label, bytes) = (outgoing.label, outgoing.bytes);
    Error::new(Kind::SourceUnavailable, format!("{label} has not the {bytes} bytes that it had"))
}

/// Reads back what was just stored. What is not as it was sent is deleted again.
fn read_back(
    env: &Env,
    repository: &Repository,
    outgoing: &Outgoing<'_>,
    encoded: &Encoded,
) -> Result<Placed> {
    env.crash.pass("log.committed")?;
    let [name, _] = names(repository, outgoing.object)?;
    let store = repository.store();
    match read_back_bytes(store, &name, encoded, env.threads, &|_| env.proceed()) {
        Ok(()) => {
            env.crash.pass("log.read_back")?;
            // A drive that was unmounted meanwhile leaves a folder to which all this went.
            repository.is_still_there()?;
            Ok(Placed::Stored(encoded.stored_bytes))
        }
        Err(error) => {
            if error.kind() == Kind::CheckFailed {
                let _ = store.delete(&name);
            }
            Err(error)
        }
    }
}

/// Whether what is there is the file: decompressed and compared byte by byte; by its hash where it
/// is sealed.
fn compare(env: &Env, repository: &Repository, outgoing: &Outgoing<'_>) -> Result<()> {
    let hash = hash_name(outgoing.object)?;
    if repository.recipients().is_some() && repository.store().head(&hash)?.is_some() {
        let known = get_bytes(repository.store(), &hash, HASH_BYTES_MAX)?;
        return match known == hash_of(env, outgoing)? {
            true => Ok(()),
            false => Err(conflict(repository, outgoing)),
        };
    }
    let mut reader = (outgoing.open)()?;
    let (mut bytes, mut is_same, mut buffer) = (0_u64, true, Vec::new());
    let read = get(env, repository, outgoing.object, outgoing.bytes, &mut |plain| {
        buffer.resize(plain.len(), 0);
        is_same = is_same && reader.read_exact(&mut buffer).is_ok() && buffer == plain;
        bytes += plain.len() as u64;
        env.proceed()
    });
    match read {
        Ok(Some(_)) if is_same && bytes == outgoing.bytes => Ok(()),
        // Deleted since it was asked for: the caller tries again.
        Ok(None) => Err(came_and_went(repository, outgoing)),
        Ok(Some(_)) => Err(conflict(repository, outgoing)),
        // More bytes than the file has.
        Err(error) if error.kind() == Kind::NoSpace => Err(conflict(repository, outgoing)),
        Err(error) => Err(error),
    }
}

fn came_and_went(repository: &Repository, outgoing: &Outgoing<'_>) -> Error {
    let message = format!("{} of {} changes just now", outgoing.object, repository.url());
    Error::new(Kind::StoreUnavailable, message)
}

fn conflict(repository: &Repository, outgoing: &Outgoing<'_>) -> Error {
    let (object, url) = (outgoing.object, repository.url());
    let message = format!("{object}{ENDING} of {url} holds other bytes than {}", outgoing.label);
    Error::new(Kind::Refused, message).hint(
        "two servers write to one archive, or one was restored and goes on under the old timeline: \
         nothing is overwritten; give each server a source of its own",
    )
}

/// Reads a file of a log. `None` only if the store answered that it does not exist: a repository
/// that is not there any more is an error. `consume` gets its bytes, and must not trust them
/// before this returned.
///
/// [`Kind::CheckFailed`] for a damaged object, [`Kind::NoSpace`] for one of more than `bytes_max`.
pub fn get(
    env: &Env,
    repository: &Repository,
    object: &str,
    bytes_max: u64,
    consume: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Option<u64>> {
    let Some((name, reader)) = open(repository, object)? else {
        return repository.is_still_there().map(|()| None);
    };
    let opener = match name.as_str().ends_with(seal::SUFFIX) {
        true => {
            let keys = repository.keys().map(AsRef::as_ref);
            Some(seal::opener_of(keys, name.as_str(), &[])?)
        }
        false => None,
    };
    let expectation = Expectation {
        object: name.as_str(),
        plain_bytes_max: Some(bytes_max),
        ..Expectation::default()
    };
    let wrapping = Wrapping { compression: Compression::DEFAULT, opener };
    decode(reader, wrapping, env.threads, &expectation, consume)
        .map(|decoded| Some(decoded.plain_bytes))
}

/// Whatever of its names there is.
fn open(repository: &Repository, object: &str) -> Result<Option<(ObjectName, ObjectReader)>> {
    for name in names(repository, object)? {
        match repository.store().get(&name, None) {
            Ok(reader) => return Ok(Some((name, reader))),
            Err(error) if error.kind() == Kind::NotCovered => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// How each commit ended, by the place of its repository.
type Ended = Arc<Mutex<Vec<(usize, Result<()>)>>>;

/// Several objects that get the same bytes. One that fails is left behind.
struct Tee {
    puts: Vec<(usize, Box<dyn Put>)>,
    ended: Ended,
}

impl Tee {
    fn note(&self, index: usize, ended: Result<()>) {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).push((index, ended));
    }
}

impl std::io::Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut failed = Vec::new();
        self.puts.retain_mut(|(index, put)| match put.write_all(bytes) {
            Ok(()) => true,
            Err(error) => {
                failed.push((*index, error));
                false
            }
        });
        for (index, error) in failed {
            let what = "cannot write to the repository";
            self.note(index, Err(Error::io(Kind::StoreUnavailable, what, error)));
        }
        match self.puts.is_empty() {
            true => Err(std::io::Error::other("no repository takes it")),
            false => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Put for Tee {
    fn commit(mut self: Box<Self>) -> Result<()> {
        for (index, put) in std::mem::take(&mut self.puts) {
            let ended = put.commit();
            self.note(index, ended);
        }
        Ok(())
    }
}
