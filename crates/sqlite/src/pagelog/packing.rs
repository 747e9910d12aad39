//! Packing a log: files as they were written go into packs, some hundreds in each, so that a log
//! of very many states stays short to list and quick to read. No state goes by it.
//!
//! A pack is read back before it counts. The objects that are in it go at a later time: whoever
//! was on the way through them when it came has time to end, and what is in the pack is compared
//! with them once more before.

use std::io::Read;

use jiff::{SignedDuration, Timestamp};
use lifeboat_core::env::Env;
use lifeboat_core::parallel::in_parallel;
use lifeboat_core::pipeline::unread_object;
use lifeboat_core::repository::Repository;
use lifeboat_core::store::{ObjectInfo, ObjectName, get_bytes, put_bytes};
use lifeboat_core::{Error, Kind, Result};

use super::chain::Chain;
use super::layout::{FOOTER_BYTES, Footer};
use super::names::Span;
use super::pack::PackBytes;
use super::read::{self, LogObject};

/// How files are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// So many make a pack.
    pub files: usize,
    /// Or fewer, of so many bytes; one of more than a quarter of it stays as it is.
    pub bytes: u64,
    /// For so long the objects stay of which all is in a pack.
    pub spare: SignedDuration,
}

impl Default for Packing {
    fn default() -> Self {
        Packing { files: 1_024, bytes: 8 << 20, spare: SignedDuration::from_hours(1) }
    }
}

impl Packing {
    /// Which files of a log make packs, by their places: those that follow one another and are as
    /// they were written, without those of which `is_going` is true. What does not fill a pack
    /// waits for more.
    pub(super) fn packs(
        &self,
        files: &[LogObject],
        is_going: impl Fn(usize) -> bool,
    ) -> Vec<Vec<usize>> {
        let mut packs = Vec::new();
        let (mut pack, mut bytes): (Vec<usize>, u64) = (Vec::new(), 0);
        for (at, file) in files.iter().enumerate().filter(|(_, file)| file.span.level == 0) {
            let follows = pack.last().is_none_or(|&last| files[last].span.to == file.span.from);
            let is_packable = file.pack.is_none() && file.bytes <= self.bytes / 4 && !is_going(at);
            if !follows || !is_packable {
                (pack, bytes) = (Vec::new(), 0);
            }
            if !is_packable {
                continue;
            }
            pack.push(at);
            bytes += file.bytes;
            if pack.len() >= self.files || bytes > self.bytes - self.bytes / 4 {
                packs.push(std::mem::take(&mut pack));
                bytes = 0;
            }
        }
        packs
    }

    /// The objects that may go, because all of each has been in a pack for long enough.
    pub(super) fn over<'c>(&self, now: Timestamp, chain: &'c Chain<'_>) -> Vec<&'c ObjectInfo> {
        let Ok(before) = now.checked_sub(self.spare) else { return Vec::new() };
        let is_old = |object: &&ObjectInfo| {
            let packed = covering(chain, object);
            packed.is_some_and(|at| chain.packs[at].1 < before)
        };
        chain.spare.iter().filter(is_old).collect()
    }
}

/// The pack in which the file is that an object holds, by its place.
pub(super) fn covering(chain: &Chain<'_>, object: &ObjectInfo) -> Option<usize> {
    let span = span_of(&object.name)?;
    let at = chain.packs.partition_point(|(pack, _)| pack.span.to <= span.from);
    chain.packs.get(at).filter(|(pack, _)| pack.span.from <= span.from).map(|_| at)
}

/// What a name says of a file, or of a pack.
fn span_of(name: &ObjectName) -> Option<Span> {
    let (_, rest) = read::split(name.as_str());
    Span::parse(rest).or_else(|| Span::parse_pack(rest))
}

