//! The screens of the web page in a real browser: each is whole in light and dark, on a phone and
//! by keyboard, without a script, without a request to anywhere else, and without what keeps people
//! out. A picture of each goes to `target/screenshots`, for people to look at.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use lifeboat_test_support::installed;
use serde_json::Value;

use crate::browser::Page;
use crate::control::Agent;
use crate::follow::wait_for;
use crate::support::World;
use crate::webdriver::{Browser, key, skipped};

/// A name that would be a script if it were taken for markup.
const SCRIPT: &str = "<script>alert(1)<!--";

/// A world with sources that stand differently, and a past of some days.
fn with_a_past() -> World {
    let world = World::new();
    world.database("app.db", 400);
    world.database("shop.db", 50);
    world.configure(&format!(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nrpo = \"1h\"\nschedule = \"hourly\"\n\
         keep = {{ last = 3, daily = 4 }}\n\
         [source.shop]\nsqlite = \"$DATA/shop.db\"\nrpo = \"1h\"\n\
         [source.\"{SCRIPT}\"]\nfiles = [\"$DATA/gone\"]\nrpo = \"1h\"\n"
    ));
    let then = |hours: i64, arguments: &[&str]| {
        let at = Timestamp::now().checked_sub(SignedDuration::from_hours(hours)).unwrap();
        let mut command = world.command(arguments);
        let done = command.env("LIFEBOAT_CLOCK_AT", at.to_string()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    for hours in [200, 150, 100, 76, 52, 29] {
        then(hours, &["backup", "app"]);
    }
    then(28, &["backup", "app", "--pin", "before the move", "--check", "none"]);
    then(5, &["backup", "app", "shop"]);
    for round in 1..3 {
        let connection = rusqlite::Connection::open(world.path("data/app.db")).unwrap();
        crate::support::add_rows(&connection, 10_000 * round, 20);
        drop(connection);
        then(4 - i64::from(round), &["backup", "app", "--incremental"]);
    }
    world.run(&["backup", "app"]).expect(0);
    world.run(&["drill", "app"]).expect(0);
    world
}

fn pictures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/screenshots")
}

/// Enters by a link, as the user of the host does.
fn enter(browser: &Browser, world: &World) {
    let link = world.run(&["web", "open"]).expect(0).out;
    browser.go(link.trim());
    browser.tab_to("main button");
    browser.press(&[key::ENTER]);
    browser.wait("return location.pathname == '/' && !!document.querySelector('nav')");
}

/// Whether the page says something.
fn says(text: &str) -> String {
    format!("return document.querySelector('main').innerText.includes({text:?})")
}

/// The screens, by the names of their pictures.
fn screens(browser: &Browser, page: &Page, world: &World) -> Vec<(&'static str, String)> {
    enter(browser, world);
    browser.go(&format!("http://{}/proofs", page.address));
    let proof = browser.text("return document.querySelector('tbody th a').getAttribute('href')");
    let script: String = SCRIPT.bytes().map(|byte| format!("%{byte:02X}")).collect();
    vec![
        ("overview", "/".to_owned()),
        ("source", "/sources/app?show=week".to_owned()),
        ("source-never", format!("/sources/{script}")),
        ("proofs", "/proofs".to_owned()),
        ("proof", proof),
        ("storage", "/storage".to_owned()),
        ("retention", "/retention?source=app&daily=2&hourly=&last=1".to_owned()),
        ("alerts", "/alerts".to_owned()),
        ("configuration", "/configuration".to_owned()),
    ]
}

/// What every screen is held to.
struct Eye<'a> {
    browser: &'a Browser,
    /// The rules of accessibility, where they are installed.
    rules: Option<String>,
    /// How addresses of the page begin.
    own: String,
}

