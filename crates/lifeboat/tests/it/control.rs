//! The agent asked by its socket: what it answers, what it does, who may ask, and that everything
//! works without it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use crate::follow::wait_for;
use crate::support::{Ran, World, mode, ran};

/// An agent, ended with this.
pub(crate) struct Agent(Child);

impl Agent {
    /// Begins one, and waits until it can be asked.
    pub(crate) fn start(world: &World) -> Agent {
        let log = fs::File::create(world.path("agent.log")).unwrap();
        let child = world.command(&["run", "--verbose"]).stderr(log).spawn().unwrap();
        let agent = Agent(child);
        wait_for("an agent that answers", || world.run(&["agent", "status"]).code == 0);
        agent
    }

    /// Kills it.
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Its exit code.
    fn end(mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn configured(world: &World, more: &str) {
    world.configure(&format!(
        "[repository.main]\nurl = \"file://$REPO\"\n\
         [agent]\nwatch = \"yearly\"\n\
         [source.app]\nfiles = [\"$DATA/app.txt\"]\nschedule = \"yearly\"\n{more}"
    ));
    fs::write(world.path("data/app.txt"), "app").unwrap();
}

/// What the agent says of itself; nothing where it has no time to answer.
pub(crate) fn told(world: &World) -> serde_json::Value {
    let ran = world.run(&["agent", "status", "--json"]);
    if ran.code == 0 { ran.json() } else { serde_json::Value::Null }
}

fn status(world: &World) -> serde_json::Value {
    world.run(&["agent", "status", "--json"]).expect(0).json()
}

fn backups(world: &World) -> usize {
    world.names("repo/app").iter().filter(|name| name.ends_with(".files.tar.zst")).count()
}

#[test]
fn a_job_runs_when_it_is_asked_for_and_the_agent_ends_when_it_is_told_to() {
    let world = World::new();
    configured(&world, "");
    world.run(&["agent", "status"]).expect(1).says("no agent runs here");
    let agent = Agent::start(&world);
    assert_eq!(status(&world)["jobs"][0]["last"], serde_json::Value::Null);
    world.run(&["agent", "run", "backup-app"]).expect(0);
    wait_for("a backup", || status(&world)["jobs"][0]["last"]["outcome"] == "done");
    assert_eq!(backups(&world), 1);
    world.run(&["agent", "run", "backup-apq"]).expect(23).says("did you mean `backup-app`?");
    world.run(&["agent", "stop", "backup-app"]).expect(23).says("nothing runs");
    let shown = world.run(&["status"]).expect(0).out;
    assert!(shown.contains("next") && shown.contains("-01-01 "), "{shown}");
    let told = world.run(&["agent", "status"]).expect(0).out;
    assert!(told.contains("backup-app") && told.contains("done"), "{told}");
    world.run(&["agent", "drain"]).expect(0);
    assert_eq!(agent.end(), Some(0));
    world.run(&["agent", "run", "backup-app"]).expect(1).says("no agent runs here");
    assert!(!world.path("state/lifeboat/agent/control.sock").exists());
    let shown = world.run(&["status"]).expect(0).out;
    assert!(!shown.contains("next"), "{shown}");
}

#[test]
fn a_pause_begins_nothing_and_a_wrong_configuration_is_not_taken() {
    let world = World::new();
    configured(&world, "");
    world.run(&["backup", "app"]).expect(0);
    let _agent = Agent::start(&world);
    world.run(&["agent", "pause", "--for", "2h"]).expect(0);
    assert!(status(&world)["paused_until"].is_string());
    world.run(&["status"]).expect(0).says("the agent begins nothing before");
    world.run(&["agent", "pause", "--for", "2d"]).expect(2).says("no longer than a day");
    world.run(&["agent", "resume"]).expect(0);
    assert!(status(&world)["paused_until"].is_null());
    configured(&world, "[source.more]\nfiles = [\"$DATA/app.txt\"]\nschedule = \"yearly\"\n");
    world.run(&["agent", "reload"]).expect(0);
    let names = |status: &serde_json::Value| -> Vec<String> {
        let jobs = status["jobs"].as_array().unwrap();
        jobs.iter().map(|job| job["name"].as_str().unwrap().to_owned()).collect()
    };
    assert!(names(&status(&world)).contains(&"backup-more".to_owned()));
    configured(&world, "[source.more]\nfiels = []\n");
    world.run(&["agent", "reload"]).expect(23).says("the one before holds");
    world.run(&["agent", "status"]).expect(0);
}

#[test]
fn what_a_run_does_is_told_while_it_goes_on_and_it_can_be_stopped() {
    let world = World::new();
    configured(&world, "hooks = { before = \"echo it begins; sleep 60\" }\n");
    let _agent = Agent::start(&world);
    let mut command = world.command(&["agent", "status", "--follow", "--json"]);
    let mut follower = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut states =
        lines.map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap());
    assert_eq!(states.next().unwrap()["runs"].as_array().unwrap().len(), 0);
    world.run(&["agent", "run", "backup-app"]).expect(0);
    let told = |state: &serde_json::Value| {
        let lines = state["runs"][0]["told"]["lines"].as_array();
        lines.into_iter().flatten().any(|line| line["text"] == "it begins")
    };
    assert!(states.any(|state| told(&state)));
    world.run(&["agent", "run", "backup-app"]).expect(23).says("runs already");
    world.run(&["agent", "stop", "backup-app"]).expect(0);
    assert!(states.any(|state| state["runs"].as_array().unwrap().is_empty()));
    follower.kill().unwrap();
    follower.wait().unwrap();
}

#[test]
fn only_its_owner_may_ask_and_nonsense_is_answered() {
    let world = World::new();
    configured(&world, "");
    let agent = Agent::start(&world);
    let socket = world.path("state/lifeboat/agent/control.sock");
    assert_eq!(mode(&socket) & 0o777, 0o600);
    assert_eq!(mode(socket.parent().unwrap()) & 0o777, 0o700);
    for nonsense in ["hello\n", "{}\n", "{\"ask\":\"restart\"}\n", "\n"] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(nonsense.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("refused"), "{nonsense:?}: {answer}");
    }
    // One that a killed agent left is in nobody's way.
    agent.kill();
    assert!(socket.exists());
    world.run(&["agent", "status"]).expect(1).says("no agent runs here");
    let _agent = Agent::start(&world);
    let second: Ran = ran(world.command(&["run"]).output().unwrap());
    second.expect(11);
    world.run(&["agent", "status"]).expect(0);
}

#[test]
fn a_long_path_is_no_obstacle() {
    let world = World::new();
    configured(&world, "");
    let long = world.path(&format!("state/{}", "x".repeat(100)));
    fs::create_dir_all(&long).unwrap();
    let mut command = world.command(&["run"]);
    let mut agent = command.env("XDG_STATE_HOME", &long).stderr(Stdio::null()).spawn().unwrap();
    let asked = |question: &str| {
        let mut command = world.command(&["agent", question]);
        ran(command.env("XDG_STATE_HOME", &long).output().unwrap())
    };
    wait_for("an agent that answers", || asked("status").code == 0);
    asked("drain").expect(0);
    assert_eq!(agent.wait().unwrap().code(), Some(0));
}
