//! The tools with which a backup is restored by hand, where lifeboat is missing or refuses.

use super::{Finding, Subject, has_program};

/// A tool, and Debian's package of it.
const TOOLS: &[(&str, &str)] = &[("zstd", "zstd"), ("gunzip", "gzip"), ("tar", "tar")];

pub(super) fn by_hand(subject: &Subject<'_>) -> Vec<Finding> {
    let has_sqlite = subject.targets.iter().any(|target| target.path.is_some());
    let sqlite = has_sqlite.then_some(("sqlite3", "sqlite3"));
    let tools: Vec<_> = TOOLS.iter().copied().chain(sqlite).collect();
    let missing: Vec<_> = tools.iter().filter(|(program, _)| !has_program(program)).collect();
    if missing.is_empty() {
        let names: Vec<&str> = tools.iter().map(|(program, _)| *program).collect();
        return vec![Finding::good(
            "tools",
            "",
            format!("{} for restores by hand", names.join(", ")),
        )];
    }
    let finding = |(program, package): &&(&str, &str)| {
        let message = "missing: backups could not be restored by hand";
        Finding::warning("tools", program, message, format!("apt-get install {package}"))
    };
    missing.iter().map(finding).collect()
}
