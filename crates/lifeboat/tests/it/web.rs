//! The web page, asked over real connections: what it shows, to whom, and what it refuses.

use std::os::unix::process::ExitStatusExt as _;

use crate::browser::{Page, Visitor};
use crate::follow::wait_for;
use crate::support::{World, mode, ran};

pub(crate) fn configured(world: &World) {
    world.database("app.db", 50);
    world.configure(
        "[repository.main]\nurl = \"file://$REPO\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nrpo = \"1h\"\n\
         [source.\"<script>alert(1)<!--\"]\nfiles = [\"$DATA/gone\"]\nrpo = \"1h\"\n",
    );
}

/// What the audit log has: who, what and how.
fn audited(world: &World) -> Vec<String> {
    let path = world.path("state/lifeboat/web/audit.log");
    assert_eq!(mode(&path) & 0o777, 0o600);
    let text = std::fs::read_to_string(path).unwrap();
    let line = |line: &str| {
        let deed: serde_json::Value = serde_json::from_str(line).unwrap();
        let part = |name: &str| deed[name].as_str().unwrap_or("nobody").to_owned();
        format!("{}: {} {}: {}", part("who"), part("action"), part("detail"), part("outcome"))
    };
    text.lines().map(line).collect()
}

#[test]
fn the_overview_says_what_can_be_restored_and_what_cannot() {
    let world = World::new();
    configured(&world);
    let page = Page::start(&world);
    let ann = Visitor::enter(&world, &[]);
    ann.get("/").expect(200).has("2 of 2 sources break their promise").has("No agent runs");
    world.run(&["backup", "app"]).expect(0);
    // On a busy host who has a look is shown that, until the next one has been taken.
    wait_for("a page that knows of the backup", || {
        ann.get("/").body.contains("1 of 2 sources breaks its promise")
    });
    let shown = ann.get("/").expect(200);
    let shown = shown.has("lifeboat backup '&lt;script&gt;alert(1)&lt;!--'");
    assert!(!shown.body.contains("<script>alert"), "{}", shown.body);
    let status: serde_json::Value =
        serde_json::from_str(&ann.get("/api/status").expect(200).body).unwrap();
    let rows = status["sources"].as_array().unwrap();
    let states: Vec<_> = rows.iter().map(|row| row["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["never", "fresh"]);
    let printed = world.run(&["status", "--format", "prometheus"]).expect(0).out;
    let names = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    };
    wait_for("metrics as they are printed", || {
        names(&page.request("GET /metrics", "").expect(200).body) == names(&printed)
    });
    page.request("GET /healthz", "").expect(200).has("ok");
}

#[test]
fn no_page_may_run_what_is_not_its_own() {
    let world = World::new();
    configured(&world);
    world.run(&["backup", "app"]).expect(0);
    let _page = Page::start(&world);
    let ann = Visitor::enter(&world, &[]);
    let hostile = "/restore?source=%3Cscript%3Ealert(1)%3C!--&at=%22%3E%3Cscript%3Ealert(2)";
    let paths = ["/", "/restore", "/restore?source=app", hostile, "/style.css", "/live.js", "/no"];
    for path in paths {
        let answer = ann.get(path);
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        // What a policy forbids must not be needed, and nothing comes from elsewhere.
        for forbidden in ["style=\"", "onclick", "<script>", "http://", "https://", "javascript:"] {
            assert!(!answer.body.contains(forbidden), "{path}: {forbidden}\n{}", answer.body);
        }
    }
}

#[test]
fn nobody_sees_anything_without_entering() {
    let world = World::new();
    configured(&world);
    let page = Page::start(&world);
    page.request("GET /", "").to("/login");
    page.request("GET /restore", "").to("/login?next=/restore");
    page.request("GET /nothing%22%3E", "").to("/login");
    for path in ["/api/status", "/live/events?name=runs"] {
        let answer = page.request(&format!("GET {path}"), "");
        assert!(matches!(answer.status, 303 | 401), "{path}: {answer:?}");
        assert!(!answer.body.contains("app"));
    }
    let wrong = "Authorization: Bearer app.0000\r\n";
    page.request("GET /api/status", wrong).expect(401);
    page.request("GET /", "Cookie: lifeboat=0000\r\n").to("/login");
    let nobody = Visitor::at(&page.address);
    nobody.post("/restore/begin", &[("source", "app")]).to("/login?next=/restore/begin");
    nobody.post("/runs/begin", &[("job", "prune")]).to("/login?next=/runs/begin");
    assert!(world.names("repo").is_empty());
}

#[test]
fn a_name_that_a_stranger_gave_to_our_address_is_refused() {
    let world = World::new();
    configured(&world);
    let page = Page::start(&world);
    page.request("GET /", "Host: evil.example\r\n").expect(421).has("this name is not one");
    page.request("GET /metrics", "Host: evil.example:6464\r\n").expect(421);
    page.request("GET /", "Host: localhost\r\nHost: evil.example\r\n").expect(421);
    page.request("GET /healthz", "Host: localhost:1\r\n").expect(200);
}

#[test]
fn a_form_of_another_page_does_nothing() {
    let world = World::new();
    configured(&world);
    let page = Page::start(&world);
    let ann = Visitor::enter(&world, &[]);
    let own = format!("Origin: http://{}\r\n", page.address);
    let fields = [("job", "prune")];
    for origin in ["", "Origin: null\r\n", "Origin: http://evil.example\r\n"] {
        let refused = ann.post_from("/runs/begin", origin, "", &fields).expect(403);
        refused.has("this was not sent by a page of ours");
    }
    let refused = ann.post_from("/runs/begin", &own, "guessed", &fields).expect(403);
    refused.has("this form is not of your session");
    // One of another session is not of this one.
    let bob = Visitor::enter(&world, &[]);
    let stolen = bob.get("/").value("name=\"key\" value=\"");
    ann.post_from("/runs/begin", &own, &stolen, &fields).expect(403);
    // Nobody can have anybody enter as somebody else, either.
    ann.post_from("/login", "Origin: http://evil.example\r\n", "", &[("link", "x")]).expect(403);
    // The right one gets as far as the agent, which does not run.
    ann.post("/runs/begin", &fields).expect(500).has("no agent runs");
}

#[test]
fn a_session_begins_with_an_id_of_ours_and_a_link_is_used_once() {
    let world = World::new();
    configured(&world);
    let page = Page::start(&world);
    let link = world.run(&["web", "open"]).expect(0).out;
    let secret = link.trim().split_once("link=").unwrap().1.to_owned();
    let mut fixed = Visitor::at(&page.address);
    fixed.cookie = Some("lifeboat=0123456789abcdef".to_owned());
    let entered = fixed.post("/login", &[("link", &secret)]).to("/");
    let cookie = entered.header("set-cookie").unwrap().to_owned();
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{cookie}");
    assert!(!cookie.contains("0123456789abcdef"));
    fixed.get("/").to("/login");
    fixed.post("/login", &[("link", &secret)]).expect(403).has("used already");
    fixed.take_cookie(&entered);
    fixed.get("/").expect(200);
    // No file tells how to enter.
    let session = cookie.split(';').next().unwrap().split_once('=').unwrap().1;
    for name in ["sessions.json", "audit.log"] {
        let path = world.path(&format!("state/lifeboat/web/{name}"));
        assert_eq!(mode(&path) & 0o777, 0o600);
        let text = std::fs::read_to_string(path).unwrap();
        assert!(!text.contains(session) && !text.contains(&secret));
    }
    // To enter again ends what was before, and who leaves is out.
    let before = fixed.clone();
    let again = world.run(&["web", "open"]).expect(0).out;
    let again = again.trim().split_once("link=").unwrap().1.to_owned();
    let entered = fixed.post("/login", &[("link", &again)]).to("/");
    fixed.take_cookie(&entered);
    before.get("/").to("/login");
    fixed.post("/logout", &[]).to("/login");
    fixed.get("/").to("/login");
}

#[test]
fn a_password_enters_and_who_guesses_waits() {
    let world = World::new();
    configured(&world);
    let password = |name: &str, more: &[&str], text: &str| {
        let mut command = world.command(&[&["web", "password", name], more].concat());
        command.stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        use std::io::Write as _;
        child.stdin.take().unwrap().write_all(format!("{text}\n").as_bytes()).unwrap();
        crate::support::ran(child.wait_with_output().unwrap())
    };
    password("ann", &[], "short").expect(2).says("10 characters or more");
    password("ann", &[], "correct horse battery").expect(0);
    password("bob", &["--read-only"], "staple staple staple").expect(0);
    let access = world.path("state/lifeboat/web/access.json");
    assert_eq!(mode(&access) & 0o777, 0o600);
    let kept = std::fs::read_to_string(&access).unwrap();
    assert!(kept.contains("$argon2id$") && !kept.contains("horse"), "{kept}");
    let page = Page::start(&world);
    let enter = |name: &str, password: &str| {
        let fields = [("name", name), ("password", password), ("next", "//evil.example")];
        Visitor::at(&page.address).post("/login", &fields)
    };
    let mut bob = Visitor::at(&page.address);
    bob.take_cookie(&enter("bob", "staple staple staple").to("/"));
    bob.get("/").expect(200).has("You are bob").has("who may look only");
    let fields = [("job", "prune"), ("run", "prune"), ("source", "app"), ("place", "own")];
    for path in ["/runs/begin", "/runs/stop", "/restore/plan", "/restore/begin"] {
        bob.post(path, &fields).expect(403).has("you may look, and nothing else");
    }
    for (name, password) in
        [("ann", "wrong"), ("ann", ""), ("eve", "correct horse battery"), ("", ""), ("ann", "x")]
    {
        enter(name, password).expect(403).has("do not belong together");
    }
    let refused = enter("ann", "correct horse battery").expect(429).has("too many tries");
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() > 800);
    // Who has entered is not kept out by who guesses, nor is the user of the host, but who was
    // forgotten is.
    bob.get("/").expect(200);
    Visitor::enter(&world, &[]);
    world.run(&["web", "forget", "bob"]).expect(0);
    bob.get("/").to("/login");
    let log = audited(&world);
    for deed in [
        "root of this host: password ann: done",
        "bob: enter : done",
        "bob: run prune: refused: only looks",
        "bob: stop prune: refused: only looks",
        "bob: plan a restore app of newest to its own place: refused: only looks",
        "bob: restore app of newest to its own place: refused: only looks",
        "nobody: enter eve: refused",
        "nobody: enter : too many tries",
        "root of this host: forget bob: done",
    ] {
        let deed = match crate::support::is_root() {
            true => deed.to_owned(),
            false => {
                deed.replace("root of", &format!("user {} of", rustix::process::getuid().as_raw()))
            }
        };
        assert!(log.contains(&deed), "{deed:?} is not in {log:#?}");
    }
    assert!(!log.join("\n").contains("battery"));
}

