//! The sections of an archive that `pg_restore` itself runs: what comes before the rows, and what
//! comes after them. It needs the contents of the archive for that, and none of its data.

use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};

use lifeboat_core::env::Env;
use lifeboat_core::scratch::Scratch;
use lifeboat_core::{Error, Kind, Result};

use crate::archive::Head;
use crate::child::Running;

use super::RestoreRequest;
use super::load::{JOBS_MAX, ScratchDatabase, archive_options, nothing_changed, quick_session};
use super::plan::RestorePlan;

/// The sections of an archive as its entries have them.
pub(super) const SECTION_NONE: u8 = 1;
pub(super) const SECTION_DATA: u8 = 3;
pub(super) const SECTION_AFTER_DATA: u8 = 4;

/// Runs sections into a scratch database.
#[derive(Clone, Copy)]
pub(super) struct Sections<'a> {
    pub(super) env: &'a Env,
    pub(super) request: &'a RestoreRequest<'a>,
    pub(super) plan: &'a RestorePlan,
    pub(super) scratch: &'a ScratchDatabase,
}

impl Sections<'_> {
    /// Keeps the contents of an archive where `pg_restore` reads them.
    pub(super) fn keep(&self, contents: &[u8]) -> Result<Scratch> {
        let mut file = Scratch::new(self.request.scratch_folder, contents.len() as u64)?;
        file.file().write_all(contents).map_err(|error| {
            Error::io(Kind::Failed, format!("cannot write {}", file.path().display()), error)
        })?;
        Ok(file)
    }

    /// Makes the tables.
    pub(super) fn before_data(&self, contents: &Scratch) -> Result<()> {
        self.run("pre-data", contents, false)
    }

    /// What is among the data and needs none of them: the numbers of sequences.
    pub(super) fn beside_data(&self, contents: &Scratch) -> Result<()> {
        self.run("data", contents, false)
    }

    /// Indexes, constraints, triggers, rights: what is quicker, or only possible, afterwards.
    pub(super) fn after_data(&self, contents: &Scratch) -> Result<()> {
        self.run("post-data", contents, true)
    }

    fn run(&self, section: &str, contents: &Scratch, in_jobs: bool) -> Result<()> {
        let mut command = self.command(section);
        self.read_from(&mut command, contents, in_jobs)?;
        self.start(command)?.finish_within(self.env).map(drop).map_err(nothing_changed)
    }

    pub(super) fn command(&self, section: &str) -> Command {
        let mut command = self.scratch.client().command(&self.plan.loader);
        archive_options(&mut command, self.request);
        command.arg(format!("--section={section}"));
        quick_session(&mut command, self.plan);
        command
    }

    /// On this host from the file itself, which several jobs need; else through the pipe.
    fn read_from(&self, command: &mut Command, file: &Scratch, in_jobs: bool) -> Result<()> {
        let path = file.path();
        if self.scratch.client().is_local() {
            if in_jobs {
                command.arg(format!("--jobs={}", self.env.threads.clamp(1, JOBS_MAX)));
            }
            command.arg(path).stdin(Stdio::null());
            return Ok(());
        }
        let opened = File::open(&path).map_err(|error| {
            Error::io(Kind::Failed, format!("cannot read {}", path.display()), error)
        })?;
        command.stdin(opened);
        Ok(())
    }

    pub(super) fn start(&self, command: Command) -> Result<Running> {
        let (what, into) = (&self.plan.what, self.scratch.name());
        Running::start(command, format!("cannot load {what} into {into}"))
    }
}

/// The contents, with the rights among what comes after the data: a role may have taken from itself
/// the right to write into its own table.
pub(super) fn with_rights_last(head: &Head<'_>) -> Vec<u8> {
    let mut bytes = head.bytes.to_vec();
    for (entry, place) in head.contents.entries.iter().zip(head.section_places) {
        let number = *place + 1;
        if entry.kind == "ACL" && bytes[number] == SECTION_NONE {
            bytes[number] = SECTION_AFTER_DATA;
        }
    }
    bytes
}
