//! The replication client on real servers: logging in every way, the commands, both streams.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use lifeboat_core::{Kind, Result};
use lifeboat_postgres::replication::{
    BaseBackupOptions, Lsn, Piece, ReplicationConnection, ReplicationEnd, WalMessage,
};
use lifeboat_postgres::{Address, Client, ClientOptions, Secret, ThrowAwayCluster};

use crate::support::{cluster, cluster_with, env, majors, options, run};

fn open(client: &Client) -> Result<ReplicationConnection> {
    ReplicationConnection::open(&env(), client, "cannot read the test's cluster")
}

/// The names of the files in a tar archive, and how many bytes it has. Fails where it is cut.
fn files(archive: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = archive;
    loop {
        let header = &rest[..512];
        if header.iter().all(|byte| *byte == 0) {
            assert_eq!(rest.len(), 1024, "two blocks of zeros end an archive");
            return names;
        }
        let text = |range: std::ops::Range<usize>| {
            let field = header[range].split(|byte| *byte == 0).next().unwrap();
            String::from_utf8(field.to_vec()).unwrap()
        };
        names.push(text(0..100));
        let bytes = usize::from_str_radix(text(124..136).trim(), 8).unwrap();
        rest = &rest[512 + bytes.next_multiple_of(512)..];
    }
}

#[test]
fn commands_are_answered_by_every_version() {
    for major in majors() {
        let cluster = cluster(*major);
        let client = cluster.client("postgres").unwrap();
        let mut connection = open(&client).unwrap();
        assert_eq!(connection.server_major(), *major);
        let identity = connection.identify_system().unwrap();
        assert!(identity.system_identifier > 1 << 40 && identity.timeline == 1, "{identity:?}");
        assert_eq!(connection.show("wal_segment_size").unwrap(), "16MB");
        connection.create_slot("odd_slot", false, true).unwrap();
        let slot = connection.read_slot("odd_slot").unwrap().unwrap();
        assert!(slot.restart.is_some_and(|restart| restart <= identity.position), "{slot:?}");
        assert_eq!(slot.timeline, Some(1));
        let twice = connection.create_slot("odd_slot", false, true).unwrap_err();
        assert!(twice.message().contains("already exists"), "{twice:?}");
        connection.drop_slot("odd_slot", true).unwrap();
        assert_eq!(connection.read_slot("odd_slot").unwrap(), None);
        // Timeline 1 has no history; the connection goes on after an error.
        assert!(connection.timeline_history(1).is_err());
        assert_eq!(connection.identify_system().unwrap().timeline, 1);
    }
}

#[test]
fn a_base_backup_comes_whole_with_its_tablespaces() {
    for major in majors() {
        let cluster = cluster(*major);
        let client = cluster.client("postgres").unwrap();
        run(
            &client,
            "SET allow_in_place_tablespaces = on; CREATE TABLESPACE inside LOCATION ''; \
             CREATE TABLE public.inside_of_it TABLESPACE inside AS SELECT generate_series(1, 1000) AS n",
        );
        let mut connection = open(&client).unwrap();
        connection.create_slot("for_backup", true, true).unwrap();
        let options = BaseBackupOptions {
            label: "it's a test".into(),
            include_wal: true,
            ..BaseBackupOptions::default()
        };
        let mut backup = connection.base_backup(&options).unwrap();
        let start = backup.start().clone();
        assert_eq!(start.timeline, 1);
        let mut parts: Vec<Vec<u8>> = Vec::new();
        let mut manifest = None;
        let end = loop {
            match backup.piece().unwrap() {
                Piece::Archive(index) => {
                    assert_eq!(index, parts.len());
                    parts.push(Vec::new());
                }
                Piece::Manifest => manifest = Some(Vec::new()),
                Piece::Bytes(bytes) => {
                    manifest.as_mut().or(parts.last_mut()).unwrap().extend_from_slice(bytes);
                }
                Piece::End(end) => break end,
            }
        };
        assert!(end.position > start.position && !end.checksums_failed, "{end:?}");
        let names: Vec<Vec<String>> = parts.iter().map(|part| files(part)).collect();
        let main = names.last().unwrap();
        assert_eq!(main[0], "backup_label");
        assert!(main.iter().any(|name| name == "global/pg_control"), "{main:?}");
        let segment = format!("pg_wal/0000000100000000{:08X}", start.position.0 >> 24);
        assert!(main.contains(&segment), "{segment} is not in {main:?}");
        let manifest = String::from_utf8(manifest.unwrap()).unwrap();
        assert!(manifest.contains("Manifest-Checksum") && manifest.contains("CRC32C"));
        // The connection is ready for more.
        let mut connection = backup.into_connection();
        assert_eq!(connection.identify_system().unwrap().timeline, 1);
    }
}

