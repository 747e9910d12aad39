//! What drills showed decides: the newest proven backup stays, an overdue drill is told, and
//! schedules run them.

use std::fs;

use serde_json::Value;

use crate::support::{World, ran};

fn configure(world: &World, more: &str) {
    world.configure(&format!(
        "[repository.local]\nurl = \"file://$REPO\"\n{more}\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nschedule = \"daily 02:00\"\nkeep = {{ last = 1 }}\n\
         rpo = \"90d\"\n"
    ));
}

fn at(world: &World, clock: &str, arguments: &[&str]) -> crate::support::Ran {
    ran(world.command(arguments).env("LIFEBOAT_CLOCK_AT", clock).output().unwrap())
}

#[test]
fn the_newest_proven_backup_is_never_pruned() {
    let world = World::new();
    world.database("app.db", 100);
    configure(&world, "");
    at(&world, "2026-01-01T00:00:00Z", &["backup"]).expect(0);
    at(&world, "2026-01-02T00:00:00Z", &["backup"]).expect(0);
    at(&world, "2026-01-02T01:00:00Z", &["drill"]).expect(0);
    for day in 3..6 {
        at(&world, &format!("2026-01-0{day}T00:00:00Z"), &["backup"]).expect(0);
    }
    let plan = at(&world, "2026-01-06T00:00:00Z", &["prune", "--dry-run"]).expect(0);
    assert!(plan.out.contains("newest proven"), "{}", plan.out);
    at(&world, "2026-01-06T00:00:00Z", &["prune", "--yes"]).expect(0);
    let names: Vec<String> = at(&world, "2026-01-06T01:00:00Z", &["list", "--json"])
        .expect(0)
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|backup| backup["name"].as_str().unwrap().to_owned())
        .collect();
    // The floor is three good ones.
    assert_eq!(
        names,
        [
            "app-20260102-000000",
            "app-20260103-000000",
            "app-20260104-000000",
            "app-20260105-000000"
        ],
        "{names:?}"
    );
    // A newer one is proven, and the old one goes with its note, after the grace time.
    at(&world, "2026-01-07T00:00:00Z", &["backup"]).expect(0);
    at(&world, "2026-01-07T02:00:00Z", &["drill"]).expect(0);
    at(&world, "2026-01-07T03:00:00Z", &["prune", "--yes"]).expect(0);
    at(&world, "2026-02-06T00:00:00Z", &["backup"]).expect(0);
    at(&world, "2026-02-06T03:00:00Z", &["prune", "--yes"]).expect(0);
    assert_eq!(world.names("repo/drilled/app"), ["app-20260107-000000.json"]);
    world.run(&["proof", "verify"]).expect(0).says("2 proofs of");
}

#[test]
fn status_and_doctor_tell_of_drills() {
    let world = World::new();
    world.database("app.db", 100);
    let promise = "[source.app.drill]\nevery = \"31d\"\n";
    let of = |required: &str| {
        configure(&world, "");
        let path = world.path("home/config/lifeboat/config.toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}{promise}{required}")).unwrap();
    };
    of("");
    at(&world, "2026-01-01T00:00:00Z", &["backup"]).expect(0);
    at(&world, "2026-01-01T01:00:00Z", &["status"]).expect(0).says("its restore was never proved");
    at(&world, "2026-01-01T02:00:00Z", &["drill"]).expect(0);
    let row = |clock: &str| -> Value {
        at(&world, clock, &["status", "--json"]).expect(0).json()[0]["drills"].clone()
    };
    let fresh = row("2026-01-02T00:00:00Z");
    assert_eq!((&fresh["overdue"], &fresh["passed"]), (&false.into(), &true.into()), "{fresh}");
    assert!(fresh["proof"].as_str().unwrap().starts_with("drills/"));
    assert_eq!(row("2026-02-02T00:00:00Z")["overdue"], true);
    let late = "2026-02-02T00:00:00Z";
    at(&world, late, &["status"]).expect(0).says("promised is every 31d");
    at(&world, late, &["status", "--format", "nagios"]).expect(1);
    of("required = true\n");
    at(&world, late, &["status"]).expect(21).says("1 drill is overdue: app");
    at(&world, late, &["status", "--format", "nagios"]).expect(2);
    let doctor = at(&world, late, &["doctor", "--json"]).out;
    assert!(doctor.contains("promised is every 31d"), "{doctor}");
    // A failed one is told at once.
    let artifact = world.artifact("app", ".db.zst");
    let bytes = fs::read(&artifact).unwrap();
    fs::write(&artifact, &bytes[..bytes.len() - 1]).unwrap();
    of("");
    at(&world, "2026-01-03T00:00:00Z", &["drill"]).expect(20);
    at(&world, "2026-01-03T01:00:00Z", &["status"]).expect(0).says("the last drill failed");
}

#[test]
fn schedules_rehearse_each_month_and_rebuild_each_quarter() {
    let world = World::new();
    world.database("app.db", 10);
    configure(&world, "[drill]\nschedule = \"monthly\"\nrebuild = \"0 6 1 1,4,7,10 *\"\n");
    let cron = world.run(&["install", "cron", "--user"]).expect(0).out;
    assert!(cron.lines().any(|line| line.ends_with(" drill --quiet")), "{cron}");
    let rebuild = cron.lines().find(|line| line.contains("drill --from-repository")).unwrap();
    assert!(rebuild.starts_with("0 6 1 1,4,7,10 *"), "{cron}");
    let root = world.text("root");
    world.run(&["install", "systemd", "--root", &root, "--yes"]).expect(0);
    let units = world.names("root/etc/systemd/system");
    for name in ["lifeboat-drill.timer", "lifeboat-drill.service", "lifeboat-drill-rebuild.timer"] {
        assert!(units.iter().any(|unit| unit == name), "{units:?}");
    }
    configure(&world, "[drill]\nschedule = \"sometimes\"\n");
    world.run(&["config", "check"]).expect(2).says("sometimes");
    // What the quarter runs, runs.
    configure(&world, "");
    world.run(&["backup"]).expect(0);
    fs::remove_file(world.path("data/app.db")).unwrap();
    world.run(&["drill", "--from-repository"]).expect(0);
}
