//! Chromium, driven as WebDriver says, so that tests see the page as a person does.
//!
//! The protocol is JSON over HTTP to `chromedriver`, which runs on this host: a client of our own
//! is shorter than what it would take to build one of a library. Where the browser is not installed
//! there is none, and the test says so.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::browser::exchange;

/// How long a page may take to become as it is waited for.
const PATIENCE: Duration = Duration::from_secs(180);

/// A window of a browser that nobody sees.
pub(crate) struct Browser {
    driver: Child,
    address: String,
    session: String,
    folder: tempfile::TempDir,
}

/// What a key is called in the protocol.
pub(crate) mod key {
    pub(crate) const TAB: &str = "\u{e004}";
    pub(crate) const ENTER: &str = "\u{e007}";
    pub(crate) const DOWN: &str = "\u{e015}";
    pub(crate) const SPACE: &str = " ";
}

/// Says, past the test harness, that a test saw nothing.
pub(crate) fn skipped(what: &str) {
    lifeboat_test_support::skipped(&format!("{what}; `cargo xtask test` installs it"));
}

impl Browser {
    /// A new one; `None`, with the reason on the screen, where there is none.
    pub(crate) fn start() -> Option<Browser> {
        let mut command = Command::new("chromedriver");
        let folder = tempfile::tempdir().unwrap();
        // Nothing of what this process was started with, and no folder of who runs the tests.
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", folder.path()).env("TMPDIR", folder.path());
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        // A file that this process inherited, such as a lock that is held while tests run, takes
        // the number that the browser wants for its own: it would wait for ever.
        // SAFETY: one call of the kernel, which marks files of the child and touches no memory.
        unsafe {
            command.pre_exec(|| {
                let all = libc::c_uint::MAX;
                libc::syscall(libc::SYS_close_range, 3, all, libc::CLOSE_RANGE_CLOEXEC);
                Ok(())
            });
        }
        let mut driver = match command.spawn() {
            Ok(driver) => driver,
            Err(error) => {
                skipped(&format!("chromedriver (package chromium-driver) does not start: {error}"));
                return None;
            }
        };
        let mut said = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port: Option<u16> = said.by_ref().map_while(Result::ok).find_map(|line| {
            line.split_once("successfully on port ")?.1.trim_end_matches('.').parse().ok()
        });
        let port = port.expect("chromedriver says its port");
        // What it says later must have somewhere to go.
        std::thread::spawn(move || said.for_each(drop));
        let address = format!("127.0.0.1:{port}");
        let mut browser = Browser { driver, address, session: String::new(), folder };
        browser.open();
        Some(browser)
    }

