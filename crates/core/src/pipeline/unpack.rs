//! What the worker threads of the way back do: whole frames in, plain bytes and hashes out.

use zstd_safe::DCtx;

use super::hashes::BlockHash;
use super::lane::Pool;
use super::side_by_side::hash_each;
use super::{gzip, zstd_frames};
use crate::error::Result;

/// What a worker gets.
pub(super) enum Job {
    /// Whole frames of zstd with their plain size in all.
    Zstd { frames: Vec<u8>, plain_bytes: usize },
    /// Whole members of gzip, each with its size.
    Gzip { members: Vec<u8>, sizes: Vec<usize> },
    /// Bytes that are plain already.
    Plain(Vec<u8>),
}

pub(super) struct Unpacked {
    pub(super) plain: Vec<u8>,
    pub(super) blocks: Vec<BlockHash>,
}

pub(super) struct Unpacker {
    zstd: DCtx<'static>,
    gzip: libdeflater::Decompressor,
    block_bytes: Option<usize>,
    pool: Pool,
    stored_pool: Pool,
}

impl Unpacker {
    pub(super) fn new(block_bytes: Option<usize>, pool: Pool, stored_pool: Pool) -> Self {
        let gzip = libdeflater::Decompressor::new();
        Unpacker { zstd: DCtx::create(), gzip, block_bytes, pool, stored_pool }
    }

    pub(super) fn work(&mut self, job: Result<Job>) -> Result<Unpacked> {
        let plain = match job? {
            Job::Plain(plain) => plain,
            Job::Zstd { frames, plain_bytes } => {
                let mut plain = self.pool.take();
                zstd_frames::decompress(&mut self.zstd, &frames, plain_bytes, &mut plain)?;
                self.stored_pool.give(frames);
                plain
            }
            Job::Gzip { members, sizes } => {
                let mut plain = self.pool.take();
                plain.clear();
                let mut rest = &members[..];
                for size in sizes {
                    let (member, later) = rest.split_at(size);
                    gzip::append_plain(&mut self.gzip, member, &mut plain)?;
                    rest = later;
                }
                self.stored_pool.give(members);
                plain
            }
        };
        let blocks = match self.block_bytes {
            Some(bytes) => hash_each(&plain, bytes),
            None => Vec::new(),
        };
        Ok(Unpacked { plain, blocks })
    }
}
