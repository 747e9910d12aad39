//! Prune over a repository with real backups: two phases, gates, what a person says, crashes at
//! every point, and years of it beside files of strangers.

mod world;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::{SignedDuration, Timestamp};
use lifeboat_core::Kind;
use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::env::{CRASH_POINTS, Clock as _};
use lifeboat_core::manifest::Condition;
use lifeboat_core::marks::{self, MarkKind, PruneRecord, Tombstone};
use lifeboat_core::policy::{Hold, Keep};
use lifeboat_core::prune::{self, Action, PruneRequest};
use lifeboat_core::store::{ObjectName, Space};

use world::{FOLDER, Holding, World};

fn hours(count: i64) -> SignedDuration {
    SignedDuration::from_hours(count)
}

fn keep_last(last: u32) -> Keep {
    Keep { last, ..Keep::default() }
}

fn listed(entry: &SourceEntry) -> Vec<&str> {
    entry.backups.iter().map(|backup| backup.name.as_str()).collect()
}

#[test]
fn what_a_kept_backup_builds_on_is_never_removed() {
    let world = World::new(keep_last(4));
    let backups: Vec<_> = (0..8)
        .map(|_| {
            world.pass(24);
            world.backup()
        })
        .collect();
    // A chain over the limit of the rule: the oldest that stays builds on two that would go.
    world.build_on(&backups[4], &backups[2]);
    world.build_on(&backups[2], &backups[0]);
    let marked = |plan: &prune::PrunePlan| {
        plan.with(Action::Mark).map(|item| item.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(marked(&world.plan()), [backups[1].name.as_str(), &backups[3].name]);
    world.prune(None).unwrap();
    // One that already had a tombstone is taken back for it.
    world.build_on(&backups[5], &backups[3]);
    let plan = world.plan();
    let unmarked: Vec<_> = plan.with(Action::Unmark).map(|item| item.name.as_str()).collect();
    assert_eq!(unmarked, [backups[3].name.as_str()]);
    // Once nothing needs them they go like all others.
    world.days(4);
    world.prune_approved().unwrap();
    let entry = world.entry();
    assert_eq!(listed(&entry).len(), 4, "{:?}", listed(&entry));
    world.assert_whole("after all");
}

#[test]
fn a_tombstone_first_and_the_bytes_after_the_grace_time() {
    let world = World::new(keep_last(4));
    world.days(6);
    let before = world.names();
    let plan = world.plan();
    assert_eq!(plan.with(Action::Mark).count(), 2);
    assert_eq!(plan.with(Action::Mark).next().unwrap().reasons, ["no rule keeps it"]);
    let pruned = world.prune(None).unwrap();
    // The newest first.
    assert_eq!(pruned.marked, ["app-20250110-140000", "app-20250109-140000"]);
    assert_eq!(pruned.freed_bytes, 0);
    let entry = world.entry();
    assert_eq!((entry.backups.len(), entry.removed.len()), (4, 2));
    assert!(world.names().is_superset(&before));
    // Not a day too early, whatever is asked.
    world.days(6);
    assert_eq!(world.plan().with(Action::Wait).count(), 2);
    assert_eq!(world.plan().with(Action::Delete).count(), 0);
    world.prune_approved().unwrap();
    world.days(1);
    world.pass(1);
    let freed = world.plan().bytes_of(Action::Delete);
    let pruned = world.prune_approved().unwrap();
    assert_eq!(pruned.deleted, ["app-20250110-140000", "app-20250109-140000"]);
    assert!(freed > 0 && pruned.freed_bytes == freed);
    let gone = |name: &String| name.contains("20250109") || name.contains("20250110");
    assert_eq!(world.names().iter().find(|name| gone(name)), None);
    world.assert_whole("after all");
    let same = serde_json::to_value(world.plan()).unwrap();
    assert_eq!(same["items"][0]["action"], "wait");
}

#[test]
fn locks_are_extended_while_a_backup_is_kept_and_what_is_locked_stays() {
    use lifeboat_core::retention::extend;
    let world = World::new(keep_last(4));
    world.days(6);
    world.locks();
    let names: Vec<String> = world.entry().backups.iter().map(|one| one.name.clone()).collect();
    let until = |name: &String| world.locked_until(&format!("{name}.json"));
    let again = || extend(&world.env, &world.repository, FOLDER).unwrap();
    // Manifests, artifacts, `source.json` and the two files of the repository.
    assert_eq!(again(), 6 * 2 + 3);
    assert_eq!(again(), 0, "locked anew before half of the time is over");
    world.prune(None).unwrap();
    world.days(6);
    assert!(again() > 0);
    // What has a tombstone is not: its lock ends.
    assert!(until(&names[0]) < until(&names[3]), "{:?}", until(&names[0]));
    world.days(2);
    let pruned = world.prune_approved().unwrap();
    assert!(pruned.deleted.is_empty(), "{pruned:?}");
    assert_eq!(pruned.locked.len(), 2, "{pruned:?}");
    world.assert_whole("while they are locked");
    // Taken back, it is locked again at once, although half of the time is not over.
    prune::undelete(&world.repository, &world.entry(), &names[0]).unwrap();
    assert!(again() > 0);
    let newest = world.entry().backups.last().unwrap().name.clone();
    assert_eq!(until(&names[0]), until(&newest));
    world.days(4);
    let pruned = world.prune_approved().unwrap();
    assert!(pruned.deleted.contains(&names[1]), "{pruned:?}");
    assert!(!pruned.deleted.contains(&names[0]));
    world.assert_whole("at the end");
}

#[test]
fn a_log_goes_with_its_backup_and_with_no_other() {
    let mut world = World::new(keep_last(4));
    world.days(6);
    let log = |day: &str| format!("{FOLDER}/log/app-{day}-140000/0/0000000000-0000000001.pagelog");
    for day in ["20250109", "20250110", "20250112"] {
        world.put(&log(day), b"what changed");
    }
    // As long as its log holds what is kept, no rule takes the backup that the log follows.
    world.levels = Some(Arc::new(Holding(&["app-20250109-140000", "app-20250110-140000"])));
    let plan = world.plan();
    assert_eq!(plan.with(Action::Mark).count(), 0);
    let held = plan.with(Action::Keep).next().unwrap();
    assert_eq!(held.reasons, ["its log is kept"]);
    world.levels = None;
    world.prune(None).unwrap();
    assert!(world.names().contains(&log("20250109")), "its bytes wait for the grace time");
    world.days(6);
    let freed = world.plan().bytes_of(Action::Delete);
    world.days(1);
    world.pass(1);
    let freed = freed.max(world.plan().bytes_of(Action::Delete));
    assert!(world.prune_approved().unwrap().freed_bytes >= freed + 2 * 12);
    let names = world.names();
    assert!(!names.contains(&log("20250109")) && !names.contains(&log("20250110")));
    assert!(names.contains(&log("20250112")));
    world.assert_whole("after all");
}

#[test]
fn a_nearly_full_store_shortens_the_grace_time_and_never_ends_it() {
    let mut world = World::new(keep_last(4));
    world.days(6);
    assert_eq!(world.plan().grace_shortened, None);
    world.prune(None).unwrap();
    world.pass(23);
    let full = |used_bytes| Some(Space { used_bytes, free_bytes: 100 - used_bytes });
    world.space = full(100);
    // Not even with nothing left: a day to take it back stays.
    let plan = world.plan();
    assert_eq!((plan.grace, plan.with(Action::Wait).count()), (hours(24), 2));
    assert_eq!(plan.grace_shortened.as_deref(), Some("the store is 100 % full"));
    world.space = full(79);
    world.pass(2);
    world.backup();
    assert_eq!(world.plan().with(Action::Wait).count(), 2);
    world.space = full(80);
    assert_eq!(world.plan().with(Action::Delete).count(), 2);
    let pruned = world.prune_approved().unwrap();
    assert_eq!((pruned.deleted.len(), pruned.marked.len()), (2, 1));
    // What was marked then goes after a day, also when there is room again.
    let marked = world.entry().tombstones[0].clone();
    assert_eq!(marked.delete_after, marked.marked_at + hours(24));
    world.space = full(10);
    world.days(2);
    assert_eq!(world.prune(None).unwrap().deleted, [marked.backup]);
    world.assert_whole("after all");
}

#[test]
fn a_grace_time_that_ends_between_plan_and_deed_changes_nothing() {
    let world = World::new(keep_last(4));
    world.days(5);
    world.prune(None).unwrap();
    world.days(7);
    let due = world.entry().tombstones[0].delete_after;
    // A moment before it; looking takes a millisecond each time.
    let before = due.as_millisecond() - 1;
    world.clock.0.store(before, Ordering::SeqCst);
    let plan = world.plan();
    assert_eq!((plan.with(Action::Wait).count(), plan.with(Action::Delete).count()), (1, 0));
    world.clock.0.store(due.as_millisecond() + 10, Ordering::SeqCst);
    let request = world.request();
    let id = plan.id.clone();
    let pruned =
        prune::apply(&world.env, &world.repository, &request, &plan, Some(&id), None).unwrap();
    assert!(pruned.deleted.is_empty() && !pruned.marked.is_empty());
}

#[test]
fn ten_records_of_prunes_stay() {
    let world = World::new(keep_last(4));
    world.days(4);
    let records = || -> Vec<String> {
        world.names().into_iter().filter(|name| name.starts_with("prunes/")).collect()
    };
    let mut last = Vec::new();
    for count in 1..=15 {
        world.days(1);
        world.prune(None).unwrap();
        let now = records();
        assert_eq!(now.len(), count.min(10));
        // The newest is never among those that go: the next prune compares with it.
        assert!(now.last() > last.last());
        last = now;
    }
    // A run that was killed before it thinned them leaves more, and the next one mends it.
    world.days(1);
    world.crash.arm("prune.after_record", 0);
    world.prune(None).unwrap_err();
    world.crash.reboot();
    assert_eq!(records().len(), 11);
    world.days(1);
    world.prune(None).unwrap();
    assert_eq!(records().len(), 10);
}

#[test]
fn nothing_goes_without_a_newer_good_backup() {
    let world = World::new(keep_last(4));
    world.days(6);
    world.prune(None).unwrap();
    // Backups stop. A week later the bytes would go: they stay, at any price.
    world.pass(24 * 30);
    assert_eq!(world.plan().with(Action::Delete).count(), 2);
    for approval in [None, Some(world.plan().id)] {
        let error = world.prune(approval.as_deref()).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.message().contains("no good backup is newer than"), "{error}");
    }
    world.backup();
    assert_eq!(world.prune(None).unwrap().deleted.len(), 2);
}

#[test]
fn nothing_goes_while_the_clock_is_behind_the_last_prune() {
    let world = World::new(keep_last(4));
    world.days(6);
    world.prune(None).unwrap();
    // Between the newest backup at the last prune and that prune there is no time for more
    // backups, so the newest good one is newer by its date and the clock is behind all the same.
    world.days(2);
    let now = world.clock.now();
    let last = world.names().into_iter().rfind(|name| name.starts_with("prunes/")).unwrap();
    world.store.damage(&ObjectName::new(last.clone()).unwrap(), |bytes| {
        let mut record: PruneRecord = serde_json::from_slice(bytes).unwrap();
        record.pruned_at = now + hours(1);
        *bytes = marks::to_bytes(&record);
    });
    let error = world.prune_approved().unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.message().contains("the clock says"), "{error}");
    // A person whose clock was ahead then must know what holds everything up.
    assert!(error.message().contains(&format!("remove {last} from")), "{error}");
    world.pass(2);
    world.prune(None).unwrap();
}

