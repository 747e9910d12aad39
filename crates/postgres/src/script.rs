//! Reads a dump as SQL text while it goes by: rows per table, whether it is whole, and what is in
//! it that no dump holds.
//!
//! A dump of `pg_dump` begins and ends with a comment of its own, and each `COPY ... FROM stdin;`
//! ends with `\.` on a line of its own. Lines of `pg_dump`'s messages among the statements come
//! from scripts that wrote standard error into the same file: they are counted, and
//! [`ScriptReader::is_noise`] tells a cleaner which to leave out. Commands of psql (`\!`, `\i`) are
//! in no dump: one that has them is hostile, but for `\restrict` and `\unrestrict`, and `\connect`
//! of a whole cluster's.

use std::collections::BTreeMap;

use lifeboat_core::{Error, Kind, Result};

/// What begins and ends a dump.
const BEGINS: &[&str] = &["-- PostgreSQL database dump", "-- PostgreSQL database cluster dump"];
const ENDS: &[&str] =
    &["-- PostgreSQL database dump complete", "-- PostgreSQL database cluster dump complete"];
/// A line's beginning is kept up to here: longer ones are rows or long statements.
const LINE_BYTES_KEPT: usize = 4096;

/// What a script held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// Rows per table, as the COPY statements name them, without quotes where none are needed.
    pub rows: BTreeMap<String, u64>,
    /// Lines of messages that do not belong there.
    pub noise_lines: u64,
    /// Commands of psql that no dump holds, the first few.
    pub commands: Vec<String>,
    /// Whether it ends as a dump does.
    pub is_complete: bool,
    /// Lines `-- Dumped from database version ...`.
    pub server_version: Option<String>,
}

/// Reads a script in pieces of any size. [`ScriptReader::finish`] says whether it was whole.
#[derive(Debug, Default)]
pub struct ScriptReader {
    line: Vec<u8>,
    line_is_long: bool,
    begun: bool,
    copying: Option<Copying>,
    /// The quote that is open: `'`, `$$`, `$body$`.
    quote: Option<String>,
    script: Script,
    bytes: u64,
}

/// The rows that are being read.
#[derive(Debug)]
struct Copying {
    table: String,
    columns: usize,
    /// Whether no row of it was read.
    is_new: bool,
}

impl ScriptReader {
    /// A reader at the beginning of a script.
    pub fn new() -> Self {
        ScriptReader::default()
    }

