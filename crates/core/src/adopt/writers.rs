//! Who has a file open for writing: a script that is not done yet.
//!
//! Found among the open files of all processes that we may look at; one that we may not is noticed
//! when the file changes while it is read.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// The processes that write to files, by the file's device and inode: "gzip (process 12)".
#[derive(Debug, Default)]
pub(super) struct Writers(HashMap<(u64, u64), String>);

/// Read-only, in the lowest two bits of the flags of an open file.
const ACCESS_MODE: u32 = 0o3;

impl Writers {
    /// Looks at all processes but our own.
    pub(super) fn now() -> Self {
        let own = std::process::id();
        let mut writers = HashMap::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
            else {
                continue;
            };
            if pid == own {
                continue;
            }
            let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
            for descriptor in descriptors.flatten() {
                let number = descriptor.file_name();
                let info = format!("/proc/{pid}/fdinfo/{}", number.to_string_lossy());
                if !fs::read_to_string(info).is_ok_and(|info| is_writing(&info)) {
                    continue;
                }
                let Ok(file) = fs::metadata(descriptor.path()) else { continue };
                if file.is_file() {
                    writers.insert((file.dev(), file.ino()), name_of(pid));
                }
            }
        }
        Writers(writers)
    }

    /// Who writes to that file.
    pub(super) fn of(&self, identity: (u64, u64)) -> Option<&str> {
        self.0.get(&identity).map(String::as_str)
    }
}

fn is_writing(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & ACCESS_MODE != 0)
}

fn name_of(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    match name.trim_end() {
        "" => format!("process {pid}"),
        name => format!("{name} (process {pid})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn writers_are_found_and_readers_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let file = fs::File::create(&path).unwrap();
        let metadata = file.metadata().unwrap();
        let identity = (metadata.dev(), metadata.ino());
        let sleep = |input: Stdio, output: Stdio| {
            Command::new("sleep").arg("60").stdin(input).stdout(output).spawn().unwrap()
        };
        let mut reader = sleep(fs::File::open(&path).unwrap().into(), Stdio::null());
        let mut writer = sleep(Stdio::null(), file.into());
        let found = Writers::now();
        assert!(found.of(identity).unwrap().contains(&writer.id().to_string()));
        writer.kill().unwrap();
        writer.wait().unwrap();
        // A child that a test beside starts has it open too, for a moment.
        for _ in 0..1_000 {
            if Writers::now().of(identity).is_none() {
                break;
            }
        }
        assert_eq!(Writers::now().of(identity), None);
        reader.kill().unwrap();
        reader.wait().unwrap();
    }
}
