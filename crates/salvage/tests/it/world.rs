//! Databases with a known content, ways to damage them, and the comparison with the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use lifeboat_core::Error;
use lifeboat_salvage::{Donor, Report, Request, salvage};
pub(crate) use lifeboat_test_support::env;
use rusqlite::Connection;
use tempfile::TempDir;

/// Numbers that look random, the same in every run.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % below.max(1) as u64) as usize
    }
}

/// How often something is tried that `LIFEBOAT_LONG_TESTS=1` tries more often.
pub(crate) fn rounds(short: u64, long: u64) -> u64 {
    match lifeboat_test_support::is_long() {
        true => long,
        false => short,
    }
}

/// The rows of each table, each as text: its key, then all values as SQL writes them.
pub(crate) type Content = BTreeMap<String, BTreeMap<String, String>>;

/// A database that was made for a test.
pub(crate) struct Sample {
    pub(crate) folder: TempDir,
    pub(crate) path: PathBuf,
    pub(crate) truth: Content,
    pub(crate) page_size: usize,
}

/// A path with something behind its last letter.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// A chat: messages with snowflake ids, long ones among them, and tables of several kinds.
pub(crate) const CHAT: &str = "
CREATE TABLE schema_migrations(version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at INTEGER);
CREATE TABLE User(id INTEGER PRIMARY KEY AUTOINCREMENT, nick TEXT NOT NULL UNIQUE, rank REAL);
CREATE TABLE Message(
  id INTEGER PRIMARY KEY, channel INTEGER NOT NULL, author TEXT NOT NULL, content TEXT NOT NULL,
  parent INTEGER REFERENCES Message(id) ON DELETE CASCADE, sent INTEGER NOT NULL, extra BLOB);
CREATE INDEX message_by_channel ON Message(channel, sent);
CREATE TABLE Setting(name TEXT, scope TEXT, value, PRIMARY KEY(scope, name)) WITHOUT ROWID;
CREATE TABLE Event(kind TEXT, at REAL, note TEXT DEFAULT 'none');
CREATE VIEW recent AS SELECT * FROM Message ORDER BY sent DESC LIMIT 10;
CREATE TRIGGER no_empty BEFORE INSERT ON Message WHEN new.content = '' BEGIN
  SELECT raise(ABORT, 'empty'); END;";

/// The first id of a message.
pub(crate) const FIRST_ID: i64 = 132_600_000_000_000_000;

impl Sample {
    /// The chat with so many messages.
    pub(crate) fn chat(pragmas: &str, messages: usize) -> Self {
        Self::made(pragmas, |connection| {
            connection.execute_batch(CHAT).unwrap();
            let mut dice = Dice(42);
            connection
                .execute_batch(
                    "INSERT INTO schema_migrations VALUES(1,'a',5),(2,'b',6);
                                ALTER TABLE User ADD COLUMN mood TEXT DEFAULT 'calm'",
                )
                .unwrap();
            for user in 0..200 {
                let values = (format!("nick-{user}"), user as f64 / 4.0, "fine");
                let sql = "INSERT INTO User(nick, rank, mood) VALUES(?1, ?2, ?3)";
                connection.execute(sql, values).unwrap();
                let values = (format!("name{}", user % 50), format!("scope {user}"), user * 3);
                connection.execute("INSERT INTO Setting VALUES(?1, ?2, ?3)", values).unwrap();
            }
            let mut insert =
                connection.prepare("INSERT INTO Message VALUES(?1,?2,?3,?4,?5,?6,?7)").unwrap();
            for index in 0..messages as i64 {
                let words = 3 + dice.roll(20) + if index % 97 == 0 { 1_500 } else { 0 };
                let content: String =
                    (0..words).map(|_| format!("wörd{} ", dice.roll(10_000))).collect();
                let parent = (index % 5 == 1).then_some(FIRST_ID + (index - 1) * 4096);
                let extra = (index % 11 == 0).then(|| vec![0xa7_u8; 1 + dice.roll(60)]);
                let author = format!("nick-{}", dice.roll(200));
                let (id, sent) = (FIRST_ID + index * 4096, 1_700_000_000_000 + index * 977);
                let values = (id, dice.roll(18) as i64, author, content, parent, sent, extra);
                insert.execute(values).unwrap();
                if index % 3 == 0 {
                    let values = ("joined", index as f64 + 0.5, format!("event {index}"));
                    connection.execute("INSERT INTO Event VALUES(?1, ?2, ?3)", values).unwrap();
                }
            }
        })
    }

