//! A throw-away server ends with its run, at whatever moment that is.

use lifeboat_core::Kind;
use lifeboat_postgres::ThrowAwayCluster;

use crate::support::{env, options};

/// A server that has just begun ignores the signal by which it is ended at once, as its shell's
/// background does: it would live on, and whoever waits for it for ever.
#[test]
fn a_server_whose_run_is_over_before_it_has_begun_ends() {
    let over = env().limited(0, "0 s");
    let started = ThrowAwayCluster::start(&over, &options(), None, "/var/tmp".as_ref(), &[]);
    let error = started.err().expect("a run that is over starts no server");
    assert_ne!(error.kind(), Kind::SourceUnavailable, "{error}");
}
