//! What a browser does, without one: requests over a real connection, and answers taken apart.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

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
}

/// Sends a request as it stands, and reads the answer to its end.
pub(crate) fn exchange(address: &str, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    parsed(&String::from_utf8_lossy(&bytes))
}

fn parsed(text: &str) -> Answer {
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
