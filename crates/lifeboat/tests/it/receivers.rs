//! Receivers of notifications on loopback: a server of HTTP that answers as it is told, and a real
//! server of mail.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use lifeboat_test_support::{installed, skipped};
use serde_json::Value;

use crate::support::World;

/// What was received.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// "POST /path?query".
    pub(crate) line: String,
    /// Its headers, in small letters.
    pub(crate) headers: String,
    /// Its body.
    pub(crate) body: String,
}

impl Received {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A server of HTTP.
pub(crate) struct Receiver {
    /// "127.0.0.1:12345".
    pub(crate) address: String,
    code: Arc<AtomicU16>,
    received: Arc<Mutex<Vec<Received>>>,
}

/// Instead of an answer.
pub(crate) const HANGS: u16 = 0;

impl Receiver {
    /// One that answers with that code.
    pub(crate) fn new(code: u16) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (code, received) = (Arc::new(AtomicU16::new(code)), Arc::default());
        let receiver = Receiver { address, code, received };
        let (code, received) = (receiver.code.clone(), receiver.received.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (code, received) = (code.clone(), received.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &code, &received));
            }
        });
        receiver
    }

    pub(crate) fn answers(&self, code: u16) {
        self.code.store(code, Ordering::SeqCst);
    }

    /// What came since this was asked last.
    pub(crate) fn take(&self) -> Vec<Received> {
        std::mem::take(&mut *self.received.lock().unwrap())
    }
}

fn serve(stream: TcpStream, code: &AtomicU16, received: &Mutex<Vec<Received>>) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let mut headers = String::new();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        let header = header.trim().to_owned();
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').unwrap();
        let name = name.to_lowercase();
        if name == "content-length" {
            length = value.trim().parse().unwrap();
        }
        headers.push_str(&format!("{name}:{value}\n"));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let line = line.trim().trim_end_matches(" HTTP/1.1").to_owned();
    let body = String::from_utf8(body).unwrap();
    received.lock().unwrap().push(Received { line, headers, body });
    match code.load(Ordering::SeqCst) {
        // Until the other side has enough.
        HANGS => drop(reader.read_to_end(&mut Vec::new())),
        code => {
            let answer = format!("HTTP/1.1 {code} X\r\nContent-Length: 2\r\n\r\nno");
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
        }
    }
}

/// A server of mail.
pub(crate) struct MailServer {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
    /// Its port on 127.0.0.1.
    pub(crate) port: u16,
}

impl MailServer {
    /// Where it is installed. With TLS its certificate is for localhost and signed by `ca.pem` of
    /// the world.
    pub(crate) fn new(world: &World, mode: &str, user: &str, password: &str) -> Option<Self> {
        let folder = installed("aiosmtpd");
        if !folder.join("aiosmtpd/controller.py").exists() {
            skipped("aiosmtpd is not installed; `cargo xtask test` installs it");
            return None;
        }
        let (certificate, key) = (world.text("server.pem"), world.text("server.key"));
        if mode != "none" {
            certify(world);
        }
        let script = world.path("smtp.py");
        fs::write(&script, include_str!("smtp.py")).unwrap();
        let mut child = Command::new("python3")
            .arg(&script)
            .args([mode, &certificate, &key, user, password])
            .env("PYTHONPATH", folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap();
        Some(MailServer { child, lines, port })
    }

    /// The next mail that it takes.
    pub(crate) fn next(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A certificate for localhost, `server.pem`, that lasts for two days, as does that of `ca.pem`,
/// which signed it.
pub(crate) fn certify(world: &World) {
    let script = "set -e; curve='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
        openssl req -x509 $curve -keyout ca.key -out ca.pem -days 2 -subj /CN=ca
        openssl req $curve -keyout server.key -out server.csr -subj /CN=localhost
        printf 'subjectAltName=DNS:localhost,IP:127.0.0.1' > names
        openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
            -extfile names -out server.pem";
    let mut command = Command::new("sh");
    let output = command.args(["-c", script]).current_dir(world.path("")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
