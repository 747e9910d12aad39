//! Frames: what we write the standard tools read, what they write we read, and damage is seen.

use std::io::{Cursor, Read, Write};
use std::process::{Command, Stdio};

use lifeboat_core::pipeline::{
    Compression, EncodeOptions, Encoded, Expectation, PartReader, decode, encode, read_back_bytes,
    read_back_frames,
};
use lifeboat_core::source::Sink;
use lifeboat_core::store::{ObjectName, Store};
use lifeboat_core::{Error, Kind, Result};
use proptest::prelude::*;

use crate::world::MemoryStore;

const ALL: [Compression; 3] =
    [Compression::None, Compression::Zstd { level: 3 }, Compression::Gzip { level: 6 }];

fn object() -> ObjectName {
    ObjectName::new("a/b").unwrap()
}

/// Text-like bytes that compress about twofold, different everywhere.
fn sample(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let word = (state >> 33) % 5_000;
        bytes.extend(format!("{word:x} ").into_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn pour(bytes: &[u8], portion: usize, sink: &mut dyn Sink) -> Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let buffer = sink.buffer();
        let count = buffer.len().min(rest.len()).min(portion);
        buffer[..count].copy_from_slice(&rest[..count]);
        sink.advance(count)?;
        rest = &rest[count..];
    }
    Ok(())
}

fn options(compression: Compression) -> EncodeOptions {
    EncodeOptions {
        compression,
        block_bytes: Some(4096),
        observer: None,
        threads: 3,
        plain_bytes_estimate: 0,
        seal: None,
    }
}

fn store_it(store: &MemoryStore, bytes: &[u8], compression: Compression) -> Encoded {
    let put = store.put(&object()).unwrap();
    encode(&options(compression), put, &|_| (), |sink| pour(bytes, 70_001, sink)).unwrap()
}

fn read_it(store: &MemoryStore, compression: Compression, threads: usize) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    let expectation = Expectation { object: "x", ..Expectation::default() };
    decode(store.get(&object(), None)?, compression, threads, &expectation, &mut |bytes| {
        plain.extend_from_slice(bytes);
        Ok(())
    })?;
    Ok(plain)
}

fn through(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} is needed by this test: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let mut output = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut output).unwrap();
    feeder.join().unwrap().unwrap();
    assert!(child.wait().unwrap().success(), "{program} failed");
    output
}

#[test]
fn bytes_come_back_at_every_size_and_compression() {
    let mib = 1 << 20;
    for length in [0, 1, 4095, 131_072, 131_073, mib - 1, mib, mib + 1, 5 * mib + 12_345] {
        let bytes = sample(length, length as u64);
        for compression in ALL {
            let store = MemoryStore::default();
            let encoded = store_it(&store, &bytes, compression);
            assert_eq!(encoded.plain_bytes, length as u64);
            assert_eq!(encoded.block_hashes.len(), length.div_ceil(4096));
            for threads in [1, 4] {
                let back = read_it(&store, compression, threads).unwrap();
                assert!(back == bytes, "{length} bytes, {compression}, {threads} threads");
            }
            read_back_bytes(&store, &object(), &encoded, 4, &|_| Ok(())).unwrap();
            let (block, threads) = (Some(4096), 2);
            read_back_frames(
                &store,
                &object(),
                &encoded,
                compression.into(),
                block,
                threads,
                &|_| Ok(()),
            )
            .unwrap();
        }
    }
}

#[test]
fn standard_tools_read_what_we_write() {
    for length in [0, 100, 3_000_000] {
        let bytes = sample(length, 7);
        let store = MemoryStore::default();
        store_it(&store, &bytes, Compression::Zstd { level: 3 });
        assert!(through("zstd", &["-dc"], &store.bytes(&object())) == bytes);
        let store = MemoryStore::default();
        store_it(&store, &bytes, Compression::Gzip { level: 6 });
        assert!(through("gunzip", &["-c"], &store.bytes(&object())) == bytes);
    }
}