/// Puts those files of a log into a pack.
pub(super) fn pack(env: &Env, chain: &Chain<'_>, files: &[usize]) -> Result<()> {
    let files: Vec<&LogObject> = files.iter().map(|&at| &chain.files[at]).collect();
    let (Some(first), Some(last)) = (files.first(), files.last()) else { return Ok(()) };
    let repository = chain.repository;
    let store = repository.store();
    let read = in_parallel(&files, store.readers(), |file| {
        env.proceed()?;
        let content = whole(repository, file)?;
        // One that is sealed shows nothing by which it could be proved: it is read twice alike.
        match file.is_sealed() && whole(repository, file)? != content {
            true => {
                let twice = "what is read of it is not the same twice";
                Err(file.damaged(Error::new(Kind::CheckFailed, twice)))
            }
            false => Ok(content),
        }
    });
    let mut bytes = PackBytes::default();
    for (file, content) in files.iter().zip(read) {
        let content = content?;
        bytes.add(&content, index_of(file, &content)?);
    }
    let bytes = bytes.finish();
    let span = Span { from: first.span.from, to: last.span.to, level: 0 };
    let prefix = repository.log_prefix(chain.folder, &chain.base.name);
    put(env, repository, &span.pack_object(&prefix, first.is_sealed())?, &bytes)
}

/// Stores a pack and reads it back.
fn put(env: &Env, repository: &Repository, object: &ObjectName, bytes: &[u8]) -> Result<()> {
    let store = repository.store();
    env.crash.pass("pack.before_pack")?;
    put_bytes(store, object, bytes)?;
    env.crash.pass("pack.after_pack")?;
    let read = get_bytes(store, object, bytes.len() as u64);
    env.crash.pass("pack.read_back")?;
    match read {
        Ok(read) if read == bytes => Ok(()),
        // Whoever restores would take it before the files that it was made of.
        Err(error) if error.kind() != Kind::CheckFailed => store.delete(object).and(Err(error)),
        _ => {
            store.delete(object)?;
            let message = format!("{object}, read back, is not what was sent");
            Err(Error::new(Kind::CheckFailed, message))
        }
    }
}

/// All that is stored of a file.
fn whole(repository: &Repository, file: &LogObject) -> Result<Vec<u8>> {
    let size = file.size(repository)?;
    let mut content = Vec::with_capacity(size as usize);
    file.stored(repository)?
        .take(size + 1)
        .read_to_end(&mut content)
        .map_err(|error| unread_object(&file.object, error))?;
    match content.len() as u64 == size {
        true => Ok(content),
        false => Err(file.damaged(Error::new(Kind::CheckFailed, "it is cut short"))),
    }
}

/// Where in a file its index is, which is compared with what its name and its footer say. A sealed
/// one shows none of it; that it is what it was is what its marks are for.
fn index_of(file: &LogObject, content: &[u8]) -> Result<Option<std::ops::Range<u64>>> {
    if file.is_sealed() {
        return Ok(None);
    }
    let damaged = |why: &str| file.damaged(Error::new(Kind::CheckFailed, why.to_owned()));
    let Some((before, footer)) = content.split_last_chunk::<FOOTER_BYTES>() else {
        return Err(damaged("it is cut short"));
    };
    let footer =
        Footer::parse(footer, content.len() as u64).map_err(|error| file.damaged(error))?;
    if (footer.from, footer.to) != (file.span.from, file.span.to) {
        return Err(file.misplaced(footer.from, footer.to));
    }
    match *blake3::hash(before).as_bytes() == footer.content {
        true => Ok(Some(footer.index)),
        false => Err(damaged("its content is not what was written")),
    }
}

/// Deletes objects of which all is in a pack, once that was compared.
pub(super) fn remove_spare(
    env: &Env,
    chain: &Chain<'_>,
    over: &[&ObjectInfo],
    hold: &mut dyn FnMut() -> Result<()>,
) -> Result<(usize, u64)> {
    let repository = chain.repository;
    let store = repository.store();
    let same = in_parallel(over, store.readers(), |object| {
        env.proceed()?;
        is_packed(chain, object)
    });
    // What differs is seen before anything goes.
    for (object, same) in over.iter().zip(same) {
        match same {
            Ok(true) => {}
            Err(error) if error.kind() != Kind::CheckFailed => return Err(error),
            _ => return unpack(env, chain, object).map(|()| (0, 0)),
        }
    }
    let (mut deleted, mut freed_bytes) = (0, 0);
    for object in over.iter().rev() {
        hold()?;
        store.delete(&object.name)?;
        env.crash.pass("pack.deleted")?;
        deleted += 1;
        freed_bytes += object.bytes;
    }
    Ok((deleted, freed_bytes))
}

