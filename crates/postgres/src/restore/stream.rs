//! Loads a whole archive while it is read: nothing of it is unpacked to our disk but its contents.
//! So are archives loaded for which our disk has no room, whose size is not known, or whose loaders
//! run elsewhere.
//!
//! First the tables are made, then several loaders take the rows as they come ([`super::feed`]),
//! and at the end indexes, constraints and rights follow, several at once. Rights come last because
//! a role may have taken from itself the right to write into its own table. Hashes are compared
//! when all was read: until then nothing counts, and the scratch database of a failure goes.

use std::process::Stdio;
use std::sync::Arc;
use std::thread::Scope;

use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::pipeline::{Expectation, decode};
use lifeboat_core::scratch::{Scratch, stored_expectation};
use lifeboat_core::{Error, Kind, Result};

use crate::archive::{ArchiveReader, Head, Piece};
use crate::child::Running;

use super::RestoreRequest;
use super::feed::{Blocks, Dealer};
use super::load::{JOBS_MAX, nothing_changed};
use super::sections::{SECTION_AFTER_DATA, SECTION_DATA, Sections, with_rights_last};
use super::stage::{Loaded, not_whole, open};

/// Whether the whole archive is wanted: parts are chosen by `pg_restore` itself.
pub(super) fn is_possible(request: &RestoreRequest<'_>) -> bool {
    request.schemas.is_empty() && request.tables.is_empty()
}

/// Loads all of it; the first error ends it.
pub(super) fn load(sections: Sections<'_>) -> Result<Loaded> {
    let Sections { env, request, plan, .. } = sections;
    let phase = "loading";
    let (reader, wrapping, artifact) = open(request.origin)?;
    let bytes_total = artifact.map(|artifact| artifact.plain_bytes);
    env.tell(Event::PhaseBegan { subject: &plan.what, phase, bytes_total });
    let expectation = match artifact {
        Some(artifact) => stored_expectation(artifact),
        None => Expectation { object: &plan.what, ..Expectation::default() },
    };
    let load = Load { env, sections };
    let rows = std::thread::scope(|scope| {
        let mut archive = ArchiveReader::new();
        let mut loaders = None;
        let read = decode(reader, wrapping, env.threads, &expectation, &mut |plain| {
            env.proceed()?;
            env.tell(Event::Advanced { bytes: plain.len() as u64 });
            archive.push_to(plain, &mut |piece| load.hear(scope, &mut loaders, &piece))
        });
        let read = read.and_then(|_| {
            let hear = &mut |piece: Piece<'_>| load.hear(scope, &mut loaders, &piece);
            archive.finish_to(hear).map_err(|error| not_whole(error, &plan.what))
        });
        let ended = loaders.map(|loaders| loaders.end(env, read.is_ok()));
        match (read, ended) {
            (Err(_), Some(Err(error))) | (Ok(_), Some(Err(error))) => Err(error),
            (Err(error), _) => Err(error),
            (Ok((_, rows)), Some(Ok(head))) => load.sections.after_data(&head).map(|()| rows),
            (Ok(_), None) => Err(Error::new(Kind::CheckFailed, "the archive has no contents")),
        }
    })?;
    env.tell(Event::PhaseEnded { phase });
    Ok(Loaded::of(rows))
}

struct Load<'a> {
    env: &'a Env,
    sections: Sections<'a>,
}

/// The loaders at work, and what deals the rows out to them.
struct Loaders<'a> {
    dealer: Dealer<'a>,
    running: Vec<Running>,
    head: Scratch,
}

impl<'a> Loaders<'a> {
    /// Lets the loaders come to their end. An error of one of them is what a reader that failed
    /// failed from, if it lost one; else all are ended.
    fn end(self, env: &Env, all_was_read: bool) -> Result<Scratch> {
        let lost = self.dealer.lost_one();
        // Now each one gets the end of its archive.
        drop(self.dealer);
        if all_was_read || lost {
            for running in self.running {
                running.finish_within(env).map_err(nothing_changed)?;
            }
        }
        Ok(self.head)
    }
}

impl<'a> Load<'a> {
    fn hear<'scope>(
        &self,
        scope: &'scope Scope<'scope, '_>,
        loaders: &mut Option<Loaders<'a>>,
        piece: &Piece<'_>,
    ) -> Result<()> {
        match (piece, loaders) {
            (Piece::Head(head), loaders) => {
                *loaders = Some(self.begin(scope, head)?);
                Ok(())
            }
            (piece, Some(loaders)) => loaders.dealer.take(piece),
            (_, None) => Err(Error::new(Kind::CheckFailed, "data before the contents")),
        }
    }

    /// Makes the tables, and starts the loaders.
    fn begin<'scope>(
        &self,
        scope: &'scope Scope<'scope, '_>,
        head: &Head<'_>,
    ) -> Result<Loaders<'a>> {
        let bytes = with_rights_last(head);
        let of_others = Arc::new(with_rows_alone(head, &bytes));
        let bytes = Arc::new(bytes);
        let file = self.sections.keep(&bytes)?;
        self.sections.before_data(&file)?;
        let blocks = Arc::new(Blocks::of(head.contents, head.int_bytes));
        let count = self.env.threads.clamp(1, JOBS_MAX);
        let (dealer, feeds) = Dealer::new(self.env, &blocks, count);
        let mut running = Vec::new();
        for (number, feed) in feeds.into_iter().enumerate() {
            let mut command = self.sections.command("data");
            command.stdin(Stdio::piped());
            let mut loader = self.sections.start(command)?;
            let Some(pipe) = loader.stdin() else {
                return Err(Error::new(Kind::Failed, "pg_restore has no input"));
            };
            let bytes = Arc::clone(if number == 0 { &bytes } else { &of_others });
            let blocks = Arc::clone(&blocks);
            // One that cannot write any more has lost its loader, whose error says why.
            scope.spawn(move || drop(feed.write(pipe, &bytes, &blocks)));
            running.push(loader);
        }
        Ok(Loaders { dealer, running, head: file })
    }
}

/// The contents as all loaders but the first have them: what is done once (large objects, the
/// numbers of sequences) is not among their data.
fn with_rows_alone(head: &Head<'_>, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (entry, place) in head.contents.entries.iter().zip(head.section_places) {
        let number = *place + 1;
        if !entry.has_rows && bytes[number] == SECTION_DATA {
            bytes[number] = SECTION_AFTER_DATA;
        }
    }
    bytes
}
