//! Bad input, odd states and others at work: each is told apart, and nothing is lost or written.
// A test that cannot go on panics; one waits longer than it may.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use lifeboat_core::Kind;
use lifeboat_core::manifest::{CheckLevel, CheckOutcome};
use lifeboat_core::source::{CaptureOptions, Engine, Source};
use lifeboat_sqlite::{SqliteEngine, SqliteSource};
use rusqlite::Connection;

use support::child::{Other, Role, capture_as_nobody};
use support::{capture, capture_error, capture_with, env, options, serialized};

const ROWS: &str = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 5000)
                    INSERT INTO t(body) SELECT hex(randomblob(30)) FROM c;";

fn database(folder: &Path, mode: &str) -> PathBuf {
    let path = folder.join("x.db");
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "journal_mode", mode).unwrap();
    connection.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT);").unwrap();
    connection.execute_batch(ROWS).unwrap();
    path
}

fn none() -> CaptureOptions {
    options(CheckLevel::None)
}

fn message_of(content: &[u8]) -> (Kind, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.db");
    fs::write(&path, content).unwrap();
    let error = capture_error(&path, &none());
    let inspected = SqliteSource::new(path).inspect().unwrap_err();
    assert_eq!(inspected.message(), error.message());
    (error.kind(), error.message().to_owned())
}

#[test]
fn foreign_files_are_named_as_what_they_are() {
    for (content, name) in [
        (&b"\x1f\x8b\x08\x00\x00\x00"[..], "gzip"),
        (b"\x28\xb5\x2f\xfd\x04", "zstd"),
        (b"CREATE TABLE t(a);\nINSERT", "text"),
        (b"age-encryption.org/v1\n", "encrypted with age"),
        (&[0; 8192], "zeros"),
    ] {
        let (kind, message) = message_of(content);
        assert_eq!(kind, Kind::CheckFailed);
        assert!(message.contains(name), "{message}");
    }
    let noise = Connection::open_in_memory()
        .unwrap()
        .query_row("SELECT randomblob(8192)", [], |row| row.get::<_, Vec<u8>>(0))
        .unwrap();
    assert!(message_of(&noise).1.contains("encrypted"));
}

#[test]
fn a_folder_and_a_pipe_are_not_databases() {
    let folder = tempfile::tempdir().unwrap();
    let error = capture_error(folder.path(), &none());
    assert_eq!(error.kind(), Kind::SourceUnavailable);
    assert!(error.message().contains("a folder"), "{error:?}");
    let error = capture_error(Path::new("/dev/null"), &none());
    assert!(error.message().contains("not a regular file"), "{error:?}");
}

#[test]
fn links_and_odd_names_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(folder.path(), "wal");
    let odd = folder.path().join("a %41?#&\n ü.db");
    fs::rename(&path, &odd).unwrap();
    let link = folder.path().join("link.db");
    std::os::unix::fs::symlink(&odd, &link).unwrap();
    let writer = Other::begin(&odd, Role::UncopiedRows);
    let captured = capture(&link);
    assert_eq!(captured.report.rows.unwrap()["t"], 8_000, "the log lies beside the file itself");
    let source = SqliteSource::new(link);
    assert_eq!(Path::new(&source.location().unwrap()), odd.canonicalize().unwrap());
    drop(writer);
    let image = folder.path().join("b %41?#&\n ü.db");
    fs::write(&image, captured.image).unwrap();
    let report = SqliteEngine.check_file(&env(), &image, CheckLevel::Full, 16 << 20).unwrap();
    assert_eq!(report.outcome, CheckOutcome::Passed);
    assert_eq!(report.rows.unwrap()["t"], 8_000);
    assert!(!folder.path().join("b %41?#&\n ü.db-wal").exists());
}

#[test]
fn a_truncated_database_is_captured_and_fails_its_check() {
    for mode in ["wal", "delete"] {
        let folder = tempfile::tempdir().unwrap();
        let path = database(folder.path(), mode);
        let bytes = fs::read(&path).unwrap();
        let half = bytes.len() / 2 / 4096 * 4096 + 100;
        fs::write(&path, &bytes[..half]).unwrap();
        let captured = capture(&path);
        let check = captured.report.check.unwrap();
        assert_eq!(check.outcome, CheckOutcome::Failed, "{mode}");
        assert!(check.damage[0].contains("the file ends after"), "{check:?}");
        assert!(captured.image.starts_with(&bytes[..half]));
        let unchecked = capture_with(&path, &none(), 1 << 20, Box::new(|_| {})).unwrap();
        assert!(unchecked.report.damage_seen[0].contains("the file ends"));
        let report = SqliteEngine.check_file(&env(), &path, CheckLevel::Quick, 1 << 20).unwrap();
        assert_eq!(report.outcome, CheckOutcome::Failed);
    }
}

