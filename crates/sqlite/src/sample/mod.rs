//! Realistic databases for tests, the demonstration and benchmarks.
//!
//! [`create`] makes a chat: users, rooms, messages, reactions and the table of a migration tool.
//! Users and rooms are as unequal as in life (Zipf), text compresses as chat does, and a unique
//! random key scatters the writes of one index over the whole file. The same options give the
//! same bytes. [`Writer`] goes on writing to such a database, and [`check_invariants`] proves on
//! any copy of it that the copy shows one moment of the writer's life, whole.
//!
//! Nothing here is used by a backup.

mod random;
mod text;
mod writer;

use std::path::Path;

use lifeboat_core::error::{Error, Kind, Result};
use rusqlite::types::Null;
use rusqlite::{Connection, OpenFlags, Statement, params};

pub use random::{Seeded, Zipf};
pub use text::Text;
pub use writer::{Tick, Writer, WriterOptions, check_invariants, prove};

/// The moment of the first message, in milliseconds since 1970: 2024-01-01T00:00:00Z.
const FIRST_MESSAGE_MS: i64 = 1_704_067_200_000;
/// Messages in one transaction: few transactions, because each one writes most of the leaves of
/// the index with the random key.
const MESSAGES_PER_TRANSACTION: u64 = 250_000;
/// Messages between two looks at the size.
const MESSAGES_PER_LOOK: u64 = 500;
const EMOJIS: [&str; 8] = ["👍", "❤️", "😂", "🎉", "👀", "🙏", "🔥", "✅"];

/// The tables of the sample, without those of [`Writer`].
const SCHEMA: &str = "
CREATE TABLE schema_migrations(
    version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at INTEGER NOT NULL);
CREATE TABLE users(
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, display_name TEXT,
    created_at INTEGER NOT NULL, last_seen_at INTEGER);
CREATE TABLE rooms(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, topic TEXT);
CREATE TABLE messages(
    id INTEGER PRIMARY KEY,
    room INTEGER NOT NULL REFERENCES rooms(id),
    user INTEGER NOT NULL REFERENCES users(id),
    ts INTEGER NOT NULL,
    event_id TEXT NOT NULL UNIQUE,
    body TEXT NOT NULL,
    meta TEXT);
CREATE INDEX messages_room_ts ON messages(room, ts);
CREATE INDEX messages_user ON messages(user);
CREATE TABLE reactions(
    message INTEGER NOT NULL REFERENCES messages(id), user INTEGER NOT NULL REFERENCES users(id),
    emoji TEXT NOT NULL, ts INTEGER NOT NULL,
    PRIMARY KEY(message, user, emoji)) WITHOUT ROWID;
";

/// How large a sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// So many messages.
    Messages(u64),
    /// A file of at least so many bytes, and little more.
    Bytes(u64),
}

/// What a sample looks like.
#[derive(Clone, Debug)]
pub struct SampleOptions {
    /// How large it is.
    pub size: Size,
    /// Page size in bytes: a power of two from 512 to 65,536.
    pub page_bytes: u32,
    /// The journal mode that it is left in: "wal", "delete", "truncate", "persist".
    pub journal_mode: String,
    /// Decides everything that is random in it.
    pub seed: u64,
    /// How many users it has.
    pub users: u32,
    /// How many rooms it has.
    pub rooms: u32,
}

impl Default for SampleOptions {
    fn default() -> Self {
        SampleOptions {
            size: Size::Messages(10_000),
            page_bytes: 4096,
            journal_mode: "wal".into(),
            seed: 1,
            users: 2_000,
            rooms: 200,
        }
    }
}

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Rows of `messages`.
    pub messages: u64,
    /// Rows of `reactions`.
    pub reactions: u64,
    /// Size of the file in bytes.
    pub bytes: u64,
}

/// Makes a database at `path`, which must not exist. The same options give the same bytes.
///
/// Nothing is synced on the way: a power cut leaves a file to be thrown away.
pub fn create(path: &Path, options: &SampleOptions) -> Result<Sample> {
    if path.exists() {
        return Err(Error::new(Kind::Refused, format!("{} exists already", path.display()))
            .hint("name a path at which there is nothing"));
    }
    if options.users == 0 || options.rooms == 0 {
        return Err(Error::new(Kind::Usage, "a sample needs at least one user and one room"));
    }
    let failed = |error: rusqlite::Error| {
        Error::new(Kind::Failed, format!("cannot make the sample {}", path.display()))
            .caused_by(error)
    };
    let connection = open_for_filling(path, options).map_err(failed)?;
    let (messages, reactions) = Filler::new(options).fill(&connection).map_err(failed)?;
    let mode: String = connection
        .query_row(&format!("PRAGMA journal_mode = {}", options.journal_mode), [], |row| row.get(0))
        .map_err(failed)?;
    if !mode.eq_ignore_ascii_case(&options.journal_mode) {
        return Err(Error::new(
            Kind::Usage,
            format!("SQLite gave the sample the journal mode {mode}, not {}", options.journal_mode),
        ));
    }
    connection.close().map_err(|(_, error)| failed(error))?;
    let bytes = std::fs::metadata(path)
        .map_err(|error| Error::io(Kind::Failed, format!("cannot see {}", path.display()), error))?
        .len();
    Ok(Sample { messages, reactions, bytes })
}

