//! Drills of PostgreSQL: dumps and whole clusters, to their end and to a moment, in servers that
//! are thrown away.

use std::fs;

use serde_json::Value;

use crate::cluster::Yard;
use crate::cluster_restore::{archived, as_we_are, lifeboat, lifeboat_as_we_are, moment, primary};
use crate::drill::make_key;
use crate::postgres_server::{command, configure, kinds_of_majors, majors, run, shop, world_of};
use crate::support::{World, set_mode};
use crate::wal_moments::{server, write};

const DRILL: &str = "[source.shop.drill]\nassert = [\"SELECT count(*) = 1000 FROM item\"]\n";

fn outcome<'a>(record: &'a Value, name: &str) -> &'a str {
    let found = record["checks"].as_array().unwrap().iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {record:#}"))["outcome"].as_str().unwrap()
}

#[test]
fn a_dump_is_restored_into_a_server_that_is_thrown_away() {
    for major in majors() {
        let server = shop(*major);
        let url = server.url("shop");
        let world = world_of(&url);
        // The server runs as another user.
        set_mode(&world.path(""), 0o755);
        configure(&world, &url, DRILL);
        run(&world, &["backup"]).expect(0);
        let ran = run(&world, &["drill", "--json"]).expect(0);
        let record = &ran.json()[0]["record"];
        for name in [
            "stored_hashes",
            "load_into_throw_away_cluster",
            "rows_manifest",
            "assert",
            "rows_live",
        ] {
            assert_eq!(outcome(record, name), "passed", "{major}: {record:#}");
        }
        assert_eq!(outcome(record, "amcheck"), "skipped");
        assert_eq!(world.names("tmp"), Vec::<String>::new());
        run(&world, &["proof", "verify"]).expect(0);
        // What is live has gone on.
        server
            .sql("shop", "INSERT INTO public.item (price) SELECT 1 FROM generate_series(1, 5000)");
        run(&world, &["drill"]).expect(20).says("public.item has 1000 rows, live it has 6000");
        configure(&world, &url, "[source.shop.drill]\nassert = [\"SELECT 1 FROM nowhere\"]\n");
        run(&world, &["drill", "--no-proof"]).expect(20).says("nowhere");
        // The live server is not needed for a restore.
        let kit = run(&world, &["kit", "--to", &world.text("home"), "--json"]).expect(0).json();
        drop(server);
        configure(&world, &url, DRILL);
        let ran = run(&world, &["drill", "--json"]).expect(0);
        assert_eq!(outcome(&ran.json()[0]["record"], "rows_live"), "skipped");
        // Nor is anything of this host but the kit.
        fs::remove_file(world.path("home/config/lifeboat/config.toml")).unwrap();
        let kit = kit["text"].as_str().unwrap();
        let ran = run(&world, &["drill", "--from-kit", kit, "--json"]).expect(0);
        let record = &ran.json()[0]["record"];
        assert_eq!((&record["from_kit"], outcome(record, "assert")), (&true.into(), "passed"));
        assert_eq!(world.names("tmp"), Vec::<String>::new());
    }
}

#[test]
fn a_dump_that_lost_a_byte_fails_its_drill() {
    let server = shop(15);
    let world = world_of(&server.url("shop"));
    set_mode(&world.path(""), 0o755);
    run(&world, &["backup"]).expect(0);
    let artifact = world.artifact("shop", ".dump.zst");
    let mut bytes = fs::read(&artifact).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(&artifact, bytes).unwrap();
    run(&world, &["drill"]).expect(20);
    assert_eq!(world.names("tmp"), Vec::<String>::new());
}