#[test]
fn more_than_half_and_another_policy_need_an_approval() {
    let mut world = World::new(keep_last(4));
    world.days(9);
    let error = world.prune(None).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.message().contains("5 of 9 good backups"), "{error}");
    assert!(error.hint_text().unwrap().contains(&world.plan().id));
    assert_eq!(world.prune(Some("0123456789ab")).unwrap_err().kind(), Kind::Refused);
    assert_eq!(world.entry().backups.len(), 9);
    // The id stays as long as what it approves.
    let id = world.plan().id;
    world.pass(1);
    assert_eq!(world.prune(Some(&id)).unwrap().marked.len(), 5);
    world.days(2);
    world.keep = keep_last(5);
    let error = world.prune(None).unwrap_err();
    assert!(error.message().contains("has changed since the last prune"), "{error}");
    // The more generous policy takes one back that had a tombstone.
    world.keep = keep_last(7);
    assert_eq!(world.plan().with(Action::Unmark).count(), 1);
    assert_eq!(world.prune(None).unwrap().unmarked, ["app-20250113-140000"]);
    assert_eq!(world.entry().backups.len(), 7);
}

#[test]
fn a_backup_of_the_future_stops_no_prune_and_goes_with_none() {
    let world = World::new(keep_last(3));
    world.days(1);
    world.pass(24 * 400);
    let future = world.backup().name;
    world.clock.0.fetch_sub(400 * 24 * 3_600_000, Ordering::SeqCst);
    world.days(5);
    let pruned = world.prune(None).unwrap();
    assert_eq!(pruned.marked.len(), 3);
    let plan = world.plan();
    let item = plan.items.iter().find(|item| item.name == future).unwrap();
    assert_eq!((item.action, item.reasons[0].as_str()), (Action::Keep, "dated in the future"));
}

