//! Pages of a donor that stand in for harmed ones: where it is proved that they are the database's
//! own everything comes back for certain, and where it is not none is taken.

use std::fs;
use std::path::{Path, PathBuf};

use lifeboat_salvage::{Donor, Harm, Report, Request, WalPlace, Way};
use rusqlite::Connection;

use crate::world::{Dice, FIRST_ID, Outcome, Sample, beside, content, donor, env};

const MESSAGES: usize = 1_500;

/// A copy of a database, as a backup of it would be.
fn backup(sample: &Sample) -> PathBuf {
    let path = sample.folder.path().join("backup.db");
    fs::copy(&sample.path, &path).unwrap();
    path
}

fn by_donor(sample: &Sample, path: &Path) -> Outcome {
    sample.salvage_by(|request| Request { donor: donor(path), ..request }).unwrap()
}

fn refused(report: &Report) -> bool {
    report.notes.iter().any(|note| note.contains("no page of the donor stands in"))
}

/// Leaves, a root, the schema, long values and the list of free pages: each is lost in its way.
fn harm(sample: &Sample) -> usize {
    let leaves = sample.pages("Message", "leaf");
    let (root, long) =
        (sample.pages("Message", "internal")[0], sample.pages("Message", "overflow"));
    let index = sample.pages("message_by_channel", "leaf");
    sample.damage_page(leaves[3], |page| page.fill(0));
    sample.damage_page(leaves[8], |page| page[..12].fill(0xff));
    sample.damage_page(root, |page| page.fill(0x55));
    sample.damage_page(long[1], |page| page[512..1024].fill(0));
    sample.damage_page(index[0], |page| page.fill(0));
    5
}

#[test]
fn what_no_transaction_followed_comes_back_whole() {
    for pragmas in ["", "PRAGMA auto_vacuum = full; PRAGMA page_size = 1024"] {
        let sample = Sample::chat(pragmas, MESSAGES);
        let donor = backup(&sample);
        let sound = fs::read(&sample.path).unwrap();
        let harmed = harm(&sample);
        let report = by_donor(&sample, &donor).all_certain(&sample).report;
        assert_eq!((report.way, report.donated.len()), (Way::Copied, harmed), "{report:#?}");
        assert_eq!(fs::read(sample.to()).unwrap(), sound);
        let zeros = report.donated.iter().filter(|page| page.harm == Harm::Zeros);
        assert_eq!(zeros.count(), 2);
        // A file that is cut, too.
        sample.damage(|bytes| bytes.truncate(sound.len() / 2 + 700));
        let report = by_donor(&sample, &donor).all_certain(&sample).report;
        assert!(report.donated.iter().any(|page| page.harm == Harm::Unreadable));
        // Row by row each page is named beside the rows.
        let outcome = sample
            .salvage_by(|request| Request {
                donor: crate::world::donor(&donor),
                deleted: true,
                ..request
            })
            .unwrap();
        let connection = Connection::open(sample.to()).unwrap();
        let sql = format!("SELECT count(*) FROM {} WHERE mark = 'donated'", outcome.report.marks);
        let named: i64 = connection.query_row(&sql, [], |row| row.get(0)).unwrap();
        assert_eq!(named as usize, outcome.report.donated.len());
    }
}

#[test]
fn a_transaction_since_proves_nothing_any_more() {
    let sample = Sample::chat("", MESSAGES);
    let donor = backup(&sample);
    let connection = Connection::open(&sample.path).unwrap();
    let sql = "UPDATE Message SET content = 'changed' WHERE id = ?1";
    connection.execute(sql, [FIRST_ID + 4096 * 9]).unwrap();
    let sample = Sample { truth: content(&connection), ..sample };
    connection.close().unwrap();
    harm(&sample);
    let outcome = by_donor(&sample, &donor);
    assert!(
        refused(&outcome.report) && outcome.report.donated.is_empty(),
        "{:?}",
        outcome.report.notes
    );
    let note = outcome.report.notes.join("\n");
    assert!(note.contains("1 transactions were made since"), "{note}");
}

