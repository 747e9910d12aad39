//! Complete server failure: everything from a repository alone, on a host that knows nothing.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sshd::Sshd;
use crate::support::{Ran, World, content, make_database, ran};

/// A server in a folder: a chat with its database, its configuration and its SSH host key.
pub(crate) struct Chat {
    pub(crate) world: World,
    sshd: Sshd,
    rows: Vec<(u32, String)>,
}

impl Chat {
    /// `repository`: the lines of `[repository.off]` without `encrypt_to`.
    fn start(test: &str, repository: &str) -> Option<Chat> {
        Chat::start_in(test, &[("off", repository)], "")
    }

    /// With several repositories, all of them sealed, and more lines of the configuration.
    pub(crate) fn start_in(test: &str, places: &[(&str, &str)], more: &str) -> Option<Chat> {
        let sshd = Sshd::start(test, "")?;
        let world = World::new();
        let root = world.path("server");
        fs::create_dir_all(root.join("var/lib/superchat")).unwrap();
        fs::create_dir_all(root.join("etc/superchat")).unwrap();
        make_database(&root.join("var/lib/superchat/superchat.db"), 3_000);
        fs::copy(sshd.path("host_key"), root.join("var/lib/superchat/ssh_host_key")).unwrap();
        fs::write(root.join("etc/superchat/config.toml"), "port = 2222\n").unwrap();
        let mode = |file: &str, mode| {
            fs::set_permissions(root.join(file), fs::Permissions::from_mode(mode)).unwrap();
        };
        mode("var/lib/superchat/superchat.db", 0o640);
        mode("var/lib/superchat/ssh_host_key", 0o600);
        mode("etc/superchat/config.toml", 0o644);
        let key = world.text("home/recovery.key");
        let recipient = world.run(&["key", "new", &key]).expect(0).out;
        let (root, recipient) = (root.display(), recipient.trim());
        let places: String = places
            .iter()
            .map(|(name, lines)| {
                format!("[repository.{name}]\n{lines}\nencrypt_to = [\"{recipient}\"]\n")
            })
            .collect();
        world.configure(&format!(
            "host = \"chat1\"\n{places}\
             [source.superchat]\nsqlite = \"{root}/var/lib/superchat/superchat.db\"\n\
             files = [\"{root}/etc/superchat/config.toml\"]\nschedule = \"hourly\"\n\
             [source.superchat-key]\nfiles = [\"{root}/var/lib/superchat/ssh_host_key\"]\n\
             when = \"on-change\"\n{more}",
        ));
        let rows = content(&world.path("server/var/lib/superchat/superchat.db"));
        Some(Chat { world, sshd, rows })
    }

    /// Logs in at the chat's own SSH server, as who knows its key and takes no other.
    pub(crate) fn log_in(&self) -> Ran {
        let mut command = Command::new("ssh");
        command.arg("-F").arg(self.sshd.client_config());
        command.args(["-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"]);
        ran(command.args(["backup-host", "echo", "welcome"]).output().unwrap())
    }

