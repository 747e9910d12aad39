//! A data directory becomes a cluster at a moment: a server of ours replays the log up to there.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::{Error, Kind, Result};

use super::serve::{LogServer, Supply};
use super::server::{FolderServer, ServerPrograms, Standing, last_words, server_folder};
use super::target::{Reached, Target, Timeline};
use super::write::{Place, failed, give, sync_all_below, write_file};
use crate::control::{Control, State};

/// What a recovery ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A cluster of its own, on a timeline of its own.
    Promoted,
    /// A cluster that stands at the moment, in recovery.
    Standing,
}

/// What is recovered, and how.
pub struct Recovery<'a> {
    /// The server's programs.
    pub programs: &'a ServerPrograms,
    /// The data directory.
    pub place: &'a Place,
    /// What its `pg_control` said before.
    pub control: &'a Control,
    /// Where the log comes from.
    pub supply: Arc<dyn Supply>,
    /// Up to where.
    pub target: &'a Target,
    /// Along which timeline.
    pub timeline: Timeline,
    /// What it ends with.
    pub ending: Ending,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The moment.
    pub reached: Reached,
    /// Files of the log that were used.
    pub log_files: u64,
    /// The timeline that the cluster is on now.
    pub timeline: u32,
}

impl Recovery<'_> {
    /// Recovers. `check` is asked while the server answers, where it is promoted. Afterwards the
    /// server is stopped, and all is synced.
    pub fn run(
        &self,
        env: &Env,
        check: &mut dyn FnMut(&FolderServer) -> Result<()>,
    ) -> Result<Recovered> {
        let phase = "recovering";
        let subject = self.place.data.to_string_lossy().into_owned();
        env.tell(Event::PhaseBegan { subject: &subject, phase, bytes_total: None });
        write_file(self.place, &self.place.data.join("recovery.signal"), b"", 0o600)?;
        let folder = server_folder(&self.place.data, self.place.owner)?;
        let spool = folder.path().join("log");
        fs::create_dir(&spool).map_err(|error| failed("make", &spool, error))?;
        give(&spool, self.place.owner)?;
        let log = LogServer::start(env, Arc::clone(&self.supply), &spool, self.place.owner)?;
        let mut settings = self.target.settings(self.timeline);
        settings.push(("restore_command", log.command()));
        let action = if self.ending == Ending::Promoted { "promote" } else { "shutdown" };
        settings.push(("recovery_target_action", action.to_owned()));
        let (data, owner) = (&self.place.data, self.place.owner);
        let limits = &self.control.limits;
        let mut server =
            FolderServer::start(self.programs, data, folder, owner, limits, &settings)?;
        server.end_with(env);
        let segment_bytes = u64::from(self.control.wal_segment_bytes);
        let mut told = 0;
        let standing = server.wait(env, &mut || {
            let (files, _) = log.served();
            env.tell(Event::Advanced { bytes: files.saturating_sub(told) * segment_bytes });
            told = files;
            Ok(())
        })?;
        let said = server.log();
        env.proceed()?;
        if standing == Standing::Ended && !self.stopped_as_asked(&said)? {
            return Err(self.failure(&said, log.failure()));
        }
        env.tell(Event::PhaseEnded { phase });
        let reached = Reached::of_log(&said);
        if standing == Standing::Ready {
            // Who had to go meanwhile was no damage.
            check(&server).or_else(|error| env.proceed().and(Err(error)))?;
            env.proceed()?;
            server.stop(env)?;
        }
        self.place.roots().try_for_each(sync_all_below)?;
        let control = Control::of_folder(data)?;
        if self.ending == Ending::Promoted {
            hand_over(self.place, &control)?;
        }
        let log_files = log.served().0;
        Ok(Recovered { reached, log_files, timeline: control.timeline })
    }

    /// Whether the server ended because it had reached the moment.
    fn stopped_as_asked(&self, said: &str) -> Result<bool> {
        let control = Control::of_folder(&self.place.data)?;
        let stands = matches!(control.state, State::ShutDownInRecovery | State::InArchiveRecovery);
        Ok(self.ending == Ending::Standing
            && stands
            && (said.contains("shutdown at recovery target") || said.contains("recovery stopping")))
    }

    fn failure(&self, said: &str, failure: Option<Error>) -> Error {
        if let Some(failure) = failure {
            return failure.context("the log could not be fetched");
        }
        let target = self.target.words();
        let has = |words: &str| said.contains(words);
        let reached = Reached::of_log(said);
        let last = match (&reached.last_commit, reached.position) {
            (Some(time), _) => format!(": the last transaction in the log is of {time}"),
            (None, Some(position)) => {
                format!(": the log ends at {position}, without a transaction")
            }
            (None, None) => String::new(),
        };
        if has("recovery ended before configured recovery target was reached") {
            return Error::new(Kind::NotCovered, format!("{target} is not in the log{last}"))
                .hint("restore to a moment before that, or to the end of the log: without --at");
        }
        if has("requested recovery stop point is before consistent recovery point") {
            return Error::new(
                Kind::NotCovered,
                format!("{target} lies before the end of the backup"),
            )
            .hint("restore from an older backup: SOURCE@TIME");
        }
        if has("is not a child of this server's history")
            || has("is not in this server's history")
            || has("does not exist") && has("recovery target timeline")
        {
            return Error::new(
                Kind::NotCovered,
                format!("the backup does not lead to that timeline: {}", last_words(said)),
            )
            .hint("restore from an older backup, SOURCE@TIME, or another timeline: --timeline");
        }
        if has("WAL was generated with wal_level=minimal") {
            return Error::new(
                Kind::NotCovered,
                format!("the log leads through a time of wal_level=minimal, before {target}"),
            )
            .hint("restore from a backup that was made after that time");
        }
        if has("could not locate a valid checkpoint record")
            || has("could not locate required checkpoint record")
        {
            return Error::new(
                Kind::NotCovered,
                format!("the log lacks the beginning of the backup: {}", last_words(said)),
            )
            .hint("restore from another backup: lifeboat list");
        }
        // Of a page for which half the space was left it is said how much of it was written.
        if has("No space left on device") || has(": wrote only ") {
            let data = self.place.data.display();
            let message = format!("no space is left at {data}: {}", last_words(said));
            return Error::new(Kind::NoSpace, message).hint(
                "make room: beside the backup there must be some for the log that is replayed",
            );
        }
        if has("Permission denied") {
            let data = self.place.data.display();
            let message = format!("the server's user may not enter {data}: {}", last_words(said));
            return Error::new(Kind::Failed, message).hint(
                "restore to a folder whose parents it may enter, such as /var/lib/postgresql",
            );
        }
        Error::new(Kind::CheckFailed, format!("the cluster does not recover: {}", last_words(said)))
            .hint("look at the backup with lifeboat verify, or restore from an older one")
    }
}

