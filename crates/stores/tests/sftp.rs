//! The SFTP store on a real OpenSSH server: the conformance suite, and what goes wrong with hosts,
//! keys, disks and connections.
#![allow(clippy::disallowed_methods, reason = "tests stand outside the injected world")]
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

#[path = "support/sshd.rs"]
mod sshd;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lifeboat_core::env::{Clock, Env, Random};
use lifeboat_core::store::{ObjectName, Store, get_bytes, put_bytes};
use lifeboat_core::{Error, Kind};
use lifeboat_stores::{SftpAddress, SftpStore, conformance};
use sshd::{Sshd, skipped, user};

/// Real time, in which long waiting goes ten times faster.
struct Hasty(AtomicU64, std::time::Instant);

impl Clock for Hasty {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }
    fn monotonic_ms(&self) -> u64 {
        self.1.elapsed().as_millis() as u64
    }
    fn sleep_ms(&self, milliseconds: u64) {
        self.0.fetch_add(milliseconds, Ordering::Relaxed);
        // What is waited for shortly is a process of this host, which is no faster than it is.
        let shorter_ms = if milliseconds < 100 { milliseconds } else { milliseconds.div_ceil(10) };
        std::thread::sleep(std::time::Duration::from_millis(shorter_ms));
    }
}

struct Numbers(AtomicU64);

impl Random for Numbers {
    fn fill(&self, buffer: &mut [u8]) {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        buffer.fill(0);
        buffer[..8].copy_from_slice(&number.to_le_bytes());
    }
}

fn env() -> Env {
    let clock = Hasty(AtomicU64::new(0), std::time::Instant::now());
    Env::new(Arc::new(clock), Arc::new(Numbers(AtomicU64::new(1))), "host")
}

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

fn store_at(server: &Sshd, url: &str) -> SftpStore {
    let address = SftpAddress::parse(url).unwrap();
    SftpStore::new(&env(), address.with_ssh_config(Some(&server.client_config())))
}

/// A store in a folder of the server.
fn store(server: &Sshd, folder: &str) -> SftpStore {
    store_at(server, &format!("sftp://backup-host{}", server.path(folder).display()))
}

fn failure(store: &SftpStore) -> Error {
    put_bytes(store, &name("a/b"), b"x").unwrap_err()
}

fn hint(error: &Error) -> &str {
    error.hint_text().unwrap_or_default()
}

#[test]
fn conforms() {
    let Some(server) = Sshd::start("conforms", "") else { return };
    conformance::run(&store(&server, "a b/%41")).unwrap();
}

#[test]
fn conforms_with_the_server_program() {
    let program = "Subsystem sftp /usr/lib/openssh/sftp-server";
    let Some(server) = Sshd::start("conforms_with_the_server_program", program) else { return };
    conformance::run(&store(&server, "repository")).unwrap();
}

#[test]
fn a_jump_host_of_the_users_configuration_is_used() {
    let Some(server) = Sshd::start("a_jump_host", "") else { return };
    let more = format!(
        "Host inner\n  ProxyCommand ssh -F {} -W 127.0.0.1:%p jump-host\n  HostName 127.0.0.1\n  \
         Port {}\n",
        server.client_config().display(),
        fs::read_to_string(server.path("sshd_config")).unwrap()[5..].lines().next().unwrap()
    );
    server.configure_client("user_key", "known_hosts", &more);
    let url = format!("sftp://inner{}", server.path("far").display());
    let store = store_at(&server, &url);
    put_bytes(&store, &name("a/b"), &bytes(1 << 20)).unwrap();
    assert!(get_bytes(&store, &name("a/b"), 2 << 20).unwrap() == bytes(1 << 20));
    assert_eq!(store.list(None).unwrap().len(), 1);
}

/// A folder in which root can lock a user up: every folder above is root's.
fn chroot_folder() -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("lifeboat-chroot-").tempdir_in("/var").unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(folder.path().join("backups")).unwrap();
    folder
}