/// Opens a new database in the fastest way, which is unsafe for any database that matters.
fn open_for_filling(path: &Path, options: &SampleOptions) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.execute_batch(&format!(
        "PRAGMA page_size = {}; PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF;
         PRAGMA cache_size = -524288; PRAGMA foreign_keys = OFF;",
        options.page_bytes
    ))?;
    connection.execute_batch("BEGIN")?;
    connection.execute_batch(SCHEMA)?;
    connection.execute_batch("COMMIT")?;
    Ok(connection)
}

/// Fills the tables.
struct Filler<'a> {
    options: &'a SampleOptions,
    random: Seeded,
    text: Text,
    users: Zipf,
    rooms: Zipf,
    ts: i64,
    message: Message,
}

/// The parts of one message, kept so that their memory is used again.
#[derive(Default)]
struct Message {
    event_id: String,
    body: String,
    meta: String,
}

impl<'a> Filler<'a> {
    fn new(options: &'a SampleOptions) -> Self {
        let mut random = Seeded::new(options.seed);
        Filler {
            text: Text::new(random.next()),
            users: Zipf::new(options.users as usize, 1.1),
            rooms: Zipf::new(options.rooms as usize, 1.2),
            random,
            options,
            ts: FIRST_MESSAGE_MS,
            message: Message::default(),
        }
    }

    /// Returns how many messages and reactions there are.
    fn fill(&mut self, connection: &Connection) -> rusqlite::Result<(u64, u64)> {
        connection.execute_batch("BEGIN")?;
        self.fill_small_tables(connection)?;
        let mut insert_message = connection.prepare(
            "INSERT INTO messages(id, room, user, ts, event_id, body, meta)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        let mut insert_reaction =
            connection.prepare("INSERT OR IGNORE INTO reactions VALUES (?1, ?2, ?3, ?4)")?;
        let mut page_count = connection.prepare("PRAGMA page_count")?;
        let (mut messages, mut reactions) = (0, 0);
        loop {
            if messages % MESSAGES_PER_LOOK == 0
                && let Size::Bytes(bytes) = self.options.size
            {
                let pages: i64 = page_count.query_row([], |row| row.get(0))?;
                if pages.unsigned_abs() * u64::from(self.options.page_bytes) >= bytes {
                    break;
                }
            }
            if self.options.size == Size::Messages(messages) {
                break;
            }
            messages += 1;
            self.add_message(&mut insert_message, messages)?;
            if self.random.one_in(6) {
                reactions += self.add_reaction(&mut insert_reaction, messages)?;
            }
            if messages % MESSAGES_PER_TRANSACTION == 0 {
                connection.execute_batch("COMMIT; BEGIN")?;
            }
        }
        connection.execute_batch("COMMIT")?;
        Ok((messages, reactions))
    }

    fn fill_small_tables(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let mut insert = connection.prepare("INSERT INTO schema_migrations VALUES (?1, ?2, ?3)")?;
        let migrations = ["initial", "add_rooms", "add_reactions", "add_event_id", "index_rooms"];
        for (version, name) in (1i64..).zip(migrations) {
            insert.execute(params![version, name, FIRST_MESSAGE_MS + version * 86_400_000])?;
        }
        let mut insert = connection.prepare("INSERT INTO users VALUES (?1, ?2, ?3, ?4, ?5)")?;
        let mut topic = String::new();
        for id in 1..=i64::from(self.options.users) {
            let name = format!("{}{id}", self.text.name(&mut self.random));
            let display = self.random.one_in(2).then(|| name.to_uppercase());
            let created = FIRST_MESSAGE_MS + self.random.below(86_400_000 * 30) as i64;
            insert.execute(params![id, name, display, created, Null])?;
        }
        let mut insert = connection.prepare("INSERT INTO rooms VALUES (?1, ?2, ?3)")?;
        for id in 1..=i64::from(self.options.rooms) {
            topic.clear();
            self.text.sentence(&mut self.random, 40, &mut topic);
            insert.execute(params![
                id,
                format!("{}-{id}", self.text.name(&mut self.random)),
                topic
            ])?;
        }
        Ok(())
    }

    fn add_message(&mut self, insert: &mut Statement<'_>, id: u64) -> rusqlite::Result<()> {
        let (room, user) = (self.rooms.pick(&mut self.random), self.users.pick(&mut self.random));
        self.ts += self.random.below(9_000) as i64;
        let has_meta = self.message.compose(&self.text, &mut self.random);
        let meta = has_meta.then_some(self.message.meta.as_str());
        insert.execute(params![
            id as i64,
            room as i64 + 1,
            user as i64 + 1,
            self.ts,
            self.message.event_id,
            self.message.body,
            meta
        ])?;
        Ok(())
    }

    fn add_reaction(&mut self, insert: &mut Statement<'_>, last: u64) -> rusqlite::Result<u64> {
        let message = last - self.random.below(last.min(50));
        let user = self.users.pick(&mut self.random) as i64 + 1;
        let emoji = EMOJIS[self.random.below(EMOJIS.len() as u64) as usize];
        Ok(insert.execute(params![message as i64, user, emoji, self.ts])? as u64)
    }
}

impl Message {
    /// Writes a new message over the old one; says whether it has `meta`.
    fn compose(&mut self, text: &Text, random: &mut Seeded) -> bool {
        self.event_id.clear();
        self.event_id.push('$');
        random.push_letters(32, &mut self.event_id);
        self.body.clear();
        text.message(random, &mut self.body);
        self.meta.clear();
        let has_meta = random.one_in(5);
        if has_meta {
            text.meta(random, &mut self.meta);
        }
        has_meta
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(size: Size, seed: u64) -> SampleOptions {
        SampleOptions { size, seed, ..SampleOptions::default() }
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
        let folder = tempfile::tempdir().unwrap();
        let bytes_of = |name: &str, seed| {
            let path = folder.path().join(name);
            create(&path, &options(Size::Messages(2_000), seed)).unwrap();
            std::fs::read(&path).unwrap()
        };
        let first = bytes_of("first.db", 7);
        assert_eq!(first, bytes_of("second.db", 7));
        assert_ne!(first, bytes_of("third.db", 8));
    }

    #[test]
    fn a_size_in_bytes_is_reached_and_hardly_passed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sized.db");
        let sample = create(&path, &options(Size::Bytes(4 << 20), 1)).unwrap();
        assert!(sample.bytes >= 4 << 20, "{sample:?}");
        assert!(sample.bytes < 5 << 20, "{sample:?}");
    }

