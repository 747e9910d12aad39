//! A role that may not create databases: restores happen within the database, schema by schema.

use crate::postgres_restore::killed_while_loading;
use crate::postgres_server::{Server, majors, run, world_of};

const TABLES: &str = "
CREATE SCHEMA sales AUTHORIZATION app;
SET ROLE app;
SET search_path = public;
CREATE TABLE agents (id serial PRIMARY KEY, name text NOT NULL);
CREATE TABLE sales.orders (id int PRIMARY KEY, agent int REFERENCES agents, body text);
CREATE VIEW busy AS SELECT agent, count(*) FROM sales.orders GROUP BY agent;
INSERT INTO agents (name) SELECT E'agent\\\\.\\n' || i FROM generate_series(1, 20) AS i;
INSERT INTO sales.orders SELECT i, 1 + i % 20, repeat('x', i % 50) FROM generate_series(1, 3000) AS i;
";

/// A server with a database that the role `app` owns, and which may create no other.
fn server(major: u32) -> Server {
    let server = Server::new(major);
    server.sql("postgres", "CREATE ROLE app LOGIN");
    server.sql("postgres", "CREATE DATABASE shop OWNER app");
    server.sql("shop", TABLES);
    server
}

#[test]
fn a_role_without_createdb_restores_schema_by_schema_and_undo_goes_back() {
    for major in majors() {
        let server = server(*major);
        let world = world_of(&server.url_as("app", "shop"));
        let before = server.text("shop");
        run(&world, &["backup"]).expect(0);
        server.sql(
            "shop",
            "DROP TABLE sales.orders CASCADE; DELETE FROM public.agents WHERE id > 10; \
             SET ROLE app; CREATE SCHEMA other CREATE TABLE other.kept (id int)",
        );
        let damaged = server.text("shop");

        let planned = run(&world, &["restore", "shop", "--dry-run"]).expect(0).out;
        for part in
            ["rename the schema public to public_before_restore_", "rename the schema sales"]
        {
            assert!(planned.contains(part), "{planned}");
        }
        assert!(planned.contains("schemas that the dump lacks stay as they are"), "{planned}");
        assert!(server.text("shop") == damaged);

        let restored = run(&world, &["restore", "shop", "--yes", "--json"]).expect(0).json();
        assert_eq!(restored["rows"]["sales.orders"], 3000, "{restored}");
        assert!(restored["safety_backup"].is_string(), "{restored}");
        assert_eq!(server.databases(), ["postgres", "shop"]);
        assert_eq!(server.ask("shop", "SELECT count(*) FROM busy"), ["20"]);
        let kept = restored["kept_as"].as_str().unwrap().to_owned();
        assert!(kept.contains("public_before_restore_"), "{kept}");
        let old = kept.split(", ").find(|name| name.starts_with("public")).unwrap();
        assert_eq!(server.ask("shop", &format!("SELECT count(*) FROM {old}.agents")), ["10"]);

        let undo = run(&world, &["undo", "shop", "--dry-run"]).expect(0).out;
        assert!(undo.contains("rename the schema public to public_before_undo_"), "{undo}");
        run(&world, &["undo", "shop", "--yes"]).expect(0);
        assert_eq!(server.ask("shop", "SELECT count(*) FROM agents"), ["10"]);
        assert_eq!(server.ask("shop", "SELECT to_regclass('sales.orders') IS NULL"), ["t"]);
        run(&world, &["undo", "shop", "--yes"]).expect(22);

        // What is restored is what was there, to the last right.
        server.sql("shop", "DROP SCHEMA other CASCADE");
        let listed = run(&world, &["list", "--json"]).expect(0).json();
        let names =
            listed.as_array().unwrap().iter().map(|backup| backup["name"].as_str().unwrap());
        let first = format!("shop@{}", names.min().unwrap().trim_start_matches("shop-"));
        run(&world, &["restore", &first, "--yes"]).expect(0);
        for schema in server
            .ask("shop", "SELECT nspname FROM pg_namespace WHERE nspname LIKE '%\\_before\\_%'")
        {
            server.sql("shop", &format!("DROP SCHEMA {schema} CASCADE"));
        }
        let strip = |text: &str| {
            let same = |line: &&str| !line.contains("SCHEMA public") && !line.starts_with("--");
            text.lines().filter(same).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
        };
        let (is, must) = (strip(&server.text("shop")), strip(&before));
        assert!(is == must, "PostgreSQL {major}: {is}");
    }
}

