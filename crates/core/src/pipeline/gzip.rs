//! Gzip members (RFC 1952) of known size, written with libdeflate.
//!
//! Each member has an extra field `LB` that holds the member's size in bytes, so that a reader
//! finds the next one without decompressing (the way of BGZF, without its 64 KiB limit).
//! `gunzip` ignores the field and reads all members as one stream.

use libdeflater::{CompressionLvl, Compressor, Crc, Decompressor};

use crate::error::{Error, Kind, Result};

/// Fixed header, length of the extra field, and the field: identifier, length, member size.
pub(crate) const HEADER_BYTES: usize = 10 + 2 + 8;
const TRAILER_BYTES: usize = 8;
const FLAG_EXTRA: u8 = 4;

pub(crate) struct GzipWriter {
    compressor: Compressor,
}

impl GzipWriter {
    pub(crate) fn new(level: i32) -> Self {
        let level = CompressionLvl::new(level).unwrap_or_default();
        GzipWriter { compressor: Compressor::new(level) }
    }

    /// Appends one member to `out`.
    pub(crate) fn append(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        out.extend([0x1f, 0x8b, 8, FLAG_EXTRA, 0, 0, 0, 0, 0, 255, 8, 0, b'L', b'B', 4, 0]);
        out.extend([0; 4]);
        let body = out.len();
        out.resize(body + self.compressor.deflate_compress_bound(plain.len()), 0);
        let written = self
            .compressor
            .deflate_compress(plain, &mut out[body..])
            .map_err(|error| Error::new(Kind::Failed, "gzip failed").caused_by(error))?;
        out.truncate(body + written);
        let mut crc = Crc::new();
        crc.update(plain);
        out.extend(crc.sum().to_le_bytes());
        out.extend((plain.len() as u32).to_le_bytes());
        let member_bytes = (out.len() - start) as u32;
        out[body - 4..body].copy_from_slice(&member_bytes.to_le_bytes());
        Ok(())
    }
}

/// The size of the member that begins with these bytes, if it says it as ours do.
pub(crate) fn member_bytes(header: &[u8; HEADER_BYTES]) -> Option<usize> {
    let ours =
        header[..4] == [0x1f, 0x8b, 8, FLAG_EXTRA] && header[10..16] == [8, 0, b'L', b'B', 4, 0];
    let size = u32::from_le_bytes([header[16], header[17], header[18], header[19]]) as usize;
    // A member beyond this is damage, and would only make us allocate.
    (ours && size > HEADER_BYTES + TRAILER_BYTES && size < 2 * super::BATCH_BYTES).then_some(size)
}

/// Decompresses one whole member of ours and appends it to `out`. Checksum and size are checked.
pub(crate) fn append_plain(
    decompressor: &mut Decompressor,
    member: &[u8],
    out: &mut Vec<u8>,
) -> Result<()> {
    let damaged = || Error::new(Kind::CheckFailed, "a gzip member is damaged");
    let tail = member.len().checked_sub(4).ok_or_else(damaged)?;
    let size = u32::from_le_bytes(member[tail..].try_into().map_err(|_| damaged())?) as usize;
    if size > super::BATCH_BYTES {
        return Err(damaged());
    }
    let start = out.len();
    out.resize(start + size, 0);
    let written = decompressor
        .gzip_decompress(member, &mut out[start..])
        .map_err(|error| damaged().caused_by(error))?;
    match written == size {
        true => Ok(()),
        false => Err(damaged()),
    }
}
