//! What a browser does, without one: requests over a real connection, answers taken apart, a
//! cookie that is kept, and the key of a form that is sent back.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::support::World;

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// Its number.
    pub(crate) status: u16,
    /// Its head, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// What follows.
    pub(crate) body: String,
}

impl Answer {
    /// The first header of that name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Requires that number.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{:?}\n{}", self.headers, self.body);
        self
    }

    /// Requires a text in it.
    #[track_caller]
    pub(crate) fn has(self, text: &str) -> Answer {
        assert!(self.body.contains(text), "{text:?} is not in\n{}", self.body);
        self
    }

    /// Requires that it sends the browser there.
    #[track_caller]
    pub(crate) fn to(self, path: &str) -> Answer {
        assert_eq!((self.status, self.header("location")), (303, Some(path)), "{}", self.body);
        self
    }

    /// The value of an attribute behind a text.
    #[track_caller]
    pub(crate) fn value(&self, before: &str) -> String {
        let at = self.body.find(before).unwrap_or_else(|| panic!("{before:?}\n{}", self.body));
        let rest = &self.body[at + before.len()..];
        rest[..rest.find('"').unwrap()].to_owned()
    }
}

/// Sends a request as it stands.
pub(crate) fn send(address: &str, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(180))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// The same, and reads the answer to its end.
pub(crate) fn exchange(address: &str, request: &str) -> Answer {
    let mut bytes = Vec::new();
    let mut stream = send(address, request);
    let mut part = [0; 1 << 16];
    // Some leave the connection open, whatever they are asked for.
    while !is_whole(&bytes) {
        match stream.read(&mut part).unwrap() {
            0 => break,
            length => bytes.extend_from_slice(&part[..length]),
        }
    }
    parsed(&String::from_utf8_lossy(&bytes))
}

/// Whether a message that says how long it is has come to its end.
pub(crate) fn is_whole(bytes: &[u8]) -> bool {
    let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let lines = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let length =
        lines.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    length.is_some_and(|length: usize| bytes.len() >= head + 4 + length)
}

/// Takes an answer apart.
pub(crate) fn parsed(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or("0");
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    Answer {
        status: status.parse().unwrap_or_else(|_| panic!("no answer: {text:?}")),
        headers: lines.filter_map(header).collect(),
        body: body.to_owned(),
    }
}

/// A form as browsers send it.
pub(crate) fn encoded(fields: &[(&str, &str)]) -> String {
    let word = |text: &str| -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        text.bytes()
            .map(|byte| match plain(byte) {
                true => char::from(byte).to_string(),
                false => format!("%{byte:02X}"),
            })
            .collect()
    };
    let pairs: Vec<String> =
        fields.iter().map(|(name, value)| format!("{name}={}", word(value))).collect();
    pairs.join("&")
}

/// The page, shown without an agent; ended with this.
pub(crate) struct Page {
    child: Child,
    /// Where it is.
    pub(crate) address: String,
}

impl Page {
    pub(crate) fn start(world: &World) -> Page {
        Page::of(world.command(&["web", "serve", "--listen", "127.0.0.1:0"]))
    }

    /// The same where the configuration says.
    pub(crate) fn configured(world: &World) -> Page {
        Page::of(world.command(&["web", "serve"]))
    }

    /// The same of a program that is started in another way.
    pub(crate) fn of(mut command: std::process::Command) -> Page {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let address = lines.find_map(|line| {
            Some(line.split_once("listening on http://")?.1.trim_end_matches('/').to_owned())
        });
        // What it says later is read, so that it never waits.
        std::thread::spawn(move || lines.for_each(drop));
        Page { child, address: address.unwrap() }
    }

    /// Its process.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// A request of nobody.
    pub(crate) fn request(&self, first: &str, headers: &str) -> Answer {
        Visitor::at(&self.address).request(first, headers, "")
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Somebody with a browser.
#[derive(Clone, Debug)]
pub(crate) struct Visitor {
    /// The address that is shown in it.
    pub(crate) address: String,
    /// The cookie that it has.
    pub(crate) cookie: Option<String>,
    /// What forms carry.
    key: String,
}

impl Visitor {
    /// Nobody yet.
    pub(crate) fn at(address: &str) -> Visitor {
        Visitor { address: address.to_owned(), cookie: None, key: String::new() }
    }

    /// Somebody who came by a link.
    pub(crate) fn enter(world: &World, more: &[&str]) -> Visitor {
        Visitor::by_link(&world.run(&[&["web", "open"], more].concat()).expect(0).out)
    }

    /// The same, with the link that was printed.
    pub(crate) fn by_link(link: &str) -> Visitor {
        let (address, secret) = link.trim().split_once("/login?link=").unwrap();
        let mut visitor = Visitor::at(address.strip_prefix("http://").unwrap());
        visitor.get(&format!("/login?link={secret}")).expect(200).has("Enter");
        let entered = visitor.post("/login", &[("link", secret)]).to("/");
        visitor.take_cookie(&entered);
        visitor
    }

    /// Keeps the cookie of an answer, and what forms carry from now on.
    pub(crate) fn take_cookie(&mut self, answer: &Answer) {
        let cookie = answer.header("set-cookie").unwrap();
        self.cookie = cookie.split(';').next().map(str::to_owned);
        self.key = self.get("/").expect(200).value("name=\"key\" value=\"");
    }

    /// A request with more in its head, and a body.
    pub(crate) fn request(&self, first: &str, headers: &str, body: &str) -> Answer {
        exchange(&self.address, &self.text(first, headers, body))
    }

    /// The same as it is sent.
    pub(crate) fn text(&self, first: &str, headers: &str, body: &str) -> String {
        let mut head = format!("{first} HTTP/1.1\r\nConnection: close\r\n{headers}");
        if !headers.contains("Host:") {
            head.push_str(&format!("Host: {}\r\n", self.address));
        }
        if let Some(cookie) = &self.cookie {
            head.push_str(&format!("Cookie: {cookie}\r\n"));
        }
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request(&format!("GET {path}"), "", "")
    }

    /// Sends a form of a page that was loaded.
    pub(crate) fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let origin = format!("Origin: http://{}\r\n", self.address);
        self.post_from(path, &origin, &self.key, fields)
    }

    /// Sends a form that says where it comes from, and carries that.
    pub(crate) fn post_from(
        &self,
        path: &str,
        origin: &str,
        key: &str,
        fields: &[(&str, &str)],
    ) -> Answer {
        let body = encoded(&[&[("key", key)], fields].concat());
        let kind = "Content-Type: application/x-www-form-urlencoded\r\n";
        self.request(&format!("POST {path}"), &format!("{origin}{kind}"), &body)
    }
}
