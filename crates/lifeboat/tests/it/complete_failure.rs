//! The worst day: a server is gone with its databases, its configuration, its SSH host key and all
//! that the program knew. Three places have copies, sealed; from each of them alone everything is
//! back on an empty root, by one command, and people log in as if nothing had happened.

use std::fs;
use std::path::Path;

use crate::cluster::{Cluster, Yard};
use crate::postgres_server::{command, majors, shop};
use crate::rebuild::Chat;
use crate::s3_servers::{BUCKET, KEY, SECRET, Server as Bucket};
use crate::sshd::Sshd;
use crate::support::{Ran, ran};

/// The port of the server of PostgreSQL that came back.
const PORT: u16 = 5832;

/// A place with copies, and how a bare host reaches it.
struct Place<'a> {
    name: &'a str,
    arguments: Vec<&'a str>,
}

/// The program on the chat's host. Who we are at the bucket is in its environment.
fn lifeboat(chat: &Chat, bucket: &Bucket, arguments: &[&str]) -> Ran {
    let mut command = command(&chat.world, arguments);
    command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET);
    command.env("AWS_ENDPOINT_URL", format!("http://{}", bucket.address));
    ran(command.output().unwrap())
}

/// The cluster that came back is started, and says how many rows of the shop it has.
fn rows_of_the_shop(yard: &Yard, folder: &str) -> String {
    let mut restored = Cluster::at(yard, majors()[0], folder);
    restored.set(&[
        "listen_addresses = ''",
        &format!("unix_socket_directories = '{}'", yard.path("").display()),
    ]);
    restored.up(PORT);
    let mut psql = restored.psql_command(PORT, "SELECT count(*) FROM public.item");
    let counted = ran(psql.args(["-d", "shop"]).output().unwrap()).expect(0).out;
    restored.stop();
    counted.trim().to_owned()
}

#[test]
fn from_a_bucket_a_host_by_ssh_and_a_drive_everything_is_rebuilt_on_an_empty_root() {
    let test = "from_a_bucket_a_host_by_ssh_and_a_drive_everything_is_rebuilt_on_an_empty_root";
    let (Some(bucket), Some(store)) = (Bucket::s3s(), Sshd::start(test, "")) else { return };
    let (drive, yard) = (tempfile::tempdir().unwrap(), Yard::new());
    let server = shop(majors()[0]);
    let in_bucket = format!("s3://{BUCKET}/chat");
    let on_drive = format!("file://{}/chat", drive.path().display());
    let by_ssh = format!(
        "url = \"sftp://backup-host{}\"\nssh_config = \"{}\"",
        store.path("chat").display(),
        store.client_config().display()
    );
    let repositories = [
        ("bucket", &*format!("url = \"{in_bucket}\"")),
        ("host", &by_ssh),
        ("drive", &format!("url = \"{on_drive}\"")),
    ];
    let databases = format!(
        "[source.main.postgres]\nurl = \"{}\"\nphysical = true\n\
         [source.shop.postgres]\nurl = \"{}\"\n",
        server.url("postgres"),
        server.url("shop")
    );
    let Some(mut chat) = Chat::start_in(test, &repositories, &databases) else { return };
    assert_eq!(chat.log_in().expect(0).out, "welcome\n");
    // One run, which reads each source once, for all three places.
    let made = lifeboat(&chat, &bucket, &["backup", "--json"]).expect(0).json();
    assert_eq!(made.as_array().unwrap().len(), 4 * repositories.len(), "{made}");
    drop(server);

    // How a host is reached by SSH must be said; everything else is in the repositories.
    let access = chat.world.text("home/access.toml");
    fs::write(&access, format!("[repository.host]\n{by_ssh}\n")).unwrap();
    let places = [
        Place { name: "bucket", arguments: vec!["--repo", &in_bucket] },
        Place { name: "host", arguments: vec!["--config", &access, "--repo", "host"] },
        Place { name: "drive", arguments: vec!["--repo", &on_drive] },
    ];
    let key = chat.world.text("home/recovery.key");
    for place in &places {
        chat.lose_everything();
        rebuilt_from(place, &mut chat, &bucket, &yard, &key);
    }
}

/// The one command, on a host with nothing but the program, the key, and access to one place.
fn rebuilt_from(place: &Place<'_>, chat: &mut Chat, bucket: &Bucket, yard: &Yard, key: &str) {
    let root = yard.path(place.name);
    let all = [&["restore", "--all", "--root", root.to_str().unwrap()], &place.arguments[..]];
    let all = all.concat();
    lifeboat(chat, bucket, &all).expect(12).says("--identity FILE");
    assert!(!root.exists());
    let done = lifeboat(chat, bucket, &[&all[..], &["--identity", key]].concat()).expect(0);
    let done = done.says("all of it: 3 sources").says("restored superchat-");
    assert!(!done.err.contains("warning"), "{}", done.err);
    assert!(took_is_said(&done), "{}", done.err);
    chat.must_be_back(&root);
    let cluster = Path::new(place.name).join("clusters/main");
    assert_eq!(rows_of_the_shop(yard, cluster.to_str().unwrap()), "1000");
}

/// Whether the report says how long all of it took.
fn took_is_said(done: &Ran) -> bool {
    let line = done.err.lines().find(|line| line.contains("all of it:"));
    line.is_some_and(|line| {
        line.contains(" in ") && [" s", "ms", " min"].iter().any(|unit| line.ends_with(unit))
    })
}
