//! Deals the data of an archive out to several loaders, while it comes.
//!
//! Each loader is a `pg_restore` that reads an archive from its standard input: the same contents
//! for all, and of each table a part of its rows, cut between two rows. So all of them load the
//! same table at once, whatever the sizes of the tables, and nothing is kept on our disk. What
//! cannot be cut (large objects, data as statements) goes to the first loader alone.

use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};

use crate::archive::{BLOCK_OF_DATA, BLOCK_OF_OBJECTS, Contents, END_OF_ROWS, Piece};

/// So many bytes are dealt out at once: the rows of one table, as a rule.
const BATCH_BYTES: usize = 512 << 10;
/// So many batches wait for each loader.
const BATCHES_MAX: usize = 3;
/// How long to wait for a loader that takes more, in milliseconds.
const WAIT_MS: u64 = 1;

/// The blocks of data that every loader gets, in the order of the contents.
pub(super) struct Blocks {
    int_bytes: usize,
    blocks: Vec<Block>,
}

#[derive(Clone, Copy)]
struct Block {
    /// The entry's place in the contents.
    place: usize,
    id: i64,
    data: Data,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Data {
    /// Lines that can be dealt out.
    Rows,
    Statements,
    Objects,
}

impl Blocks {
    pub(super) fn of(contents: &Contents, int_bytes: usize) -> Self {
        let with_data = contents.entries.iter().enumerate().filter(|(_, entry)| entry.has_data);
        let blocks = with_data.map(|(place, entry)| Block {
            place,
            id: entry.id,
            data: match entry.kind.as_str() {
                "BLOBS" => Data::Objects,
                _ if entry.has_rows => Data::Rows,
                _ => Data::Statements,
            },
        });
        Blocks { int_bytes, blocks: blocks.collect() }
    }

    /// A number as archives have it: its sign, then its bytes from the lowest on.
    fn number(&self, number: i64) -> Vec<u8> {
        let mut bytes = vec![u8::from(number < 0)];
        bytes.extend_from_slice(&number.unsigned_abs().to_le_bytes()[..self.int_bytes]);
        bytes
    }

    fn begin(&self, index: usize) -> Vec<u8> {
        let Block { id, data, .. } = self.blocks[index];
        let mut bytes = match data {
            Data::Objects => vec![BLOCK_OF_OBJECTS],
            Data::Rows | Data::Statements => vec![BLOCK_OF_DATA],
        };
        bytes.extend(self.number(id));
        bytes
    }
}

/// What a loader gets next.
struct Part {
    /// Of which block.
    index: usize,
    bytes: Vec<u8>,
    /// Whether its length comes before it; large objects have that already.
    is_piece: bool,
}

/// What a loader's pipe is fed with.
pub(super) struct Feed(Receiver<Part>);

impl Feed {
    /// Writes the archive of one loader to its pipe. It is whole when all parts were sent.
    pub(super) fn write(
        self,
        pipe: impl Write,
        head: &[u8],
        blocks: &Blocks,
    ) -> std::io::Result<()> {
        let mut pipe = BufWriter::with_capacity(64 << 10, pipe);
        pipe.write_all(head)?;
        let (mut next, mut open) = (0, None);
        for Part { index, bytes, is_piece } in self.0 {
            if open != Some(index) {
                if open.is_some() {
                    pipe.write_all(&blocks.number(0))?;
                }
                write_empty(&mut pipe, blocks, next..index)?;
                pipe.write_all(&blocks.begin(index))?;
                (open, next) = (Some(index), index + 1);
            }
            if is_piece {
                pipe.write_all(&blocks.number(bytes.len() as i64))?;
            }
            pipe.write_all(&bytes)?;
        }
        if open.is_some() {
            pipe.write_all(&blocks.number(0))?;
        }
        write_empty(&mut pipe, blocks, next..blocks.blocks.len())?;
        pipe.flush()
    }
}

/// Blocks of which this loader got nothing.
fn write_empty(
    pipe: &mut impl Write,
    blocks: &Blocks,
    indexes: std::ops::Range<usize>,
) -> std::io::Result<()> {
    for index in indexes {
        pipe.write_all(&blocks.begin(index))?;
        pipe.write_all(&blocks.number(0))?;
    }
    Ok(())
}

/// Deals out what is heard of an archive.
pub(super) struct Dealer<'a> {
    env: &'a Env,
    blocks: Arc<Blocks>,
    loaders: Vec<SyncSender<Part>>,
    index: usize,
    batch: Vec<u8>,
    turn: usize,
    /// Who has the beginning of a row, and must get its end.
    bound: Option<usize>,
    lost: bool,
}

