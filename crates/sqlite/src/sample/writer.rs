//! A writer whose every moment can be recognised in a copy of its database.
//!
//! Each transaction (a tick) adds messages, moves an amount between two accounts, counts itself,
//! and records a digest over all messages that it and the ticks before it wrote. So a copy that
//! shows a transaction in part, an older page among newer ones, or a lost row breaks a rule that
//! [`check_invariants`] tests. What it cannot see is damage outside of these tables: that is what
//! SQLite's own `integrity_check` is for.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::Path;

use lifeboat_core::env::Clock;
use lifeboat_core::error::{Error, Kind, Result};
use rusqlite::{Connection, OpenFlags, Row, Transaction, TransactionBehavior, params};

use super::random::{Seeded, Zipf};
use super::text::Text;
use super::{FIRST_MESSAGE_MS, Message};

const ACCOUNTS: i64 = 100;
const BALANCE_AT_FIRST: i64 = 1_000;
/// A writer that was held up catches up at most this many milliseconds' worth of ticks.
const CATCH_UP_MS: u64 = 500;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS commits(
    seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, first_message INTEGER NOT NULL,
    messages INTEGER NOT NULL, digest BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS counters(name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS ledger(account INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
";

/// How a writer writes.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// Transactions in a second; 0 is as many as it can.
    pub transactions_per_second: u32,
    /// Messages that each transaction adds.
    pub messages_per_transaction: u32,
    /// Decides what it writes.
    pub seed: u64,
}

impl Default for WriterOptions {
    fn default() -> Self {
        WriterOptions { transactions_per_second: 300, messages_per_transaction: 3, seed: 1 }
    }
}

/// One transaction of a writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tick {
    /// Its number, from 1; 0 is the moment before the first.
    pub sequence: u64,
    /// When it was written, in milliseconds since 1970 by the writer's clock.
    pub at_ms: i64,
    /// Digest over all messages of all ticks so far, hexadecimal.
    pub digest: String,
}

/// Writes to a database that [`super::create`] made.
pub struct Writer {
    connection: Connection,
    options: WriterOptions,
    random: Seeded,
    text: Text,
    users: Zipf,
    rooms: Zipf,
    last: Tick,
    digest: [u8; 32],
    next_message: i64,
    message: Message,
}

impl Writer {
    /// Opens the database and adds the tables of the writer where they are missing. A second
    /// writer goes on where the first one ended.
    pub fn open(path: &Path, options: WriterOptions) -> Result<Self> {
        let failed = |error: rusqlite::Error| {
            Error::new(Kind::Failed, format!("cannot write to the sample {}", path.display()))
                .caused_by(error)
        };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        Self::prepare(&mut connection).map_err(failed)?;
        let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
        let users = count("SELECT max(id) FROM users").map_err(failed)?;
        let rooms = count("SELECT max(id) FROM rooms").map_err(failed)?;
        let next_message =
            count("SELECT coalesce(max(id), 0) + 1 FROM messages").map_err(failed)?;
        let (last, digest) = last_tick(&connection).map_err(failed)?;
        // A writer must not draw the keys of the database's maker, or of the writer before it,
        // once more.
        let mut of_sequence = Seeded::new(!last.sequence);
        let mut random = Seeded::new(of_sequence.next() ^ options.seed.rotate_left(32));
        Ok(Writer {
            text: Text::new(random.next()),
            users: Zipf::new(usize::try_from(users).unwrap_or(1), 1.1),
            rooms: Zipf::new(usize::try_from(rooms).unwrap_or(1), 1.2),
            connection,
            options,
            random,
            last,
            digest,
            next_message,
            message: Message::default(),
        })
    }

    fn prepare(connection: &mut Connection) -> rusqlite::Result<()> {
        connection.busy_timeout(std::time::Duration::from_secs(30))?;
        connection.execute_batch("PRAGMA synchronous = NORMAL")?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(SCHEMA)?;
        transaction.execute(
            "INSERT OR IGNORE INTO counters VALUES ('ticks', 0), ('messages_written', 0)",
            [],
        )?;
        for account in 1..=ACCOUNTS {
            transaction.execute(
                "INSERT OR IGNORE INTO ledger VALUES (?1, ?2)",
                params![account, BALANCE_AT_FIRST],
            )?;
        }
        transaction.commit()
    }

    /// The last tick that was committed.
    pub fn last(&self) -> &Tick {
        &self.last
    }

    /// The connection, for what a test wants to do between two ticks.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The database as its writer sees it now, to the byte: what a capture of this moment must be.
    pub fn image(&mut self) -> Result<Vec<u8>> {
        let image = self.connection.serialize("main").map_err(|error| {
            Error::new(Kind::Failed, "cannot read the writer's database").caused_by(error)
        })?;
        Ok(image.to_vec())
    }

    /// Writes one transaction.
    pub fn tick(&mut self, at_ms: i64) -> Result<&Tick> {
        let sequence = self.last.sequence + 1;
        self.write(sequence, at_ms).map_err(|error| {
            Error::new(Kind::Failed, format!("the writer failed at its tick {sequence}"))
                .caused_by(error)
        })?;
        Ok(&self.last)
    }

    fn write(&mut self, sequence: u64, at_ms: i64) -> rusqlite::Result<()> {
        let count = self.options.messages_per_transaction;
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.digest);
        {
            let mut insert = transaction.prepare(
                "INSERT INTO messages(id, room, user, ts, event_id, body, meta)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?;
            for id in (self.next_message..).take(count as usize) {
                let room = self.rooms.pick(&mut self.random) as i64 + 1;
                let user = self.users.pick(&mut self.random) as i64 + 1;
                let has_meta = self.message.compose(&self.text, &mut self.random);
                let Message { event_id, body, meta } = &self.message;
                let meta = has_meta.then_some(meta.as_str());
                insert.execute(params![id, room, user, at_ms, event_id, body, meta])?;
                update_digest(&mut hasher, [id, room, user, at_ms], event_id, body, meta);
            }
        }
        let digest = *hasher.finalize().as_bytes();
        let first = self.next_message;
        record(&transaction, sequence, at_ms, (first, count), &digest, &mut self.random)?;
        transaction.commit()?;
        self.digest = digest;
        self.next_message += i64::from(count);
        self.last = Tick { sequence, at_ms, digest: hexadecimal(&digest) };
        Ok(())
    }

    /// Writes at the rate of the options until `each` breaks. `each` sees a tick after its
    /// commit.
    pub fn run(
        &mut self,
        clock: &dyn Clock,
        each: &mut dyn FnMut(&Tick) -> ControlFlow<()>,
    ) -> Result<()> {
        let rate = u64::from(self.options.transactions_per_second);
        let (mut began_ms, mut done) = (clock.monotonic_ms(), 0u64);
        loop {
            let at_ms = clock.now().as_millisecond();
            if each(self.tick(at_ms)?).is_break() {
                return Ok(());
            }
            done += 1;
            if rate == 0 {
                continue;
            }
            let due_ms = began_ms + done * 1000 / rate;
            let now_ms = clock.monotonic_ms();
            if due_ms > now_ms {
                clock.sleep_ms(due_ms - now_ms);
            } else if now_ms - due_ms > CATCH_UP_MS {
                (began_ms, done) = (now_ms, 0);
            }
        }
    }
}

/// The bookkeeping of a tick: its record, the counters, and an amount that changes hands.
fn record(
    transaction: &Transaction<'_>,
    sequence: u64,
    at_ms: i64,
    (first, count): (i64, u32),
    digest: &[u8; 32],
    random: &mut Seeded,
) -> rusqlite::Result<()> {
    transaction.prepare("INSERT INTO commits VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
        sequence as i64,
        at_ms,
        first,
        count,
        digest.as_slice()
    ])?;
    let mut count_up =
        transaction.prepare("UPDATE counters SET value = value + ?2 WHERE name = ?1")?;
    count_up.execute(params!["ticks", 1])?;
    count_up.execute(params!["messages_written", count])?;
    let amount = random.below(50) as i64;
    let mut transfer =
        transaction.prepare("UPDATE ledger SET balance = balance + ?2 WHERE account = ?1")?;
    transfer.execute(params![1 + random.below(ACCOUNTS as u64) as i64, amount])?;
    transfer.execute(params![1 + random.below(ACCOUNTS as u64) as i64, -amount])?;
    let mut seen = transaction.prepare("UPDATE users SET last_seen_at = ?2 WHERE id = ?1")?;
    seen.execute(params![1 + random.below(500) as i64, at_ms])?;
    Ok(())
}

