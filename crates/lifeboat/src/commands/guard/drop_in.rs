//! What makes systemd look for pending migrations before a service starts.

use std::path::Path;
use std::process::ExitCode;

use lifeboat_core::{Error, Kind, Result};

use super::{Args, Guard};
use crate::commands::install::{self, Program};

/// Prints a drop-in for a unit, with the place where it goes.
pub(super) fn print(guard: &Guard<'_>, args: &Args, folder: &Path, unit: &str) -> Result<ExitCode> {
    let unit = match unit.contains('.') {
        true => unit.to_owned(),
        false => format!("{unit}.service"),
    };
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "@-_.:\\".contains(letter);
    if !unit.chars().all(plain) || unit.starts_with(['-', '.']) {
        let message = format!("`{}` is not the name of a systemd unit", unit.escape_debug());
        return Err(Error::new(Kind::Usage, message).hint("name one, such as superchat.service"));
    }
    let program = Program::of(guard.session)?;
    let words: Vec<String> = command(guard, args, &program, folder)?
        .iter()
        .map(|word| install::argument(word))
        .collect();
    let text = format!(
        "# /etc/systemd/system/{unit}.d/lifeboat-guard.conf\n\
         # then: systemctl daemon-reload\n\
         [Service]\n\
         # As root (+), which may read the database and write the repository. If this fails, the\n\
         # service does not start, so that its migration does not run without a backup.\n\
         ExecStartPre=+{}\n\
         # The backup counts as a part of the start.\n\
         TimeoutStartSec=1h\n",
        words.join(" ")
    );
    guard.session.printer.data(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn command(
    guard: &Guard<'_>,
    args: &Args,
    program: &Program,
    folder: &Path,
) -> Result<Vec<String>> {
    let mut words = vec![program.binary.clone()];
    // A service has no HOME in which another one would be found.
    let found = guard.session.config_files().unwrap_or_default();
    let found = found.first().map(|path| path.to_string_lossy().into_owned());
    if let Some(config) = program.config.clone().or(found) {
        words.extend(["--config".to_owned(), config]);
    }
    if guard.session.globals.repo.is_some() {
        let places = crate::repositories::places(guard.session)?;
        let label = places.first().map(|place| place.label().to_owned());
        words.extend(label.into_iter().flat_map(|label| ["--repo".to_owned(), label]));
    }
    words.extend(["guard".to_owned(), "--watch".to_owned()]);
    words.extend(["--pending".to_owned(), folder.to_string_lossy().into_owned()]);
    if args.beside {
        words.push("--beside".to_owned());
    }
    let config = guard.session.loaded().ok().map(|loaded| &loaded.config);
    let configured = config.is_some_and(|config| config.source.contains_key(&args.what));
    words.push(match configured {
        true => args.what.clone(),
        false => guard.place.to_string_lossy().into_owned(),
    });
    Ok(words)
}
