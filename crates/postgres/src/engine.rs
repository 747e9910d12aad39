//! What all dumps share, without a live server: how they are known, and how they are checked.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use lifeboat_core::env::Env;
use lifeboat_core::manifest::{CheckLevel, CheckOutcome};
use lifeboat_core::source::{CheckReport, Engine, FileDescription, Holder};
use lifeboat_core::verify::row_differences;
use lifeboat_core::{Error, Kind, Result};

use serde_json::Value;

use crate::archive::Contents;
use crate::capture::DumpReader;
use crate::client::ClientOptions;
use crate::mend::remove_messages;
use crate::rehearse::{Rehearsed, rehearse};
use crate::script::{Script, ScriptReader};
use crate::source::{DumpFormat, KIND};

const READ_BYTES: usize = 1 << 20;

/// The engine of PostgreSQL's dumps.
#[derive(Clone, Debug, Default)]
pub struct PostgresEngine {
    /// Where programs are looked for; a full check needs those of a server.
    pub options: ClientOptions,
}

impl Engine for PostgresEngine {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn recognizes(&self, first_bytes: &[u8]) -> bool {
        if first_bytes.starts_with(b"PGDMP") {
            return true;
        }
        let reader = ScriptReader::new();
        let lines = first_bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
        let mut told =
            lines.filter(|line| !line.is_empty() && *line != b"--" && !reader.is_noise(line));
        told.next().is_some_and(ScriptReader::begins_a_dump)
    }

    fn check_file(
        &self,
        env: &Env,
        path: &Path,
        level: CheckLevel,
        _memory_bytes: u64,
    ) -> Result<CheckReport> {
        let begun_ms = env.clock.monotonic_ms();
        let mut report = CheckReport {
            level,
            outcome: CheckOutcome::Passed,
            what: vec!["dump_structure".to_owned()],
            damage: Vec::new(),
            notes: Vec::new(),
            rows: None,
            elapsed_ms: 0,
        };
        match read_whole(path) {
            Ok(whole) => report.rows = Some(whole.into_rows()),
            Err(error) if error.kind() == Kind::CheckFailed => {
                report.outcome = CheckOutcome::Failed;
                report.damage.push(error.message().to_owned());
            }
            Err(error) => return Err(error),
        }
        if level == CheckLevel::Full && report.outcome == CheckOutcome::Passed {
            self.rehearse(env, path, &mut report)?;
        }
        report.elapsed_ms = env.elapsed_ms(begun_ms);
        Ok(report)
    }

    fn describe_file(&self, path: &Path) -> Result<FileDescription> {
        let mut description = FileDescription::default();
        match read_whole(path)? {
            Whole::Archive(contents, rows) => {
                description.facts.insert("server_version".into(), contents.server_version.into());
                description.facts.insert("pg_dump_version".into(), contents.dump_version.into());
                description.rows = Some(rows);
            }
            Whole::Script(script) => {
                let version = script.server_version.map(Value::from);
                description.facts.extend(version.map(|text| ("server_version".into(), text)));
                description.rows = Some(script.rows);
                if script.noise_lines > 0 {
                    let count = script.noise_lines;
                    description.facts.insert("messages_of_pg_dump".into(), count.into());
                    description.notes.push(format!(
                        "{count} messages of pg_dump are in it, which break it; a restore leaves \
                         them out"
                    ));
                }
            }
        }
        Ok(description)
    }

    fn mend_restored(&self, file: &mut File) -> Result<Vec<String>> {
        let mut first = [0; 5];
        let failed = |error| Error::io(Kind::Failed, "cannot read the restored dump", error);
        let is_archive = match file.read_exact_at(&mut first, 0) {
            Ok(()) => &first == b"PGDMP",
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => false,
            Err(error) => return Err(failed(error)),
        };
        let removed = if is_archive { 0 } else { remove_messages(file)? };
        Ok(match removed {
            0 => Vec::new(),
            count => vec![format!("{count} messages of pg_dump in the dump were left out")],
        })
    }

    fn side_files(&self, _path: &Path) -> Vec<PathBuf> {
        Vec::new()
    }

    fn holders(&self, _path: &Path) -> Result<Vec<Holder>> {
        Ok(Vec::new())
    }
}

impl PostgresEngine {
    /// Loads the dump into a throw-away cluster; what was counted there replaces what the dump
    /// itself holds.
    fn rehearse(&self, env: &Env, path: &Path, report: &mut CheckReport) -> Result<()> {
        report.what.push("load_into_throw_away_cluster".to_owned());
        let folder = path.parent().unwrap_or(Path::new("/var/tmp"));
        match rehearse(env, &self.options, path, folder) {
            Ok(Rehearsed::Loaded(counted)) => {
                report.damage.extend(row_differences(report.rows.as_ref(), Some(&counted)));
                if !report.damage.is_empty() {
                    report.outcome = CheckOutcome::Failed;
                }
                report.rows = Some(counted);
            }
            Ok(Rehearsed::NotHere(why)) => {
                report.outcome = CheckOutcome::Partial;
                report.notes.push(format!("it was not loaded: {why}"));
            }
            Err(error) if error.kind() == Kind::CheckFailed => {
                report.outcome = CheckOutcome::Failed;
                report.damage.push(error.message().to_owned());
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// The format that a dump's first bytes show.
pub(crate) fn format_of(first_bytes: &[u8]) -> Option<DumpFormat> {
    if first_bytes.starts_with(b"PGDMP") {
        return Some(DumpFormat::Custom);
    }
    // What scripts wrote into it comes before the dump's own first line.
    let text = first_bytes.starts_with(b"--") || first_bytes.starts_with(b"pg_dump");
    text.then_some(DumpFormat::Plain)
}

/// A dump that is whole.
enum Whole {
    Archive(Contents, BTreeMap<String, u64>),
    Script(Script),
}

impl Whole {
    fn into_rows(self) -> BTreeMap<String, u64> {
        match self {
            Whole::Archive(_, rows) => rows,
            Whole::Script(script) => script.rows,
        }
    }
}

fn read_whole(path: &Path) -> Result<Whole> {
    let failed = |error| {
        Error::io(Kind::SourceUnavailable, format!("cannot read {}", path.display()), error)
    };
    let mut file = File::open(path).map_err(failed)?;
    let mut buffer = vec![0; READ_BYTES];
    let mut reader = None;
    loop {
        let count = file.read(&mut buffer).map_err(failed)?;
        if count == 0 {
            break;
        }
        let bytes = &buffer[..count];
        if reader.is_none() {
            let format = format_of(bytes)
                .ok_or_else(|| Error::new(Kind::CheckFailed, "it does not begin as a dump does"))?;
            reader = Some(DumpReader::new(format));
        }
        reader.iter_mut().try_for_each(|reader| reader.push(bytes))?;
    }
    match reader {
        Some(DumpReader::Archive(reader)) => {
            reader.finish().map(|(contents, rows)| Whole::Archive(contents, rows))
        }
        Some(DumpReader::Script(reader)) => reader.finish().map(Whole::Script),
        None => Err(Error::new(Kind::CheckFailed, "the dump is empty (0 bytes)")),
    }
}