impl<'a> Dealer<'a> {
    /// For so many loaders. Gives each one's end.
    pub(super) fn new(env: &'a Env, blocks: &Arc<Blocks>, count: usize) -> (Self, Vec<Feed>) {
        let (loaders, feeds) = (0..count.max(1))
            .map(|_| {
                let (loader, feed) = sync_channel(BATCHES_MAX);
                (loader, Feed(feed))
            })
            .unzip();
        let dealer = Dealer {
            env,
            blocks: Arc::clone(blocks),
            loaders,
            index: 0,
            batch: Vec::new(),
            turn: 0,
            bound: None,
            lost: false,
        };
        (dealer, feeds)
    }

    /// Whether a loader ended before it got everything: its own error says why.
    pub(super) fn lost_one(&self) -> bool {
        self.lost
    }

    /// Takes what is heard.
    pub(super) fn take(&mut self, piece: &Piece<'_>) -> Result<()> {
        match piece {
            Piece::Head(_) => Ok(()),
            Piece::Block(place) => {
                let of = self.blocks.blocks.iter().position(|block| block.place == *place);
                self.index = of.ok_or_else(|| {
                    Error::new(Kind::CheckFailed, "data of an entry that says to have none")
                })?;
                Ok(())
            }
            Piece::Object(number) => {
                self.batch.extend(self.blocks.number(*number));
                Ok(())
            }
            Piece::ObjectEnd => {
                self.batch.extend(self.blocks.number(0));
                Ok(())
            }
            Piece::Data(bytes) => {
                if self.data() == Data::Objects {
                    self.batch.extend(self.blocks.number(bytes.len() as i64));
                }
                self.batch.extend_from_slice(bytes);
                match (self.batch.len() >= BATCH_BYTES, self.data()) {
                    (false, _) => Ok(()),
                    (true, Data::Rows) => self.deal_rows(),
                    (true, _) => self.deal_to_first(),
                }
            }
            Piece::BlockEnd => {
                match self.data() {
                    Data::Rows => {
                        // The end of the stream says the same as the mark at the end of rows.
                        let rows = self.batch.len().saturating_sub(END_OF_ROWS.len());
                        self.batch.truncate(rows);
                        let rows = std::mem::take(&mut self.batch);
                        let to = self.bound.take();
                        if !rows.is_empty() {
                            self.send(rows, true, to)?;
                        }
                        Ok(())
                    }
                    _ => self.deal_to_first(),
                }
            }
        }
    }

    fn data(&self) -> Data {
        self.blocks.blocks[self.index].data
    }

    /// Deals out whole rows. Of a row that is longer than a batch all parts go to one loader.
    fn deal_rows(&mut self) -> Result<()> {
        // The mark at the end is no row, and must not be cut in two.
        let limit = self.batch.len() - END_OF_ROWS.len();
        let end = self.batch[..limit].iter().rposition(|byte| *byte == b'\n');
        let rest = self.batch.split_off(end.map_or(limit, |end| end + 1));
        let rows = std::mem::replace(&mut self.batch, rest);
        let to = self.bound.take();
        let loader = self.send(rows, true, to)?;
        self.bound = end.is_none().then_some(loader);
        Ok(())
    }

    fn deal_to_first(&mut self) -> Result<()> {
        let bytes = std::mem::take(&mut self.batch);
        if bytes.is_empty() {
            return Ok(());
        }
        let is_piece = self.data() != Data::Objects;
        self.send(bytes, is_piece, Some(0)).map(drop)
    }

    /// Sends to that loader, or to the next one that takes something. Says to whom.
    fn send(&mut self, bytes: Vec<u8>, is_piece: bool, to: Option<usize>) -> Result<usize> {
        let mut part = Part { index: self.index, bytes, is_piece };
        loop {
            for step in 0..self.loaders.len() {
                let loader = to.unwrap_or((self.turn + step) % self.loaders.len());
                match self.loaders[loader].try_send(part) {
                    Ok(()) => {
                        self.turn = loader + 1;
                        return Ok(loader);
                    }
                    Err(TrySendError::Full(back)) => part = back,
                    Err(TrySendError::Disconnected(_)) => {
                        self.lost = true;
                        return Err(Error::new(Kind::Failed, "a loader ended too soon"));
                    }
                }
            }
            self.env.pause_ms(WAIT_MS)?;
        }
    }
}
