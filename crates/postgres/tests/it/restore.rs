//! Restores: what comes back is what was, and what was there stays.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use lifeboat_core::manifest::{CheckLevel, Manifest};
use lifeboat_core::restore::Origin;
use lifeboat_core::{Kind, Result};
use lifeboat_postgres::restore::{RestoreOutcome, RestoreRequest, apply, plan, undo, undo_plan};
use lifeboat_postgres::{Client, DumpFormat, ServerFacts, Session, ThrowAwayCluster};

use crate::shop::STATEMENTS;
use crate::support::{Place, back_up, cluster, env, kinds_of_majors, majors, place, run, source};

fn shop(cluster: &ThrowAwayCluster) -> Client {
    run(&cluster.client("postgres").unwrap(), "CREATE DATABASE \"my shop\"");
    let client = cluster.client("my shop").unwrap();
    run(&client, STATEMENTS);
    run(&client, "ALTER DATABASE \"my shop\" SET work_mem = '5MB'");
    client
}

fn restore(place: &Place, manifest: &Manifest, target: &Client) -> Result<RestoreOutcome> {
    let origin = Origin::Backup { repository: &place.repository, folder: "shop", manifest };
    restore_origin(origin, target)
}

fn restore_origin(origin: Origin<'_>, target: &Client) -> Result<RestoreOutcome> {
    let request = RestoreRequest {
        origin,
        target,
        with_owners: true,
        schemas: &[],
        tables: &[],
        scratch_folder: Path::new("/var/tmp"),
    };
    let plan = plan(&env(), &request)?;
    apply(&env(), &request, &plan)
}

/// The whole database as text, without what differs from dump to dump. By the server's own
/// version: what distributions patch into a server only their own program knows to leave out.
fn text_of(client: &Client) -> String {
    let facts = ServerFacts::read(&mut Session::open(client, "the test").unwrap()).unwrap();
    let program = client.program("pg_dump", Some(facts.major)).unwrap();
    let output = client.command(&program).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let same = |line: &&str| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict");
    text.lines().filter(same).collect::<Vec<_>>().join("\n")
}

