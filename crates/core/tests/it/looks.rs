//! Looking again and again: what is the same is not read once more, and nothing else is missed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use lifeboat_core::cache::CachePlace;
use lifeboat_core::catalog::Catalog;
use lifeboat_core::manifest::Manifest;
use lifeboat_core::repository::{Repository, SourceIdentity};
use lifeboat_core::store::{ObjectName, Store, put_bytes};
use serde_json::json;
use uuid::Uuid;

use crate::world::MemoryStore;

/// A cache in memory.
#[derive(Default)]
struct Kept(Mutex<HashMap<Uuid, Vec<u8>>>);

impl CachePlace for Kept {
    fn load(&self, repository: Uuid) -> Option<Vec<u8>> {
        self.0.lock().unwrap().get(&repository).cloned()
    }
    fn save(&self, repository: Uuid, bytes: &[u8]) {
        self.0.lock().unwrap().insert(repository, bytes.to_vec());
    }
}

struct World {
    store: MemoryStore,
    repository: Repository,
    source: Uuid,
}

impl World {
    /// A source with so many backups.
    fn new(backups: u32) -> World {
        let env = lifeboat_test_support::env();
        let store = MemoryStore::default();
        let repository = Repository::open_or_create(&env, Arc::new(store.clone())).unwrap();
        let text = |text: &str| text.to_owned();
        let identity = SourceIdentity {
            id: None,
            name: text("app"),
            kind: text("sqlite"),
            host: text("host"),
            location: text("/app.db"),
        };
        let (_, record) = repository.claim(&env, &identity).unwrap();
        let repository = repository.only_looked_at(&env, Some(Arc::new(Kept::default())));
        let world = World { store, repository: repository.in_brief(&[]), source: record.id };
        (0..backups).for_each(|number| world.add(number, "first"));
        world
    }

    fn object(number: u32) -> ObjectName {
        ObjectName::new(format!("app/app-{number:03}.json")).unwrap()
    }

    fn manifest(&self, number: u32, tool: &str) -> Vec<u8> {
        let minute = format!("2025-01-08T{:02}:{:02}:00Z", number / 60, number % 60);
        let manifest = json!({
            "format": 1, "id": Uuid::from_u128(u128::from(number) + 1),
            "name": format!("app-{number:03}"),
            "source": { "id": self.source, "name": "app", "kind": "sqlite", "host": "host",
                        "location": "/app.db" },
            "method": "online", "taken_at": minute, "completed_at": minute, "condition": "good",
            "facts": {}, "rows": { "a": 1, "b": 2 }, "artifacts": [], "checks": [],
            "timings_ms": {}, "tool": tool,
        });
        serde_json::to_vec(&manifest).unwrap()
    }

    fn add(&self, number: u32, tool: &str) {
        put_bytes(&self.store, &World::object(number), &self.manifest(number, tool)).unwrap();
    }

    /// Changes a manifest: where the word has the same length, no list shows it.
    fn change(&self, number: u32, tool: &str) {
        let bytes = self.manifest(number, tool);
        self.store.damage(&World::object(number), |stored| *stored = bytes);
    }

    fn look(&self, older: &Catalog) -> (Catalog, Vec<String>) {
        let catalog = self.repository.catalog_after(older).unwrap();
        let tools = tools(&catalog.sources[0].backups);
        (catalog, tools)
    }
}

fn tools(backups: &[Manifest]) -> Vec<String> {
    backups.iter().map(|backup| backup.tool.clone()).collect()
}

#[test]
fn what_is_listed_as_it_was_is_not_read_once_more() {
    let world = World::new(100);
    let (first, tools) = world.look(&Catalog::default());
    assert_eq!(tools, ["first"; 100]);
    let rows = first.sources[0].backups[0].rows.as_ref().unwrap();
    assert_eq!(rows.values().sum::<u64>(), 3);
    // No list shows this: what was read before is what there is, for who looks again.
    world.change(7, "other");
    let (second, tools) = world.look(&first);
    assert_eq!(tools, ["first"; 100]);
    // One that was begun anew, another size, one that is gone, and one that is new.
    world.change(8, "longer");
    world.store.delete(&World::object(9)).unwrap();
    world.add(100, "newer");
    let (third, tools) = world.look(&second);
    assert_eq!(tools.len(), 100);
    assert_eq!(tools[8], "longer");
    assert_eq!(tools[99], "newer");
    assert_eq!(third.sources[0].backups[9].name, "app-010");
    let whole = world.repository.without_cache().catalog().unwrap();
    let backup = &whole.sources[0].backups[7];
    assert_eq!((backup.tool.as_str(), backup.rows.as_ref().unwrap().len()), ("other", 2));
}

#[test]
fn very_much_that_is_new_and_two_of_one_name_are_read() {
    let world = World::new(40);
    let (first, _) = world.look(&Catalog::default());
    (40..120).for_each(|number| world.add(number, "newer"));
    let (second, tools) = world.look(&first);
    assert_eq!(tools, [vec!["first"; 40], vec!["newer"; 80]].concat());
    // A copy under another file name: which of the two an object is, its name does not tell.
    let copied = ObjectName::new("app/copied.json").unwrap();
    put_bytes(&world.store, &copied, &world.manifest(3, "second")).unwrap();
    let (third, tools) = world.look(&second);
    assert_eq!(tools.iter().filter(|tool| *tool == "second").count(), 1);
    world.store.damage(&World::object(3), |stored| stored.truncate(5));
    let (_, tools) = world.look(&third);
    assert_eq!(tools.len(), 120);
    assert_eq!(tools.iter().filter(|tool| *tool == "second").count(), 1);
}

#[test]
fn without_a_place_that_knows_the_time_everything_is_read() {
    let world = World::new(30);
    let env = lifeboat_test_support::env();
    let repository = world.repository.without_cache().only_looked_at(&env, None);
    let first = repository.catalog_after(&Catalog::default()).unwrap();
    world.change(7, "other");
    let second = repository.catalog_after(&first).unwrap();
    assert_eq!(second.sources[0].backups[7].tool, "other");
}