#[test]
fn a_plan_that_no_longer_holds_is_not_applied() {
    let world = World::new(keep_last(4));
    world.days(6);
    let (request, plan) = (world.request(), world.plan());
    world.days(1);
    let applied = prune::apply(&world.env, &world.repository, &request, &plan, None, None);
    assert_eq!(applied.unwrap_err().kind(), Kind::Refused);
    assert_eq!(world.entry().backups.len(), 7);
    let short = PruneRequest { grace: hours(1), ..request };
    let refused = prune::plan(&world.env, &world.repository, &short).unwrap_err();
    assert_eq!(refused.kind(), Kind::Usage);
}

#[test]
fn what_a_person_says_counts() {
    let world = World::new(keep_last(3));
    world.pass(24);
    let made_with = world.try_backup(Some("before the upgrade"), "zstd").unwrap();
    world.days(6);
    let entry = world.entry();
    let (first, second) = (&entry.backups[1], &entry.backups[2]);
    let until = Some(world.clock.now() + hours(24 * 10));
    let hold = |until| Hold { reason: "for the auditors".into(), until };
    prune::pin(&world.env, &world.repository, &entry, first, &hold(None)).unwrap();
    prune::pin(&world.env, &world.repository, &entry, second, &hold(until)).unwrap();
    let past = hold(Some(made_with.taken_at));
    let refused = prune::pin(&world.env, &world.repository, &entry, first, &past).unwrap_err();
    assert_eq!(refused.kind(), Kind::Usage);
    let plan = world.plan();
    let reasons: Vec<&str> = plan.items[..3].iter().map(|item| item.reasons[0].as_str()).collect();
    assert_eq!(reasons[0], "pinned: before the upgrade");
    assert_eq!(reasons[1], "pinned: for the auditors");
    assert!(reasons[2].starts_with("pinned until 2025-01-25T"), "{}", reasons[2]);
    assert_eq!(plan.with(Action::Mark).count(), 1);
    // Both kinds of pins end, and one that ended by itself.
    let entry = world.entry();
    assert!(prune::unpin(&world.env, &world.repository, &entry, &entry.backups[0]).unwrap());
    assert!(prune::unpin(&world.env, &world.repository, &entry, &entry.backups[1]).unwrap());
    assert!(!prune::unpin(&world.env, &world.repository, &entry, &entry.backups[3]).unwrap());
    let entry = world.entry();
    assert!(!prune::unpin(&world.env, &world.repository, &entry, &entry.backups[0]).unwrap());
    world.pass(24 * 11);
    world.backup();
    world.prune_approved().unwrap();
    let entry = world.entry();
    assert_eq!((entry.backups.len(), entry.removed.len()), (3, 5));
    // Taken back, and pinned so that it stays back.
    prune::undelete(&world.repository, &entry, &made_with.name).unwrap();
    let entry = world.entry();
    assert_eq!(listed(&entry)[0], made_with.name);
    assert_eq!(
        prune::undelete(&world.repository, &entry, &made_with.name).unwrap_err().kind(),
        Kind::NotCovered
    );
    prune::pin(&world.env, &world.repository, &entry, &entry.backups[0], &hold(None)).unwrap();
    world.days(9);
    world.prune_approved().unwrap();
    assert!(listed(&world.entry()).contains(&made_with.name.as_str()));
    world.assert_whole("pinned");
}