    /// The whole server is gone: data, configuration, state, and the host key.
    pub(crate) fn lose_everything(&mut self) {
        self.sshd.stop();
        fs::remove_file(self.sshd.path("host_key")).unwrap();
        for name in ["server", "state", "home/config"] {
            match fs::remove_dir_all(self.world.path(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
                _ => {}
            }
        }
    }

    /// What was below a root is there again, and the host key is the one that people know.
    pub(crate) fn must_be_back(&mut self, root: &Path) {
        let below = |file: &str| -> PathBuf {
            let old = self.world.path("server");
            root.join(old.strip_prefix("/").unwrap()).join(file)
        };
        assert_eq!(content(&below("var/lib/superchat/superchat.db")), self.rows);
        let config = below("etc/superchat/config.toml");
        assert_eq!(fs::read_to_string(config).unwrap(), "port = 2222\n");
        for (file, mode) in [
            ("var/lib/superchat/superchat.db", 0o640),
            ("var/lib/superchat/ssh_host_key", 0o600),
            ("etc/superchat/config.toml", 0o644),
        ] {
            let found = fs::metadata(below(file)).unwrap();
            assert_eq!(found.mode() & 0o7777, mode, "{file}");
            assert_eq!(found.uid(), rustix::process::geteuid().as_raw(), "{file}");
        }
        fs::copy(below("var/lib/superchat/ssh_host_key"), self.sshd.path("host_key")).unwrap();
        self.sshd.restart();
        let again = self.log_in().expect(0);
        assert_eq!(again.out, "welcome\n");
        assert!(!again.err.contains("IDENTIFICATION HAS CHANGED"), "{}", again.err);
    }
}

/// `adopt` first, so that the host goes on as the old one: then restore, back up, list.
#[test]
fn a_bare_host_goes_on_where_the_old_one_stopped() {
    let drive = tempfile::tempdir().unwrap();
    let url = format!("file://{}/chat", drive.path().display());
    let test = "a_bare_host_goes_on_where_the_old_one_stopped";
    let Some(mut chat) = Chat::start(test, &format!("url = \"{url}\"")) else { return };
    chat.world.run(&["backup"]).expect(0);
    // Nothing changed: the configuration is kept once.
    chat.world.run(&["backup"]).expect(0);
    assert_eq!(fs::read_dir(drive.path().join("chat/config/chat1")).unwrap().count(), 1);
    let kept = fs::read_dir(drive.path().join("chat/config/chat1")).unwrap().next().unwrap();
    assert!(kept.unwrap().file_name().to_str().unwrap().ends_with(".toml.age"));
    chat.lose_everything();
    let world = &chat.world;
    let key = world.text("home/recovery.key");
    world.run(&["adopt", &url]).expect(12).says("--identity FILE");
    let plan = world.run(&["adopt", &url, "--dry-run", "--identity", &key]).expect(0);
    assert!(plan.out.contains("superchat-key"), "{}", plan.out);
    assert!(!world.path("home/config").exists());
    let adopted = world.run(&["adopt", &url, "--identity", &key]).expect(0);
    let adopted = adopted.says("install systemd").says("restore --all").says("1 schedules");
    let config = world.path("home/config/lifeboat/config.toml");
    assert_eq!(fs::metadata(&config).unwrap().mode() & 0o777, 0o600);
    // A second time it would overwrite: refused, and the file is as it was.
    let before = fs::read(&config).unwrap();
    world.run(&["adopt", &url, "--identity", &key]).expect(23);
    assert_eq!(fs::read(&config).unwrap(), before);
    // The command that was printed, word by word.
    let line = adopted.err.lines().find(|line| line.contains("restore --all")).unwrap();
    let mut words: Vec<&str> = line.split_whitespace().skip(1).collect();
    words.push("--yes");
    world.run(&words).expect(0).says("all of it: 2 sources");
    chat.must_be_back(Path::new("/"));
    // And it goes on: the same sources, in the same folders.
    let world = &chat.world;
    world.run(&["backup"]).expect(0);
    let folders: Vec<String> = fs::read_dir(drive.path().join("chat"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("superchat"))
        .collect();
    assert_eq!(folders.len(), 2, "{folders:?}");
    let listed = world.run(&["list", "superchat", "--json"]).expect(0).json();
    assert_eq!(listed.as_array().unwrap().len(), 3);
    world.run(&["verify", "--identity", &key]).expect(0);
}

#[test]
fn other_paths_and_users_are_a_mapping() {
    let world = World::new();
    let old = world.text("server/var/lib/chat");
    fs::create_dir_all(&old).unwrap();
    make_database(Path::new(&format!("{old}/chat.db")), 500);
    fs::write(format!("{old}/key"), "a key").unwrap();
    let rows = content(Path::new(&format!("{old}/chat.db")));
    world.configure(&format!(
        "host = \"old\"\n[repository.off]\nurl = \"file://$REPO\"\n\
         [source.chat]\nsqlite = \"{old}/chat.db\"\nfiles = [\"{old}/key\"]\n"
    ));
    world.run(&["backup"]).expect(0);
    fs::remove_dir_all(world.path("server")).unwrap();
    fs::remove_dir_all(world.path("home/config")).unwrap();
    let (repo, new) = (world.text("repo"), world.text("srv/chat"));
    let map = format!("{old}={new}");
    for wrong in ["nonsense", "relative=/x"] {
        world.run(&["adopt", &repo, "--map-path", wrong]).expect(2);
    }
    world.run(&["adopt", &repo, "--map-user", "root=no-such-user-here"]).expect(2).says("useradd");
    let me = crate::sshd::user();
    let map_user = format!("{me}={me}");
    let arguments = ["adopt", &repo, "--map-path", &map, "--map-user", &map_user];
    let adopted = world.run(&arguments).expect(0);
    let config = fs::read_to_string(world.path("home/config/lifeboat/config.toml")).unwrap();
    assert!(config.contains(&format!("\"{new}/chat.db\"")) && !config.contains(&old), "{config}");
    let line = adopted.err.lines().find(|line| line.contains("restore --all")).unwrap();
    let mut words: Vec<&str> = line.split_whitespace().skip(1).collect();
    words.push("--yes");
    world.run(&words).expect(0);
    assert_eq!(content(Path::new(&format!("{new}/chat.db"))), rows);
    assert_eq!(fs::read_to_string(format!("{new}/key")).unwrap(), "a key");
    assert!(!Path::new(&old).exists(), "nothing goes to the old place");
    // The backups go on in the same folder.
    world.run(&["backup"]).expect(0);
    assert_eq!(world.names("repo").iter().filter(|name| name.starts_with("chat")).count(), 1);
}

#[test]
fn a_repository_without_a_configuration_gives_its_sources() {
    let world = World::new();
    let path = world.database("app.db", 200);
    let rows = content(&path);
    world.repo(&["backup", path.to_str().unwrap()]).expect(0);
    assert!(!world.path("repo/config").exists());
    fs::remove_file(&path).unwrap();
    let root = world.text("root");
    let ran = world.repo(&["restore", "--all", "--root", &root]).expect(0);
    ran.says("all of it: 1 sources");
    let back = world.path("root").join(path.strip_prefix("/").unwrap());
    assert_eq!(content(&back), rows);
    world.run(&["adopt", &world.text("repo")]).expect(0).says("made of its sources");
    world.run(&["restore", "--all", "--yes"]).expect(0);
    assert_eq!(content(&path), rows);
}

#[test]
fn of_several_hosts_one_must_be_named() {
    let world = World::new();
    for host in ["one", "two"] {
        world.database(&format!("{host}.db"), 10);
        world.configure(&format!(
            "host = \"{host}\"\n[repository.off]\nurl = \"file://$REPO\"\n\
             [source.{host}]\nsqlite = \"$DATA/{host}.db\"\n"
        ));
        world.run(&["backup"]).expect(0);
    }
    fs::remove_dir_all(world.path("home/config")).unwrap();
    let (repo, root) = (world.text("repo"), world.text("root"));
    world.run(&["adopt", &repo]).expect(2).says("--host NAME").says("one, two");
    world.run(&["adopt", &repo, "--host", "three"]).expect(2);
    let arguments = ["restore", "--all", "--repo", &repo, "--root", &root];
    world.run(&arguments).expect(2).says("--host NAME");
    world.run(&[&arguments[..], &["--host", "two"]].concat()).expect(0).says("1 sources");
    world.run(&["adopt", &repo, "--host", "one", "--to", &world.text("one.toml")]).expect(0);
    let config = fs::read_to_string(world.path("one.toml")).unwrap();
    assert!(config.contains("host = \"one\"") && config.contains("one.db"), "{config}");
}

#[test]
fn what_is_kept_of_a_configuration_has_no_password() {
    let world = World::new();
    world.database("app.db", 10);
    world.configure(
        "[repository.off]\nurl = \"file://$REPO\"\n[source.app]\nsqlite = \"$DATA/app.db\"\n\
         [source.pg]\npostgres = \"postgresql://chat:hunter2@localhost/chat\"\n",
    );
    world.run(&["backup", "app"]).expect(0);
    let host = world.names("repo/config");
    let names = world.names(&format!("repo/config/{}", host[0]));
    let kept = world.path(&format!("repo/config/{}/{}", host[0], names[0]));
    let text = fs::read_to_string(&kept).unwrap();
    assert!(text.contains("[source.pg]") && !text.contains("hunter2"), "{text}");
    assert_eq!(fs::metadata(&kept).unwrap().mode() & 0o777, 0o600);
}

/// The page for the worst day, run block by block.
#[test]
fn the_page_of_the_worst_day_holds() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/rebuild.md");
    let page = fs::read_to_string(page).unwrap();
    let blocks = page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let commands: Vec<&str> = blocks.flat_map(str::lines).collect();
    assert_eq!(commands.len(), 6, "{commands:?}");
    let drive = tempfile::tempdir().unwrap();
    let url = format!("file://{}/chat", drive.path().display());
    let test = "the_page_of_the_worst_day_holds";
    let Some(mut chat) = Chat::start(test, &format!("url = \"{url}\"")) else { return };
    chat.world.run(&["backup"]).expect(0);
    let (new, key) = (chat.world.text("mnt/new"), chat.world.text("home/recovery.key"));
    for (index, command) in commands.iter().enumerate() {
        let words = command.split_whitespace().skip(1).map(|word| match word {
            "s3://my-backups/chat" => url.clone(),
            "/mnt/new" => new.clone(),
            "recovery.key" => key.clone(),
            word => word.to_owned(),
        });
        let words: Vec<String> = words.collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        chat.world.run(&words).expect(0);
        if index == 0 {
            chat.lose_everything();
        }
        if index == 1 {
            chat.must_be_back(&PathBuf::from(&new));
        }
    }
    chat.must_be_back(Path::new("/"));
}
