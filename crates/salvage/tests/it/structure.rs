//! One kind of damage for each test: what must come back, and what must be said.

use std::fs::{self, File};
use std::io::Write;

use lifeboat_core::Kind;
use lifeboat_salvage::{Way, examine};
use rusqlite::Connection;

use crate::world::{Dice, FIRST_ID, Sample, env};

const MESSAGES: usize = 3_000;

fn chat() -> Sample {
    Sample::chat("", MESSAGES)
}

#[test]
fn what_is_not_damaged_is_copied_page_for_page() {
    let sample = chat();
    let outcome = sample.salvage().unwrap().all_certain(&sample);
    assert_eq!(outcome.report.way, Way::Copied);
    assert_eq!(fs::read(sample.to()).unwrap(), fs::read(&sample.path).unwrap());
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(sample.to()).unwrap());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_file_that_is_cut_gives_all_rows_before_the_cut() {
    for (part, in_page) in [(2, 0), (3, 1_500)] {
        let sample = chat();
        let pages = fs::read(&sample.path).unwrap().len() / sample.page_size;
        sample.damage(|bytes| bytes.truncate(pages / part * sample.page_size + in_page));
        let outcome = sample.salvage().unwrap();
        assert!(!outcome.report.is_whole());
        let message = outcome.report.tables.iter().find(|table| table.name == "Message").unwrap();
        assert!(message.lost_pages > 0 && message.counts.certain > 500, "{message:?}");
        assert!(message.ranges.iter().all(|range| range.above.is_some()), "{message:?}");
        assert!(message.ranges.len() <= 2, "ranges that touch are one: {message:?}");
    }
}

#[test]
fn a_first_page_of_zeros_costs_no_row() {
    let sample = chat();
    let tables = sample.ask::<String>("SELECT name FROM sqlite_schema WHERE type = 'table'").len();
    sample.damage_page(1, |page| page.fill(0));
    // The chat's schema fits into the first page: then only a donor knows it.
    let donor = chat();
    let outcome = sample
        .salvage_by(|request| lifeboat_salvage::Request {
            donor: crate::world::donor(&donor.path),
            ..request
        })
        .unwrap();
    assert!(tables > 4);
    for table in ["Message", "User", "Event", "Setting"] {
        assert_eq!(outcome.exact(&sample, table), sample.truth[table].len(), "{table}");
    }
    assert!(outcome.report.total().certain == 0, "nothing proves that no row was deleted");
}

#[test]
fn without_a_schema_all_rows_are_in_lost_and_found() {
    let sample = chat();
    sample.damage_page(1, |page| page.fill(0));
    let outcome = sample.salvage().unwrap();
    let rows: usize = sample.truth.values().map(|rows| rows.len()).sum();
    assert!(outcome.report.nowhere.1.uncertain as usize >= rows - 200, "{:?}", outcome.report);
}

#[test]
fn a_schema_on_several_pages_survives_its_first() {
    let sample = Sample::made("", |connection| {
        for table in 0..60 {
            let sql = format!(
                "CREATE TABLE t{table}(id INTEGER PRIMARY KEY, {}); \
                 INSERT INTO t{table} SELECT value, {} FROM generate_series(1, 300)",
                (0..=table)
                    .map(|column| format!("column_{column} TEXT"))
                    .collect::<Vec<_>>()
                    .join(", "),
                (0..=table)
                    .map(|column| format!("'v{column}-' || value"))
                    .collect::<Vec<_>>()
                    .join(", "),
            );
            let sql = sql.replace(
                "FROM generate_series(1, 300)",
                "FROM (WITH RECURSIVE s(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM s \
                 WHERE value < 300) SELECT value FROM s)",
            );
            connection.execute_batch(&sql).unwrap();
        }
    });
    sample.damage_page(1, |page| page.fill(0));
    let outcome = sample.salvage().unwrap();
    for (table, rows) in &sample.truth {
        assert_eq!(outcome.exact(&sample, table), rows.len(), "{table}");
    }
}

