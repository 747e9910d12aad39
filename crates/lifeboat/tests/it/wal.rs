//! `wal push` and `wal fetch` on files that look like a server's.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use lifeboat_core::env::CRASH_POINTS;

use crate::cluster::{Yard, program};
use crate::support::{mode, ran, set_mode};

const MIB: usize = 1 << 20;

/// A data directory with a control file and segments, of no server.
pub(crate) struct Folder {
    pub(crate) yard: Yard,
    pub(crate) data: PathBuf,
    bytes: usize,
}

impl Folder {
    pub(crate) fn new(repositories: &[&str]) -> Folder {
        Folder::with(repositories, MIB, 7)
    }

    fn with(repositories: &[&str], bytes: usize, system: u64) -> Folder {
        let yard = Yard::new();
        yard.configure_main(repositories);
        let data = yard.path("cluster");
        for name in ["cluster", "cluster/global", "cluster/pg_wal"] {
            fs::create_dir(yard.path(name)).unwrap();
            yard.own(name);
        }
        let folder = Folder { yard, data, bytes };
        folder.set_system(system);
        folder
    }

    fn set_system(&self, system: u64) {
        let mut control = system.to_le_bytes().to_vec();
        control.extend(1300_u32.to_le_bytes());
        control.resize(8192, 0);
        fs::write(self.data.join("global/pg_control"), control).unwrap();
        self.yard.own("cluster/global/pg_control");
    }

    /// A segment of timeline 1 as a server of that system would have it. Its bytes depend on
    /// `seed`.
    pub(crate) fn segment(&self, number: usize, system: u64, seed: u8) -> String {
        let name = format!("00000001{:08X}{:08X}", 0, number);
        let mut bytes: Vec<u8> = (0..self.bytes).map(|at| (at * at / 977) as u8 ^ seed).collect();
        let mut header = Vec::new();
        header.extend(0xd110_u16.to_le_bytes());
        header.extend(2_u16.to_le_bytes());
        header.extend(1_u32.to_le_bytes());
        header.extend(((number * self.bytes) as u64).to_le_bytes());
        header.extend([0; 8]);
        header.extend(system.to_le_bytes());
        header.extend((self.bytes as u32).to_le_bytes());
        header.extend(8192_u32.to_le_bytes());
        bytes[..40].copy_from_slice(&header);
        self.write(&name, &bytes);
        name
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.data.join("pg_wal").join(name), bytes).unwrap();
        self.yard.own(&format!("cluster/pg_wal/{name}"));
    }

    pub(crate) fn push(&self, name: &str) -> crate::support::Ran {
        self.yard.lifeboat_in(&self.data, &["wal", "push", &format!("pg_wal/{name}")])
    }

    pub(crate) fn fetch(&self, name: &str) -> crate::support::Ran {
        let arguments = ["wal", "fetch", name, "pg_wal/RECOVERYXLOG", "--no-helper"];
        self.yard.lifeboat_in(&self.data, &arguments)
    }

    #[track_caller]
    pub(crate) fn gives_back(&self, name: &str) {
        self.fetch(name).expect(0);
        let (fetched, own) = (self.data.join("pg_wal/RECOVERYXLOG"), self.data.join("pg_wal"));
        assert!(fs::read(&fetched).unwrap() == fs::read(own.join(name)).unwrap(), "{name}");
        assert_eq!(mode(&fetched), 0o600);
        fs::remove_file(fetched).unwrap();
        assert!(
            fs::read_dir(own)
                .unwrap()
                .flatten()
                .all(|entry| { !entry.file_name().to_string_lossy().contains("lifeboat") })
        );
    }
}

#[test]
fn what_is_pushed_is_given_back_and_the_same_again_is_fine() {
    let folder = Folder::new(&["one", "two"]);
    let name = folder.segment(3, 7, 1);
    folder.push(&name).expect(0);
    for repository in ["one", "two"] {
        assert_eq!(folder.yard.log(repository), [format!("7/00000001/{name}")]);
    }
    folder.push(&name).expect(0);
    folder.gives_back(&name);
    // The other kinds of files.
    folder.write("00000002.history", b"1\t0/3000148\tno recovery target specified\n");
    folder.write(&format!("{name}.00000028.backup"), b"START WAL LOCATION: 0/3000028\n");
    let partial = format!("{name}.partial");
    fs::copy(folder.data.join("pg_wal").join(&name), folder.data.join("pg_wal").join(&partial))
        .unwrap();
    folder.yard.own(&format!("cluster/pg_wal/{partial}"));
    for name in ["00000002.history", &format!("{name}.00000028.backup"), &partial] {
        folder.push(name).expect(0);
        folder.push(name).expect(0);
        folder.gives_back(name);
    }
    // As it lies there it is what `zstd -d` reads.
    let object = folder.yard.path(&format!("one/main/wal/7/00000001/{name}.zst"));
    let plain = std::process::Command::new("zstd").arg("-dc").arg(&object).output().unwrap();
    assert!(plain.stdout == fs::read(folder.data.join("pg_wal").join(&name)).unwrap());
    assert_eq!(mode(&object), 0o600);
}