#[test]
fn a_program_enters_by_its_token() {
    let world = World::new();
    configured(&world);
    let token = world.run(&["web", "token", "prometheus", "--read-only"]).expect(0).out;
    let token = token.trim();
    let page = Page::start(&world);
    let ask = |first: &str, token: &str| {
        page.request(first, &format!("Authorization: Bearer {token}\r\n"))
    };
    for _ in 0..3 {
        ask("GET /api/status", token).expect(200).has("\"sources\"");
    }
    ask("GET /api/status", &format!("{token}0")).expect(401);
    ask("GET /api/status", &token.replace("prometheus", "ann")).expect(401);
    ask("POST /runs/begin", token).expect(415);
    let change = |token: &str| {
        let kind = "Content-Type: application/x-www-form-urlencoded\r\n";
        let head = format!("{kind}Authorization: Bearer {token}\r\n");
        Visitor::at(&page.address).request("POST /runs/begin", &head, "job=prune")
    };
    change(token).expect(403).has("you may look, and nothing else");
    // One that may do more gets as far as the agent, which does not run.
    let other = world.run(&["web", "token", "deploy"]).expect(0).out;
    change(other.trim()).expect(500).has("no agent runs");
    world.run(&["web", "forget", "deploy"]).expect(0);
    let people = world.run(&["web", "people"]).expect(0).out;
    assert_eq!(people, "prometheus: by a token, looks\n");
    world.run(&["web", "forget", "prometheus"]).expect(0);
    ask("GET /api/status", token).expect(401);
}