#[test]
fn garbage_goes_and_what_only_looks_like_it_stays() {
    let world = World::new(keep_last(4));
    world.days(4);
    let mut interrupted = Vec::new();
    for compression in ["zstd", "gzip", "none"] {
        world.pass(1);
        let before = world.names();
        world.crash.arm("backup.before_manifest", 0);
        world.try_backup(None, compression).unwrap_err();
        assert!(world.crash.reboot());
        interrupted.extend(world.names().difference(&before).cloned());
    }
    assert_eq!(interrupted.len(), 4, "three artifacts, and a mark: {interrupted:?}");
    let strangers = [
        ("app/notes.txt", &b"mine"[..]),
        (
            "app/app-20240101-000000.db.gz",
            &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6, 7],
        ),
        ("app/app-20240101-000000.db.zst", &[0x28, 0xb5, 0x2f, 0xfd, 4, 0, 1, 0, 0, 9, 9, 9, 9]),
        ("app/app-20240101-000000.db", b"SQLite format 3\0"),
        ("other/app-20240101-000000.pages.zst", &0x8f92_eab1_u32.to_le_bytes()),
        ("app-20240101-000000.pages.zst", &0x8f92_eab1_u32.to_le_bytes()),
    ];
    strangers.iter().for_each(|(name, bytes)| world.put(name, bytes));
    // Young ones may belong to a run that goes on.
    world.days(3);
    assert!(world.plan().items.iter().all(|item| item.id.is_some()));
    world.days(5);
    let plan = world.plan();
    let marked: Vec<_> = plan.with(Action::Mark).filter(|item| item.id.is_none()).collect();
    // The bytes of two show that they are ours, and the third run said that it began.
    assert_eq!(marked.len(), 3);
    let left: Vec<_> = plan.with(Action::Leave).flat_map(|item| &item.files).collect();
    assert_eq!(left.len(), 3, "{left:?}");
    world.prune_approved().unwrap();
    interrupted.iter().for_each(|name| assert!(world.names().contains(name)));
    world.days(8);
    world.prune_approved().unwrap();
    let names = world.names();
    let still: Vec<_> = interrupted.iter().filter(|name| names.contains(*name)).collect();
    assert!(still.is_empty(), "{still:?}");
    strangers.iter().for_each(|(name, _)| assert!(names.contains(*name), "{name}"));
    assert!(!names.iter().any(|name| interrupted.iter().any(|gone| {
        gone.ends_with("st") && name.starts_with(&format!("tombstones/{}", &gone[..19]))
    })));
    world.assert_whole("garbage");
}

