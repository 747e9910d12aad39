//! Files of dumps that scripts made: read line by line whatever a line's length, and rid of the
//! messages that do not belong there.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use lifeboat_core::{Error, Kind, Result};

use crate::script::ScriptReader;

/// Lines up to this size are seen as a whole; longer ones, which only rows can be, in pieces.
const LINE_BYTES: usize = 1 << 20;

/// Rewrites a script in place without the messages. Gives their number.
pub(crate) fn remove_messages(file: &File) -> Result<u64> {
    let failed = |error| Error::io(Kind::Failed, "cannot leave the messages of pg_dump out", error);
    let mut lines = Lines::of(At { file, offset: 0 });
    let (mut reader, mut written, mut seen, mut removed) = (ScriptReader::new(), 0, 0, 0);
    while let Some(piece) = lines.next().map_err(failed)? {
        let bytes = piece.bytes.len() as u64;
        let is_message = piece.is_first && reader.is_noise(piece.bytes);
        reader.push(piece.bytes)?;
        if is_message {
            removed += 1;
        } else {
            // What is read is never behind what is written.
            if written != seen {
                file.write_all_at(piece.bytes, written).map_err(failed)?;
            }
            written += bytes;
        }
        seen += bytes;
    }
    file.set_len(written).map_err(failed)?;
    Ok(removed)
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const HEAD: &str = "--\n-- PostgreSQL database dump\n--\n\n\
                        -- Dumped from database version 15.18\nSET client_encoding = 'UTF8';\n";
    const ROWS: &str = "COPY public.person (id, name) FROM stdin;\n1\tann\npg_dump: bob\t2\n\\.\n";
    const TAIL: &str = "\n--\n-- PostgreSQL database dump complete\n--\n\n";

    #[test]
    fn messages_go_and_rows_that_look_like_them_stay() {
        let long = format!("COPY public.blob (b) FROM stdin;\n{}\n\\.\n", "x".repeat(3 << 20));
        // Rows of one column that begin like messages, also like the one that announces them.
        let one = "COPY public.one (a) FROM stdin;\npg_dump: x\n\
                   pg_dump: dumping contents of table \"public.one\"\n\\.\n";
        let messages = "pg_dump: last built-in OID is 16383\npg_dump: creating TABLE\n";
        let announced = |rows: &str| {
            rows.replace("stdin;\n", "stdin;\npg_dump: dumping contents of table \"public.x\"\n")
        };
        let clean = format!("{HEAD}{ROWS}{long}{one}{TAIL}");
        let polluted = format!(
            "{messages}{HEAD}{messages}{}{messages}{}{}{TAIL}{messages}",
            announced(ROWS),
            announced(&long),
            announced(one)
        );
        for (text, removed) in [(&polluted, 11), (&clean, 0)] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            assert_eq!(remove_messages(file.as_file()).unwrap(), removed);
            assert_eq!(std::fs::read_to_string(file.path()).unwrap(), clean);
            let mut reader = ScriptReader::new();
            reader.push(clean.as_bytes()).unwrap();
            let rows: Vec<u64> = reader.finish().unwrap().rows.into_values().collect();
            assert_eq!(rows, [1, 2, 2]);
        }
    }
}