impl<'a> Eye<'a> {
    fn new(browser: &'a Browser, address: &str) -> Eye<'a> {
        let rules = fs::read_to_string(installed("axe-core/node_modules/axe-core/axe.min.js")).ok();
        if rules.is_none() {
            skipped("axe-core is not there: accessibility is not looked at");
        }
        Eye { browser, rules, own: format!("http://{address}/") }
    }

    /// Looks at the page that is there, in light and dark and as wide as a phone, and takes
    /// pictures of it.
    fn look(&self, name: &str) {
        let browser = self.browser;
        browser.width(1280);
        for (theme, rules) in [("light", ""), ("dark", "runOnly: ['color-contrast'],")] {
            browser.dark(theme == "dark");
            let found = self.found_by_rules(rules);
            assert!(found.is_empty(), "{name}, {theme}: {found:#?}");
            browser.picture(&pictures().join(format!("{name}-{theme}.png")));
        }
        let ground = browser.text("return getComputedStyle(document.body).backgroundColor");
        assert!(is_dark(&ground), "{name}: {ground}");
        browser.dark(false);
        browser.width(360);
        let widths = "return document.documentElement.scrollWidth + '/' + window.innerWidth";
        assert_eq!(browser.text(widths), "360/360", "{name}");
        browser.picture(&pictures().join(format!("{name}-phone.png")));
        browser.width(1280);
        self.nothing_foreign(name);
    }

    /// Nothing was asked of others, nothing was forbidden by the policy, and no script is there but
    /// ours.
    fn nothing_foreign(&self, name: &str) {
        let complaints = self.browser.complaints();
        assert!(complaints.is_empty(), "{name}: {complaints:#?}");
        let asked = self.browser.requests();
        let is_foreign = |url: &&String| url.starts_with("http") && !url.starts_with(&self.own);
        let elsewhere: Vec<_> = asked.iter().filter(is_foreign).collect();
        assert!(elsewhere.is_empty(), "{name}: {elsewhere:?}");
        let others = "return document.querySelectorAll('script:not([src=\"/live.js\"])').length";
        assert_eq!(self.browser.run(others), 0, "{name}");
    }

    /// What the rules of accessibility find that is serious, each with where.
    fn found_by_rules(&self, which: &str) -> Vec<String> {
        let Some(rules) = &self.rules else { return Vec::new() };
        if self.browser.run("return !!window.axe") != Value::Bool(true) {
            self.browser.run(rules);
        }
        let found = self.browser.later(&format!(
            "const done = arguments[arguments.length - 1];
             axe.run(document, {{ {which} resultTypes: ['violations'] }}).then(
                 found => done(found.violations), error => done([{{ id: String(error) }}]));",
        ));
        let is_serious =
            |one: &&Value| !matches!(one["impact"].as_str(), Some("minor" | "moderate"));
        let found = found.as_array().cloned().unwrap_or_default();
        let told = |one: &Value| format!("{}: {} {}", one["id"], one["help"], one["nodes"]);
        found.iter().filter(is_serious).map(told).collect()
    }
}

#[test]
fn every_screen_is_whole_in_a_browser() {
    let Some(browser) = Browser::start() else { return };
    let world = with_a_past();
    let page = Page::start(&world);
    let eye = Eye::new(&browser, &page.address);
    browser.go(&format!("{}login", eye.own));
    eye.look("login");
    for (name, path) in screens(&browser, &page, &world) {
        browser.go(&format!("http://{}{path}", page.address));
        eye.look(name);
    }
    // Who likes no motion sees none, and what is looked for is there for everybody else.
    browser.go(&eye.own);
    let moves = "return [...document.querySelectorAll('*')].some(one => {
        const style = getComputedStyle(one);
        return style.animationName !== 'none' || parseFloat(style.transitionDuration) > 0;
    })";
    browser.likes(&[]);
    assert_eq!(browser.run(moves), true);
    browser.likes(&[("prefers-reduced-motion", "reduce")]);
    assert_eq!(browser.run(moves), false);
    // Would markup of somebody else get into a page, it would do nothing.
    let intrude = "const script = document.createElement('script');
        script.textContent = 'window.wasRun = true';
        const picture = document.createElement('img');
        picture.src = 'http://192.0.2.1/x.png';
        document.body.append(script, picture);
        return window.wasRun === undefined";
    assert_eq!(browser.run(intrude), true);
    let forbidden = browser.complaints();
    for directive in ["script-src", "img-src"] {
        assert!(forbidden.iter().any(|said| said.contains(directive)), "{forbidden:#?}");
    }
}

/// Whether a colour is nearer to black than to white.
fn is_dark(colour: &str) -> bool {
    let numbers =
        colour.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse::<u32>().ok());
    numbers.take(3).sum::<u32>() < 3 * 128
}

#[test]
fn a_person_without_a_mouse_or_a_script_finds_a_restore_point_and_tries_a_retention() {
    let Some(browser) = Browser::start() else { return };
    let world = with_a_past();
    let _page = Page::start(&world);
    browser.scripts(false);
    enter(&browser, &world);
    // The verdict, the reason and the command that mends it.
    for text in ["2 of 3 sources break", "never backed up", "lifeboat backup '<script"] {
        browser.wait(&says(text));
    }
    browser.tab_to("main td a[href='/sources/app'], main th a[href='/sources/app']");
    browser.press(&[key::ENTER]);
    browser.wait("return location.pathname == '/sources/app'");
    // A pinned backup is found by the words of its pin, with the command that restores it.
    browser.tab_to("input#find");
    browser.write("the move");
    browser.press(&[key::ENTER]);
    browser.wait("return location.search.includes('find=the')");
    let commands = "return [...document.querySelectorAll('td code.command')].map(e => e.innerText)";
    let commands = browser.run(commands);
    let commands = commands.as_array().unwrap();
    assert_eq!(commands.len(), 1, "{commands:?}");
    let command = commands[0].as_str().unwrap();
    let mut words: Vec<&str> = command.split(' ').collect();
    assert_eq!(words.remove(0), "lifeboat");
    let to = world.text("data/back.db");
    words.extend(["--to", &to, "--yes"]);
    world.run(&words).expect(0);
    assert_eq!(crate::support::rows(&world.path("data/back.db")), 400);
    // The simulator is a form like any other.
    browser.tab_to("a[href^='/retention?source=app']");
    browser.press(&[key::ENTER]);
    browser.wait("return location.pathname == '/retention'");
    browser.tab_to("input#daily");
    browser.press(&[key::DOWN, key::ENTER]);
    browser.wait("return document.body.innerText.includes('In force for app')");
    browser.wait("return document.body.innerText.includes('To use it, write this')");
    let said = browser.text("return document.querySelector('main').innerText");
    assert!(said.contains("backups stay") && said.contains("What goes"), "{said}");
    // Nothing was applied.
    let list = world.run(&["list", "app", "--all", "--json"]).expect(0).json();
    assert!(list.as_array().unwrap().iter().any(|one| one["pin"] == "before the move"));
}

