//! Object storage on servers of several makers.

use std::io::Write;

use lifeboat_core::Kind;
use lifeboat_core::secret::Secret;
use lifeboat_core::store::{Store, put_bytes};
use lifeboat_stores::{BucketStore, Options, conformance};

use crate::servers::{BUCKET, Server};
use crate::world::{env, name};

fn open(server: &Server, folder: &str) -> BucketStore {
    BucketStore::open(&env(), &format!("s3://{BUCKET}/{folder}"), &server.options()).unwrap()
}

#[test]
fn s3s_conforms() {
    let Some(server) = Server::s3s() else { return };
    // It looks whether an object is there, and then writes: writers that meet do not stop it.
    conformance::run_one_writer(&open(&server, "a b/repository")).unwrap();
    let careful = open(&server, "careful");
    careful.without_conditional_put();
    conformance::one_of_many_writers_wins(&careful).unwrap();
}

#[test]
fn moto_conforms() {
    let Some(server) = Server::moto() else { return };
    conformance::run(&open(&server, "a b/repository")).unwrap();
}

#[test]
fn a_server_that_overwrites_conforms_once_that_is_known() {
    let Some(server) = Server::rclone() else { return };
    let store = open(&server, "repository");
    store.without_conditional_put();
    conformance::run(&store).unwrap();
}

#[test]
fn keys_that_cannot_be_ours_break_no_list() {
    let Some(server) = Server::moto() else { return };
    let store = open(&server, "x");
    put_bytes(&store, &name("app/a.json"), b"ours").unwrap();
    for key in ["x//app", "x/app//b", "x/./c", "x/app/"] {
        server.make_bucket(&format!("/{BUCKET}/{key}"), &[]);
    }
    let names = |found: Vec<lifeboat_core::store::ObjectInfo>| -> Vec<String> {
        found.into_iter().map(|info| info.name.to_string()).collect()
    };
    let listed = names(store.list(None).unwrap());
    assert!(listed.contains(&"app/a.json".to_owned()), "{listed:?}");
    assert!(listed.iter().all(|name| !name.contains("//")), "{listed:?}");
    assert!(names(store.list(Some("app")).unwrap()).contains(&"app/a.json".to_owned()));
}

/// The account that Azurite has, and its key, which everybody knows.
const AZURITE: (&str, &str) = (
    "devstoreaccount1",
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
);

#[test]
fn azurite_conforms() {
    let Some(server) = Server::azurite() else { return };
    let (account, key) = AZURITE;
    let options = Options {
        endpoint: Some(format!("http://{}/{account}", server.address)),
        account: Some(account.to_owned()),
        account_key: Some(Secret::new(key)),
        ..Options::default()
    };
    let open = |url| BucketStore::open(&env(), url, &options).unwrap();
    // It has no container yet, and an answer to HEAD does not tell that from a missing object.
    let missing = put_bytes(&open("az://backups/x"), &name("a"), b"a").unwrap_err();
    assert_eq!(missing.kind(), Kind::StoreUnavailable);
    assert!(missing.hint_text().unwrap().contains("create the bucket backups"), "{missing:?}");
    server.make_container(account, key);
    conformance::run(&open("az://backups/a b/repository")).unwrap();
}

#[test]
fn uploads_of_killed_writers_are_found_and_ended() {
    for server in [Server::moto(), Server::rclone()].into_iter().flatten() {
        let store = open(&server, "a b/repository");
        let mut put = store.put(&name("source/x & y.db.zst")).unwrap();
        put.write_all(&vec![1; 20 << 20]).unwrap();
        // As a kill leaves it.
        std::mem::forget(put);
        assert!(store.list(None).unwrap().is_empty());
        let found = store.unfinished("source").unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        let part = &found[0].name;
        assert!(part.as_str().starts_with("source/.x & y.db.zst."), "{part}");
        assert!(store.unfinished("other").unwrap().is_empty());
        assert!(store.discard(part).unwrap() && store.discard(part).unwrap());
        assert!(store.unfinished("source").unwrap().is_empty());
    }
    // A server that cannot list them has none.
    let Some(server) = Server::s3s() else { return };
    assert!(open(&server, "x").unfinished("source").unwrap().is_empty());
}
