//! Increments after a few rows and after many: ours, restic's and borg's, and the floor.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{Bench, Options};
use crate::bench::measure::allocated_bytes;
use crate::process::{Taken, is_there, measured, output, run};

/// What a way stored at each step: the first copy, then each increment.
pub(super) struct Way {
    pub(super) name: &'static str,
    pub(super) steps: Vec<Step>,
}

/// One step of a way.
pub(super) struct Step {
    pub(super) bytes: u64,
    /// `None` where only the bytes are of interest.
    pub(super) taken: Option<Taken>,
    pub(super) note: String,
}

const PASSWORD: &str = "of a benchmark";

impl Bench {
    /// All ways on one database that grows between the steps.
    pub(super) fn increments(&self) -> Result<Vec<Way>> {
        eprintln!("increments");
        let place = self.fresh("increments")?;
        let mut ways =
            vec![Way { name: OURS, steps: Vec::new() }, Way { name: FLOOR, steps: Vec::new() }];
        for (program, name) in [("restic", RESTIC), ("borg", BORG)] {
            match is_there(program) {
                true => ways.push(Way { name, steps: Vec::new() }),
                false => {
                    eprintln!("skipped: {program} (as root: apt-get install -y restic borgbackup)")
                }
            }
        }
        ways.push(Way { name: COPY, steps: Vec::new() });
        let database = place.join("data/app.db");
        let (copy, before) = (place.join("copy/app.db"), place.join("before.db"));
        fs::create_dir_all(place.join("copy"))?;
        for rows in [None, Some(self.options.rows[0]), Some(self.options.rows[1])] {
            if let Some(rows) = rows {
                fs::rename(&copy, &before)?;
                self.add_rows(&database, &place, rows)?;
            }
            eprintln!("  {}", rows.map_or("the first".to_owned(), |rows| format!("{rows} rows")));
            let mut backup = Command::new("sqlite3");
            backup.arg(&database).arg(format!(".backup '{}'", copy.display()));
            let copied = measured(&mut backup, &place.join("said"))?;
            for way in &mut ways {
                let step = match way.name {
                    COPY => Step {
                        bytes: fs::metadata(&copy)?.len(),
                        taken: Some(copied),
                        note: String::new(),
                    },
                    FLOOR => self.floor(rows.map(|_| (before.as_path(), copy.as_path())))?,
                    name => self.step(name, &place, (&database, &copy), rows.is_none())?,
                };
                way.steps.push(step);
            }
        }
        Ok(ways)
    }

    /// Adds messages, ten in a transaction, as an application would, not a bulk load.
    fn add_rows(&self, database: &Path, place: &Path, rows: u64) -> Result<()> {
        let mut writer = self.command(&self.writer, place);
        let transactions = (rows / 10).max(1).to_string();
        writer.arg(database).args(["--messages", "10", "--transactions", &transactions]);
        output(&mut writer)?;
        output(Command::new("sqlite3").arg(database).arg("PRAGMA wal_checkpoint(TRUNCATE)"))?;
        Ok(())
    }

    fn floor(&self, files: Option<(&Path, &Path)>) -> Result<Step> {
        let Some((before, after)) = files else {
            return Ok(Step { bytes: 0, taken: None, note: String::new() });
        };
        let line = output(Command::new(&self.floor).arg(before).arg(after))?;
        let bytes = line.split(", ").nth(1).and_then(|part| part.split(' ').next()?.parse().ok());
        Ok(Step { bytes: bytes.unwrap_or(0), taken: None, note: line.trim().to_owned() })
    }

    fn step(
        &self,
        name: &str,
        place: &Path,
        (database, copy): (&Path, &Path),
        is_first: bool,
    ) -> Result<Step> {
        let stored = place.join(format!("stored/{}", name.split(' ').next().unwrap_or(name)));
        fs::create_dir_all(&stored)?;
        if is_first {
            self.prepare(name, place, &stored)?;
        }
        let mut command = self.make(name, place, &stored, (database, copy));
        run(&mut Command::new("sync"))?;
        let before = allocated_bytes(std::slice::from_ref(&stored));
        let taken = measured(&mut command, &place.join("said"))?;
        let bytes = allocated_bytes(&[stored]).saturating_sub(before);
        Ok(Step { bytes, taken: Some(taken), note: String::new() })
    }

    fn prepare(&self, name: &str, place: &Path, stored: &Path) -> Result<()> {
        let mut command = match name {
            RESTIC => self.foreign("restic", place, stored, &["init", "--quiet"]),
            BORG => self.foreign("borg", place, stored, &["init", "--encryption", "repokey"]),
            _ => return Ok(()),
        };
        measured(&mut command, &place.join("said"))?;
        Ok(())
    }

    fn make(&self, name: &str, place: &Path, stored: &Path, files: (&Path, &Path)) -> Command {
        let (database, copy) = files;
        match name {
            RESTIC => {
                let mut command = self.foreign("restic", place, stored, &["backup", "--quiet"]);
                command.arg(copy);
                command
            }
            BORG => {
                let mut command =
                    self.foreign("borg", place, stored, &["create", "--compression", "zstd,3"]);
                command.arg("::app-{now:%H%M%S%f}").arg(copy);
                command
            }
            _ => {
                let mut command = self.command(&self.lifeboat, place);
                command.args(["backup", "--incremental", "--quiet", "--check", "none", "--repo"]);
                command.arg(stored).arg(database);
                command
            }
        }
    }

    fn foreign(&self, program: &str, place: &Path, stored: &Path, words: &[&str]) -> Command {
        let mut command = self.command(&PathBuf::from(program), place);
        command.env("RESTIC_REPOSITORY", stored).env("RESTIC_PASSWORD", PASSWORD);
        command.env("BORG_REPO", stored).env("BORG_PASSPHRASE", PASSWORD);
        command.args(words);
        command
    }
}

pub(super) const OURS: &str = "lifeboat backup --incremental";
pub(super) const FLOOR: &str = "floor";
pub(super) const RESTIC: &str = "restic";
pub(super) const BORG: &str = "borg zstd,3";
/// What restic and borg need first.
const COPY: &str = "sqlite3 .backup";

/// What the steps are called.
pub(super) fn step_names(options: &Options) -> Vec<String> {
    let rows = options.rows.iter().map(|rows| format!("after {rows} rows"));
    std::iter::once("the first".to_owned()).chain(rows).collect()
}
