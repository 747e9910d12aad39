//! Snapshots under abuse: each must be, byte for byte, what SQLite's own pager reads in the
//! transaction that held it, and keep the writers' invariant.
#![allow(clippy::disallowed_methods)] // real clocks, real pauses, and a variable for the child

mod abuse;

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use self::abuse::{Abuse, Dice, require_whole};
use super::{Overlay, Snapshot, behind};
use crate::ffi::Mark;

/// How long each kind of abuse is borne: longer with `LIFEBOAT_LONG=1`.
fn test_time() -> Duration {
    let is_long = std::env::var_os("LIFEBOAT_LONG").is_some();
    Duration::from_secs(if is_long { 120 } else { 4 })
}

/// Longer than any machine should take, also one that does much else.
const PATIENCE: Duration = Duration::from_secs(300);

/// All pages of a snapshot, in batches of odd sizes, with pauses.
fn image(snapshot: &mut Snapshot, dice: &mut Dice) -> Vec<u8> {
    let page_bytes = snapshot.page_size() as usize;
    let mut image = vec![0xaa; snapshot.page_count() as usize * page_bytes];
    let mut page = 0;
    while page < snapshot.page_count() {
        let pages = (dice.below(60) as u32 + 1).min(snapshot.page_count() - page);
        let at = page as usize * page_bytes;
        let batch = &mut image[at..at + pages as usize * page_bytes];
        snapshot.read_pages(page + 1, batch).unwrap();
        page += pages;
        if dice.below(8) == 0 {
            dice.pause(2500);
        }
    }
    image
}

fn open_image(folder: &Path, image: &[u8]) -> Connection {
    let path = folder.join("image.db");
    std::fs::write(&path, image).unwrap();
    crate::engine::open_immutable(&path).unwrap()
}

#[derive(Debug, Default)]
struct Tally {
    snapshots: u32,
    overlaid: u32,
    reset_under_us: u32,
    rollback: u32,
}

/// The three files of a database, where they exist.
fn files(folder: &Path, name: &str) -> [Option<Vec<u8>>; 3] {
    ["", "-wal", "-journal"]
        .map(|suffix| std::fs::read(folder.join(format!("{name}{suffix}"))).ok())
}

/// Bears it for its time, and on a slow machine until enough was seen.
fn bear(abuse: Abuse, is_enough: impl Fn(&Tally) -> bool) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.db");
    let abuser = abuse::begin(&path, abuse);
    let mut dice = Dice(0x1234_5678);
    let mut tally = Tally::default();
    let mut newest = 0;
    let begun = Instant::now();
    while begun.elapsed() < test_time() || !(tally.snapshots > 10 && is_enough(&tally)) {
        assert!(begun.elapsed() < PATIENCE, "{abuse:?}: not enough was seen: {tally:?}");
        let mut snapshot = Snapshot::take(&path).unwrap();
        if dice.below(3) == 0 {
            // Another capture of the same file comes and goes, and so do descriptors: the locks
            // of this one must stay.
            drop(Snapshot::take(&path).unwrap());
            drop(crate::held::open(&path).unwrap());
        }
        dice.pause(3000);
        let image = image(&mut snapshot, &mut dice);
        let was_overlaid = snapshot.overlaid_pages() > 0;
        tally.snapshots += 1;
        tally.overlaid += u32::from(was_overlaid);
        tally.rollback += u32::from(snapshot.blocks_writers());
        tally.reset_under_us +=
            u32::from(was_overlaid && matches!(snapshot.overlay, Overlay::None));
        let mut pinned = snapshot.take_pinned().unwrap();
        let expected = pinned.connection_mut().serialize("main").unwrap().to_vec();
        assert!(image == expected, "{abuse:?}: not what SQLite reads: {tally:?}");
        drop(pinned);
        drop(snapshot);
        let connection = open_image(folder.path(), &image);
        let tick = require_whole(&connection);
        assert!(tick >= newest, "{abuse:?}: time goes back");
        newest = tick;
        if tally.snapshots % 8 == 0 {
            let check = connection
                .query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0))
                .unwrap();
            assert_eq!(check, "ok");
        }
    }
    drop(abuser);
    after_a_kill(folder.path(), &path);
}

/// What a killed process left is read as SQLite's own recovery would, on a copy.
/// Says whether a journal was played back, and changed something.
fn after_a_kill(folder: &Path, path: &Path) -> bool {
    let copy = folder.join("copy.db");
    let before = files(folder, "x.db");
    for (suffix, content) in ["", "-wal", "-journal"].iter().zip(&before) {
        if let Some(content) = content {
            std::fs::write(folder.join(format!("copy.db{suffix}")), content).unwrap();
        }
    }
    let mut snapshot = Snapshot::take(path).unwrap();
    let was_hot = matches!(snapshot.overlay, Overlay::Journal(_));
    let image = image(&mut snapshot, &mut Dice(3));
    drop(snapshot);
    let after = files(folder, "x.db");
    assert!(before[0] == after[0] && before[2] == after[2], "the source was written to");
    // A `-wal` that did not exist may be there now, empty.
    assert_eq!(before[1].as_deref().unwrap_or_default(), after[1].as_deref().unwrap_or_default());
    let was_needed = before[0].as_deref() != Some(image.as_slice());
    let mut recovered = Connection::open(&copy).unwrap();
    let expected = recovered.serialize("main").unwrap().to_vec();
    assert!(image == expected, "not what SQLite's recovery gives");
    require_whole(&recovered);
    was_hot && was_needed
}

