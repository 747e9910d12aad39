//! One LZ4 frame that comes in pieces, as `pg_dump --compress=lz4` makes one of each table's rows.
//!
//! A frame is a head, blocks with their lengths, and a length of 0 as the end. A block may refer to
//! the 64 KiB before it. Blocks are taken when they are whole; so at most one is held, 4 MiB. Check
//! sums of blocks, which `pg_dump` does not write, are passed over.

use lifeboat_core::{Error, Kind, Result};
use lz4_flex::block::decompress_into_with_dict;

const MAGIC: [u8; 4] = 0x184D_2204_u32.to_le_bytes();
/// So far back a block may refer.
const HISTORY_BYTES: usize = 64 << 10;
const BLOCK_IS_PLAIN: u32 = 1 << 31;

/// Bits of the byte behind the magic.
const VERSION: u8 = 0b1100_0000;
const VERSION_1: u8 = 0b0100_0000;
const BLOCK_CHECK_SUMS: u8 = 0b0001_0000;
const CONTENT_SIZE: u8 = 0b0000_1000;
const CONTENT_CHECK_SUM: u8 = 0b0000_0100;
const DICTIONARY: u8 = 0b0000_0001;

/// A frame that is being read.
#[derive(Default)]
pub(super) struct Lz4Frame {
    held: Vec<u8>,
    head: Option<Head>,
    /// What was made of the blocks before, as far as the next one may refer to it.
    history: Vec<u8>,
    plain: Vec<u8>,
    ended: bool,
}

#[derive(Clone, Copy)]
struct Head {
    block_bytes_max: usize,
    block_check_bytes: usize,
    end_check_bytes: usize,
}

impl Lz4Frame {
    /// Whether its end came.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes a piece. `hear` gets the plain bytes.
    pub(super) fn take(
        &mut self,
        piece: &[u8],
        hear: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        self.held.extend_from_slice(piece);
        let mut used = 0;
        while let Some(count) = self.next(used, hear)? {
            used += count;
        }
        self.held.drain(..used);
        match self.ended && !self.held.is_empty() {
            true => Err(super::wrong(&"bytes follow the end")),
            false => Ok(()),
        }
    }

    /// Takes the head, a block or the end, if it is there whole. Says how many bytes it has.
    fn next(
        &mut self,
        at: usize,
        hear: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Option<usize>> {
        let rest = &self.held[at..];
        let Some(head) = self.head else {
            let read = read_head(rest)?;
            self.head = read.map(|(head, _)| head);
            return Ok(read.map(|(_, bytes)| bytes));
        };
        let Some(length) = rest.first_chunk().map(|bytes| u32::from_le_bytes(*bytes)) else {
            return Ok(None);
        };
        if self.ended {
            return Ok(None);
        }
        let bytes = (length & !BLOCK_IS_PLAIN) as usize;
        if length == 0 {
            self.ended = rest.len() >= 4 + head.end_check_bytes;
            return Ok(self.ended.then_some(4 + head.end_check_bytes));
        }
        if bytes > head.block_bytes_max {
            return Err(super::wrong(&format!("a block has {bytes} bytes")));
        }
        let whole = 4 + bytes + head.block_check_bytes;
        let Some(block) = rest.get(..whole).map(|whole| &whole[4..4 + bytes]) else {
            return Ok(None);
        };
        if length & BLOCK_IS_PLAIN != 0 {
            self.plain.clear();
            self.plain.extend_from_slice(block);
        } else {
            self.plain.resize(head.block_bytes_max, 0);
            let made = decompress_into_with_dict(block, &mut self.plain, &self.history);
            self.plain.truncate(made.map_err(|error| super::wrong(&error))?);
        }
        if !self.plain.is_empty() {
            hear(&self.plain)?;
        }
        remember(&mut self.history, &self.plain);
        Ok(Some(whole))
    }
}

/// Keeps the last bytes of both.
fn remember(history: &mut Vec<u8>, plain: &[u8]) {
    let new = &plain[plain.len().saturating_sub(HISTORY_BYTES)..];
    let excess = (history.len() + new.len()).saturating_sub(HISTORY_BYTES);
    history.drain(..excess.min(history.len()));
    history.extend_from_slice(new);
}

/// The head, if it is there whole, and how many bytes it has.
fn read_head(bytes: &[u8]) -> Result<Option<(Head, usize)>> {
    let begin = &bytes[..bytes.len().min(4)];
    if !MAGIC.starts_with(begin) {
        return Err(super::wrong(&"it does not begin as LZ4 does"));
    }
    let Some([flags, sizes]) = bytes.get(4..).and_then(|bytes| bytes.first_chunk()) else {
        return Ok(None);
    };
    let size = match (sizes >> 4) & 7 {
        size @ 4..=7 => 1 << (8 + 2 * u32::from(size)),
        other => return Err(super::wrong(&format!("blocks of the unknown size {other}"))),
    };
    if flags & VERSION != VERSION_1 || flags & DICTIONARY != 0 {
        return Err(Error::new(Kind::CheckFailed, format!("LZ4 of the unknown kind {flags:#x}")));
    }
    let if_set = |flag: u8, bytes: usize| if flags & flag == 0 { 0 } else { bytes };
    let head = Head {
        block_bytes_max: size,
        block_check_bytes: if_set(BLOCK_CHECK_SUMS, 4),
        end_check_bytes: if_set(CONTENT_CHECK_SUM, 4),
    };
    // Magic, flags, sizes, the size of the content, a check sum of the head.
    let length = 4 + 2 + if_set(CONTENT_SIZE, 8) + 1;
    Ok((bytes.len() >= length).then_some((head, length)))
}

#[cfg(test)]
mod tests {
    use lz4_flex::block::compress_with_dict;

