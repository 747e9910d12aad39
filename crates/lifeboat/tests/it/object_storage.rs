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
         access_key_id = \"{KEY}\"\nsecret_access_key = {{ file = \"{}\" }}\ntimeout = \"30s\"\n\
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
    let config = unreachable.path("home/config/lifeboat/config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(config, text.replace("\"30s\"", "\"1s\"")).unwrap();
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

/// Another host, with nothing but the repository and credentials that may read it.
fn who_may_only_read_watches(server: &Server, keys: &(String, String)) {
    let other = World::new();
    let secret = other.path("home/secret");
    std::fs::write(&secret, &keys.1).unwrap();
    crate::support::set_mode(&secret, 0o600);
    other.configure(&format!(
        "[repository.bucket]\nurl = \"s3://{BUCKET}/chat\"\nendpoint = \"http://{}\"\n\
         access_key_id = \"{}\"\nsecret_access_key = {{ file = \"{}\" }}\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\n",
        server.address,
        keys.0,
        secret.display(),
    ));
    other.run(&["watch", "bucket", "--max-age", "1h"]).expect(0);
    other.run(&["watch", "bucket", "--max-age", "0s"]).expect(21).says("app: the newest moment");
    make_database(&other.path("data/app.db"), 5);
    other.run(&["backup"]).expect(13);
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
    who_may_only_read_watches(&server, &keys[2]);
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
    // After a backup that is no failure, and said to people too.
    world.run(&["backup", "--prune"]).expect(0).says("left to a prune whose credentials may");
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
    // A bare host, which knows no more than the bucket's name and the keys.
    let bare = World::new();
    let lifeboat = |arguments: &[&str]| {
        let mut command = bare.command(arguments);
        command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET);
        crate::support::ran(command.env("AWS_ENDPOINT_URL", &endpoint).output().unwrap())
    };
    let root = bare.text("root");
    let all = lifeboat(&["restore", "--all", "--repo", &url, "--root", &root]).expect(0);
    drop(all.says("all of it: 1 sources"));
    let back = bare.path("root").join(world.path("data/app.db").strip_prefix("/").unwrap());
    assert_eq!(content(&back), rows);
    lifeboat(&["adopt", &url]).expect(0);
    assert!(bare.path("home/config/lifeboat/config.toml").exists());
    world.run(&["backup"]).expect(0);
    let doctor = world.run(&["doctor", "--json"]);
    assert!(doctor.out.contains("object lock"), "{doctor:?}");
    assert!(doctor.out.contains("could not be deleted"), "{doctor:?}");
}