#[test]
fn the_log_is_streamed_and_confirmed() {
    for major in majors() {
        let cluster = cluster(*major);
        let client = cluster.client("postgres").unwrap();
        let mut connection = open(&client).unwrap();
        let identity = connection.identify_system().unwrap();
        connection.create_slot("receiver", false, true).unwrap();
        let from = Lsn(identity.position.0 & !0xFF_FFFF);
        assert_eq!(connection.start_replication(Some("receiver"), from, 1).unwrap(), None);
        run(&client, "CREATE TABLE public.t AS SELECT generate_series(1, 10000) AS n");
        let (mut received, mut wanted) = (from, Lsn(0));
        while received < identity.position || received < wanted {
            match connection.receive_wal(60_000).unwrap().expect("the server writes") {
                WalMessage::Data { begin, bytes, server_end } => {
                    assert_eq!(begin, received);
                    received = Lsn(begin.0 + bytes.len() as u64);
                    wanted = wanted.max(server_end);
                }
                WalMessage::KeepAlive { .. } => {}
                WalMessage::End => panic!("the server goes on"),
            }
        }
        let now_us = jiff::Timestamp::now().as_microsecond();
        connection.send_status(received, received, Lsn(0), now_us, true).unwrap();
        // It answers at once, and knows what we said.
        while !matches!(
            connection.receive_wal(60_000).unwrap().unwrap(),
            WalMessage::KeepAlive { .. }
        ) {}
        let mut other = open(&client).unwrap();
        let restart = other.read_slot("receiver").unwrap().unwrap().restart.unwrap();
        assert!(restart >= received, "{restart} after {received}");
        assert_eq!(connection.end_replication().unwrap(), ReplicationEnd::Done);
        assert_eq!(connection.identify_system().unwrap().timeline, 1);
    }
}

/// A cluster that is reached by TCP too, with that `pg_hba.conf` below the line for its owner.
fn guarded(major: u32, rules: &str, more: &[String]) -> (ThrowAwayCluster, u16, tempfile::TempDir) {
    let folder = tempfile::Builder::new().prefix("lifeboat-hba-").tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let hba = folder.path().join("pg_hba.conf");
    let rules = format!("local all postgres trust\nlocal replication postgres trust\n{rules}\n");
    fs::write(&hba, rules).unwrap();
    let port = lifeboat_test_support::free_port();
    let settings = [
        format!("hba_file={}", hba.display()),
        "listen_addresses=127.0.0.1".to_owned(),
        format!("port={port}"),
    ];
    let settings: Vec<&str> = settings.iter().chain(more).map(String::as_str).collect();
    (cluster_with(major, &settings), port, folder)
}

fn client_of(text: &str, password: Option<&str>) -> Client {
    let mut address = Address::parse(text).unwrap();
    address.password = password.map(Secret::new);
    Client::new(address, options()).unwrap()
}