#[test]
fn a_cluster_is_recovered_to_its_end_and_to_a_moment() {
    for major in kinds_of_majors() {
        let yard = Yard::new();
        let mut primary = primary(&yard, *major);
        let text = format!(
            "{}[source.main.drill]\nassert = [\"SELECT max(n) >= 1 FROM told\"]\nrows_slack = 100\n",
            crate::cluster_restore::CONFIGURATION
        );
        yard.configure(&text);
        lifeboat(&yard, &["backup", "main"]).expect(0);
        let first = moment(&primary, 1);
        moment(&primary, 2);
        archived(&mut primary);
        let ran = lifeboat_as_we_are(&yard, &["drill", "main", "--json", "--no-proof"]).expect(0);
        let record = ran.json()[0]["record"].clone();
        for name in
            ["server_manifest", "page_checksums", "log", "every_row_read", "assert", "rows_live"]
        {
            assert_eq!(outcome(&record, name), "passed", "{major}: {record:#}");
        }
        // Where it is installed; else it is named as skipped.
        assert!(["passed", "skipped"].contains(&outcome(&record, "amcheck")), "{record:#}");
        primary.stop();
        let at = ["drill", "main", "--at", &first, "--json", "--no-proof"];
        let record = lifeboat_as_we_are(&yard, &at).expect(0).json()[0]["record"].clone();
        assert_eq!((&record["chosen"], outcome(&record, "rows_live")), (&"at".into(), "skipped"));
        yard.configure(&text.replace("max(n) >= 1", "max(n) = 1"));
        lifeboat_as_we_are(&yard, &["drill", "main", "--at", &first, "--no-proof"]).expect(0);
        drop(
            lifeboat_as_we_are(&yard, &["drill", "main", "--no-proof"])
                .expect(20)
                .says("which is not true"),
        );
        // Anywhere in the log, and proved.
        yard.configure(&text.replace("max(n) >= 1", "count(*) >= 0"));
        let ran = lifeboat_as_we_are(&yard, &["drill", "main", "--random", "--json"]).expect(0);
        let record = ran.json()[0]["record"].clone();
        assert_eq!(record["chosen"], "random");
        assert!(record["state"].as_str().unwrap().contains(" to 0/"), "{record:#}");
        let kit = ["kit", "--to", yard.path("home").to_str().unwrap(), "--json"].map(str::to_owned);
        let kit: Vec<&str> = kit.iter().map(String::as_str).collect();
        let kit = lifeboat_as_we_are(&yard, &kit).expect(0).json();
        yard.configure("# nothing\n");
        let of_kit = ["drill", "--from-kit", kit["text"].as_str().unwrap(), "--json"];
        let record = lifeboat_as_we_are(&yard, &of_kit).expect(0).json()[0]["record"].clone();
        assert_eq!((&record["from_kit"], outcome(&record, "assert")), (&true.into(), "passed"));
        yard.configure(&text);
        lifeboat_as_we_are(&yard, &["proof", "verify"]).expect(0).says("2 proofs of");
        let never = ["drill", "main", "--at", "2100-01-01T00:00:00Z", "--no-proof"];
        lifeboat_as_we_are(&yard, &never).expect(20);
        assert!(yard.path("tmp").read_dir().unwrap().next().is_none(), "nothing is left");
    }
}

/// An application that answers on its port once it has read a table by the URL that it is given.
const APPLICATION: &str = "import http.server,subprocess,sys\n\
    url, port, files = sys.argv[1:4]\n\
    ask = ['psql', '-XAtqc', 'SELECT count(*) FROM public.item', url]\n\
    assert subprocess.run(ask, capture_output=True, check=True).stdout == b'1000\\n'\n\
    open(files + '/DATA/app.toml').read()\n\
    class H(http.server.BaseHTTPRequestHandler):\n\
    \x20 def do_GET(s):\n\
    \x20   s.send_response(200); s.end_headers()\n\
    http.server.HTTPServer(('127.0.0.1', int(port)), H).serve_forever()\n";

