//! The same on the calling thread alone: for small streams of which many are under way at once.
//! Threads of their own, and the waits between them, would cost them a tenth of their time.

use super::{Batch, EncodeOptions, Encoded, Output, Pools, Worker, Writer};
use crate::error::Result;
use crate::pipeline::BATCH_BYTES;
use crate::source::Sink;
use crate::store::Put;

/// Streams what `produce` writes into `put`, and commits it. Hashes of blocks are not made.
pub(super) fn encode(
    options: &EncodeOptions,
    put: Box<dyn Put>,
    produce: impl FnOnce(&mut dyn Sink) -> Result<()>,
) -> Result<Encoded> {
    let pools = Pools::new(1, 1);
    let output = Output { compression: options.compression, seal: options.seal.clone(), put };
    let mut sink = AloneSink {
        worker: Worker::new(options, &[options.compression], pools.clone(), false),
        writer: Writer::new(output, 0, false)?,
        pools,
        batch: vec![0; BATCH_BYTES],
        filled: 0,
        offset: 0,
    };
    produce(&mut sink)?;
    sink.send(true)?;
    let encoded = sink.writer.finish()?;
    Ok(Encoded { plain_bytes: sink.offset, ..encoded })
}

struct AloneSink {
    worker: Worker,
    writer: Writer,
    pools: Pools,
    batch: Vec<u8>,
    filled: usize,
    offset: u64,
}

impl AloneSink {
    fn send(&mut self, last: bool) -> Result<()> {
        let mut plain = std::mem::take(&mut self.batch);
        plain.truncate(self.filled);
        let bytes = plain.len() as u64;
        let packed = self.worker.work(Batch { offset: self.offset, plain, last })?;
        self.writer.take(&packed)?;
        self.pools.give(packed.into());
        self.batch = self.pools.plain.take_of(BATCH_BYTES);
        self.offset += bytes;
        self.filled = 0;
        Ok(())
    }
}

impl Sink for AloneSink {
    fn buffer(&mut self) -> &mut [u8] {
        &mut self.batch[self.filled..]
    }

    fn advance(&mut self, bytes: usize) -> Result<()> {
        self.filled += bytes;
        match self.filled >= BATCH_BYTES {
            true => self.send(false),
            false => Ok(()),
        }
    }
}
