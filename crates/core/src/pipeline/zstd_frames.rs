//! Zstd frames (RFC 8878) and the seek table of the seekable format.
//!
//! An artifact is a row of independent frames, each with its content size and checksum, and one
//! skippable frame at the end that lists their sizes (format: the "seekable format" document of
//! the zstd project, without its optional checksums). `zstd -d` reads all of it.

use zstd_safe::{CCtx, CParameter, DCtx, get_error_name};

use crate::error::{Error, Kind, Result};

pub(crate) const FRAME_MAGIC: u32 = 0xfd2f_b528;
const SKIPPABLE_MAGIC: u32 = 0x184d_2a50;
const SEEK_TABLE_MAGIC: u32 = 0x184d_2a5e;
const SEEKABLE_FOOTER_MAGIC: u32 = 0x8f92_eab1;
const BLOCK_HEADER_BYTES: usize = 3;
const DEFAULT_LEVEL: i32 = 3;

pub(crate) struct ZstdWriter {
    context: CCtx<'static>,
    scratch: Vec<u8>,
}

impl ZstdWriter {
    /// For frames of at most so many plain bytes.
    pub(crate) fn new(level: i32, frame_bytes: usize) -> Self {
        let mut context = CCtx::create();
        // Setting a parameter within its range on a fresh context cannot fail; a wrong range
        // would show in every test, so the result is only looked at there.
        for parameter in [
            CParameter::CompressionLevel(level),
            CParameter::ChecksumFlag(true),
            CParameter::ContentSizeFlag(true),
        ] {
            let set = context.set_parameter(parameter);
            debug_assert!(set.is_ok());
        }
        if level == DEFAULT_LEVEL && frame_bytes > super::FRAME_BYTES_MAX {
            // A larger table for short matches, which begin at 6 bytes: of a dump 1.3 % fewer bytes
            // in the time that the level takes by itself. Twice the tables: 2 %, a fifth slower.
            let tables = [CParameter::ChainLog(17), CParameter::HashLog(17)];
            for parameter in tables.into_iter().chain([CParameter::MinMatch(6)]) {
                let set = context.set_parameter(parameter);
                debug_assert!(set.is_ok());
            }
        }
        let scratch = vec![0; zstd_safe::compress_bound(frame_bytes)];
        ZstdWriter { context, scratch }
    }

    /// Appends one frame to `out`.
    pub(crate) fn append(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let written = self.context.compress2(&mut self.scratch[..], plain).map_err(|code| {
            Error::new(Kind::Failed, "zstd failed").caused_by(get_error_name(code))
        })?;
        out.extend_from_slice(&self.scratch[..written]);
        Ok(())
    }
}

/// Decompresses whole frames into `out`, which then holds `plain_bytes`: never more.
pub(crate) fn decompress(
    context: &mut DCtx<'static>,
    frames: &[u8],
    plain_bytes: usize,
    out: &mut Vec<u8>,
) -> Result<()> {
    out.resize(plain_bytes, 0);
    let written = context.decompress(&mut out[..], frames).map_err(|code| {
        Error::new(Kind::CheckFailed, "a zstd frame is damaged").caused_by(get_error_name(code))
    })?;
    match written == plain_bytes {
        true => Ok(()),
        false => Err(Error::new(Kind::CheckFailed, "a zstd frame is shorter than it says")),
    }
}

/// The seek table for frames of these (stored, plain) sizes.
pub(crate) fn seek_table(frames: &[(u32, u32)]) -> Vec<u8> {
    let payload_bytes = frames.len() * 8 + 9;
    let mut table = Vec::with_capacity(payload_bytes + 8);
    table.extend(SEEK_TABLE_MAGIC.to_le_bytes());
    table.extend((payload_bytes as u32).to_le_bytes());
    for (stored, plain) in frames {
        table.extend(stored.to_le_bytes());
        table.extend(plain.to_le_bytes());
    }
    table.extend((frames.len() as u32).to_le_bytes());
    table.push(0);
    table.extend(SEEKABLE_FOOTER_MAGIC.to_le_bytes());
    table
}

/// The largest plain size of a frame that a reader of parts takes in.
pub(crate) const SEEK_FRAME_BYTES: u64 = super::BATCH_BYTES as u64;
/// The end of a seek table: number of frames, a byte, a magic.
pub(crate) const SEEK_TAIL_BYTES: u64 = 9;

/// The end of a seek table of ours.
pub(crate) struct SeekTail {
    frames: u32,
}

impl SeekTail {
    /// Reads the last bytes of a stream; `None` where they are not the end of such a table.
    pub(crate) fn parse(tail: &[u8]) -> Option<Self> {
        let (frames, rest) = tail.split_first_chunk::<4>()?;
        let (&flags, magic) = rest.split_first()?;
        let ours = flags == 0 && magic == SEEKABLE_FOOTER_MAGIC.to_le_bytes();
        ours.then(|| SeekTail { frames: u32::from_le_bytes(*frames) })
    }

