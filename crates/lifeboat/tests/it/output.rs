//! What is printed where: results on standard output, all else on standard error, and nothing
//! that a script or a closed pipe could trip over.

use std::fs::File;
use std::process::{Command, Stdio};

use crate::support::{Held, World, ran};

#[test]
fn results_go_to_standard_output_and_all_else_to_standard_error() {
    let world = World::new();
    world.database("app.db", 10);
    let backup = world.repo(&["backup", "app.db"]).expect(0);
    assert_eq!(backup.out, "");
    assert!(backup.err.contains("backed up app as app-20"), "{}", backup.err);
    assert!(backup.err.contains("restore  lifeboat restore app@20"), "{}", backup.err);
    let quiet = world.repo(&["backup", "app.db", "--quiet"]).expect(0);
    assert_eq!((quiet.out.as_str(), quiet.err.as_str()), ("", ""));
    let list = world.repo(&["list"]).expect(0);
    assert_eq!(list.err, "");
    assert!(list.out.starts_with("backup "), "{}", list.out);
    let verbose = world.repo(&["backup", "app.db", "-v"]).expect(0);
    assert!(verbose.err.contains("reading back app"), "{}", verbose.err);
}

#[test]
fn json_has_its_shapes() {
    let world = World::new();
    world.database("app.db", 10);
    let backup = world.repo(&["backup", "app.db", "--json"]).expect(0);
    let result = &backup.json()[0];
    assert_eq!(result["outcome"], "committed");
    assert_eq!(result["manifest"]["rows"]["message"], 10);
    let lines: Vec<serde_json::Value> =
        backup.err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let has = |kind: &str| lines.iter().any(|line| line["type"] == kind);
    assert!(has("progress") && has("backup-committed"), "{}", backup.err);
    let list = world.repo(&["list", "--json"]).expect(0).json();
    for key in ["name", "id", "source", "taken_at", "artifacts", "checks", "repository", "folder"] {
        assert!(!list[0][key].is_null(), "{key}");
    }
    let status = world.repo(&["status", "--json"]).expect(0).json();
    assert_eq!(status[0]["state"], "fresh");
    let verify = world.repo(&["verify", "--json"]).expect(0).json();
    assert_eq!(verify[0]["sound"], true);
    let restore = world.repo(&["restore", "app", "--yes", "--json"]).expect(0).json();
    assert_eq!(restore["outcome"], "restored");
    assert!(restore["undo"].as_str().unwrap().starts_with("lifeboat undo "));
    let undo = world.repo(&["undo", "app", "--yes", "--json"]).expect(0).json();
    assert_eq!(undo["outcome"], "undone");
}

#[test]
fn errors_are_one_json_object_with_json() {
    let world = World::new();
    for (arguments, code, kind) in [
        (&["backup", "nope.db", "--json"][..], 15, "source-unavailable"),
        (&["list", "--json"], 10, "no-repository"),
        (&["frobnicate", "--json"], 2, "usage"),
    ] {
        let ran = world.repo(arguments).expect(code);
        let error: serde_json::Value =
            serde_json::from_str(ran.err.lines().next_back().unwrap()).unwrap();
        assert_eq!(error["type"], "error");
        assert_eq!(error["kind"], kind);
        assert_eq!(error["exit_code"], code);
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
}

#[test]
fn errors_say_what_failed_why_and_what_mends_it() {
    let ran = World::new().repo(&["backup", "/no/such.db"]).expect(15);
    let lines: Vec<&str> = ran.err.lines().collect();
    assert!(lines[0].starts_with("error: ") && lines[0].contains("/no/such.db"), "{}", ran.err);
    assert!(lines.iter().any(|line| line.starts_with("  hint: ")), "{}", ran.err);
}

#[test]
fn colours_are_for_terminals_and_whoever_asks() {
    let world = World::new();
    world.database("app.db", 10);
    world.repo(&["backup", "app.db"]).expect(0);
    let list = |arguments: &[&str]| world.repo(arguments).expect(0).out;
    assert!(!list(&["list"]).contains('\u{1b}'));
    assert!(list(&["list", "--color", "always"]).contains('\u{1b}'));
    assert!(!list(&["list", "--color", "never"]).contains('\u{1b}'));
    let on_terminal = |no_color: &str| {
        let line = format!("{} list --repo {}", env!("CARGO_BIN_EXE_lifeboat"), world.text("repo"));
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm");
        command.env("HOME", world.path("home")).env("NO_COLOR", no_color).stdin(Stdio::null());
        ran(command.output().unwrap()).out.contains('\u{1b}')
    };
    assert!(on_terminal(""));
    assert!(!on_terminal("1"));
}

#[test]
fn a_reader_that_goes_away_is_no_error_and_a_full_disk_is() {
    let world = World::new();
    world.database("app.db", 10);
    world.repo(&["backup", "app.db"]).expect(0);
    let line = format!(
        "{} config schema | head -c 10 >/dev/null; echo ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_lifeboat")
    );
    let output = Command::new("bash").args(["-c", &line]).output().unwrap();
    assert_eq!(output.stdout.trim_ascii(), b"0");
    assert_eq!(output.stderr, b"");
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = world.repo_command(&["list"]).stdout(full).output().unwrap();
    ran(output).expect(14).says("cannot write to standard output");
}

