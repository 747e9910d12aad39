//! The log in repositories that are elsewhere, and in such that do not answer.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::cluster::MAIN;
use crate::s3_servers::{BUCKET, KEY, SECRET, Server};
use crate::sshd::Sshd;
use crate::support::{Ran, ran, set_mode};
use crate::wal::Folder;

/// `wal push` of a file of the folder, by the user of the tests, who has the keys.
fn push(folder: &Folder, name: &str, more: &[&str]) -> Ran {
    run(folder, &[&["wal", "push", &format!("pg_wal/{name}")], more].concat())
}

fn fetch(folder: &Folder, name: &str, more: &[&str]) -> Ran {
    run(folder, &[&["wal", "fetch", name, "pg_wal/RECOVERYXLOG", "--no-helper"], more].concat())
}

fn run(folder: &Folder, arguments: &[&str]) -> Ran {
    let mut command = folder.yard.own_command(Path::new(env!("CARGO_BIN_EXE_lifeboat")));
    ran(command.args(arguments).current_dir(&folder.data).output().unwrap())
}

/// Segments go there and come back, the same again is fine, other bytes are refused, and only an
/// answer makes a file absent.
#[track_caller]
fn go_there_and_back(folder: &Folder) {
    let names: Vec<String> = (3..6).map(|number| folder.segment(number, 7, 1)).collect();
    for name in &names {
        push(folder, name, &[]).expect(0);
    }
    push(folder, &names[0], &[]).expect(0);
    for name in &names {
        fetch(folder, name, &[]).expect(0);
        let (fetched, own) = (folder.data.join("pg_wal/RECOVERYXLOG"), folder.data.join("pg_wal"));
        assert!(fs::read(&fetched).unwrap() == fs::read(own.join(name)).unwrap(), "{name}");
        fs::remove_file(fetched).unwrap();
    }
    folder.segment(3, 7, 2);
    push(folder, &names[0], &[]).expect(23);
    fetch(folder, "000000010000000000000009", &[]).expect(1);
    run(folder, &["wal", "check", "--offline", "--read"]).expect(0);
}

fn signal(name: &str, id: u32) {
    assert!(Command::new("kill").args([name, &id.to_string()]).status().unwrap().success());
}

#[test]
fn a_log_goes_to_a_bucket_and_a_server_that_hangs_ends_in_an_error() {
    for server in [Server::s3s(), Server::moto()].into_iter().flatten() {
        let folder = Folder::new(&["one"]);
        let secret = folder.yard.path("secret");
        fs::write(&secret, SECRET).unwrap();
        set_mode(&secret, 0o600);
        folder.yard.configure(&format!(
            "[repository.bucket]\nurl = \"s3://{BUCKET}/chat\"\nendpoint = \"http://{}\"\n\
             access_key_id = \"{KEY}\"\nsecret_access_key = {{ file = \"$YARD/secret\" }}\n{MAIN}",
            server.address
        ));
        go_there_and_back(&folder);
        // Stopped, it takes connections and says nothing.
        let next = folder.segment(6, 7, 1);
        signal("-STOP", server.id());
        push(&folder, &next, &["--limit", "1s"]).expect(13).says("neither answers nor fails");
        fetch(&folder, "000000010000000000000003", &["--limit", "1s"]).expect(126);
        signal("-CONT", server.id());
        push(&folder, &next, &[]).expect(0);
        fetch(&folder, &next, &[]).expect(0);
    }
}

#[test]
fn a_log_goes_over_ssh_and_comes_back() {
    let Some(mut sshd) = Sshd::start("a_log_goes_over_ssh_and_comes_back", "") else { return };
    let folder = Folder::new(&["one"]);
    let store = tempfile::tempdir().unwrap();
    folder.yard.configure(&format!(
        "[repository.offsite]\nurl = \"sftp://backup-host{}\"\nssh_config = \"{}\"\n{MAIN}",
        store.path().join("log").display(),
        sshd.client_config().display(),
    ));
    go_there_and_back(&folder);
    // It is there, and says nothing.
    let next = folder.segment(7, 7, 1);
    sshd.hang();
    push(&folder, &next, &["--limit", "1s"]).expect(13).says("neither answers nor fails");
    fetch(&folder, "000000010000000000000003", &["--limit", "1s"]).expect(126);
    sshd.wake();
    push(&folder, &next, &[]).expect(0);
    fetch(&folder, &next, &[]).expect(0);
    // Without the server nobody answers that a file does not exist.
    sshd.stop();
    let next = folder.segment(6, 7, 1);
    let ran = push(&folder, &next, &[]);
    assert!((1..=125).contains(&ran.code), "{ran:?}");
    fetch(&folder, "000000010000000000000009", &["--limit", "3s"]).expect(126);
}

