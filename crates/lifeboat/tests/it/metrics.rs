//! Metrics for Prometheus: true ones, of all that the shipped alert rules and the dashboard ask
//! for.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use lifeboat_test_support::installed;

use crate::support::{World, mode};
use crate::webdriver::skipped;

fn configured() -> World {
    let world = World::new();
    world.database("app.db", 10);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nrpo = \"1h\"\nrto = \"15m\"\n\
         schedule = \"daily 02:00\"\ndrill = { every = \"30d\" }\n\
         [source.'new \"one\\']\nsqlite = \"$DATA/app.db\"\n",
    );
    world
}

fn metrics(world: &World, arguments: &[&str]) -> String {
    let all = [&["status", "--format", "prometheus"][..], arguments].concat();
    world.run(&all).expect(0).out
}

/// The value of the sample of that name and source; `None` where there is none.
fn value(text: &str, name: &str, source: &str) -> Option<f64> {
    let begin = format!("{name}{{source=\"{source}\"");
    let line = text.lines().find(|line| line.starts_with(&begin))?;
    Some(line.rsplit(' ').next().unwrap().parse().unwrap())
}

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging").join(name)
}

/// Runs promtool with that on its standard input; `None`, with the reason on the screen, where
/// there is none.
fn promtool(arguments: &[&str], input: &str) -> Option<Output> {
    let unpacked = installed("prometheus/usr/bin/promtool");
    let program = if unpacked.exists() { unpacked } else { "promtool".into() };
    let mut command = Command::new(program);
    command.args(arguments).current_dir(packaging("prometheus"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    match command.spawn() {
        Ok(mut child) => {
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            Some(child.wait_with_output().unwrap())
        }
        Err(error) => {
            skipped(&format!("promtool (package prometheus) does not start: {error}"));
            None
        }
    }
}

#[test]
fn what_is_told_is_what_was_measured() {
    let world = configured();
    let text = metrics(&world, &[]);
    // Nothing is said of what never was: 0 would be a time.
    for name in ["last_success_timestamp_seconds", "rpo_seconds", "last_run_status"] {
        assert_eq!(value(&text, &format!("lifeboat_{name}"), "app"), None, "{text}");
    }
    assert_eq!(value(&text, "lifeboat_source_info", "app"), Some(1.0), "{text}");
    assert_eq!(value(&text, "lifeboat_stale", "app"), Some(1.0), "{text}");
    world.run(&["backup", "app"]).expect(0);
    world.run(&["drill", "app"]).expect(0);
    let text = metrics(&world, &[]);
    let of = |name: &str| value(&text, &format!("lifeboat_{name}"), "app").unwrap_or(-1.0);
    let now = jiff::Timestamp::now().as_second() as f64;
    for name in ["last_success", "last_attempt", "newest_point", "oldest_point"] {
        let at = of(&format!("{name}_timestamp_seconds"));
        assert!((now - 600.0..=now + 1.0).contains(&at), "{name}: {at} and {now}");
    }
    assert_eq!((of("last_run_status"), of("stale"), of("drill_status")), (1.0, 0.0, 1.0));
    assert_eq!((of("rpo_objective_seconds"), of("rto_objective_seconds")), (3600.0, 900.0));
    assert_eq!(of("expected_interval_seconds"), 86_400.0);
    assert_eq!(of("drill_interval_objective_seconds"), 30.0 * 86_400.0);
    let promise = |name: &str| {
        let begin = "lifeboat_promise_kept{source=\"app\"";
        let end = format!("promise=\"{name}\"}} 1");
        text.lines().any(|line| line.starts_with(begin) && line.ends_with(&end))
    };
    assert!(promise("rpo") && promise("rto"), "{text}");
    assert!(of("rto_seconds") >= of("rto_measured_seconds"), "{text}");
    assert!(of("run_bytes") > 0.0 && of("added_bytes_total") == of("run_bytes"), "{text}");
    assert_eq!((of("wal_gap"), of("runs_total")), (0.0, 1.0), "{text}");
    // Nobody writes to it, and a file without WAL has none.
    assert_eq!(of("sqlite_wal_bytes"), wal_of(&world), "{text}");
    assert!(of("rto_measured_seconds") > 0.0 && of("drill_last_success_timestamp_seconds") > 0.0);
    let plain = fs::metadata(world.path("data/app.db")).unwrap().len() as f64;
    assert!(of("last_backup_bytes") >= plain && of("stored_bytes") > 0.0, "{text}");
    let Some(output) = promtool(&["check", "metrics"], &text) else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn wal_of(world: &World) -> f64 {
    fs::metadata(world.path("data/app.db-wal")).map_or(0.0, |found| found.len() as f64)
}

/// The names that people of other tools know, one by one.
#[test]
fn every_name_of_the_list_is_there() {
    let world = configured();
    world.run(&["backup", "app"]).expect(0);
    let text = metrics(&world, &[]);
    for name in [
        "last_success_timestamp_seconds",
        "last_attempt_timestamp_seconds",
        "last_run_status",
        "expected_interval_seconds",
        "rpo_seconds",
        "rpo_objective_seconds",
        "rto_measured_seconds",
        "rto_objective_seconds",
        "drill_last_success_timestamp_seconds",
        "drill_status",
        "points",
        "oldest_point_timestamp_seconds",
        "stored_bytes",
        "added_bytes_total",
        "target_free_bytes",
        "target_full_eta_seconds",
        "wal_archive_lag_bytes",
        "wal_gap",
        "replication_slot_retained_bytes",
        "sqlite_wal_bytes",
        "run_duration_seconds",
        "run_bytes",
        "runs_total",
        "notify_failures_total",
        "immutable_until_timestamp_seconds",
        "clock_skew_seconds",
        "build_info",
    ] {
        assert!(text.contains(&format!("# TYPE lifeboat_{name} ")), "{name}");
    }
}

/// A failed backup is told, and the last success stays what it was.
#[test]
fn a_failure_is_no_success_whatever_lies_in_the_repository() {
    let world = configured();
    world.run(&["backup", "app"]).expect(0);
    let before = metrics(&world, &[]);
    fs::write(world.path("data/app.db"), "no database").unwrap();
    world.run(&["backup", "app"]).expect(20);
    // What a script took for a backup: the words of an error, under a backup's name.
    let words = "ERROR: could not connect to the database, giving up now\n";
    fs::write(world.path("repo/app/app-29990101-000000.db.zst"), words).unwrap();
    fs::write(world.path("repo/app/app-29990101-000000.json"), words).unwrap();
    let after = metrics(&world, &["--also-as", "chatbot"]);
    for name in
        ["last_success_timestamp_seconds", "last_backup_bytes", "newest_point_timestamp_seconds"]
    {
        let name = format!("lifeboat_{name}");
        assert_eq!(value(&before, &name, "app"), value(&after, &name, "app"), "{after}");
        assert!(value(&after, &name, "app").is_some(), "{after}");
    }
    assert_eq!(value(&after, "lifeboat_last_run_status", "app"), Some(0.0), "{after}");
    assert!(after.lines().any(|line| {
        line.starts_with("lifeboat_points{source=\"app\"")
            && line.contains("state=\"unreadable\"")
            && line.ends_with(" 1")
    }));
    let of = |name: &str| value(&after, &format!("chatbot_{name}"), "app");
    assert_eq!((of("backup_status"), of("backup_count")), (Some(0.0), Some(1.0)), "{after}");
    assert_eq!(
        of("last_backup_timestamp_seconds"),
        value(&after, "lifeboat_last_success_timestamp_seconds", "app")
    );
    assert!(of("last_backup_size_bytes") > Some(60.0), "{after}");
    // No repository is elsewhere: nothing is claimed of one.
    assert_eq!(of("offsite_backup_status"), None, "{after}");
}

#[test]
fn a_textfile_is_whole_and_for_others_to_read() {
    let world = configured();
    world.run(&["backup", "app"]).expect(0);
    let path = world.path("data/lifeboat.prom");
    fs::write(&path, "old").unwrap();
    let file = path.to_str().unwrap();
    let ran = world.run(&["status", "--textfile", file]).expect(0);
    assert_eq!(ran.out, "");
    assert_eq!(mode(&path), 0o644);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("lifeboat_rpo_seconds{source=\"app\",engine=\"sqlite\""), "{text}");
    assert!(text.contains("source=\"new \\\"one\\\\\""), "{text}");
    assert!(!world.names("data").iter().any(|name| name.ends_with(".part")));
    world.run(&["status", "--textfile", "/nowhere/x.prom"]).expect(1).says("/nowhere/x.prom");
    world.run(&["status", "--also-as", "Chat Bot"]).expect(2);
    // A repository that cannot be read is a number, not an empty file.
    fs::write(world.path("repo/lifeboat.json"), "{").unwrap();
    world.run(&["status", "--textfile", file]).expect(0);
    assert!(fs::read_to_string(&path).unwrap().contains("\nlifeboat_targets_unreadable 1\n"));
}

/// Every metric that a shipped rule or panel asks for is one that the program has.
#[test]
fn no_rule_asks_for_a_metric_that_nobody_emits() {
    let world = configured();
    let text = metrics(&world, &[]);
    let emitted: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(emitted.len() > 20, "{emitted:?}");
    for file in ["prometheus/lifeboat.rules.yml", "grafana/lifeboat.json"] {
        let text = fs::read_to_string(packaging(file)).unwrap();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let words = text.split(|c: char| !is_name(c));
        let asked: BTreeSet<&str> = words.filter(|word| word.starts_with("lifeboat_")).collect();
        assert!(asked.len() > 8, "{file}: {asked:?}");
        let missing: Vec<_> = asked.difference(&emitted).collect();
        assert!(missing.is_empty(), "{file}: {missing:?}");
    }
    let board = fs::read_to_string(packaging("grafana/lifeboat.json")).unwrap();
    let board: serde_json::Value = serde_json::from_str(&board).unwrap();
    assert_eq!(board["panels"].as_array().unwrap().len(), 20);
    for arguments in
        [["check", "rules", "lifeboat.rules.yml"], ["test", "rules", "lifeboat.rules.test.yml"]]
    {
        let Some(output) = promtool(&arguments, "") else { return };
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    }
}
