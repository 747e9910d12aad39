//! Clusters with large tables and large tablespaces.

use std::fs;

use crate::cluster::{Cluster, Yard};
use crate::cluster_restore::{
    PORT, RESTORED, archived, lifeboat, lifeboat_as_we_are, moment, primary,
};
use crate::postgres_server::{majors, skipped};

/// A file of a relation ends at 1 GiB, and its blocks are counted on in the next one.
#[test]
fn a_table_of_several_files_in_a_tablespace_comes_back_page_by_page() {
    if majors().len() < 4 {
        skipped("a table of more than 1 GiB: with LIFEBOAT_LONG_TESTS=1");
        return;
    }
    for major in [15, 18] {
        let yard = Yard::new();
        let mut primary = primary(&yard, major);
        fs::create_dir(yard.path("space")).unwrap();
        yard.own("space");
        let space = yard.path("space");
        primary.ask(PORT, &format!("CREATE TABLESPACE large LOCATION '{}'", space.display()));
        // One row on each page.
        let wide = "CREATE TABLE wide (n int, x text) WITH (fillfactor = 10) TABLESPACE large";
        primary.ask(PORT, wide);
        let rows = "INSERT INTO wide SELECT g, repeat('x', 600) FROM generate_series(1, 140000) g";
        primary.ask(PORT, rows);
        if major >= 17 {
            primary.ask(PORT, "ALTER SYSTEM SET summarize_wal = on");
            primary.ask(PORT, "SELECT pg_reload_conf()");
        }
        lifeboat(&yard, &["backup", "main"]).expect(0);
        let made = lifeboat(&yard, &["show", "main@latest", "--json"]).expect(0).json();
        assert!(made["facts"]["pages_checked"].as_u64().unwrap() > 140_000, "{made}");
        primary.ask(PORT, "UPDATE wide SET x = 'y' WHERE n % 20000 = 0");
        lifeboat(&yard, &["backup", "main", "--incremental"]).expect(0);
        primary.ask(PORT, "UPDATE wide SET x = 'z' WHERE n = 139999");
        moment(&primary, 1);
        archived(&mut primary);
        primary.stop();
        lifeboat_as_we_are(&yard, &["verify", "main"]).expect(0);
        let to = yard.path("whole");
        lifeboat_as_we_are(&yard, &["restore", "main", "--to", to.to_str().unwrap()]).expect(0);
        let mut whole = Cluster::at(&yard, major, "whole");
        whole.set(&["archive_mode = off"]);
        whole.up(RESTORED);
        let query = "SELECT count(*), count(*) FILTER (WHERE x = 'y'), \
                     count(*) FILTER (WHERE x = 'z'), pg_relation_size('wide') > 1 << 30 FROM wide";
        assert_eq!(whole.ask(RESTORED, query), "140000|7|1|t", "{major}");
    }
}