#[test]
fn an_application_its_files_and_its_schema_are_checked_on_a_restored_dump() {
    let server = shop(15);
    let versions = "CREATE TABLE public.schema_migrations (version bigint); \
                    INSERT INTO public.schema_migrations VALUES (9), (10)";
    server.sql("shop", versions);
    let world = World::new();
    set_mode(&world.path(""), 0o755);
    make_key(&world.text("data/ssh_host_key"));
    fs::write(world.path("data/app.toml"), "port = 1\n").unwrap();
    let script = world.text("data/application.py");
    fs::write(&script, APPLICATION.replace("/DATA", &world.text("data"))).unwrap();
    let with = |drill: &str| {
        world.configure(&format!(
            "[repository.local]\nurl = \"file://$REPO\"\n[source.shop]\n\
             files = [\"$DATA/ssh_host_key\", \"$DATA/app.toml\"]\n\
             [source.shop.postgres]\nurl = \"{}\"\n[source.shop.drill]\n{drill}\n",
            server.url("shop")
        ));
    };
    let command = format!("[\"python3\", \"{script}\", \"{{url}}\", \"{{port}}\", \"{{files}}\"]");
    with(&format!(
        "command = {command}\nprobe = \"http://127.0.0.1:{{port}}/\"\nmemory_max = \"64MB\""
    ));
    run(&world, &["backup"]).expect(0);
    let record = run(&world, &["drill", "--json"]).expect(0).json()[0]["record"].clone();
    for name in ["application", "files", "host_key", "schema_version"] {
        assert_eq!(outcome(&record, name), "passed", "{record:#}");
    }
    // Each of them can fail it.
    with("command = [\"sleep\", \"600\"]\nprobe = \"tcp\"\ncommand_timeout = \"1s\"");
    run(&world, &["drill"]).expect(20).says("gave no answer");
    let known = "SHA256:jHYOpHiKPHHC5vnUNBHBNEMjH1TO2cyE/8kKLJ6PVYk";
    with(&format!("host_key = \"{known}\""));
    run(&world, &["drill"]).expect(20).says(&format!("must be {known}"));
    with("schema_version = \"SELECT version FROM nowhere\"");
    run(&world, &["drill"]).expect(20).says("nowhere");
    with("assert = [\"SELECT pg_sleep(600) IS NULL\"]\ntime_limit = \"2s\"");
    run(&world, &["drill"]).expect(20).says("the time limit of 2s is over");
    with("space_max = \"1kB\"");
    run(&world, &["drill"]).expect(14).says("its drill may take");
    // A migration that no backup holds yet is told.
    with("");
    server.sql("shop", "INSERT INTO public.schema_migrations VALUES (11)");
    run(&world, &["drill"]).expect(0).says("restored is 10, live is 11");
    fs::remove_file(world.artifact("shop", ".files.tar.zst")).unwrap();
    run(&world, &["drill"]).expect(20);
    assert_eq!(world.names("tmp"), Vec::<String>::new());
    // Every one of them, passed or failed, is proved.
    run(&world, &["proof", "verify"]).expect(0).says("8 proofs of");
}

/// Processes whose command line names that folder.
fn processes_of(folder: &str) -> usize {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(folder)).count()
}

/// `kill -9` while a server of ours runs, then the next drill.
#[test]
fn the_server_of_a_drill_that_was_killed_ends_and_its_folder_goes() {
    let server = shop(15);
    let world = world_of(&server.url("shop"));
    set_mode(&world.path(""), 0o755);
    let sleeps = "[source.shop.drill]\nassert = [\"SELECT pg_sleep(600) IS NULL\"]\n";
    configure(&world, &server.url("shop"), sleeps);
    run(&world, &["backup"]).expect(0);
    let mut drill = command(&world, &["drill"]).spawn().unwrap();
    let tmp = world.text("tmp");
    wait_until(|| processes_of(&tmp) > 0);
    // Signal 9.
    drill.kill().unwrap();
    drill.wait().unwrap();
    wait_until(|| processes_of(&tmp) == 0);
    configure(&world, &server.url("shop"), DRILL);
    run(&world, &["drill"]).expect(0).says("removed what a killed drill left");
    assert_eq!(world.names("tmp"), Vec::<String>::new());
}

/// The same of a whole cluster, whose server is killed while it is asked.
#[test]
fn the_server_of_a_restored_cluster_ends_with_a_drill_that_was_killed() {
    let yard = Yard::new();
    yard.configure_main(&["one"]);
    let mut cluster = server(&yard, 15);
    lifeboat(&yard, &["backup", "main"]).expect(0);
    write(&mut cluster);
    let config = fs::read_to_string(yard.path("config.toml")).unwrap();
    let sleeps = "[source.main.drill]\nassert = [\"SELECT pg_sleep(600) IS NULL\"]\n";
    yard.configure(&format!("{config}{sleeps}"));
    let mut drill = as_we_are(&yard).arg("drill").spawn().unwrap();
    let tmp = yard.path("tmp").to_str().unwrap().to_owned();
    // It recovers, or is asked already.
    wait_until(|| processes_of(&tmp) > 0);
    drill.kill().unwrap();
    drill.wait().unwrap();
    wait_until(|| processes_of(&tmp) == 0);
    yard.configure(&config);
    lifeboat_as_we_are(&yard, &["drill"]).expect(0).says("removed what a killed drill left");
    assert!(yard.path("tmp").read_dir().unwrap().next().is_none(), "nothing is left");
}

fn wait_until(mut is_so: impl FnMut() -> bool) {
    for _ in 0..3_000 {
        if is_so() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("it does not happen");
}
