//! Databases that rest: the kernel says when somebody writes to one, so that hundreds of them need
//! not be looked at each second.
//!
//! Two looks in a row must find that a database rests before it is left alone, and the kernel is
//! asked between the two: what is written after the second one is told. A look comes now and then
//! all the same. Where writes may come from another kernel, on file systems that are not known,
//! databases are looked at as ever.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lifeboat_core::env::Env;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

/// One that rests is looked at so often all the same, in milliseconds.
pub(super) const LOOK_EVERY_MS: u64 = 10_000;
/// The file systems of this kernel alone, by the numbers that it gives them: ext4, XFS, Btrfs,
/// tmpfs, F2FS, ZFS.
const LOCAL: [i64; 6] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0xf2f5_2010, 0x2fc1_2fc1];
/// So much is heard at once, in bytes.
const HEARD_BYTES: usize = 4096;

/// What is listened to.
pub(super) struct Ears {
    /// `None` where the kernel tells nothing.
    kernel: Option<OwnedFd>,
    listening: Mutex<Listening>,
}

/// Who is told of what, by the kernel's number of it.
type Listening = HashMap<i32, Vec<Weak<AtomicBool>>>;

/// What is heard of one database.
pub(super) struct Ear {
    has_heard: Arc<AtomicBool>,
}

impl Ear {
    /// Whether something may have been written since it was begun to listen.
    pub(super) fn has_heard(&self) -> bool {
        self.has_heard.load(Ordering::Acquire)
    }
}

impl Ears {
    /// Nothing is listened to yet.
    pub(super) fn open() -> Self {
        let kernel = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok();
        Ears { kernel, listening: Mutex::default() }
    }

    /// Listens to a database, until somebody writes to it or its folder changes. `None` where not
    /// all writes would be heard.
    pub(super) fn listen(&self, database: &Path) -> Option<Ear> {
        let kind = rustix::fs::statfs(database).ok()?.f_type;
        #[allow(clippy::unnecessary_cast)]
        LOCAL.contains(&(kind as i64)).then(|| self.listen_to(database))?
    }

    fn listen_to(&self, database: &Path) -> Option<Ear> {
        let kernel = self.kernel.as_ref()?;
        let mut wal = database.as_os_str().to_owned();
        wal.push("-wal");
        let written = WatchFlags::MODIFY | WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF;
        let placed = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::MOVE_SELF
            | WatchFlags::DELETE_SELF;
        let has_heard = Arc::new(AtomicBool::new(false));
        // What is told meanwhile is heard when all are known.
        let mut listening = self.listening();
        for (path, what) in
            [(database.parent()?, placed), (database, written), (&PathBuf::from(wal), written)]
        {
            match inotify::add_watch(kernel, path, what | WatchFlags::ONESHOT) {
                Ok(number) => {
                    let told = listening.entry(number).or_default();
                    told.retain(|one| one.strong_count() > 0);
                    told.push(Arc::downgrade(&has_heard));
                }
                // Its folder says when there is one.
                Err(Errno::NOENT) if path != database => {}
                Err(_) => return None,
            }
        }
        Some(Ear { has_heard })
    }

    /// Waits for so long, or until something is told: whether it was.
    pub(super) fn wait(&self, env: &Env, most_ms: u32) -> bool {
        let pause = Timespec { tv_sec: 0, tv_nsec: 1_000_000 * i64::from(most_ms) };
        let told = self.kernel.as_ref().map(|kernel| {
            let mut told = [PollFd::new(kernel, PollFlags::IN)];
            poll(&mut told, Some(&pause))
        });
        match told {
            Some(Ok(count)) => count > 0,
            Some(Err(_)) | None => {
                env.clock.sleep_ms(u64::from(most_ms));
                false
            }
        }
    }

    /// Hears what was told: whether it was anything. Each thing is told once.
    pub(super) fn hear(&self) -> bool {
        let Some(kernel) = &self.kernel else { return false };
        let mut has_heard = false;
        let mut listening = self.listening();
        let mut buffer = [MaybeUninit::uninit(); HEARD_BYTES];
        let mut told = Reader::new(kernel, &mut buffer);
        loop {
            let (number, is_lost) = match told.next() {
                Ok(event) => (event.wd(), event.events().contains(ReadFlags::QUEUE_OVERFLOW)),
                Err(Errno::WOULDBLOCK) => return has_heard,
                Err(Errno::INTR) => continue,
                Err(_) => (0, true),
            };
            has_heard = true;
            if is_lost {
                // Nothing is known any more.
                listening.drain().for_each(|(_, who)| tell(&who));
                return true;
            }
            // What it says at the end of each, that it is told no more of it, is for nobody.
            listening.remove(&number).iter().for_each(|who| tell(who));
        }
    }

    fn listening(&self) -> MutexGuard<'_, Listening> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(who: &[Weak<AtomicBool>]) {
    for one in who.iter().filter_map(Weak::upgrade) {
        one.store(true, Ordering::Release);
    }
}