#[test]
fn what_is_sealed_is_known_again_without_a_key_and_given_back_with_one() {
    let folder = Folder::new(&["one"]);
    let yard = &folder.yard;
    let key = yard.path("key.txt");
    let made = yard.lifeboat_in(&folder.data, &["key", "new", key.to_str().unwrap()]).expect(0);
    let recipient = made.out.trim();
    let config = fs::read_to_string(yard.path("config.toml")).unwrap();
    let sealed = format!("/one\"\nencrypt_to = [\"{recipient}\"]\n");
    yard.configure(&config.replacen("/one\"\n", &sealed, 1));
    let name = folder.segment(3, 7, 1);
    // Twice, as the second push opens what the first one made.
    for number in [3, 4] {
        let name = folder.segment(number, 7, 1);
        folder.push(&name).expect(0);
        folder.push(&name).expect(0);
        let object = yard.path(&format!("one/main/wal/7/00000001/{name}.zst.age"));
        let bytes = fs::read(object).unwrap();
        assert!(bytes.starts_with(b"age-encryption.org/v1"));
    }
    folder.segment(3, 7, 2);
    folder.push(&name).expect(23);
    folder.segment(3, 7, 1);
    // Without the key nobody can say what is in it: no end of the log.
    folder.fetch(&name).expect(126);
    folder.fetch("000000010000000000000009").expect(1);
    let identity = ["--identity", key.to_str().unwrap()];
    let arguments = ["wal", "fetch", name.as_str(), "pg_wal/RECOVERYXLOG", "--no-helper"];
    yard.lifeboat_in(&folder.data, &[&arguments[..], &identity].concat()).expect(0);
    let (back, own) = (folder.data.join("pg_wal/RECOVERYXLOG"), folder.data.join("pg_wal"));
    assert!(fs::read(back).unwrap() == fs::read(own.join(&name)).unwrap());
    // With a helper too.
    let arguments = ["wal", "fetch", name.as_str(), "pg_wal/AGAIN"];
    yard.lifeboat_in(&folder.data, &[&arguments[..], &identity].concat()).expect(0);
}

#[test]
fn segments_of_any_size_go_there_and_back() {
    for bytes in [4 * MIB, 64 * MIB] {
        let folder = Folder::with(&["one"], bytes, 9);
        let name = folder.segment(1, 9, 3);
        folder.push(&name).expect(0);
        folder.gives_back(&name);
    }
}

#[test]
fn other_bytes_under_the_same_name_are_refused() {
    let folder = Folder::new(&["one"]);
    let name = folder.segment(3, 7, 1);
    folder.push(&name).expect(0);
    folder.segment(3, 7, 2);
    let ran = folder.push(&name).expect(23);
    // Both are named.
    let ran = ran.says(&format!("main/wal/7/00000001/{name}.zst"));
    ran.says(&format!("pg_wal/{name}"));
    folder.segment(3, 7, 1);
    folder.gives_back(&name);
    folder.write("00000002.history", b"1\t0/3000148\tone\n");
    folder.push("00000002.history").expect(0);
    folder.write("00000002.history", b"1\t0/3000148\tone and more\n");
    folder.push("00000002.history").expect(23);
}

#[test]
fn what_is_not_what_its_name_says_is_not_pushed() {
    let folder = Folder::new(&["one"]);
    let name = folder.segment(3, 7, 1);
    let sound = fs::read(folder.data.join("pg_wal").join(&name)).unwrap();
    // Another address, another timeline, cut, too long, no header, another cluster.
    let other = "000000010000000000000004";
    folder.write(other, &sound);
    folder.push(other).expect(20);
    folder.write(&name, &sound[..MIB - 1]);
    folder.push(&name).expect(20);
    let mut longer = sound.clone();
    longer.push(0);
    folder.write(&name, &longer);
    folder.push(&name).expect(20);
    folder.write(&name, &vec![0; MIB]);
    folder.push(&name).expect(20);
    folder.write(&name, b"");
    folder.push(&name).expect(20);
    folder.segment(3, 8, 1);
    folder.push(&name).expect(23).says("is of the cluster 8");
    folder.push("notes").expect(2);
    folder.push("000000010000000000000009").expect(15);
    assert!(folder.yard.log("one").is_empty());
    // An upgraded cluster has a log of its own.
    folder.set_system(8);
    folder.push(&name).expect(0);
    assert_eq!(folder.yard.log("one"), [format!("8/00000001/{name}")]);
}