#[test]
fn the_root_of_a_table_lost_its_leaves_find_home() {
    let sample = chat();
    let root = sample.pages("Message", "internal")[0];
    sample.damage_page(root, |page| page.fill(0));
    let outcome = sample.salvage().unwrap();
    assert_eq!(outcome.exact(&sample, "Message"), MESSAGES);
    assert_eq!(outcome.report.nowhere.1.rows(), 0);
}

#[test]
fn leaves_of_zeros_cost_their_rows_and_no_other() {
    let sample = chat();
    let leaves = sample.pages("Message", "leaf");
    for &leaf in leaves.iter().step_by(7) {
        sample.damage_page(leaf, |page| page.fill(0));
    }
    let outcome = sample.salvage().unwrap();
    let message = outcome.report.tables.iter().find(|table| table.name == "Message").unwrap();
    assert_eq!(message.lost_pages as usize, leaves.len().div_ceil(7));
    // Long values lie on pages that nothing proves.
    let is_long = message.counts.uncertain <= MESSAGES.div_ceil(97) as u64;
    assert!(is_long && message.counts.altered == 0, "{message:?}");
    assert!(message.counts.certain as usize > MESSAGES * 4 / 5);
}

#[test]
fn a_damaged_list_of_free_pages_costs_nothing() {
    for (head, count) in [(0_u32, 7_u32), (4_000_000, 9), (u32::MAX, u32::MAX)] {
        let sample = chat();
        let leaf = sample.pages("Message", "leaf")[3];
        sample.damage(|bytes| {
            let head = if head == 0 { leaf } else { head };
            bytes[32..36].copy_from_slice(&head.to_be_bytes());
            bytes[36..40].copy_from_slice(&count.to_be_bytes());
        });
        let outcome = sample.salvage().unwrap().all_certain(&sample);
        assert_eq!(outcome.report.way, Way::Rows);
        let notes = outcome.report.notes.join("\n");
        assert!(notes.contains("free pages"), "{notes}");
    }
}

#[test]
fn a_header_that_no_tool_opens() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [Damage; 5] = [
        |bytes| bytes[18..20].fill(9),
        |bytes| bytes[16..18].copy_from_slice(&[0x20, 0]),
        |bytes| bytes[16..18].copy_from_slice(&[0, 0]),
        |bytes| bytes[..16].fill(b'x'),
        |bytes| bytes[20] = 40,
    ];
    for (index, damage) in damages.into_iter().enumerate() {
        let sample = chat();
        sample.damage(damage);
        let outcome = sample.salvage().unwrap();
        for (table, rows) in &sample.truth {
            assert_eq!(outcome.exact(&sample, table), rows.len(), "{table}, damage {index}");
        }
    }
}

#[test]
fn serial_types_that_mean_nothing() {
    let sample = chat();
    let leaf = sample.pages("Message", "leaf")[5];
    let mut broken = 0;
    sample.damage_page(leaf, |page| {
        let cells = u16::from_be_bytes([page[3], page[4]]) as usize;
        for cell in 0..cells {
            let at = u16::from_be_bytes([page[8 + 2 * cell], page[9 + 2 * cell]]) as usize;
            // Payload length, rowid of nine bytes at most, header length, then the types.
            let rowid = at + page[at..].iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
            let header =
                rowid + page[rowid..].iter().take(8).position(|b| b & 0x80 == 0).unwrap_or(8) + 1;
            page[header + 2] = 11;
            broken += 1;
        }
    });
    let outcome = sample.salvage().unwrap();
    assert_eq!(outcome.exact(&sample, "Message"), MESSAGES - broken);
    let message = outcome.report.tables.iter().find(|table| table.name == "Message").unwrap();
    assert_eq!(message.counts.lost as usize, broken);
    let lost = outcome
        .marked
        .iter()
        .filter(|(table, key)| table == "Message" && !outcome.content["Message"].contains_key(key));
    assert_eq!(lost.count(), broken, "each lost row is named by its key");
}