#[test]
fn a_stale_status_stays_stale_when_nobody_reads_it() {
    let world = World::new();
    world.database("app.db", 10);
    world.repo(&["backup", "app.db"]).expect(0);
    let line = format!(
        "{} status --max-age 0s --repo '{}' | true; echo ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_lifeboat"),
        world.text("repo")
    );
    let output = Command::new("bash").args(["-c", &line]).output().unwrap();
    assert_eq!(output.stdout.trim_ascii(), b"21");
}

#[test]
fn closed_standard_streams_never_become_the_database() {
    let world = World::new();
    let path = world.database("app.db", 100);
    let before = std::fs::read(&path).unwrap();
    let line = format!(
        "{} backup app.db -v --repo '{}' <&- >&- 2>&-",
        env!("CARGO_BIN_EXE_lifeboat"),
        world.text("repo")
    );
    let status = Command::new("sh")
        .args(["-c", &line])
        .current_dir(world.path("data"))
        .env("XDG_STATE_HOME", world.path("state"))
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(std::fs::read(&path).unwrap(), before);
    world.repo(&["verify", "--level", "full"]).expect(0);
}

#[test]
fn signals_end_the_run_and_leave_nothing_that_counts() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let world = World::new();
        world.database("app.db", 1000);
        let command = world.repo_command(&["backup", "app.db"]);
        let held = Held::at(&world, command, "backup.before_manifest");
        assert!(world.names("repo/app").iter().any(|name| name.ends_with("pages.zst")));
        held.signal(signal).expect(code);
        assert_eq!(world.repo(&["list", "--json"]).expect(0).json().as_array().unwrap().len(), 0);
        world.repo(&["backup", "app.db"]).expect(0);
    }
}

#[test]
fn the_help_has_the_exit_codes_and_every_command_has_its_own() {
    let world = World::new();
    let help = world.run(&["--help"]).expect(0).out;
    for code in ["0 ", "15", "20", "24", "75"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(code)), "{code}");
    }
    for command in ["backup", "list", "show", "status", "verify", "restore", "undo", "config"] {
        assert!(world.run(&[command, "--help"]).expect(0).out.contains("Usage: "), "{command}");
    }
}

#[test]
fn completions_and_manual_pages_are_made() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = world.run(&["completions", shell]).expect(0).out;
        assert!(script.contains("lifeboat") && script.contains("restore"), "{shell}");
    }
    world.run(&["man", "pages"]).expect(0);
    let names = world.names("data/pages");
    for page in ["lifeboat.1", "lifeboat-backup.1", "lifeboat-restore.1", "lifeboat-config-check.1"]
    {
        assert!(names.iter().any(|name| name == page), "{page} is not in {names:?}");
    }
    let page = std::fs::read_to_string(world.path("data/pages/lifeboat.1")).unwrap();
    assert!(page.contains("Exit codes"), "the manual has the exit codes");
    let reference = world.run(&["reference"]).expect(0).out;
    assert!(reference.contains("## `lifeboat restore`") && reference.contains("--dry-run"));
}
