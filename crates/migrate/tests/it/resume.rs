//! A run that ends at any point leaves the target as it was; the next one goes on.

use std::sync::Arc;

use lifeboat_core::env::CrashPoints;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_migrate::Options;

use crate::support::{Pair, env};

/// Fails at one point.
struct FailAt(&'static str);

impl CrashPoints for FailAt {
    fn pass(&self, point: &'static str) -> Result<()> {
        match point == self.0 {
            true => Err(Error::new(Kind::Failed, format!("stopped at {point}"))),
            false => Ok(()),
        }
    }
}

#[test]
fn it_goes_on_with_the_tables_that_are_still_the_same() {
    for (major, point) in [
        (15, "migrate.table"),
        (18, "migrate.indexed"),
        (15, "migrate.loaded"),
        (18, "migrate.before_commit"),
    ] {
        let pair = Pair::new(
            major,
            "resume",
            "CREATE TABLE same(id INTEGER PRIMARY KEY, s TEXT UNIQUE);
             CREATE TABLE moves(id INTEGER PRIMARY KEY, s TEXT, same INT REFERENCES same);
             CREATE TABLE stays(id INTEGER PRIMARY KEY, same INT REFERENCES same);
             INSERT INTO same VALUES (1, 'a'), (2, 'b'); INSERT INTO stays VALUES (1, 2);
             INSERT INTO moves VALUES (1, 'x', 1)",
        );
        let world = lifeboat_core::env::Env { crash: Arc::new(FailAt(point)), ..env() };
        let error = pair.migrate_in(&world, Options::default()).err().unwrap();
        assert!(format!("{error:?}").contains(point), "{error:?}");
        assert_eq!(
            pair.ask("SELECT to_regclass('public.same'), to_regclass('public.moves')"),
            ["∅|∅"]
        );
        pair.sqlite().execute_batch("INSERT INTO moves VALUES (2, 'y', 2)").unwrap();
        let done = pair.migrated(Options::default());
        assert_eq!(done.rows(), 5, "{point}");
        let kept: Vec<&str> = done
            .tables
            .iter()
            .filter(|table| table.was_there)
            .map(|table| table.table.as_str())
            .collect();
        match point {
            "migrate.loaded" | "migrate.before_commit" => {
                assert_eq!(kept, ["same", "stays"]);
            }
            _ => assert!(!kept.contains(&"moves"), "{point}"),
        }
        assert!(pair.objects().iter().all(|name| !name.contains("_lifeboat_new")), "{point}");
        // Also of tables that were there with theirs.
        let keys = "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND convalidated";
        assert_eq!(pair.ask(keys), ["2"], "{point}");
        assert!(pair.refused("INSERT INTO same VALUES (9, 'a')").unwrap().contains("duplicate"));
        assert!(
            pair.refused("INSERT INTO moves VALUES (9, 'a', 77)").unwrap().contains("foreign key")
        );
    }
}
