//! What every run needs of the host: folders of its own, and a time zone.

use std::path::Path;

use lifeboat_core::{Kind, Result};
use rustix::fs::Access;

use super::{Finding, Subject, existing, may};
use crate::config::diagnose::shown;
use crate::ui::units;

/// The folder of locks and of what was read before. A run goes on without it.
pub(super) fn state_folder(subject: &Subject<'_>) -> Vec<Finding> {
    const CHECK: &str = "state folder";
    let locks = subject.session.folders.locks.as_deref();
    let Some(folder) = locks.and_then(Path::parent) else {
        let message = "no place is known: runs at the same time do not see each other";
        return vec![Finding::warning(CHECK, "", message, "set HOME or XDG_STATE_HOME")];
    };
    vec![writable(CHECK, folder).at_most_a_warning()]
}

/// The folder of scratch restores.
pub(super) fn scratch_folder(subject: &Subject<'_>) -> Vec<Finding> {
    vec![writable("scratch folder", &subject.session.folders.scratch).at_most_a_warning()]
}

fn writable(check: &'static str, folder: &Path) -> Finding {
    let place = existing(folder);
    let access = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    let found: Result<String> = may(&place, access, Kind::Failed, "write to").map(|()| {
        let state = if place == folder { "writable" } else { "made when it is needed" };
        state.to_owned()
    });
    let finding = Finding::of(check, &shown(folder), found);
    match finding.hint {
        None if finding.kind.is_some() => {
            let word = units::shell_word(&shown(&place));
            Finding {
                hint: Some(format!("chown \"$(id -u)\" {word}; chmod u+rwx {word}")),
                ..finding
            }
        }
        _ => finding,
    }
}

/// Schedules and times without an offset are in the host's zone.
pub(super) fn time_zone(subject: &Subject<'_>) -> Vec<Finding> {
    const CHECK: &str = "time zone";
    let zone = &subject.session.surroundings.time_zone;
    let name = zone.iana_name().unwrap_or("set by a rule of its own");
    vec![match zone.is_unknown() {
        false => Finding::good(CHECK, name, "times and schedules are in this zone"),
        true => {
            let message = "the host's zone is not known: times are taken for UTC";
            Finding::warning(
                CHECK,
                "",
                message,
                "apt-get install tzdata; timedatectl set-timezone ZONE",
            )
        }
    }]
}
