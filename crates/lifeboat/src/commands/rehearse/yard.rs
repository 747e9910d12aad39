//! Where things are broken: a scratch folder with a repository of its own, and this program run in
//! it with nothing of the host's configuration. Gone at the end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use jiff::Timestamp;
use lifeboat_core::env::Env;
use lifeboat_core::manifest::Manifest;
use lifeboat_core::repository::Repository;
use lifeboat_core::store::ObjectName;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::wal::{BasePlace, Kept, WalFile};
use lifeboat_sqlite::sample::{self, SampleOptions, Size, Writer, WriterOptions};
use lifeboat_stores::Options;

use crate::cluster_backups::ancestors;
use crate::commands::demo::own_program;
use crate::commands::drill::scratch::Scratch;
use crate::repositories;
use crate::selection::{self, Selected};
use crate::session::Session;

/// So many segments of a cluster's log are enough for one to be missing in their middle.
const SEGMENTS_MAX: usize = 5;

/// The scratch folder.
pub(super) struct Yard {
    scratch: Scratch,
    /// The newest good backup of the source, as it lies in the copy; `None` where no source was
    /// named.
    pub(super) copied: Option<Copied>,
}

/// A backup in the repository of the yard.
pub(super) struct Copied {
    pub(super) folder: String,
    pub(super) manifest: Manifest,
}

/// How a run of the program ended.
pub(super) struct Ran {
    pub(super) command: String,
    pub(super) code: i32,
    /// What it said on standard error.
    pub(super) said: String,
}

impl Yard {
    /// Makes it, and copies the newest backup of the source.
    pub(super) fn new(session: &Session, env: &Env, what: Option<&str>) -> Result<Yard> {
        let scratch = Scratch::new(env, &session.folders.scratch)?;
        let mut yard = Yard { scratch, copied: None };
        fs::write(yard.path("config.toml"), "").map_err(|error| failed("write", &error))?;
        if let Some(what) = what {
            let selected = selection::backup(session, env, what, None)?;
            copy(env, &selected, &yard.path("repo"))?;
            let Selected { folder, manifest, .. } = selected;
            yard.copied = Some(Copied { folder, manifest });
        }
        Ok(yard)
    }

    /// A path in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The same as text.
    pub(super) fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// Whether a name of it is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// The program in it.
    fn command(&self, program: &Path, before: &[&str], words: &[&str]) -> Command {
        let mut command = match before.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.args(words);
        if !words.contains(&"--config") {
            command.arg("--config").arg(self.path("config.toml"));
        }
        command.env("XDG_STATE_HOME", self.path("state")).env("TMPDIR", self.path("tmp"));
        command.env("AWS_ACCESS_KEY_ID", "rehearsal").env("AWS_SECRET_ACCESS_KEY", "rehearsal");
        command.current_dir(self.scratch.path()).stdin(Stdio::null());
        command
    }

    /// Runs it.
    pub(super) fn run(&self, words: &[&str]) -> Result<Ran> {
        self.run_behind(&[], words, &[])
    }

    /// Runs it behind another program, with variables.
    pub(super) fn run_behind(
        &self,
        before: &[&str],
        words: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Ran> {
        fs::create_dir_all(self.path("tmp")).map_err(|error| failed("make", &error))?;
        let program = own_program()?;
        // Behind another program, /proc/self is that one.
        let program = fs::canonicalize(&program).unwrap_or(program);
        let output = self
            .command(&program, before, words)
            .envs(variables.iter().copied())
            .output()
            .map_err(|error| failed("run this program in", &error))?;
        let here = format!("{}/", self.text(""));
        let plain = |text: &str| text.replace(&here.replace("//", "/"), "");
        Ok(Ran {
            command: plain(&format!("lifeboat {}", words.join(" "))),
            code: output.status.code().unwrap_or(-1),
            said: plain(String::from_utf8_lossy(&output.stderr).trim_end()),
        })
    }

    /// The same, for what must succeed before something can be broken.
    pub(super) fn prepare(&self, words: &[&str]) -> Result<()> {
        let ran = self.run(words)?;
        match ran.code {
            0 => Ok(()),
            code => Err(Error::new(
                Kind::Failed,
                format!(
                    "`{}` ended with {code} before anything was broken: {}",
                    ran.command, ran.said
                ),
            )),
        }
    }

    /// A database that is made for it, once.
    pub(super) fn made(&self) -> Result<PathBuf> {
        let path = self.path("made.db");
        if !path.exists() {
            let options = SampleOptions { size: Size::Messages(1_000), ..SampleOptions::default() };
            sample::create(&path, &options)?;
        }
        Ok(path)
    }

    /// Commits a transaction to that.
    pub(super) fn change(&self, at: Timestamp) -> Result<()> {
        let mut writer = Writer::open(&self.made()?, WriterOptions::default())?;
        writer.tick(at.as_millisecond()).map(drop)
    }
}

/// Copies a backup with what it builds on and its log, object by object as they are stored, into a
/// new repository.
fn copy(env: &Env, selected: &Selected, to: &Path) -> Result<()> {
    let store = lifeboat_stores::open(env, &repositories::local_url(to), &Options::default())?;
    let new = Repository::open_or_create(env, store)?;
    let (folder, name) = (&selected.folder, &selected.manifest.name);
    let from = selected.repository.store();
    let log = format!("{folder}/log/{name}/");
    let older = ancestors(selected)?;
    let names = older.iter().chain([&selected.manifest]).map(|backup| &backup.name);
    let files: Vec<String> = names.map(|name| format!("{folder}/{name}.")).collect();
    let place = BasePlace::of(&selected.manifest);
    let mut segments = 0;
    for object in from.list(Some(folder))? {
        let text = object.name.as_str();
        let is_log = place.as_ref().is_some_and(|place| is_behind(text, place));
        segments += usize::from(is_log);
        let belongs = text == format!("{folder}/source.json")
            || text.starts_with(&log)
            || is_log && segments <= SEGMENTS_MAX
            || files.iter().any(|file| text.starts_with(file));
        if belongs {
            env.proceed()?;
            copy_object(&selected.repository, &new, &object.name)?;
        }
    }
    Ok(())
}

/// Whether an object is a whole segment of the log that a backup of a cluster needs or that leads
/// on from it.
fn is_behind(object: &str, place: &BasePlace) -> bool {
    let Some((_, system, Kept::File(WalFile::Segment(segment)))) = Kept::of_object(object) else {
        return false;
    };
    system == place.system
        && segment.timeline == place.timeline
        && segment.begins(place.segment_bytes) >= place.begins
}

fn copy_object(from: &Repository, to: &Repository, name: &ObjectName) -> Result<()> {
    let mut reader = from.store().get(name, None)?;
    let mut put = to.store().put(name)?;
    io::copy(&mut reader, &mut put).map_err(|error| {
        let message = format!("cannot copy {name} into the scratch folder");
        Error::io(Kind::Failed, message, error).hint("choose another folder with TMPDIR")
    })?;
    put.commit()
}

pub(super) fn failed(what: &str, error: &io::Error) -> Error {
    let again = io::Error::new(error.kind(), error.to_string());
    Error::io(Kind::Failed, format!("cannot {what} the scratch folder"), again)
}
