//! What stands against a backup of a PostgreSQL database: each with its exit code, a message that
//! names the object, a hint that mends it, and no backup that is none.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use crate::bad_input::in_own_namespace;
use crate::postgres_server::{
    Server, command, configure, folders, kinds_of_majors, majors, majors_if_long, run, shop,
    skipped, world_of, world_with,
};
use crate::support::{Ran, World, ran, set_mode};

/// No backup is listed, and nothing half is left that looks like one.
#[track_caller]
fn holds_nothing(world: &World) {
    if world.path("repo/lifeboat.json").exists() {
        let listed = run(world, &["list", "--json"]).expect(0).json();
        assert_eq!(listed.as_array().unwrap().len(), 0, "{listed}");
    }
    let names: Vec<String> = world.names("repo/shop");
    assert!(!names.iter().any(|name| name.contains("manifest")), "{names:?}");
}

#[test]
fn what_is_wrong_with_an_address_is_said_with_what_mends_it() {
    for major in majors() {
        let server = Server::tcp(*major);
        server.sql("postgres", "CREATE ROLE ann LOGIN PASSWORD 'hush1'");
        let port = server.port();
        let at = |user: &str, host: &str, port: u16, database: &str| {
            format!("postgresql://{user}@{host}:{port}/{database}")
        };
        let here = "127.0.0.1";
        // Nobody listens there, and no other test is given it.
        let closed = lifeboat_test_support::free_port();
        for (url, why, mend) in [
            (
                at("ann:hush2", here, port, "postgres"),
                "password authentication failed",
                "~/.pgpass",
            ),
            (at("ann", here, port, "postgres"), "no password supplied", "~/.pgpass"),
            (
                at("bob:hush1", here, port, "postgres"),
                "password authentication failed",
                "~/.pgpass",
            ),
            (at("ann:hush1", here, closed, "postgres"), "Connection refused", "pg_isready"),
            (
                at("ann:hush1", "no.such.invalid", 5432, "postgres"),
                "translate host name",
                "host's name",
            ),
            (at("ann:hush1", here, port, "chat"), "database \"chat\" does not exist", "psql -l"),
            ("postgresql:///chat?host=/no/such/folder".to_owned(), "No such file", "pg_isready"),
            (
                server.url_as("nobody here", "postgres"),
                "role \"nobody here\" does not exist",
                "psql",
            ),
        ] {
            let world = world_of(&url);
            let ran = run(&world, &["backup"]).expect(15).says(why).says("hint: ").says(mend);
            assert!(!ran.err.contains("hush"), "{}", ran.err);
            holds_nothing(&world);
        }
    }
}

#[test]
fn a_server_that_is_newer_than_the_client_programs_is_refused() {
    let server = Server::new(18);
    let world = world_of(&server.url("postgres"));
    let mut command = command(&world, &["backup"]);
    let ran = ran(command.env("PATH", "/usr/bin:/bin").output().unwrap()).expect(15);
    let ran = ran.says("pg_dump is too old").says("the server's is 18");
    ran.says("apt-get install postgresql-client-18");
    holds_nothing(&world);
}

#[test]
fn a_role_that_may_not_see_everything_makes_no_backup_of_a_part() {
    for major in kinds_of_majors() {
        let server = shop(*major);
        server.sql(
            "shop",
            "CREATE ROLE reader LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader; \
             GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO reader; \
             CREATE TABLE public.secrets (id int); INSERT INTO public.secrets VALUES (1)",
        );
        let world = world_of(&server.url_as("reader", "shop"));
        let ran = run(&world, &["backup"]).expect(15);
        ran.says("permission denied for table secrets").says("GRANT pg_read_all_data TO");
        holds_nothing(&world);

        // Who may not read the passwords of roles makes a backup all the same, which says it.
        server.sql("shop", "GRANT SELECT ON public.secrets TO reader");
        run(&world, &["backup"]).expect(0).says("the passwords of roles are not in it");
        let shown = run(&world, &["show", "shop"]).expect(0).out;
        assert!(shown.contains("the passwords of roles are not in it"), "{shown}");
        let role_passwords = || {
            let shown = run(&world, &["show", "shop", "--json"]).expect(0).json().to_string();
            shown.contains("\"role_passwords\":true")
        };
        assert!(!role_passwords());
        // What the message names is enough for all of it.
        server.sql("shop", "GRANT pg_read_all_data TO reader");
        run(&world, &["backup"]).expect(0);
        assert!(role_passwords());

        // Rows that a policy hides would be missing, and nobody would know.
        server.sql(
            "shop",
            "ALTER TABLE public.customer ENABLE ROW LEVEL SECURITY; \
             CREATE POLICY half ON public.customer USING (id > 50)",
        );
        let ran = run(&world, &["backup"]).expect(15);
        ran.says("row-level security").says("customer").says("BYPASSRLS");
        let listed = run(&world, &["list", "--json"]).expect(0).json();
        assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
        server.sql("postgres", "ALTER ROLE reader BYPASSRLS");
        run(&world, &["backup"]).expect(0);
    }
}

