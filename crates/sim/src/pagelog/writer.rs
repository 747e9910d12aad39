//! The application of a simulated history: the `sqlite3` program in a process of its own, which
//! can be killed, and whose machine can lose what was not synced.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use lifeboat_sqlite::sample::Seeded;

use super::Broken;

/// What the program prints when it has done what it was told.
const DONE: &str = "done-with-it";

/// A process that writes to a database.
pub(super) struct Application {
    path: PathBuf,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    tables: u64,
}

fn words(error: impl std::fmt::Display) -> Broken {
    format!("the application: {error}")
}

impl Application {
    /// Begins it.
    pub(super) fn start(path: &Path) -> Result<Self, Broken> {
        let mut child = Command::new("sqlite3")
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(words)?;
        let input = child.stdin.take().ok_or("no input")?;
        let output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut new = Application { path: path.to_owned(), child, input, output, tables: 0 };
        new.run("PRAGMA cache_size = 10; PRAGMA cache_spill = 5;")?;
        Ok(new)
    }

    /// Has it run statements. What SQLite refuses, because somebody reads, is refused.
    pub(super) fn run(&mut self, sql: &str) -> Result<(), Broken> {
        writeln!(self.input, "{sql}\n.print {DONE}").map_err(words)?;
        let mut line = String::new();
        loop {
            line.clear();
            match self.output.read_line(&mut line).map_err(words)? {
                0 => return Err("the application ended".to_owned()),
                _ if line.trim_end() == DONE => return Ok(()),
                _ => {}
            }
        }
    }

    /// One random thing that applications and their administrators do. In words, what it was.
    pub(super) fn act(&mut self, random: &mut Seeded) -> Result<&'static str, Broken> {
        let n = random.next() >> 1;
        let (what, sql) = match random.below(26) {
            0..8 => ("transactions", self.transactions(random)),
            8 => ("a large transaction", large(random.below(4_000), n)),
            9 => ("rows deleted", format!("DELETE FROM log WHERE id % 7 = {};", n % 7)),
            10 => ("a new table", {
                self.tables += 1;
                let name = format!("t{}_{}", self.tables, n % 1_000_000);
                format!("CREATE TABLE {name}(x); INSERT INTO {name} VALUES(randomblob(3000));")
            }),
            11 => ("a new column", format!("ALTER TABLE log ADD COLUMN c{};", n % 1_000_000)),
            12 => ("VACUUM", "VACUUM;".to_owned()),
            13 => ("auto_vacuum", format!("PRAGMA auto_vacuum = {}; VACUUM;", n % 3)),
            14 => ("pages given back", {
                "DELETE FROM log WHERE id > (SELECT max(id) / 2 FROM log);
                 PRAGMA incremental_vacuum(50); VACUUM;"
                    .to_owned()
            }),
            15 => ("another page size", {
                let size = 512 << (n % 5);
                format!("PRAGMA journal_mode = DELETE; PRAGMA page_size = {size}; VACUUM;")
            }),
            16 => ("another journal mode", {
                let mode = ["WAL", "DELETE", "TRUNCATE", "PERSIST"][(n % 4) as usize];
                format!("PRAGMA journal_mode = {mode};")
            }),
            24.. => ("turns of the -wal", {
                let turn = || "PRAGMA wal_checkpoint(RESTART);".to_owned();
                let turns = (0..2).map(|_| self.transactions(random) + &turn());
                turns.collect::<String>() + &self.transactions(random)
            }),
            17 | 18 => ("WAL mode", "PRAGMA journal_mode = WAL;".to_owned()),
            _ => ("a checkpoint", {
                let kind = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][(n % 4) as usize];
                let sql = format!("PRAGMA wal_checkpoint({kind});");
                if n & 4 == 0 {
                    self.by_another(&sql)?;
                    return Ok("a checkpoint by another process");
                }
                sql
            }),
        };
        self.run(&sql).map(|()| what)
    }

    /// Another process comes, does that, and goes.
    fn by_another(&self, sql: &str) -> Result<(), Broken> {
        let mut command = Command::new("sqlite3");
        let output = command.arg(&self.path).arg(sql).output().map_err(words)?;
        match output.status.success() {
            true => Ok(()),
            false => Err(words(String::from_utf8_lossy(&output.stderr))),
        }
    }

    fn transactions(&self, random: &mut Seeded) -> String {
        let one = |random: &mut Seeded| {
            let n = random.next() >> 1;
            format!(
                "BEGIN IMMEDIATE;
                 INSERT INTO log(body, key) VALUES(randomblob({}), {n});
                 UPDATE log SET body = randomblob({}) WHERE id = (SELECT {n} % max(id) FROM log);
                 UPDATE total SET n = n + 1; COMMIT;",
                n % 700,
                n % 300
            )
        };
        (0..1 + random.below(8)).map(|_| one(random)).collect()
    }

    /// Commits that are not synced, as SQLite leaves them between two checkpoints; how many bytes
    /// of the `-wal` were there before.
    pub(super) fn begin_unsynced(&mut self, random: &mut Seeded) -> Result<u64, Broken> {
        self.run("PRAGMA wal_autocheckpoint = 0;")?;
        let synced = wal_bytes(&self.path);
        let sql = self.transactions(random);
        self.run(&sql).map(|()| synced)
    }

    /// It is killed in the middle of a transaction, of which it has written a part.
    pub(super) fn crash(mut self, random: &mut Seeded) -> Result<(), Broken> {
        let rows = random.below(3_000);
        let sql = large(rows, random.next() >> 1);
        self.run(sql.trim_end_matches("COMMIT;"))?;
        self.child.kill().map_err(words)?;
        self.child.wait().map_err(words).map(drop)
    }

    /// It ends as it should.
    pub(super) fn end(mut self) -> Result<(), Broken> {
        drop(self.input);
        self.child.wait().map_err(words).map(drop)
    }

    /// What the database is now, to the byte. Copied by another process: one of ours that closed
    /// the file would drop our locks.
    pub(super) fn image(&self, folder: &Path) -> Result<Vec<u8>, Broken> {
        image(&self.path, folder)
    }
}