#[test]
fn what_is_no_page_is_none() {
    let world = World::new();
    configured(&world);
    let page = Page::start(&world);
    let ann = Visitor::enter(&world, &[]);
    for path in ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/style.css/../../x", "/.env"] {
        ann.get(path).expect(404);
    }
    for source in ["..%2F..%2Fetc%2Fpasswd", "nothing"] {
        ann.get(&format!("/restore?source={source}")).expect(404);
    }
    ann.post("/style.css", &[]).expect(405);
    ann.request("GET /", "X: y\r\n", &"x".repeat(1 << 20)).expect(200);
    drop(page);
    let world = World::new();
    world.run(&["web", "serve", "--listen", "0.0.0.0:0"]).expect(23).says("others reach");
    world.configure("[agent]\nlisten = \"0.0.0.0:6464\"\n");
    world.run(&["web", "serve"]).expect(2).says("others reach this address");
    world.configure("[agent]\nlisten = \"0.0.0.0:0\"\nproxy = [\"10.0.0.7\"]\n");
    world.run(&["web", "serve"]).expect(23).says("lifeboat web password NAME");
}

#[test]
fn an_end_is_heard_at_once() {
    let world = World::new();
    configured(&world);
    let mut page = Page::start(&world);
    // SAFETY: a signal to a child of ours that was not waited for.
    unsafe { libc::kill(page.child().id() as i32, libc::SIGTERM) };
    let status = page.child().wait().unwrap();
    assert_eq!(status.code().or(status.signal()), Some(0));
}

