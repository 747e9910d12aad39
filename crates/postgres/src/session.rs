//! A session with a server: questions in SQL, answers as JSON.
//!
//! `psql` is the other side of two pipes. Each question is followed by an `\echo` of a mark that no
//! answer can hold, so that we know where an answer ends. The first error ends the session
//! (`ON_ERROR_STOP`), and its words are those of the server.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Stdio};

use lifeboat_core::{Error, Kind, Result};
use serde_json::{Map, Value};

use crate::child::Running;
use crate::client::Client;

/// One row of an answer: columns by name.
pub(crate) type Row = Map<String, Value>;

/// An answer larger than this is refused.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// A session. Its open transaction is rolled back when it is dropped.
pub struct Session {
    running: Option<Running>,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    questions: u64,
}

/// What the words of a failed connection leave open: which file was compared with, where a password
/// is looked for.
fn explained(error: Error, client: &Client) -> Error {
    let words = error.message();
    let authority = client.address().get("sslrootcert");
    if let Some(file) = authority.filter(|_| words.contains("certificate verify failed")) {
        let hint = format!("{file} is not of the authority that signed the server's certificate");
        return Error::new(error.kind(), words.to_owned()).hint(hint);
    }
    if !client.is_local() && words.contains("no password supplied") {
        return Error::new(error.kind(), words.to_owned()).hint(
            "a password of ours does not go along with `command`: it must be where the programs \
             run, in ~/.pgpass there or by that command (docker exec -e PGPASSFILE=...)",
        );
    }
    error
}