/// Two databases that began as one, and counted as many transactions: they differ in one page, and
/// that page is lost; then nothing would tell them apart but another page that differs.
#[test]
fn another_database_that_counted_as_far_is_no_donor() {
    let sample = Sample::chat("", MESSAGES);
    let donor = backup(&sample);
    let change = |path: &Path, what: &str| {
        let connection = Connection::open(path).unwrap();
        let sql = format!("UPDATE Message SET content = '{what}' WHERE id IN (?1, ?2)");
        connection.execute(&sql, [FIRST_ID, FIRST_ID + 4096 * 1_200]).unwrap();
        content(&connection)
    };
    let truth = change(&sample.path, "one");
    change(&donor, "two");
    let sample = Sample { truth, ..sample };
    sample.damage_page(sample.pages("Message", "leaf")[0], |page| page.fill(0));
    let outcome = by_donor(&sample, &donor);
    assert!(
        refused(&outcome.report) && outcome.report.donated.is_empty(),
        "{:?}",
        outcome.report.notes
    );
}

/// A database with a `-wal`, a donor that ended with one of its frames, and what came after.
struct Logged {
    sample: Sample,
    donor: PathBuf,
    place: WalPlace,
}

impl Logged {
    /// `is_begun_anew`: whether the `-wal` was, between the donor and now.
    fn new(pragmas: &str, frames_before: usize, is_begun_anew: bool) -> Self {
        let sample = Sample::chat(&format!("{pragmas}; PRAGMA journal_mode = WAL"), MESSAGES);
        let connection = Connection::open(&sample.path).unwrap();
        let pragmas = "PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = OFF";
        connection.execute_batch(pragmas).unwrap();
        let update = |index: usize| {
            let sql = "UPDATE Message SET content = content || ' (again)' WHERE id = ?1";
            connection.execute(sql, [FIRST_ID + index as i64 * 11 * 4096]).unwrap();
        };
        (0..frames_before).for_each(update);
        let donor = sample.folder.path().join("backup.db");
        // What a backup holds: the pages of that moment, as they are.
        let bytes = overlaid(&sample);
        fs::write(&donor, bytes).unwrap();
        let place = end_of(&fs::read(beside(&sample.path, "-wal")).unwrap());
        (frames_before..60).for_each(update);
        // While somebody reads an earlier moment the log is copied up to there, and goes on.
        let reader = Connection::open(&sample.path).unwrap();
        if !is_begun_anew {
            reader.execute_batch("BEGIN; SELECT count(*) FROM User").unwrap();
        }
        connection.execute("DELETE FROM Message WHERE id < ?1", [FIRST_ID + 4096 * 40]).unwrap();
        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
        update(70);
        let truth = content(&connection);
        let kept = sample.folder.path().join("kept");
        for ending in ["", "-wal"] {
            fs::copy(beside(&sample.path, ending), beside(&kept, ending)).unwrap();
        }
        drop((reader, connection));
        for ending in ["", "-wal"] {
            fs::rename(beside(&kept, ending), beside(&sample.path, ending)).unwrap();
        }
        let salts = end_of(&fs::read(beside(&sample.path, "-wal")).unwrap()).salts;
        assert_eq!(salts != place.salts, is_begun_anew);
        Logged { sample: Sample { truth, ..sample }, donor, place }
    }

    fn salvage(&self, place: Option<WalPlace>) -> Outcome {
        let donor = Some(Donor { path: &self.donor, wal_place: place });
        self.sample.salvage_by(|request| Request { donor, ..request }).unwrap()
    }
}

/// The bytes of a database with all that is committed in its `-wal`.
fn overlaid(sample: &Sample) -> Vec<u8> {
    let mut bytes = fs::read(&sample.path).unwrap();
    let size = sample.page_size;
    let wal = fs::read(beside(&sample.path, "-wal")).unwrap_or_default();
    for frame in wal.get(32..).unwrap_or(&[]).chunks_exact(24 + size) {
        let page = u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize;
        bytes.resize(bytes.len().max(page * size), 0);
        bytes[(page - 1) * size..page * size].copy_from_slice(&frame[24..]);
    }
    bytes
}