/// A backup is locked for as long as its rule will keep it, and not for the shortest time alone.
#[test]
fn a_backup_is_locked_until_its_planned_end() {
    use lifeboat_core::store::Store;
    let Some(server) = Server::moto() else { return };
    let bucket = "planned";
    server.make_bucket(&format!("/{bucket}"), &["x-amz-bucket-object-lock-enabled: true"]);
    let world = world_in(&format!("http://{}", server.address), bucket);
    let path = world.path("home/config/lifeboat/config.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let locks = "object_lock = \"compliance\"\nlock_period = \"2d\"\n[source.app]";
    let text = text.replacen("[source.app]", locks, 1);
    let rule = "schedule = \"daily\"\nkeep = { daily = 30 }";
    std::fs::write(&path, text.replacen("keep = { last = 1 }", rule, 1)).unwrap();
    world.run(&["backup"]).expect(0);
    let env = crate::stores_world::env();
    let url = format!("s3://{bucket}/chat");
    let object_lock = Some(lifeboat_stores::ObjectLock {
        mode: lifeboat_stores::LockMode::Compliance,
        period: jiff::SignedDuration::from_hours(48),
    });
    let options = lifeboat_stores::Options { object_lock, ..server.options() };
    let store = lifeboat_stores::BucketStore::open(&env, &url, &options).unwrap();
    let days = |name: &lifeboat_core::store::ObjectName| {
        let until = store.locked_until(name).unwrap().unwrap();
        until.duration_since(jiff::Timestamp::now()).as_hours() / 24
    };
    let mut of_backup = 0;
    for object in store.list(None).unwrap() {
        match object.name.as_str().starts_with("app/app-") {
            // Thirty days with a backup each, and the seven of grace.
            true => assert!((35..=39).contains(&days(&object.name)), "{object:?}"),
            false if object.name.as_str().contains("source.json") => {
                assert!(days(&object.name) <= 2, "{object:?}");
            }
            false => continue,
        }
        of_backup += 1;
    }
    // Whoever watches the backups is told until when nobody can delete the newest one.
    let metrics = world.run(&["status", "--format", "prometheus"]).expect(0).out;
    let immutable = |line: &&str| line.starts_with("lifeboat_immutable_until_timestamp_seconds{");
    let line = metrics.lines().find(immutable).unwrap_or_else(|| panic!("{metrics}"));
    let until: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
    let days = (until - jiff::Timestamp::now().as_second() as f64) / 86_400.0;
    assert!((35.0..=39.0).contains(&days), "{line}");
    assert_eq!(of_backup, 4, "the database, its page hashes, the manifest, and whose folder it is");
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

/// Makes a hundred backups of one, as far as a list can tell, each an hour older than the last.
fn multiply(folder: &std::path::Path) {
    let name = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .find(|name| name.ends_with(".json") && name != "source.json")
        .unwrap();
    let bytes = std::fs::read(folder.join(&name)).unwrap();
    let first: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    for number in 1..100_u32 {
        let mut copy = first.clone();
        let seconds = 1_736_294_400 - i64::from(number) * 3_600;
        let taken_at = jiff::Timestamp::from_second(seconds).unwrap();
        let stamp = taken_at.strftime("%Y%m%d-%H%M%S").to_string();
        copy["id"] = uuid::Uuid::from_u128(u128::from(number)).to_string().into();
        copy["name"] = format!("app-{stamp}").into();
        copy["taken_at"] = taken_at.to_string().into();
        write_old(&folder.join(format!("app-{stamp}.json")), &serde_json::to_vec(&copy).unwrap());
    }
    write_old(&folder.join(name), &bytes);
}

/// Writes what is an hour old, as nothing younger than a few seconds is packed.
fn write_old(path: &std::path::Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
    let past = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_760_000_000);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(past).unwrap();
}

#[test]
fn a_host_that_read_nothing_yet_reads_packs_and_is_never_lied_to() {
    let Some(server) = Server::s3s() else { return };
    let proxy = Proxy::before(server.address, |_| Fault::None);
    let world = world(&format!("http://{}", proxy.address));
    let path = world.path("home/config/lifeboat/config.toml");
    let text = std::fs::read_to_string(&path).unwrap().replace("last = 1 ", "last = 1000 ");
    std::fs::write(&path, text).unwrap();
    world.run(&["backup"]).expect(0);
    let folder = server.folder().join(BUCKET).join("chat/app");
    multiply(&folder);
    // A list by a bare host: what it says, and how many requests that took.
    let list = || {
        let _ = std::fs::remove_dir_all(world.path("state"));
        let before = proxy.connections.load(std::sync::atomic::Ordering::Relaxed);
        let listed = world.run(&["list", "--json"]).expect(0).json();
        let after = proxy.connections.load(std::sync::atomic::Ordering::Relaxed);
        (listed, after - before)
    };
    let (truth, requests) = list();
    assert_eq!((truth.as_array().unwrap().len(), requests >= 100), (100, true), "{requests}");
    world.run(&["prune", "--yes"]).expect(0).says("nothing of app has to go");
    let packs = server.folder().join(BUCKET).join("chat/packs/app");
    let pack = || std::fs::read_dir(&packs).unwrap().next().unwrap().unwrap().path();
    let (packed, requests) = list();
    assert_eq!((&packed, requests < 15), (&truth, true), "{requests} requests");
    // The second prune finds that it lacks nothing.
    let made = pack();
    world.run(&["prune", "--yes"]).expect(0);
    assert_eq!(pack(), made);
    // A manifest that is another one than was packed is told by its time or its size.
    let changed = folder.join("app-20250107-230000.json");
    let bytes = std::fs::read(&changed).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    manifest["tool"] = "another one".into();
    std::fs::write(&changed, serde_json::to_vec(&manifest).unwrap()).unwrap();
    let (listed, _) = list();
    assert!(listed.to_string().contains("another one"), "{listed}");
    // One that is gone is gone, whatever the pack holds.
    std::fs::remove_file(&changed).unwrap();
    assert_eq!(list().0.as_array().unwrap().len(), 99);
    // A pack that is damaged, or of another repository, is none.
    let mut bytes = std::fs::read(pack()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(pack(), &bytes).unwrap();
    let (listed, requests) = list();
    assert_eq!((listed.as_array().unwrap().len(), requests >= 99), (99, true), "{requests}");
    // The next prune makes a good one of the manifests, and the damaged one goes.
    world.run(&["prune", "--yes"]).expect(0);
    assert_ne!(pack(), made);
    assert_eq!(std::fs::read_dir(&packs).unwrap().count(), 1);
    assert!(list().1 < 15);
}

/// Uploads that a killed run left are no objects, cost money all the same, and go with a prune: a
/// mark first, then, after its grace time, the parts.
#[test]
fn uploads_that_a_killed_run_left_are_ended_by_prunes() {
    use lifeboat_core::store::{ObjectName, Store};
    use std::io::Write;
    for server in [Server::moto(), Server::rclone()].into_iter().flatten() {
        let world = at(&server);
        world.run(&["backup"]).expect(0);
        let env = crate::stores_world::env();
        let url = format!("s3://{BUCKET}/chat");
        let store = lifeboat_stores::BucketStore::open(&env, &url, &server.options()).unwrap();
        let name = ObjectName::new("app/app-20250108-140000.db.zst").unwrap();
        let mut put = store.put(&name).unwrap();
        put.write_all(&vec![1; 20 << 20]).unwrap();
        std::mem::forget(put);
        let at = |moment: jiff::SignedDuration, arguments: &[&str]| {
            let now = jiff::Timestamp::now() + moment;
            let mut command = world.command(arguments);
            command.env("LIFEBOAT_CLOCK_AT", now.to_string());
            crate::support::ran(command.output().unwrap()).expect(0)
        };
        let prune_at = |moment| at(moment, &["prune", "--yes", "--json"]).json();
        // Of a run that may still live nothing is said. (moto dates every upload to 2010.)
        let begun = store.unfinished("app").unwrap()[0].modified;
        if begun > jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1) {
            assert_eq!(prune_at(jiff::SignedDuration::ZERO)[0]["outcome"], "nothing-to-do");
        }
        let week = jiff::SignedDuration::from_hours(8 * 24);
        let marked = prune_at(week);
        let text = marked[0]["marked"].to_string();
        assert!(text.contains("app-20250108-140000.db.zst"), "{marked}");
        assert_eq!(store.unfinished("app").unwrap().len(), 1);
        at(week, &["backup"]);
        let deleted = prune_at(week * 2);
        assert!(deleted[0]["deleted"].to_string().contains("app-20250108-140000"), "{deleted}");
        assert!(store.unfinished("app").unwrap().is_empty());
        world.run(&["verify"]).expect(0);
    }
}

#[test]
fn a_clock_that_is_off_is_told_before_the_server_refuses() {
    let Some(server) = Server::s3s() else { return };
    let world = at(&server);
    world.run(&["backup"]).expect(0);
    let check = |seconds: i64| {
        let now = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
        let mut command = world.command(&["config", "check", "--online"]);
        command.env("LIFEBOAT_CLOCK_AT", now.to_string());
        crate::support::ran(command.output().unwrap())
    };
    assert!(!check(0).expect(0).out.contains("the clock of this host"));
    let told = check(5 * 60).expect(0).out;
    assert!(told.contains("ahead of that of the server"), "{told}");
    // It takes a moment until the program begins, and a server tells whole seconds.
    let told = check(20 * 60 + 30);
    let is_told = told.out.contains("20 min ") && told.out.contains("s ahead of");
    assert!(told.code != 0 && is_told, "{told:?}");
    assert!(format!("{}{}", told.out, told.err).contains("timedatectl"), "{told:?}");
    // Both observers tell of it, and metrics by how much.
    let run = |minutes: i64, arguments: &[&str]| {
        let now = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(minutes);
        let mut command = world.command(arguments);
        command.env("LIFEBOAT_CLOCK_AT", now.to_string());
        crate::support::ran(command.output().unwrap()).expect(0)
    };
    for named in [&["watch"][..], &["watch", "bucket"]] {
        let watch = [named, &["--unattended", "--json"]].concat();
        let skew = |minutes| run(minutes, &watch).out.contains("\"clock-skew\"");
        assert!(!skew(0) && skew(5), "{named:?}");
    }
    let metrics = run(5, &["status", "--format", "prometheus"]).out;
    assert!(metrics.contains("code=\"clock-skew\",severity=\"warning\"} 1"), "{metrics}");
}
