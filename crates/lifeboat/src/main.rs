//! The program: reads the command line, runs one command, and turns its result into an exit code.
//!
//! This crate is the only one that prints, reads the environment, or exits. `commands` has one
//! file per verb, `agent` what `lifeboat run` does beside them, `web` its page, `config` the
//! configuration, `ui` all that is seen, `world` the clock and the environment; `sources` and
//! `repositories` list what can be protected and where.

mod addresses;
mod agent;
mod attempts;
mod buckets;
mod cache;
mod checks;
mod cli;
mod cluster_backups;
mod clusters;
mod commands;
mod config;
mod control;
mod discover;
mod following;
mod hooks;
mod journal;
mod keys;
mod logs;
mod memory;
mod notify;
mod postgres;
mod private;
mod proofs;
mod rebuild;
mod replicas;
mod repositories;
mod rotation;
mod runs;
mod said;
mod selection;
mod session;
mod signals;
mod sources;
mod standing;
mod ui;
mod web;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
