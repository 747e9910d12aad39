//! Dumps of PostgreSQL that other programs made and that were adopted: whether they are whole, and
//! how they come back.
//!
//! A dump says that it is whole by its last lines only, so it is read to its end. Scripts that send
//! the messages of `pg_dump` where the dump goes leave them between its statements, and before the
//! first row of each table; each such line breaks a restore, so they are left out of what is
//! restored. A row may begin like a message: it stays, as it has as many columns as its table.
//! There is no server in here: a dump comes back as a file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use lifeboat_core::adopt::Content;
use lifeboat_core::env::Env;
use lifeboat_core::manifest::{CheckLevel, CheckOutcome};
use lifeboat_core::source::{CheckReport, Engine, FileDescription, Holder};
use lifeboat_core::{Error, Kind, Result};

/// The engine of stored dumps.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StoredDumpEngine;

/// Lines up to this size are seen as a whole; longer ones, which only rows can be, in pieces.
const LINE_BYTES: usize = 1 << 20;
const HEADERS: [&[u8]; 2] =
    [b"-- PostgreSQL database dump", b"-- PostgreSQL database cluster dump"];
const ENDS: [&[u8]; 2] =
    [b"-- PostgreSQL database dump complete", b"-- PostgreSQL database cluster dump complete"];
const INSTEAD: &str = "write it to a file with --to FILE.sql, then load that into a new database: \
                       psql -X -v ON_ERROR_STOP=1 -1 -d NEW -f FILE.sql";

impl Engine for StoredDumpEngine {
    fn kind(&self) -> &'static str {
        Content::Dump.kind()
    }

    fn recognizes(&self, first_bytes: &[u8]) -> bool {
        let lines = first_bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
        let mut told = lines.filter(|line| !line.is_empty() && *line != b"--" && !is_message(line));
        told.next().is_some_and(|line| HEADERS.contains(&line))
    }

    fn check_file(
        &self,
        env: &Env,
        path: &Path,
        level: CheckLevel,
        _memory_bytes: u64,
    ) -> Result<CheckReport> {
        let begun_ms = env.clock.monotonic_ms();
        let found = read(path)?;
        let damage: Vec<String> = found.damage().into_iter().collect();
        Ok(CheckReport {
            level,
            outcome: match damage.is_empty() {
                true => CheckOutcome::Passed,
                false => CheckOutcome::Failed,
            },
            what: vec!["dump_end".into()],
            damage,
            notes: Vec::new(),
            rows: found.rows,
            elapsed_ms: env.elapsed_ms(begun_ms),
        })
    }

    fn describe_file(&self, path: &Path) -> Result<FileDescription> {
        let found = read(path)?;
        let mut description = FileDescription { rows: found.rows, ..FileDescription::default() };
        for (fact, value) in found.versions {
            description.facts.insert(fact.into(), value.into());
        }
        if found.messages > 0 {
            description.facts.insert("messages_of_pg_dump".into(), found.messages.into());
            description.notes.push(format!(
                "{} messages of pg_dump are in it, which break it; a restore leaves them out",
                found.messages
            ));
        }
        Ok(description)
    }

    fn instead_of_in_place(&self) -> Option<&'static str> {
        Some(INSTEAD)
    }

    fn mend_restored(&self, file: &mut File) -> Result<Vec<String>> {
        let removed = remove_messages(file).map_err(|error| {
            Error::io(Kind::Failed, "cannot leave the messages of pg_dump out", error)
        })?;
        Ok(match removed {
            0 => Vec::new(),
            count => vec![format!("{count} messages of pg_dump in the dump were left out")],
        })
    }

    fn side_files(&self, _path: &Path) -> Vec<PathBuf> {
        Vec::new()
    }

    fn holders(&self, _path: &Path) -> Result<Vec<Holder>> {
        Ok(Vec::new())
    }
}

fn is_message(line: &[u8]) -> bool {
    line.starts_with(b"pg_dump: ") || line.starts_with(b"pg_dumpall: ")
}

fn read(path: &Path) -> Result<Dump> {
    let failed = |error| {
        Error::io(Kind::Failed, format!("cannot read {} to check it", path.display()), error)
    };
    let mut lines = Lines::of(File::open(path).map_err(failed)?);
    let mut dump = Dump::default();
    while let Some(piece) = lines.next().map_err(failed)? {
        dump.take(&piece);
    }
    Ok(dump)
}