/// A folder with a `pg_dump` that runs the real one as the script says: `"$@"` are its arguments,
/// `$here` is a folder of the test.
fn dumper(world: &World, server: &Server, script: &str) -> String {
    let tool = server.tool("pg_dump", "shop");
    let real = Path::new(tool.get_program());
    let folder = world.path("programs");
    fs::create_dir_all(&folder).unwrap();
    let text = format!(
        "#!/bin/bash\nhere='{}'\nreal={real}\n\
         case \"$*\" in --version) exec $real --version;; esac\n{script}\n",
        world.text("tmp"),
        real = real.display()
    );
    lifeboat_test_support::executable(&folder.join("pg_dump"), &text);
    format!("programs = \"{}\"\n", folder.display())
}

/// A database whose dump does not fit into the buffers of a pipe.
fn large_shop(major: u32) -> Server {
    let server = shop(major);
    server.sql(
        "shop",
        "CREATE TABLE public.message AS SELECT i AS id, repeat(md5(i::text), 10) AS body \
         FROM generate_series(1, 20000) AS i",
    );
    server
}

/// Lets the first bytes through, then waits until the file `go` is there.
const HELD: &str = "set -o pipefail
$real \"$@\" | {
  dd bs=4096 count=20 iflag=fullblock status=none
  touch \"$here/held\"
  while [ ! -e \"$here/go\" ]; do sleep 0.01; done
  cat
}";

