//! The rows of one table: all at once where the server reads them, else around what it cannot read.
//!
//! A range of blocks that fails is halved until a single block is left; of that its rows are asked
//! for one by one. A server that a row makes crash restarts by itself, and is waited for.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Seek, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use lifeboat_core::Result;
use lifeboat_core::env::Env;

use super::report::{LostRow, TableReport};
use super::writing;
use crate::client::Client;
use crate::diff::Table;
use crate::quote::identifier;
use crate::session::Session;

/// How long a server that crashed may take to come back, in milliseconds.
const RESTART_TIMEOUT_MS: u64 = 60_000;
const RESTART_LOOK_MS: u64 = 200;
/// Rows between two looks whether the run must end.
const ROWS_PER_LOOK: u64 = 4_096;
const BUFFER_BYTES: usize = 1 << 20;

/// How it may be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// Whether the server is ours, on a copy.
    pub(super) is_copy: bool,
    /// Whether the server reads ranges of blocks.
    pub(super) has_ranges: bool,
}

/// Reads a table.
pub(super) struct Reader<'a> {
    env: &'a Env,
    client: &'a Client,
    table: &'a Table,
    columns: String,
    manner: Manner,
    folder: PathBuf,
    certain: Sink,
    uncertain: Option<Sink>,
    /// The session, with whether it looks past wrong checksums.
    session: Option<(Session, bool)>,
    report: TableReport,
}

/// A file of rows whose end can be taken back.
struct Sink {
    path: PathBuf,
    file: BufWriter<File>,
}

/// Whether something was read, or the server said no.
type Answer<T> = std::result::Result<T, String>;

impl<'a> Reader<'a> {
    pub(super) fn new(
        env: &'a Env,
        client: &'a Client,
        table: &'a Table,
        folder: &Path,
        index: usize,
        manner: Manner,
    ) -> Result<Self> {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
        let name: String =
            table.name().chars().map(|letter| if plain(letter) { letter } else { '_' }).collect();
        let name: String = name.chars().take(100).collect();
        let file = format!("{:04}-{name}.copy", index + 1);
        let columns: Vec<String> =
            table.columns.iter().map(|column| identifier(&column.name)).collect();
        Ok(Reader {
            certain: Sink::new(folder.join(&file))?,
            report: TableReport { name: table.name(), file, ..TableReport::default() },
            uncertain: None,
            session: None,
            columns: columns.join(", "),
            folder: folder.to_owned(),
            env,
            client,
            table,
            manner,
        })
    }

    pub(super) fn read(mut self) -> Result<TableReport> {
        match self.copy("true", false)? {
            Ok(rows) => self.report.rows = rows,
            Err(why) => {
                self.report.why = Some(why);
                self.around()?;
            }
        }
        self.certain.finish()?;
        if let Some(uncertain) = &mut self.uncertain {
            uncertain.finish()?;
        }
        Ok(self.report)
    }

    /// The rows of all ranges of blocks that can be read, then of the blocks that cannot.
    fn around(&mut self) -> Result<()> {
        if !self.manner.has_ranges {
            return Ok(());
        }
        // What fails before a row is read (rights, a file that is gone) fails for each block.
        if self.copy("false", false)?.is_err() {
            return Ok(());
        }
        let Some(blocks) = self.blocks()? else { return Ok(()) };
        let mut open = vec![(0, blocks)];
        while let Some((from, to)) = open.pop() {
            if from == to {
                continue;
            }
            let range = format!("ctid >= '({from},0)' AND ctid < '({to},0)'");
            match self.copy(&range, false)? {
                Ok(rows) => self.report.rows += rows,
                Err(_) if to - from > 1 => {
                    let half = from + (to - from) / 2;
                    // The first half is read first: rows stay in their order.
                    open.extend([(half, to), (from, half)]);
                }
                Err(_) => self.block(from)?,
            }
        }
        Ok(())
    }

    fn blocks(&mut self) -> Result<Option<u32>> {
        let query = format!(
            "SELECT pg_catalog.pg_relation_size({}::pg_catalog.regclass) / \
             pg_catalog.current_setting('block_size')::pg_catalog.int8 AS blocks",
            crate::quote::literal(&self.table.sql_name())
        );
        let asked = self.ask(&query, "blocks", false)?;
        Ok(asked.ok().and_then(|values| values.first()?.parse().ok()))
    }

    /// The rows of a block, one by one.
    fn block(&mut self, block: u32) -> Result<()> {
        let within = format!("ctid >= '({block},0)' AND ctid < '({},0)'", u64::from(block) + 1);
        let query = format!(
            "SELECT ctid::pg_catalog.text AS place FROM ONLY {} WHERE {within}",
            self.table.sql_name()
        );
        let (places, is_doubtful) = match self.ask(&query, "place", false)? {
            Ok(places) => (places, false),
            Err(_) if self.manner.is_copy => match self.ask(&query, "place", true)? {
                Ok(places) => (places, true),
                Err(_) => return self.lose(block),
            },
            Err(_) => return self.lose(block),
        };
        for place in places {
            self.row(&place, is_doubtful)?;
        }
        Ok(())
    }

    fn lose(&mut self, block: u32) -> Result<()> {
        self.report.lost_blocks.push(block);
        Ok(())
    }