/// Rewrites the file in place without the messages. Gives their number.
fn remove_messages(file: &File) -> io::Result<u64> {
    let mut lines = Lines::of(At { file, offset: 0 });
    let (mut dump, mut written, mut seen) = (Dump::default(), 0, 0);
    while let Some(piece) = lines.next()? {
        let bytes = piece.bytes.len() as u64;
        let is_kept = !dump.take(&piece);
        if is_kept {
            // What is read is never behind what is written.
            if written != seen {
                file.write_all_at(piece.bytes, written)?;
            }
            written += bytes;
        }
        seen += bytes;
    }
    file.set_len(written)?;
    Ok(dump.messages)
}

/// Reads a file from an offset of its own.
struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read_at(buffer, self.offset)?;
        self.offset += got as u64;
        Ok(got)
    }
}

/// A line with its end, or a part of one that is longer than [`LINE_BYTES`].
struct Piece<'a> {
    bytes: &'a [u8],
    is_first: bool,
}

struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    used: usize,
    filled: usize,
    at_start: bool,
}

impl<R: Read> Lines<R> {
    fn of(reader: R) -> Self {
        Lines { reader, buffer: vec![0; LINE_BYTES], used: 0, filled: 0, at_start: true }
    }

    fn next(&mut self) -> io::Result<Option<Piece<'_>>> {
        let mut searched = 0;
        loop {
            let unused = &self.buffer[self.used..self.filled];
            let end = unused[searched..].iter().position(|byte| *byte == b'\n');
            let is_full = unused.len() == self.buffer.len();
            let length = match end {
                Some(end) => searched + end + 1,
                None if is_full => unused.len(),
                None => {
                    searched = unused.len();
                    if self.more()? {
                        continue;
                    }
                    searched
                }
            };
            if length == 0 {
                return Ok(None);
            }
            let (start, is_first) = (self.used, self.at_start);
            self.used += length;
            self.at_start = end.is_some();
            return Ok(Some(Piece { bytes: &self.buffer[start..self.used], is_first }));
        }
    }

    fn more(&mut self) -> io::Result<bool> {
        if self.used > 0 {
            self.buffer.copy_within(self.used..self.filled, 0);
            self.filled -= self.used;
            self.used = 0;
        }
        loop {
            match self.reader.read(&mut self.buffer[self.filled..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                got => {
                    let got = got?;
                    self.filled += got;
                    return Ok(got > 0);
                }
            }
        }
    }
}

/// What a dump says while it is read.
#[derive(Default)]
struct Dump {
    /// Which of [`ENDS`] must come.
    end: Option<usize>,
    is_ended: bool,
    /// The table whose rows are being read.
    table: Option<Copied>,
    rows: Option<BTreeMap<String, u64>>,
    has_inserts: bool,
    versions: BTreeMap<&'static str, String>,
    messages: u64,
}

/// A table whose rows are being read.
struct Copied {
    name: String,
    columns: usize,
    /// Whether no line of it was read.
    is_new: bool,
}

impl Copied {
    /// The table of `COPY public.person (id, name) FROM stdin;`.
    fn of(line: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?;
        let rest = line.strip_prefix("COPY ")?.strip_suffix(" FROM stdin;")?;
        let (name, columns) = rest.split_once(" (").unwrap_or((rest, ""));
        // A name in quotes may hold a comma; its own quotes are doubled.
        let outside = columns.split('"').step_by(2);
        let commas: usize = outside.map(|part| part.matches(',').count()).sum();
        Some(Copied { name: name.to_owned(), columns: commas + 1, is_new: true })
    }

    /// Whether a line among its rows is a message: it has not as many columns. Of a table of one
    /// column only the message that comes before the first row is taken for one.
    fn is_message(&self, line: &[u8]) -> bool {
        let tabs = line.iter().filter(|byte| **byte == b'\t').count();
        let announces = self.is_new && line.starts_with(b"pg_dump: dumping contents of table ");
        is_message(line) && (tabs + 1 != self.columns || announces)
    }
}

impl Dump {
    /// Takes note of a line; `true` for a message of pg_dump, which does not belong to the dump.
    fn take(&mut self, piece: &Piece<'_>) -> bool {
        if !piece.is_first {
            return false;
        }
        let line = piece.bytes.trim_ascii_end();
        let is_message = match &self.table {
            Some(table) => table.is_message(line),
            None => is_message(line),
        };
        if is_message {
            self.messages += 1;
            return true;
        }
        match &mut self.table {
            Some(_) if line == b"\\." => self.table = None,
            Some(table) => {
                table.is_new = false;
                if let Some(rows) = self.rows.as_mut().and_then(|rows| rows.get_mut(&table.name)) {
                    *rows += 1;
                }
            }
            None => self.statement(line),
        }
        false
    }