/// A pack has something else than an object that is in it. If that one is sound and the pack is
/// not, the pack goes: its files are all there, as what differs is looked for before any goes.
fn unpack(env: &Env, chain: &Chain<'_>, object: &ObjectInfo) -> Result<()> {
    let differs = || {
        let message = format!("{} is not what the pack has of it", object.name);
        let hint = "lifeboat verify says which of them is damaged";
        Error::new(Kind::CheckFailed, message).hint(hint)
    };
    let (Some(span), Some(at)) = (span_of(&object.name), covering(chain, object)) else {
        return Err(differs());
    };
    let is_sound = |file: LogObject| {
        let content = whole(chain.repository, &file)?;
        index_of(&file, &content).map(|index| index.is_some())
    };
    let (pack, _) = &chain.packs[at];
    let all_there = (pack.span.from..pack.span.to).all(|from| {
        let is_it = |one: &ObjectInfo| span_of(&one.name).is_some_and(|span| span.from == from);
        chain.spare.iter().any(is_it)
    });
    let number = usize::try_from(span.from - pack.span.from).unwrap_or(usize::MAX);
    let own = is_sound(LogObject::whole(object.clone(), span));
    match (own, is_sound(LogObject::packed(pack, number))) {
        (Ok(true), Err(error)) if error.kind() == Kind::CheckFailed && all_there => {
            env.warn(&chain.base.name, &format!("{error}: it goes, and is made anew"));
            chain.repository.store().delete(&pack.object)
        }
        _ => Err(differs()),
    }
}

/// Whether a pack has what an object holds, to the byte. Of a pack that lies in others nothing is
/// needed, as these were compared with the files themselves.
fn is_packed(chain: &Chain<'_>, object: &ObjectInfo) -> Result<bool> {
    let (Some(span), Some(at)) = (span_of(&object.name), covering(chain, object)) else {
        return Ok(false);
    };
    if span.to - span.from > 1 {
        return Ok(true);
    }
    let (pack, _) = &chain.packs[at];
    let number = usize::try_from(span.from - pack.span.from).unwrap_or(usize::MAX);
    let packed = whole(chain.repository, &LogObject::packed(pack, number))?;
    let own = whole(chain.repository, &LogObject::whole(object.clone(), span))?;
    Ok(packed == own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(spans: &[(u64, u64, u8)], bytes: u64) -> Vec<LogObject> {
        let file = |&(from, to, level): &(u64, u64, u8)| {
            let span = Span { from, to, level };
            let name = span.object("a/log/b", false).unwrap();
            let info = ObjectInfo { name, bytes, modified: Timestamp::UNIX_EPOCH };
            LogObject::whole(info, span)
        };
        spans.iter().map(file).collect()
    }

    fn fine(range: std::ops::Range<u64>) -> Vec<(u64, u64, u8)> {
        range.map(|from| (from, from + 1, 0)).collect()
    }

    #[test]
    fn files_that_follow_one_another_make_full_packs() {
        let rule = Packing { files: 4, bytes: 1_000, ..Packing::default() };
        let none = |_| false;
        assert_eq!(rule.packs(&files(&fine(0..11), 1), none), [vec![0, 1, 2, 3], vec![4, 5, 6, 7]]);
        // What is merged lies beside, and a gap ends a pack.
        let mut spans = [fine(3..6), fine(7..12), vec![(0, 3, 1)]].concat();
        spans.sort_unstable();
        assert_eq!(rule.packs(&files(&spans, 1), none), [[4, 5, 6, 7]]);
        // What goes is not packed, large ones neither, and bytes make a pack full as well.
        assert_eq!(rule.packs(&files(&fine(0..6), 1), |at| at == 1), [[2, 3, 4, 5]]);
        assert_eq!(rule.packs(&files(&fine(0..9), 251), none), [[0; 0]; 0]);
        assert_eq!(rule.packs(&files(&fine(0..7), 250), none), [[0, 1, 2, 3]]);
        let small = Packing { files: 100, bytes: 1_000, ..rule };
        assert_eq!(small.packs(&files(&fine(0..7), 200), none), [[0, 1, 2, 3]]);
    }
}
