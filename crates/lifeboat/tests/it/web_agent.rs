//! The page that the agent shows: runs as they go on, a restore step by step that nobody need
//! watch, and a page that comes again after a fault.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::browser::{Visitor, parsed, send};
use crate::control::{Agent, told};
use crate::follow::wait_for;
use crate::support::{World, content, rows};

/// An agent with a page, and one database.
pub(crate) fn configured(world: &World, more: &str) {
    world.configure(&format!(
        "[repository.main]\nurl = \"file://$REPO\"\n[agent]\nlisten = \"127.0.0.1:0\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nschedule = \"yearly\"\n{more}"
    ));
}

/// Somebody who has entered the page of the agent.
pub(crate) fn enter(world: &World) -> Visitor {
    let address = world.path("state/lifeboat/web/address");
    wait_for("a page", || address.exists());
    Visitor::enter(world, &[])
}

#[test]
fn a_run_is_seen_while_it_goes_on() {
    let world = World::new();
    world.database("app.db", 50);
    configured(&world, "hooks = { before = \"echo '<b>it begins'; sleep 60\" }\n");
    let _agent = Agent::start(&world);
    let ann = enter(&world);
    ann.get("/runs").expect(200).has("Nothing runs now").has("data-live=\"runs\"").has("Run now");
    let request = ann.text("GET /live/events?name=runs&name=run%3Abackup-app", "", "");
    let stream = send(&ann.address, &request);
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    assert!(lines.any(|line| line == "content-type: text/event-stream"));
    assert!(lines.any(|line| line.contains("Nothing runs now")));
    let begun = ann.post("/runs/begin", &[("job", "backup-app")]).to("/runs/backup-app");
    assert!(begun.body.is_empty());
    // What it says is text, and never markup.
    assert!(lines.any(|line| line.starts_with("data: ") && line.contains("&lt;b&gt;it begins")));
    ann.get("/runs/backup-app").expect(200).has("&lt;b&gt;it begins").has("http-equiv=\"refresh\"");
    ann.get("/").expect(200);
    ann.post("/runs/stop", &[("run", "backup-app")]).to("/runs/backup-app");
    assert!(lines.any(|line| line == "event: ended"));
    ann.get("/runs/backup-app").expect(200).has("failed");
    ann.get("/runs/nothing").expect(404);
}

#[test]
fn a_restore_needs_no_open_page_and_is_found_again() {
    let world = World::new();
    let database = world.database("app.db", 500);
    configured(&world, "files = [\"$DATA/note\"]\n");
    fs::write(world.path("data/note"), "note").unwrap();
    world.run(&["backup", "app"]).expect(0);
    let before = content(&database);
    let agent = Agent::start(&world);
    let ann = enter(&world);
    ann.get("/restore").expect(200).has("<option>app</option>");
    let form = ann.get("/restore?source=app").expect(200).has("Where it was, in place of");
    let place = form.value("id=\"to\" name=\"to\" value=\"");
    assert!(place.starts_with(&world.text("state/lifeboat/restores/app-")), "{place}");
    let fields = [("source", "app"), ("place", "new"), ("to", place.as_str())];
    let plan = ann.post("/restore/plan", &fields).expect(200).has("plan for app");
    let plan = plan.has(&place).has("type the name").has("Nothing is stopped");
    assert!(!plan.body.contains("This replaces"), "{}", plan.body);
    assert!(!Path::new(&place).exists());
    // The browser is gone before the answer comes.
    let origin = format!("Origin: http://{}\r\n", ann.address);
    let key = plan.value("name=\"key\" value=\"");
    let typed = [("key", key.as_str()), ("name", "app")];
    let body = crate::browser::encoded(&[&typed, &fields[..]].concat());
    let head = format!("{origin}Content-Type: application/x-www-form-urlencoded\r\n");
    let browser = send(&ann.address, &ann.text("POST /restore/begin", &head, &body));
    let audit = world.path("state/lifeboat/web/audit.log");
    let is_noted = || fs::read_to_string(&audit).unwrap().contains("\"action\":\"restore\"");
    wait_for("a restore that is noted", is_noted);
    drop(browser);
    let mut run = String::new();
    wait_for("a restore that has ended", || {
        let state = told(&world);
        let ended = state["runs"][0]["ended"]["outcome"].as_str().map(str::to_owned);
        run = state["runs"][0]["id"].as_str().unwrap_or_default().to_owned();
        assert!(ended.as_deref().is_none_or(|ended| ended == "done"), "{state}");
        ended.is_some()
    });
    assert_eq!(content(Path::new(&place)), before);
    let shown = ann.get(&format!("/runs/{run}")).expect(200).has("done").has(&place);
    assert!(shown.body.contains("by root of this host") || !crate::support::is_root());
    // And after a restart of everything.
    agent.kill();
    let _ = fs::remove_file(world.path("state/lifeboat/web/address"));
    let _agent = Agent::start(&world);
    let ann = enter(&world);
    ann.get("/runs").expect(200).has(&run);
    ann.get(&format!("/runs/{run}")).expect(200).has("done").has(&place);
}

