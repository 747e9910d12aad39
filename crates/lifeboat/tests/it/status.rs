//! How fresh the backups are, against what was promised.

use crate::support::World;

fn configured() -> World {
    let world = World::new();
    world.database("app.db", 10);
    world.database("new.db", 10);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nrpo = \"1h\"\n\
         [source.new]\nsqlite = \"$DATA/new.db\"\n",
    );
    world
}

#[test]
fn a_source_that_never_had_a_backup_is_said_to_be_so() {
    let world = configured();
    world.run(&["backup", "app"]).expect(0);
    let ran = world.run(&["status"]).expect(21).says("1 source is stale: new");
    let of = |name: &str| ran.out.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(of("app").contains("fresh") && of("app").contains("1h"), "{}", ran.out);
    assert!(of("new").contains("never"), "{}", ran.out);
    world.run(&["status", "app"]).expect(0);
    world.run(&["status", "new"]).expect(21);
    world.run(&["backup"]).expect(0);
    world.run(&["status"]).expect(0);
}

#[test]
fn an_old_backup_is_stale() {
    let world = configured();
    world.run(&["backup"]).expect(0);
    world.run(&["status", "--max-age", "1h"]).expect(0);
    // The source's own promise stands before --max-age.
    let ran = world.run(&["status", "--max-age", "0s"]).expect(21);
    assert!(ran.err.contains("stale: new") && !ran.err.contains("app"), "{}", ran.err);
    assert!(ran.err.contains("lifeboat backup new"), "{}", ran.err);
}

#[test]
fn a_backup_without_a_check_is_no_good_one() {
    let world = configured();
    world.run(&["backup", "app", "--check", "none"]).expect(0);
    world.run(&["status", "app"]).expect(21).says("not checked");
}