/// Whether a database that is followed is left alone.
#[derive(Default)]
pub(super) struct Rest {
    ear: Option<Ear>,
    /// It was found at rest since that listens.
    is_sure: bool,
    /// When it was looked at last.
    looked_ms: u64,
}

impl Rest {
    /// Whether it rests, as far as can be heard.
    pub(super) fn is_heard(&self) -> bool {
        self.is_sure && self.ear.as_ref().is_some_and(|ear| !ear.has_heard())
    }

    /// Whether it rested until something was heard.
    pub(super) fn is_over(&self) -> bool {
        self.is_sure && !self.is_heard()
    }

    /// Whether it rests, and it need not be looked at now all the same.
    pub(super) fn lasts(&self, now_ms: u64, heartbeat_ms: u64) -> bool {
        let every_ms = LOOK_EVERY_MS.min(heartbeat_ms);
        self.is_heard() && now_ms.saturating_sub(self.looked_ms) < every_ms
    }

    /// A look has ended that was begun then, and found it at rest or not.
    pub(super) fn looked(&mut self, ears: &Ears, at_rest: Option<&Path>, begun_ms: u64) {
        self.looked_ms = begun_ms;
        let Some(database) = at_rest else {
            (self.ear, self.is_sure) = (None, false);
            return;
        };
        self.is_sure = self.ear.as_ref().is_some_and(|ear| !ear.has_heard());
        if !self.is_sure {
            self.ear = ears.listen(database);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;

    /// Whether a deed beside or in a database is heard.
    fn is_heard(deed: impl FnOnce(&Path)) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("a.db");
        fs::write(&database, "a").unwrap();
        fs::write(folder.path().join("a.db-wal"), "").unwrap();
        let ears = Ears::open();
        let ear = ears.listen_to(&database).unwrap();
        ears.hear();
        assert!(!ear.has_heard());
        deed(&database);
        ears.hear();
        ear.has_heard()
    }

    fn append(path: &Path) {
        let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(b"b").unwrap();
    }

    #[test]
    fn what_changes_a_database_is_heard_and_what_reads_it_is_not() {
        let wal = |database: &Path| database.with_extension("db-wal");
        assert!(is_heard(append));
        assert!(is_heard(|database| append(&wal(database))));
        assert!(is_heard(|database| fs::File::options()
            .write(true)
            .truncate(true)
            .open(database)
            .map(drop)
            .unwrap()));
        assert!(is_heard(|database| fs::write(database.with_extension("new"), "").unwrap()));
        assert!(is_heard(|database| fs::rename(wal(database), database).unwrap()));
        assert!(is_heard(|database| fs::remove_file(wal(database)).unwrap()));
        assert!(!is_heard(|database| assert_eq!(fs::read(database).unwrap(), b"a")));
        assert!(!is_heard(|database| drop(
            fs::File::options().write(true).open(database).unwrap()
        )));
    }

    #[test]
    fn databases_of_one_folder_are_all_told_and_each_once() {
        let folder = tempfile::tempdir().unwrap();
        let databases: Vec<PathBuf> =
            (0..3).map(|number| folder.path().join(format!("{number}.db"))).collect();
        databases.iter().for_each(|database| fs::write(database, "a").unwrap());
        let ears = Ears::open();
        let listen = || -> Vec<Ear> {
            databases.iter().map(|database| ears.listen_to(database).unwrap()).collect()
        };
        let first = listen();
        append(&databases[1]);
        ears.hear();
        let heard: Vec<bool> = first.iter().map(Ear::has_heard).collect();
        assert_eq!(heard, [false, true, false]);
        let second = listen();
        fs::write(folder.path().join("2.db-wal"), "").unwrap();
        ears.hear();
        assert!(first.iter().chain(&second).all(Ear::has_heard));
        ears.hear();
        assert!(ears.listening().values().all(|who| who.len() < 3), "who is gone is forgotten");
    }

    #[test]
    fn two_looks_make_sure_that_it_rests_and_each_deed_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("a.db");
        fs::write(&database, "a").unwrap();
        let ears = Ears::open();
        if ears.listen(&database).is_none() {
            // Writes to that file system may come from elsewhere.
            return;
        }
        let mut rest = Rest::default();
        let look = |rest: &mut Rest, is_at_rest: bool, begun_ms: u64| {
            rest.looked(&ears, is_at_rest.then_some(&database), begun_ms);
            rest.lasts(begun_ms + 1, 60_000)
        };
        assert!(!look(&mut rest, true, 0));
        assert!(look(&mut rest, true, 1_000));
        assert!(rest.lasts(10_999, 60_000) && !rest.lasts(11_000, 60_000));
        assert!(!rest.lasts(3_000, 2_000), "what is written down in time needs a look");
        assert!(!rest.is_over() && !ears.hear());
        append(&database);
        assert!(ears.wait(&crate::world::looking(), 900) && ears.hear());
        assert!(rest.is_over() && !rest.lasts(1_001, 60_000));
        assert!(!look(&mut rest, false, 2_000) && !look(&mut rest, true, 3_000));
        assert!(look(&mut rest, true, 4_000));
    }
}