fn update_digest(
    hasher: &mut blake3::Hasher,
    numbers: [i64; 4],
    event_id: &str,
    body: &str,
    meta: Option<&str>,
) {
    for number in numbers {
        hasher.update(&number.to_le_bytes());
    }
    for text in [event_id, body, meta.unwrap_or("\0")] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
}

fn last_tick(connection: &Connection) -> rusqlite::Result<(Tick, [u8; 32])> {
    let sql = "SELECT seq, at_ms, digest FROM commits ORDER BY seq DESC LIMIT 1";
    let found = connection.query_row(sql, [], |row| {
        let digest: [u8; 32] = row.get(2)?;
        let (sequence, at_ms) = (row.get::<_, i64>(0)? as u64, row.get(1)?);
        Ok((Tick { sequence, at_ms, digest: hexadecimal(&digest) }, digest))
    });
    match found {
        Err(rusqlite::Error::QueryReturnedNoRows) => {
            let digest = [0; 32];
            let tick = Tick { sequence: 0, at_ms: FIRST_MESSAGE_MS, digest: hexadecimal(&digest) };
            Ok((tick, digest))
        }
        found => found,
    }
}

/// Proves that the database shows one moment of its writer's life, whole, and says which.
///
/// [`Kind::CheckFailed`] names the rule that is broken.
pub fn check_invariants(connection: &Connection) -> Result<Tick> {
    let unreadable = |error: rusqlite::Error| {
        Error::new(Kind::CheckFailed, "the writer's tables cannot be read").caused_by(error)
    };
    let broken = |rule: String| Err(Error::new(Kind::CheckFailed, rule));
    // One transaction, so that the check is sound on a database that is still being written to.
    let transaction = connection.unchecked_transaction().map_err(unreadable)?;
    let number =
        |sql: &str| transaction.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(unreadable);
    let (last, _) = last_tick(&transaction).map_err(unreadable)?;
    let recorded = number("SELECT count(*) FROM commits")?;
    let counted = number("SELECT value FROM counters WHERE name = 'ticks'")?;
    if (recorded, counted) != (last.sequence as i64, last.sequence as i64) {
        return broken(format!(
            "the last tick is {}, but {recorded} are recorded and {counted} counted",
            last.sequence
        ));
    }
    let sum = number("SELECT sum(balance) FROM ledger")?;
    if sum != ACCOUNTS * BALANCE_AT_FIRST {
        return broken(format!(
            "the balances add up to {sum}, not {}",
            ACCOUNTS * BALANCE_AT_FIRST
        ));
    }
    let messages = number("SELECT coalesce(sum(messages), 0) FROM commits")?;
    let counted = number("SELECT value FROM counters WHERE name = 'messages_written'")?;
    if messages != counted {
        return broken(format!("the ticks wrote {messages} messages, but {counted} are counted"));
    }
    let (digest, last_message) = digest_of_all(&transaction)?;
    if digest != last.digest {
        return broken(format!("the messages up to tick {} are not those it wrote", last.sequence));
    }
    let newest = number("SELECT coalesce(max(id), 0) FROM messages")?;
    if last.sequence > 0 && newest != last_message {
        return broken(format!("the newest message is {newest}, the last tick's {last_message}"));
    }
    Ok(last)
}

