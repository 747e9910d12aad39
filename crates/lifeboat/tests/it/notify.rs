//! Notifications reach real receivers; those that refuse, hang or are not there hold up no run and
//! learn no secret; what was not delivered is told and is not lost.

use std::fs;
use std::path::Path;

use crate::receivers::{HANGS, MailServer, Received, Receiver};
use crate::support::{Ran, World, mode, ran, set_mode, slowly};

const SECRET: &str = "T0PS3CRET";

fn configure(world: &World, notify: &str) {
    world.configure(&format!(
        "host = \"db1\"\n[repository.local]\nurl = \"file://$REPO\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\n{notify}"
    ));
}

fn at(world: &World, clock: &str, arguments: &[&str]) -> Ran {
    ran(world.command(arguments).env("LIFEBOAT_CLOCK_AT", slowly(clock)).output().unwrap())
}

/// What is told by a run that fails, or one that does not.
fn run(world: &World, receiver: &Receiver, clock: &str, is_well: bool) -> Vec<Received> {
    let (database, aside) = (world.path("data/app.db"), world.path("data/aside.db"));
    if !is_well {
        fs::rename(&database, &aside).unwrap();
    }
    at(world, clock, &["backup"]).expect(if is_well { 0 } else { 15 });
    if !is_well {
        fs::rename(&aside, &database).unwrap();
    }
    receiver.take()
}

/// One key of the JSON of each.
fn each(received: &[Received], key: &str) -> Vec<String> {
    let value = |one: &Received| one.json()[key].as_str().unwrap().to_owned();
    received.iter().map(value).collect()
}

#[test]
fn each_way_says_the_same_in_its_own_form() {
    let world = World::new();
    let receiver = Receiver::new(200);
    let token = world.text("token");
    fs::write(&token, format!("{SECRET}\n")).unwrap();
    set_mode(Path::new(&token), 0o600);
    let url = format!("http://{}/x", receiver.address);
    configure(
        &world,
        &format!(
            "[notify.a]\nwebhook = \"{url}\"\ntoken = {{ file = \"{token}\" }}\n\
             [notify.b]\nwebhook = \"{url}\"\nbody = '{{\"t\": \"{{title}}\", \"n\": 1}}'\n\
             [notify.c]\nntfy = \"{url}\"\n[notify.d]\nslack = \"{url}\"\n\
             [notify.e]\ndiscord = \"{url}\"\n[notify.f]\nhealthchecks = \"{url}/\"\n\
             [notify.g]\nuptime_kuma = \"{url}?status=up\"\n"
        ),
    );
    world.run(&["notify", "test"]).expect(0).says("g: told");
    let received = receiver.take();
    let lines: Vec<&str> = received.iter().map(|one| one.line.as_str()).collect();
    assert_eq!(&lines[..5], ["POST /x"; 5]);
    assert_eq!(lines[5], "POST /x/log");
    assert!(lines[6].starts_with("GET /x?status=up&status=up&msg=Lifeboat+on+db1"), "{lines:?}");
    assert!(received[0].headers.contains(&format!("authorization: Bearer {SECRET}\n")));
    assert!(!received[1].headers.contains("authorization"));
    assert_eq!(received[0].json()["kind"], "test");
    assert_eq!(received[1].json()["t"], "Lifeboat on db1: a test");
    assert!(received[2].body.starts_with("Lifeboat on db1: a test\n"));
    assert_eq!(received[3].json()["text"], received[4].json()["content"]);
    world.run(&["notify", "test", "d"]).expect(0);
    assert_eq!(receiver.take().len(), 1);
    world.run(&["notify", "test", "dd"]).expect(2).says("did you mean `d`");
    let shown = world.run(&["config", "show"]).expect(0).out;
    assert!(shown.contains("/***") && !shown.contains("/x\""), "{shown}");
}

