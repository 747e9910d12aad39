//! A salvage that is killed half-way: nothing has the new name, the damaged file is as it was, and
//! the next one is not hindered.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::world::Sample;

const ITSELF: &str = "killed::until_it_is";
const PLACE: &str = "LIFEBOAT_TEST_SALVAGE_IN";

#[test]
#[ignore = "run by the test below, in a process that it kills"]
fn until_it_is() {
    let Some(folder) = std::env::var_os(PLACE) else { return };
    let folder = Path::new(&folder);
    let (database, to) = (folder.join("live.db"), folder.join("new.db"));
    let request = lifeboat_salvage::Request {
        database: &database,
        to: &to,
        donor: None,
        merge_rows: false,
        deleted: false,
    };
    lifeboat_salvage::salvage(&crate::world::env(), &request).unwrap();
}

#[test]
fn a_salvage_that_is_killed_leaves_nothing_that_looks_whole() {
    for is_damaged in [false, true] {
        let sample = Sample::chat("", 6_000);
        if is_damaged {
            sample.damage(|bytes| bytes[39] ^= 0x40);
        }
        let before = fs::read(&sample.path).unwrap();
        let part = || {
            let entries = fs::read_dir(sample.folder.path()).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name());
            names.into_iter().any(|name| name.to_string_lossy().starts_with(".new.db"))
        };
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", ITSELF, "--ignored"])
            .env(PLACE, sample.folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // As soon as it has begun to write, or has ended before anybody saw that.
        while !part() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(fs::read(&sample.path).unwrap(), before);
        if sample.to().exists() {
            // It was faster: then all of it is there.
            let content = crate::world::content(&rusqlite::Connection::open(sample.to()).unwrap());
            assert_eq!(content["Message"], sample.truth["Message"]);
            fs::remove_file(sample.to()).unwrap();
        }
        for entry in fs::read_dir(sample.folder.path()).unwrap() {
            let path = entry.unwrap().path();
            if path != sample.path {
                fs::remove_file(path).unwrap();
            }
        }
        sample.salvage().unwrap().all_certain(&sample);
    }
}
