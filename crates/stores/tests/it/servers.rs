//! Servers that speak S3, on loopback, each with a folder and a port of its own.
//!
//! `cargo xtask test` installs them. One that is not there makes its tests say so, by name, and end
//! well: a person without them can still run the others.

use std::io::{Read, Seek, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lifeboat_core::secret::Secret;
use lifeboat_stores::Options;
use lifeboat_test_support::{free_port, installed, skipped};

/// A key pair that every server takes: one refuses short ones.
pub(crate) const KEY: &str = "AKIALIFEBOATTESTS001";
pub(crate) const SECRET: &str = "lifeboat/tests/secret+key/of+forty+chars";
/// The bucket that each server has.
pub(crate) const BUCKET: &str = "backups";

/// moto, which answers one request after another. By itself it looks whether an object is there,
/// and then writes: of two writers who meet, both may be told that they won, which is moto's fault
/// alone. A request is read whole before its turn, so that one that stalls holds up nobody.
const MOTO: &str = r#"
import io, sys, threading
from moto import server
turn = threading.Lock()
class InTurn(server.DomainDispatcherApplication):
    def __call__(self, environ, start_response):
        sent = environ["wsgi.input"]
        ends = environ.get("wsgi.input_terminated")
        body = sent.read() if ends else sent.read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        with turn:
            return super().__call__(environ, start_response)
server.DomainDispatcherApplication = InTurn
server.main(["-H", "127.0.0.1", "-p", sys.argv[1]])
"#;

/// A server under a test; it ends with its value.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    folder: tempfile::TempDir,
}

/// Says that a server is missing.
fn missing(name: &str) -> Option<Server> {
    skipped(&format!("{name} is not installed; `cargo xtask test` installs it"));
    None
}

impl Server {
    /// s3s-fs: checks signatures, checksums and conditions.
    pub(crate) fn s3s() -> Option<Server> {
        Server::s3s_with(&["--access-key", KEY, "--secret-key", SECRET])
    }

    /// The same, which asks nobody who it is.
    pub(crate) fn s3s_for_all() -> Option<Server> {
        Server::s3s_with(&[])
    }