/// Proves of a file that it is a sound database, whole by [`check_invariants`], and says which
/// moment it shows.
pub fn prove(path: &Path) -> Result<Tick> {
    let unreadable = |error: rusqlite::Error| {
        Error::new(Kind::CheckFailed, format!("{} cannot be read", path.display())).caused_by(error)
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(unreadable)?;
    let mut statement = connection.prepare("PRAGMA integrity_check").map_err(unreadable)?;
    let lines: Vec<String> = statement
        .query_map([], |row| row.get(0))
        .and_then(Iterator::collect)
        .map_err(unreadable)?;
    drop(statement);
    if lines != ["ok"] {
        let rule = format!("{} is damaged: {}", path.display(), lines.join("; "));
        return Err(Error::new(Kind::CheckFailed, rule));
    }
    check_invariants(&connection)
}

/// The digest over all ticks, computed again from the messages, and the last message's id.
fn digest_of_all(connection: &Connection) -> Result<(String, i64)> {
    let unreadable = |error: rusqlite::Error| {
        Error::new(Kind::CheckFailed, "the writer's messages cannot be read").caused_by(error)
    };
    let mut ticks = connection
        .prepare("SELECT seq, first_message, messages, digest FROM commits ORDER BY seq")
        .map_err(unreadable)?;
    let mut messages = connection
        .prepare(
            "SELECT id, room, user, ts, event_id, body, meta FROM messages
             WHERE id >= ?1 AND id < ?2 ORDER BY id",
        )
        .map_err(unreadable)?;
    let (mut digest, mut last_message) = ([0; 32], 0);
    let mut rows = ticks.query([]).map_err(unreadable)?;
    while let Some(row) = rows.next().map_err(unreadable)? {
        let (sequence, first, count, recorded) = tick_columns(row).map_err(unreadable)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&digest);
        let mut of_tick = messages.query(params![first, first + count]).map_err(unreadable)?;
        while let Some(row) = of_tick.next().map_err(unreadable)? {
            add_message(&mut hasher, row).map_err(unreadable)?;
        }
        digest = *hasher.finalize().as_bytes();
        if digest != recorded {
            let rule = format!("the messages of tick {sequence} are not those it wrote");
            return Err(Error::new(Kind::CheckFailed, rule));
        }
        last_message = first + count - 1;
    }
    Ok((hexadecimal(&digest), last_message))
}