    use super::*;

    /// A frame of blocks that refer to each other, with a plain one among them.
    fn frame(flags: u8) -> (Vec<u8>, Vec<u8>) {
        let mut frame = [&MAGIC[..], &[VERSION_1 | flags, 0x40]].concat();
        frame.extend(vec![9; if flags & CONTENT_SIZE == 0 { 1 } else { 9 }]);
        let (mut plain, mut history) = (Vec::new(), Vec::new());
        for number in 0..5_u32 {
            let text: Vec<u8> = (0..60_000_u32).map(|i| (i * i / 7 + number) as u8).collect();
            let block = match number {
                2 => text.clone(),
                _ => compress_with_dict(&text, &history),
            };
            let kind = if number == 2 { BLOCK_IS_PLAIN } else { 0 };
            frame.extend((block.len() as u32 | kind).to_le_bytes());
            frame.extend(&block);
            frame.extend(vec![7; if flags & BLOCK_CHECK_SUMS == 0 { 0 } else { 4 }]);
            remember(&mut history, &text);
            plain.extend(text);
        }
        frame.extend([0; 4]);
        frame.extend(vec![7; if flags & CONTENT_CHECK_SUM == 0 { 0 } else { 4 }]);
        (frame, plain)
    }

    fn read(frame: &[u8], step: usize) -> Result<(Vec<u8>, bool)> {
        let (mut reader, mut plain) = (Lz4Frame::default(), Vec::new());
        for piece in frame.chunks(step) {
            reader.take(piece, &mut |bytes| {
                plain.extend_from_slice(bytes);
                Ok(())
            })?;
        }
        Ok((plain, reader.has_ended()))
    }

    #[test]
    fn a_frame_is_read_whatever_the_pieces_and_a_cut_is_seen() {
        for flags in [0, BLOCK_CHECK_SUMS | CONTENT_CHECK_SUM, CONTENT_SIZE] {
            let (frame, plain) = frame(flags);
            for step in [1, 13, 4096, usize::MAX] {
                assert!(read(&frame, step).unwrap() == (plain.clone(), true), "{flags} {step}");
            }
            assert!(!read(&frame[..frame.len() - 1], 4096).unwrap().1);
            assert!(read(&[&frame[..], b"x"].concat(), 4096).is_err());
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let (good, _) = frame(0);
        for (at, byte) in [(0, 0), (4, 0), (5, 0x10), (4, VERSION_1 | DICTIONARY), (9, 0xff)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(read(&bad, 4096).is_err(), "{at} {byte}");
        }
    }
}
