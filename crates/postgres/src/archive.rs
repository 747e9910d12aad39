//! Reads a dump in PostgreSQL's custom format (`pg_dump -Fc`) while it goes by.
//!
//! The format is that of `pg_backup_archiver.c` and `pg_backup_custom.c`: a head, a table of
//! contents, then one block of data for each entry that has data. A block is a kind, the entry's
//! number, and pieces with their lengths, up to one of length 0. Nothing marks the end of the file:
//! that it is whole follows from every entry with data having had its block, and from every block
//! of rows ending as the server's COPY does (`\.` on a line of its own).
//!
//! Rows are counted from these very bytes: a row is a line, for COPY writes a line break within a
//! value as `\n`. What is compressed inside is decompressed on the way.

mod frozen;
mod inner;

use std::collections::BTreeMap;

use lifeboat_core::{Error, Kind, Result};

pub(crate) use frozen::{FrozenHead, MadeTables};
use inner::Inner;
pub(crate) use inner::InnerCompression;

/// A table of contents larger than this is not one.
const CONTENTS_BYTES_MAX: usize = 512 << 20;
/// A text or number of entries larger than this is damage.
const LENGTH_MAX: i64 = 256 << 20;
/// What `pg_dump` writes behind the last row of a table.
pub(crate) const END_OF_ROWS: &[u8] = b"\\.\n\n\n";

/// An entry of the table of contents, as far as we need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number in the archive.
    pub id: i64,
    /// Its kind: "TABLE DATA", "EXTENSION", "BLOBS".
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its schema; empty where it has none.
    pub schema: String,
    /// Its owner; empty where it has none.
    pub owner: String,
    /// The statement that makes it.
    pub definition: String,
    /// The statement that takes its rows; empty where it has none.
    pub copy: String,
    /// Whether a block of data follows.
    pub has_data: bool,
    /// Whether its data are the rows of a COPY.
    pub has_rows: bool,
}

impl Entry {
    /// The table whose rows it has, with its schema.
    pub(crate) fn table(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}

/// What an archive says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The format's version: (1, 14).
    pub format: (u8, u8),
    /// The database that was dumped.
    pub database: String,
    /// The server's version, as text.
    pub server_version: String,
    /// The version of `pg_dump`.
    pub dump_version: String,
    /// How the data are compressed.
    pub inner: InnerCompression,
    /// The entries, in the order of the archive.
    pub entries: Vec<Entry>,
}

/// What is heard of an archive while it is read.
pub(crate) enum Piece<'a> {
    /// Head and contents, once and first, as they would be of an archive without compression.
    Head(&'a Head<'a>),
    /// A block of data begins: that of the entry at this place of the contents.
    Block(usize),
    /// Within the block: a large object begins.
    Object(i64),
    /// Data of the block or object, without compression.
    Data(&'a [u8]),
    /// The large object is over.
    ObjectEnd,
    /// The block is over, and ended as it must.
    BlockEnd,
}

/// Head and contents of an archive.
pub(crate) struct Head<'a> {
    /// Their bytes.
    pub(crate) bytes: &'a [u8],
    /// What they say.
    pub(crate) contents: &'a Contents,
    /// How many bytes a number has behind its sign.
    pub(crate) int_bytes: usize,
    /// Where the section of each entry stands, in the order of the entries.
    pub(crate) section_places: &'a [usize],
    /// Where the statement that takes the rows stands, in that order: its length, then its text.
    pub(crate) copy_places: &'a [usize],
}

/// Who hears it.
pub(crate) type Hear<'a> = dyn FnMut(Piece<'_>) -> Result<()> + 'a;

/// Reads an archive in pieces of any size. [`ArchiveReader::finish`] says whether it was whole.
#[derive(Debug, Default)]
pub struct ArchiveReader {
    head: Vec<u8>,
    /// The next attempt to read the head is worth it from this size on.
    head_bytes_wanted: usize,
    contents: Option<Contents>,
    int_bytes: usize,
    /// By entry number: the place in `contents.entries`.
    places: BTreeMap<i64, usize>,
    rows: BTreeMap<String, u64>,
    seen: Vec<bool>,
    state: State,
    block: Block,
    inner: Option<Inner>,
    /// Bytes of a number that is not complete yet.
    partial: Vec<u8>,
    large_objects: u64,
    /// How many bytes were read.
    position: u64,
    /// In the order of `contents.entries`: where the entry says where its data are.
    offset_places: Vec<usize>,
    offset_bytes: usize,
    /// Where the data of each entry begin that came so far: the entry's place, the position.
    data_begins: Vec<(usize, u64)>,
}

