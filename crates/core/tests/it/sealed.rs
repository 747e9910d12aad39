//! Seals: what is sealed opens with its keys alone, with us and with `age`, and damage is seen.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use lifeboat_core::pipeline::{
    Compression, EncodeOptions, Encoded, Expectation, Wrapping, decode, encode, read_back_bytes,
    read_back_frames,
};
use lifeboat_core::seal::{Identity, Opener, Passphrase, Recipients, is_sealed, protect};
use lifeboat_core::source::Sink;
use lifeboat_core::store::{ObjectName, Store};
use lifeboat_core::{Kind, Result};

use crate::world::MemoryStore;

const ALL: [Compression; 3] =
    [Compression::None, Compression::Zstd { level: 3 }, Compression::Gzip { level: 6 }];

fn object() -> ObjectName {
    ObjectName::new("a/b.age").unwrap()
}

fn sample(length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| ((at * at) >> 7) as u8).collect()
}

fn store_it(store: &MemoryStore, bytes: &[u8], compression: Compression, to: &[String]) -> Encoded {
    let options = EncodeOptions {
        compression,
        block_bytes: Some(4096),
        observer: None,
        threads: 3,
        plain_bytes_estimate: 0,
        seal: Some(Arc::new(Recipients::parse(to).unwrap())),
    };
    let put = store.put(&object()).unwrap();
    encode(&options, put, &|_| (), |sink: &mut dyn Sink| {
        for piece in bytes.chunks(60_000) {
            let mut rest = piece;
            while !rest.is_empty() {
                let buffer = sink.buffer();
                let count = buffer.len().min(rest.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                sink.advance(count)?;
                rest = &rest[count..];
            }
        }
        Ok(())
    })
    .unwrap()
}

fn wrapping(compression: Compression, identity: &Identity, to: &[String]) -> Wrapping {
    Wrapping { compression, opener: Some(Opener::new(Arc::new(identity.clone()), to)) }
}

fn read_it(store: &MemoryStore, wrapping: Wrapping, encoded: &Encoded) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    let expectation = Expectation {
        object: "x",
        stored: Some((encoded.stored_bytes, encoded.stored_sha256.to_string())),
        plain: Some((encoded.plain_bytes, encoded.plain_sha256.to_string())),
        ..Expectation::default()
    };
    decode(store.get(&object(), None)?, wrapping, 2, &expectation, &mut |bytes| {
        plain.extend_from_slice(bytes);
        Ok(())
    })?;
    Ok(plain)
}

#[test]
fn bytes_come_back_at_every_size_and_compression() {
    let identity = Identity::generate();
    let to = identity.recipients();
    // The sizes of age's own pieces are among them.
    for length in [0, 1, 65_535, 65_536, 65_537, 131_072, 3_000_001] {
        let bytes = sample(length);
        for compression in ALL {
            let store = MemoryStore::default();
            let encoded = store_it(&store, &bytes, compression, to);
            assert!(is_sealed(&store.bytes(&object())));
            assert_eq!(encoded.stored_bytes, store.bytes(&object()).len() as u64);
            let wrapping = wrapping(compression, &identity, to);
            assert!(read_it(&store, wrapping.clone(), &encoded).unwrap() == bytes, "{length}");
            // The stored bytes can be compared without any key.
            read_back_bytes(&store, &object(), &encoded, 4, &|_| Ok(())).unwrap();
            let progress = |_| Ok(());
            read_back_frames(&store, &object(), &encoded, wrapping, Some(4096), 2, &progress)
                .unwrap();
        }
    }
}

#[test]
fn damage_is_seen_wherever_it_is_and_is_not_a_wrong_key() {
    let identity = Identity::generate();
    let to = identity.recipients();
    let bytes = sample(1_000_000);
    for compression in ALL {
        let store = MemoryStore::default();
        let encoded = store_it(&store, &bytes, compression, to);
        let whole = store.bytes(&object());
        let damages: [fn(&mut Vec<u8>); 8] = [
            |bytes| bytes[5] ^= 1,
            |bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x80;
            },
            |bytes| *bytes.last_mut().unwrap() ^= 1,
            |bytes| bytes.truncate(bytes.len() - 1),
            |bytes| bytes.truncate(bytes.len() / 2),
            |bytes| bytes.truncate(30),
            Vec::clear,
            |bytes| bytes.extend_from_slice(b"more"),
        ];
        for (number, damage) in damages.iter().enumerate() {
            store.damage(&object(), |bytes| {
                *bytes = whole.clone();
                damage(bytes);
            });
            let wrapping = wrapping(compression, &identity, to);
            // Also where nobody knows a hash: a file that was found somewhere.
            let error = decode(
                store.get(&object(), None).unwrap(),
                wrapping.clone(),
                2,
                &Expectation { object: "x", ..Expectation::default() },
                &mut |_| Ok(()),
            )
            .unwrap_err();
            assert_eq!(error.kind(), Kind::CheckFailed, "{compression} {number}: {error:?}");
            let error = read_it(&store, wrapping, &encoded).unwrap_err();
            assert_eq!(error.kind(), Kind::CheckFailed, "{compression} {number}: {error:?}");
            assert!(read_back_bytes(&store, &object(), &encoded, 2, &|_| Ok(())).is_err());
        }
    }
}