fn databases(client: &Client) -> Vec<String> {
    let program = client.program("psql", None).unwrap();
    let mut command = client.command(&program);
    command.args(["-XAtc", "SELECT datname FROM pg_database ORDER BY 1"]);
    let output = command.output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_database_comes_back_whole_on_every_version_and_undo_goes_back() {
    for major in majors() {
        let cluster = cluster(*major);
        let client = shop(&cluster);
        let postgres = cluster.client("postgres").unwrap();
        for format in [DumpFormat::Custom, DumpFormat::Plain] {
            let place = place();
            let mut source = source(cluster.client("my shop").unwrap());
            source.format = format;
            let before = text_of(&client);
            let manifest = back_up(&place, &source, CheckLevel::Quick).unwrap();
            run(
                &client,
                "SET search_path = public; DROP TABLE guarded; INSERT INTO empty_one VALUES (1)",
            );
            let damaged = text_of(&client);
            let outcome = restore(&place, &manifest, &client).unwrap();
            assert_eq!(text_of(&client), before, "PostgreSQL {major}, {format:?}");
            let kept = outcome.kept_as.unwrap();
            assert_eq!(text_of(&cluster.client(&kept).unwrap()), damaged);
            let mut session = Session::open(&client, "test").unwrap();
            session
                .execute("DO $$BEGIN ASSERT current_setting('work_mem') = '5MB'; END$$")
                .unwrap();
            drop(session);
            let plan = undo_plan(&env(), &client).unwrap();
            undo(&env(), &client, &plan).unwrap();
            assert_eq!(text_of(&client), damaged);
            run(&postgres, &format!("DROP DATABASE \"{}\"", plan.present_as.unwrap()));
            run(
                &client,
                "SET search_path = public; TRUNCATE empty_one; CREATE TABLE guarded (id int, who text)",
            );
        }
    }
}

#[test]
fn missing_roles_come_back_with_their_passwords_on_another_server() {
    let (old, new) = (cluster(15), cluster(16));
    let client = shop(&old);
    let place = place();
    let manifest = back_up(&place, &source(client), CheckLevel::Quick).unwrap();
    let target = new.client("elsewhere").unwrap();
    let outcome = restore(&place, &manifest, &target).unwrap();
    assert_eq!(outcome.roles, ["reader", "shop owner"]);
    assert_eq!(outcome.kept_as, None);
    run(
        &new.client("elsewhere").unwrap(),
        "DO $$BEGIN ASSERT (SELECT rolpassword LIKE 'SCRAM%' AND rolcanlogin FROM pg_authid \
         WHERE rolname = 'shop owner'); END$$",
    );
}

/// Commits rows one by one, and knows which commits were answered.
fn write_until(client: &Client, stop: &AtomicBool, acknowledged: &mut Vec<u64>) {
    let program = client.program("psql", None).unwrap();
    let mut number = 0;
    while !stop.load(Ordering::Acquire) {
        let mut command = client.command(&program);
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1"]);
        let child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.unwrap();
        let mut input = child.stdin.take().unwrap();
        let mut answers = std::io::BufReader::new(child.stdout.take().unwrap());
        loop {
            if stop.load(Ordering::Acquire) {
                break;
            }
            let mut line = String::new();
            let sent = writeln!(input, "INSERT INTO public.log VALUES ({number}) RETURNING id;")
                .and_then(|()| input.flush());
            let answer = std::io::BufRead::read_line(&mut answers, &mut line);
            if sent.is_err() || !matches!(answer, Ok(count) if count > 0) {
                break;
            }
            acknowledged.push(line.trim().parse().unwrap());
            number += 1;
        }
        // Whether this one was committed is not known: it is never asked for again.
        number += 1;
        drop(input);
        let _ = child.wait();
    }
}

#[test]
fn no_acknowledged_commit_of_a_live_application_is_lost() {
    for major in kinds_of_majors() {
        let cluster = cluster(*major);
        let postgres = cluster.client("postgres").unwrap();
        run(&postgres, "CREATE DATABASE app");
        let client = cluster.client("app").unwrap();
        run(&client, "CREATE TABLE public.log (id bigint PRIMARY KEY)");
        let place = place();
        let manifest = back_up(&place, &source(cluster.client("app").unwrap()), CheckLevel::Quick);
        let manifest = manifest.unwrap();
        let stop = AtomicBool::new(false);
        let mut acknowledged = Vec::new();
        let mut kept = Vec::new();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                write_until(&cluster.client("app").unwrap(), &stop, &mut acknowledged);
            });
            for _ in 0..3 {
                std::thread::sleep(std::time::Duration::from_millis(1_100));
                let target = cluster.client("app").unwrap();
                let outcome = restore(&place, &manifest, &target).unwrap();
                kept.extend(outcome.kept_as);
            }
            std::thread::sleep(std::time::Duration::from_millis(300));
            stop.store(true, Ordering::Release);
            writer.join().unwrap();
        });
        kept.push("app".to_owned());
        let mut found = HashSet::new();
        for name in &kept {
            let client = cluster.client(name).unwrap();
            let program = client.program("psql", None).unwrap();
            let mut command = client.command(&program);
            command.args(["-XAtc", "SELECT id FROM public.log"]);
            let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
            found.extend(output.lines().map(|line| line.parse::<u64>().unwrap()));
        }
        assert!(acknowledged.len() > 50, "{}", acknowledged.len());
        let lost: Vec<&u64> = acknowledged.iter().filter(|id| !found.contains(id)).collect();
        assert!(lost.is_empty(), "PostgreSQL {major}: {} lost: {lost:?}", lost.len());
        assert_eq!(kept.len(), 4, "{:?}", databases(&postgres));
    }
}

/// A script's file: the dump as the guide's script writes it.
fn script_file(client: &Client, edit: impl Fn(String) -> String) -> tempfile::NamedTempFile {
    let facts = ServerFacts::read(&mut Session::open(client, "the test").unwrap()).unwrap();
    let program = client.program("pg_dump", Some(facts.major)).unwrap();
    let output = client.command(&program).output().unwrap();
    let mut file = tempfile::Builder::new().suffix(".sql").tempfile().unwrap();
    file.write_all(edit(String::from_utf8(output.stdout).unwrap()).as_bytes()).unwrap();
    file
}

#[test]
fn damaged_scripts_are_refused_and_leave_everything_as_it_was() {
    for major in kinds_of_majors() {
        refuses_damaged_scripts(*major);
    }
}

