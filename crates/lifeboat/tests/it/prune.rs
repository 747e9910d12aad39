//! Prune as a person runs it: refused without a rule, two steps, a way back, and kill -9 at every
//! point.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use lifeboat_core::env::CRASH_POINTS;
use serde_json::Value;

use crate::support::{Ran, World, ran};

/// A world with so many backups of one database, of which a number is kept.
fn world(backups: u32, keep: &str) -> World {
    let world = World::new();
    world.database("app.db", 50);
    configure(&world, keep);
    more(&world, backups);
    world
}

fn configure(world: &World, keep: &str) {
    world.configure(&format!(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\ncheck = \"quick\"\nkeep = {keep}\n"
    ));
}

fn more(world: &World, backups: u32) {
    for _ in 0..backups {
        world.run(&["backup", "app"]).expect(0);
    }
}

fn listed(world: &World) -> Vec<String> {
    let list = world.run(&["list", "--json"]).expect(0).json();
    let names = list.as_array().unwrap().iter();
    names.map(|backup| backup["name"].as_str().unwrap().to_owned()).collect()
}

fn plan(world: &World) -> Value {
    world.run(&["prune", "--dry-run", "--json"]).expect(0).json()[0]["plan"].clone()
}

/// All files below the repository but the records of prunes, which have the time in their names,
/// and their leases.
fn files(world: &World) -> BTreeSet<String> {
    fn walk(folder: &Path, root: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(&path, root, found),
                false => {
                    let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                    found.insert(name);
                }
            }
        }
    }
    let (root, mut found) = (world.path("repo"), BTreeSet::new());
    walk(&root, &root, &mut found);
    found.retain(|name| !name.starts_with("prunes/") && !name.starts_with("leases/"));
    found
}

/// Lets the grace time of every tombstone be over.
fn end_the_grace_time(world: &World) {
    for name in world.names("repo/tombstones/app") {
        let path = world.path("repo/tombstones/app").join(name);
        let mut tombstone: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        tombstone["delete_after"] = "2025-01-08T14:00:00Z".into();
        fs::write(&path, serde_json::to_vec(&tombstone).unwrap()).unwrap();
    }
}

#[test]
fn without_a_rule_nothing_goes() {
    let world = World::new();
    world.database("app.db", 10);
    world.repo(&["backup", "app.db"]).expect(0);
    for arguments in [&["prune"][..], &["prune", "app"], &["prune", "app.db", "--dry-run"]] {
        world.repo(arguments).expect(23).says("keep = { daily = 7");
    }
    // The same database under another name, with a rule of its own.
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nkeep = \"forever\"\n\
         [source.other]\nsqlite = \"$DATA/app.db\"\nkeep = { last = 1 }\n",
    );
    let plans = world.run(&["prune", "--dry-run", "--json"]).expect(0).json();
    assert_eq!(plans.as_array().unwrap().len(), 1);
    assert_eq!(plans[0]["plan"]["items"][0]["reasons"][2], "kept forever");
    configure(&world, "\"forever\"");
    world.run(&["prune", "app", "--yes"]).expect(0).says("nothing of app has to go");
    world.run(&["prune", "nobody"]).expect(23).says("[source.nobody]");
}

