//! The program, run as a person runs it: real databases, real repositories, real signals.
//!
//! One binary with a module for each topic, as linking is what takes the time. Every test has a
//! world of its own: a temporary folder with HOME and all XDG folders in it.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests take the time and the environment as they are, and a failure is a panic"
)]

mod adopt;
mod agent;
mod bad_input;
mod browser;
mod cache;
mod cluster;
mod cluster_delta;
mod cluster_options;
mod cluster_restore;
mod cluster_sizes;
mod cluster_standby;
mod cluster_verify;
mod complete_failure;
mod configuration;
mod control;
mod copy;
mod crash;
mod daily;
mod demo;
mod diff;
mod disasters;
mod doctor;
mod doctor_sqlite;
mod drill;
mod drill_limits;
mod drill_postgres;
mod drill_status;
mod drive;
mod files;
mod follow;
mod follow_end;
mod follow_far;
mod follow_many;
mod follow_rest;
mod follow_sealed;
mod from_scripts;
mod golden;
mod guard;
mod increments;
mod thinning;
mod init;
mod install;
mod kit;
mod litestream;
mod lease;
mod lost_backups;
mod migrate;
mod migrate_faults;
mod metrics;
mod notify;
mod object_storage;
mod off_site;
mod output;
mod packed_far;
mod physical;
mod postgres;
mod postgres_bad_input;
mod postgres_in_place;
mod postgres_page;
mod postgres_reach;
mod postgres_restore;
mod postgres_sealed;
mod postgres_server;
mod postgres_silent_failures;
mod proofs;
mod prune;
mod rebuild;
mod receivers;
mod rehearse;
mod rescue;
mod restore;
mod restore_all;
mod rotation;
mod rows_from;
mod round_trip;
mod runbooks;
mod salvage;
mod salvage_postgres;
mod sealed;
mod silent_failures;
mod silent_failures_setup;
#[allow(dead_code, reason = "the tests of stores use more of it")]
#[path = "../../../stores/tests/it/proxy.rs"]
mod proxy;
#[allow(dead_code, reason = "the tests of stores use more of it")]
#[path = "../../../stores/tests/it/servers.rs"]
mod s3_servers;
#[path = "../../../stores/tests/support/sshd.rs"]
mod sshd;
mod standard_tools;
#[allow(dead_code, reason = "the tests of stores use more of it")]
#[path = "../../../stores/tests/it/world.rs"]
mod stores_world;
mod soak;
mod standby;
mod standing;
mod standing_server;
mod status;
mod support;
mod wal;
mod wal_copies;
mod wal_moments;
mod wal_receive;
mod wal_records;
mod wal_remote;
mod wal_server;
mod watch;
mod web;
mod web_screens;
mod webdriver;
mod web_agent;
mod web_kept;
mod web_proxy;

#[test]
fn every_file_of_this_folder_is_a_module() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it");
    let list = std::fs::read_to_string(format!("{folder}/main.rs")).unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        // Others are what tests run: a receiver of mail.
        let Some(module) = name.strip_suffix(".rs") else { continue };
        let is_listed = module == "main" || list.contains(&format!("\nmod {module};\n"));
        assert!(is_listed, "{name} is not listed in main.rs: its tests do not run");
    }
}
