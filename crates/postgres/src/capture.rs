//! A dump on its way to the repository.
//!
//! A transaction of ours exports its snapshot, and `pg_dump` reads in it: so facts and rows are of
//! one moment. The dump streams from the child to the store; while it goes by it is read as a dump,
//! so that one that is empty, cut or polluted is known before anything counts as a backup. The
//! roles and other globals of the cluster follow as an artifact of their own.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;

use jiff::Timestamp;
use lifeboat_core::env::Env;
use lifeboat_core::manifest::{CheckLevel, CheckOutcome};
use lifeboat_core::source::{ArtifactPlan, Capture, CaptureReport, CheckReport, Sink};
use lifeboat_core::{Error, Kind, Result};
use serde_json::{Value, json};

use crate::archive::ArchiveReader;
use crate::child::Running;
use crate::client::Program;
use crate::facts::ServerFacts;
use crate::moment::{Held, MomentGroup};
use crate::script::ScriptReader;
use crate::session::Session;
use crate::source::{DumpFormat, PostgresSource};

/// What the rows and statements are in.
pub(crate) const ROLE_DUMP: &str = "dump";
/// Roles, tablespaces and their rights: what no dump of one database holds.
pub(crate) const ROLE_GLOBALS: &str = "globals";
/// In the facts of an archive: where in it the data of each entry begin, by the entry's number.
pub(crate) const DATA_BEGINS: &str = "data_begins";
/// How long a table may be locked exclusively by others before the dump gives up.
const LOCK_WAIT_MS: u64 = 60_000;
/// Globals larger than this are no globals.
const GLOBALS_BYTES_MAX: usize = 256 << 20;
/// So many of the dumper's warnings are kept.
const WARNINGS_MAX: usize = 20;

/// A database held at one moment.
pub(crate) struct DumpCapture<'a> {
    env: &'a Env,
    source: &'a PostgresSource,
    session: Session,
    snapshot: Option<String>,
    at: Timestamp,
    group: Option<Arc<MomentGroup>>,
    facts: ServerFacts,
    dump: Program,
    check: CheckLevel,
    globals: Vec<u8>,
    globals_have_passwords: bool,
    rows: Option<BTreeMap<String, u64>>,
    large_objects: u64,
    data_begins: serde_json::Map<String, Value>,
    warnings: Vec<String>,
}

impl<'a> DumpCapture<'a> {
    pub(crate) fn begin(
        env: &'a Env,
        source: &'a PostgresSource,
        check: CheckLevel,
    ) -> Result<Self> {
        let (held, group) = source.moment(env)?;
        let Held { mut session, snapshot, at } = held;
        let facts = ServerFacts::read(&mut session)?;
        let dump = source.client.program("pg_dump", Some(facts.major))?;
        let mut capture = DumpCapture {
            env,
            source,
            session,
            snapshot,
            at,
            group,
            facts,
            dump,
            check,
            globals: Vec::new(),
            globals_have_passwords: true,
            rows: None,
            large_objects: 0,
            data_begins: serde_json::Map::new(),
            warnings: Vec::new(),
        };
        // Before the dump: a role that may not read them should know at once.
        capture.read_globals()?;
        Ok(capture)
    }

    /// Roles with their passwords, or without them where the right is missing.
    fn read_globals(&mut self) -> Result<()> {
        let client = &self.source.client;
        let program = client.program("pg_dumpall", Some(self.facts.major))?;
        let what = format!("cannot read the roles of {}", client.address().label());
        let run = |with_passwords: bool| {
            let mut command = client.command(&program);
            command.arg("--globals-only").stdin(Stdio::null());
            if !with_passwords {
                command.arg("--no-role-passwords");
            }
            Running::output(command, what.as_str(), GLOBALS_BYTES_MAX)
        };
        let row = self.session.row(
            "SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT') AS may",
        )?;
        self.globals_have_passwords = row.get("may") == Some(&Value::Bool(true));
        let (globals, _) = run(self.globals_have_passwords)?;
        let mut reader = ScriptReader::new();
        reader.push(&globals)?;
        reader.finish().map_err(|error| error.context(what.clone()))?;
        self.globals = globals;
        Ok(())
    }

    fn stream_dump(&mut self, sink: &mut dyn Sink) -> Result<()> {
        let source = self.source;
        let mut command = source.client.command(&self.dump);
        command.stdin(Stdio::null());
        command.arg(format!("--lock-wait-timeout={LOCK_WAIT_MS}"));
        if let Some(snapshot) = &self.snapshot {
            command.arg(format!("--snapshot={snapshot}"));
        }
        match source.format {
            DumpFormat::Custom => command.args(["--format=custom", "--compress=0"]),
            DumpFormat::Plain => command.arg("--format=plain"),
        };
        command.args(source.selection.options());
        let what = source.attempt();
        let mut running = Running::start(command, what.as_str())?;
        let Some(mut stdout) = running.stdout() else {
            return Err(Error::new(Kind::Failed, format!("{what}: pg_dump has no output")));
        };
        let mut reader = DumpReader::new(source.format);
        loop {
            let buffer = sink.buffer();
            let count = running.read(self.env, &mut stdout, buffer)?;
            if count == 0 {
                break;
            }
            // A dump that makes no sense is most likely the end of its maker.
            if let Err(error) = reader.push(&buffer[..count]) {
                drop(stdout);
                return Err(running.blame(error.context(what)));
            }
            sink.advance(count)?;
        }
        let said = running.finish()?;
        if let DumpReader::Archive(reader) = &reader {
            let begins = reader.data_begins();
            self.data_begins = begins.map(|(id, at)| (id.to_string(), json!(at))).collect();
        }
        let (rows, large_objects) = reader.finish().map_err(|error| error.context(what))?;
        (self.rows, self.large_objects) = (Some(rows), large_objects);
        let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
        self.warnings.extend(lines.take(WARNINGS_MAX).map(str::to_owned));
        Ok(())
    }