#[test]
fn overflow_pages_that_lead_nowhere_or_are_empty() {
    let sample = chat();
    let pages = sample.pages("Message", "overflow");
    assert!(pages.len() > 20);
    for (index, &page) in pages.iter().enumerate().step_by(5) {
        sample.damage_page(page, |bytes| match index % 3 {
            0 => bytes[..4].copy_from_slice(&0x00ff_ffff_u32.to_be_bytes()),
            1 => bytes.fill(0),
            // Around in a circle.
            _ => bytes[..4].copy_from_slice(&page.to_be_bytes()),
        });
    }
    let outcome = sample.salvage().unwrap();
    let total = outcome.report.total();
    assert!(total.altered + total.uncertain >= 5, "{total:?}");
    let exact = outcome.exact(&sample, "Message");
    assert!(exact + pages.len().div_ceil(5) >= MESSAGES, "{exact} rows are exact");
}

#[test]
fn a_tree_that_goes_in_a_circle() {
    let sample = chat();
    let interior = sample.pages("Message", "internal");
    let root = interior[0];
    sample.damage_page(root, |page| {
        // The child of the first cell becomes the root itself, and the last child the first.
        let at = u16::from_be_bytes([page[12], page[13]]) as usize;
        let first: [u8; 4] = page[at..at + 4].try_into().unwrap();
        page[at..at + 4].copy_from_slice(&root.to_be_bytes());
        page[8..12].copy_from_slice(&first);
    });
    let outcome = sample.salvage().unwrap();
    assert_eq!(outcome.exact(&sample, "Message"), MESSAGES);
}

#[test]
fn sectors_that_the_disk_lost() {
    let sample = chat();
    let from = sample.pages("Message", "leaf")[4] as usize * sample.page_size + 512;
    sample.damage(|bytes| bytes[from..from + 32 * 1024].fill(0));
    let outcome = sample.salvage().unwrap();
    let message = outcome.report.tables.iter().find(|table| table.name == "Message").unwrap();
    assert!(message.lost_pages >= 5 && message.counts.certain > 2_000, "{message:?}");
    assert!(!outcome.report.is_doubtful);
}

#[test]
fn bytes_before_and_behind() {
    for (before, behind) in [(1, 0), (700, 0), (4096, 0), (0, 5_000), (513, 8192)] {
        let sample = chat();
        let mut dice = Dice(before as u64);
        sample.damage(|bytes| {
            let mut all: Vec<u8> = (0..before).map(|_| dice.roll(256) as u8).collect();
            all.append(bytes);
            all.extend((0..behind).map(|_| dice.roll(256) as u8));
            *bytes = all;
        });
        sample.salvage().unwrap().all_certain(&sample);
    }
}

