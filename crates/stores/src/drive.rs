//! A folder on a drive that is there at times: it is used only while the drive is mounted.
//!
//! The root of the mounted file system is held open, and everything goes through it. So a drive
//! that is taken away half-way gives errors, and never a file in the folder beneath.

use std::fs::{self, File};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use lifeboat_core::env::Env;
use lifeboat_core::store::{ObjectInfo, ObjectName, ObjectReader, Put, Space, Store};
use lifeboat_core::{Error, Kind, Result};

use crate::local::LocalStore;

/// Where a drive is mounted, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drive {
    /// The mount point.
    pub mount: PathBuf,
    /// The UUID of its file system, where only that one will do.
    pub file_system: Option<String>,
}

/// A store on such a drive.
pub(crate) struct DriveStore {
    drive: Drive,
    url: String,
    /// The root of the mounted file system: held, so that nothing else is meant half-way.
    _root: File,
    mount_id: u64,
    store: LocalStore,
}

/// A line of `/proc/self/mountinfo`.
struct Mounted {
    id: u64,
    point: PathBuf,
    device: PathBuf,
}

impl DriveStore {
    /// The store in a folder at or below the mount point. [`Kind::StoreAbsent`] if nothing is
    /// mounted there, or another file system.
    pub(crate) fn open(env: &Env, folder: &Path, drive: &Drive, url: &str) -> Result<Self> {
        let below = folder.strip_prefix(&drive.mount).map_err(|_| {
            let (folder, mount) = (folder.display(), drive.mount.display());
            Error::new(Kind::Usage, format!("{folder} does not lie below the mount point {mount}"))
                .hint("`mount` is the folder at which the drive appears, `url` one in it")
        })?;
        let (root, mounted) = drive.mounted()?;
        if let Some(wanted) = &drive.file_system {
            drive.require(wanted, &mounted.device)?;
        }
        let through = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
        let store = LocalStore::new(env, through.join(below))?;
        let (drive, url) = (drive.clone(), url.to_owned());
        Ok(DriveStore { drive, url, _root: root, mount_id: mounted.id, store })
    }

    /// Asked before each object: whether the drive is still there.
    fn require_mounted(&self) -> Result<()> {
        match self.drive.mounted()? {
            (_, mounted) if mounted.id == self.mount_id => Ok(()),
            _ => Err(self.drive.absent("something else is mounted there now")),
        }
    }
}

impl Drive {
    fn absent(&self, why: &str) -> Error {
        let mount = self.mount.display();
        Error::new(Kind::StoreAbsent, format!("the drive at {mount} is not there: {why}"))
            .hint(format!("attach it and mount it at {mount}; the next backup goes there again"))
    }

    /// The root of what is mounted, held open, and what it is.
    fn mounted(&self) -> Result<(File, Mounted)> {
        let failed = |error: std::io::Error| self.absent(&error.to_string());
        let root = File::open(&self.mount).map_err(failed)?;
        let point = fs::canonicalize(&self.mount).map_err(failed)?;
        let id = mount_id(&root).map_err(failed)?;
        // A folder that is mounted onto itself, as a service's sandbox does it, is no drive.
        let above = point.parent().unwrap_or(Path::new("/"));
        let device = |metadata: fs::Metadata| metadata.dev();
        let own = root.metadata().map(device).map_err(failed)?;
        if own == fs::metadata(above).map(device).map_err(failed)? {
            return Err(self.absent("nothing is mounted there"));
        }
        let table = fs::read_to_string("/proc/self/mountinfo").map_err(failed)?;
        let mounted = table.lines().filter_map(mounted).find(|mounted| mounted.id == id);
        match mounted.filter(|mounted| mounted.point == point) {
            Some(mounted) => Ok((root, mounted)),
            None => Err(self.absent("nothing is mounted there")),
        }
    }

    /// Whether a device holds the file system with that UUID.
    fn require(&self, wanted: &str, device: &Path) -> Result<()> {
        let same = |a: &Path, b: &Path| match (fs::canonicalize(a), fs::canonicalize(b)) {
            (Ok(a), Ok(b)) => a == b,
            _ => false,
        };
        let by_uuid = Path::new("/dev/disk/by-uuid");
        let names = [wanted.to_owned(), wanted.to_lowercase(), wanted.to_uppercase()];
        if names.iter().any(|name| same(&by_uuid.join(name), device)) {
            return Ok(());
        }
        // Without that folder, as in a container, or for a device that it does not list.
        match uuid_of(device) {
            Some(found) if found.eq_ignore_ascii_case(wanted) => Ok(()),
            Some(found) => {
                let why = format!("the file system {found} is mounted, not {wanted}");
                Err(self.absent(&why))
            }
            None => {
                let device = device.display();
                let why = format!("{device} does not show whether it is {wanted}");
                Err(self.absent(&why))
            }
        }
    }
}

/// The kernel's number for the mount that a file was opened in.
fn mount_id(file: &File) -> std::io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    id.ok_or_else(|| std::io::Error::other("the kernel does not say which mount it is"))
}

/// Number, mount point and device of a line: `36 35 98:0 / /mnt rw - ext4 /dev/sda1 rw`.
fn mounted(line: &str) -> Option<Mounted> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ');
    let id = before.next()?.parse().ok()?;
    let point = unescaped(before.nth(3)?);
    let device = unescaped(after.split(' ').nth(1)?);
    Some(Mounted { id, point, device })
}

/// Blanks and the like are written as three octal digits behind a `\`.
fn unescaped(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.filter(|_| first == b'\\');
        match byte.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

fn uuid_of(device: &Path) -> Option<String> {
    let program =
        ["/usr/sbin/blkid", "/sbin/blkid"].iter().find(|path| Path::new(path).exists())?;
    let mut command = std::process::Command::new(program);
    let output =
        command.args(["-c", "/dev/null", "-o", "value", "-s", "UUID"]).arg(device).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

impl Store for DriveStore {
    fn url(&self) -> String {
        self.url.clone()
    }

    fn put(&self, name: &ObjectName) -> Result<Box<dyn Put>> {
        self.require_mounted()?;
        self.store.put(name)
    }

    fn get(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<ObjectReader> {
        self.store.get(name, range)
    }

    fn head(&self, name: &ObjectName) -> Result<Option<ObjectInfo>> {
        self.store.head(name)
    }

    fn list(&self, prefix: Option<&str>) -> Result<Vec<ObjectInfo>> {
        self.store.list(prefix)
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.store.delete(name)
    }

    fn unfinished(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.store.unfinished(prefix)
    }

    fn discard(&self, name: &ObjectName) -> Result<bool> {
        self.store.discard(name)
    }

    fn check_writable(&self) -> Result<()> {
        self.require_mounted()?;
        self.store.check_writable()
    }

    fn space(&self) -> Result<Option<Space>> {
        self.store.space()
    }

    fn readers(&self) -> usize {
        self.store.readers()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo_are_taken_apart() {
        let line = r"36 35 98:0 /a /mnt/my\040drive rw,noatime master:1 - ext4 /dev/disk\134x rw";
        let found = mounted(line).unwrap();
        assert_eq!(found.id, 36);
        assert_eq!(found.point, Path::new("/mnt/my drive"));
        assert_eq!(found.device, Path::new("/dev/disk\\x"));
        for wrong in ["", "36 35 98:0 / /mnt", "x 35 98:0 / /mnt rw - ext4 /dev/sda"] {
            assert!(mounted(wrong).is_none(), "{wrong}");
        }
    }
}