    /// A database that is filled by the function, in one transaction.
    pub(crate) fn made(pragmas: &str, fill: impl FnOnce(&Connection)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("live.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(pragmas).unwrap();
        connection.execute_batch("PRAGMA foreign_keys = OFF; BEGIN").unwrap();
        fill(&connection);
        connection.execute_batch("COMMIT").unwrap();
        let page_size = connection
            .query_row("PRAGMA page_size", [], |row| row.get::<_, i64>(0))
            .unwrap() as usize;
        let truth = content(&connection);
        connection.close().unwrap();
        Sample { folder, path, truth, page_size }
    }

    /// The same, after a change by SQLite.
    pub(crate) fn with_its_truth(mut self) -> Self {
        self.truth = content(&Connection::open(&self.path).unwrap());
        self
    }

    /// Changes the bytes of the file.
    pub(crate) fn damage(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(&self.path).unwrap();
        change(&mut bytes);
        fs::write(&self.path, bytes).unwrap();
    }

    /// One page of the file, to be changed.
    pub(crate) fn damage_page(&self, page: u32, change: impl FnOnce(&mut [u8])) {
        let size = self.page_size;
        let at = (page as usize - 1) * size;
        self.damage(|bytes| change(&mut bytes[at..at + size]));
    }

    /// What SQLite says of its own pages, before the damage.
    pub(crate) fn ask<T: rusqlite::types::FromSql>(&self, sql: &str) -> Vec<T> {
        let connection = Connection::open(&self.path).unwrap();
        let mut statement = connection.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.map(|row| row.unwrap()).collect()
    }

    /// The pages of a table's or an index's tree that are of that type, by SQLite.
    pub(crate) fn pages(&self, name: &str, kind: &str) -> Vec<u32> {
        self.ask(&format!(
            "SELECT pageno FROM dbstat WHERE name = '{name}' AND pagetype = '{kind}' ORDER BY path"
        ))
    }

    pub(crate) fn to(&self) -> PathBuf {
        self.folder.path().join("new.db")
    }

    pub(crate) fn request<'a>(&'a self, to: &'a Path) -> Request<'a> {
        Request { database: &self.path, to, donor: None, merge_rows: false, deleted: false }
    }

    /// Salvages, and compares with the truth; the damaged file must stay what it is.
    pub(crate) fn salvage(&self) -> Result<Outcome, Error> {
        self.salvage_by(|request| request)
    }

    /// The same, with another request.
    pub(crate) fn salvage_by<'a>(
        &'a self,
        change: impl FnOnce(Request<'a>) -> Request<'a>,
    ) -> Result<Outcome, Error> {
        let before = fs::read(&self.path).unwrap();
        let to = self.to();
        let _ = fs::remove_file(&to);
        let mut request = Request { to: Path::new(""), ..self.request(Path::new("")) };
        request = change(request);
        let report = salvage(&env(), &Request { to: &to, ..request });
        assert_eq!(fs::read(&self.path).unwrap(), before, "the damaged file was written");
        let names = fs::read_dir(self.folder.path()).unwrap();
        let left = names.filter(|name| {
            let name = name.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with(".new.db")
        });
        assert_eq!(left.count(), 0, "something was left behind");
        match report {
            Ok(report) => Ok(Outcome::new(self, report, &to)),
            Err(error) => {
                assert!(!to.exists(), "there is a new database after an error");
                Err(error)
            }
        }
    }
}

/// A donor of which only the file is known.
pub(crate) fn donor(path: &Path) -> Option<Donor<'_>> {
    Some(Donor { path, wal_place: None })
}

/// What a salvage gave.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) report: Report,
    pub(crate) content: Content,
    /// Table and key of each row that is marked.
    pub(crate) marked: BTreeSet<(String, String)>,
}