fn refuses_damaged_scripts(major: u32) {
    let cluster = cluster(major);
    let client = shop(&cluster);
    let before = (text_of(&client), databases(&client));
    let marker = tempfile::tempdir().unwrap();
    let touch = marker.path().join("ran");
    let hostile = format!("\\! touch {}\n", touch.display());
    let cut_in_rows = |text: String| {
        let at = text.find("COPY public.customer").unwrap();
        text[..at + 20_000].to_owned()
    };
    type Edit<'a> = Box<dyn Fn(String) -> String + 'a>;
    let cases: Vec<(&str, Edit<'_>, &str)> = vec![
        ("t30 cut within rows", Box::new(cut_in_rows), "ends within the rows"),
        (
            "t31 a bad row",
            Box::new(|text| text.replacen("\n500\t", "\nfive hundred\t", 1)),
            "invalid input syntax",
        ),
        (
            "t32 a duplicate key",
            Box::new(|text| {
                let (before, rows) = text.split_once("COPY public.customer").unwrap();
                format!("{before}COPY public.customer{}", rows.replacen("\n501\t", "\n500\t", 1))
            }),
            "could not create unique index",
        ),
        (
            "t33 no end",
            Box::new(|text| text.replace("-- PostgreSQL database dump complete", "")),
            "lacks its end",
        ),
        (
            "t34 hostile",
            Box::new(|text| {
                text.replacen(
                    "SET statement_timeout",
                    &format!("{hostile}SET statement_timeout"),
                    1,
                )
            }),
            "a command for psql",
        ),
        (
            "t34 hidden within a line",
            Box::new(|text| {
                text.replacen(
                    "SET statement_timeout = 0;",
                    &format!("SET statement_timeout = 0; {hostile}"),
                    1,
                )
            }),
            "restricted",
        ),
        ("empty", Box::new(|_| String::new()), "0 bytes"),
        ("an error text", Box::new(|_| "pg_dump: error: connection failed\n".into()), "begin"),
    ];
    for (name, edit, why) in cases {
        let file = script_file(&client, edit);
        let error =
            restore_origin(Origin::File { path: file.path(), keys: None }, &client).unwrap_err();
        assert!(format!("{error:?}").contains(why), "{name}: {error:?}");
        assert_eq!((text_of(&client), databases(&client)), before, "{name}");
    }
    assert!(!touch.exists(), "a dump ran a command of ours");
}

#[test]
fn t13_a_dump_with_the_dumpers_messages_is_cleaned() {
    let cluster = cluster(15);
    let client = shop(&cluster);
    let before = text_of(&client);
    let program = client.program("pg_dump", Some(15)).unwrap();
    let command = client.command(&program);
    let words: Vec<String> =
        command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    let status = Command::new("sh")
        .args(["-c", "out=$1; shift; \"$@\" --verbose > \"$out\" 2>&1", "sh"])
        .arg(file.path())
        .arg(&program.path)
        .args(&words)
        .status()
        .unwrap();
    assert!(status.success());
    let polluted = std::fs::read_to_string(file.path()).unwrap();
    assert!(polluted.contains("\npg_dump: "), "the script's way writes messages into the dump");
    let outcome = restore_origin(Origin::File { path: file.path(), keys: None }, &client).unwrap();
    assert!(outcome.warnings.iter().any(|line| line.contains("were left out")), "{outcome:?}");
    assert_eq!(text_of(&client), before);
}

#[test]
fn a_cut_archive_is_refused_at_any_place() {
    for (major, parts) in majors().iter().zip([10, 20, 10, 10]) {
        refuses_cut_archives(*major, parts);
    }
}

fn refuses_cut_archives(major: u32, parts: usize) {
    let cluster = cluster(major);
    let client = shop(&cluster);
    let program = client.program("pg_dump", Some(major)).unwrap();
    let mut command = client.command(&program);
    let dump = command.args(["-Fc", "-Z0"]).output().unwrap().stdout;
    assert!(dump.len() > 100_000);
    let before = databases(&client);
    for part in 0..parts {
        let end = dump.len() * part / parts;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&dump[..end]).unwrap();
        let error =
            restore_origin(Origin::File { path: file.path(), keys: None }, &client).unwrap_err();
        assert_eq!(error.kind(), Kind::CheckFailed, "cut at {end}: {error:?}");
    }
    assert_eq!(databases(&client), before);
}
