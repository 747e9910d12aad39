//! Frames are proved before they are sent: decompressed again, and compared with what they are of.
//!
//! Then reading back only has to show that the store gives the bytes that were sent, and needs no
//! identity where they are encrypted. Streams without pages are proved here, while they go by on
//! all cores; pages are compared one by one when they are read back.

use zstd_safe::DCtx;

use super::{gzip, zstd_frames};
use crate::error::{Error, Kind, Result};

/// Decompresses what was compressed a moment ago.
pub(super) struct Prover {
    zstd: DCtx<'static>,
    gzip: libdeflater::Decompressor,
    plain: Vec<u8>,
}

impl Prover {
    pub(super) fn new() -> Self {
        let gzip = libdeflater::Decompressor::new();
        Prover { zstd: DCtx::create(), gzip, plain: Vec::new() }
    }

    /// A frame of zstd must hold these bytes.
    pub(super) fn zstd(&mut self, frame: &[u8], plain: &[u8]) -> Result<()> {
        zstd_frames::decompress(&mut self.zstd, frame, plain.len(), &mut self.plain)?;
        self.compare(plain)
    }

    /// A member of gzip must hold these bytes.
    pub(super) fn gzip(&mut self, member: &[u8], plain: &[u8]) -> Result<()> {
        self.plain.clear();
        gzip::append_plain(&mut self.gzip, member, &mut self.plain)?;
        self.compare(plain)
    }

    fn compare(&self, plain: &[u8]) -> Result<()> {
        match self.plain == plain {
            true => Ok(()),
            false => Err(Error::new(Kind::Failed, "what was compressed does not come back")
                .hint("the memory or the processor of this host makes mistakes: check them")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_come_back_is_an_error() {
        let plain = b"rows of a table ".repeat(1000);
        let mut other = plain.clone();
        other[777] ^= 1;
        let (mut zstd, mut gzip) = (Vec::new(), Vec::new());
        zstd_frames::ZstdWriter::new(3, 1 << 20).append(&plain, &mut zstd).unwrap();
        gzip::GzipWriter::new(6).append(&plain, &mut gzip).unwrap();
        let mut prover = Prover::new();
        prover.zstd(&zstd, &plain).unwrap();
        prover.gzip(&gzip, &plain).unwrap();
        for wrong in [&other[..], &plain[1..], b""] {
            assert!(prover.zstd(&zstd, wrong).is_err());
            assert!(prover.gzip(&gzip, wrong).is_err());
        }
        let middle = zstd.len() / 2;
        zstd[middle] ^= 1;
        assert!(prover.zstd(&zstd, &plain).is_err());
    }
}
