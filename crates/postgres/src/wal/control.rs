//! What `global/pg_control` says of a cluster: its system identifier is the first thing in it.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use lifeboat_core::{Error, Kind, Result};

/// Of every version from 13 to 18.
const VERSIONS: std::ops::RangeInclusive<u32> = 1300..=1899;

/// What is known of a cluster by its control file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// The cluster's system identifier.
    pub system: u64,
    /// The version of the control file: 1300 of PostgreSQL 13 to 16, 1700, 1800.
    pub version: u32,
    /// The data directory.
    pub data: PathBuf,
}

impl Control {
    /// Reads the control file of a data directory.
    pub fn read(data: &Path) -> Result<Control> {
        let path = data.join("global/pg_control");
        let mut bytes = [0; 12];
        let read = File::open(&path).and_then(|mut file| file.read_exact(&mut bytes));
        read.map_err(|error| {
            let message = format!("cannot read {}", path.display());
            Error::io(Kind::SourceUnavailable, message, error)
                .hint("the server runs it in its data directory; by hand, change there first")
        })?;
        let mut system = [0; 8];
        system.copy_from_slice(&bytes[..8]);
        let mut version = [0; 4];
        version.copy_from_slice(&bytes[8..]);
        let (system, version) = (u64::from_le_bytes(system), u32::from_le_bytes(version));
        match VERSIONS.contains(&version) && system != 0 {
            true => Ok(Control { system, version, data: data.to_owned() }),
            false => Err(Error::new(
                Kind::SourceUnavailable,
                format!("{} is not of PostgreSQL 13 to 18", path.display()),
            )),
        }
    }

    /// The cluster to which a file of `pg_wal` belongs, as a server names it (`%p`): its data
    /// directory is the current one, or the one above the file's folder.
    pub fn of_file(path: &Path) -> Result<Control> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let above = match folder.file_name() {
            Some(_) => folder.parent().unwrap_or(Path::new("")),
            None => Path::new(".."),
        };
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        match Control::read(above) {
            Err(_) if above != Path::new(".") => Control::read(Path::new(".")),
            found => found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_of_a_file_is_the_folder_above_pg_wal() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("global")).unwrap();
        let mut bytes = 7_u64.to_le_bytes().to_vec();
        bytes.extend(1300_u32.to_le_bytes());
        std::fs::write(folder.path().join("global/pg_control"), &bytes).unwrap();
        let file = folder.path().join("pg_wal/000000010000000000000003");
        assert_eq!(Control::of_file(&file).unwrap().system, 7);
        bytes[8] = 0;
        std::fs::write(folder.path().join("global/pg_control"), &bytes).unwrap();
        assert_eq!(Control::of_file(&file).unwrap_err().kind(), Kind::SourceUnavailable);
    }
}
