//! Repositories in buckets: the program on servers that speak S3, and what goes wrong there.

use std::process::Command;

use crate::proxy::{Fault, Proxy, answer};
use crate::s3_servers::{BUCKET, KEY, SECRET, Server};
use crate::support::{World, content, make_database};

/// A world with a database, and a configuration with a repository in a bucket behind that address.
fn world(endpoint: &str) -> World {
    world_in(endpoint, BUCKET)
}

fn world_in(endpoint: &str, bucket: &str) -> World {
    let world = World::new();
    make_database(&world.path("data/app.db"), 2_000);
    let secret = world.path("home/secret");
    std::fs::write(&secret, SECRET).unwrap();
    let mut chmod = Command::new("chmod");
    assert!(chmod.arg("600").arg(&secret).status().unwrap().success());
    world.configure(&format!(
        "[repository.bucket]\nurl = \"s3://{bucket}/chat\"\nendpoint = \"{endpoint}\"\n\
         access_key_id = \"{KEY}\"\nsecret_access_key = {{ file = \"{}\" }}\ntimeout = \"3s\"\n\
         [source.app]\nsqlite = \"{}\"\nkeep = {{ last = 1 }}\n",
        secret.display(),
        world.text("data/app.db"),
    ));
    world
}

fn at(server: &Server) -> World {
    world(&format!("http://{}", server.address))
}

#[test]
fn a_database_goes_to_a_bucket_and_comes_back() {
    for server in [Server::s3s(), Server::moto(), Server::rclone()].into_iter().flatten() {
        let world = at(&server);
        let rows = content(&world.path("data/app.db"));
        world.run(&["config", "check", "--online"]).expect(0);
        world.run(&["backup"]).expect(0);
        world.run(&["backup", "app", "--compress", "none"]).expect(0);
        let list = world.run(&["list", "--json"]).expect(0);
        assert_eq!(list.out.matches("\"taken_at\"").count(), 2, "{}", list.out);
        world.run(&["verify"]).expect(0);
        world.run(&["status"]).expect(0);
        let to = world.text("data/new.db");
        world.run(&["restore", "app", "--to", &to, "--yes"]).expect(0);
        assert_eq!(content(&world.path("data/new.db")), rows);
        world.run(&["prune", "--yes"]).expect(0);
        world.run(&["verify"]).expect(0);
        let doctor = world.run(&["doctor"]);
        assert!(format!("{}{}", doctor.out, doctor.err).contains("s3://"), "{doctor:?}");
    }
}

#[test]
fn wrong_credentials_and_missing_buckets_are_exit_code_13_with_what_mends_them() {
    let Some(server) = Server::s3s() else { return };
    let world = at(&server);
    let wrong = "another/secret+key/of+forty+characters";
    std::fs::write(world.path("home/secret"), wrong).unwrap();
    let ran = world.run(&["backup"]).expect(13);
    assert!(!ran.err.contains(wrong) && !ran.err.contains(SECRET), "{}", ran.err);
    let Some(server) = Server::moto() else { return };
    let world = world_in(&format!("http://{}", server.address), "nobody-has-it");
    world.run(&["backup"]).expect(13).says("create the bucket");
    let unreachable = self::world("http://127.0.0.1:1");
    unreachable.run(&["backup"]).expect(13).says("endpoint");
}

#[test]
fn a_bit_turned_on_the_way_back_makes_no_backup() {
    let Some(server) = Server::s3s() else { return };
    // In the middle of what comes back on each connection, far behind any header.
    let proxy = Proxy::before(server.address, |_| Fault::FlipDown(60_000));
    let world = world(&format!("http://{}", proxy.address));
    let ran = world.run(&["backup"]).expect(20);
    assert!(ran.err.contains("is not what was sent"), "{}", ran.err);
    assert!(manifests(&server).is_empty());
}

#[test]
fn a_killed_backup_leaves_none_and_the_next_one_succeeds() {
    let Some(server) = Server::s3s() else { return };
    let world = at(&server);
    world.run(&["backup"]).expect(0);
    for point in ["backup.artifact.streamed", "backup.artifact.read_back", "backup.before_manifest"]
    {
        let before = manifests(&server);
        let killed = world.command(&["backup"]).env("LIFEBOAT_CRASH_AT", point).status().unwrap();
        assert!(!killed.success());
        assert_eq!(manifests(&server), before, "{point}");
    }
    world.run(&["backup"]).expect(0);
    world.run(&["verify"]).expect(0);
}