/// While we ran it, nothing was archived. What the archive must have of the new timeline is marked
/// for the server's own archiver: the history file above all, without which nobody could follow the
/// timeline again.
fn hand_over(place: &Place, control: &Control) -> Result<()> {
    let wal = place.data.join("pg_wal");
    let marks = wal.join("archive_status");
    let timeline = format!("{:08X}", control.timeline);
    let current = segment_of(control);
    let entries = fs::read_dir(&wal).map_err(|error| failed("read", &wal, error))?;
    for entry in entries {
        let entry = entry.map_err(|error| failed("read", &wal, error))?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let is_history = name == format!("{timeline}.history");
        let is_segment = name.len() == 24 && name.starts_with(&timeline) && name < current;
        if is_history || is_segment {
            let mark = marks.join(format!("{name}.ready"));
            if !marks.join(format!("{name}.done")).exists() {
                write_file(place, &mark, b"", 0o600)?;
            }
        }
    }
    Ok(())
}

/// The segment in which the newest checkpoint lies.
fn segment_of(control: &Control) -> String {
    let bytes = u64::from(control.wal_segment_bytes);
    let number = control.checkpoint / bytes;
    let per_log = (1_u64 << 32) / bytes;
    format!("{:08X}{:08X}{:08X}", control.timeline, number / per_log, number % per_log)
}

/// Whether a server has a data directory open.
pub fn running_server(data: &Path) -> Option<u32> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let process: u32 = text.lines().next()?.trim().parse().ok()?;
    Path::new("/proc").join(process.to_string()).exists().then_some(process)
}