    /// Size of the whole table, with the header of its frame.
    pub(crate) fn table_bytes(&self) -> u64 {
        8 + u64::from(self.frames) * 8 + SEEK_TAIL_BYTES
    }
}

/// Reads what [`seek_table`] makes: (stored, plain) sizes.
pub(crate) fn parse_seek_table(table: &[u8]) -> Option<Vec<(u32, u32)>> {
    let (header, rest) = table.split_first_chunk::<8>()?;
    let (entries, tail) = rest.split_at_checked(rest.len().checked_sub(9)?)?;
    let payload = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    let (entries, odd) = entries.as_chunks::<8>();
    let whole = header[..4] == SEEK_TABLE_MAGIC.to_le_bytes()
        && payload as usize == rest.len()
        && odd.is_empty()
        && SeekTail::parse(tail)?.frames as usize == entries.len();
    let sizes = |entry: &[u8; 8]| {
        let [a, b, c, d, e, f, g, h] = *entry;
        (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
    };
    whole.then(|| entries.iter().map(sizes).collect())
}

/// What comes next in a stream of frames.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A frame of these sizes.
    Frame { stored_bytes: usize, plain_bytes: usize },
    /// A skippable frame of this size, with its header.
    Skippable { stored_bytes: u64 },
    /// A frame that does not say how large it is, or is too large to be held: decode it as a
    /// stream.
    Stream,
    /// More bytes are needed to tell.
    More,
    /// Not zstd.
    Foreign,
}

/// Looks at the beginning of `bytes`. A frame's stored size is found by walking its blocks.
pub(crate) fn next_frame(bytes: &[u8], plain_bytes_max: usize) -> Next {
    let Some((magic, rest)) = bytes.split_first_chunk::<4>() else { return Next::More };
    let magic = u32::from_le_bytes(*magic);
    if magic & 0xffff_fff0 == SKIPPABLE_MAGIC {
        let Some((size, _)) = rest.split_first_chunk::<4>() else { return Next::More };
        return Next::Skippable { stored_bytes: u64::from(u32::from_le_bytes(*size)) + 8 };
    }
    if magic != FRAME_MAGIC {
        return Next::Foreign;
    }
    let Some(&descriptor) = rest.first() else { return Next::More };
    let single_segment = descriptor & 0x20 != 0;
    let size_bytes = match descriptor >> 6 {
        0 if single_segment => 1,
        0 => return Next::Stream,
        flag => 1 << flag,
    };
    let dictionary_bytes = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size_at = 5 + usize::from(!single_segment) + dictionary_bytes;
    let Some(size) = bytes.get(size_at..size_at + size_bytes) else { return Next::More };
    let mut word = [0; 8];
    word[..size_bytes].copy_from_slice(size);
    let plain_bytes = u64::from_le_bytes(word) + if size_bytes == 2 { 256 } else { 0 };
    if dictionary_bytes > 0 || plain_bytes > plain_bytes_max as u64 {
        return Next::Stream;
    }
    let checksum_bytes = if descriptor & 4 != 0 { 4 } else { 0 };
    walk_blocks(bytes, size_at + size_bytes, checksum_bytes, plain_bytes as usize)
}

fn walk_blocks(bytes: &[u8], mut at: usize, checksum_bytes: usize, plain_bytes: usize) -> Next {
    loop {
        let Some(header) = bytes.get(at..at + BLOCK_HEADER_BYTES) else { return Next::More };
        let word = u32::from_le_bytes([header[0], header[1], header[2], 0]);
        let (last, kind, size) = (word & 1 == 1, (word >> 1) & 3, (word >> 3) as usize);
        at += BLOCK_HEADER_BYTES + if kind == 1 { 1 } else { size };
        // A frame that is stored much larger than it is plain is damage: let the decoder say so.
        if kind == 3 || at > 2 * plain_bytes + 1024 {
            return Next::Stream;
        }
        if last {
            let stored_bytes = at + checksum_bytes;
            return match bytes.len() >= stored_bytes {
                true => Next::Frame { stored_bytes, plain_bytes },
                false => Next::More,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_without_the_seek_table() {
        let mut writer = ZstdWriter::new(3, super::super::STREAM_FRAME_BYTES);
        for size in [0_usize, 1, 255, 256, 300, 65_535, 66_000, 131_072, 1 << 20] {
            for byte in [None, Some(7_u8)] {
                let plain: Vec<u8> = match byte {
                    Some(byte) => vec![byte; size],
                    None => (0..size).map(|i| (i * i / 7 % 251) as u8).collect(),
                };
                let mut frame = Vec::new();
                writer.append(&plain, &mut frame).unwrap();
                let stored_bytes = frame.len();
                frame.extend(b"what follows");
                let found = next_frame(&frame, 1 << 20);
                assert_eq!(found, Next::Frame { stored_bytes, plain_bytes: size }, "{size}");
                for cut in [stored_bytes - 1, stored_bytes / 2, 3] {
                    assert_eq!(next_frame(&frame[..cut], 1 << 20), Next::More, "{size} {cut}");
                }
            }
        }
    }
}