/// The place at the end of a `-wal`.
fn end_of(wal: &[u8]) -> WalPlace {
    let word = |at: usize| u32::from_be_bytes(wal[at..at + 4].try_into().unwrap());
    let frame_bytes = 24 + word(8) as usize;
    let frames = (wal.len() - 32) / frame_bytes;
    let last = 32 + (frames - 1) * frame_bytes;
    WalPlace {
        salts: wal[16..24].try_into().unwrap(),
        frame: frames as u32,
        checksum: (word(last + 16), word(last + 20)),
    }
}

#[test]
fn what_the_wal_says_did_not_change_comes_from_the_donor() {
    let logged = Logged::new("", 20, false);
    let sample = &logged.sample;
    let outcome = logged.salvage(Some(logged.place)).all_certain(sample);
    assert!(
        outcome.report.donated.is_empty() && !refused(&outcome.report),
        "{:?}",
        outcome.report.notes
    );
    // Every third page of the file; those that the -wal has are no loss.
    let mut dice = Dice(3);
    sample.damage(|bytes| {
        for page in bytes.chunks_exact_mut(sample.page_size).skip(1).step_by(3) {
            match dice.roll(3) {
                0 => page.fill(0),
                1 => page.iter_mut().for_each(|byte| *byte = dice.roll(256) as u8),
                // A text that became another one: nothing but the proof shows it.
                _ => *page.last_mut().unwrap() ^= 1,
            }
        }
    });
    let outcome = logged.salvage(Some(logged.place)).all_certain(sample);
    assert!(outcome.report.donated.len() > 20, "{:#?}", outcome.report);
    // The first page, and with it the header.
    sample.damage_page(1, |page| page.fill(0));
    let outcome = logged.salvage(Some(logged.place)).all_certain(sample);
    assert_eq!(outcome.report.way, Way::Copied);
}

#[test]
fn a_log_that_was_begun_anew_still_says_what_changed_before() {
    let logged = Logged::new("", 20, true);
    let sample = &logged.sample;
    let (live, backup) = (fs::read(&sample.path).unwrap(), fs::read(&logged.donor).unwrap());
    let is_same = |page: &usize| {
        let at = page * sample.page_size..(page + 1) * sample.page_size;
        live[at.clone()] == backup[at]
    };
    let pages: Vec<usize> = (1..backup.len() / sample.page_size).filter(is_same).collect();
    assert!(pages.len() > 20);
    sample.damage(|bytes| {
        for page in pages.iter().step_by(4) {
            bytes[page * sample.page_size..][..sample.page_size].fill(0xa5);
        }
    });
    let outcome = logged.salvage(Some(logged.place)).all_certain(sample);
    assert_eq!(outcome.report.donated.len(), pages.len().div_ceil(4));
    // One that changed since is lost, whatever the donor has.
    let changed = (1..backup.len() / sample.page_size).find(|page| !is_same(page)).unwrap();
    sample.damage_page(changed as u32 + 1, |page| page.fill(0));
    let outcome = logged.salvage(Some(logged.place));
    assert!(!outcome.report.is_whole());
    assert!(outcome.report.donated.iter().all(|page| page.page != changed as u32 + 1));
}