#[test]
fn works_in_a_chroot_that_allows_nothing_but_sftp() {
    if user() != "root" {
        skipped("works_in_a_chroot_that_allows_nothing_but_sftp", "it needs root");
        return;
    }
    let folder = chroot_folder();
    let more = format!("ChrootDirectory {}\nForceCommand internal-sftp\n", folder.path().display());
    let Some(server) = Sshd::start("conforms_in_a_chroot", &more) else { return };
    let store = store_at(&server, "sftp://backup-host/backups/lifeboat");
    put_bytes(&store, &name("folder/two words"), b"x").unwrap();
    assert_eq!(get_bytes(&store, &name("folder/two words"), 10).unwrap(), b"x");
    assert_eq!(
        put_bytes(&store, &name("folder/two words"), b"y").unwrap_err().kind(),
        Kind::Refused
    );
    assert!(folder.path().join("backups/lifeboat/folder/two words").exists());
    assert!(store.space().unwrap().is_some());
}

#[test]
fn a_path_below_home_is_one_below_the_folder_in_which_a_session_begins() {
    let home = tempfile::tempdir().unwrap();
    let more = format!("Subsystem sftp internal-sftp -d {}\n", home.path().display());
    let Some(server) = Sshd::start("a_path_below_home", &more) else { return };
    let store = store_at(&server, "sftp://backup-host/~/lifeboat");
    put_bytes(&store, &name("a/b"), b"x").unwrap();
    assert_eq!(fs::read(home.path().join("lifeboat/a/b")).unwrap(), b"x");
    let names: Vec<String> =
        store.list(None).unwrap().iter().map(|info| info.name.to_string()).collect();
    assert_eq!(names, ["a/b"]);
    assert!(store.space().unwrap().is_some());
}

#[test]
fn files_are_private_and_nothing_is_left_beside_them() {
    let Some(server) = Sshd::start("files_are_private", "") else { return };
    let store = store(&server, "repository");
    put_bytes(&store, &name("source/file"), b"secret").unwrap();
    let root = server.path("repository");
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!((mode(&root), mode(&root.join("source"))), (0o700, 0o700));
    assert_eq!(mode(&root.join("source/file")), 0o600);
    let metadata = fs::metadata(root.join("source/file")).unwrap();
    assert_eq!((metadata.nlink(), fs::read_dir(root.join("source")).unwrap().count()), (1, 1));
    assert!(store.check_writable().is_ok());
    assert_eq!(fs::read_dir(root).unwrap().count(), 1);
}

#[test]
fn what_a_killed_writer_left_is_unfinished() {
    let Some(server) = Sshd::start("what_a_killed_writer_left_is_unfinished", "") else { return };
    let store = store(&server, "repository");
    let folder = server.path("repository/source");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(".x.db.zst.0123456789abcdef.part"), b"half").unwrap();
    fs::write(folder.join(".profile"), b"not ours").unwrap();
    let found = store.unfinished("source").unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].bytes, 4);
    assert!(store.list(None).unwrap().is_empty());
    assert!(store.discard(&name("source/.profile")).is_err());
    assert!(store.discard(&found[0].name).unwrap());
    assert_eq!(fs::read_dir(folder).unwrap().count(), 1);
    assert!(store.unfinished("nothing").unwrap().is_empty());
}

#[test]
fn a_host_key_that_is_not_known_is_an_error_that_says_what_to_do() {
    let Some(server) = Sshd::start("a_host_key_that_is_not_known", "") else { return };
    server.configure_client("user_key", "no_known_hosts", "");
    let error = failure(&store(&server, "repository"));
    assert_eq!(error.kind(), Kind::StoreUnavailable);
    assert!(error.message().ends_with("its host key is not known here"), "{error:?}");
    assert!(hint(&error).contains("ssh-keyscan"), "{error:?}");
    assert!(!server.path("no_known_hosts").exists(), "a key was accepted");
}

#[test]
fn a_host_key_that_changed_is_another_error() {
    let Some(server) = Sshd::start("a_host_key_that_changed", "") else { return };
    let known = fs::read_to_string(server.path("known_hosts")).unwrap();
    let host = known.split(' ').next().unwrap();
    let other = fs::read_to_string(server.path("other_key.pub")).unwrap();
    fs::write(server.path("known_hosts"), format!("{host} {other}")).unwrap();
    let error = failure(&store(&server, "repository"));
    assert!(error.message().ends_with("it has another host key than it had"), "{error:?}");
    assert!(hint(&error).contains("ssh-keygen -R"), "{error:?}");
    assert!(!server.path("repository").exists());
}

