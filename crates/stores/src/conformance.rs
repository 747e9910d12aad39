//! The suite that every store passes: what the repository relies on, asked of a real store.
//!
//! A store's own tests call [`run`] with a store whose repository is empty.

use std::io::{Read, Write};

use lifeboat_core::parallel::in_parallel;
use lifeboat_core::store::{ObjectName, Store, get_bytes, put_bytes};
use lifeboat_core::{Error, Kind, Result};

/// Runs the whole suite. Fails at the first thing that a store gets wrong.
pub fn run(store: &dyn Store) -> Result<()> {
    run_one_writer(store)?;
    one_of_many_writers_wins(store)
}

/// The suite without writers that meet, for a server that looks first and writes then.
pub fn run_one_writer(store: &dyn Store) -> Result<()> {
    an_empty_store_is_empty(store)?;
    objects_come_back_as_they_were(store)?;
    nothing_is_overwritten(store)?;
    large_objects_are_put_whole(store)?;
    dropped_objects_never_existed(store)?;
    ranges_are_exact(store)?;
    lists_are_sorted_and_whole(store)?;
    deleted_is_gone_and_twice_is_fine(store)
}

fn name(text: &str) -> Result<ObjectName> {
    ObjectName::new(text)
}

fn expect(holds: bool, what: &str) -> Result<()> {
    match holds {
        true => Ok(()),
        false => Err(Error::new(Kind::Failed, format!("the store does not conform: {what}"))),
    }
}

fn an_empty_store_is_empty(store: &dyn Store) -> Result<()> {
    expect(store.list(None)?.is_empty(), "an empty store lists objects")?;
    expect(store.list(Some("a"))?.is_empty(), "a missing folder lists objects")?;
    store.delete(&name("a/b")?)?;
    expect(store.head(&name("a/b")?)?.is_none(), "head finds what is not there")?;
    let missing = store.get(&name("a/b")?, None).err().map(|error| error.kind());
    expect(missing == Some(Kind::NotCovered), "get of a missing object is not `NotCovered`")
}

fn objects_come_back_as_they_were(store: &dyn Store) -> Result<()> {
    let large: Vec<u8> = (0..3_000_001_u32).map(|i| (i % 251) as u8).collect();
    let names = [
        "one",
        "folder/two words",
        "folder/sub/дерево-木-ñ.db.zst",
        "folder/%41 +&=?#",
        "folder/a'b\"c;d,e@f$g!h(i)j*k~l:m",
        "folder/%2F%2E%2E",
    ];
    for text in names {
        put_bytes(store, &name(text)?, &large)?;
        expect(get_bytes(store, &name(text)?, 1 << 30)? == large, "bytes differ")?;
        let info = store.head(&name(text)?)?;
        expect(info.is_some_and(|info| info.bytes == 3_000_001), "head has the wrong size")?;
    }
    put_bytes(store, &name("empty")?, b"")?;
    expect(get_bytes(store, &name("empty")?, 10)?.is_empty(), "an empty object is not empty")
}

fn nothing_is_overwritten(store: &dyn Store) -> Result<()> {
    let object = name("once")?;
    put_bytes(store, &object, b"first")?;
    let again = put_bytes(store, &object, b"second").err().map(|error| error.kind());
    expect(again == Some(Kind::Refused), "a second put of a name is not `Refused`")?;
    let (mut a, mut b) = (store.put(&name("race")?)?, store.put(&name("race")?)?);
    let written = a.write_all(b"a").and_then(|()| b.write_all(b"b"));
    expect(written.is_ok(), "two puts of one name cannot be open at once")?;
    a.commit()?;
    expect(b.commit().is_err(), "two puts of one name were both committed")?;
    expect(get_bytes(store, &name("race")?, 10)? == b"a", "the first put did not win")?;
    expect(get_bytes(store, &object, 10)? == b"first", "an object was overwritten")
}

/// Writers that meet: each has its own bytes, at most one may have been told that it won, and its
/// bytes are what is there.
pub fn one_of_many_writers_wins(store: &dyn Store) -> Result<()> {
    for round in 0..5 {
        let object = name(&format!("meeting/{round}"))?;
        let barrier = std::sync::Barrier::new(4);
        let won: Vec<Option<u8>> = std::thread::scope(|scope| {
            let write = |writer: u8| {
                let (barrier, object) = (&barrier, &object);
                move || {
                    barrier.wait();
                    put_bytes(store, object, &[writer; 1000]).is_ok().then_some(writer)
                }
            };
            let writers: Vec<_> = (0..4).map(|writer| scope.spawn(write(writer))).collect();
            writers.into_iter().map(|writer| writer.join().unwrap_or(None)).collect()
        });
        let won: Vec<u8> = won.into_iter().flatten().collect();
        expect(won.len() <= 1, "two writers of one name were told that they won")?;
        let there = match get_bytes(store, &object, 2000) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == Kind::NotCovered => None,
            Err(error) => return Err(error),
        };
        let must = won.first().map(|writer| vec![*writer; 1000]);
        expect(there == must, "what is there is not what the winner wrote")?;
    }
    Ok(())
}