#[test]
fn without_the_frame_of_the_donor_nothing_is_proved() {
    let leaf = Sample::chat("", MESSAGES).pages("Message", "leaf")[20];
    let logged = Logged::new("", 20, false);
    let (sample, WalPlace { salts, frame, checksum }) = (&logged.sample, logged.place);
    sample.damage_page(leaf, |page| page.fill(0));
    let other = [
        None,
        Some(WalPlace { salts: [7; 8], frame, checksum }),
        Some(WalPlace { salts, frame: frame + 1_000, checksum }),
        Some(WalPlace { salts, frame, checksum: (checksum.0, !checksum.1) }),
    ];
    for place in other {
        let outcome = logged.salvage(place);
        assert!(
            refused(&outcome.report) && outcome.report.donated.is_empty(),
            "{:?}",
            outcome.report.notes
        );
    }
    let wal = beside(&sample.path, "-wal");
    let bytes = fs::read(&wal).unwrap();
    // Torn behind the donor's frame, and in the middle of a frame.
    let mut torn = bytes.clone();
    let half = 32 + (frame as usize + 5) * (sample.page_size + 24) + 300;
    torn[half] ^= 1;
    // What was only in the -wal is lost with it, so there is no truth to compare with.
    let (to, donor) = (sample.to(), donor(&logged.donor));
    fs::remove_file(&to).unwrap();
    let look = || {
        let donor = donor.map(|donor| Donor { wal_place: Some(logged.place), ..donor });
        let request = Request { donor, ..sample.request(&to) };
        lifeboat_salvage::examine(&env(), &request).unwrap()
    };
    fs::write(&wal, torn).unwrap();
    assert!(refused(&look()));
    fs::remove_file(&wal).unwrap();
    assert!(refused(&look()));
}

/// Damage at random: with a proof everything is exact, or what is not is marked.
#[test]
fn random_damage_with_a_donor_is_compared_with_the_truth() {
    let rounds = crate::world::rounds(12, 400);
    for round in 0..rounds {
        let mut dice = Dice(round * 6_151 + 5);
        let is_begun_anew = dice.roll(2) == 0;
        let pragmas = "PRAGMA page_size = 1024";
        let logged = Logged::new(pragmas, 5 + dice.roll(40), is_begun_anew);
        let sample = &logged.sample;
        sample.damage(|bytes| crate::random::damage(bytes, 1024, false, &mut dice));
        let place = (dice.roll(4) > 0).then_some(logged.place);
        let donor = Some(Donor { path: &logged.donor, wal_place: place });
        // The comparison is made where the outcome is taken.
        let outcome = sample.salvage_by(|request| Request { donor, ..request });
        // Pages that changed before a log was begun anew are in the file alone.
        if place.is_some() && !is_begun_anew {
            outcome.unwrap().all_certain(sample);
        }
    }
}

/// Bytes of one page were found changed, and those of another were not: after a transaction no page
/// of the donor stands in, but where it has the same bytes it proves them.
#[test]
fn rows_of_pages_that_the_donor_has_too_are_certain() {
    let sample = Sample::chat("PRAGMA page_size = 1024", MESSAGES);
    let donor = backup(&sample);
    Connection::open(&sample.path)
        .unwrap()
        .execute_batch("UPDATE User SET rank = -1 WHERE id % 40 = 0")
        .unwrap();
    let sample = sample.with_its_truth();
    let leaves = sample.pages("Message", "leaf");
    // The pointer of a cell, and a letter of a text, which shows nothing.
    sample.damage_page(leaves[3], |page| page[9] ^= 0x40);
    sample.damage_page(leaves[9], |page| {
        let at = page.windows(4).position(|four| four == "nick".as_bytes()).unwrap();
        page[at] = b'm';
    });
    let certain = |outcome: &Outcome| {
        let mut tables = outcome.report.tables.iter();
        tables.find(|table| table.name == "Message").unwrap().counts.certain
    };
    let without = sample.salvage().unwrap();
    assert_eq!(certain(&without), 0, "{:#?}", without.report);
    let with = by_donor(&sample, &donor);
    assert!(refused(&with.report), "{:#?}", with.report.notes);
    assert!(certain(&with) as usize > MESSAGES * 8 / 10, "{:#?}", with.report);
    let users = with.report.tables.iter().find(|table| table.name == "User").unwrap();
    assert!(users.counts.uncertain > 0 && users.counts.certain > 0, "{users:?}");
}

#[test]
fn a_look_names_what_would_stand_in_and_makes_nothing() {
    let sample = Sample::chat("", MESSAGES);
    let donor = backup(&sample);
    let harmed = harm(&sample);
    let to = sample.to();
    let request = Request { donor: crate::world::donor(&donor), ..sample.request(&to) };
    let report = lifeboat_salvage::examine(&env(), &request).unwrap();
    assert!(!to.exists() && report.is_whole(), "{report:#?}");
    assert_eq!(report.donated.len(), harmed);
}