#[test]
fn another_key_opens_nothing() {
    let (identity, other) = (Identity::generate(), Identity::generate());
    let to = identity.recipients();
    let store = MemoryStore::default();
    let encoded = store_it(&store, &sample(100_000), Compression::DEFAULT, to);
    let wrapping = wrapping(Compression::DEFAULT, &other, to);
    let error = read_it(&store, wrapping, &encoded).unwrap_err();
    assert_eq!(error.kind(), Kind::WrongKey, "{error:?}");
    assert!(error.message().contains(&to[0]), "{error}");
}

fn age(arguments: &[&str], folder: &Path) -> Vec<u8> {
    let output = Command::new("age").args(arguments).current_dir(folder).output();
    let output = output.expect("age is needed by this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Keys as people have them: of age-keygen, and of SSH with and without a passphrase.
#[test]
fn age_opens_what_we_seal_and_we_open_what_age_seals() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let run = |program: &str, arguments: &[&str]| {
        let done = Command::new(program).args(arguments).current_dir(folder.path()).output();
        let done = done.unwrap_or_else(|error| panic!("{program} is needed: {error}"));
        assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
    };
    run("age-keygen", &["-o", "native"]);
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", "ssh"]);
    run("ssh-keygen", &["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", "rsa"]);
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "open sesame", "-f", "protected"]);
    let ask = |_: &str| Ok(Passphrase::new("open sesame".into()));
    let read = |name: &str| Identity::parse(&fs::read(path(name)).unwrap(), name, &ask).unwrap();
    let plain = sample(200_000);
    fs::write(path("plain"), &plain).unwrap();
    for name in ["native", "ssh", "rsa", "protected"] {
        let identity = read(name);
        let to = identity.recipients();
        let store = MemoryStore::default();
        let encoded = store_it(&store, &plain, Compression::None, to);
        fs::write(path("ours.age"), store.bytes(&object())).unwrap();
        // It asks for a passphrase on a terminal alone.
        if name != "protected" {
            assert!(age(&["-d", "-i", name, "ours.age"], folder.path()) == plain, "{name}");
        }
        assert!(
            read_it(&store, wrapping(Compression::None, &identity, to), &encoded).unwrap() == plain
        );
        for form in [&["-e"][..], &["-e", "-a"]] {
            let arguments = [form, &["-r", &to[0], "-o", "theirs.age", "plain"]].concat();
            age(&arguments, folder.path());
            let mut back = Vec::new();
            let reader = fs::File::open(path("theirs.age")).unwrap();
            let wrapping = wrapping(Compression::None, &identity, to);
            decode(Box::new(reader), wrapping, 2, &Expectation::default(), &mut |bytes| {
                back.extend_from_slice(bytes);
                Ok(())
            })
            .unwrap();
            assert!(back == plain, "{name}");
            fs::remove_file(path("theirs.age")).unwrap();
        }
    }
    let wrong = |_: &str| Ok(Passphrase::new("guessed".into()));
    let content = fs::read(path("protected")).unwrap();
    let error = Identity::parse(&content, "protected", &wrong).unwrap_err();
    assert_eq!(error.kind(), Kind::WrongKey);
}

#[test]
fn a_protected_key_is_one_that_age_knows() {
    let secret = Identity::generate();
    let file = protect(&secret.to_file("now"), &Passphrase::new("open sesame".into())).unwrap();
    assert!(file.starts_with("-----BEGIN AGE ENCRYPTED FILE-----\n"), "{file}");
    assert!(file.ends_with("-----END AGE ENCRYPTED FILE-----\n"), "{file}");
}
