//! How bytes become frames and frames become bytes, on all cores, in bounded memory.
//!
//! [`encode()`] takes plain bytes from a capture and gives stored bytes to a store; [`decode()`] is
//! the way back; `read_back` proves that what the store gives is what was sent. All three are
//! threads around bounded queues: nothing here grows with the size of a database, except 16 bytes
//! for each block whose hash is kept and 8 bytes for each frame.

mod compression;
mod wrapping;
mod hashes;
mod side_by_side;
mod lane;
mod gzip;
mod zstd_frames;
mod prove;
mod sending;
mod encode;
mod stored;
mod unpack;
mod cut;
mod decode;
mod found;
mod part;
mod read_back;
mod seal_anew;

pub use compression::Compression;
pub use decode::{Decoded, Expectation, decode};
pub(crate) use encode::encode_unhashed;
pub use encode::{EncodeOptions, Encoded, Output, encode, encode_all};
pub use found::{Found, open_found};
pub use hashes::{BlockHash, BlockHashes, Sha256Hex, block_hash};
pub use part::{PartReader, StoredParts, unread_object};
pub use read_back::{Progress, read_back_bytes, read_back_frames};
pub(crate) use seal_anew::seal_anew;
pub use side_by_side::{block_hashes, hash_each};
pub use wrapping::Wrapping;

/// The largest plain size of one frame: what a reader of a single page must decompress.
pub const FRAME_BYTES_MAX: usize = 128 << 10;

/// The plain size of a frame of a stream without pages, which is read from end to end: a dump
/// compresses 11 % better than in frames of 128 KiB.
pub(crate) const STREAM_FRAME_BYTES: usize = BATCH_BYTES;

/// What one worker takes at a time: whole frames, whole blocks of any page size.
pub(crate) const BATCH_BYTES: usize = 1 << 20;