#[test]
fn three_writers_and_checkpoints_of_every_kind() {
    bear(Abuse::Writers, |tally| tally.overlaid > 0);
}

#[test]
fn a_log_that_was_copied_whole_restarts_under_us() {
    bear(Abuse::FullyCopied, |tally| tally.reset_under_us > 0);
}

#[test]
fn between_wal_and_rollback_journals() {
    bear(Abuse::Toggling, |tally| tally.rollback > 0);
}

#[test]
fn the_log_is_removed_and_made_anew() {
    bear(Abuse::LastCloser, |_| true);
}

#[test]
fn transactions_that_were_cut_off_are_rolled_back_in_memory() {
    for journal in ["delete", "persist", "truncate"] {
        for synchronous in ["off", "normal", "full"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x.db");
            drop(abuse::begin(&path, Abuse::CutOff(journal, synchronous)));
            let was_hot = after_a_kill(folder.path(), &path);
            assert!(was_hot, "{journal}, {synchronous}: no hot journal was left, or for nothing");
        }
    }
}

/// A transaction that goes on is no reason to roll it back: its writer has the database.
#[test]
fn a_transaction_that_goes_on_is_waited_for_and_its_writer_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.db");
    let abuser = abuse::begin(&path, Abuse::CutOff("delete", "full"));
    let error = Snapshot::take(&path).map(drop).unwrap_err();
    assert_eq!(error.kind(), lifeboat_core::Kind::SourceUnavailable);
    let holder = format!("process {}", abuser.id());
    assert!(error.message().contains(&holder), "{error:?}");
}

/// A transaction over several databases is committed when its super-journal goes: what is left
/// of the single journals is void then, and is played back as long as it is there.
#[test]
fn a_journal_counts_as_long_as_its_super_journal_is_there() {
    for is_there in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        drop(abuse::begin(&path, Abuse::CutOff("delete", "full")));
        let name = folder.path().join("x.db-mj0123AB9CD");
        if is_there {
            // It names the journals that belong to it, each ended by a zero.
            let journal = folder.path().join("x.db-journal");
            let mut names = journal.into_os_string().into_encoded_bytes();
            names.push(0);
            std::fs::write(&name, names).unwrap();
        }
        append_super_journal(&folder.path().join("x.db-journal"), &name);
        let before = files(folder.path(), "x.db");
        let mut snapshot = Snapshot::take(&path).unwrap();
        let image = image(&mut snapshot, &mut Dice(9));
        drop(snapshot);
        assert!(files(folder.path(), "x.db") == before, "the source was written to");
        let mut sqlite = Connection::open(&path).unwrap();
        let expected = sqlite.serialize("main").unwrap().to_vec();
        assert!(image == expected, "there: {is_there}");
        // A file that was being extended is longer than its header says.
        assert_eq!(before[0].as_ref().unwrap().starts_with(&image), !is_there);
    }
}

fn append_super_journal(journal: &Path, name: &Path) {
    use std::io::Write;
    use std::os::unix::ffi::OsStrExt;
    let name = name.as_os_str().as_bytes();
    let lock_page = crate::header::lock_page(4096);
    let sum = name.iter().fold(0_u32, |sum, &byte| sum.wrapping_add(u32::from(byte)));
    let mut file = std::fs::File::options().append(true).open(journal).unwrap();
    file.write_all(&lock_page.to_be_bytes()).unwrap();
    file.write_all(name).unwrap();
    file.write_all(&(name.len() as u32).to_be_bytes()).unwrap();
    file.write_all(&sum.to_be_bytes()).unwrap();
    file.write_all(&[0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]).unwrap();
}

/// The last commit of a log.
fn end_of(file: &std::fs::File, header: &super::wal::WalHeader) -> super::wal::Place {
    use std::os::unix::fs::FileExt;
    let frame = super::wal::committed_frames(file, header).unwrap().frames.last().unwrap().1;
    let mut head = [0; 24];
    let frame_bytes = 24 + u64::from(header.page_size);
    file.read_exact_at(&mut head, 32 + u64::from(frame - 1) * frame_bytes).unwrap();
    let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
    super::wal::Place { frame, checksum: (word(16), word(20)) }
}