#[test]
fn a_key_that_is_not_let_in_is_not_tried_again() {
    let Some(server) = Sshd::start("a_key_that_is_not_let_in", "") else { return };
    server.configure_client("other_key", "known_hosts", "");
    let error = failure(&store(&server, "repository"));
    assert_eq!(error.kind(), Kind::StoreUnavailable);
    assert!(error.message().ends_with("it does not let us in"), "{error:?}");
    assert!(hint(&error).contains("ssh-copy-id"), "{error:?}");
    let log = fs::read_to_string(server.path("log")).unwrap();
    assert_eq!(log.matches("Connection from").count() - 1, 1, "{log}");
}

#[test]
fn a_server_without_sftp_and_one_that_talks_first_are_told() {
    let none = "Subsystem other internal-sftp";
    let Some(server) = Sshd::start("a_server_without_sftp", none) else { return };
    let error = failure(&store(&server, "repository"));
    assert!(error.message().ends_with("it has no SFTP"), "{error:?}");
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("sftp");
    fs::write(&script, "echo Welcome, stranger\nexec /usr/lib/openssh/sftp-server\n").unwrap();
    let talks = format!("Subsystem sftp /bin/sh {}", script.display());
    let Some(server) = Sshd::start("a_server_that_talks_first", &talks) else { return };
    let error = failure(&store(&server, "repository"));
    assert!(error.message().contains("is not SFTP"), "{error:?}");
    assert!(hint(&error).contains("on a terminal only"), "{error:?}");
}

#[test]
fn a_host_that_is_down_is_tried_again_and_then_an_error() {
    let Some(mut server) = Sshd::start("a_host_that_is_down", "") else { return };
    server.stop();
    let error = failure(&store(&server, "repository"));
    assert_eq!(error.kind(), Kind::StoreUnavailable);
    assert!(error.message().ends_with("cannot be reached"), "{error:?}");
    assert!(format!("{error:?}").contains("Connection refused"), "{error:?}");
    server.restart();
    put_bytes(&store(&server, "repository"), &name("a/b"), b"x").unwrap();
}

/// It takes connections and says nothing: one attempt takes the whole limit, and there is no other.
#[test]
fn a_host_that_never_says_a_word_is_given_up_after_the_limit_that_is_set() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("sftp://nobody@{}/x", silent.local_addr().unwrap());
    let address = SftpAddress::parse(&url).unwrap().with_timeout_ms(Some(5_000));
    let error = failure(&SftpStore::new(&env(), address));
    assert_eq!(error.kind(), Kind::StoreUnavailable);
    assert!(error.message().ends_with("cannot be reached"), "{error:?}");
    silent.set_nonblocking(true).unwrap();
    assert_eq!(silent.incoming().take_while(Result::is_ok).count(), 1);
}

#[test]
fn a_user_who_may_not_write_can_read() {
    let read_only = "Subsystem sftp internal-sftp -R";
    let Some(server) = Sshd::start("a_user_who_may_not_write", read_only) else { return };
    fs::create_dir_all(server.path("repository/a")).unwrap();
    fs::write(server.path("repository/a/c"), b"there").unwrap();
    let store = store(&server, "repository");
    assert_eq!(get_bytes(&store, &name("a/c"), 100).unwrap(), b"there");
    assert_eq!(store.list(None).unwrap().len(), 1);
    let error = failure(&store);
    assert_eq!(error.kind(), Kind::StoreUnavailable);
    assert!(format!("{error:?}").contains("Permission denied"), "{error:?}");
    assert!(hint(&error).contains("the right to write"), "{error:?}");
    assert!(store.check_writable().is_err());
    assert_eq!(store.delete(&name("a/c")).unwrap_err().kind(), Kind::StoreUnavailable);
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|place| (place * 7 % 251) as u8).collect()
}

