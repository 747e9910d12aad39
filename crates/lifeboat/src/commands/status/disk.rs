//! How full the disks of local repositories are.

use lifeboat_core::env::Env;
use serde::Serialize;

use crate::repositories::{Opened, Place};
use crate::ui::units;

/// From here on a disk is worth a warning: there must be time left to do something.
pub(crate) const FULL_PERCENT: u8 = 80;

/// The disk below a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Disk {
    /// The repository's URL.
    pub(crate) repository: String,
    /// How much of what can be used is used, rounded up, as `df` has it.
    pub(crate) used_percent: u8,
    /// What is left for whoever is not root, in bytes.
    pub(crate) free_bytes: u64,
}

impl Disk {
    /// Whether it is worth a warning.
    pub(crate) fn is_full(&self) -> bool {
        self.used_percent >= FULL_PERCENT
    }

    /// What is wrong with it.
    pub(crate) fn complaint(&self) -> String {
        let free = units::bytes(self.free_bytes);
        format!("the disk of the repository is {} % full, {free} are left", self.used_percent)
    }
}

/// The disks of those repositories that are folders here. One that does not say how full it is
/// is a warning and left out.
pub(crate) fn of(env: &Env, opened: &[Opened]) -> Vec<Disk> {
    let mut disks = Vec::new();
    for one in opened {
        match look(&one.place, one.repository.url()) {
            Ok(disk) => disks.extend(disk),
            Err(why) => env.warn(&one.repository.url(), &why),
        }
    }
    disks
}

fn look(place: &Place, repository: String) -> Result<Option<Disk>, String> {
    let Some(path) = place.url.strip_prefix("file://") else { return Ok(None) };
    let path = lifeboat_stores::path_of_url(path).map_err(|error| error.to_string())?;
    let space = rustix::fs::statvfs(&path)
        .map_err(|error| format!("cannot ask how full its disk is: {error}"))?;
    let used = space.f_blocks.saturating_sub(space.f_bfree);
    let percent = percent(used, space.f_bavail);
    let free_bytes = space.f_bavail.saturating_mul(space.f_frsize);
    Ok(percent.map(|used_percent| Disk { repository, used_percent, free_bytes }))
}

/// Rounded up; `None` for a file system without a size.
fn percent(used: u64, available: u64) -> Option<u8> {
    let (used, available) = (u128::from(used), u128::from(available));
    let all = used + available;
    match all {
        0 => None,
        all => u8::try_from((used * 100).div_ceil(all)).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_from_its_bound_on() {
        assert_eq!(percent(79, 21), Some(79));
        assert_eq!(percent(791, 209), Some(80));
        assert_eq!(percent(u64::MAX, 0), Some(100));
        assert_eq!(percent(0, 0), None);
        let disk = |used_percent| Disk { repository: String::new(), used_percent, free_bytes: 0 };
        assert!(disk(80).is_full() && !disk(79).is_full());
    }
}