    /// Takes the next bytes.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.keep(&bytes[..end]);
            bytes = &bytes[end + 1..];
            self.end_line()?;
        }
        self.keep(bytes);
        Ok(())
    }

    /// Says whether all of it came. Commands that no dump holds are for the caller to judge.
    pub fn finish(mut self) -> Result<Script> {
        if !self.line.is_empty() {
            self.end_line()?;
        }
        let damaged = |why: String| Error::new(Kind::CheckFailed, why);
        match (self.bytes, self.begun, &self.copying) {
            (0, ..) => Err(damaged("the dump is empty (0 bytes)".to_owned())),
            (_, false, _) => Err(damaged("the text does not begin as a dump does".to_owned())),
            (_, _, Some(Copying { table, .. })) => {
                Err(damaged(format!("the dump ends within the rows of {table}")))
            }
            _ if !self.script.is_complete => {
                Err(damaged("the dump is cut short: it lacks its end".to_owned()))
            }
            _ => Ok(self.script),
        }
    }

    /// Whether the next line, this one, is a message of the dumper that a script wrote into the
    /// dump. Among rows one is known by having too few columns; of a table with one column only
    /// the message that comes before its first row is taken for one.
    pub fn is_noise(&self, line: &[u8]) -> bool {
        let begins = ["pg_dump: ", "pg_dumpall: "];
        if self.quote.is_some() || !begins.iter().any(|begin| line.starts_with(begin.as_bytes())) {
            return false;
        }
        match &self.copying {
            None => true,
            Some(Copying { columns, is_new, .. }) => {
                let announces = *is_new && line.starts_with(b"pg_dump: dumping contents of table ");
                let tabs = line.iter().filter(|byte| **byte == b'\t').count();
                announces || (*columns > 1 && tabs + 1 != *columns)
            }
        }
    }

    /// Whether a line is the first that a dump says of itself.
    pub fn begins_a_dump(line: &[u8]) -> bool {
        BEGINS.iter().any(|begin| begin.as_bytes() == line)
    }

    /// Whether the next line is neither a row nor inside of a quoted text.
    pub fn is_outside(&self) -> bool {
        self.copying.is_none() && self.quote.is_none()
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES_KEPT.saturating_sub(self.line.len());
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.line_is_long |= bytes.len() > room;
    }

    fn end_line(&mut self) -> Result<()> {
        let line = std::mem::take(&mut self.line);
        let is_long = std::mem::take(&mut self.line_is_long);
        if self.is_noise(&line) {
            self.script.noise_lines += 1;
        } else if let Some(Copying { table, is_new, .. }) = &mut self.copying {
            *is_new = false;
            match line == b"\\." || line == b"\\.\r" {
                true => self.copying = None,
                // Tables have long names and many rows: no new text for each.
                false => match self.script.rows.get_mut(table) {
                    Some(rows) => *rows += 1,
                    None => drop(self.script.rows.insert(table.clone(), 1)),
                },
            }
        } else {
            self.statement(&String::from_utf8_lossy(&line), is_long);
        }
        // The buffer is used again: a dump has as many lines as rows.
        self.line = line;
        self.line.clear();
        Ok(())
    }

    fn statement(&mut self, line: &str, is_long: bool) {
        let line = line.trim_end_matches('\r');
        if self.quote.is_none() {
            self.begun |= BEGINS.contains(&line);
            if ENDS.contains(&line) {
                self.script.is_complete = true;
            } else if let Some(version) = line.strip_prefix("-- Dumped from database version ") {
                self.script.server_version = Some(version.to_owned());
            } else if !line.trim().is_empty() && !line.starts_with("--") && !line.starts_with('\\')
            {
                // A statement behind the end: another database's dump, or something else.
                self.script.is_complete = false;
            }
            if let Some(copying) = copied(line).filter(|_| !is_long) {
                self.script.rows.entry(copying.table.clone()).or_default();
                self.copying = Some(copying);
                return;
            }
            let command = line.trim_start();
            let harmless = ["\\restrict ", "\\unrestrict ", "\\connect "];
            if command.starts_with('\\') && !harmless.iter().any(|known| command.starts_with(known))
            {
                if self.script.commands.len() < 8 {
                    self.script.commands.push(command.chars().take(60).collect());
                }
                return;
            }
        }
        self.follow_quotes(line);
    }

    /// A quoted text may hold anything, also lines that look like ours.
    fn follow_quotes(&mut self, line: &str) {
        let mut rest = line;
        loop {
            match &self.quote {
                Some(quote) => match rest.find(quote.as_str()) {
                    // A doubled quote closes and opens: that comes to the same.
                    Some(at) => {
                        rest = &rest[at + quote.len()..];
                        self.quote = None;
                    }
                    None => return,
                },
                None => match opened(rest) {
                    Some((quote, after)) => {
                        self.quote = Some(quote.to_owned());
                        rest = after;
                    }
                    None => return,
                },
            }
        }
    }
}

/// The table of `COPY public.message (id, text) FROM stdin;`.
fn copied(line: &str) -> Option<Copying> {
    let rest = line.strip_prefix("COPY ")?.trim_end().strip_suffix(" FROM stdin;")?;
    let mut quoted = false;
    let end = rest.find(|letter| {
        quoted ^= letter == '"';
        letter == ' ' && !quoted
    });
    let (table, columns) = rest.split_at(end.unwrap_or(rest.len()));
    let mut quoted = false;
    let commas = columns.chars().filter(|letter| {
        quoted ^= *letter == '"';
        *letter == ',' && !quoted
    });
    let columns = if columns.trim() == "()" { 0 } else { commas.count() + 1 };
    Some(Copying { table: unquoted(table), columns, is_new: true })
}

