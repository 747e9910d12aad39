//! The web page, asked over real connections: what it shows, and what it refuses.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Stdio};

use crate::browser::{Answer, exchange};
use crate::support::World;

/// The page of a world.
struct Page {
    child: Child,
    address: String,
}

impl Page {
    fn start(world: &World) -> Page {
        let mut command = world.command(&["web", "serve", "--listen", "127.0.0.1:0"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let address = lines.find_map(|line| {
            Some(line.split_once("listening on http://")?.1.trim_end_matches('/').to_owned())
        });
        // What it says later is read, so that it never waits.
        std::thread::spawn(move || lines.for_each(drop));
        Page { child, address: address.unwrap() }
    }

    /// A request with that head, to which a line for the host is added where it has none.
    fn request(&self, first: &str, headers: &str) -> Answer {
        let host = match headers.contains("Host:") {
            true => String::new(),
            false => format!("Host: {}\r\n", self.address),
        };
        let request = format!("{first} HTTP/1.1\r\n{host}Connection: close\r\n{headers}\r\n");
        exchange(&self.address, &request)
    }

    fn get(&self, path: &str) -> Answer {
        self.request(&format!("GET {path}"), "")
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configured(world: &World) {
    world.database("app.db", 50);
    world.configure(
        "[repository.main]\nurl = \"file://$REPO\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nrpo = \"1h\"\n\
         [source.\"<script>alert(1)<!--\"]\nfiles = [\"$DATA/gone\"]\nrpo = \"1h\"\n",
    );
}

#[test]
fn the_overview_says_what_can_be_restored_and_what_cannot() {
    let world = World::new();
    configured(&world);
    let page = Page::start(&world);
    page.get("/").expect(200).has("2 of 2 sources break their promise").has("never");
    world.run(&["backup", "app"]).expect(0);
    let shown = page.get("/").expect(200).has("1 of 2 sources break their promise");
    let shown = shown.has("lifeboat backup '&lt;script&gt;alert(1)&lt;!--'");
    assert!(!shown.body.contains("<script>alert"), "{}", shown.body);
    let status: serde_json::Value =
        serde_json::from_str(&page.get("/api/status").expect(200).body).unwrap();
    let rows = status["sources"].as_array().unwrap();
    let states: Vec<_> = rows.iter().map(|row| row["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["never", "fresh"]);
    let metrics = page.get("/metrics").expect(200);
    let printed = world.run(&["status", "--format", "prometheus"]).expect(0).out;
    let names = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    };
    assert_eq!(names(&metrics.body), names(&printed));
    page.get("/healthz").expect(200).has("ok");
}

#[test]
fn no_page_may_run_what_is_not_its_own() {
    let world = World::new();
    configured(&world);
    let page = Page::start(&world);
    for path in ["/", "/style.css", "/nothing"] {
        let answer = page.get(path);
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        // What a policy forbids must not be needed, and nothing comes from elsewhere.
        for forbidden in ["style=\"", "onclick", "<script>", "http://", "https://"] {
            assert!(!answer.body.contains(forbidden), "{path}: {forbidden}\n{}", answer.body);
        }
    }
}

#[test]
fn a_name_that_a_stranger_gave_to_our_address_is_refused() {
    let world = World::new();
    configured(&world);
    let page = Page::start(&world);
    page.request("GET /", "Host: evil.example\r\n").expect(421).has("this name is not one");
    page.request("GET /api/status", "Host: evil.example:6464\r\n").expect(421);
    page.request("GET /", "Host: localhost\r\nHost: evil.example\r\n").expect(421);
    page.request("GET /", "Host: localhost:1\r\n").expect(200);
}

#[test]
fn what_is_no_page_is_none() {
    let world = World::new();
    configured(&world);
    let page = Page::start(&world);
    for path in ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/style.css/../../x", "/.env"] {
        page.get(path).expect(404);
    }
    page.request("POST /", "Content-Length: 0\r\n").expect(405);
    let world = World::new();
    world.run(&["web", "serve", "--listen", "0.0.0.0:0"]).expect(23).says("others reach");
}

#[test]
fn an_end_is_heard_at_once() {
    let world = World::new();
    configured(&world);
    let mut page = Page::start(&world);
    // SAFETY: a signal to a child of ours that was not waited for.
    unsafe { libc::kill(page.child.id() as i32, libc::SIGTERM) };
    let status = page.child.wait().unwrap();
    assert_eq!(status.code().or(status.signal()), Some(143));
}
