//! What a role may do is asked, not tried: each answer is that which a dump would come to.

use lifeboat_postgres::{Rights, Session};

use crate::support::{back_up, cluster, majors, place, run, source};
use lifeboat_core::manifest::CheckLevel;

const SHOP: &str = "\
CREATE ROLE clerk LOGIN; CREATE ROLE boss LOGIN; \
CREATE SCHEMA vault; \
CREATE TABLE public.open(id serial PRIMARY KEY); \
CREATE TABLE public.\"Odd name\"(x int); \
CREATE TABLE vault.gold(x int); \
CREATE TABLE public.rows(x int); ALTER TABLE public.rows ENABLE ROW LEVEL SECURITY; \
CREATE MATERIALIZED VIEW public.summary AS SELECT 1 AS x; \
CREATE EXTENSION IF NOT EXISTS plpgsql; \
SELECT pg_catalog.lo_create(4711); \
GRANT SELECT ON public.open, public.rows TO clerk; \
GRANT SELECT ON vault.gold TO clerk";

fn rights(client: &lifeboat_postgres::Client) -> Rights {
    Rights::read(&mut Session::open(client, "the test").unwrap()).unwrap()
}

#[test]
fn what_a_role_may_not_read_is_named() {
    for major in majors() {
        let cluster = cluster(*major);
        let admin = cluster.client("postgres").unwrap();
        run(&admin, SHOP);
        let all = rights(&admin);
        assert_eq!((all.unreadable_count, all.unreadable_large_objects), (0, 0), "{all:?}");
        assert!(all.role_passwords && all.creates_databases && all.renames_database);
        assert!(all.row_security.is_empty() && all.creates_roles);

        let address = cluster.address("postgres").with("user", "clerk");
        let options = crate::support::options();
        let clerk = lifeboat_postgres::Client::new(address, options).unwrap();
        let few = rights(&clerk);
        // A table in a schema that it may not enter is one that it may not read.
        let expected =
            ["public.\"Odd name\"", "public.open_id_seq", "public.summary", "vault.gold"];
        assert_eq!(few.unreadable, expected, "{major}");
        assert_eq!(few.row_security, ["public.rows"], "{major}");
        assert_eq!((few.role.as_str(), few.owner.as_str()), ("clerk", "postgres"));
        assert_eq!(few.unreadable_large_objects, 1);
        assert!(!few.role_passwords && !few.creates_databases && !few.renames_database);
        // A dump of it fails, as it was said.
        let place = place();
        let error = back_up(&place, &source(clerk), CheckLevel::None).unwrap_err();
        assert!(error.message().contains("Odd name") || format!("{error:?}").contains("denied"));

        // What the answers ask for is enough.
        run(
            &admin,
            "GRANT pg_read_all_data TO clerk; ALTER ROLE clerk BYPASSRLS CREATEDB; \
             GRANT SELECT ON LARGE OBJECT 4711 TO clerk; \
             GRANT SELECT ON pg_catalog.pg_authid TO clerk",
        );
        let address = cluster.address("postgres").with("user", "clerk");
        let clerk = lifeboat_postgres::Client::new(address, crate::support::options()).unwrap();
        let enough = rights(&clerk);
        assert!(enough.unreadable.is_empty() && enough.row_security.is_empty(), "{enough:?}");
        assert_eq!(enough.unreadable_large_objects, 0, "{major}");
        assert!(enough.creates_databases && enough.role_passwords && !enough.renames_database);
        back_up(&place, &source(clerk), CheckLevel::Quick).unwrap();
    }
}