#[test]
fn every_kind_of_password_is_taken_and_a_wrong_one_refused() {
    for major in majors() {
        let rules = "host replication scram 127.0.0.1/32 scram-sha-256\n\
                     host replication hash 127.0.0.1/32 md5\n\
                     host replication clear 127.0.0.1/32 password\n\
                     host replication plain 127.0.0.1/32 trust\n\
                     local replication plain trust";
        let (cluster, port, _folder) = guarded(*major, rules, &[]);
        let admin = cluster.client("postgres").unwrap();
        run(
            &admin,
            "SET password_encryption = 'scram-sha-256'; \
             CREATE ROLE scram LOGIN REPLICATION PASSWORD 'hush:1\\'; \
             CREATE ROLE clear LOGIN REPLICATION PASSWORD 'hush:1\\'; \
             CREATE ROLE plain LOGIN; \
             SET password_encryption = 'md5'; \
             CREATE ROLE hash LOGIN REPLICATION PASSWORD 'hush:1\\'",
        );
        let url = |role: &str| format!("postgresql://{role}@127.0.0.1:{port}/postgres");
        for role in ["scram", "hash", "clear"] {
            let mut connection = open(&client_of(&url(role), Some("hush:1\\"))).unwrap();
            assert_eq!(connection.identify_system().unwrap().timeline, 1, "{role}");
            let error = open(&client_of(&url(role), Some("loud"))).err().unwrap();
            assert_eq!(error.kind(), Kind::SourceUnavailable, "{error:?}");
            assert!(error.message().contains("password authentication failed"), "{error:?}");
            let error = open(&client_of(&url(role), None)).err().unwrap();
            assert!(error.message().contains("wants a password"), "{error:?}");
            assert!(error.hint_text().unwrap().contains(".pgpass"), "{error:?}");
        }
        // The password file, as the client library reads it.
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join(".pgpass");
        fs::write(&file, format!("127.0.0.1:{port}:replication:scram:hush\\:1\\\\\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let at_home = ClientOptions { home: Some(home.path().into()), ..options() };
        let address = Address::parse(&url("scram")).unwrap();
        open(&Client::new(address, at_home).unwrap()).unwrap();
        // No right to replicate, no line for us, no role.
        let error = open(&client_of(&url("plain"), None)).err().unwrap();
        assert!(error.hint_text().unwrap().contains("REPLICATION"), "{error:?}");
        let error = open(&client_of(&url("postgres"), None)).err().unwrap();
        assert!(error.hint_text().unwrap().contains("pg_hba.conf"), "{error:?}");
        assert_eq!(error.kind(), Kind::SourceUnavailable);
    }
}

#[test]
fn a_server_without_senders_or_without_itself_says_what_mends_it() {
    let cluster = cluster_with(15, &["max_wal_senders=0", "wal_level=minimal"]);
    let error = open(&cluster.client("postgres").unwrap()).err().unwrap();
    assert!(error.hint_text().unwrap().contains("raise max_wal_senders"), "{error:?}");
    for nowhere in ["postgresql://127.0.0.1:1/x?user=me", "postgresql:///x?host=/no/such&user=me"] {
        let error = open(&client_of(nowhere, None)).err().unwrap();
        assert_eq!(error.kind(), Kind::SourceUnavailable, "{error:?}");
        assert!(error.hint_text().unwrap().contains("pg_isready"), "{error:?}");
    }
    // Something that is no server of PostgreSQL's answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(2).flatten() {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 64]);
            let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let url = format!("postgresql://me@127.0.0.1:{port}/x?sslmode=disable");
    let error = open(&client_of(&url, None)).err().unwrap();
    assert!(error.message().contains("not a PostgreSQL server"), "{error:?}");
}

/// A certificate for `localhost`, signed by itself, and its key.
fn certificate(folder: &Path) {
    let run = |words: &[&str]| {
        let output = Command::new("openssl").args(words).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(&[
        "req",
        "-new",
        "-x509",
        "-days",
        "3650",
        "-nodes",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-out",
        "server.crt",
        "-keyout",
        "server.key",
    ]);
    run(&[
        "req",
        "-new",
        "-x509",
        "-days",
        "3650",
        "-nodes",
        "-subj",
        "/CN=other",
        "-out",
        "other.crt",
        "-keyout",
        "other.key",
    ]);
    let key = folder.join("server.key");
    // The server wants its key to be its own, or root's with that mode.
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let text = fs::read_to_string("/etc/passwd").unwrap();
    let line = text.lines().find(|line| line.starts_with("postgres:"));
    let owner = line.and_then(|line| line.split(':').nth(2)?.parse().ok()).unwrap_or(65_534);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&key, Some(owner), None).unwrap();
    }
}

#[test]
fn tls_is_as_strict_as_asked() {
    let folder = tempfile::Builder::new().prefix("lifeboat-tls-").tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    certificate(folder.path());
    let file = |name: &str| folder.path().join(name).display().to_string();
    let more = [
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", file("server.crt")),
        format!("ssl_key_file={}", file("server.key")),
    ];
    let rules = "hostssl replication postgres 127.0.0.1/32 trust";
    let (_cluster, port, _hba) = guarded(15, rules, &more);
    let with = |host: &str, more: &str| {
        let url = format!("postgresql://postgres@{host}:{port}/x?hostaddr=127.0.0.1&{more}");
        open(&client_of(&url, None))
    };
    let (root, other) = (file("server.crt"), file("other.crt"));
    for good in [
        "sslmode=prefer",
        "sslmode=require",
        &format!("sslmode=require&sslrootcert={root}"),
        &format!("sslmode=verify-ca&sslrootcert={root}"),
        &format!("sslmode=verify-full&sslrootcert={root}"),
    ] {
        assert_eq!(with("localhost", good).unwrap().identify_system().unwrap().timeline, 1);
    }
    with("elsewhere", &format!("sslmode=verify-ca&sslrootcert={root}")).unwrap();
    for (host, wrong) in [
        ("elsewhere", format!("sslmode=verify-full&sslrootcert={root}")),
        ("localhost", format!("sslmode=verify-ca&sslrootcert={other}")),
        ("localhost", format!("sslmode=require&sslrootcert={other}")),
        ("localhost", "sslmode=disable".to_owned()),
    ] {
        let error = with(host, &wrong).err().unwrap();
        assert_eq!(error.kind(), Kind::SourceUnavailable, "{wrong}: {error:?}");
    }
    let error = with("localhost", "sslmode=verify-full&sslrootcert=/no/such").err().unwrap();
    assert_eq!(error.kind(), Kind::Usage, "{error:?}");
}

#[test]
fn a_server_without_tls_is_not_enough_where_it_is_required() {
    let rules = "host replication postgres 127.0.0.1/32 trust";
    let (_cluster, port, _hba) = guarded(16, rules, &[]);
    let url = format!("postgresql://postgres@127.0.0.1:{port}/x");
    open(&client_of(&url, None)).unwrap();
    let error = open(&client_of(&format!("{url}?sslmode=require"), None)).err().unwrap();
    assert!(error.message().contains("does not offer TLS"), "{error:?}");
}
