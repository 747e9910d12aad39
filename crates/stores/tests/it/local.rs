//! The local store passes the conformance suite, and fails as it must.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use lifeboat_core::Kind;
use lifeboat_core::store::{Store, put_bytes};
use lifeboat_stores::{LocalStore, Options, conformance};

use crate::world::{env, name};

#[test]
fn conforms() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(&env(), folder.path().join("a b/repository")).unwrap();
    conformance::run(&store).unwrap();
}

#[test]
fn files_are_private_whatever_the_umask() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("repository");
    let store = LocalStore::new(&env(), root.clone()).unwrap();
    put_bytes(&store, &name("source/file"), b"secret").unwrap();
    let mode = |path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(root.clone()), 0o700);
    assert_eq!(mode(root.join("source")), 0o700);
    assert_eq!(mode(root.join("source/file")), 0o600);
}

#[test]
fn a_repository_that_is_a_file_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("file");
    fs::write(&root, "precious").unwrap();
    let refused = LocalStore::new(&env(), root.clone()).err().unwrap();
    assert_eq!(refused.kind(), Kind::StoreUnavailable);
    assert_eq!(fs::read_to_string(&root).unwrap(), "precious");
}

#[test]
fn what_a_killed_process_left_is_not_listed() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(&env(), folder.path().into()).unwrap();
    let mut put = store.put(&name("source/file")).unwrap();
    put.write_all(b"half").unwrap();
    std::mem::forget(put);
    assert!(store.list(None).unwrap().is_empty());
    put_bytes(&store, &name("source/file"), b"whole").unwrap();
    assert_eq!(store.list(None).unwrap().len(), 1);
}

#[test]
fn a_url_names_a_path_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mit leer ü");
    let url = format!("file://{}", path.display()).replace(' ', "%20").replace('ü', "%C3%BC");
    let store = lifeboat_stores::open(&env(), &url, &Options::default()).unwrap();
    put_bytes(&*store, &name("x"), b"x").unwrap();
    assert!(path.join("x").exists());
    for wrong in ["file://relative", "file://host/path", "file:///%4", "gopher://x/y"] {
        assert_eq!(
            lifeboat_stores::open(&env(), wrong, &Options::default()).err().unwrap().kind(),
            Kind::Usage
        );
    }
}

#[test]
fn a_folder_without_permission_is_named() {
    if rustix::process::geteuid().is_root() {
        // Root may write anywhere: a read-only place is what remains.
        let store = LocalStore::new(&env(), "/proc/lifeboat".into()).unwrap();
        let failed = put_bytes(&store, &name("x"), b"x").unwrap_err();
        assert_eq!(failed.kind(), Kind::StoreUnavailable);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o500)).unwrap();
    let store = LocalStore::new(&env(), folder.path().join("repository")).unwrap();
    let failed = put_bytes(&store, &name("x"), b"x").unwrap_err();
    assert_eq!(failed.kind(), Kind::StoreUnavailable);
    assert!(failed.hint_text().is_some());
}