/// What the next byte of the data part is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    BlockKind,
    EntryNumber,
    ObjectNumber,
    PieceLength,
    Piece {
        left: u64,
    },
}

/// The block that is being read.
#[derive(Debug, Default)]
struct Block {
    begins_at: u64,
    of_objects: bool,
    place: usize,
    line_breaks: u64,
    tail: Vec<u8>,
}

/// An entry says with this that the offset behind it is where its data are.
const OFFSET_IS_SET: u8 = 2;
pub(crate) const BLOCK_OF_DATA: u8 = 1;
pub(crate) const BLOCK_OF_OBJECTS: u8 = 3;

impl ArchiveReader {
    /// A reader at the beginning of an archive.
    pub fn new() -> Self {
        ArchiveReader { head_bytes_wanted: 64, ..ArchiveReader::default() }
    }

    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.push_to(bytes, &mut |_| Ok(()))
    }

    /// Takes the next bytes. `hear` hears of what is in them.
    pub(crate) fn push_to(&mut self, bytes: &[u8], hear: &mut Hear<'_>) -> Result<()> {
        if self.contents.is_none() {
            self.head.extend_from_slice(bytes);
            if self.head.len() < self.head_bytes_wanted {
                return Ok(());
            }
            return self.begin_data(hear);
        }
        self.push_data(bytes, hear)
    }

    /// Where the data of each entry begin that came so far: the entry's number, and the offset.
    pub(crate) fn data_begins(&self) -> impl Iterator<Item = (i64, u64)> {
        let entries = self.contents.as_ref().map(|contents| &contents.entries[..]);
        let begins = self.data_begins.iter();
        begins.filter_map(move |(place, begins_at)| Some((entries?.get(*place)?.id, *begins_at)))
    }

    /// A reader of single blocks of data of the same archive, at whose beginnings it is given
    /// bytes. Only without compression inside.
    pub(crate) fn of_blocks(&self) -> Self {
        ArchiveReader {
            contents: self.contents.clone(),
            int_bytes: self.int_bytes,
            places: self.places.clone(),
            seen: vec![false; self.seen.len()],
            ..ArchiveReader::new()
        }
    }

    /// How many rows of a table came so far.
    pub(crate) fn rows_of(&self, table: &str) -> u64 {
        self.rows.get(table).copied().unwrap_or(0)
    }

    /// Reads the head, if all of it is there, and what came behind it.
    fn begin_data(&mut self, hear: &mut Hear<'_>) -> Result<()> {
        let Some(used) = self.read_head(hear)? else { return Ok(()) };
        let head = std::mem::take(&mut self.head);
        self.push_data(&head[used..], hear)
    }

    /// Says whether all of it came, and how many rows each table has.
    pub fn finish(self) -> Result<(Contents, BTreeMap<String, u64>)> {
        self.finish_to(&mut |_| Ok(()))
    }

    /// The same; `hear` hears of what was not heard of yet.
    pub(crate) fn finish_to(
        mut self,
        hear: &mut Hear<'_>,
    ) -> Result<(Contents, BTreeMap<String, u64>)> {
        if self.contents.is_none() && !self.head.is_empty() {
            self.begin_data(hear)?;
        }
        let Some(contents) = self.contents else {
            return Err(match self.head.is_empty() {
                true => damaged("the dump is empty (0 bytes)"),
                false => damaged("the dump ends within its table of contents"),
            });
        };
        if self.state != State::BlockKind {
            let entry = contents.entries.get(self.block.place).map(described);
            return Err(damaged(format!(
                "the dump ends within the data of {}",
                entry.unwrap_or_else(|| "an entry".to_owned())
            )));
        }
        let missing = contents.entries.iter().zip(&self.seen);
        if let Some((entry, _)) = missing.clone().find(|(entry, seen)| entry.has_data && !**seen) {
            let count = missing.filter(|(entry, seen)| entry.has_data && !**seen).count();
            return Err(damaged(format!(
                "the dump lacks the data of {count} entries, the first is {}",
                described(entry)
            )));
        }
        Ok((contents, self.rows))
    }

    /// What the table of contents says, once it was read.
    pub fn contents(&self) -> Option<&Contents> {
        self.contents.as_ref()
    }

    /// How many large objects there were so far.
    pub fn large_objects(&self) -> u64 {
        self.large_objects
    }

    /// What a dump that went through a pipe lacks: where the data of each entry are. Places in the
    /// file, and the bytes that belong there. With them `pg_restore` finds the data of a table at
    /// once, and begins with the largest ones.
    pub fn offsets(&self) -> Vec<(u64, Vec<u8>)> {
        self.offsets_moved(|offset| offset)
    }

    /// The same in an archive whose bytes have moved since they were read here.
    pub(crate) fn offsets_moved(&self, to: impl Fn(u64) -> u64) -> Vec<(u64, Vec<u8>)> {
        let of = |(place, begins_at): &(usize, u64)| {
            let mut bytes = vec![OFFSET_IS_SET];
            bytes.extend_from_slice(&to(*begins_at).to_le_bytes()[..self.offset_bytes]);
            Some((to(*self.offset_places.get(*place)? as u64), bytes))
        };
        self.data_begins.iter().filter_map(of).collect()
    }

    /// Reads head and contents, if all of it is there. Gives back how many bytes they take.
    fn read_head(&mut self, hear: &mut Hear<'_>) -> Result<Option<usize>> {
        let mut input = Input::new(&self.head);
        match head(&mut input) {
            Ok(contents) => {
                let (used, int_bytes) = (input.position, input.int_bytes);
                let compression_at = input.compression_at.clone();
                let section_places = std::mem::take(&mut input.section_places);
                let copy_places = std::mem::take(&mut input.copy_places);
                self.int_bytes = int_bytes;
                self.offset_bytes = input.offset_bytes;
                self.position = used as u64;
                self.offset_places = input.offset_places;
                let ids = contents.entries.iter().enumerate();
                self.places = ids.map(|(place, entry)| (entry.id, place)).collect();
                self.seen = vec![false; contents.entries.len()];
                self.inner = Inner::new(contents.inner)?;
                self.head[compression_at].fill(0);
                hear(Piece::Head(&Head {
                    bytes: &self.head[..used],
                    contents: &contents,
                    int_bytes,
                    section_places: &section_places,
                    copy_places: &copy_places,
                }))?;
                self.contents = Some(contents);
                Ok(Some(used))
            }
            Err(Stop::Short) if self.head.len() > CONTENTS_BYTES_MAX => {
                Err(damaged("the table of contents has no end"))
            }
            // Each attempt reads from the beginning: with doubled sizes that stays cheap.
            Err(Stop::Short) => {
                self.head_bytes_wanted = self.head.len() * 2;
                Ok(None)
            }
            Err(Stop::Wrong(why)) => Err(damaged(why)),
        }
    }

    fn push_data(&mut self, mut bytes: &[u8], hear: &mut Hear<'_>) -> Result<()> {
        self.position += bytes.len() as u64;
        while !bytes.is_empty() {
            match self.state {
                State::BlockKind => {
                    self.block = Block::default();
                    self.block.begins_at = self.position - bytes.len() as u64;
                    self.block.of_objects = match bytes[0] {
                        BLOCK_OF_DATA => false,
                        BLOCK_OF_OBJECTS => true,
                        other => {
                            return Err(damaged(format!("a block has the unknown kind {other}")));
                        }
                    };
                    bytes = &bytes[1..];
                    self.state = State::EntryNumber;
                }
                State::Piece { left } => {
                    let count = left.min(bytes.len() as u64) as usize;
                    self.take_piece(&bytes[..count], hear)?;
                    bytes = &bytes[count..];
                    self.state = match left - count as u64 {
                        0 => State::PieceLength,
                        left => State::Piece { left },
                    };
                }
                // Almost all numbers are the lengths of rows: no detour for those.
                State::PieceLength if self.partial.is_empty() && bytes.len() > self.int_bytes => {
                    let (length, rest) = bytes.split_at(1 + self.int_bytes);
                    bytes = rest;
                    self.take_number(number(length), hear)?;
                }
                State::EntryNumber | State::ObjectNumber | State::PieceLength => {
                    let missing = 1 + self.int_bytes - self.partial.len();
                    let count = missing.min(bytes.len());
                    self.partial.extend_from_slice(&bytes[..count]);
                    bytes = &bytes[count..];
                    if count == missing {
                        let number = number(&self.partial);
                        self.partial.clear();
                        self.take_number(number, hear)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn take_piece(&mut self, bytes: &[u8], hear: &mut Hear<'_>) -> Result<()> {
        let block = &mut self.block;
        match &mut self.inner {
            None => {
                block.take_rows(bytes);
                hear(Piece::Data(bytes))
            }
            Some(inner) => inner.take(bytes, &mut |plain| {
                block.take_rows(plain);
                hear(Piece::Data(plain))
            }),
        }
    }

    fn take_number(&mut self, number: i64, hear: &mut Hear<'_>) -> Result<()> {
        self.state = match self.state {
            State::EntryNumber => {
                self.begin_block(number)?;
                hear(Piece::Block(self.block.place))?;
                match self.block.of_objects {
                    true => State::ObjectNumber,
                    false => State::PieceLength,
                }
            }
            State::ObjectNumber if number == 0 => self.end_block(hear)?,
            State::ObjectNumber => {
                self.large_objects += 1;
                self.inner.as_mut().map_or(Ok(()), Inner::begin)?;
                hear(Piece::Object(number))?;
                State::PieceLength
            }
            State::PieceLength if number == 0 => {
                self.inner.as_ref().map_or(Ok(()), Inner::end)?;
                match self.block.of_objects {
                    true => {
                        hear(Piece::ObjectEnd)?;
                        State::ObjectNumber
                    }
                    false => self.end_block(hear)?,
                }
            }
            State::PieceLength if (1..=LENGTH_MAX * 8).contains(&number) => {
                State::Piece { left: number.unsigned_abs() }
            }
            _ => return Err(damaged(format!("a piece of data has the length {number}"))),
        };
        Ok(())
    }

    fn begin_block(&mut self, id: i64) -> Result<()> {
        let place = self.places.get(&id).copied();
        let place = place
            .ok_or_else(|| damaged(format!("data of an entry {id} that is not in the contents")))?;
        if std::mem::replace(&mut self.seen[place], true) {
            return Err(damaged(format!("the data of the entry {id} come twice")));
        }
        self.block.place = place;
        self.inner.as_mut().map_or(Ok(()), Inner::begin)?;
        self.data_begins.push((place, self.block.begins_at));
        Ok(())
    }

    fn end_block(&mut self, hear: &mut Hear<'_>) -> Result<State> {
        let contents = self.contents.as_ref();
        let entry = contents.and_then(|contents| contents.entries.get(self.block.place));
        let Some(entry) = entry.filter(|entry| entry.has_rows) else {
            hear(Piece::BlockEnd)?;
            return Ok(State::BlockKind);
        };
        if self.block.tail != END_OF_ROWS {
            return Err(damaged(format!(
                "the rows of {} do not end as they must",
                described(entry)
            )));
        }
        let rows = self.block.line_breaks.saturating_sub(3);
        *self.rows.entry(entry.table()).or_default() += rows;
        hear(Piece::BlockEnd)?;
        Ok(State::BlockKind)
    }
}

impl Block {
    fn take_rows(&mut self, bytes: &[u8]) {
        self.line_breaks += count_line_breaks(bytes);
        let keep = END_OF_ROWS.len();
        let tail = &mut self.tail;
        if bytes.len() >= keep {
            tail.clear();
        }
        tail.extend_from_slice(&bytes[bytes.len().saturating_sub(keep)..]);
        let excess = tail.len().saturating_sub(keep);
        tail.drain(..excess);
    }
}

/// Counts in a way that the compiler makes vector instructions of.
pub(crate) fn count_line_breaks(bytes: &[u8]) -> u64 {
    let chunks = bytes.chunks(192);
    chunks
        .map(|chunk| u64::from(chunk.iter().map(|byte| u8::from(*byte == b'\n')).sum::<u8>()))
        .sum()
}

fn described(entry: &Entry) -> String {
    match entry.schema.is_empty() {
        true => format!("{} {}", entry.kind, entry.name),
        false => format!("{} {}.{}", entry.kind, entry.schema, entry.name),
    }
}

fn damaged(why: impl Into<String>) -> Error {
    Error::new(Kind::CheckFailed, why)
}

/// A number of the archive: a sign, then bytes from the lowest on.
fn number(bytes: &[u8]) -> i64 {
    let magnitude = bytes[1..].iter().rev().fold(0_i64, |sum, byte| (sum << 8) | i64::from(*byte));
    if bytes[0] == 0 { magnitude } else { -magnitude }
}

/// Why a head could not be read.
enum Stop {
    /// More bytes are needed.
    Short,
    /// It is not one.
    Wrong(String),
}

struct Input<'a> {
    bytes: &'a [u8],
    position: usize,
    int_bytes: usize,
    offset_bytes: usize,
    offset_places: Vec<usize>,
    section_places: Vec<usize>,
    copy_places: Vec<usize>,
    /// Where the head says how the data are compressed.
    compression_at: std::ops::Range<usize>,
}

impl<'a> Input<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Input {
            bytes,
            position: 0,
            int_bytes: 4,
            offset_bytes: 8,
            offset_places: Vec::new(),
            section_places: Vec::new(),
            copy_places: Vec::new(),
            compression_at: 0..0,
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Stop> {
        let end = self.position.checked_add(count).ok_or(Stop::Short)?;
        let taken = self.bytes.get(self.position..end).ok_or(Stop::Short)?;
        self.position = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Stop> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn int(&mut self) -> Result<i64, Stop> {
        self.take(1 + self.int_bytes).map(number)
    }

    /// A text; `None` for one that is absent.
    fn text(&mut self) -> Result<Option<String>, Stop> {
        match self.int()? {
            length if length < 0 => Ok(None),
            length if length > LENGTH_MAX => {
                Err(Stop::Wrong(format!("a text of the contents has {length} bytes")))
            }
            length => {
                let bytes = self.take(length.unsigned_abs() as usize)?;
                Ok(Some(String::from_utf8_lossy(bytes).into_owned()))
            }
        }
    }

    fn some_text(&mut self) -> Result<String, Stop> {
        self.text().map(Option::unwrap_or_default)
    }
}

fn head(input: &mut Input<'_>) -> Result<Contents, Stop> {
    let magic = &input.bytes[..input.bytes.len().min(5)];
    if !b"PGDMP".starts_with(magic) {
        return Err(Stop::Wrong("the dump does not begin as one of pg_dump -Fc does".to_owned()));
    }
    input.take(5)?;
    let format = (input.byte()?, input.byte()?);
    input.byte()?;
    if format.0 != 1 || !(12..=16).contains(&format.1) {
        let (major, minor) = format;
        return Err(Stop::Wrong(format!("the dump has the unknown format {major}.{minor}")));
    }
    (input.int_bytes, input.offset_bytes) = (input.byte()?.into(), input.byte()?.into());
    if !(1..=8).contains(&input.int_bytes) || !(1..=8).contains(&input.offset_bytes) {
        return Err(Stop::Wrong("the dump's head is damaged".to_owned()));
    }
    if input.byte()? != 1 {
        return Err(Stop::Wrong("the dump is not in the custom format".to_owned()));
    }
    let inner = inner_compression(input, format.1)?;
    // Second, minute, hour, day, month, year, daylight saving time.
    for _ in 0..7 {
        input.int()?;
    }
    let (database, server_version, dump_version) =
        (input.some_text()?, input.some_text()?, input.some_text()?);
    let count = input.int()?;
    if !(0..=LENGTH_MAX).contains(&count) {
        return Err(Stop::Wrong(format!("the table of contents has {count} entries")));
    }
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push(entry(input, format.1)?);
    }
    Ok(Contents { format, database, server_version, dump_version, inner, entries })
}

/// A kind from format 1.15 on; before, the level of gzip.
fn inner_compression(input: &mut Input<'_>, minor: u8) -> Result<InnerCompression, Stop> {
    let begin = input.position;
    let number = match minor >= 15 {
        true => i64::from(input.byte()?),
        false => input.int()?.abs().min(1),
    };
    input.compression_at = begin..input.position;
    match number {
        0 => Ok(InnerCompression::None),
        1 => Ok(InnerCompression::Gzip),
        2 => Ok(InnerCompression::Lz4),
        3 => Ok(InnerCompression::Zstd),
        other => Err(Stop::Wrong(format!("the dump has the unknown compression {other}"))),
    }
}

fn entry(input: &mut Input<'_>, minor: u8) -> Result<Entry, Stop> {
    let id = input.int()?;
    let has_data = input.int()? != 0;
    // Number of the catalog's table, and of the object.
    input.text()?;
    input.text()?;
    let (name, kind) = (input.some_text()?, input.some_text()?);
    input.section_places.push(input.position);
    let _section = input.int()?;
    let definition = input.some_text()?;
    let _drop = input.text()?;
    input.copy_places.push(input.position);
    let copy = input.some_text()?;
    let schema = input.some_text()?;
    let _tablespace = input.text()?;
    if minor >= 14 {
        let _access_method = input.text()?;
    }
    if minor >= 16 {
        let _relation_kind = input.int()?;
    }
    let owner = input.some_text()?;
    let _with_oids = input.text()?;
    while input.text()?.is_some() {}
    // Where the data are: a flag and an offset, which a pipe leaves unset.
    input.offset_places.push(input.position);
    input.take(1 + input.offset_bytes)?;
    let has_rows = has_data && kind == "TABLE DATA" && copy.starts_with("COPY ");
    Ok(Entry { id, kind, name, schema, owner, definition, copy, has_data, has_rows })
}