#[test]
fn a_file_that_sqlite_refuses_is_captured_and_fails_its_check() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(folder.path(), "delete");
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[1, 2, 3], 21).unwrap();
    let captured = capture(&path);
    assert!(captured.image == fs::read(&path).unwrap());
    let check = captured.report.check.unwrap();
    assert_eq!(check.outcome, CheckOutcome::Failed);
    assert!(check.damage[0].contains("SQLite refuses the file"), "{check:?}");
}

#[test]
fn a_damaged_schema_is_captured_and_fails_its_check() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(folder.path(), "wal");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch("PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = 'nonsense';")
        .unwrap();
    drop(connection);
    let captured = capture(&path);
    assert_eq!(captured.report.check.unwrap().outcome, CheckOutcome::Failed);
    assert_eq!(captured.report.rows.unwrap()["t"], 5_000, "pages are counted all the same");
}

#[test]
fn a_damaged_log_that_its_writer_still_reads_fails_the_check() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(folder.path(), "wal");
    let writer = Other::begin(&path, Role::UncopiedRows);
    let wal = fs::File::options().write(true).open(folder.path().join("x.db-wal")).unwrap();
    wal.write_all_at(&[0xff; 9], 32 + 10 * (24 + 4096) + 2000).unwrap();
    let captured = capture(&path);
    let check = captured.report.check.unwrap();
    assert_eq!(check.outcome, CheckOutcome::Failed);
    assert!(check.damage[0].contains("frame 11 of the -wal"), "{check:?}");
    assert_eq!(captured.image.len() as u64, captured.bytes_estimated);
    drop(writer);
}

#[test]
fn a_log_that_somebody_removed_or_replaced_is_no_empty_log() {
    for is_replaced in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let path = database(folder.path(), "wal");
        let writer = Other::begin(&path, Role::UncopiedRows);
        let wal = folder.path().join("x.db-wal");
        let mut content = fs::read(&wal).unwrap();
        fs::remove_file(&wal).unwrap();
        if is_replaced {
            content[16..24].copy_from_slice(b"another!");
            let sum = wal_checksum(&content[..24]);
            content[24..32].copy_from_slice(&sum);
            fs::write(&wal, content).unwrap();
        }
        let error = capture_error(&path, &none());
        assert_eq!(error.kind(), Kind::SourceUnavailable);
        assert!(error.message().contains("removed or replaced"), "{error:?}");
        drop(writer);
    }
}

/// The checksum of the WAL format, little-endian, as its header keeps it.
fn wal_checksum(bytes: &[u8]) -> [u8; 8] {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let (mut first, mut second) = (0_u32, 0_u32);
    for at in (0..bytes.len()).step_by(8) {
        first = first.wrapping_add(word(at)).wrapping_add(second);
        second = second.wrapping_add(word(at + 4)).wrapping_add(first);
    }
    let mut sum = [0; 8];
    sum[..4].copy_from_slice(&first.to_be_bytes());
    sum[4..].copy_from_slice(&second.to_be_bytes());
    sum
}

#[test]
fn a_database_that_another_has_for_itself_is_busy_and_its_holder_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(folder.path(), "delete");
    let other = Other::begin(&path, Role::Exclusive);
    let error = capture_error(&path, &none());
    assert_eq!(error.kind(), Kind::SourceUnavailable);
    assert!(error.message().contains(&format!("process {}", other.id())), "{error:?}");
    assert!(error.hint_text().unwrap().contains("cold"), "{error:?}");
    let holders = SqliteEngine.holders(&path).unwrap();
    assert!(holders.iter().all(|holder| holder.pid == other.id()) && !holders.is_empty());
    drop(other);
    assert_eq!(SqliteEngine.holders(&path).unwrap(), []);
}

