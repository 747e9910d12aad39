//! A process that writes to a database as hard and as oddly as it can, keeping an invariant.
//!
//! The test binary starts itself again to be that process: locks of the same process do not
//! conflict, and only a process can be killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};

/// Says which database the process is to write to; absent in an ordinary run of the tests.
const PATH_VARIABLE: &str = "LIFEBOAT_TEST_ABUSE_PATH";
/// Says how: one of the kinds below.
const KIND_VARIABLE: &str = "LIFEBOAT_TEST_ABUSE_KIND";

/// Ways to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abuse {
    /// Three writers in WAL mode, checkpoints of every kind in a loop, VACUUM now and then.
    Writers,
    /// The log is copied whole, kept so for a moment, and restarted.
    FullyCopied,
    /// Between WAL mode and rollback journals.
    Toggling,
    /// One writer, and nobody has the database open between its transactions.
    LastCloser,
    /// A transaction with a rollback journal of that mode and `synchronous`, spilled into the
    /// database file and never ended.
    CutOff(&'static str, &'static str),
}

const KINDS: [(&str, Abuse); 13] = [
    ("cut-off-1", Abuse::CutOff("delete", "off")),
    ("cut-off-2", Abuse::CutOff("delete", "normal")),
    ("cut-off-3", Abuse::CutOff("delete", "full")),
    ("cut-off-4", Abuse::CutOff("persist", "off")),
    ("cut-off-5", Abuse::CutOff("persist", "normal")),
    ("cut-off-6", Abuse::CutOff("persist", "full")),
    ("cut-off-7", Abuse::CutOff("truncate", "off")),
    ("cut-off-8", Abuse::CutOff("truncate", "normal")),
    ("cut-off-9", Abuse::CutOff("truncate", "full")),
    ("writers", Abuse::Writers),
    ("fully-copied", Abuse::FullyCopied),
    ("toggling", Abuse::Toggling),
    ("last-closer", Abuse::LastCloser),
];

/// The process, killed with the value.
pub(super) struct Abuser(Child);

impl Abuser {
    /// Its number.
    pub(super) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Abuser {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Makes the database and starts the process; returns when it writes.
pub(super) fn begin(path: &Path, abuse: Abuse) -> Abuser {
    create(path);
    let kind = KINDS.iter().find(|kind| kind.1 == abuse).unwrap().0;
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["snapshot::tests::abuse::process", "--exact", "--nocapture"])
        .env(PATH_VARIABLE, path)
        .env(KIND_VARIABLE, kind)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let started = path.with_extension("started");
    while !started.exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the writing process does not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    Abuser(child)
}

fn create(path: &Path) {
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch(
            "PRAGMA auto_vacuum = incremental; PRAGMA journal_mode = wal; BEGIN;
             CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER);
             WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 500)
             INSERT INTO account SELECT i, 100 FROM c;
             CREATE TABLE tick_a(n INTEGER); INSERT INTO tick_a VALUES (0);
             CREATE TABLE tick_b(n INTEGER); INSERT INTO tick_b VALUES (0);
             CREATE TABLE tick_c(n INTEGER, filler BLOB);
             INSERT INTO tick_c VALUES (0, zeroblob(9000));
             CREATE TABLE bulk(id INTEGER PRIMARY KEY, body BLOB);
             CREATE INDEX bulk_body ON bulk(substr(hex(body), 1, 20));
             CREATE TABLE total(sum INTEGER); INSERT INTO total VALUES (0); COMMIT;",
        )
        .unwrap();
}

/// What must hold in every state; the tick of the state.
pub(super) fn require_whole(connection: &Connection) -> i64 {
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(number("SELECT sum(balance) FROM account"), 50_000);
    let tick = number("SELECT n FROM tick_a");
    assert_eq!(number("SELECT n FROM tick_b"), tick);
    assert_eq!(number("SELECT n FROM tick_c"), tick);
    let sum = number("SELECT ifnull(sum(id * 31 + length(body)), 0) FROM bulk");
    assert_eq!(number("SELECT sum FROM total"), sum);
    tick
}

/// Numbers that look random.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    pub(super) fn pause(&mut self, microseconds_max: u64) {
        std::thread::sleep(Duration::from_micros(self.below(microseconds_max + 1)));
    }
}

/// Not a test but the process; passes at once in an ordinary run.
#[test]
fn process() {
    let (Some(path), Ok(kind)) = (std::env::var_os(PATH_VARIABLE), std::env::var(KIND_VARIABLE))
    else {
        return;
    };
    let path = PathBuf::from(path);
    let kind = KINDS.iter().find(|known| known.0 == kind).unwrap().1;
    if let Abuse::CutOff(journal, synchronous) = kind {
        begin_and_never_end(&path, journal, synchronous);
    }
    std::fs::write(path.with_extension("started"), "").unwrap();
    match kind {
        Abuse::Writers => std::thread::scope(|scope| {
            for seed in 1..=3 {
                let path = &path;
                scope.spawn(move || write_for_ever(path, Dice(seed * 0x9e37_79b9), true));
            }
            checkpoint_for_ever(&path);
        }),
        Abuse::FullyCopied => copy_for_ever(&path),
        Abuse::Toggling => toggle_for_ever(&path),
        Abuse::CutOff(..) => std::thread::sleep(Duration::from_secs(600)),
        Abuse::LastCloser => loop {
            let mut dice = Dice(u64::from(std::process::id()));
            let mut connection = open(&path, &mut dice);
            // Its close is the last one: it copies the log and removes it.
            for _ in 0..3 {
                let _ = write(&mut connection, &mut dice);
            }
        },
    }
}

