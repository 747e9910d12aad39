//! The artifacts of one run: stored, read back, or deleted again.

use crate::env::Env;
use crate::error::Result;
use crate::event::Event;
use crate::manifest::{Artifact, Check, CheckOutcome};
use crate::pipeline::{
    BlockHashes, Compression, EncodeOptions, Encoded, encode, read_back_bytes, read_back_frames,
};
use crate::repository::Repository;
use crate::source::{ArtifactPlan, Sink};
use crate::store::ObjectName;

/// The role of the artifact that holds page hashes.
const PAGE_HASHES: &str = "page-hashes";

pub(super) struct StoredArtifacts<'a> {
    env: &'a Env,
    repository: &'a Repository,
    folder: String,
    stored: Vec<Stored>,
    deep: bool,
}

/// A sink into which nothing goes any more when the run must end.
struct Watched<'a> {
    env: &'a Env,
    sink: &'a mut dyn Sink,
}

impl Sink for Watched<'_> {
    fn buffer(&mut self) -> &mut [u8] {
        self.sink.buffer()
    }

    fn advance(&mut self, bytes: usize) -> Result<()> {
        self.env.proceed()?;
        self.sink.advance(bytes)
    }
}

struct Stored {
    object: ObjectName,
    artifact: Artifact,
    encoded: Encoded,
    block_bytes: Option<u32>,
}

impl<'a> StoredArtifacts<'a> {
    pub(super) fn new(env: &'a Env, repository: &'a Repository, folder: String) -> Self {
        StoredArtifacts { env, repository, folder, stored: Vec::new(), deep: false }
    }

    /// Streams one artifact into the repository.
    pub(super) fn add(
        &mut self,
        name: &str,
        plan: &ArtifactPlan,
        compression: Compression,
        produce: impl FnOnce(&mut dyn Sink) -> Result<()>,
    ) -> Result<()> {
        let env = self.env;
        let phase = "backing up";
        let bytes_total = Some(plan.plain_bytes_estimate);
        env.tell(Event::PhaseBegan { subject: &self.folder, phase, bytes_total });
        let options = EncodeOptions {
            compression,
            block_bytes: plan.block_bytes,
            observer: plan.observer.clone(),
            threads: env.threads,
            plain_bytes_estimate: plan.plain_bytes_estimate,
            seal: self.repository.recipients().cloned(),
        };
        let suffixes = (compression.suffix(), self.repository.seal_suffix());
        let file = format!("{name}.{}{}{}", plan.extension, suffixes.0, suffixes.1);
        let object = self.repository.object(&self.folder, &file)?;
        let put = self.repository.store().put(&object)?;
        let encoded =
            encode(&options, put, &|bytes| env.tell(Event::Advanced { bytes }), |sink| {
                produce(&mut Watched { env, sink })?;
                env.crash.pass("backup.artifact.streamed")
            })?;
        env.tell(Event::PhaseEnded { phase });
        let artifact = Artifact {
            role: plan.role.into(),
            name: file,
            compression: compression.word().into(),
            stored_bytes: encoded.stored_bytes,
            stored_sha256: encoded.stored_sha256.to_string(),
            plain_bytes: encoded.plain_bytes,
            plain_sha256: encoded.plain_sha256.to_string(),
            sealed: self.repository.seal(),
            file: plan.file.clone(),
        };
        let block_bytes = plan.block_bytes;
        self.stored.push(Stored { object, artifact, encoded, block_bytes });
        Ok(())
    }

    /// Reads all back; `deep` also decompresses what has blocks, and compares them one by one.
    pub(super) fn read_back(&mut self, deep: bool) -> Result<()> {
        let (env, store) = (self.env, self.repository.store());
        let is_deep = |stored: &Stored| deep && stored.block_bytes.is_some();
        self.deep = self.stored.iter().any(is_deep);
        for stored in &self.stored {
            let deep = is_deep(stored);
            let (phase, encoded) = ("reading back", &stored.encoded);
            let bytes_total = Some(if deep { encoded.plain_bytes } else { encoded.stored_bytes });
            env.tell(Event::PhaseBegan { subject: &self.folder, phase, bytes_total });
            let progress = |bytes| {
                env.tell(Event::Advanced { bytes });
                env.proceed()
            };
            let (object, threads) = (&stored.object, env.threads);
            match deep {
                true => read_back_frames(
                    store,
                    object,
                    encoded,
                    self.repository.wrapping(&stored.artifact)?,
                    stored.block_bytes,
                    threads,
                    &progress,
                )?,
                false => read_back_bytes(store, object, encoded, threads, &progress)?,
            }
            env.tell(Event::PhaseEnded { phase });
        }
        Ok(())
    }

    /// Stores the hashes of blocks beside the artifacts that have them, and reads them back.
    pub(super) fn store_page_hashes(&mut self, name: &str) -> Result<()> {
        let Some(of) = self.stored.iter_mut().find(|stored| stored.block_bytes.is_some()) else {
            return Ok(());
        };
        let hashes = BlockHashes {
            block_bytes: of.block_bytes.unwrap_or_default(),
            hashes: std::mem::take(&mut of.encoded.block_hashes),
        };
        let plan = ArtifactPlan {
            role: PAGE_HASHES,
            extension: "pages".into(),
            plain_bytes_estimate: hashes.plain_bytes(),
            block_bytes: None,
            observer: None,
            file: None,
        };
        // Hashes do not compress: the fastest level only gives them frames and checksums.
        self.add(name, &plan, Compression::Zstd { level: 1 }, |sink| {
            let header = hashes.header();
            for mut bytes in [&header[..], hashes.hashes.as_flattened()] {
                while !bytes.is_empty() {
                    let buffer = sink.buffer();
                    let (now, later) = bytes.split_at(buffer.len().min(bytes.len()));
                    buffer[..now.len()].copy_from_slice(now);
                    sink.advance(now.len())?;
                    bytes = later;
                }
            }
            Ok(())
        })?;
        let Some(stored) = self.stored.last() else { return Ok(()) };
        let (store, threads) = (self.repository.store(), self.env.threads);
        read_back_bytes(store, &stored.object, &stored.encoded, threads, &|_| self.env.proceed())
    }

    /// What the manifest says of the reading back.
    pub(super) fn checks(&self, elapsed_ms: u64) -> Vec<Check> {
        vec![Check {
            name: "read_back".into(),
            on: if self.deep { "stored-pages" } else { "stored-bytes" }.into(),
            outcome: CheckOutcome::Passed,
            notes: Vec::new(),
            elapsed_ms,
        }]
    }

    /// The first artifact: the database.
    pub(super) fn first(&self) -> Option<(&ObjectName, &Artifact)> {
        self.stored.first().map(|stored| (&stored.object, &stored.artifact))
    }

    /// All, for the manifest.
    pub(super) fn artifacts(&self) -> Vec<Artifact> {
        self.stored.iter().map(|stored| stored.artifact.clone()).collect()
    }

    /// Deletes what a failed run stored. What cannot be deleted is garbage without a manifest:
    /// whether all is gone.
    pub(super) fn delete(&self) -> bool {
        let mut gone = true;
        for stored in &self.stored {
            if let Err(error) = self.repository.store().delete(&stored.object) {
                let left = format!("{} is left behind, without a manifest: {error}", stored.object);
                self.env.warn(&self.folder, &left);
                gone = false;
            }
        }
        gone
    }
}
