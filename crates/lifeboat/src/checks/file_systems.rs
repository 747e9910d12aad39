//! SQLite on a network file system: its locks do not hold there, and WAL mode needs shared memory
//! that such a file system does not give.

use std::path::Path;

use super::{Finding, Subject, existing};
use crate::config::diagnose::shown;

const CHECK: &str = "file system";

/// Numbers of the kernel for file systems that are on another host, or may be.
const FAR: &[(u64, &str)] = &[
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB 2"),
    (0x5346_414f, "AFS"),
    (0x00c3_6400, "Ceph"),
    (0x7375_7245, "Coda"),
    (0x0bd0_0bd0, "Lustre"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x6573_5546, "FUSE, such as sshfs"),
    (0x786f_4256, "a shared folder of VirtualBox"),
];

/// Each database's.
pub(super) fn of_databases(subject: &Subject<'_>) -> Vec<Finding> {
    let paths = subject.targets.iter().filter_map(|target| Some((target, target.path.as_ref()?)));
    let far = paths.filter_map(|(target, path)| {
        let kind = far_kind(&existing(path))?;
        let place = shown(path);
        let message = format!(
            "{place} is on {kind}: locks may not hold there, and two hosts that write corrupt it"
        );
        let hint = "move it to a disk of this host, and back it up from there";
        Some(Finding::warning(CHECK, &target.name, message, hint))
    });
    let findings: Vec<Finding> = far.collect();
    let has_any = subject.targets.iter().any(|target| target.path.is_some());
    match findings.is_empty() && has_any {
        true => vec![Finding::good(CHECK, "", "databases are on disks of this host")],
        false => findings,
    }
}

fn far_kind(path: &Path) -> Option<&'static str> {
    let kind = rustix::fs::statfs(path).ok()?.f_type;
    name_of(u64::try_from(kind & 0xffff_ffff).ok()?)
}

fn name_of(number: u64) -> Option<&'static str> {
    FAR.iter().find(|(far, _)| *far == number).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_of_the_host_are_told_from_others() {
        assert_eq!(name_of(0x6969), Some("NFS"));
        assert_eq!(name_of(0xff53_4d42), Some("CIFS"));
        // ext4, xfs, btrfs, tmpfs, overlay.
        for near in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630] {
            assert_eq!(name_of(near), None, "{near:x}");
        }
    }
}