impl Outcome {
    fn new(sample: &Sample, report: Report, to: &Path) -> Self {
        let connection = Connection::open(to).unwrap();
        let check: String =
            connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        let mut content = content(&connection);
        let mut marked = BTreeSet::new();
        if content.remove(&report.marks).is_some() {
            let sql = format!(
                "SELECT \"table\", quote(key) FROM \"{}\" WHERE mark <> 'certain'",
                report.marks
            );
            let mut statement = connection.prepare(&sql).unwrap();
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            marked.extend(rows.map(|row| row.unwrap()));
        }
        content.remove(&report.nowhere.0);
        let outcome = Outcome { report, content, marked };
        outcome.nothing_is_altered_unreported(sample);
        outcome
    }

    /// Every row that is not marked is one of the truth.
    #[track_caller]
    fn nothing_is_altered_unreported(&self, sample: &Sample) {
        for (table, rows) in &self.content {
            let Some(truth) = sample.truth.get(table) else { continue };
            for (key, values) in rows {
                let is_true = truth.get(key) == Some(values);
                assert!(
                    is_true || self.marked.contains(&(table.clone(), key.clone())),
                    "{table} {key}: {values:.300} unmarked, and the truth is {:.300}\n{:?}",
                    truth.get(key).map_or("nothing", |row| row),
                    self.report.notes
                );
            }
        }
    }

    /// How many rows of a table are those of the truth.
    pub(crate) fn exact(&self, sample: &Sample, table: &str) -> usize {
        let Some(rows) = self.content.get(table) else { return 0 };
        rows.iter().filter(|(key, values)| sample.truth[table].get(*key) == Some(values)).count()
    }

    /// Requires that everything came back, and is called certain.
    #[track_caller]
    pub(crate) fn all_certain(self, sample: &Sample) -> Self {
        assert!(self.report.is_whole(), "{:#?}", self.report);
        assert_eq!(self.content, sample.truth);
        self
    }
}

/// Everything that a database holds.
pub(crate) fn content(connection: &Connection) -> Content {
    let sql = "SELECT name, wr FROM pragma_table_list
               WHERE schema = 'main' AND type IN ('table', 'shadow')
                 AND name NOT LIKE 'sqlite\\_s%' ESCAPE '\\'";
    let mut tables = connection.prepare(sql).unwrap();
    let tables = tables.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let tables: Vec<(String, bool)> = tables.map(|row| row.unwrap()).collect();
    tables.into_iter().map(|(name, wr)| (name.clone(), rows(connection, &name, wr))).collect()
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn rows(connection: &Connection, table: &str, without_rowid: bool) -> BTreeMap<String, String> {
    let sql = "SELECT name, pk FROM pragma_table_xinfo(?1) ORDER BY cid";
    let mut columns = connection.prepare(sql).unwrap();
    let columns = columns.query_map([table], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let columns: Vec<(String, i64)> = columns.map(|row| row.unwrap()).collect();
    let key = match without_rowid {
        false => "quote(rowid)".to_owned(),
        true => {
            let mut key: Vec<_> = columns.iter().filter(|(_, pk)| *pk > 0).collect();
            key.sort_by_key(|(_, pk)| *pk);
            let names: Vec<String> = key.iter().map(|(name, _)| quoted(name)).collect();
            let in_json = |name: &String| {
                format!("CASE typeof({name}) WHEN 'blob' THEN lower(hex({name})) ELSE {name} END")
            };
            match names.as_slice() {
                [only] => format!("quote({only})"),
                _ => {
                    let parts: Vec<String> = names.iter().map(in_json).collect();
                    format!("quote(json_array({}))", parts.join(", "))
                }
            }
        }
    };
    let values: Vec<String> = columns
        .iter()
        .map(|(name, _)| quoted(name))
        .map(|name| format!("typeof({name}) || quote(CAST({name} AS BLOB))"))
        .collect();
    let sql = format!("SELECT {key}, {} FROM {}", values.join(" || '|' || "), quoted(table));
    let mut statement = connection.prepare(&sql).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?))).unwrap();
    rows.map(|row| row.map(|(key, values)| (key, short(values))).unwrap()).collect()
}

/// What is long is told apart by its length and a number.
fn short(values: String) -> String {
    if values.len() < 3_000 {
        return values;
    }
    let hash = values.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{:.300} and so on: {} {hash:x}", values, values.len())
}
