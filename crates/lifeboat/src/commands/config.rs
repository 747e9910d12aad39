//! `lifeboat config`: writes, shows and tries the configuration.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lifeboat_core::source::Source as _;
use lifeboat_core::{Error, Kind, Result};
use serde_json::json;

use crate::checks;
use crate::config::diagnose::shown;
use crate::config::{example, origin, trust, validate};
use crate::repositories;
use crate::session::Session;
use crate::sources::{self, Target};
use crate::ui::printer::Style;
use crate::ui::{report, units};

/// Write, show or check the configuration
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Init(super::init::Args),
    Show(ShowArgs),
    Check(CheckArgs),
    Schema(SchemaArgs),
}

/// Print the configuration in force, and where each value comes from
#[derive(Debug, clap::Args)]
struct ShowArgs {}

/// Read the configuration, and look at each source and repository
#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// Try all that the sources and repositories need, as `lifeboat doctor` does: connections,
    /// rights, client programs, free space
    #[arg(long)]
    online: bool,
}

/// Print the JSON schema of the configuration
#[derive(Debug, clap::Args)]
struct SchemaArgs {}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    match args.action {
        Action::Init(args) => super::init::run(session, args),
        Action::Show(ShowArgs {}) => show(session),
        Action::Check(args) => check(session, &args),
        Action::Schema(SchemaArgs {}) => {
            session.printer.json_data(&example::schema())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Refuses to write a configuration over another file.
pub(super) fn require_absent(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(exists(path)),
        Err(_) => Ok(()),
    }
}

fn exists(path: &Path) -> Error {
    Error::new(Kind::Refused, format!("{} exists and is not overwritten", shown(path)))
        .hint("edit it, or name another file with --config")
}

/// Writes a configuration, whole or not at all, and never over another file.
pub(super) fn write_new(path: &Path, text: &str) -> Result<()> {
    let named = shown(path);
    let failed = |error| Error::io(Kind::Failed, format!("cannot write {named}"), error);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| {
        Error::io(Kind::Failed, format!("cannot make the folder {}", shown(folder)), error)
    })?;
    let name = path.file_name().ok_or_else(|| {
        Error::new(Kind::Usage, format!("{named} names no file")).hint("name a file with --config")
    })?;
    let mut part = std::ffi::OsString::from(".");
    part.push(name);
    part.push(format!(".{}.part", std::process::id()));
    let part = folder.join(part);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&part)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .map_err(failed)
        // A link is made only where nothing has the name.
        .and_then(|()| {
            fs::hard_link(&part, path).map_err(|error| match error.kind() {
                std::io::ErrorKind::AlreadyExists => exists(path),
                _ => failed(error),
            })
        });
    // What is left of it is of no use, whatever happened.
    let _ = fs::remove_file(&part);
    written?;
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

/// The place where a new configuration will be found; that of another system below its root.
pub(super) fn new_path(session: &Session, root: Option<&Path>) -> Result<PathBuf> {
    let surroundings = &session.surroundings;
    if let Some(path) = &session.globals.config {
        return Ok(path.clone());
    }
    if let Some(root) = root {
        return Ok(root.join("etc/lifeboat/config.toml"));
    }
    if let Some(path) = surroundings.path("LIFEBOAT_CONFIG") {
        return Ok(path);
    }
    let folder = match surroundings.is_root && surroundings.variable("XDG_CONFIG_HOME").is_none() {
        true => Some(Path::new("/etc/lifeboat").to_owned()),
        false => surroundings.config_folder(),
    };
    folder.map(|folder| folder.join("config.toml")).ok_or_else(|| {
        Error::new(Kind::Usage, "no place for a configuration: HOME is not set")
            .hint("name a file with --config")
    })
}

fn no_configuration() -> Error {
    Error::new(Kind::Usage, "there is no configuration").hint("`lifeboat config init` writes one")
}