#[test]
fn writers_are_kept_waiting_no_longer_than_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(folder.path(), "delete");
    let bounded = CaptureOptions { lock_ms_max: 20, ..none() };
    let slow = |_| std::thread::sleep(std::time::Duration::from_millis(30));
    let error = capture_with(&path, &bounded, 4096, Box::new(slow)).map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::SourceUnavailable);
    let hint = error.hint_text().unwrap();
    for way_out in ["reflink", "WAL", "--method cold", "lock_ms_max"] {
        assert!(hint.contains(way_out), "{hint}");
    }
    let mut gone_through = false;
    let stuck = |batch: usize| {
        // The first one: what comes later a slow machine may have given up before.
        if batch == 0 {
            // As late as the machine likes, but while the sink is stuck.
            gone_through = (0..500).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(200));
                external_sql(&path, "INSERT INTO t(body) VALUES ('meanwhile')")
            });
        }
    };
    let error = capture_with(&path, &bounded, 4096, Box::new(stuck)).map(drop).unwrap_err();
    assert!(error.message().contains("within 20 ms"), "{error:?}");
    assert!(gone_through, "a writer waited for a sink that was stuck");
    let writer = Connection::open(&path).unwrap();
    // In WAL mode nobody waits, so there is no bound.
    writer.pragma_update(None, "journal_mode", "wal").unwrap();
    capture_with(&path, &bounded, 1 << 16, Box::new(slow)).unwrap();
}

#[test]
fn a_writer_waits_for_a_rollback_capture_and_then_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(folder.path(), "delete");
    let expected = serialized(&path);
    let mut refused = false;
    let hook = |batch: usize| {
        if batch == 2 {
            // A process of its own, since locks of one process do not conflict.
            let sql = "INSERT INTO t(body) VALUES ('during')";
            refused = !external_sql(&path, sql);
        }
    };
    let captured = capture_with(&path, &none(), 65_536, Box::new(hook)).unwrap();
    assert!(captured.image == expected);
    assert!(refused, "a commit went through while the file was read");
    assert!(external_sql(&path, "INSERT INTO t(body) VALUES ('after')"));
}

/// Whether another process could run that statement without waiting.
fn external_sql(path: &Path, sql: &str) -> bool {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["external_sql_process", "--exact"])
        .env("LIFEBOAT_TEST_SQL", sql)
        .env("LIFEBOAT_TEST_SQL_PATH", path)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    child.wait().unwrap().success()
}

/// Not a test but the process; passes at once in an ordinary run.
#[test]
fn external_sql_process() {
    if let Some(path) = std::env::var_os("LIFEBOAT_TEST_SQL_PATH") {
        let sql = std::env::var_os("LIFEBOAT_TEST_SQL").unwrap().into_string().unwrap();
        let connection = Connection::open(path).unwrap();
        connection.busy_timeout(std::time::Duration::ZERO).unwrap();
        connection.execute_batch(&sql).unwrap();
    }
}

#[test]
fn without_the_right_to_write_beside_it_a_log_is_read_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(folder.path(), "wal");
    drop(Other::begin(&path, Role::UncopiedRows));
    let copy = folder.path().join("copy.db");
    for suffix in ["", "-wal"] {
        let from = folder.path().join(format!("x.db{suffix}"));
        fs::copy(&from, folder.path().join(format!("copy.db{suffix}"))).unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o644)).unwrap();
    }
    for keep_index in [true, false] {
        let index = folder.path().join("x.db-shm");
        match keep_index {
            true => fs::set_permissions(&index, fs::Permissions::from_mode(0o644)).unwrap(),
            false => fs::remove_file(&index).unwrap(),
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
        let captured = capture_as_nobody(&path);
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (image, text) = captured.unwrap();
        assert!(image == serialized(&copy), "index kept: {keep_index}");
        assert!(text.contains("\"t\": 8000"), "{text}");
        assert_eq!(text.contains("not writable"), !keep_index, "{text}");
    }
}

#[test]
fn without_the_right_to_read_it_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(folder.path(), "wal");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let error = capture_as_nobody(&path).map(drop).unwrap_err();
    assert!(error.contains("SourceUnavailable: no permission to read"), "{error}");
}

#[test]
fn the_page_of_the_locks_is_written_as_zeros() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.db");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch("PRAGMA page_size = 65536; CREATE TABLE t(id INTEGER PRIMARY KEY, body);")
        .unwrap();
    connection.execute_batch(ROWS).unwrap();
    drop(connection);
    // Grown beyond the first GiB by a hole, which its header claims as pages.
    let lock_page = 0x4000_0000 / 65536 + 1_u64;
    let pages = lock_page + 3;
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    file.set_len(pages * 65536).unwrap();
    file.write_all_at(&(pages as u32).to_be_bytes(), 28).unwrap();
    file.write_all_at(&[0xee; 3 * 65536], (lock_page - 2) * 65536).unwrap();
    let mut tail = Tail { from: (lock_page - 2) * 65536, ..Tail::default() };
    let source = SqliteSource::new(path);
    let env = env();
    let mut capture = source.capture(&env, &none()).unwrap();
    capture.write(0, &mut tail).unwrap();
    let report = capture.finish().unwrap();
    assert_eq!(tail.passed, pages * 65536);
    assert_eq!(report.facts["page_count"], pages);
    let mut expected = vec![0xee; 65536];
    expected.extend([0; 65536]);
    expected.extend([0xee; 65536]);
    assert!(tail.kept[..3 * 65536] == expected);
}