    #[test]
    fn a_sample_is_sound_and_looks_like_chat() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.db");
        let sample = create(&path, &options(Size::Messages(20_000), 1)).unwrap();
        let connection = Connection::open(&path).unwrap();
        let one = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, f64>(0)).unwrap();
        let ok: String =
            connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(ok, "ok");
        assert!(!connection.prepare("PRAGMA foreign_key_check").unwrap().exists([]).unwrap());
        let mean = one("SELECT avg(length(body)) FROM messages");
        assert!((110.0..150.0).contains(&mean), "mean length of a message: {mean}");
        let with_meta = one("SELECT avg(meta IS NOT NULL) FROM messages");
        assert!((0.18..0.22).contains(&with_meta), "share with meta: {with_meta}");
        assert_eq!(one("SELECT sum(NOT json_valid(meta)) FROM messages WHERE meta NOT NULL"), 0.0);
        assert_eq!(one("SELECT avg(length(event_id)) FROM messages"), 33.0);
        let busiest = one("SELECT max(n) FROM (SELECT count(*) n FROM messages GROUP BY user)");
        assert!(busiest > 1_000.0, "the busiest user wrote {busiest} of 20000");
        assert_eq!(one("SELECT count(*) FROM reactions"), sample.reactions as f64);
    }

    #[test]
    fn every_page_size_and_journal_mode_can_be_had() {
        let folder = tempfile::tempdir().unwrap();
        for page_bytes in [512, 1024, 4096, 65536] {
            for mode in ["wal", "delete", "truncate", "persist"] {
                let path = folder.path().join(format!("{mode}-{page_bytes}.db"));
                let options = SampleOptions {
                    page_bytes,
                    journal_mode: mode.into(),
                    ..options(Size::Messages(300), 3)
                };
                create(&path, &options).unwrap();
                let header = std::fs::read(&path).unwrap();
                let stored = u16::from_be_bytes([header[16], header[17]]);
                assert_eq!(stored, if page_bytes == 65536 { 1 } else { page_bytes as u16 });
                assert_eq!(header[18], if mode == "wal" { 2 } else { 1 }, "{mode}");
            }
        }
    }

    #[test]
    fn an_existing_file_is_left_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = create(file.path(), &SampleOptions::default()).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
    }
}
