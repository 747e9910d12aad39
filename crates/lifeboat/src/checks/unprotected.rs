//! Databases of this host that nothing protects.

use std::path::PathBuf;

use lifeboat_core::env::Clock as _;

use super::{Finding, Subject};
use crate::config::diagnose::shown;
use crate::discover::{self, Search};
use crate::sources;
use crate::ui::units;
use crate::world::SystemClock;

const CHECK: &str = "unprotected";

/// How long a look around may take.
const TIME_MS_MAX: u64 = 5_000;
/// How many names of files it looks at.
const ENTRIES_MAX: usize = 100_000;
/// So many are named.
const NAMED_MAX: usize = 10;

/// What a search finds and the configuration does not name.
pub(super) fn databases(subject: &Subject<'_>) -> Vec<Finding> {
    let surroundings = &subject.session.surroundings;
    let is_here = subject.root == std::path::Path::new("/");
    let search = Search {
        root: subject.root.to_owned(),
        home: surroundings.path("HOME").filter(|_| is_here),
        current: None,
        named: Vec::new(),
        time_ms_max: TIME_MS_MAX,
        entries_max: ENTRIES_MAX,
    };
    let clock = SystemClock::start();
    let begun_ms = clock.monotonic_ms();
    let found = discover::search(&search, &clock);
    let protected: Vec<PathBuf> = subject
        .targets
        .iter()
        .filter_map(|target| sources::place_of(target.path.as_deref()?).ok())
        .collect();
    let is_protected = |path: &PathBuf| {
        let real = sources::place_of(&search.real(path)).unwrap_or_else(|_| path.clone());
        protected.contains(&real)
    };
    let without: Vec<_> =
        found.databases.iter().filter(|database| !is_protected(&database.path)).collect();
    let mut findings: Vec<Finding> = without
        .iter()
        .take(NAMED_MAX)
        .map(|database| {
            let path = shown(&database.path);
            let user = database.openers.first().map_or(String::new(), |opener| {
                format!(", open in {} ({})", opener.name, opener.pid)
            });
            let message =
                format!("no source is this database of {}{user}", units::bytes(database.bytes));
            let hint = format!(
                "lifeboat backup {}; or add it to the configuration: lifeboat init --dry-run",
                units::shell_word(&path)
            );
            Finding::warning(CHECK, &path, message, hint)
        })
        .collect();
    if without.len() > NAMED_MAX {
        let message = format!("and {} databases more", without.len() - NAMED_MAX);
        findings.push(Finding::warning(CHECK, "", message, "lifeboat init --dry-run"));
    }
    let has_server =
        subject.targets.iter().any(|target| target.database.is_some() || target.is_cluster());
    if !has_server {
        findings.extend(found.clusters.iter().filter(|cluster| cluster.is_running).map(
            |cluster| {
                let message = format!("no source is on this server: {}", cluster.describe());
                Finding::warning(CHECK, "PostgreSQL", message, "lifeboat init --dry-run")
            },
        ));
    }
    findings.extend(
        found
            .warnings
            .iter()
            .map(|warning| Finding::warning(CHECK, "", warning.clone(), "restart that process")),
    );
    let stopped = found.notes.iter().any(|note| note.contains("stopped at"));
    if findings.is_empty() {
        let took = units::duration(clock.monotonic_ms().saturating_sub(begun_ms));
        let how = if stopped { "where was looked until time was up" } else { "where was looked" };
        let message = format!("no database without a source {how} ({took})");
        findings.push(Finding::good(CHECK, "", message));
    }
    findings
}
