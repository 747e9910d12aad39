//! The screens of the web page in a real browser: each is whole in light and dark, on a phone and
//! by keyboard, without a script, without a request to anywhere else, and without what keeps people
//! out. A picture of each goes to `target/screenshots`, for people to look at.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::browser::Page;
use crate::control::Agent;
use crate::follow::wait_for;
use crate::support::{World, content};
use crate::webdriver::{Browser, installed, key, skipped};

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

/// What the rules of accessibility find that is serious, each with where.
fn found_by_rules(browser: &Browser, rules: Option<&str>) -> Vec<String> {
    let Some(rules) = rules else { return Vec::new() };
    browser.run(rules);
    let found = browser.later(
        "const done = arguments[arguments.length - 1];
         axe.run(document, { resultTypes: ['violations'] }).then(
             found => done(found.violations), error => done([{ id: String(error) }]));",
    );
    let is_serious = |one: &&Value| !matches!(one["impact"].as_str(), Some("minor" | "moderate"));
    let found = found.as_array().cloned().unwrap_or_default();
    let told = |one: &Value| format!("{}: {} {}", one["id"], one["help"], one["nodes"]);
    found.iter().filter(is_serious).map(told).collect()
}

#[test]
fn every_screen_is_whole_in_a_browser() {
    let Some(browser) = Browser::start() else { return };
    let rules = fs::read_to_string(installed("axe-core/node_modules/axe-core/axe.min.js")).ok();
    if rules.is_none() {
        skipped("axe-core is not there: accessibility is not looked at");
    }
    let world = with_a_past();
    let page = Page::start(&world);
    let own = format!("http://{}/", page.address);
    for (name, path) in screens(&browser, &page, &world) {
        for is_dark in [false, true] {
            browser.dark(is_dark);
            browser.width(1280);
            browser.go(&format!("http://{}{path}", page.address));
            let theme = if is_dark { "dark" } else { "light" };
            let found = found_by_rules(&browser, rules.as_deref());
            assert!(found.is_empty(), "{path}, {theme}: {found:#?}");
            browser.picture(&pictures().join(format!("{name}-{theme}.png")));
        }
        let ground = browser.text("return getComputedStyle(document.body).backgroundColor");
        assert!(is_dark(&ground), "{path}: {ground}");
        browser.dark(false);
        browser.width(360);
        let widths = "return document.documentElement.scrollWidth + '/' + window.innerWidth";
        assert_eq!(browser.text(widths), "360/360", "{path}");
        browser.picture(&pictures().join(format!("{name}-phone.png")));
        let complaints = browser.complaints();
        assert!(complaints.is_empty(), "{path}: {complaints:#?}");
        let asked = browser.requests();
        assert!(asked.iter().any(|url| url.starts_with(&own)), "{asked:?}");
        let elsewhere: Vec<_> =
            asked.iter().filter(|url| url.starts_with("http") && !url.starts_with(&own)).collect();
        assert!(elsewhere.is_empty(), "{path}: {elsewhere:?}");
        let others = "return document.querySelectorAll('script:not([src=\"/live.js\"])').length";
        assert_eq!(browser.run(others), 0, "{path}");
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
    browser.tab_to("a[href='/sources/app']");
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

#[test]
fn a_run_is_watched_and_a_restore_is_begun_by_keyboard_and_survives_a_closed_page() {
    let Some(browser) = Browser::start() else { return };
    let world = World::new();
    let database = world.database("app.db", 500);
    world.configure(
        "[repository.main]\nurl = \"file://$REPO\"\n[agent]\nlisten = \"127.0.0.1:0\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nschedule = \"yearly\"\n\
         hooks = { before = \"echo it begins; sleep 1\" }\n",
    );
    let _agent = Agent::start(&world);
    let address = world.path("state/lifeboat/web/address");
    wait_for("a page", || address.exists());
    enter(&browser, &world);
    browser.tab_to("a[href='/runs']");
    browser.press(&[key::ENTER]);
    browser.wait(&says("Nothing runs now"));
    browser.tab_to("button[aria-label='Run backup-app now']");
    browser.press(&[key::ENTER]);
    browser.wait("return location.pathname == '/runs/backup-app'");
    // Without loading the page anew: what the agent says comes by itself.
    browser.run("window.untouched = true");
    browser.wait(&says("it begins"));
    browser.picture(&pictures().join("run-light.png"));
    browser.wait(&says("done after"));
    assert_eq!(browser.run("return window.untouched === true"), true);
    assert_eq!(crate::support::rows(&database), 500);
    // Restored step by step.
    browser.tab_to("a[href='/restore']");
    browser.press(&[key::ENTER]);
    browser.wait("return !!document.querySelector('main select#source')");
    browser.tab_to("main button");
    browser.press(&[key::ENTER]);
    browser.wait("return !!document.querySelector('form.assistant')");
    browser.width(360);
    browser.picture(&pictures().join("restore-phone.png"));
    browser.width(1280);
    browser.picture(&pictures().join("restore-light.png"));
    browser.tab_to("form.assistant button");
    browser.press(&[key::ENTER]);
    browser.wait("return location.pathname == '/restore/plan'");
    browser.picture(&pictures().join("restore-plan-light.png"));
    browser.tab_to("form.assistant button");
    browser.press(&[key::ENTER]);
    // The page is closed, and whoever comes again finds what became of it.
    browser.wait("return location.pathname.startsWith('/runs/')");
    let run = browser.text("return location.href");
    browser.go("about:blank");
    browser.go(&run);
    browser.wait(&says("done after"));
    browser.picture(&pictures().join("restored-light.png"));
    let place = browser.text("return document.querySelector('main dd code').innerText");
    assert_eq!(content(Path::new(&place)), content(&database));
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "{complaints:#?}");
}