#[test]
fn what_cannot_be_restored_within_a_database_is_refused_with_what_is_missing() {
    let server = server(15);
    let world = world_of(&server.url_as("app", "shop"));
    run(&world, &["backup"]).expect(0);
    let before = server.text("shop");

    // A schema of another role.
    server.sql("shop", "ALTER SCHEMA sales OWNER TO postgres; GRANT USAGE ON SCHEMA sales TO app");
    run(&world, &["restore", "shop", "--yes"])
        .expect(23)
        .says("the schema sales of shop belongs to postgres")
        .says("ALTER SCHEMA \"sales\" OWNER TO app");
    server.sql("shop", "ALTER SCHEMA sales OWNER TO app");

    // No schema may be made.
    server.sql("postgres", "ALTER DATABASE shop OWNER TO postgres");
    server.sql("shop", "ALTER SCHEMA public OWNER TO app");
    run(&world, &["restore", "shop", "--yes"])
        .expect(23)
        .says("GRANT CREATE ON DATABASE shop TO app");
    server.sql("postgres", "ALTER DATABASE shop OWNER TO app");
    server.sql("shop", "ALTER SCHEMA public OWNER TO pg_database_owner");

    // What no schema holds.
    server.sql("shop", "SET ROLE app; SELECT lo_from_bytea(77, 'x')");
    run(&world, &["backup"]).expect(0);
    run(&world, &["restore", "shop", "--yes"])
        .expect(23)
        .says("may not create databases")
        .says("what no schema holds")
        .says("CREATEDB");
    server.sql("shop", "SELECT lo_unlink(77)");

    // Another database than the one that is there needs the right.
    run(&world, &["restore", "shop", "--to", &server.url_as("app", "elsewhere"), "--yes"])
        .expect(23)
        .says("may not create databases");
    assert!(server.text("shop").contains("CREATE TABLE sales.orders"));
    assert_eq!(server.text("shop").lines().count(), before.lines().count());
    assert_eq!(server.databases(), ["postgres", "shop"]);
}

#[test]
fn a_load_that_fails_rolls_everything_back() {
    let server = server(15);
    let world = world_of(&server.url_as("app", "shop"));
    run(&world, &["backup"]).expect(0);
    // The dump names an owner whose role ours is no member of any more.
    server.sql(
        "shop",
        "CREATE ROLE clerk; GRANT clerk TO app; SET ROLE app; CREATE TABLE public.desk (id int); \
         RESET ROLE; GRANT CREATE ON SCHEMA public TO clerk; ALTER TABLE public.desk OWNER TO clerk",
    );
    run(&world, &["backup"]).expect(0);
    server.sql("shop", "REVOKE clerk FROM app");
    let before = server.text("shop");
    let ran = run(&world, &["restore", "shop", "--yes", "--without-safety-backup"]);
    assert_ne!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("clerk"), "{}", ran.err);
    assert!(server.text("shop") == before);
    run(&world, &["restore", "shop", "--yes", "--without-safety-backup", "--no-owner"]).expect(0);
    assert_eq!(server.ask("shop", "SELECT count(*) FROM sales.orders"), ["3000"]);
}

#[test]
fn killed_half_way_everything_is_as_it_was() {
    let server = server(15);
    let url = server.url_as("app", "shop");
    let world = world_of(&url);
    run(&world, &["backup"]).expect(0);
    server.sql("shop", "DELETE FROM sales.orders WHERE id > 7");
    let damaged = server.text("shop");
    let arguments = ["restore", "shop", "--yes", "--without-safety-backup"];
    killed_while_loading(&world, &url, &arguments);
    server.wait_for(
        "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = 'shop')",
    );
    assert!(server.text("shop") == damaged);
    run(&world, &arguments).expect(0);
    assert_eq!(server.ask("shop", "SELECT count(*) FROM sales.orders"), ["3000"]);
    run(&world, &["undo", "shop", "--yes"]).expect(0);
    assert_eq!(server.ask("shop", "SELECT count(*) FROM sales.orders"), ["7"]);
}

#[test]
fn an_extension_among_the_tables_is_told_and_one_apart_stays() {
    let server = server(15);
    server.sql("shop", "SET ROLE app; CREATE EXTENSION pg_trgm SCHEMA public");
    server.sql(
        "shop",
        "SET ROLE app; SET search_path = public; \
         CREATE INDEX by_name ON public.agents USING gin (name gin_trgm_ops)",
    );
    let world = world_of(&server.url_as("app", "shop"));
    run(&world, &["backup"]).expect(0);
    // Its functions belong to the superuser, also where our role made the extension.
    let before = server.text("shop");
    run(&world, &["restore", "shop", "--yes"])
        .expect(23)
        .says("the extension pg_trgm stands in the way")
        .says("ALTER ROLE app CREATEDB");
    assert!(server.text("shop") == before);

    // In a schema of its own it stays where it is.
    server.sql("shop", "CREATE SCHEMA tools; ALTER EXTENSION pg_trgm SET SCHEMA tools");
    server.sql("shop", "GRANT USAGE ON SCHEMA tools TO app");
    run(&world, &["backup"]).expect(0);
    server.sql("shop", "DELETE FROM sales.orders WHERE id > 7");
    run(&world, &["restore", "shop", "--yes"]).expect(0);
    assert_eq!(server.ask("shop", "SELECT count(*) FROM sales.orders"), ["3000"]);
}
