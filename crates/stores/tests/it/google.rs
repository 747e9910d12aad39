//! Google Cloud Storage without Google. Its XML interface, which we speak, is that of S3 under
//! other names of headers; no server that can be installed here speaks it: `fake-gcs-server` and
//! `gcp-storage-emulator` know the JSON interface, and of the other one reading alone. So a server
//! of S3 stands behind a translator of header names, and the conformance suite runs through it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use lifeboat_core::Kind;
use lifeboat_core::store::{Store, put_bytes};
use lifeboat_stores::{BucketStore, Options, conformance};

use crate::servers::{BUCKET, Server};
use crate::world::{env, name};

/// A key of a service account with which the library asks nobody for a token.
const ACCOUNT: &str = r#"{"private_key": "none", "private_key_id": "none",
    "client_email": "backup@example.org", "disable_oauth": true}"#;

/// What Google's client says, and what that is at a server of S3.
const TO_SERVER: &[(&str, &str)] = &[
    ("x-goog-if-generation-match: 0\r\n", "if-none-match: *\r\n"),
    ("x-goog-meta-", "x-amz-meta-"),
    ("x-goog-storage-class", "x-amz-storage-class"),
];
const TO_CLIENT: &[(&str, &str)] =
    &[("x-amz-meta-", "x-goog-meta-"), ("x-amz-version-id", "x-goog-generation")];

/// Stands before a server, and translates: one request for each connection, as clients on loopback
/// ask.
fn translator(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let Ok(upstream) = TcpStream::connect(server) else { return };
                let pair = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
                let up = std::thread::spawn(move || pass(pair.0, pair.1, TO_SERVER));
                pass(upstream, client, TO_CLIENT);
                let _ = up.join();
            });
        }
    });
    address
}

/// Passes a head on in other words, and the rest as it is.
fn pass(mut from: TcpStream, mut to: TcpStream, words: &[(&str, &str)]) {
    let (mut head, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    let mut is_head = true;
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if !is_head {
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
            continue;
        }
        head.extend_from_slice(&buffer[..count]);
        let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let body = head.split_off(end + 4);
        let mut text = String::from_utf8(std::mem::take(&mut head)).unwrap();
        words.iter().for_each(|(theirs, ours)| text = text.replace(theirs, ours));
        // An empty token is none.
        let lines = text.split_inclusive("\r\n");
        let text: String = lines.filter(|line| !line.starts_with("authorization:")).collect();
        is_head = false;
        if to.write_all(text.as_bytes()).and_then(|()| to.write_all(&body)).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[test]
fn google_conforms_on_a_server_of_s3_behind_a_translator() {
    let Some(server) = Server::s3s_for_all() else { return };
    let folder = tempfile::tempdir().unwrap();
    let account = folder.path().join("account.json");
    std::fs::write(&account, ACCOUNT).unwrap();
    let options = Options {
        endpoint: Some(format!("http://{}", translator(server.address))),
        service_account: Some(account),
        ..Options::default()
    };
    let open = |url: &str| BucketStore::open(&env(), url, &options).unwrap();
    // As with S3: this server keeps no two writers apart who meet.
    conformance::run_one_writer(&open(&format!("gs://{BUCKET}/a b/repository"))).unwrap();
    let large = open(&format!("gs://{BUCKET}/large"));
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|at| (at >> 3) as u8).collect();
    put_bytes(&large, &name("app/x.db.zst"), &bytes).unwrap();
    let again = put_bytes(&large, &name("app/x.db.zst"), &bytes).unwrap_err();
    assert_eq!(again.kind(), Kind::Refused, "{again:?}");
    let mut read = Vec::new();
    large.get(&name("app/x.db.zst"), None).unwrap().read_to_end(&mut read).unwrap();
    assert!(read == bytes);
}