    fn s3s_with(arguments: &[&str]) -> Option<Server> {
        let program = installed("s3s-fs/bin/s3s-fs");
        if !program.exists() {
            return missing("s3s-fs");
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        Some(Server::start(folder, |folder, port| {
            let mut command = Command::new(&program);
            command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
            command.args(arguments).arg(folder);
            command
        }))
    }

    /// moto behind TLS, with that certificate.
    pub(crate) fn moto_by_tls(certificate: &Path, key: &Path) -> Option<Server> {
        let library = installed("moto");
        if !library.join("moto").exists() {
            return missing("moto");
        }
        // The bucket is made before: it is part of the server's state, not of a file.
        let program = r#"
import sys, threading
from werkzeug.serving import make_server
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
import boto3
app = DomainDispatcherApplication(create_backend_app)
plain = make_server("127.0.0.1", 0, app, threaded=True)
threading.Thread(target=plain.serve_forever, daemon=True).start()
boto3.client("s3", endpoint_url=f"http://127.0.0.1:{plain.port}", region_name="us-east-1",
    aws_access_key_id="a", aws_secret_access_key="b").create_bucket(Bucket=sys.argv[4])
make_server("127.0.0.1", int(sys.argv[1]), app, threaded=True,
    ssl_context=(sys.argv[2], sys.argv[3])).serve_forever()
"#;
        Some(Server::start(tempfile::tempdir().unwrap(), |_, port| {
            let mut command = Command::new("python3");
            command.args(["-c", program, &port.to_string()]).arg(certificate).arg(key);
            command.arg(BUCKET).env("PYTHONPATH", &library);
            command
        }))
    }

    /// moto: versions, object lock, storage classes; takes any signature.
    pub(crate) fn moto() -> Option<Server> {
        let library = installed("moto");
        if !library.join("moto").exists() {
            return missing("moto");
        }
        let server = Server::start(tempfile::tempdir().unwrap(), |_, port| {
            let mut command = Command::new("python3");
            command.args(["-c", MOTO, &port.to_string()]);
            command.env("PYTHONPATH", &library);
            command
        });
        server.make_bucket(&format!("/{BUCKET}"), &[]);
        Some(server)
    }

    /// moto that asks who it is: a bucket with object lock, and three pairs of keys. The first may
    /// do what a host that makes backups needs and no more, the second everything, the third read.
    pub(crate) fn moto_with_rights() -> Option<(Server, Vec<(String, String)>)> {
        let library = installed("moto");
        if !library.join("moto").exists() || !library.join("boto3").exists() {
            missing("moto");
            return None;
        }
        let program = r#"
import boto3, json, sys
def client(of):
    return boto3.client(of, endpoint_url=sys.argv[1], region_name="us-east-1",
                        aws_access_key_id="a", aws_secret_access_key="b")
client("s3").create_bucket(Bucket=sys.argv[2])
iam = client("iam")
for user, actions in [
    ("backup", ["s3:PutObject", "s3:GetObject", "s3:ListBucket", "s3:AbortMultipartUpload"]),
    ("prune", ["s3:*"]),
    ("watch", ["s3:GetObject", "s3:ListBucket"]),
]:
    iam.create_user(UserName=user)
    statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_user_policy(UserName=user, PolicyName="p", PolicyDocument=policy)
    key = iam.create_access_key(UserName=user)["AccessKey"]
    print(key["AccessKeyId"], key["SecretAccessKey"])
"#;
        let server = Server::start(tempfile::tempdir().unwrap(), |_, port| {
            let mut command = Command::new("python3");
            command.args(["-c", MOTO, &port.to_string()]);
            command.env("PYTHONPATH", &library).env("INITIAL_NO_AUTH_ACTION_COUNT", "10");
            command
        });
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", &library).args(["-c", program]);
        let out = command.arg(format!("http://{}", server.address)).arg(BUCKET).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        Some((server, pairs.map(|(id, key)| (id.to_owned(), key.to_owned())).collect()))
    }

    /// rclone: takes `If-None-Match` and overwrites all the same.
    pub(crate) fn rclone() -> Option<Server> {
        let program = installed("rclone/bin/rclone");
        if !program.exists() {
            return missing("rclone");
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        Some(Server::start(folder, |folder, port| {
            let mut command = Command::new(&program);
            command
                .args(["serve", "s3", "--config", "", "--addr"])
                .arg(format!("127.0.0.1:{port}"));
            command.args(["--vfs-cache-mode", "off", "--auth-key"]);
            command.arg(format!("{KEY},{SECRET}")).arg(folder);
            command
        }))
    }

    /// Azurite: Azure Blob Storage.
    pub(crate) fn azurite() -> Option<Server> {
        let program = installed("azurite/node_modules/.bin/azurite-blob");
        if !program.exists() {
            return missing("Azurite");
        }
        Some(Server::start(tempfile::tempdir().unwrap(), |folder, port| {
            let mut command = Command::new(&program);
            command.args(["--silent", "--skipApiVersionCheck", "--blobHost", "127.0.0.1"]);
            command.args(["--blobPort", &port.to_string(), "--location"]).arg(folder);
            command
        }))
    }

    /// Makes the container at Azurite: it asks for a signature of its own kind, which Python's
    /// library can make.
    pub(crate) fn make_container(&self, account: &str, key: &str) {
        let program = r#"
import base64, email.utils, hashlib, hmac, sys, urllib.request
host, account, key, name = sys.argv[1:]
date, version = email.utils.formatdate(usegmt=True), "2021-12-02"
signed = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n"
signed += f"/{account}/{account}/{name}\nrestype:container"
mac = hmac.new(base64.b64decode(key), signed.encode(), hashlib.sha256).digest()
request = urllib.request.Request(f"http://{host}/{account}/{name}?restype=container", method="PUT")
request.add_header("x-ms-date", date)
request.add_header("x-ms-version", version)
request.add_header("Authorization", f"SharedKey {account}:{base64.b64encode(mac).decode()}")
urllib.request.urlopen(request)
"#;
        let mut command = Command::new("python3");
        command.args(["-c", program, &self.address.to_string(), account, key, BUCKET]);
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    fn start(folder: tempfile::TempDir, command: impl Fn(&Path, u16) -> Command) -> Server {
        let port = free_port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut command = command(folder.path(), port);
        let mut said = tempfile::tempfile().unwrap();
        let to = || said.try_clone().unwrap();
        command.stdin(Stdio::null()).stdout(to()).stderr(to());
        let child = command.spawn().unwrap();
        let mut server = Server { child, address, folder };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = server.child.try_wait().unwrap();
            if ended.is_some() || begun.elapsed() > Duration::from_secs(300) {
                let mut words = String::new();
                said.rewind().and_then(|()| said.read_to_string(&mut words)).unwrap();
                panic!("a server could not be started, {command:?}: {ended:?}, {words}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// Its process.
    #[allow(dead_code, reason = "tests of the program stop it")]
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where it keeps what it is given, in files, if it does.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Makes a bucket at a server that asks for no signature.
    pub(crate) fn make_bucket(&self, path: &str, headers: &[&str]) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let mut request = format!("PUT {path} HTTP/1.1\r\nHost: s3\r\nContent-Length: 0\r\n");
        request.push_str(&format!(
            "Authorization: AWS4-HMAC-SHA256 Credential={KEY}/20260101/us-east-1/s3/aws4_request, \
             SignedHeaders=host, Signature=0\r\n"
        ));
        headers.iter().for_each(|header| request.push_str(&format!("{header}\r\n")));
        request.push_str("Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// What a store on it is opened with.
    pub(crate) fn options(&self) -> Options {
        Options {
            endpoint: Some(format!("http://{}", self.address)),
            access_key_id: Some(Secret::new(KEY)),
            secret_access_key: Some(Secret::new(SECRET)),
            ..Options::default()
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