    fn statement(&mut self, line: &[u8]) {
        if self.end.is_none() {
            self.end = HEADERS.iter().position(|header| *header == line);
        }
        if self.end.is_some_and(|end| line == ENDS[end]) {
            self.is_ended = true;
            return;
        }
        let is_remark =
            line.is_empty() || line.starts_with(b"--") || line.starts_with(b"\\unrestrict");
        self.is_ended &= is_remark;
        for (begin, fact) in [
            (&b"-- Dumped from database version "[..], "server_version"),
            (b"-- Dumped by pg_dump version ", "pg_dump_version"),
        ] {
            if let Some(version) = line.strip_prefix(begin) {
                self.versions.insert(fact, String::from_utf8_lossy(version).into_owned());
            }
        }
        if line.starts_with(b"INSERT INTO ") {
            self.has_inserts = true;
            self.rows = None;
        }
        if let Some(table) = Copied::of(line) {
            if !self.has_inserts {
                self.rows.get_or_insert_default().entry(table.name.clone()).or_default();
            }
            self.table = Some(table);
        }
    }

    /// Why it is not whole.
    fn damage(&self) -> Option<String> {
        match (&self.table, self.end, self.is_ended) {
            (Some(table), ..) => Some(format!("the dump ends within the rows of {}", table.name)),
            (None, None, _) => Some("it does not begin as a dump of PostgreSQL".into()),
            (None, Some(_), false) => Some(
                "the dump is cut short: its last line, which says that it is complete, is \
                      missing"
                    .into(),
            ),
            (None, Some(_), true) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const HEAD: &str = "--\n-- PostgreSQL database dump\n--\n\n\
                        -- Dumped from database version 15.18\nSET client_encoding = 'UTF8';\n";
    const ROWS: &str = "COPY public.person (id, name) FROM stdin;\n1\tann\npg_dump: bob\t2\n\\.\n";
    const TAIL: &str = "\n--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict x\n";

    fn dump(text: &str) -> (tempfile::NamedTempFile, Dump) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let dump = read(file.path()).unwrap();
        (file, dump)
    }

    #[test]
    fn only_a_dump_with_its_end_is_whole() {
        let (_, whole) = dump(&format!("{HEAD}{ROWS}{TAIL}"));
        assert_eq!(whole.damage(), None);
        assert_eq!(whole.rows.unwrap()["public.person"], 2);
        assert_eq!(whole.versions["server_version"], "15.18");
        for (text, why) in [
            (format!("{HEAD}{ROWS}"), "cut short"),
            (format!("{HEAD}COPY public.person (id) FROM stdin;\n1\n"), "rows of public.person"),
            (format!("{HEAD}COPY public.person (id) FROM stdin;\n1\n{TAIL}"), "rows of"),
            (format!("{HEAD}{TAIL}SELECT 1;\n"), "cut short"),
            (format!("SELECT 1;\n{TAIL}"), "does not begin"),
            (String::new(), "does not begin"),
        ] {
            let damage = dump(&text).1.damage().unwrap();
            assert!(damage.contains(why), "{damage}");
        }
    }

    #[test]
    fn messages_go_and_rows_that_look_like_them_stay() {
        let clean = format!("{HEAD}{ROWS}{TAIL}");
        let long = format!("COPY public.blob (b) FROM stdin;\n{}\n\\.\n", "x".repeat(3 << 20));
        // Rows of one column that begin like messages, also like the one that announces them.
        let one = "COPY public.one (a) FROM stdin;\npg_dump: x\n\
                   pg_dump: dumping contents of table \"public.one\"\n\\.\n";
        let messages = "pg_dump: last built-in OID is 16383\npg_dump: creating TABLE\n";
        let announced = |rows: &str| {
            rows.replace("stdin;\n", "stdin;\npg_dump: dumping contents of table \"public.x\"\n")
        };
        let polluted = format!(
            "{messages}{HEAD}{messages}{}{messages}{}{}{TAIL}{messages}",
            announced(ROWS),
            announced(&long),
            announced(one)
        );
        let (file, found) = dump(&polluted);
        assert_eq!((found.damage(), found.messages), (None, 11));
        let rows: Vec<u64> = found.rows.unwrap().into_values().collect();
        assert_eq!(rows, [1, 2, 2]);
        assert!(StoredDumpEngine.recognizes(polluted.as_bytes()));
        assert!(!StoredDumpEngine.recognizes(b"pg_dump: error: connection failed\n"));
        let mut file = file.reopen().unwrap();
        let mended = StoredDumpEngine.mend_restored(&mut file).unwrap();
        assert!(mended[0].starts_with("11 messages"), "{mended:?}");
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("{HEAD}{ROWS}{long}{one}{TAIL}"));
        let (file, _) = dump(&clean);
        assert!(StoredDumpEngine.mend_restored(&mut file.reopen().unwrap()).unwrap().is_empty());
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), clean);
    }
}
