//! What goes wrong leaves the target as it was; what is changed afterwards is found.

use lifeboat_core::Kind;
use lifeboat_migrate::Options;

use crate::support::{Pair, env, load_options, run};

#[test]
fn a_schema_that_is_not_empty_is_refused_or_set_aside() {
    let pair = Pair::new(
        15,
        "occupied",
        "CREATE TABLE t(id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)",
    );
    run(&pair.client, "CREATE TABLE mine(x int)");
    let before = pair.objects();
    let error = pair.migrate(Options::default()).err().unwrap();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.hint_text().unwrap().contains("--replace"));
    assert_eq!(pair.objects(), before);
    let mut moment =
        lifeboat_sqlite::Moment::open(&env(), &pair.path(), 1, std::path::Path::new("/tmp"))
            .unwrap();
    let plan = lifeboat_migrate::plan(&env(), &mut moment, Options::default()).unwrap();
    let options = lifeboat_migrate::LoadOptions { replace: true, ..load_options() };
    let done = lifeboat_migrate::load(&env(), &mut moment, &plan, &pair.client, &options).unwrap();
    let old = done.set_aside.unwrap();
    assert_eq!(pair.ask(&format!("SELECT count(*) FROM {old}.mine")), ["0"]);
    assert_eq!(pair.ask("SELECT id FROM public.t"), ["1"]);
}

#[test]
fn a_changed_value_a_lost_row_and_a_new_one_are_named() {
    let pair = Pair::new(
        18,
        "changed",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, s TEXT); CREATE TABLE nokey(s TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
         INSERT INTO t SELECT i, 'text ' || i FROM n;
         INSERT INTO nokey VALUES ('a'), ('a'), ('b')",
    );
    pair.migrated(Options::default());
    run(&pair.client, "UPDATE t SET s = 'other' WHERE id = 17");
    run(&pair.client, "DELETE FROM t WHERE id = 4000");
    run(&pair.client, "INSERT INTO t VALUES (6000, 'new')");
    run(&pair.client, "DELETE FROM nokey WHERE ctid = (SELECT min(ctid) FROM nokey WHERE s = 'a')");
    let verified = pair.verify();
    assert_eq!(verified.different(), 2);
    let text = verified.text();
    for said in [
        "1 only in SQLite: id 4000",
        "1 only in PostgreSQL: id 6000",
        "1 not the same: id 17",
        "1 only in SQLite: s 'a'",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
}

/// The server refuses in the middle of it all: a disk that is full looks like that.
#[test]
fn a_failure_of_the_server_leaves_the_target_as_it_was() {
    let pair = Pair::new(
        15,
        "broken",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, s TEXT); CREATE UNIQUE INDEX u ON t(s);
         INSERT INTO t VALUES (1, 'a'), (2, 'b')",
    );
    run(
        &pair.client,
        "CREATE SCHEMA guards; CREATE FUNCTION guards.no() RETURNS event_trigger LANGUAGE plpgsql AS \
         'BEGIN RAISE EXCEPTION ''no room''; END'; \
         CREATE EVENT TRIGGER no_index ON ddl_command_end WHEN tag IN ('CREATE INDEX') \
         EXECUTE FUNCTION guards.no()",
    );
    let error = pair.migrate(Options::default()).err().unwrap();
    assert!(format!("{error:?}").contains("no room"), "{error:?}");
    assert_eq!(pair.ask("SELECT to_regclass('public.t')"), ["∅"]);
    run(&pair.client, "DROP EVENT TRIGGER no_index; DROP SCHEMA guards CASCADE");
    assert_eq!(pair.migrated(Options::default()).rows(), 2);
}