    fn stream_globals(&mut self, sink: &mut dyn Sink) -> Result<()> {
        let mut rest = &self.globals[..];
        while !rest.is_empty() {
            let buffer = sink.buffer();
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            sink.advance(count)?;
        }
        Ok(())
    }

    fn manifest_facts(&self) -> serde_json::Map<String, Value> {
        let mut facts = self.facts.to_manifest();
        facts.insert("dump_program".into(), json!(format!("pg_dump {}", self.dump.version)));
        facts.insert(
            "dump_format".into(),
            json!(match self.source.format {
                DumpFormat::Custom => "custom",
                DumpFormat::Plain => "plain",
            }),
        );
        facts.insert("role_passwords".into(), json!(self.globals_have_passwords));
        facts.insert("large_objects".into(), json!(self.large_objects));
        // A dump reads through the server's cache: a page that is damaged on disk may go unseen.
        facts.insert("disk_pages".into(), json!("not verified"));
        if let Some(together) = self.group.as_ref().and_then(|group| group.to_manifest()) {
            facts.insert("held_together".into(), together);
        }
        if !self.data_begins.is_empty() {
            facts.insert(DATA_BEGINS.into(), json!(self.data_begins));
        }
        if !self.source.selection.is_everything() {
            facts.insert("selection".into(), json!(self.source.selection.options()));
        }
        facts
    }
}

impl Capture for DumpCapture<'_> {
    fn artifacts(&self) -> Vec<ArtifactPlan> {
        let plan = |role, extension: &'static str, plain_bytes_estimate| ArtifactPlan {
            role,
            extension: extension.into(),
            plain_bytes_estimate,
            block_bytes: None,
            observer: None,
            file: None,
        };
        let extension = match self.source.format {
            DumpFormat::Custom => "dump",
            DumpFormat::Plain => "sql",
        };
        vec![
            plan(ROLE_DUMP, extension, self.facts.database_bytes),
            plan(ROLE_GLOBALS, "globals.sql", self.globals.len() as u64),
        ]
    }

    fn write(&mut self, index: usize, sink: &mut dyn Sink) -> Result<()> {
        match index {
            0 => self.stream_dump(sink),
            _ => self.stream_globals(sink),
        }
    }

    fn finish(mut self: Box<Self>) -> Result<CaptureReport> {
        // The snapshot was held to the end: the server says so, not we.
        self.session.execute("COMMIT")?;
        let mut warnings = std::mem::take(&mut self.warnings);
        if !self.globals_have_passwords {
            warnings.push(
                "the passwords of roles are not in it: the role may not read them".to_owned(),
            );
        }
        let check = (self.check != CheckLevel::None).then(|| CheckReport {
            level: CheckLevel::Quick,
            outcome: CheckOutcome::Passed,
            what: vec!["dump_structure".to_owned()],
            damage: Vec::new(),
            notes: Vec::new(),
            rows: self.rows.clone(),
            elapsed_ms: 0,
        });
        let deferred = (self.check == CheckLevel::Full)
            .then(|| "a full check loads the dump into a throw-away cluster".to_owned());
        Ok(CaptureReport {
            facts: self.manifest_facts(),
            taken_at: Some(self.at),
            rows: self.rows.take(),
            check: check.filter(|_| deferred.is_none()),
            check_deferred: deferred,
            warnings,
            ..CaptureReport::default()
        })
    }
}

/// Reads a dump of either format.
pub(crate) enum DumpReader {
    Archive(Box<ArchiveReader>),
    Script(Box<ScriptReader>),
}

impl DumpReader {
    pub(crate) fn new(format: DumpFormat) -> Self {
        match format {
            DumpFormat::Custom => DumpReader::Archive(Box::new(ArchiveReader::new())),
            DumpFormat::Plain => DumpReader::Script(Box::new(ScriptReader::new())),
        }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            DumpReader::Archive(reader) => reader.push(bytes),
            DumpReader::Script(reader) => reader.push(bytes),
        }
    }

    /// Rows per table, and the number of large objects, where that is known.
    pub(crate) fn finish(self) -> Result<(BTreeMap<String, u64>, u64)> {
        match self {
            DumpReader::Archive(reader) => {
                let large_objects = reader.large_objects();
                Ok((reader.finish()?.1, large_objects))
            }
            DumpReader::Script(reader) => Ok((reader.finish()?.rows, 0)),
        }
    }
}
