//! Object lock on a real server: what is hidden or covered is still read, and nothing goes early.

use jiff::SignedDuration;
use lifeboat_core::Kind;
use lifeboat_core::store::{Store, get_bytes, put_bytes};
use lifeboat_stores::{BucketStore, LockMode, ObjectLock, Options};

use crate::servers::Server;
use crate::world::{env, name};

const BUCKET: &str = "locked";

/// A bucket with object lock, a store that locks, and one that knows nothing of it.
fn opened() -> Option<(Server, BucketStore, BucketStore)> {
    let server = Server::moto()?;
    server.make_bucket(&format!("/{BUCKET}"), &["x-amz-bucket-object-lock-enabled: true"]);
    let url = format!("s3://{BUCKET}/a b/chat");
    let period = SignedDuration::from_hours(1);
    let object_lock = Some(ObjectLock { mode: LockMode::Compliance, period });
    let locks = Options { object_lock, ..server.options() };
    let locked = BucketStore::open(&env(), &url, &locks).unwrap();
    let plain = BucketStore::open(&env(), &url, &server.options()).unwrap();
    Some((server, locked, plain))
}

#[test]
fn what_is_locked_is_read_through_markers_and_later_versions() {
    let Some((_server, locked, plain)) = opened() else { return };
    let (object, large) = (name("app/a & b.db.zst"), name("app/large.db.zst"));
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|at| (at >> 3) as u8).collect();
    put_bytes(&locked, &object, b"ours").unwrap();
    put_bytes(&locked, &large, &bytes).unwrap();
    // Somebody with the right to put and to delete hides one and covers the other.
    for one in [&object, &large] {
        plain.delete(one).unwrap();
        assert!(plain.head(one).unwrap().is_none());
    }
    put_bytes(&plain, &large, b"another").unwrap();
    let fresh = |list: &[lifeboat_core::store::ObjectInfo]| -> Vec<(String, u64)> {
        list.iter().map(|info| (info.name.to_string(), info.bytes)).collect()
    };
    let listed = fresh(&locked.list(None).unwrap());
    assert_eq!(listed, [("app/a & b.db.zst".into(), 4), ("app/large.db.zst".into(), 20_000_000)]);
    assert_eq!(get_bytes(&locked, &object, 10).unwrap(), b"ours");
    assert!(get_bytes(&locked, &large, 1 << 30).unwrap() == bytes);
    assert_eq!(locked.head(&large).unwrap().unwrap().bytes, 20_000_000);
    let again = put_bytes(&locked, &object, b"once more").unwrap_err();
    assert_eq!(again.kind(), Kind::Refused);
    // Nobody deletes it before its time, we neither.
    let until = locked.locked_until(&object).unwrap().unwrap();
    let refused = locked.delete(&object).unwrap_err();
    assert_eq!(refused.kind(), Kind::Denied, "{refused:?}");
    assert_eq!(get_bytes(&locked, &object, 10).unwrap(), b"ours");
    locked.retain(&object, until + SignedDuration::from_hours(1)).unwrap();
    let longer = locked.locked_until(&object).unwrap().unwrap();
    assert_eq!(longer.duration_since(until), SignedDuration::from_hours(1));
}

#[test]
fn notes_are_not_locked_and_the_probe_is() {
    let Some((_server, locked, _)) = opened() else { return };
    let note = name("tombstones/app/x.json");
    put_bytes(&locked, &note, b"{}").unwrap();
    assert_eq!(locked.locked_until(&note).unwrap(), None);
    locked.delete(&note).unwrap();
    assert!(locked.list(None).unwrap().is_empty());
    put_bytes(&locked, &note, b"{}").unwrap();
    assert_eq!(locked.list(None).unwrap().len(), 1);
    let probe = locked.probe_lock().unwrap().unwrap();
    assert!(!probe.was_deleted && probe.may_mark_deleted, "{probe:?}");
    assert_eq!(locked.list(None).unwrap().len(), 1, "a probe is no object");
}

#[test]
fn a_bucket_without_object_lock_is_told() {
    let Some((server, _, _)) = opened() else { return };
    let period = SignedDuration::from_hours(1);
    let object_lock = Some(ObjectLock { mode: LockMode::Governance, period });
    let options = Options { object_lock, ..server.options() };
    let url = format!("s3://{}/x", crate::servers::BUCKET);
    let store = BucketStore::open(&env(), &url, &options).unwrap();
    let error = put_bytes(&store, &name("app/a.db.zst"), b"x").unwrap_err();
    assert!(error.message().contains("cannot lock app/a.db.zst"), "{error:?}");
    assert!(error.hint_text().unwrap().contains("made with object lock"), "{error:?}");
}
