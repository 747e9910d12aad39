//! Servers that are reached over TLS, and client programs that run elsewhere: behind a command that
//! enters another root, as `docker exec` does.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::postgres_server::{
    SHOP, Server, command, configure, majors_if_long, run, shop, world_of,
};
use crate::support::{World, ran, set_mode};

/// Certificates of an authority of our own, and of a server on 127.0.0.1.
struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    fn new() -> Certificates {
        let folder =
            tempfile::Builder::new().prefix("lifeboat-tls-").tempdir_in("/var/tmp").unwrap();
        set_mode(folder.path(), 0o755);
        let certificates = Certificates { folder };
        for name in ["authority", "stranger"] {
            certificates.openssl(&format!(
                "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name} -keyout {name}.key \
                 -out {name}.pem"
            ));
        }
        fs::write(certificates.path("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
        certificates.openssl(
            "req -newkey rsa:2048 -nodes -subj /CN=server -keyout server.key -out server.csr",
        );
        certificates.openssl(
            "x509 -req -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial \
             -days 2 -extfile names -out server.pem",
        );
        certificates
    }

    fn openssl(&self, words: &str) {
        let mut command = Command::new("openssl");
        let command = command.args(words.split_whitespace()).current_dir(self.folder.path());
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }
}

/// A server that lets nobody in over TCP without TLS.
fn tls_server(major: u32, certificates: &Certificates) -> (Server, u16, tempfile::NamedTempFile) {
    // The key is the server's alone; it runs as the user that owns a cluster's files.
    let probe = Server::new(15);
    let owner = fs::metadata(Path::new(&probe.sockets())).unwrap();
    drop(probe);
    let key = certificates.path("server.key");
    set_mode(&key, 0o600);
    chown(&key, Some(owner.uid()), Some(owner.gid())).unwrap();
    set_mode(&certificates.path("server.pem"), 0o644);
    let mut access = tempfile::Builder::new().prefix("lifeboat-hba-").tempfile().unwrap();
    access.write_all(b"local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n").unwrap();
    set_mode(access.path(), 0o644);
    let port = lifeboat_test_support::free_port();
    let server = Server::with(
        major,
        &[
            "listen_addresses=127.0.0.1",
            &format!("port={port}"),
            &format!("hba_file={}", access.path().display()),
            "ssl=on",
            &format!("ssl_cert_file={}", certificates.text("server.pem")),
            &format!("ssl_key_file={}", key.display()),
        ],
    );
    (server, port, access)
}

#[test]
fn a_server_over_tls_is_known_by_its_authority() {
    // The package from Python, where 16 and 18 are from, knows no TLS.
    let of_debian = majors_if_long().iter().filter(|major| [15, 17].contains(*major));
    of_debian.for_each(|major| speaks_tls(*major));
}

fn speaks_tls(major: u32) {
    let certificates = Certificates::new();
    let (server, port, _access) = tls_server(major, &certificates);
    let programs = server.tool("psql", "postgres").get_program().to_owned();
    let programs = Path::new(&programs).parent().unwrap().display().to_string();
    let sockets = server.sockets();
    let by_socket = |statements: &str, database: &str| {
        let mut psql = Command::new(format!("{programs}/psql"));
        psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-h", &sockets, "-p", &port.to_string()]);
        psql.args(["-U", "postgres", "-d", database, "-c", statements]);
        assert!(psql.stdout(Stdio::null()).status().unwrap().success(), "{statements}");
    };
    by_socket("CREATE ROLE \"ann@home\" SUPERUSER LOGIN PASSWORD 'h@sh:/1'", "postgres");
    by_socket("CREATE DATABASE \"my shop\"", "postgres");
    by_socket(SHOP, "my shop");

    let at = |more: &str| format!("postgresql://ann%40home@127.0.0.1:{port}/my%20shop?{more}");
    let full = |authority: &str| at(&format!("sslmode=verify-full&sslrootcert={authority}"));
    let world = World::new();
    fs::write(world.path("pass"), format!("127.0.0.1:{port}:*:ann@home:h@sh\\:/1\n")).unwrap();
    set_mode(&world.path("pass"), 0o600);
    let with_password = |arguments: &[&str]| {
        let mut command = command(&world, arguments);
        let path = format!("{programs}:/usr/bin:/bin");
        command.env("PGPASSFILE", world.path("pass")).env("PATH", path);
        ran(command.output().unwrap())
    };

    configure(&world, &full(&certificates.text("authority.pem")), "");
    with_password(&["backup"]).expect(0);
    with_password(&["verify"]).expect(0);
    with_password(&["restore", "shop", "--yes"]).expect(0);

    // Another authority than the one that signed it.
    let stranger = certificates.text("stranger.pem");
    configure(&world, &full(&stranger), "");
    with_password(&["backup"]).expect(15).says("certificate verify failed").says(&stranger);
    // A file that is not there.
    configure(&world, &full("/no/such/authority.pem"), "");
    with_password(&["backup"]).expect(15).says("/no/such/authority.pem").says("sslrootcert");
    // The certificate is for 127.0.0.1, not for this name.
    let url = full(&certificates.text("authority.pem")).replace("127.0.0.1", "localhost");
    configure(&world, &format!("{url}&hostaddr=127.0.0.1"), "");
    with_password(&["backup"]).expect(15).says("does not match host name").says("certificate");
    // Without TLS nobody comes in, and a server without it is no server for `require`.
    configure(&world, &at("sslmode=disable"), "");
    with_password(&["backup"]).expect(15).says("pg_hba.conf");
    let plain = Server::tcp(15);
    configure(
        &world,
        &format!("postgresql://ann@127.0.0.1:{}/postgres?sslmode=require", plain.port()),
        "",
    );
    with_password(&["backup"]).expect(15).says("does not support SSL").says("ssl = on");
}

/// Runs a program in a root of its own, which has the host's programs and the servers' sockets, but
/// none of our temporary files, and with an environment of its own.
const ENTER: &str = r#"#!/bin/sh
root=$1; shift
exec unshare --mount sh -c '
root=$1; shift
mount --make-rprivate / && mount -t tmpfs tmpfs "$root" || exit 125
for part in usr lib lib64 bin etc dev var proc; do
  [ -e "/$part" ] || continue
  mkdir -p "$root/$part" && mount --rbind "/$part" "$root/$part" || exit 125
done
exec chroot "$root" env -i LC_ALL=C PATH=/usr/lib/postgresql/15/bin:/usr/bin:/bin "$@"
' sh "$root" "$@"
"#;

/// A world whose client programs run behind the command; nothing where that is not possible here.
fn behind(url: &str) -> Option<World> {
    let world = world_of("");
    let enter = world.path("enter");
    lifeboat_test_support::executable(&enter, ENTER);
    fs::create_dir(world.path("root")).unwrap();
    let mut probe = Command::new(&enter);
    let probe = probe.arg(world.path("root")).arg("psql").arg("--version").output().unwrap();
    if !probe.status.success() {
        let reason = String::from_utf8_lossy(&probe.stderr).into_owned();
        lifeboat_test_support::skipped(&format!("no other root can be entered here: {reason}"));
        return None;
    }
    let (enter, root) = (enter.display(), world.path("root"));
    let more = format!("command = [\"{enter}\", \"{}\"]\n", root.display());
    configure(&world, url, &more);
    Some(world)
}

#[test]
fn programs_that_run_in_another_root_dump_and_restore_every_byte() {
    let server = shop(15);
    server.sql(
        "shop",
        "CREATE TABLE public.bytes AS SELECT i AS id, decode(md5(i::text), 'hex') AS value \
         FROM generate_series(1, 30000) AS i; \
         SELECT lo_from_bytea(4711, decode(repeat('00ff0a0d1a', 90000), 'hex'))",
    );
    let Some(world) = behind(&server.url("shop")) else { return };
    // Several loaders share a table: its rows come back in another order.
    let sorted = || {
        let text = server.text("shop");
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let before = sorted();
    run(&world, &["backup"]).expect(0);
    run(&world, &["verify"]).expect(0);
    server.sql("shop", "DROP TABLE public.bytes; SELECT lo_unlink(4711)");
    let damaged = sorted();
    run(&world, &["restore", "shop", "--yes"]).expect(0);
    assert!(sorted() == before, "what came back is something else");
    run(&world, &["undo", "shop", "--yes"]).expect(0);
    assert!(sorted() == damaged);
}

#[test]
fn behind_a_command_a_password_is_neither_seen_nor_lost_in_silence() {
    let server = Server::tcp(15);
    server.sql("postgres", "CREATE ROLE ann LOGIN PASSWORD 'hush-hush'");
    let url = format!("postgresql://ann:hush-hush@127.0.0.1:{}/postgres", server.port());
    let Some(world) = behind(&url) else { return };
    // Our private file is not there: the programs must find the password where they run.
    let ran = run(&world, &["backup"]).expect(15).says("no password supplied");
    assert!(
        !ran.err.contains("hush-hush") && ran.err.contains("where the programs run"),
        "{}",
        ran.err
    );
}

/// What a process and all that it started were called with, and their environments.
fn family(id: u32) -> Vec<(String, Vec<u8>)> {
    let read = |id: u32, name: &str| fs::read(format!("/proc/{id}/{name}")).unwrap_or_default();
    let children = String::from_utf8(read(id, &format!("task/{id}/children"))).unwrap();
    let line = String::from_utf8_lossy(&read(id, "cmdline")).replace('\0', " ");
    let mut found = vec![(line, read(id, "environ"))];
    found.extend(children.split_whitespace().flat_map(|child| family(child.parse().unwrap())));
    found
}

#[test]
fn behind_a_command_no_process_shows_the_password_while_it_works() {
    let server = Server::tcp(15);
    server.sql("postgres", "ALTER ROLE postgres PASSWORD 'hush-hush'; CREATE DATABASE shop");
    server.sql("shop", SHOP);
    let world = World::new();
    let pass = world.path("pass");
    fs::write(&pass, "127.0.0.1:*:*:postgres:hush-hush\n").unwrap();
    set_mode(&pass, 0o600);
    // As `docker exec -e PGPASSFILE=...` does: where the programs run is the file.
    let more = format!("command = [\"env\", \"PGPASSFILE={}\"]\n", pass.display());
    let url = format!("postgresql://postgres@127.0.0.1:{}/shop", server.port());
    configure(&world, &url, &more);
    let mut holder = server.session("shop");
    holder.execute("BEGIN; LOCK TABLE public.item").unwrap();
    let mut child = command(&world, &["backup"]).stderr(Stdio::null()).spawn().unwrap();
    server.wait_for("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'");
    let seen = family(child.id());
    holder.execute("ROLLBACK").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let lines: Vec<&str> = seen.iter().map(|(line, _)| line.as_str()).collect();
    for name in ["pg_dump ", "psql "] {
        assert!(lines.iter().any(|line| line.contains(name)), "{lines:?}");
    }
    for (line, environment) in &seen {
        let environment = String::from_utf8_lossy(environment);
        assert!(!line.contains("hush-hush") && !environment.contains("hush-hush"), "{line}");
    }
}

#[test]
fn a_server_is_reached_however_it_is_named() {
    let server = Server::tcp(15);
    let password = "h:u\\sh";
    server.sql(
        "postgres",
        &format!(
            "CREATE ROLE \"ann b\" SUPERUSER LOGIN PASSWORD '{password}'; CREATE DATABASE shop"
        ),
    );
    server.sql("shop", SHOP);
    let (port, sockets) = (server.port(), server.sockets());
    let world = World::new();
    let (secret, services) = (world.path("secret"), world.path("services"));
    fs::write(&secret, format!("{password}\n")).unwrap();
    let at = format!("host=127.0.0.1\nport={port}\nuser=ann b\npassword={password}\n");
    fs::write(&services, format!("[ours]\n{at}")).unwrap();
    [&secret, &services].iter().for_each(|path| set_mode(path, 0o600));
    let parts =
        format!("host = \"127.0.0.1\"\nport = {port}\nuser = \"ann b\"\ndbname = \"shop\"\n");
    let secret = secret.display();
    for text in [
        format!("url = \"postgres://ann%20b:h%3Au%5Csh@127.0.0.1:{port}/shop?sslmode=prefer\""),
        format!("url = \"postgresql://ann%20b:h%3Au%5Csh@127.0.0.1:{port}/shop\""),
        format!("url = \"postgresql:///shop?host={sockets}&port={port}&user=ann%20b\""),
        "service = \"ours\"\ndbname = \"shop\"".to_owned(),
        format!("{parts}password = {{ file = \"{secret}\" }}"),
        format!("{parts}password = {{ env = \"SHOP_PASSWORD\" }}"),
        format!("{parts}password = {{ command = [\"cat\", \"{secret}\"] }}"),
    ] {
        world.configure(&format!(
            "[repository.local]\nurl = \"file://$REPO\"\n[source.shop.postgres]\n{text}\n"
        ));
        let mut command = command(&world, &["backup"]);
        command.env("PGSERVICEFILE", &services).env("SHOP_PASSWORD", password);
        let ran = ran(command.output().unwrap()).expect(0);
        assert!(!ran.out.contains(password) && !ran.err.contains(password), "{text}");
        let _ = fs::remove_dir_all(world.path("repo"));
    }
}