/// A file system whose server is gone: what opens a file waits for ever, in a call of the system.
#[test]
fn a_drive_that_hangs_ends_in_an_error_that_the_server_understands() {
    let folder = Folder::new(&["one"]);
    folder.push(&folder.segment(3, 7, 1)).expect(0);
    let next = folder.segment(4, 7, 1);
    // Nobody ever writes to it.
    let object = format!("one/main/wal/7/00000001/{next}.zst");
    assert!(Command::new("mkfifo").arg(folder.yard.path(&object)).status().unwrap().success());
    folder.yard.own(&object);
    let push = format!("pg_wal/{next}");
    let run = |arguments: &[&str]| folder.yard.lifeboat_in(&folder.data, arguments);
    run(&["wal", "push", &push, "--limit", "700ms"]).expect(13).says("--limit");
    run(&["wal", "fetch", &next, "pg_wal/x", "--limit", "700ms"]).expect(126).says("--limit");
    // A helper that hangs would keep the file from everybody.
    fs::create_dir(folder.data.join("pg_wal/archive_status")).unwrap();
    folder.yard.own("cluster/pg_wal/archive_status");
    folder.write(&format!("archive_status/{next}.ready"), b"");
    let data = folder.data.to_str().unwrap();
    run(&["wal", "helper", "push", "--data", data, "--limit", "700ms"]).expect(13);
    fs::remove_file(folder.yard.path(&object)).unwrap();
    folder.push(&next).expect(0);
    let _ = fs::remove_file(folder.data.join("pg_wal/x.lifeboat-part"));
    folder.gives_back(&next);
}

/// A segment whose bytes no compression makes smaller.
fn noise(folder: &Folder, number: usize) -> String {
    let name = folder.segment(number, 7, 1);
    let mut bytes = fs::read(folder.data.join("pg_wal").join(&name)).unwrap();
    let mut state = number as u64;
    for byte in &mut bytes[40..] {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (state >> 56) as u8;
    }
    folder.write(&name, &bytes);
    name
}

#[test]
fn a_full_repository_leaves_the_segment_to_the_server_and_nothing_half() {
    let folder = Folder::new(&["one"]);
    let (first, second) = (noise(&folder, 3), noise(&folder, 4));
    fs::create_dir(folder.yard.path("one")).unwrap();
    let script = format!(
        r#"
        mount -t tmpfs -o size=2m tmpfs "$one" || exit 98
        expect 0 "$lifeboat" wal push pg_wal/{first}
        expect 14 "$lifeboat" wal push pg_wal/{second}
        [ -z "$(find "$one" -name '*{second}*')" ] || exit 97
        expect 0 "$lifeboat" wal fetch {first} pg_wal/A --no-helper
        cmp pg_wal/A pg_wal/{first} || exit 97
        mount -o remount,size=20m "$one"
        expect 0 "$lifeboat" wal push pg_wal/{second}
        expect 0 "$lifeboat" wal fetch {second} pg_wal/A --no-helper
        cmp pg_wal/A pg_wal/{second} || exit 97
        "#
    );
    with_mounts(&folder, "a_full_repository_leaves_the_segment", &script);
}

/// Runs a script that mounts file systems which nobody else sees. `expect CODE COMMAND...` is a
/// command of it, 98 its code where nothing can be mounted.
fn with_mounts(folder: &Folder, test: &str, script: &str) {
    let begin = r#"
        expect() {
            code=$1; shift; set +e; "$@"; got=$?; set -e
            [ $got = $code ] || { echo "exit code $got of $*, not $code" >&2; exit 99; }
        }
    "#;
    let mut command = folder.yard.own_command(Path::new("unshare"));
    if !crate::support::is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let script = format!("{begin}{script}");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", &script]);
    command.env("one", folder.yard.path("one")).env("state", folder.yard.path("state"));
    command.env("lifeboat", env!("CARGO_BIN_EXE_lifeboat"));
    let ran = ran(command.current_dir(&folder.data).output().unwrap());
    if matches!(ran.code, 1 | 98) {
        crate::sshd::skipped(test, "nothing can be mounted");
        return;
    }
    ran.expect(0);
}

/// A log that is not archived because of a full disk would fill it for ever.
#[test]
fn a_disk_without_room_for_a_note_stops_neither_push_nor_fetch() {
    let folder = Folder::new(&["one"]);
    let names: Vec<String> = (3..6).map(|number| folder.segment(number, 7, 1)).collect();
    let script = format!(
        r#"
        mount -t tmpfs -o size=1m,nr_inodes=60 tmpfs "$state" || exit 98
        expect 0 "$lifeboat" wal push pg_wal/{}
        number=0; while touch "$state/$number" 2>/dev/null; do number=$((number + 1)); done
        expect 0 "$lifeboat" wal push pg_wal/{}
        expect 0 "$lifeboat" wal push pg_wal/{}
        for name in {}; do
            expect 0 "$lifeboat" wal fetch $name pg_wal/A
            cmp pg_wal/A pg_wal/$name || exit 97
        done
        expect 1 "$lifeboat" wal fetch 000000010000000000000009 pg_wal/A
        "#,
        names[0],
        names[1],
        names[2],
        names.join(" ")
    );
    with_mounts(&folder, "a_disk_without_room_for_a_note", &script);
}