#[test]
fn a_run_without_compression_says_that_it_began_and_takes_it_back() {
    let world = World::new(keep_last(4));
    let begun = || -> Vec<String> {
        world.names().into_iter().filter(|name| name.starts_with("begun/")).collect()
    };
    world.days(2);
    world.pass(24);
    world.try_backup(None, "none").unwrap();
    assert!(begun().is_empty());
    for (point, manifest) in [("backup.artifact.streamed", false), ("backup.after_manifest", true)]
    {
        world.pass(24);
        world.crash.arm(point, 0);
        world.try_backup(None, "none").unwrap_err();
        world.crash.reboot();
        let mark = begun().pop().unwrap();
        let made = mark.replace("begun/", "");
        assert_eq!(world.names().contains(&made), manifest, "{point}");
        // Too young to be judged: the run may go on.
        assert!(world.plan().begun_over.is_empty(), "{point}");
        world.days(8);
        assert_eq!(world.plan().begun_over.len(), 1, "{point}");
        world.prune_approved().unwrap();
        assert!(begun().is_empty(), "{point}");
        assert_eq!(world.plan().begun_over.len(), 0, "{point}");
        world.assert_whole(point);
    }
    // What another source said, or what cannot be read, makes nothing ours.
    world.put("app/app-20240101-000000.db", b"SQLite format 3\0");
    world.put("begun/app/app-20240101-000000.json", b"{\"format\": 1}");
    world.days(20);
    world.prune_approved().unwrap();
    assert!(world.names().contains("app/app-20240101-000000.db"));
}