#[test]
fn a_repository_that_fails_keeps_the_segment_and_the_others_have_it() {
    let folder = Folder::new(&["one", "two"]);
    let name = folder.segment(3, 7, 1);
    folder.push(&name).expect(0);
    // Not a folder any more: it can neither be read nor be written.
    let (two, aside) = (folder.yard.path("two"), folder.yard.path("aside"));
    fs::rename(&two, &aside).unwrap();
    fs::write(&two, "not a repository").unwrap();
    let next = folder.segment(4, 7, 1);
    let ran = folder.push(&next);
    assert!((1..=125).contains(&ran.code), "{ran:?}");
    assert!(folder.yard.log("one").contains(&format!("7/00000001/{next}")));
    // What the other one has is found; what it has not may be in the one that is lost.
    folder.gives_back(&next);
    folder.fetch("000000010000000000000009").expect(126);
    fs::remove_file(&two).unwrap();
    fs::rename(&aside, &two).unwrap();
    folder.push(&next).expect(0);
    assert_eq!(folder.yard.log("one"), folder.yard.log("two"));
    folder.fetch("000000010000000000000009").expect(1);
}

#[test]
fn no_new_archive_begins_where_a_drive_was_unmounted() {
    let folder = Folder::new(&["one"]);
    let name = folder.segment(3, 7, 1);
    folder.push(&name).expect(0);
    let (one, aside) = (folder.yard.path("one"), folder.yard.path("aside"));
    fs::rename(&one, &aside).unwrap();
    let next = folder.segment(4, 7, 1);
    folder.push(&next).expect(75);
    fs::create_dir(&one).unwrap();
    folder.yard.own("one");
    folder.push(&next).expect(75).says("is not there");
    assert_eq!(fs::read_dir(&one).unwrap().count(), 0);
    fs::remove_dir(&one).unwrap();
    fs::rename(&aside, &one).unwrap();
    folder.push(&next).expect(0);
    // Another repository at the same place.
    fs::rename(&one, &aside).unwrap();
    let known = fs::read_dir(folder.yard.path("state/lifeboat/wal/known")).unwrap();
    let known = known.flatten().next().unwrap().path();
    fs::remove_file(known).unwrap();
    folder.push(&next).expect(0);
    fs::remove_dir_all(&one).unwrap();
    fs::rename(&aside, &one).unwrap();
    folder.push(&next).expect(75).says("another repository");
}

#[test]
fn only_an_answer_makes_a_fetch_end_with_1() {
    let folder = Folder::new(&["one"]);
    let name = folder.segment(3, 7, 1);
    // No repository yet: nobody answered.
    folder.fetch(&name).expect(126);
    folder.push(&name).expect(0);
    folder.fetch("000000010000000000000004").expect(1);
    folder.fetch("00000002.history").expect(1);
    // An unmounted drive is an empty folder.
    let (one, aside) = (folder.yard.path("one"), folder.yard.path("aside"));
    fs::rename(&one, &aside).unwrap();
    fs::create_dir(&one).unwrap();
    folder.fetch("000000010000000000000004").expect(126);
    fs::remove_dir(&one).unwrap();
    fs::rename(&aside, &one).unwrap();
    // Wrong arguments, a wrong configuration, another source, another cluster.
    let run = |arguments: &[&str]| folder.yard.lifeboat_in(&folder.data, arguments);
    run(&["wal", "fetch"]).expect(126);
    run(&["wal", "fetch", "--what"]).expect(126);
    run(&["wal", "fetch", "notes", "x"]).expect(126);
    run(&["wal", "fetch", &name, "x", "--source", "other"]).expect(126);
    run(&["wal", "fetch", &name, "x", "--config", "/no/such"]).expect(126);
    folder.set_system(8);
    folder.fetch(&name).expect(126).says("the log of the cluster 7");
    folder.set_system(7);
    // Damage.
    let object = folder.yard.path(&format!("one/main/wal/7/00000001/{name}.zst"));
    let mut bytes = fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&object, &bytes).unwrap();
    folder.fetch(&name).expect(126);
    folder.push(&name).expect(20);
    fs::write(&object, &bytes[..middle]).unwrap();
    folder.fetch(&name).expect(126);
    assert!(!folder.data.join("pg_wal/RECOVERYXLOG").exists());
    // What push is told is wrong has codes that leave the archiver alive.
    for wrong in [&["wal", "push"][..], &["wal", "push", "a", "b"], &["wal", "push", "--what"]] {
        let ran = run(wrong);
        assert!((1..=125).contains(&ran.code), "{ran:?}");
    }
}

