//! The demo proves its point, or fails; either way it leaves nothing behind.

use crate::browser::Visitor;
use crate::support::{World, ran};

const SMALL: [&str; 3] = ["demo", "--size-mb", "2"];

#[test]
fn the_demo_proves_a_restored_database_and_cleans_up() {
    let world = World::new();
    let told = world.run(&[SMALL[0], SMALL[1], SMALL[2], "--json"]).expect(0).json();
    let steps: Vec<&str> =
        told["steps"].as_array().unwrap().iter().map(|s| s["step"].as_str().unwrap()).collect();
    assert_eq!(steps.len(), 7, "{steps:?}");
    assert_eq!(steps.last(), Some(&"proof"));
    let proof = told["steps"][6]["lines"].to_string();
    assert!(proof.contains("integrity_check: ok"), "{proof}");
    assert_eq!(world.names("tmp"), Vec::<String>::new());
    assert_eq!(world.names("home"), Vec::<String>::new());
    assert_eq!(world.names("state"), Vec::<String>::new());
}

#[test]
fn a_demo_whose_backup_or_restore_dies_fails_and_cleans_up() {
    for point in ["backup.before_manifest", "restore.kept_aside"] {
        let world = World::new();
        let mut command = world.command(&SMALL);
        let told = ran(command.env("LIFEBOAT_CRASH_AT", point).output().unwrap());
        told.expect(1).says("ended with signal: 9");
        assert_eq!(world.names("tmp"), Vec::<String>::new(), "{point}");
    }
}

#[test]
fn the_page_of_the_demo_shows_what_is_broken_and_leaves_nothing() {
    use std::io::{BufRead as _, BufReader};
    let world = World::new();
    let mut command = world.command(&["demo", "--web"]);
    let mut demo = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines().map(Result::unwrap);
    let link = lines.find(|line| line.contains("http://")).unwrap();
    let (address, secret) = link.trim().split_once("/login?link=").unwrap();
    let mut visitor = Visitor::at(address.strip_prefix("http://").unwrap());
    let entered = visitor.post("/login", &[("link", secret)]).to("/");
    visitor.take_cookie(&entered);
    let shown = visitor.get("/").expect(200).has("1 of 5 sources breaks its promise");
    let shown = shown.has("it was never backed up here").has("lifeboat backup accounts");
    assert!(!shown.body.contains("No agent runs"), "{}", shown.body);
    visitor.get("/runs").expect(200).has("backup-chat");
    // SAFETY: a signal to a child of ours that was not waited for.
    unsafe { libc::kill(demo.id() as i32, libc::SIGTERM) };
    assert_eq!(demo.wait().unwrap().code(), Some(0));
    assert_eq!(world.names("tmp"), Vec::<String>::new());
}