fn open(path: &Path, dice: &mut Dice) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(20)).unwrap();
    let limit = [20, 100, 0][dice.below(3) as usize];
    let synchronous = ["NORMAL", "OFF"][dice.below(2) as usize];
    // A cache of few pages lets transactions spill into the log before they are committed.
    let pragmas = format!(
        "PRAGMA cache_size = 40; PRAGMA wal_autocheckpoint = {limit};
         PRAGMA synchronous = {synchronous};"
    );
    connection.execute_batch(&pragmas).unwrap();
    connection
}

fn write_for_ever(path: &Path, mut dice: Dice, with_vacuum: bool) {
    loop {
        let mut connection = open(path, &mut dice);
        for _ in 0..200 {
            let _ = write(&mut connection, &mut dice);
            if dice.below(40) == 0 {
                let _ = connection.execute_batch("PRAGMA incremental_vacuum(50)");
            }
            if with_vacuum && dice.below(400) == 0 {
                let _ = connection.execute_batch("VACUUM");
            }
            dice.pause(800);
        }
    }
}

/// One transaction, of which one in twelve is taken back.
fn write(connection: &mut Connection, dice: &mut Dice) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (from, to) = (dice.below(500) + 1, dice.below(500) + 1);
    transaction.execute("UPDATE account SET balance = balance - 7 WHERE id = ?", [from as i64])?;
    transaction.execute("UPDATE tick_a SET n = n + 1", [])?;
    if dice.below(4) == 0 {
        insert_or_delete(&transaction, dice)?;
    }
    transaction.execute("UPDATE account SET balance = balance + 7 WHERE id = ?", [to as i64])?;
    transaction.execute("UPDATE tick_b SET n = n + 1", [])?;
    transaction.execute("UPDATE tick_c SET n = n + 1, filler = randomblob(9000)", [])?;
    match dice.below(12) {
        0 => transaction.rollback(),
        _ => transaction.commit(),
    }
}

fn insert_or_delete(connection: &Connection, dice: &mut Dice) -> rusqlite::Result<()> {
    let rows: i64 = connection.query_row("SELECT count(*) FROM bulk", [], |row| row.get(0))?;
    if rows < 1500 && dice.below(3) != 0 {
        connection.execute(
            "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < ?1)
             INSERT INTO bulk(body) SELECT randomblob(abs(random() % 2500)) FROM c",
            [dice.below(150) as i64 + 1],
        )?;
    } else {
        let sql = "DELETE FROM bulk WHERE id % 7 = ?1 OR id < (SELECT min(id) + 60 FROM bulk)";
        connection.execute(sql, [dice.below(7) as i64])?;
    }
    let sql = "UPDATE total SET sum = (SELECT ifnull(sum(id * 31 + length(body)), 0) FROM bulk)";
    connection.execute(sql, []).map(drop)
}

fn checkpoint_for_ever(path: &Path) {
    let mut dice = Dice(77);
    let connection = open(path, &mut dice);
    connection.busy_timeout(Duration::from_millis(20)).unwrap();
    loop {
        checkpoint(&connection, &mut dice);
        dice.pause(3000);
    }
}

fn checkpoint(connection: &Connection, dice: &mut Dice) {
    let mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][dice.below(4) as usize];
    let sql = format!("PRAGMA wal_checkpoint({mode})");
    let _ = connection.query_row(&sql, [], |row| row.get::<_, i64>(0));
}

/// Leaves a transaction open whose pages are partly in the database file. The connection is
/// leaked: its close would roll back.
fn begin_and_never_end(path: &Path, journal: &str, synchronous: &str) {
    let mut dice = Dice(u64::from(std::process::id()));
    let mut connection = open(path, &mut dice);
    let pragma = format!("PRAGMA journal_mode = {journal}");
    connection.query_row(&pragma, [], |_| Ok(())).unwrap();
    connection.execute_batch(&format!("PRAGMA synchronous = {synchronous}")).unwrap();
    for _ in 0..30 {
        write(&mut connection, &mut dice).unwrap();
    }
    connection.execute_batch("PRAGMA cache_size = 10; BEGIN IMMEDIATE").unwrap();
    for _ in 0..dice.below(20) + 5 {
        connection.execute_batch("UPDATE account SET balance = balance + 1").unwrap();
        insert_or_delete(&connection, &mut dice).unwrap();
    }
    std::mem::forget(connection);
}

fn copy_for_ever(path: &Path) {
    let mut dice = Dice(5);
    let mut connection = open(path, &mut dice);
    connection.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
    connection.busy_timeout(Duration::from_millis(20)).unwrap();
    loop {
        for _ in 0..dice.below(6) + 1 {
            let _ = write(&mut connection, &mut dice);
        }
        for _ in 0..3 {
            checkpoint(&connection, &mut dice);
        }
        // Readers that begin now find everything copied; the log restarts under them.
        dice.pause(4000);
    }
}

fn toggle_for_ever(path: &Path) {
    let mut dice = Dice(6);
    loop {
        let mut connection = open(path, &mut dice);
        connection.busy_timeout(Duration::from_millis(50)).unwrap();
        let mode = ["delete", "wal", "truncate", "persist"][dice.below(4) as usize];
        let _ = connection.query_row(&format!("PRAGMA journal_mode = {mode}"), [], |_| Ok(()));
        for _ in 0..dice.below(12) {
            let _ = write(&mut connection, &mut dice);
            dice.pause(1500);
        }
    }
}