/// Keeps what comes from a place on.
#[derive(Default)]
struct Tail {
    from: u64,
    passed: u64,
    buffer: Vec<u8>,
    kept: Vec<u8>,
}

impl lifeboat_core::source::Sink for Tail {
    fn buffer(&mut self) -> &mut [u8] {
        self.buffer.resize(1 << 20, 0xaa);
        &mut self.buffer
    }

    fn advance(&mut self, bytes: usize) -> lifeboat_core::Result<()> {
        let skip = self.from.saturating_sub(self.passed).min(bytes as u64) as usize;
        self.kept.write_all(&self.buffer[skip..bytes]).unwrap();
        self.passed += bytes as u64;
        Ok(())
    }
}

#[test]
fn what_this_program_lacks_is_told_and_is_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(folder.path(), "wal");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE named(name TEXT COLLATE NOCASE); CREATE INDEX by_name ON named(name);
             INSERT INTO named VALUES ('a'), ('b');
             PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET sql = replace(sql, 'NOCASE', 'THEIRS');
             INSERT INTO sqlite_schema VALUES
               ('table', 'near', 'near', 0, 'CREATE VIRTUAL TABLE near USING vec0(a)');",
        )
        .unwrap();
    drop(connection);
    for level in [CheckLevel::Quick, CheckLevel::Full] {
        let report = SqliteEngine.check_file(&env(), &path, level, 16 << 20).unwrap();
        assert_eq!(report.outcome, CheckOutcome::Partial, "{report:?}");
        assert!(report.notes.iter().any(|note| note.contains("vec0")), "{report:?}");
    }
    let report = SqliteEngine.check_file(&env(), &path, CheckLevel::Full, 16 << 20).unwrap();
    assert!(report.notes.iter().any(|note| note.contains("THEIRS")), "{report:?}");
    let captured = capture_with(&path, &options(CheckLevel::Full), 1 << 20, Box::new(|_| {}));
    let report = captured.unwrap().report;
    assert_eq!(report.check.unwrap().outcome, CheckOutcome::Partial);
    assert_eq!(report.rows.unwrap()["named"], 2);
}

#[test]
fn broken_foreign_keys_are_noted_and_are_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch(
            "PRAGMA foreign_keys = OFF; CREATE TABLE parent(id INTEGER PRIMARY KEY);
             CREATE TABLE child(id INTEGER PRIMARY KEY, p REFERENCES parent);
             INSERT INTO child(p) VALUES (1), (2), (NULL);",
        )
        .unwrap();
    let report = SqliteEngine.check_file(&env(), &path, CheckLevel::Full, 16 << 20).unwrap();
    assert_eq!(report.outcome, CheckOutcome::Passed);
    assert_eq!(report.notes, ["foreign keys: 2 rows refer from child to what parent has not"]);
}

#[test]
fn two_captures_of_one_database_at_once_in_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(folder.path(), "wal");
    let writer = Other::begin(&path, Role::UncopiedRows);
    let expected = serialized(&path);
    let inner = |batch: usize| {
        if batch % 3 == 1 {
            assert!(capture(&path).image == expected);
        }
    };
    let outer = capture_with(&path, &options(CheckLevel::Quick), 65_536, Box::new(inner)).unwrap();
    assert!(outer.image == expected);
    drop(writer);
}

#[test]
fn a_careless_close_within_this_process_fails_the_capture() {
    for mode in ["wal", "delete"] {
        let folder = tempfile::tempdir().unwrap();
        let path = database(folder.path(), mode);
        let careless = |batch: usize| {
            if batch == 1 {
                drop(fs::File::open(&path).unwrap());
            }
        };
        let captured = capture_with(&path, &none(), 65_536, Box::new(careless));
        let error = captured.map(drop).unwrap_err();
        assert!(error.message().contains("drops its locks"), "{error:?}");
    }
}

#[test]
fn a_capture_that_is_given_up_lets_the_database_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(folder.path(), "wal");
    let env = env();
    let source = SqliteSource::new(path.clone());
    let capture = source.capture(&env, &options(CheckLevel::Full)).unwrap();
    assert!(!external_sql(&path, "PRAGMA journal_mode = delete"));
    drop(capture);
    assert!(external_sql(&path, "PRAGMA journal_mode = delete"));
}
