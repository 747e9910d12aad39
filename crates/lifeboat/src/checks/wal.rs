//! The log of clusters: an archiver that fails, a disk that its log fills, slots that hold on to
//! it.

use lifeboat_postgres::wal::Complaint;

use super::{Finding, Subject};
use crate::commands::wal;

pub(super) fn archivers(subject: &Subject<'_>) -> Vec<Finding> {
    const CHECK: &str = "archiver";
    let clusters = subject.targets.iter().filter(|target| target.is_cluster());
    let one = |target: &crate::sources::Target| {
        let state = match wal::state(target) {
            Ok(state) => state,
            Err(error) => return vec![Finding::bad(CHECK, &target.name, &error)],
        };
        let complaints = state.complaints(wal::free_bytes(&state));
        if complaints.is_empty() {
            let last = state.last_archived.as_ref().map(|(file, _)| file.as_str());
            let last = last.map_or_else(
                || "nothing was archived yet".to_owned(),
                |file| format!("archives, the last file was {file}"),
            );
            return vec![Finding::good(CHECK, &target.name, last)];
        }
        let hint = "lifeboat wal check says what is in the repositories; lifeboat install postgres \
                    sets the server up";
        let warning =
            |complaint: Complaint| Finding::warning(CHECK, &target.name, complaint.text, hint);
        complaints.into_iter().map(warning).collect()
    };
    clusters.flat_map(one).collect()
}