#[test]
fn we_read_what_standard_tools_write() {
    let bytes = sample(3_000_000, 8);
    let gzip = through("gzip", &["-c"], &bytes);
    let zstd = through("zstd", &["-c"], &bytes);
    let two_members = [gzip.clone(), gzip.clone()].concat();
    let twice = [bytes.clone(), bytes.clone()].concat();
    for (stored, plain) in [(&gzip, &bytes), (&zstd, &bytes), (&two_members, &twice)] {
        let compression = Compression::detect(stored);
        let reader = Box::new(Cursor::new(stored.clone()));
        let mut back = Vec::new();
        decode(reader, compression, 2, &Expectation::default(), &mut |bytes| {
            back.extend_from_slice(bytes);
            Ok(())
        })
        .unwrap();
        assert!(back == *plain);
    }
}

#[test]
fn foreign_streams_that_are_cut_or_damaged_are_refused() {
    let bytes = sample(1_000_000, 9);
    for stored in [through("gzip", &["-c"], &bytes), through("zstd", &["-c"], &bytes)] {
        let compression = Compression::detect(&stored);
        let refused = |stored: Vec<u8>| {
            let reader = Box::new(Cursor::new(stored));
            decode(reader, compression, 2, &Expectation::default(), &mut |_| Ok(()))
                .unwrap_err()
                .kind()
        };
        for cut in [stored.len() - 1, stored.len() / 2, 20] {
            assert_eq!(refused(stored[..cut].to_vec()), Kind::CheckFailed);
        }
        let mut flipped = stored.clone();
        flipped[stored.len() / 2] ^= 4;
        assert_eq!(refused(flipped), Kind::CheckFailed);
        let mut trailing = stored.clone();
        trailing.extend(b"trailing rubbish");
        assert_eq!(refused(trailing), Kind::CheckFailed);
    }
}

#[test]
fn more_bytes_than_there_is_room_for_are_refused() {
    let bomb = through("gzip", &["-c9"], &vec![0; 50_000_000]);
    let expectation = Expectation { plain_bytes_max: Some(4_000_000), ..Expectation::default() };
    let mut consumed = 0;
    let reader = Box::new(Cursor::new(bomb));
    let refused = decode(reader, Compression::Gzip { level: 6 }, 2, &expectation, &mut |bytes| {
        consumed += bytes.len();
        Ok(())
    });
    assert_eq!(refused.unwrap_err().kind(), Kind::NoSpace);
    assert!(consumed <= 4_000_000);
}

#[test]
fn every_kind_of_damage_is_seen_when_reading_back() {
    let bytes = sample(9_000_000, 10);
    let damages: [fn(&mut Vec<u8>); 4] = [
        |stored| stored[1_000_000] ^= 1,
        |stored| *stored.last_mut().unwrap() ^= 0x80,
        |stored| stored.truncate(stored.len() - 1),
        |stored| stored.extend([0; 3]),
    ];
    for compression in ALL {
        for damage in damages {
            let store = MemoryStore::default();
            let encoded = store_it(&store, &bytes, compression);
            store.damage(&object(), damage);
            let seen = read_back_bytes(&store, &object(), &encoded, 2, &|_| Ok(())).unwrap_err();
            assert_eq!(seen.kind(), Kind::CheckFailed);
            let block = Some(4096);
            let seen = read_back_frames(
                &store,
                &object(),
                &encoded,
                compression.into(),
                block,
                2,
                &|_| Ok(()),
            );
            assert_eq!(seen.unwrap_err().kind(), Kind::CheckFailed);
        }
    }
}

#[test]
fn a_page_that_differs_is_named() {
    let bytes = sample(1_000_000, 11);
    let store = MemoryStore::default();
    let encoded = store_it(&store, &bytes, Compression::None);
    let mut hashes = encoded.block_hashes.to_vec();
    hashes[41] = [0; 16];
    let blocks = Some((4096, &hashes[..]));
    let expectation = Expectation { object: "x", blocks, ..Expectation::default() };
    let reader = store.get(&object(), None).unwrap();
    let error = decode(reader, Compression::None, 2, &expectation, &mut |_| Ok(())).unwrap_err();
    assert!(format!("{error:?}").contains("page 42"), "{error:?}");
}