#[test]
fn what_a_wal_held_before_it_was_begun_anew_is_found_as_long_as_it_is_there() {
    use super::wal;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.db");
    let writer = Connection::open(&path).unwrap();
    let sql = "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t(x)";
    writer.execute_batch(sql).unwrap();
    let insert = |count: u32| {
        for _ in 0..count {
            writer.execute("INSERT INTO t VALUES (randomblob(3000))", []).unwrap();
        }
    };
    let checkpoint = |kind: &str| {
        let sql = format!("PRAGMA wal_checkpoint({kind})");
        writer.query_row(&sql, [], |_| Ok(())).unwrap();
    };
    let file = wal::open(&folder.path().join("x.db-wal")).unwrap().unwrap();
    let header = || wal::header(&file).unwrap().unwrap();
    insert(20);
    let (before, known) = (header(), end_of(&file, &header()));
    insert(3);
    let end = end_of(&file, &before);
    checkpoint("RESTART");
    insert(1);
    let tail = behind::tail(&file, &before, known, &header()).unwrap().unwrap();
    assert_eq!(tail.commits, 3);
    let database = std::fs::read(&path).unwrap();
    for &(page, frame) in tail.frames.entries() {
        assert!(known.frame < frame && frame <= end.frame);
        let mut content = vec![0; 4096];
        assert!(wal::read_frame(&file, frame, &mut content).unwrap());
        assert!(database[(page as usize - 1) * 4096..][..4096] == content, "page {page}");
        assert!(tail.copied(page, 4096) == Some(&content[..]), "page {page} as it was scanned");
    }
    assert!(tail.is_intact(&file).unwrap());
    let (now, at) = (header(), end_of(&file, &header()));
    let salts = now.salts().try_into().unwrap();
    let mark = Mark { frame_max: at.frame, page_count: 0, checksum: at.checksum, salts };
    let new = behind::between(&file, &now, now.start(), &mark).unwrap().unwrap();
    assert!(new.frames.entries().iter().any(|(page, _)| tail.frames.contains(*page)));
    let mut reader = Connection::open(&path).unwrap();
    let (both, image) = (tail.and_then(new), reader.serialize("main").unwrap().to_vec());
    assert_eq!(both.commits, 4);
    for &(page, frame) in both.frames.entries() {
        let mut content = vec![0; 4096];
        assert!(wal::read_frame(&file, frame, &mut content).unwrap());
        assert!(image[(page as usize - 1) * 4096..][..4096] == content, "page {page} now");
        assert!(both.copied(page, 4096) == Some(&content[..]), "page {page} as it was scanned");
    }
    // New frames come over it.
    while end_of(&file, &header()).frame < known.frame {
        insert(1);
    }
    assert!(!both.is_intact(&file).unwrap());
    assert!(behind::tail(&file, &before, known, &header()).unwrap().is_none());

    a_log_that_is_just_begun_anew_says_where_the_one_before_ended(&path, &file, &insert);

    // Begun anew twice, or cut: nobody knows what was in between.
    for kinds in [&["RESTART", "RESTART"][..], &["TRUNCATE"]] {
        insert(40);
        let (before, known) = (header(), end_of(&file, &header()));
        for kind in kinds {
            insert(2);
            checkpoint(kind);
        }
        insert(1);
        assert!(behind::tail(&file, &before, known, &header()).unwrap().is_none(), "{kinds:?}");
    }
}

/// `TRUNCATE` begins it anew without a first frame.
fn a_log_that_is_just_begun_anew_says_where_the_one_before_ended(
    path: &Path,
    file: &std::fs::File,
    insert: &dyn Fn(u32),
) {
    use super::wal;
    insert(5);
    let before = wal::header(file).unwrap().unwrap();
    let known = end_of(file, &before);
    insert(3);
    let end = end_of(file, &before);
    let copy = tempfile::tempfile().unwrap();
    std::io::copy(&mut std::fs::File::open(side(path)).unwrap(), &mut &copy).unwrap();
    let writer = Connection::open(path).unwrap();
    writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    writer.execute_batch("BEGIN; SELECT * FROM t").unwrap();
    let mark = crate::ffi::snapshot_mark(&writer).unwrap();
    assert_eq!((mark.frame_max, mark.checksum), (0, end.checksum));
    for place in [known, end] {
        let ended = behind::ended(&copy, &before, place, &mark).unwrap().unwrap();
        assert_eq!((ended.frame_max, &ended.salts[..]), (end.frame, before.salts()));
        assert_eq!(ended.page_count, mark.page_count);
    }
    // What was committed in between is not there any more; nor does another mark say anything.
    assert!(behind::ended(file, &before, known, &mark).unwrap().is_none());
    assert!(behind::ended(file, &before, end, &mark).unwrap().is_some());
    let others = [
        Mark { checksum: (mark.checksum.0 ^ 1, mark.checksum.1), ..mark },
        Mark { salts: before.salts().try_into().unwrap(), ..mark },
        Mark { frame_max: 1, ..mark },
        // As after a recovery.
        Mark { page_count: 0, checksum: (0, 0), ..mark },
    ];
    for other in others {
        assert!(behind::ended(&copy, &before, known, &other).unwrap().is_none(), "{other:?}");
    }
}

fn side(path: &Path) -> std::path::PathBuf {
    crate::holders::side_file(path, "-wal")
}