#[test]
fn a_removed_backup_comes_back_until_its_bytes_are_deleted() {
    let world = world(5, "{ last = 3 }");
    let before = listed(&world);
    let dry = world.run(&["prune", "--dry-run"]).expect(0);
    assert!(dry.out.contains("no rule keeps it"), "{}", dry.out);
    assert!(dry.out.contains("newest good, one of the 3 newest good"), "{}", dry.out);
    assert!(dry.out.contains("3 kept"), "{}", dry.out);
    world.run(&["prune"]).expect(24).says("no rule keeps it").says("--yes");
    assert_eq!(listed(&world), before);
    let pruned = world.run(&["prune", "--yes", "--json"]).expect(0).json();
    assert_eq!(pruned[0]["marked"].as_array().unwrap().len(), 2);
    assert_eq!(listed(&world), before[2..]);
    // Everything of it is there, and it is what it was.
    world.run(&["undelete", &before[0]]).expect(0);
    world.run(&["undelete", &before[0]]).expect(22);
    world.run(&["verify", "--level", "full"]).expect(0);
    assert_eq!(listed(&world).len(), 4);
    // Without a newer backup, nothing more goes, whatever is asked.
    let id = plan(&world)["id"].as_str().unwrap().to_owned();
    world.run(&["prune", "--yes"]).expect(23).says("no good backup is newer");
    world.run(&["prune", "--approve", &id]).expect(23);
    world.run(&["pin", &before[0], "--reason", "the first one", "--until", "30d"]).expect(0);
    let shown = world.run(&["show", &before[0]]).expect(0);
    assert!(shown.out.contains("the first one (until "), "{}", shown.out);
    world.run(&["pin", &before[0], "--reason", "x", "--until", "-1h"]).expect(2);
    end_the_grace_time(&world);
    more(&world, 1);
    let pruned = world.run(&["prune", "--yes", "--json"]).expect(0).json();
    assert_eq!(pruned[0]["deleted"], serde_json::json!([before[1]]));
    assert!(pruned[0]["freed_bytes"].as_u64().unwrap() > 0);
    assert_eq!(listed(&world)[0], before[0]);
    assert!(!files(&world).iter().any(|name| name.contains(&before[1])));
    world.run(&["undelete", &before[1]]).expect(22);
    world.run(&["unpin", &before[0]]).expect(0);
    world.run(&["unpin", &before[0]]).expect(22);
    assert!(!world.run(&["show", &before[0]]).expect(0).out.contains("the first one"));
    world.run(&["verify", "--level", "full"]).expect(0);
}

#[test]
fn a_plan_that_takes_much_is_approved_by_its_id() {
    let world = world(7, "{ daily = 1 }");
    let refused = world.run(&["prune", "--yes"]).expect(23).says("4 of 7 good backups");
    let id = plan(&world)["id"].as_str().unwrap().to_owned();
    assert!(refused.err.contains(&format!("--approve {id}")), "{}", refused.err);
    world.run(&["prune", "--yes", "--approve", "000000000000"]).expect(23).says(&id);
    assert_eq!(listed(&world).len(), 7);
    world.run(&["prune", "--approve", &id]).expect(0);
    assert_eq!(listed(&world).len(), 3);
    // The repository's own rule stands above that of the source, and is another one.
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\nkeep = { last = 4 }\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nkeep = { last = 1 }\n",
    );
    more(&world, 2);
    world.run(&["prune", "--yes"]).expect(23).says("has changed since the last prune");
    let id = plan(&world)["id"].as_str().unwrap().to_owned();
    world.run(&["prune", "--approve", &id]).expect(0);
    assert_eq!(listed(&world).len(), 4);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let place = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &place),
            false => drop(fs::copy(&path, &place).unwrap()),
        }
    }
}

