//! What the page shows of runs that have ended, also of those of an agent that was killed; and
//! rows that go back into a live database from the restore assistant.

use std::fs;

use rusqlite::Connection;

use crate::control::{Agent, told};
use crate::follow::wait_for;
use crate::support::{World, is_root};
use crate::web_agent::{configured, enter};

/// Waits until the last run of `backup-app` has ended in that way, and a file that only it made is
/// there.
fn wait_for_backup(world: &World, outcome: &str, mark: &str) {
    wait_for("a run that has ended", || {
        let state = told(world);
        let mut jobs = state["jobs"].as_array().into_iter().flatten();
        let Some(job) = jobs.find(|job| job["name"] == "backup-app") else { return false };
        world.path(mark).exists() && job["is_running"] == false && job["last"]["outcome"] == outcome
    });
}

#[test]
fn what_runs_said_is_there_after_they_ended_and_after_the_agent_was_killed() {
    let world = World::new();
    world.database("app.db", 5);
    let hook = |words: &str, mark: &str| {
        let mark = world.path(mark);
        format!("hooks = {{ before = \"{words}; touch {}\" }}\n", mark.display())
    };
    configured(&world, &hook("echo '<i>to postgresql://u:s3cret@h/d'; exit 3", "none"));
    let agent = Agent::start(&world);
    let ann = enter(&world);
    ann.post("/runs/begin", &[("job", "backup-app")]).to("/runs/backup-app");
    wait_for("a run that has failed", || ann.get("/runs/backup-app").body.contains("failed"));
    configured(&world, &hook("echo all is well", "well"));
    world.run(&["agent", "reload"]).expect(0);
    // The first one may be tried again by itself meanwhile: then it is that one which is done.
    let _ = world.run(&["agent", "run", "backup-app"]);
    wait_for_backup(&world, "done", "well");
    agent.kill();
    let _ = fs::remove_file(world.path("state/lifeboat/web/address"));
    let _agent = Agent::start(&world);
    let ann = enter(&world);
    let page = ann.get("/runs/backup-app").expect(200).has("all is well").has("Runs before it");
    let page = page.has("&lt;i&gt;to postgresql://u:***@h/d");
    assert!(!page.body.contains("s3cret"), "{}", page.body);
    for entry in fs::read_dir(world.path("state/lifeboat/agent/said")).unwrap() {
        let kept = fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(!kept.contains("s3cret"), "{kept}");
    }
}

#[test]
fn rows_go_back_from_the_assistant_while_the_application_goes_on() {
    let world = World::new();
    let database = world.database("app.db", 100);
    configured(&world, "");
    let application = Connection::open(&database).unwrap();
    application
        .execute_batch(
            "CREATE TABLE log(line); CREATE TRIGGER logged AFTER INSERT ON message BEGIN
             INSERT INTO log VALUES('m' || new.rowid); END;",
        )
        .unwrap();
    world.run(&["backup", "app"]).expect(0);
    let listed = world.run(&["list", "--json"]).expect(0).json();
    let backup = listed[0]["name"].as_str().unwrap().to_owned();
    application.execute("DELETE FROM message WHERE rowid BETWEEN 10 AND 39", []).unwrap();
    let count = |sql: &str| application.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let _agent = Agent::start(&world);
    let ann = enter(&world);
    let form = ann.get("/restore?source=app").expect(200).has("Rows of a table that it lacks now");
    form.has("<option value=\"message\">");
    let wanted = [
        ("source", "app"),
        ("when", "backup"),
        ("backup", backup.as_str()),
        ("scope", "rows"),
        ("table", "message"),
        ("where", "rowid < 30"),
    ];
    let plan = ann.post("/restore/plan", &wanted).expect(200);
    let plan = plan.has("message: 20 rows are missing").has("Nothing is stopped");
    let plan = plan.has("id=\"triggers\"").has("type the name of the source");
    assert_eq!(plan.value("name=\"where\" value=\""), "rowid &lt; 30");
    for (name, value, code) in [
        ("table", "", 400),
        ("table", "nothing", 403),
        ("where", "no such (", 403),
        ("triggers", "some", 400),
        ("backup", "other", 404),
    ] {
        let fields: Vec<(&str, &str)> =
            wanted.iter().filter(|(known, _)| *known != name).copied().collect();
        let answer = ann.post("/restore/plan", &[&fields[..], &[(name, value)]].concat());
        assert_eq!(answer.status, code, "{name}: {answer:?}");
    }
    let typed = |name| [&wanted[..], &[("triggers", "skip"), ("name", name)]].concat();
    ann.post("/restore/begin", &typed("message")).expect(403).has("is not that of the source");
    assert_eq!(count("SELECT count(*) FROM message"), 70);
    ann.post("/restore/begin", &typed("app"));
    wait_for("the rows", || {
        let state = told(&world);
        let ended = &state["runs"][0]["ended"]["outcome"];
        assert!(ended.is_null() || ended == "done", "{state}");
        ended == "done"
    });
    assert_eq!(count("SELECT count(*) FROM message"), 90);
    assert_eq!(count("SELECT count(*) FROM log"), 0, "no trigger ran");
    let run = ann.get("/runs").value("href=\"/runs/restore-");
    let shown = ann.get(&format!("/runs/restore-{run}")).expect(200);
    shown.has("20 put in").has("before_restore").has("lifeboat undo");
    let log = fs::read_to_string(world.path("state/lifeboat/web/audit.log")).unwrap();
    assert!(log.contains(&format!("rows of message where rowid < 30 of app of {backup}")), "{log}");
    assert!(log.contains("root") || !is_root());
}