/// The table that a statement takes rows for, as manifests name it.
pub(crate) fn copied_table(statement: &str) -> Option<String> {
    copied(statement).map(|copying| copying.table)
}

/// `public."Message"` as `public.Message`: how manifests name tables.
fn unquoted(name: &str) -> String {
    let mut plain = String::new();
    let mut letters = name.chars().peekable();
    let mut quoted = false;
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                plain.push('"');
                letters.next();
            }
            '"' => quoted = !quoted,
            letter => plain.push(letter),
        }
    }
    plain
}

/// The first quote that a line opens (`'`, `"`, `$$`, `$body$`), and what is behind it. A comment
/// opens none.
fn opened(line: &str) -> Option<(&str, &str)> {
    let bytes = line.as_bytes();
    let mut index = 0;
    while index < bytes.len() {
        match bytes[index] {
            b'\'' | b'"' => return Some((&line[index..=index], &line[index + 1..])),
            b'-' if bytes.get(index + 1) == Some(&b'-') => return None,
            b'$' => {
                let is_tag = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'_';
                let tag = bytes[index + 1..].iter().take_while(is_tag).count();
                if bytes.get(index + 1 + tag) == Some(&b'$') {
                    let end = index + tag + 2;
                    return Some((&line[index..end], &line[end..]));
                }
                index += tag;
            }
            _ => {}
        }
        index += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "--\n-- PostgreSQL database dump\n--\n\n\\restrict abc\n\
        -- Dumped from database version 15.18\n\nSET x = 0;\n\
        CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $body$\n\\! not a command\n\
        COPY y FROM stdin;\npg_dump: text\n$body$;\n\
        COMMENT ON TABLE x IS 'it''s\n\\! of two lines';\nCREATE TABLE \"it's\" ();\n\
        COPY public.\"My \"\"Table\" (id, t) FROM stdin;\n1\ta\n2\tpg_dump: b\n3\t\\\\.\n\\.\n\n\
        COPY public.empty (id) FROM stdin;\n\\.\n\n\
        \\unrestrict abc\n--\n-- PostgreSQL database dump complete\n--\n\n";

    fn read(text: &str, step: usize) -> Result<Script> {
        let mut reader = ScriptReader::new();
        text.as_bytes().chunks(step).try_for_each(|piece| reader.push(piece))?;
        reader.finish()
    }

    #[test]
    fn rows_are_counted_whatever_the_pieces() {
        for step in [1, 7, 64, 4096] {
            let script = read(DUMP, step).unwrap();
            assert_eq!(script.rows.get("public.My \"Table"), Some(&3));
            assert_eq!(script.noise_lines, 0);
            assert_eq!(script.commands, Vec::<String>::new());
            assert_eq!(script.server_version.as_deref(), Some("15.18"));
        }
    }

    #[test]
    fn a_cut_at_any_line_is_seen() {
        let end = DUMP.find("-- PostgreSQL database dump complete").unwrap();
        for (at, _) in DUMP.match_indices('\n').filter(|(at, _)| *at < end) {
            let error = read(&DUMP[..at], 100).unwrap_err();
            assert_eq!(error.kind(), Kind::CheckFailed, "cut at {at}");
        }
        assert!(read("", 1).unwrap_err().message().contains("0 bytes"));
        assert!(read("pg_dump: error: no\n", 1).unwrap_err().message().contains("begin"));
    }

    #[test]
    fn messages_and_commands_among_the_statements_are_told() {
        let polluted = DUMP.replace("SET x", "pg_dump: reading tables\nSET x");
        assert_eq!(read(&polluted, 9).unwrap().noise_lines, 1);
        let among_rows = DUMP.replace("2\tpg_dump: b", "pg_dump: dumping \"x\"\npg_dump: \tb");
        let script = read(&among_rows, 9).unwrap();
        assert_eq!((script.noise_lines, script.rows["public.My \"Table"]), (1, 3));
        let hostile = DUMP.replace("SET x = 0;", "\\! touch /tmp/x");
        assert_eq!(read(&hostile, 9).unwrap().commands, ["\\! touch /tmp/x"]);
    }
}