#[test]
fn problems_and_recoveries_are_told_once_and_good_runs_are_silent() {
    let world = World::new();
    world.database("app.db", 50);
    let receiver = Receiver::new(200);
    configure(&world, &format!("[notify.ops]\nwebhook = \"http://{}/x\"\n", receiver.address));
    assert_eq!(run(&world, &receiver, "2026-01-01T00:00:00Z", true).len(), 0);
    let told = run(&world, &receiver, "2026-01-01T01:00:00Z", false);
    assert_eq!(told.len(), 1, "{told:?}");
    let problem = told[0].json();
    assert_eq!(problem["kind"], "problem");
    assert_eq!(problem["title"], "backup of app failed on db1");
    assert_eq!(problem["urgent"], false);
    let text = problem["text"].as_str().unwrap();
    for part in ["app.db", "Last time it went well: 2026-01-01T00:00:0", "Repository: file://"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(run(&world, &receiver, "2026-01-01T02:00:00Z", false).len(), 0);
    let again = run(&world, &receiver, "2026-01-02T02:00:00Z", false);
    assert_eq!(again[0].json()["title"], "backup of app still fails on db1");
    assert_eq!((again.len(), &again[0].json()["urgent"]), (1, &true.into()));
    let over = run(&world, &receiver, "2026-01-02T03:00:00Z", true);
    assert_eq!((over.len(), &over[0].json()["kind"]), (1, &"recovery".into()), "{over:?}");
    // A dry run, a mistake of the hand: no news.
    at(&world, "2026-01-02T04:00:00Z", &["backup", "--dry-run"]).expect(0);
    at(&world, "2026-01-02T04:00:00Z", &["backup", "--repo", "ftp://x/y"]).expect(2);
    assert_eq!(receiver.take().len(), 0);
    // What is damaged is told by whoever finds it.
    let path = world.path("repo/app");
    let name = world.names("repo/app").into_iter().rfind(|name| name.ends_with(".db.zst")).unwrap();
    let bytes = fs::read(path.join(&name)).unwrap();
    fs::write(path.join(&name), &bytes[..bytes.len() - 1]).unwrap();
    at(&world, "2026-01-02T05:00:00Z", &["verify"]).expect(20);
    assert_eq!(each(&receiver.take(), "title"), ["verify of app failed on db1"]);
    at(&world, "2026-01-02T06:00:00Z", &["drill"]).expect(20);
    assert_eq!(each(&receiver.take(), "title"), ["drill of app failed on db1"]);
    // The week is summed up.
    let digest = run(&world, &receiver, "2026-01-09T00:00:00Z", true);
    assert_eq!((digest.len(), &digest[0].json()["kind"]), (1, &"digest".into()), "{digest:?}");
    let text = digest[0].json()["text"].as_str().unwrap().to_owned();
    assert!(text.contains("drill of app: FAILS since 2026-01-02T06:00:0"), "{text}");
    assert_eq!(mode(&world.path("state/lifeboat/notify/state.json")), 0o600);
    assert_eq!(mode(&world.path("state/lifeboat/notify")), 0o700);
}

/// Absence is told, by whoever looks at the repository alone.
#[test]
fn a_watcher_tells_that_nothing_came() {
    let world = World::new();
    world.database("app.db", 50);
    let receiver = Receiver::new(200);
    configure(&world, &format!("[notify.ops]\nwebhook = \"http://{}/x\"\n", receiver.address));
    at(&world, "2026-01-01T00:00:00Z", &["backup"]).expect(0);
    let repository = world.text("repo");
    let watch = ["watch", repository.as_str(), "--max-age", "26h"];
    at(&world, "2026-01-02T01:00:00Z", &watch).expect(0);
    // The disk below may be nearly full, which is told as well.
    let told = || -> Vec<String> {
        let titles = each(&receiver.take(), "title").into_iter().map(|title| title.to_string());
        titles.filter(|title| !title.contains("disk")).collect()
    };
    assert_eq!(told().len(), 0);
    for hour in 3..6 {
        at(&world, &format!("2026-01-02T0{hour}:00:00Z"), &watch).expect(21);
    }
    assert_eq!(told(), ["app: stale on db1"]);
    at(&world, "2026-01-02T06:00:00Z", &["backup"]).expect(0);
    at(&world, "2026-01-02T07:00:00Z", &watch).expect(0);
    assert_eq!(told(), ["over: app: stale on db1"]);
}

#[test]
fn what_a_receiver_refuses_waits_is_told_and_comes_later() {
    let world = World::new();
    world.database("app.db", 50);
    let receiver = Receiver::new(503);
    let url = world.text("url");
    fs::write(&url, format!("http://{}/{SECRET}?key={SECRET}\n", receiver.address)).unwrap();
    set_mode(Path::new(&url), 0o600);
    let notify = |timeout: &str| {
        let text = format!("[notify.ops]\nwebhook = {{ file = \"{url}\" }}\n");
        configure(&world, &format!("{text}timeout = \"{timeout}\"\n"));
    };
    notify("30s");
    fs::rename(world.path("data/app.db"), world.path("data/aside.db")).unwrap();
    let failed = at(&world, "2026-01-01T01:00:00Z", &["backup"]).expect(15);
    assert!(failed.err.contains("answered 503"), "{}", failed.err);
    assert!(!failed.err.contains(SECRET), "{}", failed.err);
    fs::rename(world.path("data/aside.db"), world.path("data/app.db")).unwrap();
    // It is not asked again at once; the run is good whatever the receiver does.
    receiver.take();
    receiver.answers(HANGS);
    notify("300ms");
    let held = at(&world, "2026-01-01T01:02:00Z", &["backup"]).expect(0);
    assert!(held.err.contains("did not answer within 0.3 s"), "{}", held.err);
    assert!(!held.err.contains(SECRET), "{}", held.err);
    let status = at(&world, "2026-01-01T01:03:00Z", &["status"]).expect(0);
    assert!(status.err.contains("notifier ops: was not told"), "{}", status.err);
    assert!(status.err.contains("2 messages wait"), "{}", status.err);
    let doctor = at(&world, "2026-01-01T01:03:00Z", &["doctor"]);
    assert!(doctor.out.contains("notify ops: was not told"), "{}", doctor.out);
    let state = fs::read_to_string(world.path("state/lifeboat/notify/state.json")).unwrap();
    assert!(!state.contains(SECRET), "{state}");
    receiver.take();
    receiver.answers(204);
    notify("30s");
    at(&world, "2026-01-01T02:00:00Z", &["backup"]).expect(0);
    assert_eq!(each(&receiver.take(), "kind"), ["problem", "recovery"]);
    let doctor = at(&world, "2026-01-01T02:01:00Z", &["doctor"]);
    assert!(doctor.out.contains("notify ops: was told last at"), "{}", doctor.out);
}

#[test]
fn a_heartbeat_has_start_and_end_of_each_run_with_one_id() {
    let world = World::new();
    world.database("app.db", 50);
    let receiver = Receiver::new(200);
    let url = format!("http://{}/ping/uuid", receiver.address);
    configure(
        &world,
        &format!("[notify.a]\nhealthchecks = \"{url}\"\n[notify.b]\nuptime_kuma = \"{url}\"\n"),
    );
    let id = |line: &str| line.rsplit_once("rid=").unwrap().1.to_owned();
    let good = run(&world, &receiver, "2026-01-01T00:00:00Z", true);
    assert_eq!(good.len(), 3, "{good:?}");
    assert!(good[0].line.starts_with("POST /ping/uuid/start?rid="));
    assert!(good[1].line.starts_with("POST /ping/uuid?rid="), "{good:?}");
    assert!(good[2].line.starts_with("GET /ping/uuid?status=up&msg="), "{good:?}");
    assert_eq!(id(&good[0].line), id(&good[1].line));
    let bad = run(&world, &receiver, "2026-01-01T01:00:00Z", false);
    assert!(bad[1].line.starts_with("POST /ping/uuid/fail?rid="), "{bad:?}");
    assert!(bad[1].body.contains("app.db"), "{bad:?}");
    assert!(bad[2].line.starts_with("GET /ping/uuid?status=down&msg="), "{bad:?}");
    assert_ne!(id(&bad[0].line), id(&good[0].line));
    // Other commands are not its matter, and a run that a person mistyped is no success.
    at(&world, "2026-01-01T02:00:00Z", &["verify"]).expect(0);
    assert_eq!(receiver.take().len(), 0);
    // An end that is not heard would be an alarm: it is told again.
    configure(&world, &format!("[notify.a]\nhealthchecks = \"{url}\"\n"));
    receiver.answers(503);
    let mut command = world.command(&["backup"]);
    let backup = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut told = Vec::new();
    crate::follow::wait_for("the end to be refused", || {
        told.extend(receiver.take());
        told.len() >= 2
    });
    receiver.answers(200);
    let backup = ran(backup.wait_with_output().unwrap()).expect(0);
    told.extend(receiver.take());
    let ends: Vec<&str> =
        told.iter().map(|one| &*one.line).filter(|line| line.contains("uuid?rid=")).collect();
    assert!(ends.len() >= 2 && ends.iter().all(|end| id(end) == id(ends[0])), "{told:?}");
    assert_eq!(backup.err.matches("was not told").count(), 1, "the start alone: {}", backup.err);
    let status = world.run(&["status"]).expect(0);
    assert!(!status.err.contains("was not told"), "{}", status.err);
}

#[test]
fn mail_comes_by_tls_and_the_password_stays_where_it_is() {
    let world = World::new();
    world.database("app.db", 50);
    let password = world.text("password");
    fs::write(&password, format!("{SECRET}\n")).unwrap();
    set_mode(Path::new(&password), 0o600);
    let ca = world.text("ca.pem");
    let mail = |port: u16, tls: &str, more: &str| {
        format!(
            "[notify.mail]\n{more}email = {{ host = \"localhost\", port = {port}, tls = \"{tls}\", \
             user = \"ann\", password = {{ file = \"{password}\" }}, \
             from = \"Lifeboat <lifeboat@example.org>\", to = [\"ops@example.org\", \"b@c.de\"] }}\n"
        )
    };
    let trust = format!("ca_certificate = \"{ca}\"\n");
    for mode in ["starttls", "implicit"] {
        let Some(mut server) = MailServer::new(&world, mode, "ann", SECRET) else { return };
        configure(&world, &mail(server.port, mode, &trust));
        world.run(&["notify", "test"]).expect(0);
        let taken = server.next();
        assert_eq!((&taken["tls"], &taken["user"]), (&true.into(), &"ann".into()), "{taken}");
        assert_eq!(taken["from"], "lifeboat@example.org");
        assert_eq!(taken["to"], serde_json::json!(["ops@example.org", "b@c.de"]));
        let text = taken["text"].as_str().unwrap();
        assert!(text.contains("Subject: Lifeboat on db1: a test"), "{text}");
        // A server that nobody vouches for is told nothing.
        configure(&world, &mail(server.port, mode, ""));
        let foreign = world.run(&["notify", "test"]).expect(13);
        assert!(!foreign.err.contains(SECRET), "{}", foreign.err);
    }
    // A wrong password; the server repeats it.
    let Some(server) = MailServer::new(&world, "starttls", "ann", "another") else { return };
    configure(&world, &mail(server.port, "starttls", &trust));
    let refused = world.run(&["notify", "test"]).expect(13).says("535");
    assert!(refused.err.contains("***") && !refused.err.contains(SECRET), "{}", refused.err);
    // A server that offers no TLS gets no password in the clear.
    let Some(server) = MailServer::new(&world, "none", "", "") else { return };
    configure(&world, &mail(server.port, "starttls", &trust));
    world.run(&["notify", "test"]).expect(13).says("localhost does not take the mail");
    // One that takes the connection and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    configure(&world, &mail(port, "starttls", &format!("{trust}timeout = \"300ms\"\n")));
    world.run(&["notify", "test"]).expect(13);
}

#[test]
fn mistakes_are_pointed_at_and_show_no_secret() {
    let world = World::new();
    for (notify, says) in [
        ("[notify.a]\non = [\"problem\"]\n", "says by what way"),
        ("[notify.a]\nslack = \"https://x.y\"\nntfy = \"https://x.y\"\n", "says by what way"),
        ("[notify.a]\nslack = \"hooks.slack.com\"\n", "a URL begins with https://"),
        ("[notify.a]\nslack = { file = \"/a\", env = \"B\" }\n", "one of `file`"),
        ("[notify.a]\nslack = \"https://x.y\"\ncommands = [\"backupp\"]\n", "`backup`"),
        ("[notify.a]\nslack = \"https://x.y\"\nbody = \"x\"\n", "belongs to `webhook`"),
        ("[notify.a]\nslak = \"https://x.y\"\n", "slack"),
        (
            "[notify.a]\nemail = { host = \"a.b\", tls = \"none\", from = \"a@b.c\", \
             to = [\"a@b.c\"] }\n",
            "without TLS",
        ),
        (
            "[notify.a]\nemail = { host = \"a.b\", from = \"nobody\", to = [\"a@b.c\"] }\n",
            "no address of mail",
        ),
    ] {
        configure(&world, notify);
        world.run(&["config", "check"]).expect(2).says(says);
    }
    configure(&world, &format!("[notify.a]\nwebhook = \"http://example.org/{SECRET}\"\n"));
    let clear = world.run(&["notify", "test"]).expect(2).says("not encrypted");
    assert!(!clear.err.contains(SECRET), "{}", clear.err);
    configure(&world, "");
    world.run(&["notify", "test"]).expect(2).says("no notifier");
}
