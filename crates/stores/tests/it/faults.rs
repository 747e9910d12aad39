//! Object storage over connections that break, servers that refuse, and clocks that are off: each
//! ends in a right error or a good result.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lifeboat_core::secret::Secret;
use lifeboat_core::store::{Store, get_bytes, put_bytes};
use lifeboat_core::{Error, Kind};
use lifeboat_stores::{BucketStore, Options};

use crate::proxy::{Dice, Fault, Proxy, answer};
use crate::servers::{BUCKET, Server};
use crate::world::{env, name};

fn through(server: &Server, proxy: &Proxy) -> Options {
    let endpoint = Some(format!("http://{}", proxy.address));
    Options { endpoint, timeout_ms: Some(3_000), ..server.options() }
}

fn store(options: &Options) -> BucketStore {
    BucketStore::open(&env(), &format!("s3://{BUCKET}/faults"), options).unwrap()
}

/// A fault of a connection, every third one on average; sizes reach into every part of a request.
fn seeded(seed: u64, number: u64) -> Fault {
    let mut dice = Dice(seed.wrapping_mul(1_000_003).wrapping_add(number));
    let mut reach = |most: u64| {
        let bits = dice.next(most);
        dice.next(1 << bits)
    };
    let (near, far) = (reach(12), reach(24));
    match dice.next(21) {
        0 => Fault::ResetUp(near),
        1 => Fault::ResetUp(far),
        2 => Fault::ResetDown(0),
        3 => Fault::ResetDown(near),
        4 => Fault::CutDown(near),
        5 => Fault::CutDown(far),
        6 => Fault::Answer(answer("503 Slow Down", "", "SlowDown")),
        7 => Fault::Answer(answer("500 Internal Server Error", "", "InternalError")),
        8 => Fault::SlowDown(1 + near % 5),
        _ => Fault::None,
    }
}

/// What one run does: puts and gets through the proxy, each compared with what is really there.
fn one_run(server: &Server, seed: u64) {
    let proxy = Proxy::before(server.address, move |number| seeded(seed, number));
    // On loopback each request has a connection of its own: so each has its fault.
    let (shaky, direct) = (store(&through(server, &proxy)), store(&server.options()));
    let mut dice = Dice(seed);
    for index in 0..3 {
        let object = name(&format!("{seed}/{index}"));
        let length = [100, 300_000, 19_000_000][index as usize] + dice.next(1000) as usize;
        let bytes: Vec<u8> = (0..length).map(|at| ((at as u64 * (seed + 7)) >> 3) as u8).collect();
        let put = put_bytes(&shaky, &object, &bytes);
        let there = match get_bytes(&direct, &object, 1 << 30) {
            Ok(there) => Some(there),
            Err(error) if error.kind() == Kind::NotCovered => None,
            Err(error) => panic!("seed {seed}: {error:?}"),
        };
        match (&put, &there) {
            // What is there is whole, whatever was said of it.
            (_, Some(there)) => assert!(*there == bytes, "seed {seed}: other bytes are there"),
            (Ok(()), None) => panic!("seed {seed}: a success, and nothing is there"),
            (Err(_), None) => {}
        }
        if let Err(error) = &put {
            assert_eq!(error.kind(), Kind::StoreUnavailable, "seed {seed}: {error:?}");
            continue;
        }
        match get_bytes(&shaky, &object, 1 << 30) {
            Ok(read) => assert!(read == bytes, "seed {seed}: read other bytes"),
            Err(error) => assert_eq!(error.kind(), Kind::StoreUnavailable, "{error:?}"),
        }
    }
}

#[test]
fn broken_connections_end_in_a_good_result_or_a_right_error() {
    let Some(server) = Server::s3s() else { return };
    let runs: u64 = match std::env::var_os("LIFEBOAT_LONG_TESTS") {
        Some(_) => 400,
        None => 10,
    };
    let seeds: Vec<u64> = (1..=runs).collect();
    lifeboat_core::parallel::in_parallel(&seeds, 8, |seed| one_run(&server, *seed));
}

/// What a store says of a server that always gives this answer.
fn told(server: &Server, answer: String) -> Error {
    let proxy = Proxy::before(server.address, move |_| Fault::Answer(answer.clone()));
    let error = put_bytes(&store(&through(server, &proxy)), &name("a"), b"a").unwrap_err();
    // One that stays is not tried again: the put, and a look whether it is there all the same.
    let asked = proxy.connections.load(Ordering::Relaxed);
    assert!(asked <= 2, "asked {asked} times: {error:?}");
    assert_eq!(error.kind(), Kind::StoreUnavailable, "{error:?}");
    error
}