fn large(rows: u64, n: u64) -> String {
    format!(
        "BEGIN IMMEDIATE;
         INSERT INTO log(body, key)
             WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < {rows})
             SELECT randomblob(60 + i % 90), {n} + i FROM r;
         UPDATE total SET n = n + 1; COMMIT;"
    )
}

/// What a database is, to the byte, whoever has it open.
pub(super) fn image(path: &Path, folder: &Path) -> Result<Vec<u8>, Broken> {
    let copy = folder.join("image.db");
    let script = "rm -f \"$2\"*; cp \"$1\" \"$2\"; for e in -wal -journal; do
        if [ -e \"$1$e\" ]; then cp \"$1$e\" \"$2$e\"; fi; done;
        sqlite3 \"$2\" 'PRAGMA wal_checkpoint(TRUNCATE)' >/dev/null && cat \"$2\"";
    let output = Command::new("sh")
        .args(["-c", script, "sh"])
        .args([path, &copy])
        .output()
        .map_err(words)?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(words(String::from_utf8_lossy(&output.stderr))),
    }
}

/// The machine lost its power: of a `-wal` that was not synced from there on, the end is gone, or
/// torn.
pub(super) fn lose_unsynced(path: &Path, synced: u64, random: &mut Seeded) -> Result<(), Broken> {
    let bytes = wal_bytes(path);
    let Some(unsynced) = bytes.checked_sub(synced).filter(|unsynced| *unsynced > 0) else {
        return Ok(());
    };
    let file = OpenOptions::new().write(true).open(wal_of(path)).map_err(words)?;
    let left = synced + random.below(unsynced + 1);
    file.set_len(left).map_err(words)?;
    if left > synced + 60 && random.one_in(2) {
        file.write_all_at(&[0; 50], left - 60).map_err(words)?;
    }
    Ok(())
}

fn wal_of(path: &Path) -> PathBuf {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    wal.into()
}

fn wal_bytes(path: &Path) -> u64 {
    fs::metadata(wal_of(path)).map_or(0, |metadata| metadata.len())
}