#[test]
fn writing_and_reading_go_on_after_the_connection_was_cut() {
    let Some(server) = Sshd::start("writing_and_reading_go_on", "") else { return };
    let store = store(&server, "repository");
    let whole = bytes(24 << 20);
    let mut put = store.put(&name("a/large")).unwrap();
    for (index, piece) in whole.chunks(3 << 20).enumerate() {
        put.write_all(piece).unwrap();
        if index % 3 == 1 {
            assert!(server.cut_sessions() > 0);
        }
    }
    server.cut_sessions();
    put.commit().unwrap();
    assert!(fs::read(server.path("repository/a/large")).unwrap() == whole);
    let mut reader = store.get(&name("a/large"), Some(5..(20 << 20))).unwrap();
    let mut read = vec![0; 9 << 20];
    reader.read_exact(&mut read).unwrap();
    assert!(server.cut_sessions() > 0);
    reader.read_to_end(&mut read).unwrap();
    assert!(read == whole[5..20 << 20]);
    assert_eq!(fs::read_dir(server.path("repository/a")).unwrap().count(), 1);
}

#[test]
fn a_server_that_dies_half_way_is_an_error_and_no_object() {
    let Some(mut server) = Sshd::start("a_server_that_dies_half_way", "") else { return };
    let store = store(&server, "repository");
    let mut put = store.put(&name("a/large")).unwrap();
    put.write_all(&bytes(9 << 20)).unwrap();
    server.stop();
    let error = put.write_all(&bytes(32 << 20)).unwrap_err();
    assert!(format!("{error:?}").contains("cannot be reached"), "{error:?}");
    drop(put);
    server.restart();
    assert!(store.list(None).unwrap().is_empty());
    assert_eq!(store.unfinished("a").unwrap().len(), 1);
}

/// Not dead, but stopped: `ssh` notices after a minute that nobody answers, and another session
/// goes on where this one was.
#[test]
fn a_server_that_hangs_is_given_up_after_its_time() {
    if std::env::var_os("LIFEBOAT_LONG_TESTS").is_none() {
        return skipped("a_server_that_hangs", "it takes a minute: LIFEBOAT_LONG_TESTS=1");
    }
    let Some(server) = Sshd::start("a_server_that_hangs", "") else { return };
    let store = store(&server, "repository");
    let whole = bytes(24 << 20);
    let mut put = store.put(&name("a/large")).unwrap();
    put.write_all(&whole[..8 << 20]).unwrap();
    assert!(server.hang_sessions() > 0);
    put.write_all(&whole[8 << 20..]).unwrap();
    put.commit().unwrap();
    assert!(fs::read(server.path("repository/a/large")).unwrap() == whole);
}

/// A host that takes connections and never says a word: each attempt has its time, and then it is
/// an error.
#[test]
fn a_server_that_was_stopped_is_an_error_after_its_time() {
    if std::env::var_os("LIFEBOAT_LONG_TESTS").is_none() {
        return skipped("a_server_that_was_stopped", "it takes minutes: LIFEBOAT_LONG_TESTS=1");
    }
    let Some(server) = Sshd::start("a_server_that_was_stopped", "") else { return };
    let store = store(&server, "repository");
    put_bytes(&store, &name("a/b"), b"x").unwrap();
    server.hang();
    let error = put_bytes(&store, &name("a/c"), b"x").unwrap_err();
    assert_eq!(error.kind(), Kind::StoreUnavailable, "{error:?}");
    assert!(error.message().ends_with("cannot be reached"), "{error:?}");
}

#[test]
fn a_full_disk_is_no_space_and_leaves_nothing() {
    let test = "a_full_disk_is_no_space_and_leaves_nothing";
    let disk = tempfile::tempdir().unwrap();
    let path = disk.path().to_str().unwrap();
    let script = "mount -t tmpfs -o size=3m tmpfs \"$0\" && exec \"$@\"";
    let starter = ["unshare", "-m", "sh", "-c", script, path];
    let may_mount = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", "mount -t tmpfs tmpfs /mnt"])
        .output()
        .is_ok_and(|output| output.status.success());
    if user() != "root" || !may_mount {
        skipped(test, "it may not mount a file system");
        return;
    }
    let Some(server) = Sshd::start_by(test, "", &starter) else { return };
    let store = store_at(&server, &format!("sftp://backup-host{path}/repository"));
    put_bytes(&store, &name("a/small"), &bytes(1 << 20)).unwrap();
    let error = put_bytes(&store, &name("a/large"), &bytes(9 << 20)).unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace, "{error:?}");
    let listed = store.list(None).unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert!(store.unfinished("a").unwrap().is_empty());
    let space = store.space().unwrap().unwrap();
    assert_eq!(space.used_bytes + space.free_bytes, 3 << 20);
}
