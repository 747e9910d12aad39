//! Sealed repositories: a host without a key backs up and proves what it can, one with the key does
//! the rest, and every way to get it wrong has its own error.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Ran, World, content, make_database, ran};

/// A world with a key, and a configuration that seals to it. Gives the recipient.
fn sealed_world(rows: u32) -> (World, String) {
    let world = World::new();
    let made = world.run(&["key", "new", &world.text("key")]).expect(0);
    let recipient = made.out.trim().to_owned();
    world.database("app.db", rows);
    fs::write(world.path("data/host_key"), "a host key").unwrap();
    configure(&world, &format!("\"{recipient}\""), "");
    (world, recipient)
}

fn configure(world: &World, encrypt_to: &str, more: &str) {
    world.configure(&format!(
        "[repository.off]\nurl = \"file://$REPO\"\nencrypt_to = [{encrypt_to}]\n{more}\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nfiles = [\"$DATA/host_key\"]\n"
    ));
}

fn with_input(world: &World, arguments: &[&str], input: &str) -> Ran {
    use std::io::Write;
    let mut command = world.command(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    ran(child.wait_with_output().unwrap())
}

fn shell(line: &str, folder: &Path) -> Vec<u8> {
    let output = Command::new("sh").args(["-ec", line]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn manifest(world: &World) -> serde_json::Value {
    let names = world.names("repo/app");
    let name = names.iter().find(|name| name.ends_with(".json") && *name != "source.json");
    let bytes = fs::read(world.path("repo/app").join(name.unwrap())).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[test]
fn a_host_without_a_key_backs_up_and_one_with_it_restores() {
    let (world, recipient) = sealed_world(2_000);
    // The key is somewhere else now.
    fs::rename(world.path("key"), world.path("home/elsewhere")).unwrap();
    let key = world.text("home/elsewhere");
    let made = world.run(&["backup"]).expect(0).says("sealed   to age1");
    assert!(made.err.contains("before seal"), "{}", made.err);
    for name in world.names("repo/app") {
        assert!(name.ends_with(".age") || name.ends_with(".json"), "{name} is open");
    }
    let manifest = manifest(&world);
    assert_eq!(manifest["format"], 2);
    for artifact in manifest["artifacts"].as_array().unwrap() {
        assert_eq!(artifact["sealed"]["format"], "age");
        assert_eq!(artifact["sealed"]["to"], serde_json::json!([recipient]));
    }
    let checks: Vec<_> = manifest["checks"].as_array().unwrap().iter().collect();
    assert!(checks.iter().any(|check| check["on"] == "before-seal"), "{checks:?}");
    assert!(checks.iter().any(|check| check["on"] == "stored-pages"), "{checks:?}");
    assert_eq!(world.names("repo/begun/app"), [""; 0]);

    // What needs no key.
    world.run(&["list"]).expect(0);
    let shown = world.run(&["show", "app"]).expect(0);
    assert!(shown.out.contains(&format!("sealed to        {recipient}")), "{}", shown.out);
    world.run(&["verify", "--level", "stored"]).expect(0).says("sound");
    assert!(!world.path("repo/proofs").exists(), "without a key nothing is proved of the seal");
    // What needs one.
    let to = world.text("data/back.db");
    world.run(&["verify"]).expect(12).says("--identity FILE").says(&recipient);
    world.run(&["restore", "app", "--to", &to]).expect(12).says("--identity FILE");
    assert!(!world.path("data/back.db").exists());
    let verified = world.run(&["verify", "--level", "full", "--identity", &key, "--json"]);
    let verified = verified.expect(0).json();
    assert_eq!((&verified[0]["sound"], &verified[0]["on"]), (&true.into(), &"stored".into()));
    // What was checked before the seal is now known of what is stored, and recorded.
    assert_eq!(verified[0]["proof"]["level"], "full");
    let shown = world.run(&["show", "app"]).expect(0).out;
    assert!(shown.contains("stored, with the key, level full"), "{shown}");
    let record = world.names("repo/proofs/app");
    assert_eq!(record.len(), 1, "{record:?}");
    let before = fs::read(world.path("repo/proofs/app").join(&record[0])).unwrap();
    // A look that is less deep takes nothing from it.
    world.run(&["verify", "--identity", &key]).expect(0);
    assert_eq!(fs::read(world.path("repo/proofs/app").join(&record[0])).unwrap(), before);
    let arguments = ["restore", "app", "--to", &to, "--files", "--identity", &key];
    world.run(&arguments).expect(0).says("restored");
    assert_eq!(content(Path::new(&to)), content(&world.path("data/app.db")));
}

#[test]
fn age_and_standard_tools_open_every_artifact() {
    for (compression, suffix, open) in [
        ("zstd", ".db.zst.age", "zstd -d"),
        ("gzip", ".db.gz.age", "gunzip"),
        ("none", ".db.age", "cat"),
    ] {
        let (world, _) = sealed_world(500);
        world.run(&["backup", "--compress", compression]).expect(0);
        let database = world.artifact("app", suffix);
        let line = format!(
            "age -d -i {} {} | {open} > {}; sqlite3 {} 'PRAGMA integrity_check'",
            world.text("key"),
            database.display(),
            world.text("back.db"),
            world.text("back.db"),
        );
        assert_eq!(shell(&line, &world.path("data")), b"ok\n");
        assert_eq!(content(&world.path("back.db")), content(&world.path("data/app.db")));
        world.run(&["verify", "--identity", &world.text("key")]).expect(0);
    }
}

#[test]
fn a_check_on_a_scratch_restore_needs_no_key_of_a_person() {
    let (world, _) = sealed_world(500);
    let database = rusqlite::Connection::open(world.path("data/app.db")).unwrap();
    database.execute_batch("PRAGMA journal_mode = DELETE").unwrap();
    database.close().unwrap();
    fs::rename(world.path("key"), world.path("home/elsewhere")).unwrap();
    world.run(&["backup", "--check", "full"]).expect(0);
    let checks = manifest(&world)["checks"].clone();
    let on: Vec<&str> =
        checks.as_array().unwrap().iter().map(|check| check["on"].as_str().unwrap()).collect();
    assert!(on.contains(&"scratch-restore") || on.contains(&"before-seal"), "{on:?}");
    world.run(&["verify", "--identity", &world.text("home/elsewhere")]).expect(0);
}

#[test]
fn a_wrong_key_is_told_from_damage() {
    let (world, recipient) = sealed_world(3_000);
    world.run(&["backup"]).expect(0);
    world.run(&["key", "new", &world.text("other")]).expect(0);
    let other = world.text("other");
    world.run(&["verify", "--identity", &other]).expect(12).says(&recipient);
    world.run(&["restore", "app", "--to", "x.db", "--identity", &other]).expect(12);
    world
        .run(&["verify", "--identity", &world.text("none")])
        .expect(12)
        .says("cannot read the key");
    // Both at once is fine.
    let key = world.text("key");
    world.run(&["verify", "--identity", &other, "--identity", &key]).expect(0);

    let artifact = world.artifact("app", ".db.zst.age");
    let whole = fs::read(&artifact).unwrap();
    let middle = whole.len() / 2;
    let mut flipped = whole.clone();
    flipped[middle] ^= 4;
    for damaged in
        [flipped, whole[..middle].to_vec(), whole[..whole.len() - 1].to_vec(), Vec::new()]
    {
        fs::set_permissions(&artifact, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&artifact, damaged).unwrap();
        world.run(&["verify", "--identity", &key]).expect(20);
        world.run(&["verify", "--level", "stored"]).expect(20);
        let ran = world.run(&["restore", "app", "--to", "x.db", "--identity", &key]);
        assert_eq!(ran.code, 20, "{}", ran.err);
        assert!(!world.path("data/x.db").exists());
    }
}

#[test]
fn a_file_that_was_carried_away_is_restored() {
    let (world, _) = sealed_world(500);
    world.run(&["backup"]).expect(0);
    // Its name says nothing.
    let carried = world.text("data/carried");
    fs::copy(world.artifact("app", ".db.zst.age"), &carried).unwrap();
    let to = world.text("data/back.db");
    world.run(&["restore", &carried, "--to", &to]).expect(12).says("--identity FILE");
    world.run(&["restore", &carried, "--to", &to, "--identity", &world.text("key")]).expect(0);
    assert_eq!(content(Path::new(&to)), content(&world.path("data/app.db")));
    let bytes = fs::read(&carried).unwrap();
    fs::write(&carried, &bytes[..bytes.len() / 2]).unwrap();
    let key = world.text("key");
    world.run(&["restore", &carried, "--to", "cut.db", "--identity", &key]).expect(20);
}

#[test]
fn a_key_has_a_passphrase_and_is_never_overwritten() {
    let world = World::new();
    let key = world.text("key");
    let made = with_input(&world, &["key", "new", &key, "--passphrase"], "open sesame\n").expect(0);
    assert!(fs::read_to_string(&key).unwrap().starts_with("-----BEGIN AGE ENCRYPTED FILE"));
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let shown = with_input(&world, &["key", "show", &key], "open sesame\n").expect(0);
    assert_eq!(shown.out, made.out);
    with_input(&world, &["key", "show", &key], "guessed\n").expect(12).says("passphrase");
    with_input(&world, &["key", "show", &key], "").expect(12).says("no passphrase");
    let before = fs::read(&key).unwrap();
    world.run(&["key", "new", &key]).expect(23).says("never overwritten");
    assert_eq!(fs::read(&key).unwrap(), before);

    world.database("app.db", 100);
    configure(&world, &format!("\"{}\"", made.out.trim()), "");
    fs::write(world.path("data/host_key"), "a host key").unwrap();
    world.run(&["backup"]).expect(0);
    with_input(&world, &["verify", "--identity", &key], "open sesame\n").expect(0);
    with_input(&world, &["verify", "--identity", &key], "wrong\n").expect(12);
    // Where nobody can be asked, the configuration says where the passphrase is.
    fs::write(world.path("home/passphrase"), "open sesame\n").unwrap();
    fs::set_permissions(world.path("home/passphrase"), fs::Permissions::from_mode(0o600)).unwrap();
    let identity = format!(
        "identity = {{ file = \"{key}\", passphrase = {{ file = \"{}\" }} }}\n",
        world.text("home/passphrase")
    );
    let config = world.path("home/config/lifeboat/config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, identity + &text).unwrap();
    world.run(&["verify"]).expect(0);
}

#[test]
fn keys_of_ssh_seal_and_open() {
    let world = World::new();
    world.database("app.db", 100);
    fs::write(world.path("data/host_key"), "a host key").unwrap();
    for (name, passphrase) in [("plain", ""), ("protected", "open sesame")] {
        let file = world.text(name);
        let done = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", passphrase, "-f", &file])
            .status();
        assert!(done.unwrap().success());
    }
    // As lines in the configuration, and as a file with comments.
    let line = fs::read_to_string(world.path("plain.pub")).unwrap();
    let recipients = format!(
        "# who may restore\n\n{}",
        fs::read_to_string(world.path("protected.pub")).unwrap()
    );
    fs::write(world.path("recipients"), recipients).unwrap();
    let file = world.text("recipients");
    configure(&world, &format!("\"{}\", {{ file = \"{file}\" }}", line.trim()), "");
    world.run(&["backup"]).expect(0);
    world.run(&["verify", "--identity", &world.text("plain")]).expect(0);
    let protected = world.text("protected");
    with_input(&world, &["verify", "--identity", &protected], "open sesame\n").expect(0);
    with_input(&world, &["verify", "--identity", &protected], "no\n").expect(12);
    let artifact = world.artifact("app", ".db.zst.age");
    let line = format!("age -d -i plain {} | zstd -d | head -c 15", artifact.display());
    assert_eq!(shell(&line, &world.path("")), b"SQLite format 3");
    fs::remove_file(world.path("recipients")).unwrap();
    world.run(&["backup"]).expect(2).says("recipients");
    world.run(&["list"]).expect(0);
}

#[test]
fn what_is_no_recipient_is_refused_and_a_secret_is_never_shown() {
    let world = World::new();
    world.database("app.db", 10);
    world.run(&["key", "new", &world.text("key")]).expect(0);
    let file = fs::read_to_string(world.path("key")).unwrap();
    let secret = file.lines().find(|line| line.starts_with("AGE-SECRET")).unwrap().to_owned();
    let recipient = world.run(&["key", "show", &world.text("key")]).expect(0).out;
    let recipient = recipient.trim();
    let twice = format!("\"{recipient}\", \"{recipient}\"");
    for (encrypt_to, says) in [
        ("", "names no recipient"),
        (twice.as_str(), "named twice"),
        ("\"hello\"", "not a recipient"),
        ("{ file = \"relative\" }", "not absolute"),
        (&format!("\"{secret}\""), "a secret key stands where a recipient belongs"),
        (&format!("\"{}\"", secret.to_lowercase()), "a secret key stands"),
    ] {
        configure(&world, encrypt_to, "");
        for command in ["backup", "list"] {
            let ran = world.run(&[command]).expect(2).says(says);
            let said = (ran.out + &ran.err).to_uppercase();
            assert!(!said.contains(&secret[20..]), "{command} shows the secret");
        }
    }
    // In a file too.
    fs::write(world.path("recipients"), &file).unwrap();
    configure(&world, &format!("{{ file = \"{}\" }}", world.text("recipients")), "");
    let ran = world.run(&["backup"]).expect(2).says("a secret key stands");
    assert!(!ran.err.contains(&secret[20..]), "{}", ran.err);
}

/// A new recipient takes over, then an old key is given up: each backup opens with the keys of its
/// own time, and with each of several.
#[test]
fn keys_are_rotated_and_old_backups_stay_with_the_old_one() {
    let (world, old) = sealed_world(200);
    let (key_old, key_new) = (world.text("key"), world.text("new"));
    let new = world.run(&["key", "new", &key_new]).expect(0).out.trim().to_owned();
    world.run(&["backup"]).expect(0);
    configure(&world, &format!("\"{old}\", \"{new}\""), "");
    world.run(&["backup"]).expect(0);
    configure(&world, &format!("\"{new}\""), "");
    world.run(&["backup"]).expect(0);
    let listed = world.run(&["list", "--json"]).expect(0).json();
    let names: Vec<String> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|backup| backup["name"].as_str().unwrap().to_owned())
        .collect();
    let mut names = names;
    names.sort();
    for (key, opens) in [(&key_old, [0, 0, 12]), (&key_new, [12, 0, 0])] {
        for (name, code) in names.iter().zip(opens) {
            let verify = ["verify", name, "--level", "full", "--identity", key];
            let ran = world.run(&verify).expect(code);
            assert!(code == 0 || ran.err.contains("age1"), "{}", ran.err);
        }
    }
    // With both at hand nothing is closed; each of two keys opens the one in the middle.
    world.run(&["verify", "--identity", &key_old, "--identity", &key_new]).expect(0);
    for key in [&key_old, &key_new] {
        let artifact = format!("{}.db.zst.age", names[1]);
        let file = world.path("repo/app").join(artifact);
        let line = format!("age -d -i {key} {} | zstd -d | head -c 15", file.display());
        assert_eq!(shell(&line, &world.path("")), b"SQLite format 3");
    }
}

#[test]
fn a_key_that_others_can_read_is_told_of() {
    let (world, _) = sealed_world(10);
    world.run(&["backup"]).expect(0);
    let key = world.text("key");
    let quiet = world.run(&["verify", "--identity", &key]).expect(0);
    assert!(!quiet.err.contains("chmod"), "{}", quiet.err);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    world.run(&["verify", "--identity", &key]).expect(0).says("chmod 600");
}

#[test]
fn what_was_sealed_is_not_put_into_the_open_by_a_lost_line() {
    let (world, _) = sealed_world(10);
    world.run(&["backup"]).expect(0);
    world.configure(
        "[repository.off]\nurl = \"file://$REPO\"\n[source.app]\nsqlite = \"$DATA/app.db\"\n\
         files = [\"$DATA/host_key\"]\n",
    );
    world.run(&["backup"]).expect(23).says("encrypt_to");
    assert!(world.names("repo/app").iter().all(|name| !name.ends_with(".zst")));
}

#[test]
fn a_killed_run_leaves_garbage_that_says_whose_it_is() {
    let (world, _) = sealed_world(100);
    let mut command = world.command(&["backup"]);
    command.env("LIFEBOAT_CRASH_AT", "backup.before_manifest");
    ran(command.output().unwrap()).expect(137);
    assert_eq!(world.names("repo/begun/app").len(), 1);
    assert!(world.names("repo/app").iter().any(|name| name.ends_with(".age")));
    world.run(&["backup"]).expect(0);
    world.run(&["verify", "--identity", &world.text("key")]).expect(0);
}

#[test]
fn scripts_backups_are_adopted_sealed() {
    let (world, _) = sealed_world(100);
    let scripts = world.path("scripts");
    fs::create_dir(&scripts).unwrap();
    let plain = scripts.join("app-20250108-140000.db");
    make_database(&plain, 50);
    fs::copy(&plain, scripts.join("app-20250109-140000.db")).unwrap();
    shell("gzip app-20250109-140000.db", &scripts);
    let folder = world.text("scripts");
    // The key is not on this host.
    world.run(&["adopt", &folder]).expect(0);
    for name in world.names("repo/app") {
        assert!(name.ends_with(".age") || name.ends_with(".json"), "{name} is open");
    }
    world.run(&["verify", "--level", "full", "--identity", &world.text("key")]).expect(0);
    // Again: nothing is new.
    let before = world.names("repo/app");
    world.run(&["adopt", &folder]).expect(0);
    assert_eq!(world.names("repo/app"), before);
}

#[test]
fn no_log_lies_in_the_clear_beside_sealed_backups() {
    let (world, _) = sealed_world(500);
    for outcome in ["committed", "incremented"] {
        let made = world.run(&["backup", "--incremental", "--json"]).expect(0);
        assert_eq!(made.json()[0]["outcome"], outcome);
    }
    world.run(&["run", "--once"]).expect(0);
    let (mut folders, mut files) = (vec![world.path("repo/app/log")], 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let bytes = fs::read(&path).unwrap();
                    assert!(bytes.starts_with(b"age-encryption.org/v1"), "{}", path.display());
                    files += 1;
                }
            }
        }
    }
    assert!(files > 0);
}