/// Objects that a store over a network sends in several parts.
fn large_objects_are_put_whole(store: &dyn Store) -> Result<()> {
    let bytes: Vec<u8> = (0..21_000_003_u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
    let object = name("large/object")?;
    let write = |put: &mut Box<dyn lifeboat_core::store::Put>, bytes: &[u8]| {
        let written = bytes.chunks(1 << 20).try_for_each(|chunk| put.write_all(chunk));
        written.map_err(|error| Error::io(Kind::StoreUnavailable, "cannot write", error))
    };
    let mut dropped = store.put(&object)?;
    write(&mut dropped, &bytes)?;
    expect(store.list(Some("large"))?.is_empty(), "a large object is listed before its commit")?;
    drop(dropped);
    expect(store.list(Some("large"))?.is_empty(), "a large object is listed after it was dropped")?;
    expect(store.unfinished("large")?.is_empty(), "a dropped object is left unfinished")?;
    let (mut first, mut second) = (store.put(&object)?, store.put(&object)?);
    write(&mut first, &bytes)?;
    write(&mut second, &bytes[1..])?;
    first.commit()?;
    let again = second.commit().err().map(|error| error.kind());
    expect(again == Some(Kind::Refused), "a second large object of a name is not `Refused`")?;
    let info = store.head(&object)?;
    expect(info.is_some_and(|info| info.bytes == 21_000_003), "a large object has another size")?;
    expect(get_bytes(store, &object, 1 << 30)? == bytes, "the bytes of a large object differ")?;
    // Across the borders of what is fetched at once, and beyond the end.
    for (start, end) in [(4_194_303, 12_582_914), (20_999_999, 30_000_000), (8_388_608, 8_388_609)]
    {
        let mut part = Vec::new();
        let read = store.get(&object, Some(start..end))?.take(end - start).read_to_end(&mut part);
        let must = &bytes[start as usize..(end as usize).min(bytes.len())];
        expect(read.is_ok() && part == must, "a range of a large object is not exact")?;
    }
    store.delete(&object)
}

fn dropped_objects_never_existed(store: &dyn Store) -> Result<()> {
    let mut put = store.put(&name("dropped/object")?)?;
    expect(put.write_all(&[1; 100_000]).is_ok(), "cannot write")?;
    expect(store.head(&name("dropped/object")?)?.is_none(), "visible before its commit")?;
    expect(store.list(Some("dropped"))?.is_empty(), "listed before its commit")?;
    drop(put);
    expect(store.list(Some("dropped"))?.is_empty(), "listed after it was dropped")
}

fn ranges_are_exact(store: &dyn Store) -> Result<()> {
    put_bytes(store, &name("range")?, b"0123456789")?;
    for (range, must) in [(0..10, "0123456789"), (3..5, "34"), (9..10, "9"), (4..4, "")] {
        let mut text = String::new();
        let read = store.get(&name("range")?, Some(range))?.read_to_string(&mut text);
        expect(read.is_ok() && text == must, "a range is not exact")?;
    }
    Ok(())
}

fn lists_are_sorted_and_whole(store: &dyn Store) -> Result<()> {
    let indexes: Vec<u32> = (0..1_100).rev().collect();
    let put = |index: &u32| put_bytes(store, &name(&format!("many/{index:04}"))?, b"x");
    in_parallel(&indexes, 16, put).into_iter().collect::<Result<()>>()?;
    put_bytes(store, &name("many-other")?, b"x")?;
    let listed: Vec<String> =
        store.list(Some("many"))?.into_iter().map(|info| info.name.to_string()).collect();
    let must: Vec<String> = (0..1_100).map(|index| format!("many/{index:04}")).collect();
    expect(listed == must, "a list of 1,100 objects is not whole and sorted")?;
    let all = store.list(None)?;
    expect(all.is_sorted_by(|a, b| a.name < b.name), "the list of all is not sorted")?;
    let others = ["one", "empty", "once", "race", "range"].len() + 5;
    expect(all.len() == 1_101 + others, "the list of all is not whole")
}

fn deleted_is_gone_and_twice_is_fine(store: &dyn Store) -> Result<()> {
    store.delete(&name("one")?)?;
    store.delete(&name("one")?)?;
    expect(store.head(&name("one")?)?.is_none(), "a deleted object is still there")?;
    put_bytes(store, &name("one")?, b"again")
}
