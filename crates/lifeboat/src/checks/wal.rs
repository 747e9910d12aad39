//! The log of clusters: an archiver that fails, a disk that its log fills, slots that hold on to
//! it.

use lifeboat_postgres::wal::{ArchiverState, Complaint};

use super::{Finding, Subject};
use crate::commands::wal;
use crate::sources::Target;
use crate::ui::units;

pub(super) fn archivers(subject: &Subject<'_>) -> Vec<Finding> {
    const CHECK: &str = "archiver";
    let clusters = subject.targets.iter().filter(|target| target.is_cluster());
    let one = |target: &Target| {
        let state = match wal::state(target) {
            Ok(state) => state,
            Err(error) => return vec![Finding::bad(CHECK, &target.name, &error)],
        };
        if let Some(finding) = too_seldom(target, &state) {
            return vec![finding];
        }
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

/// A server that ends files too seldom for what was promised, and whose log nobody receives.
fn too_seldom(target: &Target, state: &ArchiverState) -> Option<Finding> {
    let rpo_ms = target.rpo_ms.filter(|_| state.mode != "off")?;
    let is_received = state.slots.iter().any(|slot| slot.is_active);
    if is_received || (1..=rpo_ms).contains(&state.timeout_ms) {
        return None;
    }
    let what = match state.timeout_ms {
        0 => {
            "archive_timeout is 0: a commit leaves this host when its file is full, whenever that \
              is"
            .to_owned()
        }
        timeout_ms => format!(
            "archive_timeout is {}, and no more than {} may be lost",
            units::duration(timeout_ms),
            units::duration(rpo_ms)
        ),
    };
    let hint = "set archive_timeout to less than `rpo`, as `lifeboat install postgres` does";
    Some(Finding::warning("archiver", &target.name, what, hint))
}