#[test]
fn a_restore_needs_the_typed_name() {
    let world = World::new();
    let database = world.database("app.db", 100);
    configured(&world, "");
    world.run(&["backup", "app"]).expect(0);
    let listed = world.run(&["list", "--json"]).expect(0).json();
    let backup = listed[0]["name"].as_str().unwrap().to_owned();
    let before = content(&database);
    let connection = rusqlite::Connection::open(&database).unwrap();
    connection.execute("DELETE FROM message", []).unwrap();
    connection.close().unwrap();
    let _agent = Agent::start(&world);
    let ann = enter(&world);
    // The newest state has the loss in it, as the agent follows the database; and so has a backup
    // from which a log of it begins anew.
    ann.get("/restore?source=app").expect(200).has(&format!("<option value=\"{backup}\""));
    let own = [("source", "app"), ("place", "own"), ("backup", backup.as_str())];
    let plan = ann.post("/restore/plan", &own).expect(200).has("type the name of the source");
    let plan = plan.has("This replaces what is there").has("No <code>service</code> is configured");
    let kept = plan.value("name=\"backup\" value=\"");
    assert_eq!(kept, backup);
    let (taken, free) = (world.text("data/app.db"), world.text("data/free.db"));
    let other = [("source", "app"), ("place", "new"), ("to", taken.as_str())];
    let new = [("source", "app"), ("place", "new"), ("to", free.as_str())];
    for wrong in [&own[..], &other[..], &new[..]] {
        for name in ["", "apq", "yes"] {
            let refused = ann.post("/restore/begin", &[wrong, &[("name", name)]].concat());
            refused.expect(403).has("is not that of the source");
        }
    }
    let wrong = [("to", "relative"), ("to", ""), ("to", "postgresql://u:s3cret@h/d")];
    let others = [("scope", "all"), ("backup", "other"), ("when", "at"), ("when", "never")];
    for (name, value) in wrong.into_iter().chain(others) {
        let fields = [("source", "app"), ("place", "new"), ("to", "/x/y"), (name, value)];
        let answer = ann.post("/restore/plan", &fields);
        assert!(matches!(answer.status, 400 | 404), "{name}: {answer:?}");
    }
    // An option in disguise is a moment that cannot be read.
    let disguised = [("source", "app"), ("place", "new"), ("to", "/x/y"), ("at", "--all")];
    ann.post("/restore/plan", &disguised).expect(403).has("--all");
    assert_eq!(rows(&database), 0);
    ann.post("/restore/begin", &[&own[..], &[("name", "app")]].concat());
    wait_for("the rows", || {
        let state = told(&world);
        let ended = state["runs"][0]["ended"]["outcome"].as_str();
        let said = || ann.get("/runs").body;
        assert!(ended.is_none_or(|ended| ended == "done"), "{state}\n{}", said());
        ended.is_some()
    });
    assert_eq!(content(&database), before);
    let run = ann.get("/runs").value("href=\"/runs/restore-");
    ann.get(&format!("/runs/restore-{run}")).expect(200).has("lifeboat undo");
    let log = fs::read_to_string(world.path("state/lifeboat/web/audit.log")).unwrap();
    let deed = format!("\"action\":\"restore\",\"detail\":\"app of {backup} to its own place\"");
    assert!(log.contains(&deed), "{log}");
    assert!(!log.contains("s3cret"), "{log}");
}