#[test]
fn killed_at_any_point_a_push_is_only_done_again() {
    let points = CRASH_POINTS.iter().filter(|point| point.starts_with("log."));
    for point in points {
        let folder = Folder::new(&["one"]);
        let name = folder.segment(3, 7, 1);
        let mut command = folder.yard.command(program());
        command.args(["wal", "push", &format!("pg_wal/{name}")]).current_dir(&folder.data);
        let killed = ran(command.env("LIFEBOAT_CRASH_AT", point).output().unwrap());
        assert_eq!(killed.code, 128 + 9, "{point} is never passed: {killed:?}");
        folder.push(&name).expect(0);
        folder.gives_back(&name);
    }
}

#[test]
fn a_helper_killed_before_its_note_leaves_a_file_that_is_only_pushed_again() {
    let folder = Folder::new(&["one"]);
    let name = folder.segment(3, 7, 1);
    fs::create_dir(folder.data.join("pg_wal/archive_status")).unwrap();
    folder.yard.own("cluster/pg_wal/archive_status");
    folder.write(&format!("archive_status/{name}.ready"), b"");
    let mut command = folder.yard.command(program());
    command.args(["wal", "helper", "push", "--data"]).arg(&folder.data);
    let killed = ran(command.env("LIFEBOAT_CRASH_AT", "wal.noted").output().unwrap());
    assert_eq!(killed.code, 128 + 9, "{killed:?}");
    // It is in the repository, and nobody says so: the server's own push finds the same bytes.
    assert_eq!(folder.yard.log("one"), [format!("7/00000001/{name}")]);
    folder.push(&name).expect(0);
    assert_eq!(folder.yard.log("one"), [format!("7/00000001/{name}")]);
    folder.gives_back(&name);
}

#[test]
fn a_note_of_a_helper_is_not_believed_of_a_file_that_changed() {
    let folder = Folder::new(&["one"]);
    fs::create_dir(folder.data.join("pg_wal/archive_status")).unwrap();
    folder.yard.own("cluster/pg_wal/archive_status");
    for (number, is_settled) in [(3, false), (4, true)] {
        let name = folder.segment(number, 7, 1);
        if is_settled {
            std::thread::sleep(Duration::from_millis(2_500));
        } else {
            // However long the helper takes to come to it.
            let later = SystemTime::now() + Duration::from_secs(3_600);
            let file = fs::File::options().write(true).open(folder.data.join("pg_wal").join(&name));
            file.unwrap().set_modified(later).unwrap();
        }
        folder.write(&format!("archive_status/{name}.ready"), b"");
        let mut command = folder.yard.command(program());
        command.args(["wal", "helper", "push", "--data"]).arg(&folder.data);
        let mut helper = command.spawn().unwrap();
        let note = loop {
            let spools = fs::read_dir(folder.yard.path("state/lifeboat/wal")).into_iter().flatten();
            let mut notes = spools.flatten().map(|spool| spool.path().join("pushed").join(&name));
            match notes.find_map(|note| fs::read_to_string(note).ok()) {
                Some(note) => break note,
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        helper.kill().unwrap();
        helper.wait().unwrap();
        assert!(note.contains(&format!("\"is_settled\":{is_settled}")), "{note}");
        folder.segment(number, 7, 2);
        folder.push(&name).expect(23);
        folder.segment(number, 7, 1);
        folder.push(&name).expect(0);
        folder.gives_back(&name);
    }
}

#[test]
fn a_segment_that_a_server_left_in_its_middle_counts_until_there_is_a_whole_one() {
    let folder = Folder::new(&["one"]);
    folder.push(&folder.segment(3, 7, 1)).expect(0);
    let name = folder.segment(4, 7, 1);
    let left = fs::read(folder.data.join("pg_wal").join(&name)).unwrap();
    let partial = format!("{name}.partial");
    folder.write(&partial, &left);
    folder.push(&partial).expect(0);
    folder.gives_back(&name);
    let check = ["wal", "check", "--offline", "--read", "--json"];
    folder.yard.lifeboat_in(&folder.data, &check).expect(0);
    folder.segment(4, 7, 2);
    folder.push(&name).expect(0);
    folder.gives_back(&name);
}

#[test]
fn a_repository_that_cannot_be_written_is_an_error_that_leaves_nothing() {
    let folder = Folder::new(&["one"]);
    let name = folder.segment(3, 7, 1);
    folder.push(&name).expect(0);
    let place = folder.yard.path("one/main/wal/7/00000001");
    set_mode(&place, 0o500);
    let next = folder.segment(4, 7, 1);
    folder.push(&next).expect(13);
    set_mode(&place, 0o700);
    assert_eq!(folder.yard.log("one").len(), 1);
    folder.push(&next).expect(0);
}