fn show(session: &Session) -> Result<ExitCode> {
    let loaded = session.loaded()?;
    let files = session.config_files()?;
    if files.is_empty() {
        return Err(no_configuration());
    }
    let sections = origin::sections(loaded);
    match session.printer.json() {
        true => session.printer.json_data(&json!({ "files": files, "sections": sections }))?,
        false => session.printer.data(&origin::to_text(&sections))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn check(session: &Session, args: &CheckArgs) -> Result<ExitCode> {
    let loaded = session.loaded()?;
    let files = session.config_files()?;
    if files.is_empty() {
        return Err(no_configuration());
    }
    let later = validate::used_later(loaded);
    let doubts = match trust::has_commands(&loaded.config) {
        true => trust::doubts(&files, rustix::process::geteuid().as_raw()),
        false => Vec::new(),
    };
    let (lines, values, end) = match args.online {
        true => {
            let findings = checks::run(session, Path::new("/"), true);
            let line = |finding: &checks::Finding| finding.text(&session.printer);
            let lines: Vec<String> = findings.iter().map(line).collect();
            let values: Vec<_> = findings.iter().map(checks::Finding::as_json).collect();
            (lines, values, checks::conclude(&findings))
        }
        false => {
            let findings = findings(session)?;
            let lines = findings.iter().map(|finding| format!("{}\n", finding.text(session)));
            let (lines, values) = (lines.collect(), findings.iter().map(Finding::as_json));
            (lines, values.collect(), conclude(findings))
        }
    };
    if session.printer.json() {
        session.printer.json_data(&json!({
            "files": files, "findings": values, "used_later": later, "doubts": doubts,
        }))?;
    } else {
        session.printer.data(&lines.concat())?;
        for doubt in doubts {
            let message = format!("{doubt}: whoever can, runs commands in the next backup");
            session.printer.warning("", &message);
        }
        for key in later {
            let message = format!("{key} is accepted, used from a later version on");
            session.printer.warning("", &message);
        }
    }
    end.map(|()| ExitCode::SUCCESS)
}

/// A look at each repository and source.
fn findings(session: &Session) -> Result<Vec<Finding>> {
    let env = session.env()?;
    let config = &session.loaded()?.config;
    let mut findings = Vec::new();
    for place in repositories::places(session)? {
        let found = place.open(&env).map(|repository| format!("{} is there", repository.url()));
        findings.push(match found {
            // The first backup makes it.
            Err(error) if error.kind() == Kind::NoRepository => {
                let message = format!("{}: none yet, the first backup makes it", place.url);
                Finding::good("repository", place.label(), message)
            }
            found => Finding::of("repository", place.label(), found),
        });
    }
    for name in config.source.keys() {
        match sources::named(config, std::slice::from_ref(name)) {
            Ok(targets) => findings.extend(targets.iter().map(look)),
            Err(error) => findings.push(Finding::of("source", name, Err(error))),
        }
    }
    Ok(findings)
}

/// What a source is, and that it can be read.
fn look(target: &Target) -> Finding {
    let companions = target.companions.as_ref().map(|companions| companions.inspect());
    let found = target.source.inspect().and_then(|inspection| match companions {
        None => Ok(inspection.description),
        Some(files) => Ok(format!("{}, {}", inspection.description, files?.description)),
    });
    Finding::of("source", &target.name, found)
}

/// One thing that was looked at.
struct Finding {
    what: &'static str,
    name: String,
    found: Result<String>,
}

impl Finding {
    fn of(what: &'static str, name: &str, found: Result<String>) -> Self {
        Finding { what, name: name.to_owned(), found }
    }

    fn good(what: &'static str, name: &str, message: String) -> Self {
        Finding::of(what, name, Ok(message))
    }

    fn text(&self, session: &Session) -> String {
        let (style, mark, text) = match &self.found {
            Ok(text) => (Style::Good, "ok", text.clone()),
            Err(error) => {
                let causes: String =
                    report::causes(error).iter().map(|cause| format!(": {cause}")).collect();
                (Style::Bad, "failed", format!("{error}{causes}"))
            }
        };
        let mark = session.printer.paint_out(style, mark);
        format!("{mark} {} {}: {text}", self.what, units::one_line(&self.name))
    }

    fn as_json(&self) -> serde_json::Value {
        match &self.found {
            Ok(text) => {
                json!({ "what": self.what, "name": self.name, "ok": true, "found": text })
            }
            Err(error) => json!({
                "what": self.what, "name": self.name, "ok": false,
                "error": report::as_json(error),
            }),
        }
    }
}

/// The first failure decides the exit code; with one of them it is the error itself.
fn conclude(findings: Vec<Finding>) -> Result<()> {
    let all = findings.len();
    let mut errors: Vec<Error> =
        findings.into_iter().filter_map(|finding| finding.found.err()).collect();
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        count => {
            let message = format!("{count} of {all} sources and repositories failed");
            Err(Error::new(errors[0].kind(), message).hint("each line above says why"))
        }
    }
}