#[test]
fn a_name_that_another_backup_took_is_not_meant() {
    let world = World::new(keep_last(4));
    world.days(6);
    let entry = world.entry();
    let stale = Tombstone {
        format: marks::FORMAT,
        source: entry.record.id,
        backup: entry.backups[5].name.clone(),
        id: Some(entry.backups[4].id),
        files: entry.backups[5].artifacts.iter().map(|artifact| artifact.name.clone()).collect(),
        reason: "of an earlier life".into(),
        marked_at: entry.backups[0].taken_at,
        delete_after: entry.backups[1].taken_at,
    };
    let object = MarkKind::Tombstone.object(FOLDER, &stale.backup);
    world.put(&object, &marks::to_bytes(&stale));
    assert_eq!(world.entry().backups.len(), 6);
    assert_eq!(world.plan().with(Action::Forget).count(), 1);
    assert_eq!(world.plan().with(Action::Delete).count(), 0);
    world.prune(None).unwrap();
    assert!(!world.names().contains(&object));
    assert_eq!(world.entry().backups.len(), 4);
    world.assert_whole("stale");
}

#[test]
fn a_damaged_mark_never_removes_a_backup() {
    let world = World::new(keep_last(4));
    world.days(6);
    let names: Vec<String> = world.entry().backups.iter().map(|one| one.name.clone()).collect();
    world.put(&MarkKind::Pin.object(FOLDER, &names[0]), b"{\"format\": 1, \"pinn");
    world.put(&MarkKind::Tombstone.object(FOLDER, &names[1]), b"");
    let entry = world.entry();
    assert_eq!((entry.backups.len(), entry.unreadable.len()), (6, 2));
    let plan = world.plan();
    assert_eq!(plan.items[0].reasons, ["pinned: its pin cannot be read"]);
    assert_eq!(plan.with(Action::Mark).count(), 0);
    // The names of files in a tombstone are not believed either.
    let victim = entry.backups[5].artifacts[0].name.clone();
    let forged = Tombstone {
        format: marks::FORMAT,
        source: entry.record.id,
        backup: "app-20200101-000000".into(),
        id: Some(entry.backups[0].id),
        files: vec![victim, "source.json".into(), "../lifeboat.json".into()],
        reason: "forged".into(),
        marked_at: Timestamp::UNIX_EPOCH,
        delete_after: Timestamp::UNIX_EPOCH,
    };
    world.put(&MarkKind::Tombstone.object(FOLDER, &forged.backup), &marks::to_bytes(&forged));
    let before = world.names();
    let plan = world.plan();
    assert!(plan.with(Action::Delete).all(|item| item.files.is_empty()));
    let reason = "its tombstone cannot be read";
    assert_eq!(
        (plan.items[1].action, &plan.items[1].reasons[..]),
        (Action::Leave, &[reason.to_owned()][..])
    );
    world.prune(None).unwrap();
    let gone: Vec<String> = before.difference(&world.names()).cloned().collect();
    assert!(gone.iter().all(|name| name.starts_with("tombstones/")), "{gone:?}");
    world.assert_whole("damaged");
}

/// A world in which a prune marks, deletes and takes back, with garbage among it.
fn eventful() -> World {
    let world = World::new(keep_last(4));
    world.days(3);
    world.crash.arm("backup.before_manifest", 0);
    world.try_backup(None, "zstd").unwrap_err();
    assert!(world.crash.reboot());
    world.days(8);
    world.prune_approved().unwrap();
    world.days(8);
    let entry = world.entry();
    let hold = Hold { reason: "wanted again".into(), until: None };
    prune::pin(&world.env, &world.repository, &entry, &entry.removed[2], &hold).unwrap();
    world
}

