//! Object storage on servers of several makers.

use lifeboat_core::store::Store;
use lifeboat_stores::{BucketStore, conformance};

use crate::servers::{BUCKET, Server};
use crate::world::env;

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