#[test]
fn a_server_that_overwrites_is_noticed_when_the_repository_is_made() {
    let servers = [(Server::rclone(), false), (Server::s3s(), true)];
    for (server, conditional) in servers {
        let Some(server) = server else { continue };
        at(&server).run(&["backup"]).expect(0);
        let header = server.folder().join(BUCKET).join("chat/lifeboat.json");
        let header: serde_json::Value =
            serde_json::from_slice(&std::fs::read(header).unwrap()).unwrap();
        assert_eq!(header["conditional_put"], conditional);
    }
}

/// Ends the grace time of all tombstones: they are put anew by who may.
fn end_the_grace_time(server: &Server, keys: &(String, String)) {
    use lifeboat_core::store::{Store, get_bytes, put_bytes};
    let options = lifeboat_stores::Options {
        access_key_id: Some(lifeboat_core::secret::Secret::new(keys.0.clone())),
        secret_access_key: Some(lifeboat_core::secret::Secret::new(keys.1.clone())),
        ..server.options()
    };
    let env = crate::stores_world::env();
    let url = format!("s3://{BUCKET}/chat");
    let store = lifeboat_stores::BucketStore::open(&env, &url, &options).unwrap();
    for object in store.list(Some("tombstones")).unwrap() {
        let bytes = get_bytes(&store, &object.name, 1 << 20).unwrap();
        let mut tombstone: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        tombstone["delete_after"] = "2025-01-08T14:00:00Z".into();
        store.delete(&object.name).unwrap();
        put_bytes(&store, &object.name, tombstone.to_string().as_bytes()).unwrap();
    }
}

#[test]
fn credentials_without_the_right_to_delete_make_backups_and_others_prune() {
    let Some((server, keys)) = Server::moto_with_rights() else { return };
    let world = World::new();
    make_database(&world.path("data/app.db"), 500);
    let mut chmod = Command::new("chmod");
    let (backup, prune) = (world.path("home/backup"), world.path("home/prune"));
    std::fs::write(&backup, &keys[0].1).unwrap();
    std::fs::write(&prune, &keys[1].1).unwrap();
    assert!(chmod.arg("600").arg(&backup).arg(&prune).status().unwrap().success());
    let configure = |more: &str| {
        world.configure(&format!(
            "[repository.bucket]\nurl = \"s3://{BUCKET}/chat\"\nendpoint = \"http://{}\"\n\
             access_key_id = \"{}\"\nsecret_access_key = {{ file = \"{}\" }}\n{more}\
             [source.app]\nsqlite = \"$DATA/app.db\"\nkeep = {{ last = 3 }}\n",
            server.address,
            keys[0].0,
            backup.display(),
        ));
    };
    configure("");
    for _ in 0..5 {
        world.run(&["backup"]).expect(0);
    }
    world.run(&["verify"]).expect(0);
    // Marking is a put; the bytes are for somebody with the right to delete.
    let count = || world.run(&["list", "--json"]).expect(0).json().as_array().unwrap().len();
    world.run(&["prune", "--yes"]).expect(0);
    assert_eq!(count(), 3);
    end_the_grace_time(&server, &keys[1]);
    world.run(&["backup"]).expect(0);
    let denied = world.run(&["prune", "--yes"]).expect(13);
    denied.says("could not be deleted").says("AccessDenied").says("prune_credentials");
    // What was to be marked is marked all the same.
    assert_eq!(count(), 3);
    world.run(&["backup", "--prune"]).expect(0);
    configure(&format!(
        "prune_credentials = {{ access_key_id = \"{}\", secret_access_key = {{ file = \"{}\" }} }}\n",
        keys[1].0,
        prune.display(),
    ));
    world.run(&["backup"]).expect(0);
    let pruned = world.run(&["prune", "--yes", "--json"]).expect(0).json();
    assert!(!pruned[0]["deleted"].as_array().unwrap().is_empty(), "{pruned}");
    world.run(&["verify"]).expect(0);
}