/// A failure of days ago is seen, whatever came after it.
#[test]
fn a_day_on_which_it_failed_stays_one() {
    let world = World::new();
    configured(&world);
    let (database, aside) = (world.path("data/app.db"), world.path("data/aside.db"));
    std::fs::rename(&database, &aside).unwrap();
    let then = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(72);
    for _ in 0..2 {
        let mut command = world.command(&["backup", "app"]);
        ran(command.env("LIFEBOAT_CLOCK_AT", then.to_string()).output().unwrap()).expect(15);
    }
    std::fs::rename(&aside, &database).unwrap();
    world.run(&["backup", "app"]).expect(0);
    let journal = world.names("state/lifeboat/journal");
    assert_eq!(journal.len(), 1, "{journal:?}");
    assert_eq!(mode(&world.path("state/lifeboat/journal").join(&journal[0])), 0o600);
    let _page = Page::start(&world);
    let shown = Visitor::enter(&world, &[]).get("/sources/app").expect(200);
    let day = then.strftime("%Y-%m-%d").to_string();
    drop(shown.has(&day).has("2 failed"));
}

/// Whoever keeps connections open, and says and takes nothing, keeps nobody out for long.
#[test]
fn one_visitor_gets_half_of_all_places_and_ten_seconds() {
    use std::io::{Read as _, Write as _};
    let world = World::new();
    configured(&world);
    let page = Page::start(&world);
    let connect = || std::net::TcpStream::connect(&page.address).unwrap();
    let mut idle: Vec<_> = (0..160).map(|_| connect()).collect();
    // The last ones were closed as they came, and get no answer.
    for one in idle.iter_mut().rev().take(16) {
        let _ = one.write_all(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        let answered = one.read(&mut [0]);
        assert!(!matches!(answered, Ok(1..)), "{answered:?}");
    }
    drop(idle);
    // Their places are free when the page has seen that they are gone.
    crate::follow::wait_for("an answer", || {
        let mut stream = connect();
        let mut answer = Vec::new();
        let asked = stream.write_all(
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\
                                       Connection: close\r\n\r\n",
        );
        asked.and_then(|()| stream.read_to_end(&mut answer)).is_ok()
            && answer.starts_with(b"HTTP/1.1 200")
    });
    if std::env::var_os("LIFEBOAT_LONG_TESTS").is_none() {
        return;
    }
    // A form that comes letter by letter is not waited for.
    let mut slow = connect();
    let host = &page.address;
    let head = format!(
        "POST /login HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 4000\r\n\r\n"
    );
    slow.write_all(head.as_bytes()).unwrap();
    slow.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    let mut answer = vec![0; 512];
    let count = loop {
        slow.write_all(b"x").unwrap();
        if let Ok(count) = slow.read(&mut answer) {
            break count;
        }
    };
    let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}
