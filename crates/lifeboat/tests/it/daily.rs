//! What surrounds a backup day by day: hooks, further attempts, runs that meet, limits of time,
//! and signals.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{Ran, World, ran, set_mode};

const REPOSITORY: &str = "[repository.local]\nurl = \"file://$REPO\"\n";

/// A world with a database and a source of it, with further lines for that source.
fn world_with(lines: &str, rest: &str) -> World {
    let world = World::new();
    world.database("app.db", 100);
    configure(&world, lines, rest);
    world
}

fn configure(world: &World, lines: &str, rest: &str) {
    let text = format!("{rest}\n{REPOSITORY}[source.app]\nsqlite = \"$DATA/app.db\"\n{lines}");
    world.configure(&text);
}

fn text(world: &World, name: &str) -> String {
    fs::read_to_string(world.path(name)).unwrap_or_default()
}

/// How many backups are listed.
fn count(world: &World) -> usize {
    if !world.path("repo/lifeboat.json").exists() {
        return 0;
    }
    world.run(&["list", "--json"]).expect(0).json().as_array().unwrap().len()
}

/// Waits until that is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..6_000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it never came to be: {what}");
}

/// A backup that is held at a point until a signal comes.
fn held(world: &World, point: &str) -> Child {
    let mut command = world.command(&["backup", "app", "--json"]);
    command.env("LIFEBOAT_PAUSE_AT", format!("{point}:600000"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
}

fn ended(child: Child) -> Ran {
    ran(child.wait_with_output().unwrap())
}

#[test]
fn hooks_are_run_around_a_backup_and_know_of_it() {
    let world = world_with(
        "[source.app.hooks]\n\
         before = 'echo \"$LIFEBOAT_HOOK $LIFEBOAT_SOURCE $LIFEBOAT_REPOSITORY\" >> log'\n\
         after = [\n\
             ['sh', '-c', 'echo \"$LIFEBOAT_HOOK $LIFEBOAT_OUTCOME $LIFEBOAT_BACKUP\" >> log'],\n\
             ['sh', '-c', 'test \"$LIFEBOAT_STORED_BYTES\" -gt 0 && echo two words >> log'],\n\
         ]\n\
         on_failure = 'echo never >> log'\n",
        "",
    );
    let ran = world.run(&["backup", "--json"]).expect(0);
    let name = ran.json()[0]["backup"].as_str().unwrap().to_owned();
    let expected =
        format!("before app file://{}\nafter committed {name}\ntwo words\n", world.text("repo"));
    assert_eq!(text(&world, "data/log"), expected);
}

#[test]
fn what_a_hook_prints_is_not_trusted() {
    let world = world_with(
        "[source.app.hooks]\nbefore = 'printf \"to out\\n\"; printf \"\\033[2Jred\\n\" >&2; \
         yes no end | head -n 5000'\n",
        "",
    );
    let ran = world.run(&["backup"]).expect(0);
    assert_eq!(ran.out, "", "standard output is for results");
    let ran = ran.says("[app before] to out").says("more lines are left out");
    assert!(!ran.err.contains('\u{1b}') && ran.err.contains("\\u{1b}[2Jred"), "{}", ran.err);
    assert!(ran.err.lines().count() < 300, "{}", ran.err.lines().count());
    let ran = world.run(&["backup", "--json"]).expect(0);
    assert_eq!(ran.json().as_array().unwrap().len(), 1);
    for line in ran.err.lines() {
        let _: serde_json::Value = serde_json::from_str(line).unwrap();
    }
    assert_eq!(world.run(&["backup", "--quiet"]).expect(0).err, "");
}

#[test]
fn without_its_before_a_backup_is_not_made() {
    let world = world_with(
        "[source.app.hooks]\nbefore = [\"sh\", \"-c\", \"echo the disk is gone >&2; exit 7\"]\n\
         after = 'echo \"after $LIFEBOAT_OUTCOME\" >> log'\n\
         on_failure = 'echo \"$LIFEBOAT_KIND $LIFEBOAT_EXIT_CODE: $LIFEBOAT_ERROR\" >> log'\n",
        "",
    );
    world.run(&["backup"]).expect(1).says("hook `before` of app").says("the disk is gone");
    assert!(!world.path("repo").exists(), "nothing is made before the hook is through");
    let log = text(&world, "data/log");
    assert!(log.starts_with("after failed\nfailed 1: the hook `before` of app failed"), "{log}");
    assert!(log.contains("the disk is gone"), "{log}");
    // Another source goes on.
    let path = world.database("other.db", 10);
    let text = format!("\n[source.other]\nsqlite = \"{}\"\n", path.display());
    let config = world.path("home/config/lifeboat/config.toml");
    fs::write(&config, fs::read_to_string(&config).unwrap() + &text).unwrap();
    world.run(&["backup"]).expect(3).says("1 of 2 backups failed");
    assert_eq!(count(&world), 1);
    world.run(&["backup", "--no-hooks"]).expect(0);
    // A program that is not there.
    configure(&world, "[source.app.hooks]\nbefore = ['/no/such program']\n", "");
    world.run(&["backup", "app"]).expect(1).says("cannot run `'/no/such program'`");
}

#[test]
fn a_failed_after_leaves_the_backup_good_and_is_said() {
    let world = world_with("[source.app.hooks]\nafter = \"exit 1\"\n", "");
    world.run(&["backup"]).expect(3).says("hook after it failed").says("the backups are good");
    assert_eq!(count(&world), 1);
    world.run(&["verify"]).expect(0);
    // What failed before decides; and a failing hook for failures is only said.
    configure(&world, "[source.app.hooks]\nafter = 'exit 4'\non_failure = 'exit 5'\n", "");
    fs::remove_file(world.path("data/app.db")).unwrap();
    let ran = world.run(&["backup"]).expect(15);
    let ran = ran.says("`exit 4` ended with").says("`exit 5` ended with");
    assert!(ran.err.contains("app.db"), "{}", ran.err);
}

#[test]
fn a_hook_is_killed_at_its_limit_with_all_that_it_started() {
    let world = world_with(
        "[source.app.hooks]\ntimeout = \"3s\"\n\
         before = 'sleep 1000 & echo $! > child; trap \"\" TERM; wait; sleep 1000'\n",
        "",
    );
    world.run(&["backup"]).expect(1).says("took longer than 3.0 s");
    let child = text(&world, "data/child");
    let status = format!("/proc/{}/status", child.trim());
    until("the child of the hook is gone", || {
        let status = fs::read_to_string(&status).unwrap_or_default();
        status.is_empty() || status.contains("State:\tZ")
    });
}

#[test]
fn a_process_that_a_hook_leaves_behind_does_not_hold_the_run_up() {
    let world = world_with("[source.app.hooks]\nbefore = 'sleep 1000 & echo $! > child'\n", "");
    world.run(&["backup"]).expect(0);
    let child = text(&world, "data/child");
    assert!(Command::new("kill").arg(child.trim()).status().unwrap().success(), "it still runs");
}

#[test]
fn a_dry_run_lists_the_hooks_and_runs_none() {
    let hooks = "before = 'touch x'\nafter = ['touch', 'y z']\non_failure = 'touch z'\n";
    let world =
        world_with(&format!("[source.app.hooks]\n{hooks}"), "[hooks]\nbefore = 'touch all'\n");
    let out = world.run(&["backup", "--dry-run"]).expect(0).out;
    for line in ["before: touch x", "after: touch 'y z'", "a failure: touch z", "before: touch all"]
    {
        assert!(out.contains(line), "{line} is not in {out}");
    }
    assert!(!world.run(&["backup", "--dry-run", "--no-hooks"]).expect(0).out.contains("touch"));
    assert_eq!(world.names("data"), ["app.db"]);
}

#[test]
fn a_run_has_hooks_around_all_its_sources() {
    let hooks = "[hooks]\nbefore = 'echo before >> log'\n\
                 after = 'echo \"$LIFEBOAT_COMMAND $LIFEBOAT_OUTCOME\" >> log'\n\
                 on_failure = 'echo \"$LIFEBOAT_KIND\" >> log'\n";
    let world = world_with("hooks = { before = 'echo app >> log' }\n", hooks);
    world.run(&["backup"]).expect(0);
    assert_eq!(text(&world, "data/log"), "before\napp\nbackup done\n");
    fs::remove_file(world.path("data/app.db")).unwrap();
    fs::remove_file(world.path("data/log")).unwrap();
    world.run(&["backup"]).expect(15);
    assert_eq!(text(&world, "data/log"), "before\napp\nbackup failed\nsource-unavailable\n");
    configure(&world, "", "[hooks]\nbefore = 'exit 1'\n");
    world.run(&["backup"]).expect(1).says("hook `before` of `backup`");
}

#[test]
fn the_status_tells_of_a_last_backup_that_failed() {
    let world = world_with("", "");
    world.run(&["backup"]).expect(0);
    let ran = world.run(&["status", "--json"]).expect(0);
    assert_eq!(ran.json()[0]["last_attempt"]["outcome"], "committed");
    fs::rename(world.path("data/app.db"), world.path("data/away.db")).unwrap();
    world.run(&["backup"]).expect(15);
    world.run(&["status"]).expect(0).says("the last backup failed at").says("app.db");
    let ran = world.run(&["status", "--json"]).expect(0);
    assert_eq!(ran.json()[0]["last_attempt"]["kind"], "source-unavailable");
    let plugin = world.run(&["status", "--format", "nagios"]).expect(1).out;
    assert!(plugin.contains("app: the last backup failed: "), "{plugin}");
    // The notes are a convenience: a damaged one is left out, no place for them no failure.
    let folder = world.path("state/lifeboat/attempts");
    for name in world.names("state/lifeboat/attempts") {
        fs::write(folder.join(name), "{").unwrap();
    }
    let ran = world.run(&["status"]).expect(0);
    assert!(!ran.err.contains("failed at"), "{}", ran.err);
    fs::remove_dir_all(&folder).unwrap();
    fs::write(&folder, "in the way").unwrap();
    fs::rename(world.path("data/away.db"), world.path("data/app.db")).unwrap();
    world.run(&["backup"]).expect(0);
}

#[test]
fn what_may_pass_is_tried_again() {
    let lines = "retry = { times = 1000, delay = \"20ms\", delay_max = \"50ms\" }\n";
    let world = world_with(lines, "");
    let hidden = world.path("data/hidden.db");
    fs::rename(world.path("data/app.db"), &hidden).unwrap();
    let mut child = world.command(&["backup"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("attempt 2 of 1001 failed")));
    fs::rename(&hidden, world.path("data/app.db")).unwrap();
    let _ = lines.by_ref().count();
    assert!(child.wait().unwrap().success());
    assert_eq!(count(&world), 1);
    // The command line decides, and what stays is not tried again.
    fs::remove_file(world.path("data/app.db")).unwrap();
    let ran = world.run(&["backup", "--retries", "0"]).expect(15);
    assert!(!ran.err.contains("attempt"), "{}", ran.err);
    fs::write(world.path("data/app.db"), "no database").unwrap();
    let ran = world.run(&["backup"]);
    assert!(ran.code != 0 && !ran.err.contains("attempt"), "{ran:?}");
}

#[test]
fn a_run_that_meets_another_fails_skips_or_waits() {
    let world = world_with("overlap = \"skip\"\n", "");
    let first = held(&world, "backup.before_manifest");
    let artifact = || world.names("repo/app").iter().any(|name| name.ends_with("pages.zst"));
    until("the first run is under way", artifact);
    let skipped = world.run(&["backup", "--json"]).expect(0).json();
    assert_eq!(skipped[0]["outcome"], "skipped");
    world.run(&["backup"]).expect(0).says("skipped").says(&first.id().to_string());
    configure(&world, "", "");
    world.run(&["backup"]).expect(11).says(&first.id().to_string());
    configure(&world, "overlap = \"wait\"\ntime_limit = \"3s\"\n", "");
    world.run(&["backup"]).expect(1).says("the time limit of 3s is over").says("is running");
    configure(&world, "overlap = \"wait\"\ntime_limit = \"10m\"\n", "");
    let mut waiting = world.command(&["backup"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(waiting.stderr.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("waiting for its end")));
    signal(&first, "TERM");
    assert_eq!(ended(first).code, 143);
    let _ = said.count();
    assert!(waiting.wait().unwrap().success());
    assert_eq!(count(&world), 1);
    configure(&world, "overlap = \"wait\"\n", "");
    world.run(&["config", "check"]).expect(2).says("set `time_limit` as well");
}

#[test]
fn a_run_that_takes_too_long_ends_and_leaves_nothing() {
    let world = world_with("[source.app.hooks]\nafter = 'echo \"$LIFEBOAT_ERROR\" >> log'\n", "");
    for point in ["backup.artifact.streamed", "backup.artifact.read_back", "backup.before_manifest"]
    {
        let mut command = world.command(&["backup", "--time-limit", "30m"]);
        // An hour is over there at once: however slow this machine is, it is not before.
        command.env("LIFEBOAT_PAUSE_AT", format!("{point}:+3600000"));
        ran(command.output().unwrap()).expect(1).says("the time limit of 30m is over");
        assert!(world.names("repo/app").iter().all(|name| name == "source.json"), "{point}");
    }
    assert_eq!(text(&world, "data/log").matches("the time limit of 30m is over").count(), 3);
    let lines = "time_limit = \"1s\"\nhooks = { before = 'sleep 1000' }\n";
    configure(&world, lines, "");
    world.run(&["backup"]).expect(1).says("the hook `before` of app was killed");
    configure(&world, "time_limit = \"1h\"\n", "");
    world.run(&["backup"]).expect(0);
}

#[test]
fn a_signal_ends_a_run_that_cleans_up_behind_itself() {
    for (name, code) in [("INT", 130), ("TERM", 143), ("HUP", 143)] {
        let world = World::new();
        world.database("app.db", 100);
        world.configure(&format!(
            "{REPOSITORY}[source.app]\nsqlite = {{ path = \"$DATA/app.db\", method = \"cold\" }}\n\
             service = {{ stop = [\"touch\", \"stopped\"], start = [\"touch\", \"started\"] }}\n\
             hooks = {{ after = 'echo \"$LIFEBOAT_KIND\" > log' }}\n"
        ));
        let child = held(&world, "backup.artifact.streamed");
        until("the artifact is written", || {
            world
                .names("repo/app")
                .iter()
                .any(|name| name.contains(".db.") && name.ends_with(".part"))
        });
        assert!(world.path("data/stopped").exists() && !world.path("data/started").exists());
        signal(&child, name);
        let ran = ended(child);
        assert_eq!(ran.code, code, "{ran:?}");
        assert_eq!(ran.json()[0]["error"]["exit_code"], code);
        assert_eq!(world.names("repo/app"), ["source.json"]);
        assert!(world.path("data/started").exists());
        let kind = if code == 130 { "interrupted\n" } else { "terminated\n" };
        assert_eq!(text(&world, "data/log"), kind);
        world.run(&["backup"]).expect(0);
    }
}

#[test]
fn after_a_signal_no_further_source_is_begun() {
    let world = world_with("", "");
    world.database("zoo.db", 10);
    let config = world.path("home/config/lifeboat/config.toml");
    let zoo = format!("\n[source.zoo]\nsqlite = \"{}\"\n", world.text("data/zoo.db"));
    fs::write(&config, fs::read_to_string(&config).unwrap() + &zoo).unwrap();
    let mut command = world.command(&["backup"]);
    command.env("LIFEBOAT_PAUSE_AT", "backup.before_manifest:600000");
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let artifact = || world.names("repo/app").iter().any(|name| name.ends_with("pages.zst"));
    until("the first source is under way", artifact);
    signal(&child, "TERM");
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143), "{said}");
    assert!(!world.path("repo/zoo").exists(), "{said}");
}

#[test]
fn a_configuration_with_hooks_that_others_can_write_is_warned_of() {
    let world = world_with("hooks = { before = 'true' }\n", "");
    let config = world.path("home/config/lifeboat/config.toml");
    set_mode(&config, 0o666);
    world.run(&["config", "check"]).expect(0).says("others can write").says("runs commands");
    let doubts = world.run(&["config", "check", "--json"]).expect(0).json();
    assert!(doubts["doubts"][0].as_str().unwrap().contains("config.toml"), "{doubts}");
    set_mode(&config, 0o600);
    set_mode(config.parent().unwrap(), 0o700);
    let ran = world.run(&["config", "check"]).expect(0);
    assert!(!ran.err.contains("others can write"), "{}", ran.err);
    // Without commands it is no program.
    configure(&world, "", "");
    set_mode(&config, 0o666);
    let ran = world.run(&["config", "check"]).expect(0);
    assert!(!ran.err.contains("others can write"), "{}", ran.err);
}

#[test]
fn a_signal_ends_a_prune_whose_hook_runs_all_the_same() {
    let hooks = "[hooks]\nafter = 'echo \"$LIFEBOAT_KIND\" >> log'\n";
    let world = world_with("keep = { last = 3 }\n", hooks);
    for _ in 0..5 {
        world.run(&["backup", "--no-hooks"]).expect(0);
    }
    let mut command = world.command(&["prune", "--unattended"]);
    command.env("LIFEBOAT_PAUSE_AT", "prune.marked:600000");
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    until("the first mark is put", || {
        world.names("repo/tombstones/app").iter().any(|name| name.ends_with(".json"))
    });
    signal(&child, "TERM");
    let ran = ended(child);
    assert_eq!(ran.code, 143, "{ran:?}");
    assert_eq!(text(&world, "data/log"), "terminated\n");
    assert_eq!(count(&world), 4, "one mark was put before the end");
    world.run(&["prune", "--unattended"]).expect(0);
    assert_eq!(count(&world), 3);
}
