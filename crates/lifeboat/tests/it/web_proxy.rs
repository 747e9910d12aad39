//! The page behind a proxy that has its certificate: who is believed, who may connect, and that
//! what a stranger says of where it comes from is worth nothing.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};

use crate::browser::{Answer, Page, encoded, parsed};
use crate::follow::wait_for;
use crate::support::{World, mode};

const NAME: &str = "backup.example.org";
const KIND: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

/// A certificate of that name, and what knows it.
struct Certificate {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

fn certificate(world: &World) -> Certificate {
    let (path, key) = (world.path("data/web.crt"), world.path("data/web.key"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-subj", &format!("/CN={NAME}"), "-addext", &format!("subjectAltName=DNS:{NAME}")])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&path)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let chain: Vec<_> = CertificateDer::pem_file_iter(&path).unwrap().map(Result::unwrap).collect();
    let mut known = RootCertStore::empty();
    known.add(chain[0].clone()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let server = server.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let key = PrivateKeyDer::from_pem_file(&key).unwrap();
    let client = ClientConfig::builder_with_provider(provider);
    let client = client.with_safe_default_protocol_versions().unwrap();
    let client = client.with_root_certificates(known).with_no_client_auth();
    Certificate {
        server: Arc::new(server.with_single_cert(chain, key).unwrap()),
        client: Arc::new(client),
    }
}

/// A proxy that speaks TLS, and says of each request from where it came, as nginx does: behind what
/// the request itself says of that. Gives its address.
fn proxy(certificate: &Certificate, page: &str, seen_from: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (config, page) = (Arc::clone(&certificate.server), page.to_owned());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut client = StreamOwned::new(connection, stream.unwrap());
            // Who goes away in the middle of it is no matter of the next one.
            let _ = hand_on(&mut client, &page, seen_from);
        }
    });
    address
}

fn hand_on(
    client: &mut StreamOwned<ServerConnection, TcpStream>,
    page: &str,
    seen_from: &str,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut part = [0; 4096];
    while !crate::browser::is_whole(&request) {
        match client.read(&mut part)? {
            0 => break,
            length => request.extend_from_slice(&part[..length]),
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let (head, body) = request.split_once("\r\n\r\n").unwrap_or((&request, ""));
    let forwarded = |line: &&str| line.to_ascii_lowercase().starts_with("x-forwarded-for:");
    let before = head.lines().find(forwarded).and_then(|line| line.split_once(':'));
    let before = before.map(|(_, list)| format!("{}, ", list.trim())).unwrap_or_default();
    let is_own = |line: &&str| !line.to_ascii_lowercase().starts_with("x-forwarded-");
    let kept: Vec<&str> = head.lines().filter(is_own).collect();
    let mut upstream = TcpStream::connect(page)?;
    let kept = kept.join("\r\n");
    let own = format!("X-Forwarded-For: {before}{seen_from}\r\nX-Forwarded-Proto: https");
    upstream.write_all(format!("{kept}\r\n{own}\r\n\r\n{body}").as_bytes())?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer)?;
    client.write_all(&answer)?;
    client.conn.send_close_notify();
    client.flush()
}

/// A request through the proxy, as a browser that asked for `name` sends it.
fn ask(certificate: &Certificate, proxy: &str, head: &str, body: &str) -> Answer {
    let name = ServerName::try_from(NAME).unwrap();
    let connection = ClientConnection::new(Arc::clone(&certificate.client), name).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(proxy).unwrap());
    let length = body.len();
    let request = format!("{head}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // Some end without saying so.
    let _ = stream.read_to_end(&mut answer);
    parsed(&String::from_utf8_lossy(&answer))
}

/// The page, which believes a proxy on this host.
fn behind(world: &World) -> Page {
    world.configure(&format!(
        "[repository.main]\nurl = \"file://$REPO\"\n[agent]\nlisten = \"127.0.0.1:0\"\n\
         proxy = [\"127.0.0.1\"]\nnames = [\"{NAME}\"]\n[source.app]\nsqlite = \"$DATA/app.db\"\n"
    ));
    world.database("app.db", 5);
    let_ann_enter(world);
    Page::configured(world)
}

fn let_ann_enter(world: &World) {
    let mut command = world.command(&["web", "password", "ann"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"correct horse battery\n").unwrap();
    assert!(child.wait().unwrap().success());
}

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {NAME}\r\n{more}")
}

fn post(path: &str, more: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: {NAME}\r\nOrigin: https://{NAME}\r\n{KIND}{more}")
}

#[test]
fn a_proxy_that_is_named_has_the_certificate_and_is_believed() {
    let world = World::new();
    let page = behind(&world);
    let certificate = certificate(&world);
    let proxy = proxy(&certificate, &page.address, "192.0.2.7");
    let ask = |head: &str, body: &str| ask(&certificate, &proxy, head, body);
    ask(&get("/", ""), "").to("/login");
    // Others than those of this host are here: a program shows its token.
    ask(&get("/metrics", ""), "").expect(401);
    ask("GET / HTTP/1.1\r\nHost: evil.example\r\n", "").expect(421);
    let form = encoded(&[("name", "ann"), ("password", "correct horse battery")]);
    // All goes by TLS, so a page that came without it is none of ours.
    let plain = post("/login", "").replace("https://", "http://");
    ask(&plain, &form).expect(403).has("not sent by a page of ours");
    let entered = ask(&post("/login", "X-Forwarded-For: 203.0.113.9\r\n"), &form).to("/");
    let cookie = entered.header("set-cookie").unwrap().to_owned();
    assert!(cookie.starts_with("__Host-lifeboat="), "{cookie}");
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict; Secure"), "{cookie}");
    let cookie = format!("Cookie: {}\r\n", cookie.split(';').next().unwrap());
    let shown = ask(&get("/", &cookie), "").expect(200).has("You are ann");
    let key = shown.value("name=\"key\" value=\"");
    ask(&post("/logout", &cookie), &encoded(&[("key", &key)])).to("/login");
    ask(&get("/", &cookie), "").to("/login");
    // Written down is what the proxy saw, and not what was said to it.
    let log = world.path("state/lifeboat/web/audit.log");
    assert_eq!(mode(&log) & 0o777, 0o600);
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("\"from\":\"192.0.2.7\"") && !log.contains("203.0.113.9"), "{log}");
    let told = world.run(&["web", "audit"]).expect(0).out;
    assert!(told.contains("ann (192.0.2.7): enter: done"), "{told}");
}

#[test]
fn nobody_but_the_proxy_may_connect_and_nobody_guesses_on_by_another_address() {
    let world = World::new();
    let page = behind(&world);
    let certificate = certificate(&world);
    let first = proxy(&certificate, &page.address, "192.0.2.7");
    let second = proxy(&certificate, &page.address, "192.0.2.8");
    let wrong = encoded(&[("name", "ann"), ("password", "wrong")]);
    for number in 0..5 {
        let said = format!("X-Forwarded-For: 203.0.113.{number}\r\n");
        ask(&certificate, &first, &post("/login", &said), &wrong).expect(403);
    }
    let said = "X-Forwarded-For: 203.0.113.99\r\n";
    ask(&certificate, &first, &post("/login", said), &wrong).expect(429);
    ask(&certificate, &second, &post("/login", ""), &wrong).expect(403);
    // From an address of this host that is not the proxy's there is no answer at all.
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    let other: std::net::SocketAddr = "127.0.0.2:0".parse().unwrap();
    rustix::net::bind(&socket, &other).unwrap();
    let to: std::net::SocketAddr = page.address.parse().unwrap();
    rustix::net::connect(&socket, &to).unwrap();
    let mut stream = TcpStream::from(socket);
    let asked = stream.write_all(get("/healthz", "").as_bytes());
    let asked = asked.and_then(|()| stream.write_all(b"\r\n"));
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    assert!(answer.is_empty(), "{asked:?} {read:?} {}", String::from_utf8_lossy(&answer));
}

#[test]
fn a_socket_with_a_path_is_for_its_owner_and_what_asks_there_is_believed() {
    let world = World::new();
    world.configure(&format!(
        "[repository.main]\nurl = \"file://$REPO\"\n[agent]\nlisten = \"unix:$DATA/page.sock\"\n\
         names = [\"{NAME}\"]\n"
    ));
    world.run(&["web", "serve"]).expect(23).says("lifeboat web password NAME");
    let_ann_enter(&world);
    let path = world.path("data/page.sock");
    // What a killed one left is in nobody's way.
    drop(UnixListener::bind(&path).unwrap());
    let mut page = world.command(&["web", "serve"]).stderr(Stdio::null()).spawn().unwrap();
    let ask = |head: &str, body: &str| -> Option<Answer> {
        let mut stream = UnixStream::connect(&path).ok()?;
        let length = body.len();
        let request = format!("{head}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(parsed(&answer))
    };
    wait_for("an answer", || ask(&get("/healthz", ""), "").is_some_and(|it| it.status == 200));
    assert_eq!(mode(&path) & 0o777, 0o600);
    world.run(&["web", "serve"]).expect(1).says("cannot listen on");
    let link = world.run(&["web", "open"]).expect(0).out;
    assert!(link.starts_with(&format!("https://{NAME}/login?link=")), "{link}");
    let ask = |head: &str, body: &str| ask(head, body).unwrap();
    ask(&get("/", ""), "").to("/login");
    ask(&get("/metrics", ""), "").expect(401);
    let by_proxy = "X-Forwarded-For: 203.0.113.9, 192.0.2.7\r\nX-Forwarded-Proto: https\r\n";
    let form = encoded(&[("name", "ann"), ("password", "correct horse battery")]);
    let entered = ask(&post("/login", by_proxy), &form).to("/");
    assert!(entered.header("set-cookie").unwrap().ends_with("; Secure"));
    let told = world.run(&["web", "audit"]).expect(0).out;
    assert!(told.contains("ann (192.0.2.7): enter: done"), "{told}");
    // SAFETY: a signal to a child of ours that was not waited for.
    unsafe { libc::kill(page.id() as i32, libc::SIGTERM) };
    assert!(page.wait().unwrap().success());
    assert!(!path.exists());
}