/// A backup that is held half-way through its dump.
fn held(world: &World) -> Child {
    let mut command = command(world, &["backup"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until_there(&world.path("tmp/held"));
    child
}

fn wait_until_there(path: &Path) {
    crate::follow::wait_for("a dump that is begun", || path.exists());
}

fn goes_on(world: &World, child: Child) -> Ran {
    fs::write(world.path("tmp/go"), "").unwrap();
    ran(child.wait_with_output().unwrap())
}

const DUMPERS: &str = "FROM pg_stat_activity WHERE application_name = 'lifeboat' \
                       AND query ILIKE 'copy%'";

#[test]
fn a_connection_that_is_lost_half_way_leaves_no_backup() {
    for major in kinds_of_majors() {
        let server = large_shop(*major);
        let world = world_of("");
        let wrapper = dumper(&world, &server, HELD);
        configure(&world, &server.url("shop"), &wrapper);
        let child = held(&world);
        assert_eq!(
            server.ask("shop", &format!("SELECT pg_terminate_backend(pid) {DUMPERS}")),
            ["t"]
        );
        goes_on(&world, child).expect(15).says("/shop").says("see its log");
        holds_nothing(&world);
        // The next one is not hindered.
        run(&world, &["backup"]).expect(0);
        run(&world, &["verify"]).expect(0);
    }
}

#[test]
fn a_server_that_stops_half_way_leaves_no_backup() {
    for major in kinds_of_majors() {
        let server = large_shop(*major);
        let world = world_of("");
        let wrapper = dumper(&world, &server, HELD);
        configure(&world, &server.url("shop"), &wrapper);
        let child = held(&world);
        drop(server);
        goes_on(&world, child).expect(15).says("see its log");
        holds_nothing(&world);
        run(&world, &["backup"]).expect(15).says("is the server running");
    }
}

#[test]
fn a_dumper_that_is_killed_or_cut_leaves_no_backup() {
    let server = large_shop(15);
    for (script, code, why) in [
        ("$real \"$@\" | head -c 300000; kill -9 $$", 1, "signal: 9"),
        // It says that all went well.
        ("$real \"$@\" | head -c 300000; exit 0", 20, "ends within the data"),
        ("$real \"$@\" | head -c 100; exit 0", 20, "ends within its table of contents"),
        ("exit 0", 20, "the dump is empty (0 bytes)"),
        ("echo 'pg_dump: error: all is lost'", 20, "pg_dump"),
        ("$real \"$@\"; exit 3", 1, "exit status: 3"),
    ] {
        let world = world_of("");
        let wrapper = dumper(&world, &server, script);
        configure(&world, &server.url("shop"), &wrapper);
        let ran = run(&world, &["backup"]).expect(code).says(why);
        assert!(ran.err.contains("/shop"), "{script}: {}", ran.err);
        holds_nothing(&world);
    }
}

#[test]
fn a_repository_that_cannot_be_written_is_said() {
    let server = shop(15);
    let world = world_of(&server.url("shop"));
    fs::write(world.path("repo"), "a file\n").unwrap();
    let ran = run(&world, &["backup"]);
    assert!([10, 13].contains(&ran.code), "{ran:?}");
    assert!(ran.err.contains("repo"), "{}", ran.err);
    fs::remove_file(world.path("repo")).unwrap();
    run(&world, &["backup"]).expect(0);
}

#[test]
fn a_repository_that_is_full_holds_no_half_backup() {
    majors_if_long().iter().for_each(|major| fills_a_repository(*major));
}

fn fills_a_repository(major: u32) {
    let server = Server::tcp(major);
    server.sql("postgres", "ALTER ROLE postgres PASSWORD 'hush'; CREATE DATABASE shop");
    server.sql(
        "shop",
        "CREATE TABLE public.message AS SELECT i AS id, md5(i::text) || md5(i::text || 'x') AS body \
         FROM generate_series(1, 40000) AS i",
    );
    let world = world_of(&format!("postgresql://postgres:hush@127.0.0.1:{}/shop", server.port()));
    fs::create_dir(world.path("small")).unwrap();
    // In a namespace of its own we are no superuser to the server's files: TCP it is.
    let script = "mount -t tmpfs -o size=\"$3\" tmpfs \"$1\" && \"$2\" backup --repo \"$1\"; \
                  code=$?; find \"$1\" -type f | sort; exit $code";
    for size in ["12k", "600k"] {
        let Some(mut command) = in_own_namespace(script) else { return };
        command.arg(world.path("small")).args([env!("CARGO_BIN_EXE_lifeboat"), size]);
        command.env("XDG_CONFIG_HOME", world.path("home/config"));
        command.env("XDG_STATE_HOME", world.path("state")).env("TMPDIR", world.path("tmp"));
        let mut paths = folders();
        paths.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
        command.env("PATH", std::env::join_paths(paths).unwrap());
        let ran = ran(command.current_dir(world.path("data")).output().unwrap());
        assert_eq!(ran.code, 14, "{size}: {ran:?}");
        for file in ran.out.lines().map(|line| line.rsplit('/').next().unwrap()) {
            let harmless = ["README.txt", "lifeboat.json", "source.json"].contains(&file);
            assert!(harmless, "{size}: {file} is left");
        }
    }
    // None is left, as soon as the server has seen that they are gone.
    server.wait_for(&format!("SELECT 1 WHERE NOT EXISTS (SELECT 1 {DUMPERS})"));
}

/// A file system of that size, for a server. Gone when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Nothing where none can be mounted.
    fn new(options: &str) -> Option<SmallDisk> {
        let folder = tempfile::Builder::new().prefix("lifeboat-disk-").tempdir_in("/var/tmp");
        let folder = folder.unwrap();
        let mut mount = std::process::Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder.path());
        let output = mount.output().unwrap();
        if output.status.success() {
            return Some(SmallDisk(folder));
        }
        let reason = String::from_utf8_lossy(&output.stderr);
        skipped(&format!("no file system can be mounted here: {reason}"));
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_server_whose_disk_is_full_keeps_the_old_database() {
    for major in majors_if_long() {
        let Some(disk) = SmallDisk::new("size=3m,mode=0755") else { return };
        let server = large_shop(*major);
        let owner = fs::metadata(server.sockets()).unwrap();
        let place = disk.0.path().join("tables");
        fs::create_dir(&place).unwrap();
        std::os::unix::fs::chown(&place, Some(owner.uid()), Some(owner.gid())).unwrap();
        let world = world_of(&server.url("shop"));
        run(&world, &["backup"]).expect(0);
        server.sql("postgres", &format!("CREATE TABLESPACE small LOCATION '{}'", place.display()));
        server.sql("postgres", "ALTER ROLE postgres SET default_tablespace = small");
        server.sql("shop", "DELETE FROM public.item");
        let before = (server.text("shop"), server.databases());
        let ran = run(&world, &["restore", "shop", "--yes"]).expect(14);
        ran.says("No space left on device").says("nothing was changed");
        assert_eq!((server.text("shop"), server.databases()), before, "PostgreSQL {major}");
        // With room there is nothing in its way.
        server.sql("postgres", "ALTER ROLE postgres RESET default_tablespace");
        run(&world, &["restore", "shop", "--yes"]).expect(0);
        assert_eq!(server.ask("shop", "SELECT count(*) FROM public.item"), ["1000"]);
    }
}

#[test]
fn names_that_are_hard_to_write_come_back_as_they_were() {
    let server = Server::new(15);
    for name in ["we \"ird' %41\nü", "--$(touch x) `y`"] {
        let quoted = lifeboat_postgres::identifier(name);
        server.sql("postgres", &format!("CREATE DATABASE {quoted}"));
        server.sql(name, "CREATE TABLE public.\"t \"\"a'ble\" (id int); INSERT INTO public.\"t \"\"a'ble\" VALUES (7)");
        let world = World::new();
        let text = toml::Value::String(name.to_owned()).to_string();
        world.configure(&format!(
            "[repository.local]\nurl = \"file://$REPO\"\n[source.shop.postgres]\n\
             host = \"{}\"\nuser = \"postgres\"\ndbname = {text}\n",
            server.sockets()
        ));
        run(&world, &["backup"]).expect(0);
        server.sql(name, "DROP TABLE public.\"t \"\"a'ble\"");
        run(&world, &["restore", "shop", "--yes"]).expect(0);
        assert_eq!(server.ask(name, "SELECT id FROM \"t \"\"a'ble\""), ["7"]);
        run(&world, &["undo", "shop", "--yes"]).expect(0);
        assert_eq!(
            server.ask(name, "SELECT 1 FROM pg_tables WHERE schemaname = 'public'"),
            [""; 0]
        );
        assert!(world.names("data").is_empty(), "{:?}", world.names("data"));
    }
}

#[test]
fn the_database_postgres_an_empty_one_and_one_that_was_dropped() {
    let server = Server::new(15);
    server.sql("postgres", "CREATE TABLE public.here (id int); INSERT INTO public.here VALUES (1)");
    let world = world_of(&server.url("postgres"));
    run(&world, &["backup"]).expect(0);
    server.sql("postgres", "DROP TABLE public.here");
    run(&world, &["restore", "shop", "--yes"]).expect(0);
    assert_eq!(server.ask("postgres", "SELECT id FROM here"), ["1"]);
    run(&world, &["undo", "shop", "--yes"]).expect(0);
    assert_eq!(server.ask("postgres", "SELECT 1 FROM pg_tables WHERE tablename = 'here'"), [""; 0]);

    server.sql("postgres", "CREATE DATABASE nothing");
    let world = world_of(&server.url("nothing"));
    run(&world, &["backup"]).expect(0);
    run(&world, &["verify", "--level", "full"]).expect(0);
    server.sql("postgres", "DROP DATABASE nothing");
    run(&world, &["backup"]).expect(15).says("\"nothing\" does not exist");
    // Nothing is there that could be saved first.
    let restored = run(&world, &["restore", "shop", "--yes", "--json"]).expect(0).json();
    assert!(restored["kept_as"].is_null() && restored["safety_backup"].is_null(), "{restored}");
    assert!(server.databases().contains(&"nothing".to_owned()));
    run(&world, &["undo", "shop", "--yes"]).expect(22);
}

#[test]
fn encodings_and_locales_come_back_as_they_were() {
    let latin = "INSERT INTO t VALUES (E'caf\\351')";
    let cases: &[(u32, &str, &str)] = &[
        (15, "ENCODING 'SQL_ASCII' LOCALE 'C'", latin),
        (
            15,
            "ENCODING 'LATIN1' LOCALE 'C'",
            "SET client_encoding = 'LATIN1'; INSERT INTO t VALUES (chr(233))",
        ),
        (15, "ENCODING 'UTF8' LOCALE 'C.UTF-8'", "INSERT INTO t VALUES ('café')"),
        (
            15,
            "LOCALE_PROVIDER icu ICU_LOCALE 'de-AT' LOCALE 'C.UTF-8'",
            "INSERT INTO t VALUES ('käse')",
        ),
        (
            18,
            "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C.UTF-8'",
            "INSERT INTO t VALUES ('käse')",
        ),
    ];
    for major in [15, 18] {
        let server = Server::new(major);
        for (_, options, statement) in cases.iter().filter(|case| case.0 == major) {
            server.sql("postgres", &format!("CREATE DATABASE shop TEMPLATE template0 {options}"));
            server.sql("shop", "CREATE TABLE public.t (word text)");
            let mut tool = server.tool("psql", "shop");
            let status = tool.args(["-XqAtc", &format!("SET search_path = public; {statement}")]);
            assert!(status.status().unwrap().success(), "{options}");
            let row = "SELECT pg_encoding_to_char(encoding), datlocprovider, datcollate, datctype, \
                       to_jsonb(d) ->> 'daticulocale', to_jsonb(d) ->> 'datlocale' \
                       FROM pg_database d WHERE datname = 'shop'";
            let bytes = "SELECT convert_to(word, pg_client_encoding()), word::bytea FROM t";
            let bytes = match options.contains("SQL_ASCII") {
                true => "SELECT word::bytea FROM t",
                false => bytes,
            };
            let before = (server.ask("postgres", row), server.ask("shop", bytes));
            let world = world_of(&server.url("shop"));
            run(&world, &["backup"]).expect(0);
            if options.contains("icu") {
                run(&world, &["verify", "--level", "full"]).expect(0);
            }
            server.sql("shop", "DROP TABLE public.t");
            run(&world, &["restore", "shop", "--yes"]).expect(0);
            assert_eq!(
                (server.ask("postgres", row), server.ask("shop", bytes)),
                before,
                "{options}"
            );
            for name in server.databases().iter().filter(|name| name.starts_with("shop")) {
                server.sql("postgres", &format!("DROP DATABASE {name}"));
            }
        }
    }
}

#[test]
fn what_the_configuration_says_of_tables_is_kept_to() {
    let server = shop(15);
    let world = world_with(&server.url("shop"), "exclude_table_data = [\"public.item\"]\n");
    run(&world, &["backup"]).expect(0);
    let shown = run(&world, &["show", "shop", "--json"]).expect(0).json().to_string();
    assert!(shown.contains("--exclude-table-data=public.item"), "{shown}");
    server.sql("shop", "CREATE SCHEMA extra; CREATE TABLE extra.more AS SELECT 1 AS id");
    let all = ["extra.more", "public.customer", "public.item"];
    for (text, wanted) in [
        ("schemas = [\"extra\"]\n", &["extra.more"][..]),
        ("exclude_schemas = [\"extra\"]\n", &["public.customer", "public.item"]),
        ("tables = [\"public.item\"]\n", &["public.item"]),
        ("exclude_tables = [\"public.item\"]\n", &["extra.more", "public.customer"]),
    ] {
        configure(&world, &server.url("shop"), text);
        run(&world, &["backup"]).expect(0);
        let shown = run(&world, &["show", "shop", "--json"]).expect(0).json().to_string();
        let is_in = |table: &&str| shown.contains(&format!("\"{table}\":"));
        let found: Vec<&str> = all.iter().filter(|table| is_in(table)).copied().collect();
        assert_eq!(found, wanted, "{text}: {shown}");
    }
    // A pattern that matches nothing is a mistake, and no empty backup.
    configure(&world, &server.url("shop"), "tables = [\"public.nowhere\"]\n");
    run(&world, &["backup"]).expect(2).says("nowhere").says("hint: mend the pattern");
}

#[test]
fn sql_text_on_request_comes_back_like_an_archive() {
    for major in majors() {
        let server = shop(*major);
        let world = world_with(&server.url("shop"), "format = \"plain\"\n");
        let before = server.text("shop");
        run(&world, &["backup"]).expect(0);
        let is_dump = |name: &String| name.ends_with(".sql.zst") && !name.contains(".globals.");
        assert_eq!(world.names("repo/shop").iter().filter(|name| is_dump(name)).count(), 1);
        run(&world, &["verify", "--level", "full"]).expect(0);
        server.sql("shop", "DROP TABLE public.item CASCADE");
        run(&world, &["restore", "shop", "--yes"]).expect(0);
        assert_eq!(server.text("shop"), before, "PostgreSQL {major}");
    }
}

#[test]
fn a_configuration_is_shown_without_its_password() {
    let world = world_of("postgresql://ann:h%40sh@localhost:5433/shop");
    for arguments in [&["config", "show"][..], &["config", "show", "--json"]] {
        let ran = run(&world, arguments).expect(0);
        assert!(ran.out.contains("localhost:5433/shop"), "{}", ran.out);
        for text in [&ran.out, &ran.err] {
            assert!(!text.contains("h%40sh") && !text.contains("h@sh"), "{text}");
        }
    }
    let secret: PathBuf = world.path("secret");
    fs::write(&secret, "hush\n").unwrap();
    set_mode(&secret, 0o644);
    let more = format!("password = {{ file = \"{}\" }}\n", secret.display());
    configure(&world, "postgresql://ann@localhost:5433/shop", &more);
    run(&world, &["backup"]).expect(2).says("everybody can read").says("chmod 600");
}