#[test]
fn killed_at_every_point_it_goes_on() {
    // One backup to delete, one to take back, and those that a prune has to remove.
    let world = world(5, "{ last = 3 }");
    let first = listed(&world);
    world.run(&["prune", "--yes"]).expect(0);
    end_the_grace_time(&world);
    more(&world, 2);
    let tombstone = format!("repo/tombstones/app/{}.json", first[1]);
    let saved = fs::read(world.path(&tombstone)).unwrap();
    world.run(&["undelete", &first[1]]).expect(0);
    world.run(&["pin", &first[1], "--reason", "wanted"]).expect(0);
    fs::write(world.path(&tombstone), saved).unwrap();
    copy(&world.path("repo"), &world.path("saved"));
    let again = |point: &str| -> Ran {
        fs::remove_dir_all(world.path("repo")).unwrap();
        copy(&world.path("saved"), &world.path("repo"));
        let mut command = world.command(&["prune", "--yes"]);
        ran(command.env("LIFEBOAT_CRASH_AT", point).output().unwrap())
    };
    again("nowhere").expect(0);
    let (expected, kept) = (files(&world), listed(&world));
    assert_eq!(kept.len(), 4);
    let points: Vec<_> = CRASH_POINTS.iter().filter(|point| point.starts_with("prune.")).collect();
    assert!(points.len() > 5);
    for point in points {
        let ended = again(point);
        assert_eq!(ended.code, 128 + 9, "{point} is never passed: {ended:?}");
        let listed_now = listed(&world);
        // Before its tombstone was removed, the pinned one is not listed, and not gone.
        let missing: Vec<_> = kept.iter().filter(|name| !listed_now.contains(name)).collect();
        assert!(missing.iter().all(|name| **name == first[1]), "{point}: {missing:?}");
        world.run(&["verify"]).expect(0);
        world.run(&["prune", "--yes"]).expect(0);
        assert_eq!(files(&world), expected, "{point}");
        assert_eq!(listed(&world), kept, "{point}");
        world.run(&["verify", "--level", "full"]).expect(0);
    }
}

/// What a killed writer left is known by its name and age, and by that nobody holds it.
#[test]
fn unfinished_objects_of_killed_runs_go_in_two_steps() {
    let world = world(4, "{ last = 3 }");
    // A real one, of a run that was killed while it wrote.
    let mut command = world.command(&["backup", "app"]);
    let ended = ran(command.env("LIFEBOAT_CRASH_AT", "backup.artifact.streamed").output().unwrap());
    assert_eq!(ended.code, 128 + 9);
    let parts = || -> Vec<String> {
        let names = world.names("repo/app").into_iter();
        names.filter(|name| name.ends_with(".part")).collect()
    };
    let left = parts();
    assert_eq!(left.len(), 1, "{left:?}");
    let folder = world.path("repo/app");
    let held = ".app-20250101-000000.db.zst.0123456789abcdef.part";
    let strangers = [".notes.part", ".x.db.zst.0123456789ABCDEF.part", "app.0123456789abcdef.part"];
    for name in strangers.iter().chain([&held]) {
        fs::write(folder.join(name), "half").unwrap();
    }
    let make_old = || {
        for name in strangers.iter().chain([&held, &left[0].as_str()]) {
            let file = fs::File::options().write(true).open(folder.join(name)).unwrap();
            let old = std::time::SystemTime::now() - std::time::Duration::from_secs(30 * 86_400);
            file.set_modified(old).unwrap();
        }
    };
    // Young, they are nobody's business.
    let names = |plan: &Value| -> Vec<String> {
        let items = plan["items"].as_array().unwrap().iter();
        let ours = items.filter(|item| item["id"].is_null());
        ours.map(|item| item["files"][0].as_str().unwrap().to_owned()).collect()
    };
    assert!(names(&plan(&world)).is_empty());
    make_old();
    // One whose writer lives stays, however old it is.
    let writer = fs::File::open(folder.join(held)).unwrap();
    writer.lock().unwrap();
    assert_eq!(names(&plan(&world)), left);
    world.run(&["prune", "--yes"]).expect(0);
    assert_eq!(parts().len(), 1 + strangers.len() + 1, "not before the grace time");
    end_the_grace_time(&world);
    more(&world, 1);
    let pruned = world.run(&["prune", "--yes", "--json"]).expect(0).json();
    assert!(
        pruned[0]["deleted"]
            .to_string()
            .contains(left[0].trim_start_matches('.').trim_end_matches(".part"))
    );
    assert!(!parts().contains(&left[0]));
    assert!(parts().contains(&held.to_owned()));
    strangers.iter().for_each(|name| assert!(folder.join(name).exists(), "{name}"));
    drop(writer);
    assert_eq!(names(&plan(&world)), [held]);
    world.run(&["verify", "--level", "full"]).expect(0);
}