#[test]
fn a_failing_producer_or_store_leaves_nothing() {
    let bytes = sample(8_000_000, 12);
    let store = MemoryStore::default();
    let put = store.put(&object()).unwrap();
    let failed = encode(&options(Compression::DEFAULT), put, &|_| (), |sink| {
        pour(&bytes, 4096, sink)?;
        Err(Error::new(Kind::SourceUnavailable, "the source went away"))
    });
    assert_eq!(failed.err().unwrap().kind(), Kind::SourceUnavailable);
    assert!(store.list(None).unwrap().is_empty());
    for compression in ALL {
        let full = MemoryStore::with_room(100_000);
        let put = full.put(&object()).unwrap();
        let failed = encode(&options(compression), put, &|_| (), |sink| pour(&bytes, 4096, sink));
        assert_eq!(failed.err().unwrap().kind(), Kind::NoSpace, "{compression}");
        assert!(full.list(None).unwrap().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_make_the_decoder_panic_or_hang(
        mut stored in proptest::collection::vec(any::<u8>(), 0..2_000),
        cut_at in 0_usize..200_000,
        kind in 0_usize..3,
        real in any::<bool>(),
    ) {
        let compression = ALL[kind];
        if real {
            let store = MemoryStore::default();
            store_it(&store, &sample(300_000, stored.len() as u64), compression);
            let mut good = store.bytes(&object());
            let at = cut_at.min(good.len());
            good.splice(at..(at + stored.len() / 2).min(good.len()), stored.iter().copied());
            stored = good;
        }
        let expectation = Expectation { plain_bytes_max: Some(1 << 22), ..Expectation::default() };
        let reader = Box::new(Cursor::new(stored));
        let _ = decode(reader, compression, 2, &expectation, &mut |_| Ok(()));
    }
}

#[test]
fn parts_are_read_without_the_rest_and_damage_is_seen() {
    let plain = sample(1_000_001, 9);
    for compression in ALL {
        let store = MemoryStore::default();
        let encoded = store_it(&store, &plain, compression);
        let sizes = (encoded.stored_bytes, encoded.plain_bytes);
        let open = || PartReader::open(&store, &object(), compression, sizes).unwrap().unwrap();
        let mut reader = open();
        for offset in [0, 4096, 131_000, 900_000, 131_072, 12_288, 995_904, 999_999, 1_000_000] {
            for length in [1, 4096, 300_000] {
                let mut part = vec![0; length.min(plain.len() - offset)];
                reader.read(offset as u64, &mut part).unwrap();
                assert!(part == plain[offset..offset + part.len()], "{compression} {offset}");
            }
        }
        let mut at = 0;
        while at < plain.len() {
            let some = reader.some(at as u64, 300_000).unwrap();
            assert!(!some.is_empty() && plain[at..].starts_with(some), "{compression} {at}");
            at += some.len();
        }
        assert_eq!(reader.some(at as u64, 1).unwrap_err().kind(), Kind::CheckFailed);
        let beyond = reader.read(1_000_000, &mut [0; 2]).unwrap_err();
        assert_eq!(beyond.kind(), Kind::CheckFailed);
        if compression != Compression::None {
            // Bytes without frames have nothing to check them by: their readers have hashes.
            store.damage(&object(), |bytes| bytes[100] ^= 1);
            assert_eq!(open().read(0, &mut [0; 9]).unwrap_err().kind(), Kind::CheckFailed);
        }
        store.damage(&object(), |bytes| bytes.truncate(5));
        let cut = PartReader::open(&store, &object(), compression, sizes);
        let cut = cut.and_then(|reader| reader.unwrap().read(0, &mut [0; 9])).unwrap_err();
        assert_eq!(cut.kind(), Kind::CheckFailed, "{compression}");
    }
}

#[test]
fn a_stream_of_another_program_has_no_parts() {
    let plain = sample(400_000, 4);
    for (compression, program) in
        [(Compression::Zstd { level: 3 }, "zstd"), (Compression::Gzip { level: 6 }, "gzip")]
    {
        let store = MemoryStore::default();
        let stored = through(program, &["-c"], &plain);
        lifeboat_core::store::put_bytes(&store, &object(), &stored).unwrap();
        let sizes = (stored.len() as u64, plain.len() as u64);
        let reader = PartReader::open(&store, &object(), compression, sizes).unwrap();
        assert!(reader.is_none(), "{program}");
    }
}