fn tick_columns(row: &Row<'_>) -> rusqlite::Result<(i64, i64, i64, [u8; 32])> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
}

fn add_message(hasher: &mut blake3::Hasher, row: &Row<'_>) -> rusqlite::Result<()> {
    let numbers = [row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?];
    let (event_id, body): (String, String) = (row.get(4)?, row.get(5)?);
    let meta: Option<String> = row.get(6)?;
    update_digest(hasher, numbers, &event_id, &body, meta.as_deref());
    Ok(())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{SampleOptions, Size, create};

    fn written(ticks: u64) -> (tempfile::TempDir, std::path::PathBuf, Tick) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.db");
        let options = SampleOptions { size: Size::Messages(500), ..SampleOptions::default() };
        create(&path, &options).unwrap();
        let mut writer = Writer::open(&path, WriterOptions::default()).unwrap();
        for number in 0..ticks {
            writer.tick(FIRST_MESSAGE_MS + number as i64).unwrap();
        }
        let last = writer.last().clone();
        (folder, path, last)
    }

    #[test]
    fn what_was_written_is_recognised_and_a_second_writer_goes_on() {
        let (_folder, path, last) = written(40);
        let connection = Connection::open(&path).unwrap();
        assert_eq!(check_invariants(&connection).unwrap(), last);
        assert_eq!(last.sequence, 40);
        let mut second = Writer::open(&path, WriterOptions::default()).unwrap();
        assert_eq!(second.last(), &last);
        let last = second.tick(FIRST_MESSAGE_MS).unwrap().clone();
        assert_eq!(check_invariants(&connection).unwrap(), last);
        assert_eq!(last.sequence, 41);
    }

    #[test]
    fn the_image_is_the_database_with_its_wal() {
        let (folder, path, last) = written(30);
        let mut writer = Writer::open(&path, WriterOptions::default()).unwrap();
        writer.tick(FIRST_MESSAGE_MS).unwrap();
        let copy = folder.path().join("copy.db");
        std::fs::write(&copy, writer.image().unwrap()).unwrap();
        assert_eq!(&prove(&copy).unwrap(), writer.last());
        assert_eq!(writer.last().sequence, last.sequence + 1);
        let mut bytes = std::fs::read(&copy).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 4096].fill(0x55);
        std::fs::write(&copy, bytes).unwrap();
        assert_eq!(prove(&copy).unwrap_err().kind(), Kind::CheckFailed);
    }

    #[test]
    fn the_moment_before_the_first_tick_is_whole() {
        let (_folder, path, _) = written(0);
        let tick = check_invariants(&Connection::open(&path).unwrap()).unwrap();
        assert_eq!(tick.sequence, 0);
    }

    #[test]
    fn each_kind_of_torn_state_is_found() {
        let tears = [
            "DELETE FROM commits WHERE seq = 7",
            "DELETE FROM commits WHERE seq = 20",
            "UPDATE counters SET value = value - 1 WHERE name = 'ticks'",
            "UPDATE counters SET value = value + 1 WHERE name = 'messages_written'",
            "UPDATE ledger SET balance = balance + 1 WHERE account = 3",
            "UPDATE messages SET body = body || '.' WHERE id = 510",
            "UPDATE messages SET meta = '' WHERE id = (SELECT max(id) FROM messages WHERE meta IS NULL)",
            "DELETE FROM reactions; DELETE FROM messages WHERE id = 505",
            "INSERT INTO messages SELECT id + 1, room, user, ts, 'x', body, meta FROM messages
             ORDER BY id DESC LIMIT 1",
        ];
        for tear in tears {
            let (_folder, path, _) = written(20);
            let connection = Connection::open(&path).unwrap();
            connection.execute_batch(tear).unwrap();
            let error = check_invariants(&connection).expect_err(tear);
            assert_eq!(error.kind(), Kind::CheckFailed, "{tear}");
        }
    }
}