/// The agent of a database with a service, and a browser that has entered its page.
fn with_an_agent(browser: &Browser) -> (World, Agent, String) {
    let world = World::new();
    world.database("app.db", 500);
    world.configure(
        "[repository.main]\nurl = \"file://$REPO\"\n[agent]\nlisten = \"127.0.0.1:0\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nschedule = \"yearly\"\n\
         service = { stop = [\"touch\", \"$DATA/stopped\"], start = [\"touch\", \"$DATA/started\"] }\n\
         hooks = { before = \"echo it begins; until test -e $DATA/go; do sleep 0.05; done\" }\n",
    );
    let agent = Agent::start(&world);
    let address = world.path("state/lifeboat/web/address");
    wait_for("a page", || address.exists());
    enter(browser, &world);
    let address = browser.text("return location.host");
    (world, agent, address)
}

#[test]
fn a_run_is_watched_and_a_loss_is_undone_by_keyboard() {
    let Some(browser) = Browser::start() else { return };
    let (world, _agent, address) = with_an_agent(&browser);
    let eye = Eye::new(&browser, &address);
    browser.tab_to("a[href='/runs']");
    browser.press(&[key::ENTER]);
    browser.wait(&says("Nothing runs now"));
    eye.look("runs");
    browser.tab_to("button[aria-label='Run now: backup-app']");
    browser.press(&[key::ENTER]);
    browser.wait("return location.pathname == '/runs/backup-app'");
    // Without loading the page anew: what the agent says comes by itself.
    browser.run("window.untouched = true");
    browser.wait(&says("it begins"));
    eye.look("run");
    fs::write(world.path("data/go"), "").unwrap();
    browser.wait(&says("done after"));
    assert_eq!(browser.run("return window.untouched === true"), true);
    // A wrong DELETE, which the newest state has in it.
    let before = Timestamp::now();
    let connection = rusqlite::Connection::open(world.path("data/app.db")).unwrap();
    connection.execute("DELETE FROM message WHERE id > 100", []).unwrap();
    connection.close().unwrap();
    browser.tab_to("nav a[href='/restore']");
    browser.press(&[key::ENTER]);
    browser.wait("return !!document.querySelector('main select#source')");
    eye.look("restore");
    browser.tab_to("main button");
    browser.press(&[key::ENTER]);
    browser.wait("return !!document.querySelector('form.assistant')");
    browser.wait(&says("a wrong DELETE or a bad migration too"));
    eye.look("restore-what");
    // Nothing is chosen for anybody: without a moment the form stays.
    browser.tab_to("form.assistant button");
    browser.press(&[key::ENTER]);
    browser.wait("return document.activeElement.matches('input[name=when]:invalid')");
    browser.go(&format!("{}restore?source=app", eye.own));
    browser.tab_to("input[value=newest]");
    browser.press(&[key::SPACE, key::DOWN]);
    browser.wait("return document.activeElement.matches('input[value=at]:checked')");
    browser.tab_to("input#at");
    browser.write(&before.to_string());
    browser.tab_to("input[name=place]:checked");
    browser.press(&[key::DOWN]);
    browser.wait("return document.activeElement.matches('input[value=own]:checked')");
    browser.tab_to("form.assistant button");
    browser.press(&[key::ENTER]);
    browser.wait("return location.pathname == '/restore/plan'");
    browser.wait(&says("goes on until everything is staged and checked"));
    eye.look("restore-plan");
    browser.tab_to("input#name");
    browser.write("app");
    browser.tab_to("form.assistant button.danger");
    browser.press(&[key::ENTER]);
    // The page is closed, and whoever comes again finds what became of it.
    browser.wait("return location.pathname.startsWith('/runs/restore-')");
    let run = browser.text("return location.href");
    browser.go("about:blank");
    browser.go(&run);
    browser.wait(&says("done after"));
    browser.wait(&says("lifeboat undo"));
    eye.look("restored");
    assert_eq!(crate::support::rows(&world.path("data/app.db")), 500);
    assert!(world.path("data/stopped").exists() && world.path("data/started").exists());
}
