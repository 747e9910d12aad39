//! The lease of a prune, between two hosts that share a repository: each has a state folder of its
//! own, so that no lock of this host keeps them apart.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::support::{Held, Ran, World, ran};

/// A world with five backups of which two have to go.
fn world() -> World {
    let world = World::new();
    world.database("app.db", 50);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\ncheck = \"quick\"\nkeep = { last = 3 }\n",
    );
    for _ in 0..5 {
        world.run(&["backup", "app"]).expect(0);
    }
    world
}

/// The program as another host runs it.
fn elsewhere(world: &World, arguments: &[&str]) -> Command {
    let mut command = world.command(arguments);
    command.env("XDG_STATE_HOME", world.path("tmp/other-state"));
    command
}

fn run_elsewhere(world: &World, arguments: &[&str]) -> Ran {
    ran(elsewhere(world, arguments).output().unwrap())
}

/// A prune that holds its lease, and has marked.
fn holding(world: &World) -> Held {
    Held::at(world, world.command(&["prune", "--yes", "--quiet"]), "prune.marked")
}

fn newest(world: &World) -> (String, Value) {
    let names = world.names("repo/leases/app");
    let name = names.into_iter().rfind(|name| name.ends_with(".json")).unwrap();
    let bytes = fs::read(world.path("repo/leases/app").join(&name)).unwrap();
    (name, serde_json::from_slice(&bytes).unwrap())
}

#[test]
fn the_second_prune_says_who_holds_it_and_waits_if_asked() {
    let world = world();
    let first = holding(&world);
    let (_, lease) = newest(&world);
    assert_eq!(lease["process"], first.id());
    let refused = run_elsewhere(&world, &["prune", "--yes"]).expect(11);
    let since = lease["taken_at"].as_str().unwrap();
    let host = lease["host"].as_str().unwrap();
    let process = first.id();
    refused.says(&format!("another prune of `app` is running on {host} since {since} (process"));
    run_elsewhere(&world, &["prune", "--yes"]).says(&process.to_string()).says("--wait");
    // A schedule lets it pass; backups and restores need no lease.
    run_elsewhere(&world, &["prune", "--unattended"]).expect(0).says("nothing of app is pruned");
    run_elsewhere(&world, &["list"]).expect(0);
    run_elsewhere(&world, &["verify"]).expect(0);
    run_elsewhere(&world, &["prune", "--yes", "--wait", "100ms"]).expect(11);
    let mut waiting = elsewhere(&world, &["prune", "--yes", "--wait", "5m"]);
    let mut waiting = waiting.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(waiting.stderr.take().unwrap());
    let mut heard = String::new();
    while !heard.contains("waiting for it") {
        assert_ne!(said.read_line(&mut heard).unwrap(), 0, "{heard}");
    }
    first.go_on().expect(0);
    said.read_to_string(&mut heard).unwrap();
    assert!(waiting.wait().unwrap().success() && heard.contains("nothing of app has to go"));
    assert_eq!(newest(&world).1["ended"], true);
    assert_eq!(world.names("repo/tombstones/app").len(), 2);
}

#[test]
fn the_lease_of_a_killed_prune_runs_out_and_its_own_host_need_not_wait() {
    let world = world();
    holding(&world).kill();
    run_elsewhere(&world, &["prune", "--yes"]).expect(11).says("its lease ends by itself at");
    // As if ten minutes had passed at the store.
    let (name, lease) = newest(&world);
    assert_eq!(lease["ended"], false);
    let path = world.path("repo/leases/app").join(&name);
    let past = SystemTime::now() - Duration::from_secs(601);
    File::options().write(true).open(&path).unwrap().set_modified(past).unwrap();
    run_elsewhere(&world, &["prune", "--yes"]).expect(0);
    assert_eq!(world.names("repo/tombstones/app").len(), 2);
    // On the same host its lock tells that it is dead.
    world.run(&["backup", "app"]).expect(0);
    world.run(&["backup", "app"]).expect(0);
    let mut second = world.command(&["prune", "--yes"]);
    let killed = second.env("LIFEBOAT_CRASH_AT", "prune.marked").output().unwrap();
    assert_eq!(ran(killed).code, 128 + 9);
    run_elsewhere(&world, &["prune", "--yes"]).expect(11);
    world.run(&["backup", "app"]).expect(0);
    world.run(&["prune", "--yes"]).expect(0);
    world.run(&["verify"]).expect(0);
}

/// Where the server overwrites what is there, claims keep holders of a lease apart.
#[test]
fn a_server_that_overwrites_gives_a_lease_to_one_prune_alone() {
    use crate::s3_servers::{BUCKET, KEY, SECRET, Server};
    let Some(server) = Server::rclone() else { return };
    let world = World::new();
    world.database("app.db", 50);
    let configure = |keep: u32| {
        world.configure(&format!(
            "[repository.bucket]\nurl = \"s3://{BUCKET}/chat\"\nendpoint = \"http://{}\"\n\
             [source.app]\nsqlite = \"$DATA/app.db\"\ncheck = \"quick\"\nkeep = {{ last = {keep} }}\n",
            server.address
        ));
    };
    configure(6);
    let lifeboat = |mut command: Command| {
        command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET);
        command
    };
    for _ in 0..8 {
        ran(lifeboat(world.command(&["backup", "app"])).output().unwrap()).expect(0);
    }
    let tombstones = server.folder().join(BUCKET).join("chat/tombstones/app");
    let marked = || fs::read_dir(&tombstones).map_or(0, Iterator::count);
    let first = lifeboat(world.command(&["prune", "--yes", "--quiet"]));
    let first = Held::at(&world, first, "prune.marked");
    let prune = ["prune", "--yes"];
    let second = ran(lifeboat(elsewhere(&world, &prune)).output().unwrap()).expect(11);
    drop(second.says("another prune of `app` is running"));
    first.go_on().expect(0);
    assert_eq!(marked(), 2);
    // Two that begin at once: one does it, the other waits or gives way, and nothing is done twice.
    configure(4);
    ran(lifeboat(world.command(&["backup", "app"])).output().unwrap()).expect(0);
    let approve = |mut command: Command| {
        let plan =
            ran(lifeboat(world.command(&["prune", "--dry-run", "--json"])).output().unwrap());
        let id = plan.expect(0).json()[0]["plan"]["id"].as_str().unwrap().to_owned();
        command.args(["--approve", &id]);
        lifeboat(command)
    };
    let mut both = [approve(world.command(&prune)), approve(elsewhere(&world, &prune))];
    let mut both: Vec<Child> = both.iter_mut().map(|one| one.spawn().unwrap()).collect();
    let codes: Vec<i32> = both.iter_mut().map(|one| one.wait().unwrap().code().unwrap()).collect();
    assert!(codes.iter().all(|code| [0, 11, 23].contains(code)), "{codes:?}");
    if !codes.contains(&0) {
        ran(approve(world.command(&prune)).output().unwrap()).expect(0);
    }
    assert_eq!(marked(), 5);
    ran(lifeboat(world.command(&["verify"])).output().unwrap()).expect(0);
}