#[test]
fn a_page_that_died_comes_again_and_who_had_entered_still_has() {
    let world = World::new();
    world.database("app.db", 5);
    configured(&world, "");
    let _agent = Agent::start(&world);
    let mut ann = enter(&world);
    let address = world.path("state/lifeboat/web/address");
    let before = fs::read_to_string(&address).unwrap();
    // A new configuration begins the page anew, at another port of these.
    world.run(&["agent", "reload"]).expect(0);
    wait_for("another page", || fs::read_to_string(&address).is_ok_and(|now| now != before));
    let now = fs::read_to_string(&address).unwrap();
    ann.address = now.trim_start_matches("http://").trim_end_matches('/').to_owned();
    ann.get("/").expect(200);
}

#[test]
fn beyond_this_host_it_is_by_tls_alone() {
    let world = World::new();
    world.database("app.db", 5);
    let (certificate, key) = (world.text("data/web.crt"), world.text("data/web.key"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-subj", "/CN=backup.example.org", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-keyout", &key, "-out", &certificate])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    world.configure(&format!(
        "[repository.main]\nurl = \"file://$REPO\"\n[agent]\nlisten = \"0.0.0.0:0\"\n\
         tls = {{ certificate = \"{certificate}\", key = \"{key}\" }}\n\
         names = [\"backup.example.org\"]\n[source.app]\nsqlite = \"$DATA/app.db\"\n"
    ));
    let token = world.run(&["web", "token", "bot"]).expect(0).out;
    let mut command = world.command(&["web", "serve"]);
    let mut page = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(page.stderr.take().unwrap()).lines().map(Result::unwrap);
    let port = lines.find_map(|line| Some(line.split_once("https://0.0.0.0:")?.1.to_owned()));
    let address = format!("127.0.0.1:{}", port.unwrap().trim_end_matches('/'));
    let ask = |head: &str, body: &str| {
        let mut client = Command::new("openssl")
            .args(["s_client", "-quiet", "-verify_return_error", "-CAfile", &certificate])
            .args(["-connect", &address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let length = body.len();
        let more = format!("Connection: close\r\nContent-Length: {length}\r\n\r\n{body}");
        let request = format!("{head}{more}");
        client.stdin.as_mut().unwrap().write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        client.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        let _ = client.kill();
        client.wait().unwrap();
        parsed(&text)
    };
    let own = "Host: backup.example.org\r\n";
    let entering = ask(&format!("GET / HTTP/1.1\r\n{own}"), "").to("/login");
    assert!(entering.header("strict-transport-security").is_some());
    // There is more than this host here: programs show their token, too.
    ask(&format!("GET /metrics HTTP/1.1\r\n{own}"), "").expect(401);
    let shown = format!("{own}Authorization: Bearer {}\r\n", token.trim());
    let metrics = ask(&format!("GET /metrics HTTP/1.1\r\n{shown}"), "");
    metrics.expect(200).has("lifeboat_build_info");
    ask("GET /healthz HTTP/1.1\r\nHost: other.example.org\r\n", "").expect(421);
    // A cookie of this page goes by nothing but TLS.
    let link = world.run(&["web", "open"]).expect(0).out;
    let form = format!("link={}", link.trim().split_once("link=").unwrap().1);
    let head = format!(
        "POST /login HTTP/1.1\r\n{own}Origin: https://backup.example.org\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n"
    );
    let entered = ask(&head, &form).to("/");
    let cookie = entered.header("set-cookie").unwrap();
    assert!(cookie.starts_with("__Host-lifeboat=") && cookie.ends_with("; Secure"), "{cookie}");
    // Without it there is no answer at all.
    let mut plain = send(&address, &format!("GET / HTTP/1.1\r\n{own}\r\n"));
    let mut bytes = Vec::new();
    let _ = plain.read_to_end(&mut bytes);
    assert!(!bytes.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&bytes));
    page.kill().unwrap();
    page.wait().unwrap();
}