impl Session {
    /// Connects. `what` says what for, in errors: "cannot read the database `chat`".
    pub fn open(client: &Client, what: &str) -> Result<Self> {
        let program = client.program("psql", None)?;
        let mut command = client.command(&program);
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]).stdin(Stdio::piped());
        let mut running = Running::start(command, what)?;
        let pipes = running.stdin().zip(running.stdout());
        let (stdin, stdout) = pipes.ok_or_else(|| Error::new(Kind::Failed, "psql has no pipes"))?;
        let stdout = BufReader::with_capacity(64 << 10, stdout);
        let mut session = Session { running: Some(running), stdin, stdout, questions: 0 };
        // Settings of the role or the database must not change what we read.
        let first = session.execute(
            "SET statement_timeout = 0; SET lock_timeout = 0; SET search_path = ''; \
             SET standard_conforming_strings = on; SET client_min_messages = warning; \
             SET DateStyle = ISO; SET TimeZone = UTC; SET client_encoding = UTF8",
        );
        first.map_err(|error| explained(error, client))?;
        Ok(session)
    }

    /// The databases of the server that are worth a backup: no templates, and none that a restore
    /// or an undo of ours left.
    pub fn databases(&mut self) -> Result<Vec<String>> {
        let rows = self.rows(
            "SELECT datname FROM pg_catalog.pg_database \
             WHERE datallowconn AND NOT datistemplate AND datname !~ \
             '_(before_restore|before_undo|restore)_[0-9]{8}_[0-9]{6}$' ORDER BY datname",
        )?;
        let name = |row: &Row| row.get("datname")?.as_str().map(str::to_owned);
        Ok(rows.iter().filter_map(name).collect())
    }

    /// The value of a setting of the server.
    pub fn setting(&mut self, name: &str) -> Result<String> {
        self.setting_or_none(name)?
            .ok_or_else(|| Error::new(Kind::Failed, format!("the server knows no setting {name}")))
    }

    /// The same; `None` where the server's version knows no such setting.
    pub fn setting_or_none(&mut self, name: &str) -> Result<Option<String>> {
        let name = crate::quote::literal(name);
        let row = self.row(&format!("SELECT pg_catalog.current_setting({name}, true) AS value"))?;
        Ok(row.get("value").and_then(Value::as_str).map(str::to_owned))
    }

    /// Runs statements whose answers nobody needs.
    pub fn execute(&mut self, statements: &str) -> Result<()> {
        self.ask(statements).map(drop)
    }

    /// Feeds a script, rows of `COPY ... FROM stdin` among it, within a guard that lets no command
    /// of psql through. What it answers is left out.
    pub(crate) fn feed(
        &mut self,
        key: &str,
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        let begun = writeln!(self.stdin, "\\o /dev/null\n\\restrict {key}");
        let written = match begun {
            Ok(()) => write(&mut self.stdin),
            Err(error) => Err(Error::io(Kind::Failed, "psql takes nothing", error)),
        };
        let ended = writeln!(self.stdin, "\n\\unrestrict {key}\n\\o");
        match (written, ended) {
            // Whoever ended too soon says why.
            (_, Err(_)) => Err(self.ended()),
            (Err(error), Ok(())) => Err(error),
            (Ok(()), Ok(())) => self.execute("SELECT 1"),
        }
    }

    /// The rows of a query.
    pub(crate) fn rows(&mut self, query: &str) -> Result<Vec<Row>> {
        let text = self.ask(&format!(
            "SELECT coalesce(pg_catalog.json_agg(lifeboat_row), '[]') FROM ({query}) AS lifeboat_row"
        ))?;
        serde_json::from_str(&text).map_err(|error| {
            Error::new(Kind::Failed, "psql gave an answer that is not JSON").caused_by(error)
        })
    }

    /// Gives each row of a query as `COPY` writes it, without its end. An error of `take` leaves
    /// the session unusable.
    pub(crate) fn copy_out(
        &mut self,
        query: &str,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        self.questions += 1;
        // COPY writes a backslash before few letters, and this is none of them.
        let mark = format!("\\lifeboat {}", self.questions);
        let sent = writeln!(self.stdin, "COPY ({query}) TO STDOUT\n;\n\\echo '\\{mark}'")
            .and_then(|()| self.stdin.flush());
        if sent.is_err() {
            return Err(self.ended());
        }
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = self.stdout.read_until(b'\n', &mut line);
            let failed = |error| Error::io(Kind::Failed, "cannot read what psql answers", error);
            if read.map_err(failed)? == 0 {
                return Err(self.ended());
            }
            let row = line.strip_suffix(b"\n").unwrap_or(&line);
            if row == mark.as_bytes() {
                return Ok(());
            }
            take(row)?;
        }
    }

    /// Puts rows, as `COPY` writes them, into a table: `schema.table (a, b)`.
    pub(crate) fn copy_in(
        &mut self,
        target: &str,
        give: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        let begun = writeln!(self.stdin, "COPY {target} FROM stdin;");
        let given = match begun {
            Ok(()) => give(&mut |row| {
                let written = self.stdin.write_all(row).and_then(|()| self.stdin.write_all(b"\n"));
                written.map_err(|error| Error::io(Kind::Failed, "psql takes no more rows", error))
            }),
            Err(error) => Err(Error::io(Kind::Failed, "psql takes no rows", error)),
        };
        if let Err(error) = given {
            // Within the rows nothing else can be said to it.
            return Err(match error.message().starts_with("psql takes no") {
                true => self.ended(),
                false => error,
            });
        }
        match writeln!(self.stdin, "\\.") {
            Ok(()) => self.execute("SELECT 1 WHERE false"),
            Err(_) => Err(self.ended()),
        }
    }

    /// Runs a statement that changes rows, and gives their number.
    pub(crate) fn changed(&mut self, statement: &str) -> Result<u64> {
        let answer = self.ask(&format!("{statement}\n;\n\\echo :ROW_COUNT"))?;
        answer.trim().parse().map_err(|error| {
            Error::new(Kind::Failed, "psql does not say how many rows were changed")
                .caused_by(error)
        })
    }

    /// The only row of a query.
    pub fn row(&mut self, query: &str) -> Result<Row> {
        let mut rows = self.rows(query)?;
        match (rows.pop(), rows.is_empty()) {
            (Some(row), true) => Ok(row),
            _ => Err(Error::new(Kind::Failed, "the server gave no row, or several")),
        }
    }

    /// Sends statements, and reads what comes until the mark.
    fn ask(&mut self, statements: &str) -> Result<String> {
        self.questions += 1;
        let mark = format!("\u{1}lifeboat {}\u{1}", self.questions);
        let sent = writeln!(self.stdin, "{statements}\n;\n\\echo '{mark}'")
            .and_then(|()| self.stdin.flush());
        if sent.is_err() {
            return Err(self.ended());
        }
        let mut answer = Vec::new();
        loop {
            let begin = answer.len();
            let read = self
                .stdout
                .read_until(b'\n', &mut answer)
                .map_err(|error| Error::io(Kind::Failed, "cannot read what psql answers", error))?;
            if read == 0 {
                return Err(self.ended());
            }
            if answer[begin..].trim_ascii_end() == mark.as_bytes() {
                answer.truncate(begin);
                break;
            }
            if answer.len() > ANSWER_BYTES_MAX {
                return Err(Error::new(Kind::Failed, "the server's answer is too long"));
            }
        }
        String::from_utf8(answer).map_err(|error| {
            Error::new(Kind::Failed, "psql's answer is not UTF-8").caused_by(error)
        })
    }

    /// Why it ended before its time.
    fn ended(&mut self) -> Error {
        let otherwise = Error::new(Kind::Failed, "psql ended without an error");
        match self.running.take() {
            Some(running) => running.blame(otherwise),
            None => Error::new(Kind::Failed, "the session has ended"),
        }
    }
}