    fn row(&mut self, place: &str, is_doubtful: bool) -> Result<()> {
        let it = format!("ctid = '{place}'");
        if !is_doubtful && let Ok(rows) = self.copy(&it, false)? {
            self.report.rows += rows;
            return Ok(());
        }
        if self.manner.is_copy
            && let Ok(rows) = self.copy(&it, true)?
        {
            self.report.uncertain += rows;
            return Ok(());
        }
        let mut key = None;
        if !self.table.key.is_empty() {
            let names = self.table.key.iter().map(|name| identifier(name));
            let parts: Vec<String> = names.map(|name| format!("{name}::pg_catalog.text")).collect();
            let query = format!(
                "SELECT pg_catalog.concat_ws(', ', {}) AS key FROM ONLY {} WHERE {it}",
                parts.join(", "),
                self.table.sql_name()
            );
            key = self.ask(&query, "key", self.manner.is_copy)?.ok().and_then(|mut it| it.pop());
        }
        self.report.lost_rows.push(LostRow { place: place.to_owned(), key });
        Ok(())
    }

    /// One column of the answer to a query.
    fn ask(&mut self, query: &str, column: &str, past: bool) -> Result<Answer<Vec<String>>> {
        let mut session = self.session(past)?;
        let text = |row: &crate::session::Row| match row.get(column) {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        };
        match session.rows(query) {
            Ok(rows) => {
                self.session = Some((session, past));
                Ok(Ok(rows.iter().map(text).collect()))
            }
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    /// Copies the rows of a condition to their file; what came of a copy that failed is taken back.
    fn copy(&mut self, condition: &str, past: bool) -> Result<Answer<u64>> {
        let mut session = self.session(past)?;
        let name = self.table.sql_name();
        let query = format!("SELECT {} FROM ONLY {name} WHERE {condition}", self.columns);
        let env = self.env;
        let sink = match past {
            false => &mut self.certain,
            true => match &mut self.uncertain {
                Some(sink) => sink,
                none => {
                    let file = self.report.file.replace(".copy", ".uncertain.copy");
                    let sink = Sink::new(self.folder.join(&file))?;
                    self.report.uncertain_file = Some(file);
                    none.insert(sink)
                }
            },
        };
        let begin = sink.position()?;
        let (mut rows, mut own) = (0_u64, None);
        let copied = session.copy_out(&query, &mut |row| {
            rows += 1;
            let looked = if rows.is_multiple_of(ROWS_PER_LOOK) { env.proceed() } else { Ok(()) };
            looked.and_then(|()| sink.push(row)).map_err(|error| {
                let again = error.again();
                own = Some(error);
                again
            })
        });
        match (copied, own) {
            (_, Some(error)) => Err(error),
            (Ok(()), None) => {
                self.session = Some((session, past));
                Ok(Ok(rows))
            }
            (Err(error), None) => {
                sink.take_back(begin)?;
                Ok(Err(error.to_string()))
            }
        }
    }

    fn session(&mut self, past: bool) -> Result<Session> {
        if let Some((session, _)) = self.session.take_if(|(_, is_past)| *is_past == past) {
            return Ok(session);
        }
        let mut session = reopened(self.env, self.client, "cannot read a damaged table")?;
        session.execute(
            "SET row_security = off; SET extra_float_digits = 3; SET bytea_output = hex; \
             SET IntervalStyle = postgres; SET enable_indexscan = off; SET enable_bitmapscan = off; \
             SET enable_indexonlyscan = off; SET max_parallel_workers_per_gather = 0; \
             SET synchronize_seqscans = off; SET default_transaction_read_only = on",
        )?;
        if past {
            session.execute("SET ignore_checksum_failure = on")?;
        }
        Ok(session)
    }
}

/// A session, as soon as the server has one to give.
pub(super) fn reopened(env: &Env, client: &Client, what: &str) -> Result<Session> {
    let begun_ms = env.clock.monotonic_ms();
    loop {
        match Session::open(client, what) {
            Ok(session) => return Ok(session),
            Err(error) if env.elapsed_ms(begun_ms) > RESTART_TIMEOUT_MS => return Err(error),
            // It is in recovery after a crash of one of its processes.
            Err(error) if error.to_string().contains("in recovery mode") => {}
            Err(error) if error.to_string().contains("starting up") => {}
            Err(error) => return Err(error),
        }
        env.pause_ms(RESTART_LOOK_MS)?;
    }
}

impl Sink {
    fn new(path: PathBuf) -> Result<Sink> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|error| writing(&path, error))?;
        Ok(Sink { path, file: BufWriter::with_capacity(BUFFER_BYTES, file) })
    }

    fn push(&mut self, row: &[u8]) -> Result<()> {
        let written = self.file.write_all(row).and_then(|()| self.file.write_all(b"\n"));
        written.map_err(|error| writing(&self.path, error))
    }

    fn position(&mut self) -> Result<u64> {
        self.file.stream_position().map_err(|error| writing(&self.path, error))
    }

    fn take_back(&mut self, to: u64) -> Result<()> {
        let back = self.file.flush().and_then(|()| {
            self.file.get_ref().set_len(to)?;
            self.file.seek(std::io::SeekFrom::Start(to))
        });
        back.map(drop).map_err(|error| writing(&self.path, error))
    }

    fn finish(&mut self) -> Result<()> {
        let finished = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        finished.map_err(|error| writing(&self.path, error))
    }
}
