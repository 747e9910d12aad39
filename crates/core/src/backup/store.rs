//! The artifacts of one run: read once, and stored in each repository that still takes them.

use super::branch::Branch;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::event::Event;
use crate::pipeline::{BlockHashes, Compression, EncodeOptions, encode_all};
use crate::source::{ArtifactPlan, Sink};

/// The role of the artifact that holds page hashes.
const PAGE_HASHES: &str = "page-hashes";

/// All repositories of a run.
pub(super) struct Branches<'a> {
    env: &'a Env,
    all: Vec<Branch<'a>>,
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

    fn pass_over(&mut self, bytes: u64) {
        self.sink.pass_over(bytes);
    }
}

impl<'a> Branches<'a> {
    pub(super) fn new(env: &'a Env, all: Vec<Branch<'a>>) -> Self {
        Branches { env, all }
    }

    /// Those that still take the backup.
    pub(super) fn alive(&mut self) -> impl Iterator<Item = &mut Branch<'a>> {
        self.all.iter_mut().filter(|branch| branch.is_alive())
    }

    pub(super) fn into_all(self) -> Vec<Branch<'a>> {
        self.all
    }

    /// The first that still takes the backup. What all have in common is asked of it.
    pub(super) fn first(&self) -> Result<&Branch<'a>> {
        self.all.iter().find(|branch| branch.is_alive()).ok_or_else(none_left)
    }

    fn subject(&self) -> String {
        self.first().map(|first| first.folder.clone()).unwrap_or_default()
    }

    /// Does a step in each, at once. One that fails is left behind; an error is that none is left,
    /// or that the run must end.
    pub(super) fn each(
        &mut self,
        step: impl Fn(&mut Branch<'a>) -> Result<()> + Sync,
    ) -> Result<()> {
        let mut alive: Vec<&mut Branch<'a>> = self.alive().collect();
        if let [only] = &mut alive[..] {
            only.error = step(only).err();
        } else {
            std::thread::scope(|scope| {
                let step = &step;
                let running: Vec<_> = alive
                    .iter_mut()
                    .map(|branch| scope.spawn(move || branch.error = step(branch).err()))
                    .collect();
                let panicked = |_| Error::new(Kind::Failed, "a thread of a repository panicked");
                running.into_iter().try_for_each(|one| one.join().map_err(panicked))
            })?;
        }
        self.require_one()
    }

    /// One is enough to go on.
    fn require_one(&self) -> Result<()> {
        self.env.proceed()?;
        self.first().map(drop)
    }

    /// Streams one artifact into each repository.
    pub(super) fn add(
        &mut self,
        name: &str,
        plan: &ArtifactPlan,
        compression: Option<Compression>,
        produce: impl FnOnce(&mut dyn Sink) -> Result<()>,
    ) -> Result<()> {
        let (env, subject, phase) = (self.env, self.subject(), "backing up");
        // Of what nobody can tell, no time is told that is left.
        let bytes_total = Some(plan.plain_bytes_estimate).filter(|bytes| *bytes > 0);
        env.tell(Event::PhaseBegan { subject: &subject, phase, bytes_total });
        let options = EncodeOptions {
            compression: Compression::DEFAULT,
            block_bytes: plan.block_bytes,
            observer: plan.observer.clone(),
            threads: env.threads,
            plain_bytes_estimate: plan.plain_bytes_estimate,
            seal: None,
        };
        let (mut places, mut outputs) = (Vec::new(), Vec::new());
        for (index, branch) in self.all.iter_mut().enumerate() {
            match branch.is_alive().then(|| branch.begin(name, plan, compression)) {
                Some(Ok((place, output))) => {
                    places.push((index, place));
                    outputs.push(output);
                }
                Some(Err(error)) => branch.error = Some(error),
                None => {}
            }
        }
        self.require_one()?;
        let progress = |bytes| env.tell(Event::Advanced { bytes });
        let encoded = encode_all(&options, outputs, &progress, |sink| {
            produce(&mut Watched { env, sink })?;
            env.crash.pass("backup.artifact.streamed")
        })?;
        env.tell(Event::PhaseEnded { phase });
        for ((index, place), encoded) in places.into_iter().zip(encoded) {
            match encoded {
                Ok(encoded) => self.all[index].note(place, plan, encoded),
                Err(error) => self.all[index].error = Some(error),
            }
        }
        self.require_one()
    }

    /// Reads all back, from all repositories at once.
    pub(super) fn read_back(&mut self, deep: bool) -> Result<()> {
        let (env, subject, phase) = (self.env, self.subject(), "reading back");
        let bytes_total = Some(self.alive().map(|one| one.bytes_to_read_back(deep)).sum());
        env.tell(Event::PhaseBegan { subject: &subject, phase, bytes_total });
        self.each(|branch| branch.read_back(deep))?;
        env.tell(Event::PhaseEnded { phase });
        Ok(())
    }

    /// Stores the hashes of blocks beside the artifacts that have them, and reads them back.
    pub(super) fn store_page_hashes(&mut self, name: &str) -> Result<()> {
        let first = self.first()?;
        let Some(of) = first.stored.iter().find(|stored| stored.block_bytes.is_some()) else {
            return Ok(());
        };
        let hashes = BlockHashes {
            block_bytes: of.block_bytes.unwrap_or_default(),
            hashes: of.encoded.block_hashes.clone(),
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
        self.add(name, &plan, Some(Compression::Zstd { level: 1 }), |sink| {
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
        self.each(|branch| branch.read_back_last())
    }
}

fn none_left() -> Error {
    Error::new(Kind::Incomplete, "no repository is left that takes the backup")
}