    fn open(&mut self) {
        let profile = format!("--user-data-dir={}", self.folder.path().display());
        let options = json!({ "args": [
            "--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,900",
            // A container has no sandbox to offer, and root is refused one.
            "--no-sandbox",
            "--disable-background-networking", "--disable-component-update", "--no-first-run",
            "--disable-features=Translate,MediaRouter,OptimizationHints", profile,
        ] });
        let always = json!({
            "browserName": "chrome",
            "goog:chromeOptions": options,
            // A browser among many tests takes its time.
            "timeouts": { "script": 180_000, "pageLoad": 300_000 },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let body = json!({ "capabilities": { "alwaysMatch": always } });
        let made = self.ask("POST", "/session", &body);
        self.session = made["sessionId"].as_str().expect("a session").to_owned();
    }

    /// A command of this session.
    fn tell(&self, what: &str, body: &Value) -> Value {
        self.ask("POST", &format!("/session/{}/{what}", self.session), body)
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.address,
            body.len()
        );
        let answer = exchange(&self.address, &request);
        let value: Value = serde_json::from_str(&answer.body)
            .unwrap_or_else(|error| panic!("{error}: {answer:?}"));
        assert_eq!(answer.status, 200, "{method} {path}: {value:#}");
        value["value"].clone()
    }

    /// A command of the browser's own tools.
    fn tool(&self, command: &str, parameters: &Value) -> Value {
        self.tell("goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    /// Goes to an address, and waits until it is there.
    pub(crate) fn go(&self, url: &str) {
        self.tell("url", &json!({ "url": url }));
    }

    /// What a script in the page returns.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.tell("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// What a script in the page gives to its last argument, sooner or later.
    pub(crate) fn later(&self, script: &str) -> Value {
        self.tell("execute/async", &json!({ "script": script, "args": [] }))
    }

    /// The same, where it is a text.
    pub(crate) fn text(&self, script: &str) -> String {
        self.run(script).as_str().unwrap_or_default().to_owned()
    }

    /// Waits until a script returns something that is true.
    #[track_caller]
    pub(crate) fn wait(&self, script: &str) {
        let began = Instant::now();
        while self.run(script) != Value::Bool(true) {
            let here = self.text("return location.href + '\\n' + document.body.innerText");
            assert!(began.elapsed() < PATIENCE, "never true: {script}\n{here}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Presses keys, one after the other.
    pub(crate) fn press(&self, keys: &[&str]) {
        let press = |key: &&str| {
            let down = json!({ "type": "keyDown", "value": key });
            [down, json!({ "type": "keyUp", "value": key })]
        };
        let actions: Vec<Value> = keys.iter().flat_map(press).collect();
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": actions });
        self.tell("actions", &json!({ "actions": [keyboard] }));
    }

    /// Types a text.
    pub(crate) fn write(&self, text: &str) {
        let letters: Vec<String> = text.chars().map(String::from).collect();
        let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
        self.press(&letters);
    }

    /// Presses Tab until what has the focus fits a selector; a person without a mouse has no other
    /// way.
    #[track_caller]
    pub(crate) fn tab_to(&self, selector: &str) {
        let is_there = format!("return document.activeElement.matches({selector:?})");
        for _ in 0..200 {
            if self.run(&is_there) == Value::Bool(true) {
                let outline = "return getComputedStyle(document.activeElement).outlineStyle";
                assert_ne!(self.text(outline), "none", "nobody sees that {selector} has the focus");
                return;
            }
            self.press(&[key::TAB]);
        }
        panic!("no Tab leads to {selector}: {}", self.text("return document.body.innerHTML"));
    }

    /// As wide as a phone, or as a screen.
    pub(crate) fn width(&self, pixels: u32) {
        let is_phone = pixels < 600;
        let size = json!({
            "width": pixels, "height": 800, "deviceScaleFactor": 1, "mobile": is_phone,
        });
        self.tool("Emulation.setDeviceMetricsOverride", &size);
    }

    /// Whether the person likes dark pages. They like none that moves, so that no colour is seen
    /// on its way to another.
    pub(crate) fn dark(&self, is_dark: bool) {
        let scheme = if is_dark { "dark" } else { "light" };
        self.likes(&[("prefers-color-scheme", scheme), ("prefers-reduced-motion", "reduce")]);
    }

    /// What the person told their system to like.
    pub(crate) fn likes(&self, features: &[(&str, &str)]) {
        let feature = |(name, value): &(&str, &str)| json!({ "name": name, "value": value });
        let features: Vec<Value> = features.iter().map(feature).collect();
        self.tool("Emulation.setEmulatedMedia", &json!({ "features": features }));
    }

    /// Whether scripts run in pages. Those of tests do in any case.
    pub(crate) fn scripts(&self, run: bool) {
        self.tool("Emulation.setScriptExecutionDisabled", &json!({ "value": !run }));
    }

    /// What the console has of warnings and errors since it was asked last.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.tell("se/log", &json!({ "type": "browser" }));
        let bad = |entry: &&Value| matches!(entry["level"].as_str(), Some("SEVERE" | "WARNING"));
        let entries = log.as_array().cloned().unwrap_or_default();
        entries.iter().filter(bad).map(|entry| entry["message"].to_string()).collect()
    }

    /// The addresses that were asked for since it was asked last.
    pub(crate) fn requests(&self) -> Vec<String> {
        let log = self.tell("se/log", &json!({ "type": "performance" }));
        let of_entry = |entry: &Value| {
            let message: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let message = &message["message"];
            let is_request = message["method"] == "Network.requestWillBeSent";
            is_request.then(|| message["params"]["request"]["url"].as_str().map(str::to_owned))?
        };
        log.as_array().into_iter().flatten().filter_map(of_entry).collect()
    }

    /// A picture of the whole page.
    pub(crate) fn picture(&self, path: &Path) {
        let wanted = json!({ "format": "png", "captureBeyondViewport": true });
        let data = self.tool("Page.captureScreenshot", &wanted);
        let bytes = decoded(data["data"].as_str().expect("a picture"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its driver ends the browser, and only then itself. After a test that failed nobody looks
        // at the answer.
        let end = format!(
            "DELETE /session/{} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.session, self.address
        );
        let _ = TcpStream::connect(&self.address).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(end.as_bytes())?;
            // It answers when the browser has ended, and leaves the connection open.
            stream.read(&mut [0; 1 << 12])
        });
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// What was written in base 64.
fn decoded(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for digit in text.bytes().filter_map(|byte| DIGITS.iter().position(|one| *one == byte)) {
        bits = bits << 6 | u32::try_from(digit).unwrap();
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).unwrap());
        }
    }
    bytes
}
