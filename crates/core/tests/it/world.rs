//! A world for tests: real time, seeded randomness, and a store in memory that can be damaged.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use lifeboat_core::store::{ObjectInfo, ObjectName, ObjectReader, Put, Space, Store};
use lifeboat_core::{Error, Kind, Result};

type Objects = Arc<Mutex<BTreeMap<ObjectName, Vec<u8>>>>;

/// Keeps objects in memory. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct MemoryStore {
    objects: Objects,
    room_bytes: Option<usize>,
}

impl MemoryStore {
    /// One in which an object can have so many bytes; more is "no space".
    pub(crate) fn with_room(room_bytes: usize) -> Self {
        MemoryStore { room_bytes: Some(room_bytes), ..MemoryStore::default() }
    }

    /// Changes the stored bytes of an object behind everybody's back.
    pub(crate) fn damage(&self, name: &ObjectName, change: impl FnOnce(&mut Vec<u8>)) {
        change(self.objects.lock().unwrap().get_mut(name).unwrap());
    }

    pub(crate) fn bytes(&self, name: &ObjectName) -> Vec<u8> {
        self.objects.lock().unwrap()[name].clone()
    }
}

impl Store for MemoryStore {
    fn url(&self) -> String {
        "memory".into()
    }

    fn put(&self, name: &ObjectName) -> Result<Box<dyn Put>> {
        let (objects, room_bytes) = (Arc::clone(&self.objects), self.room_bytes);
        Ok(Box::new(MemoryPut { objects, name: name.clone(), bytes: Vec::new(), room_bytes }))
    }

    fn get(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<ObjectReader> {
        let objects = self.objects.lock().unwrap();
        let bytes = objects.get(name).ok_or_else(|| Error::new(Kind::NotCovered, "none"))?;
        let range = range.unwrap_or(0..bytes.len() as u64);
        let end = (range.end as usize).min(bytes.len());
        Ok(Box::new(Cursor::new(bytes[(range.start as usize).min(end)..end].to_vec())))
    }

    fn head(&self, name: &ObjectName) -> Result<Option<ObjectInfo>> {
        let objects = self.objects.lock().unwrap();
        Ok(objects.get(name).map(|bytes| info(name, bytes)))
    }

    fn list(&self, prefix: Option<&str>) -> Result<Vec<ObjectInfo>> {
        let objects = self.objects.lock().unwrap();
        let prefix = prefix.map(|prefix| format!("{prefix}/")).unwrap_or_default();
        let listed = objects.iter().filter(|(name, _)| name.as_str().starts_with(&prefix));
        Ok(listed.map(|(name, bytes)| info(name, bytes)).collect())
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.objects.lock().unwrap().remove(name);
        Ok(())
    }

    fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }
}

fn info(name: &ObjectName, bytes: &[u8]) -> ObjectInfo {
    let modified = jiff::Timestamp::UNIX_EPOCH;
    ObjectInfo { name: name.clone(), bytes: bytes.len() as u64, modified }
}

struct MemoryPut {
    objects: Objects,
    name: ObjectName,
    bytes: Vec<u8>,
    room_bytes: Option<usize>,
}

impl Write for MemoryPut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.room_bytes.is_some_and(|room| self.bytes.len() + bytes.len() > room) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Put for MemoryPut {
    fn commit(self: Box<Self>) -> Result<()> {
        let mut objects = self.objects.lock().unwrap();
        if objects.contains_key(&self.name) {
            return Err(Error::new(Kind::Refused, "exists"));
        }
        objects.insert(self.name, self.bytes);
        Ok(())
    }
}