#[test]
fn compressed_under_the_name_of_a_database() {
    let gzip = |bytes: &[u8]| {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let sample = chat();
    sample.damage(|bytes| *bytes = gzip(bytes));
    sample.salvage().unwrap().all_certain(&sample);
    sample.damage(|bytes| *bytes = zstd(bytes));
    let outcome = sample.salvage().unwrap().all_certain(&sample);
    assert!(outcome.report.notes.len() >= 2, "{:?}", outcome.report.notes);
    // Cut: what comes is taken.
    let sample = chat();
    sample.damage(|bytes| *bytes = gzip(bytes));
    sample.damage(|bytes| bytes.truncate(bytes.len() / 2));
    let outcome = sample.salvage().unwrap();
    assert!(outcome.exact(&sample, "Message") > 100 && !outcome.report.is_whole());
}

/// A database with a `-wal` that nobody copied into it: the paths of both, and the truth.
fn with_wal(messages: usize) -> Sample {
    let sample = Sample::chat("PRAGMA journal_mode = WAL", messages);
    let connection = Connection::open(&sample.path).unwrap();
    connection.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
    for index in 0..50 {
        let sql = "UPDATE Message SET content = content || ' (again)' WHERE id = ?1";
        connection.execute(sql, [FIRST_ID + index * 7 * 4096]).unwrap();
    }
    let truth = crate::world::content(&connection);
    let kept = sample.folder.path().join("kept");
    fs::create_dir(&kept).unwrap();
    for name in ["live.db", "live.db-wal"] {
        fs::copy(sample.folder.path().join(name), kept.join(name)).unwrap();
    }
    drop(connection);
    for name in ["live.db", "live.db-wal"] {
        fs::copy(kept.join(name), sample.folder.path().join(name)).unwrap();
    }
    fs::remove_dir_all(kept).unwrap();
    Sample { truth, ..sample }
}

#[test]
fn a_wal_is_read_and_a_torn_one_as_far_as_it_goes() {
    let sample = with_wal(1_000);
    let outcome = sample.salvage().unwrap().all_certain(&sample);
    assert!(outcome.report.notes.iter().any(|note| note.contains("-wal beside it was read")));
    let wal = sample.folder.path().join("live.db-wal");
    let bytes = fs::read(&wal).unwrap();
    fs::write(&wal, &bytes[..bytes.len() - 1_000]).unwrap();
    let mut without_last = sample.truth.clone();
    let key = (FIRST_ID + 49 * 7 * 4096).to_string();
    let row = without_last.get_mut("Message").unwrap().get_mut(&key).unwrap();
    *row = row.replace(&"20286167 61696E29".replace(' ', ""), "");
    let sample = Sample { truth: without_last, ..sample };
    let outcome = sample.salvage().unwrap();
    assert_eq!(outcome.exact(&sample, "Message"), 1_000);
    assert!(!outcome.report.is_whole(), "a transaction is lost: {:?}", outcome.report.notes);
}

#[test]
fn the_wal_of_another_database_is_left_out() {
    let sample = chat();
    let other = with_wal(1_500);
    let wal = sample.folder.path().join("live.db-wal");
    fs::copy(other.folder.path().join("live.db-wal"), &wal).unwrap();
    let outcome = sample.salvage().unwrap().all_certain(&sample);
    assert!(outcome.report.notes.iter().any(|note| note.contains("-wal beside it was left out")));
    fs::write(&wal, b"no log at all").unwrap();
    sample.salvage().unwrap().all_certain(&sample);
}

#[test]
fn a_hot_journal_is_rolled_back_in_the_result_alone() {
    let sample = chat();
    let connection = Connection::open(&sample.path).unwrap();
    connection.execute_batch("PRAGMA cache_size = 5; PRAGMA cache_spill = 1; BEGIN").unwrap();
    connection.execute_batch("UPDATE Message SET content = upper(content), sent = 0").unwrap();
    let kept = tempfile::tempdir().unwrap();
    let journal = sample.folder.path().join("live.db-journal");
    fs::copy(&sample.path, kept.path().join("db")).unwrap();
    fs::copy(&journal, kept.path().join("journal")).unwrap();
    drop(connection);
    fs::copy(kept.path().join("db"), &sample.path).unwrap();
    fs::copy(kept.path().join("journal"), &journal).unwrap();
    let outcome = sample.salvage().unwrap().all_certain(&sample);
    assert!(outcome.report.notes.iter().any(|note| note.contains("-journal beside it was read")));
}

#[test]
fn flipped_bits_are_found_or_everything_is_uncertain() {
    let sample = chat();
    let leaves = sample.pages("Message", "leaf");
    let mut dice = Dice(5);
    for &leaf in leaves.iter().step_by(3) {
        sample.damage_page(leaf, |page| {
            for _ in 0..4 {
                let at = page.len() / 3 + dice.roll(page.len() * 2 / 3);
                page[at] ^= 1 << dice.roll(8);
            }
        });
    }
    let outcome = sample.salvage().unwrap();
    assert!(outcome.report.is_doubtful);
    assert!(outcome.exact(&sample, "Message") > MESSAGES * 9 / 10);
}

#[test]
fn nothing_gives_nothing_and_leaves_nothing() {
    let sample = chat();
    for content in [Vec::new(), vec![0; 20_000], b"these are only words".to_vec()] {
        sample.damage(|bytes| *bytes = content);
        let error = sample.salvage().unwrap_err();
        assert_eq!(error.kind(), Kind::CheckFailed, "{error:?}");
    }
    let mut dice = Dice(1);
    sample.damage(|bytes| *bytes = (0..100_000).map(|_| dice.roll(256) as u8).collect());
    assert_eq!(sample.salvage().unwrap_err().kind(), Kind::CheckFailed);
}

#[test]
fn nothing_is_overwritten_and_a_look_makes_nothing() {
    let sample = chat();
    let to = sample.to();
    let report = examine(&env(), &sample.request(&to)).unwrap();
    assert!(!to.exists() && report.way == Way::Looked);
    assert_eq!(report.total().certain as usize, 2 + 400 + MESSAGES + 1_000 + 1);
    File::create(&to).unwrap();
    let error = lifeboat_salvage::salvage(&env(), &sample.request(&to)).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert_eq!(fs::read(&to).unwrap(), b"");
}

#[test]
fn a_donor_has_what_is_lost_and_gives_it_only_when_asked() {
    let (sample, donor) = (chat(), chat());
    let leaves = sample.pages("Message", "leaf");
    let settings = sample.pages("Setting", "leaf");
    for &leaf in leaves[10..14].iter().chain(&settings[..1]) {
        sample.damage_page(leaf, |page| page.fill(0));
    }
    // Rows that are only in the donor, and not where something was lost, were deleted since.
    let connection = Connection::open(&donor.path).unwrap();
    let sql = "INSERT INTO Message(id, channel, author, content, sent) VALUES(?1, 1, 'x', 'y', 2)";
    connection.execute(sql, [FIRST_ID - 5]).unwrap();
    connection.close().unwrap();
    let by_donor = |merge_rows| {
        let donor = crate::world::donor(&donor.path);
        let ask = |request| lifeboat_salvage::Request { donor, merge_rows, ..request };
        sample.salvage_by(ask).unwrap()
    };
    let outcome = by_donor(false);
    let missing = MESSAGES - outcome.exact(&sample, "Message");
    let message = |outcome: &crate::world::Outcome| {
        outcome.report.tables.iter().find(|table| table.name == "Message").unwrap().clone()
    };
    assert!(missing > 10);
    assert_eq!(message(&outcome).in_donor as usize, missing);
    let outcome = by_donor(true);
    assert_eq!(message(&outcome).in_donor as usize, missing);
    for table in ["Message", "Setting"] {
        assert_eq!(outcome.content[table], sample.truth[table], "{table}");
    }
    assert!(outcome.report.merged && !outcome.report.is_whole());
}

#[test]
fn a_value_that_only_an_index_contradicts_is_reported() {
    let sample = chat();
    let check = || sample.ask::<String>("PRAGMA integrity_check(1)");
    let leaves = sample.pages("Message", "leaf");
    // The last byte of a page is mostly that of the time of its first message, which is indexed.
    let found = leaves.iter().skip(4).any(|&leaf| {
        sample.damage_page(leaf, |page| *page.last_mut().unwrap() ^= 1);
        let is_seen = check() != ["ok"];
        if !is_seen {
            sample.damage_page(leaf, |page| *page.last_mut().unwrap() ^= 1);
        }
        is_seen
    });
    assert!(found);
    let outcome = sample.salvage().unwrap();
    assert_eq!(outcome.exact(&sample, "Message"), MESSAGES - 1);
    assert!(outcome.report.is_doubtful && outcome.report.total().certain == 0);
}