#[test]
fn killed_at_every_point_it_goes_on() {
    let expected = {
        let world = eventful();
        let plan = world.plan();
        for action in [Action::Mark, Action::Delete, Action::Unmark] {
            assert!(plan.with(action).count() > 0, "{action:?} is not tried: {plan:?}");
        }
        world.prune_approved().unwrap();
        world.names_without_records()
    };
    let points: Vec<_> = CRASH_POINTS.iter().filter(|point| point.starts_with("prune.")).collect();
    assert!(points.len() > 5);
    for point in points {
        for time in 0..30 {
            let world = eventful();
            let before = world.plan();
            world.crash.arm(point, time);
            let ended = world.prune_approved();
            if !world.crash.reboot() {
                assert!(time > 0, "{point} is never passed");
                ended.unwrap();
                break;
            }
            let context = format!("{point}, time {time}");
            assert_eq!(ended.unwrap_err().kind(), Kind::Interrupted, "{context}");
            world.assert_whole(&context);
            for kept in before.with(Action::Keep).chain(before.with(Action::Unmark)) {
                let entry = world.entry();
                let known = entry.backups.iter().chain(&entry.removed);
                assert!(known.clone().any(|one| one.name == kept.name), "{context}");
            }
            // The next run ends what this one began; only after the record it had ended.
            if *point != "prune.after_record" {
                world.prune_approved().unwrap();
            }
            assert_eq!(world.names_without_records(), expected, "{context}");
        }
    }
}

/// A year and more of days: backups that fail or are killed, prunes that are killed, pins, and a
/// stranger's files in the folder. Nothing but what is ours and may go has gone.
#[test]
fn years_with_crashes_beside_a_strangers_files() {
    let keep = Keep { last: 2, daily: 5, weekly: 3, monthly: 4, ..Keep::default() };
    let world = World::new(keep);
    let mut seed = 7_u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    world.days(1);
    let mut strangers = Vec::new();
    let points: Vec<_> = CRASH_POINTS.iter().filter(|point| point.starts_with("prune.")).collect();
    let (mut killed, mut deleted) = (0, 0);
    for day in 0..400 {
        world.pass(20 + random(9) as i64);
        let pin = (random(60) == 0).then_some("asked for");
        if random(12) == 0 {
            world.crash.arm("backup.before_manifest", 0);
        }
        let _ = world.try_backup(pin, ["zstd", "gzip"][random(2) as usize]);
        world.crash.reboot();
        if random(40) == 0 {
            strangers.push(format!("app/app-backup{day}.db.gz"));
            world.put(strangers.last().unwrap(), &[0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3]);
        }
        if random(4) == 0 {
            world.crash.arm(points[random(points.len() as u64) as usize], random(3) as u32);
        }
        let before = world.entry();
        match world.prune_approved() {
            Ok(pruned) => deleted += pruned.deleted.len(),
            Err(error) if error.kind() == Kind::Refused => {}
            Err(error) => assert_eq!(error.kind(), Kind::Interrupted, "{error:?}"),
        }
        killed += usize::from(world.crash.reboot());
        world.assert_whole(&format!("day {day}"));
        let (entry, now) = (world.entry(), world.clock.now());
        let good = before.backups.iter().rev().filter(|one| one.condition == Condition::Good);
        for one in good.take(3) {
            assert!(listed(&entry).contains(&one.name.as_str()), "day {day}: {} is gone", one.name);
        }
        for one in before.backups.iter().filter(|one| before.hold(one).is_some()) {
            assert!(
                listed(&entry).contains(&one.name.as_str()),
                "day {day}: {} was pinned",
                one.name
            );
        }
        assert!(entry.removed.len() < 60, "{} pile up at {now}", entry.removed.len());
    }
    assert!(killed > 20 && deleted > 300, "{killed} killed, {deleted} deleted");
    let names = world.names();
    strangers.iter().for_each(|name| assert!(names.contains(name), "{name}"));
}

#[test]
fn an_object_half_put_is_no_garbage() {
    let world = World::new(keep_last(4));
    world.days(5);
    let name = ObjectName::new("app/app-20250101-000000.db.zst").unwrap();
    let mut put = world.repository.store().put(&name).unwrap();
    put.write_all(b"half").unwrap();
    world.pass(24 * 30);
    assert!(world.plan().items.iter().all(|item| item.id.is_some()));
    drop(put);
}