#[test]
fn each_refusal_names_the_setting_that_mends_it() {
    let Some(server) = Server::s3s() else { return };
    let cases = [
        ("301 Moved", "x-amz-bucket-region: eu-west-3\r\n", "PermanentRedirect", "eu-west-3"),
        ("403 Forbidden", "", "AccessDenied", "s3:PutObject"),
        ("403 Forbidden", "", "InvalidAccessKeyId", "access_key_id"),
        ("403 Forbidden", "", "SignatureDoesNotMatch", "secret_access_key"),
        ("400 Bad Request", "", "ExpiredToken", "temporary credentials"),
        ("404 Not Found", "", "NoSuchBucket", "create the bucket"),
        ("400 Bad Request", "", "InvalidStorageClass", "storage_class"),
        ("400 Bad Request", "", "KMS.NotFoundException", "kms_key"),
    ];
    for (status, headers, code, word) in cases {
        let error = told(&server, answer(status, headers, code));
        let hint = error.hint_text().unwrap_or_default();
        assert!(hint.contains(word), "{code}: {hint}");
        assert!(!format!("{error:?}").contains(crate::servers::SECRET), "{error:?}");
    }
}

#[test]
fn a_clock_that_is_off_is_told_by_how_much() {
    let Some(server) = Server::s3s() else { return };
    let servers = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(20);
    let date = servers.strftime("%a, %d %b %Y %H:%M:%S GMT");
    let headers = format!("Date: {date}\r\n");
    let error = told(&server, answer("403 Forbidden", &headers, "RequestTimeTooSkewed"));
    let hint = error.hint_text().unwrap();
    let near = ["19 min behind", "20 min behind"];
    assert!(hint.contains("timedatectl") && near.iter().any(|by| hint.contains(by)), "{hint}");
}

#[test]
fn a_wrong_secret_is_refused_and_never_shown() {
    let Some(server) = Server::s3s() else { return };
    let wrong = "another/secret+key/of+forty+characters";
    let options = Options { secret_access_key: Some(Secret::new(wrong)), ..server.options() };
    let error = put_bytes(&store(&options), &name("a"), b"a").unwrap_err();
    assert_eq!(error.kind(), Kind::StoreUnavailable);
    assert!(error.hint_text().unwrap().contains("secret_access_key"), "{error:?}");
    assert!(!format!("{error:?} {options:?}").contains(wrong), "{error:?}");
}

#[test]
fn a_server_that_stays_broken_is_given_up_and_one_that_is_silent_too() {
    let Some(server) = Server::s3s() else { return };
    let broken =
        Proxy::before(server.address, |_| Fault::Answer(answer("503 Slow Down", "", "SlowDown")));
    let silent = Proxy::before(server.address, |_| Fault::SlowDown(60_000));
    let within = |proxy: &Proxy| Options { timeout_ms: Some(3_000), ..through(&server, proxy) };
    for (options, word) in [
        (through(&server, &broken), "503"),
        // Not tried again for longer than it may be silent.
        (within(&silent), "nothing came or went"),
    ] {
        let error = store(&options).head(&name("a")).unwrap_err();
        assert_eq!(error.kind(), Kind::StoreUnavailable);
        assert!(format!("{error:?}").contains(word), "{error:?}");
        assert!(error.hint_text().is_some(), "{error:?}");
    }
    assert_eq!(silent.connections.load(Ordering::Relaxed), 1);
}

#[test]
fn a_bucket_that_vanishes_half_way_ends_the_object() {
    let Some(server) = Server::s3s() else { return };
    let gone = Arc::new(AtomicBool::new(false));
    let is_gone = Arc::clone(&gone);
    let proxy = Proxy::before(server.address, move |_| match is_gone.load(Ordering::Relaxed) {
        true => Fault::Answer(answer("404 Not Found", "", "NoSuchBucket")),
        // One request on each connection: the next one sees that the bucket is gone.
        false => Fault::CutDown(u64::MAX),
    });
    let shaky = store(&through(&server, &proxy));
    let mut put = shaky.put(&name("half")).unwrap();
    put.write_all(&vec![1; 20 << 20]).unwrap();
    gone.store(true, Ordering::Relaxed);
    // Connections that are open still lead there: a new store has none.
    let fresh = store(&through(&server, &proxy));
    let error = put_bytes(&fresh, &name("other"), b"x").unwrap_err();
    assert!(error.hint_text().unwrap().contains("create the bucket"), "{error:?}");
    drop(put);
    assert!(store(&server.options()).list(Some("half")).unwrap().is_empty());
}

#[test]
fn a_limit_of_bytes_per_second_is_kept() {
    let Some(server) = Server::s3s() else { return };
    let limit = Some(2_000_000);
    let limits =
        Options { upload_bytes_per_s: limit, download_bytes_per_s: limit, ..server.options() };
    let (slow, bytes) = (store(&limits), vec![7; 2_000_000]);
    let begun = std::time::Instant::now();
    put_bytes(&slow, &name("slow"), &bytes).unwrap();
    let sent_ms = begun.elapsed().as_millis();
    let mut read = Vec::new();
    slow.get(&name("slow"), None).unwrap().read_to_end(&mut read).unwrap();
    let whole_ms = begun.elapsed().as_millis();
    assert_eq!(read, bytes);
    // Never faster; how much slower is the machine's matter.
    assert!(sent_ms >= 800 && whole_ms >= 1_600, "{sent_ms} ms and {whole_ms} ms");
}
