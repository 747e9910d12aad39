//! What requests carry, and where credentials come from: a server that takes everything down.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lifeboat_core::secret::Secret;
use lifeboat_core::store::{Store, put_bytes};
use lifeboat_stores::{BucketStore, Options};

use crate::world::{env, name};

/// Heads of requests, in small letters, and how many were under way at most.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>, Arc<AtomicUsize>, Arc<AtomicUsize>);

impl Seen {
    /// The head of the first request that begins so.
    fn head(&self, begin: &str) -> String {
        let heads = self.0.lock().unwrap();
        heads.iter().find(|head| head.starts_with(begin)).cloned().unwrap_or_else(|| {
            panic!("nobody asked for {begin}: {heads:#?}");
        })
    }
}

/// Answers what it knows with a text, and everything else with nothing and an etag.
fn serve(answers: &[(&'static str, &'static str)], slow_ms: u64) -> (SocketAddr, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Seen::default());
    let (answers, heard) = (answers.to_vec(), seen.clone());
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (answers, heard) = (answers.clone(), heard.clone());
            std::thread::spawn(move || answer(client, &answers, &heard, slow_ms));
        }
    });
    (address, seen)
}

fn answer(client: TcpStream, answers: &[(&str, &str)], seen: &Seen, slow_ms: u64) {
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let mut writer = client;
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line == "\r\n" {
                break;
            }
            let small = line.to_ascii_lowercase();
            if let Some(bytes) = small.strip_prefix("content-length:") {
                length = bytes.trim().parse().unwrap();
            }
            head.push_str(&line);
        }
        let _ = reader.read_exact(&mut vec![0; length]);
        let now = seen.1.fetch_add(1, Ordering::SeqCst) + 1;
        seen.2.fetch_max(now, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(slow_ms));
        let found = answers.iter().find(|(begin, _)| head.starts_with(begin));
        let body = found.map_or("", |(_, body)| body);
        seen.0.lock().unwrap().push(head);
        seen.1.fetch_sub(1, Ordering::SeqCst);
        let answer = format!(
            "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nLast-Modified: Wed, 08 Jan 2025 14:00:00 GMT\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn with_keys(address: SocketAddr) -> Options {
    Options {
        endpoint: Some(format!("http://{address}")),
        access_key_id: Some(Secret::new("AKIAOWN")),
        secret_access_key: Some(Secret::new("secret")),
        ..Options::default()
    }
}

fn store(options: &Options) -> BucketStore {
    BucketStore::open(&env(), "s3://backups/chat", options).unwrap()
}

#[test]
fn encryption_class_and_region_reach_the_server_signed() {
    let (address, seen) = serve(&[], 0);
    let options = Options {
        region: Some("eu-central-1".into()),
        storage_class: Some("STANDARD_IA".into()),
        server_side_encryption: Some("aws:kms".into()),
        kms_key: Some("key-7".into()),
        ..with_keys(address)
    };
    put_bytes(&store(&options), &name("app/a.db.zst"), b"x").unwrap();
    let head = seen.head("PUT /backups/chat/app/a.db.zst ").to_ascii_lowercase();
    for header in [
        "x-amz-server-side-encryption: aws:kms\r\n",
        "x-amz-server-side-encryption-aws-kms-key-id: key-7\r\n",
        "x-amz-storage-class: standard_ia\r\n",
        "if-none-match: *\r\n",
    ] {
        assert!(head.contains(header), "{header} is not in\n{head}");
    }
    let signed = head.lines().find(|line| line.starts_with("authorization:")).unwrap();
    assert!(signed.contains("/eu-central-1/s3/aws4_request"), "{signed}");
    assert!(signed.contains("x-amz-server-side-encryption;"), "{signed}");
}

#[test]
fn no_more_requests_are_under_way_than_allowed() {
    let (address, seen) = serve(&[], 20);
    let store = store(&Options { requests_at_once: Some(2), ..with_keys(address) });
    let indexes: Vec<u32> = (0..40).collect();
    let heads = lifeboat_core::parallel::in_parallel(&indexes, 8, |index| {
        store.head(&name(&format!("a/{index}"))).unwrap()
    });
    assert_eq!(heads.len(), 40);
    assert!(seen.2.load(Ordering::SeqCst) <= 2, "{} at once", seen.2.load(Ordering::SeqCst));
}

const KEYS: &str = r#"{"AccessKeyId": "AKIAROLE", "SecretAccessKey": "s", "Token": "the-token",
    "Expiration": "2099-01-01T00:00:00Z", "Code": "Success", "LastUpdated": "2025-01-01T00:00:00Z",
    "Type": "AWS-HMAC"}"#;

fn with_variables(address: SocketAddr, variables: &[(&str, &str)]) -> Options {
    let all = variables.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value)));
    let endpoint = Some(format!("http://{address}"));
    Options { endpoint, variables: all.collect(), ..Options::default() }
}

fn signed_by_the_role(options: &Options, seen: &Seen) {
    put_bytes(&store(options), &name("a"), b"x").unwrap();
    let head = seen.head("PUT /backups/chat/a ").to_ascii_lowercase();
    assert!(head.contains("credential=akiarole/"), "{head}");
    assert!(head.contains("x-amz-security-token: the-token\r\n"), "{head}");
}

#[test]
fn the_machines_own_service_gives_credentials() {
    const PATH: &str = "GET /latest/meta-data/iam/security-credentials/";
    let (service, asked) = serve(
        &[
            ("PUT /latest/api/token", "session-1"),
            ("GET /latest/meta-data/iam/security-credentials/the-role", KEYS),
            (PATH, "the-role"),
        ],
        0,
    );
    let (address, seen) = serve(&[], 0);
    let url = format!("http://{service}");
    let options = with_variables(address, &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url)]);
    signed_by_the_role(&options, &seen);
    let head = asked.head(PATH).to_ascii_lowercase();
    assert!(head.contains("x-aws-ec2-metadata-token: session-1"), "{head}");
}

#[test]
fn a_web_identity_and_a_container_give_credentials() {
    let answer = "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
        <AccessKeyId>AKIAROLE</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
        <SessionToken>the-token</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>\
        </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>";
    let (service, asked) = serve(&[("POST /", answer), ("GET /keys", KEYS)], 0);
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "an identity").unwrap();
    let (address, seen) = serve(&[], 0);
    let url = format!("http://{service}");
    let options = with_variables(
        address,
        &[
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
            ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r"),
            ("AWS_ENDPOINT_URL_STS", &url),
        ],
    );
    signed_by_the_role(&options, &seen);
    assert!(asked.head("POST /").contains("AssumeRoleWithWebIdentity"));
    let (address, seen) = serve(&[], 0);
    let url = format!("{url}/keys");
    let options = with_variables(
        address,
        &[
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.to_str().unwrap()),
        ],
    );
    signed_by_the_role(&options, &seen);
    assert!(asked.head("GET /keys").to_ascii_lowercase().contains("authorization: an identity"));
}
