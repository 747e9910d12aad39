//! Services that the configuration names: a unit that systemd knows, or commands that can be run.

use std::path::{Path, PathBuf};

use lifeboat_core::{Error, Kind, Result};

use super::{Finding, Subject, has_program};
use crate::config::model::ServiceConfig;

const CHECK: &str = "service";

/// Where units lie.
const UNITS: &[&str] = &[
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/run/systemd/generator",
    "/run/systemd/generator.late",
];

pub(super) fn named(subject: &Subject<'_>) -> Vec<Finding> {
    let Ok(loaded) = subject.session.loaded() else { return Vec::new() };
    let services = loaded.config.source.iter().filter_map(|(name, source)| {
        let service = &source.service.as_ref()?.0;
        Some(Finding::of(CHECK, name, look(service)))
    });
    services.collect()
}

fn look(service: &ServiceConfig) -> Result<String> {
    let Some(unit) = &service.unit else {
        for command in [&service.stop, &service.start] {
            let program = command.first().map(String::as_str).unwrap_or_default();
            if !runs(program) {
                let message = format!("`{program}` of its service cannot be run");
                return Err(
                    Error::new(Kind::Usage, message).hint("write the whole path of the program")
                );
            }
        }
        return Ok(format!("`{}` can be run", service.stop.join(" ")));
    };
    let name = match unit.contains('.') {
        true => unit.clone(),
        false => format!("{unit}.service"),
    };
    // An instance, such as chat@1.service, has its file under the name without it.
    let template = name
        .split_once('@')
        .and_then(|(stem, rest)| rest.rsplit_once('.').map(|(_, kind)| format!("{stem}@.{kind}")));
    let names = [Some(name.clone()), template].into_iter().flatten();
    let found =
        names.flat_map(|name| UNITS.iter().map(move |folder| Path::new(folder).join(&name)));
    let found: Option<PathBuf> = found.into_iter().find(|path| path.exists());
    match found {
        Some(path) => Ok(format!("{name} is {}", path.display())),
        None => Err(Error::new(Kind::Usage, format!("there is no unit {name} on this host"))
            .hint("systemctl list-unit-files --type service; then name it: service = \"NAME\"")),
    }
}

fn runs(program: &str) -> bool {
    match program.contains('/') {
        true => rustix::fs::access(program, rustix::fs::Access::EXEC_OK).is_ok(),
        false => has_program(program),
    }
}
