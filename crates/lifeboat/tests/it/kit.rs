//! The recovery kit: what it says is followed word by word, with the program and without it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::sshd::Sshd;
use crate::support::{Ran, World, content, ran};

/// A world with a sealed backup of a database, its file, and a source of files.
fn world(repository: &str) -> World {
    let world = World::new();
    let key = world.text("home/recovery.key");
    let recipient = world.run(&["key", "new", &key]).expect(0).out;
    world.database("it's app.db", 700);
    fs::write(world.path("data/host key"), "a host key").unwrap();
    fs::write(world.path("data/notes"), "notes").unwrap();
    world.configure(&format!(
        "host = \"chat1\"\ncontact = \"Ann <ann@example.org>\"\n[repository.off]\n{repository}\n\
         encrypt_to = [\"{}\"]\n\
         [source.app]\nsqlite = \"$DATA/it's app.db\"\nfiles = [\"$DATA/host key\"]\n\
         [source.notes]\nfiles = [\"$DATA/notes\"]\n",
        recipient.trim()
    ));
    world.run(&["backup"]).expect(0);
    world
}

/// The commands of a section, as a script.
fn commands(kit: &str, section: &str) -> String {
    let from = kit.find(section).unwrap();
    let text = kit[from..].lines().skip(2);
    let ends = |line: &&str| !line.starts_with(|c: char| c.is_ascii_digit());
    let lines = text.take_while(ends).filter_map(|line| line.strip_prefix("    $ "));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Runs a script as a person would, in a folder, with the program in the search path.
fn follow(world: &World, folder: &Path, script: &str) -> Ran {
    let program = Path::new(env!("CARGO_BIN_EXE_lifeboat"));
    let path =
        format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    // Everything of this world but its arguments.
    let like = world.command(&[]);
    let mut command = Command::new("sh");
    command.args(["-euc", script]).env_clear().current_dir(folder).stdin(Stdio::null());
    command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    ran(command.env("PATH", path).output().unwrap())
}

fn rescue_folder(world: &World) -> PathBuf {
    let folder = world.path("rescue");
    fs::create_dir(&folder).unwrap();
    fs::copy(world.path("home/recovery.key"), folder.join("recovery.key")).unwrap();
    folder
}

fn must_be_restored_by_hand(world: &World, folder: &Path, rows: &[(u32, String)]) {
    assert_eq!(content(&folder.join("app.restored")), rows);
    let data = world.path("data");
    let below = folder.join(data.strip_prefix("/").unwrap());
    assert_eq!(fs::read_to_string(below.join("host key")).unwrap(), "a host key");
    assert_eq!(fs::read_to_string(below.join("notes")).unwrap(), "notes");
}

#[test]
fn its_commands_bring_everything_back_word_by_word() {
    let world = world("url = \"file://$REPO\"");
    let rows = content(&world.path("data/it's app.db"));
    let kit = world.run(&["kit"]).expect(0).out;
    for text in ["chat1", "Ann <ann@example.org>", "app", "notes", "recipient      age1"] {
        assert!(kit.contains(text), "{text}: {kit}");
    }
    assert!(!kit.contains("AGE-SECRET") && !kit.contains("BEGIN AGE"), "{kit}");
    let folder = rescue_folder(&world);
    follow(&world, &folder, &commands(&kit, "5. Back without")).expect(0);
    must_be_restored_by_hand(&world, &folder, &rows);

    for name in ["data", "home/config", "state"] {
        fs::remove_dir_all(world.path(name)).unwrap();
    }
    let script = commands(&kit, "4. Back with");
    follow(&world, &folder, &script).expect(0).says("all of it: 2 sources");
    assert_eq!(content(&world.path("data/it's app.db")), rows);
    assert_eq!(fs::read_to_string(world.path("data/notes")).unwrap(), "notes");
    assert!(world.path("home/config/lifeboat/config.toml").is_file());
}

#[test]
fn its_commands_fetch_from_a_host_by_ssh() {
    let Some(server) = Sshd::start("its_commands_fetch_from_a_host_by_ssh", "") else { return };
    let world = world(&format!(
        "url = \"sftp://backup-host{}\"\nssh_config = \"{}\"",
        server.path("chat").display(),
        server.client_config().display()
    ));
    let rows = content(&world.path("data/it's app.db"));
    let kit = world.run(&["kit"]).expect(0).out;
    let folder = rescue_folder(&world);
    follow(&world, &folder, &commands(&kit, "5. Back without")).expect(0);
    must_be_restored_by_hand(&world, &folder, &rows);
}

#[test]
fn the_key_is_on_it_only_if_asked_and_under_its_passphrase() {
    let world = world("url = \"file://$REPO\"");
    let key = world.text("home/recovery.key");
    world.run(&["kit", "--with-key"]).expect(2).says("--identity FILE");
    let with_input = |arguments: &[&str], input: &str| {
        use std::io::Write;
        let mut command = world.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        ran(child.wait_with_output().unwrap())
    };
    let safe = world.text("safe");
    let arguments = ["kit", "--to", &safe, "--with-key", "--identity", &key];
    with_input(&arguments, "").expect(12).says("no new passphrase");
    assert!(!world.path("safe").exists());
    let made = with_input(&arguments, "open sesame\n").expect(0).out;
    let files: Vec<&Path> = made.lines().map(Path::new).collect();
    let [text, html] = files[..] else { panic!("{made}") };
    let secret = fs::read_to_string(&key).unwrap();
    let secret = secret.lines().find(|line| line.starts_with("AGE-SECRET")).unwrap();
    for file in [text, html] {
        assert_eq!(fs::metadata(file).unwrap().mode() & 0o777, 0o600);
        let page = fs::read_to_string(file).unwrap();
        assert!(page.contains("-----BEGIN AGE ENCRYPTED FILE-----") && !page.contains(secret));
    }
    let page = fs::read_to_string(html).unwrap();
    for foreign in ["<script", "http://", "https://", "<img", "<link", "url("] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    // As the page says: the lines from BEGIN to END are the file.
    let page = fs::read_to_string(text).unwrap();
    let from = page.find("-----BEGIN").unwrap();
    let end = "-----END AGE ENCRYPTED FILE-----\n";
    let to = page.find(end).unwrap() + end.len();
    fs::write(world.path("home/typed.key"), &page[from..to]).unwrap();
    let typed = world.text("home/typed.key");
    with_input(&["verify", "--identity", &typed], "open sesame\n").expect(0);
    with_input(&["verify", "--identity", &typed], "guessed\n").expect(12);
}

#[test]
fn a_kit_of_nothing_says_so_and_an_open_one_needs_no_key() {
    let world = World::new();
    world.database("app.db", 10);
    world.configure(
        "[repository.off]\nurl = \"file://$REPO\"\n[source.app]\nsqlite = \"$DATA/app.db\"\n",
    );
    world.run(&["kit"]).expect(10);
    world.run(&["backup"]).expect(0);
    let kit = world.run(&["kit"]).expect(0).out;
    assert!(kit.contains("not sealed") && !kit.contains("--identity"), "{kit}");
    let folder = world.path("rescue");
    fs::create_dir(&folder).unwrap();
    follow(&world, &folder, &commands(&kit, "5. Back without")).expect(0);
    assert_eq!(content(&folder.join("app.restored")).len(), 10);
}

/// The command-line program of Amazon, as a person would have it in the search path.
fn aws(world: &World) -> Option<PathBuf> {
    let installed = lifeboat_test_support::installed("awscli");
    if !installed.join("awscli/__main__.py").exists() {
        lifeboat_test_support::skipped("awscli is not installed; `cargo xtask test` installs it");
        return None;
    }
    let folder = world.path("home/bin");
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join("aws");
    let script =
        format!("#!/bin/sh\nPYTHONPATH='{}' exec python3 -m awscli \"$@\"\n", installed.display());
    lifeboat_test_support::executable(&program, &script);
    Some(folder)
}

#[test]
fn its_commands_fetch_from_a_bucket_with_lifeboat_and_without() {
    use crate::s3_servers::{BUCKET, KEY, SECRET, Server};
    let Some(server) = Server::s3s() else { return };
    let place = World::new();
    let secret = place.text("home/secret");
    fs::write(&secret, SECRET).unwrap();
    crate::support::set_mode(Path::new(&secret), 0o600);
    let world = world(&format!(
        "url = \"s3://{BUCKET}/the chat\"\nendpoint = \"http://{}\"\nregion = \"us-east-1\"\n\
         access_key_id = \"{KEY}\"\nsecret_access_key = {{ file = \"{secret}\" }}",
        server.address
    ));
    let rows = content(&world.path("data/it's app.db"));
    let kit = world.run(&["kit"]).expect(0).out;
    let folder = rescue_folder(&world);
    // The secrets are not on the page: whoever has it brings them.
    let secrets = format!(
        "export AWS_ACCESS_KEY_ID={KEY} AWS_SECRET_ACCESS_KEY={SECRET} PATH={}:$PATH\n",
        world.path("home/bin").display()
    );
    if aws(&world).is_some() {
        follow(&world, &folder, &(secrets.clone() + &commands(&kit, "5. Back without"))).expect(0);
        must_be_restored_by_hand(&world, &folder, &rows);
    }
    for name in ["data", "home/config", "state"] {
        fs::remove_dir_all(world.path(name)).unwrap();
    }
    let script = secrets + &commands(&kit, "4. Back with");
    follow(&world, &folder, &script).expect(0).says("all of it: 2 sources");
    assert_eq!(content(&world.path("data/it's app.db")), rows);
    assert_eq!(fs::read_to_string(world.path("data/notes")).unwrap(), "notes");
}