#[test]
fn locked_backups_are_restored_after_somebody_hid_and_covered_them() {
    let Some(server) = Server::moto() else { return };
    let bucket = "locked";
    server.make_bucket(&format!("/{bucket}"), &["x-amz-bucket-object-lock-enabled: true"]);
    let endpoint = format!("http://{}", server.address);
    let world = world_in(&endpoint, bucket);
    let path = world.path("home/config/lifeboat/config.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replacen("[source.app]", "object_lock = \"compliance\"\n[source.app]", 1);
    std::fs::write(&path, text).unwrap();
    let rows = content(&world.path("data/app.db"));
    for _ in 0..2 {
        world.run(&["backup"]).expect(0);
    }
    // Whoever has the keys empties the bucket, and covers the manifests.
    let env = crate::stores_world::env();
    let url = format!("s3://{bucket}/chat");
    let plain = lifeboat_stores::BucketStore::open(&env, &url, &server.options()).unwrap();
    use lifeboat_core::store::{Store, put_bytes};
    for object in plain.list(None).unwrap() {
        plain.delete(&object.name).unwrap();
        if object.name.as_str().ends_with(".json") {
            put_bytes(&plain, &object.name, b"{}").unwrap();
        }
    }
    let list = world.run(&["list", "--json"]).expect(0);
    assert_eq!(list.out.matches("\"taken_at\"").count(), 2, "{}", list.out);
    world.run(&["verify"]).expect(0);
    let to = world.text("data/new.db");
    world.run(&["restore", "app", "--to", &to, "--yes"]).expect(0);
    assert_eq!(content(&world.path("data/new.db")), rows);
    world.run(&["backup"]).expect(0);
    let doctor = world.run(&["doctor", "--json"]);
    assert!(doctor.out.contains("object lock"), "{doctor:?}");
    assert!(doctor.out.contains("could not be deleted"), "{doctor:?}");
}

/// The manifests that are really there.
fn manifests(server: &Server) -> Vec<String> {
    let folder = server.folder().join(BUCKET).join("chat/app");
    let files = std::fs::read_dir(folder).map(|files| files.flatten().collect::<Vec<_>>());
    let names = files.unwrap_or_default().into_iter();
    let names = names.map(|file| file.file_name().into_string().unwrap());
    let mut found: Vec<String> =
        names.filter(|name| name.ends_with(".json") && name != "source.json").collect();
    found.sort();
    found
}

/// The page on places elsewhere: its configuration of a bucket, and its commands, one by one.
#[test]
fn the_page_of_object_storage_holds() {
    let Some(server) = Server::s3s() else { return };
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/off-site.md");
    let page = std::fs::read_to_string(page).unwrap();
    let section = page.split("\n## Object storage\n").nth(1).unwrap();
    let block = |kind: &str| {
        let rest = section.split(&format!("```{kind}\n")).nth(1).unwrap();
        rest.split("```").next().unwrap().to_owned()
    };
    let world = World::new();
    make_database(&world.path("data/app.db"), 300);
    let repository = block("toml").replace("s3://my-backups/", &format!("s3://{BUCKET}/"));
    let endpoint = format!("endpoint = \"http://{}\"", server.address);
    let own = "# A server of your own: endpoint = \"https://minio.example.org:9000\"";
    assert!(repository.contains(own), "{repository}");
    let repository = repository.replace(own, &endpoint);
    world.configure(&format!("{repository}\n[source.app]\nsqlite = \"$DATA/app.db\"\n"));
    let commands = block("sh");
    assert_eq!(commands.lines().count(), 4, "{commands}");
    for line in commands.lines() {
        let line = line.split('#').next().unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[0], "lifeboat");
        // Who we are, as the page's second way says it.
        let mut command = world.command(&words[1..]);
        command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET);
        crate::support::ran(command.output().unwrap()).expect(0);
    }
    assert_eq!(manifests(&server).len(), 1);
}

#[test]
fn a_server_that_takes_no_long_pages_is_listed_all_the_same() {
    let Some(server) = Server::s3s() else { return };
    at(&server).run(&["backup"]).expect(0);
    let refused = answer("400 Bad Request", "", "InvalidArgument");
    let long = "GET /backups?list-type=2&prefix=chat%2F&max-keys=";
    let proxy = Proxy::before(server.address, move |_| Fault::Instead(long, refused.clone()));
    let through = world(&format!("http://{}", proxy.address));
    assert_eq!(through.run(&["list", "--json"]).expect(0).json().as_array().unwrap().len(), 1);
    assert!(proxy.connections.load(std::sync::atomic::Ordering::Relaxed) > 0);
}
