//! Packs: the manifests of a source's folder in one object, for hosts that look at thousands of
//! backups and have read none of them before. Over a network each small object costs a request.
//!
//! A pack is a hint and never the truth. It says what the bytes of a manifest are that the store
//! has just listed with the same name, size and time; whether there is one, only the list says.
//! What verifies, restores or deletes reads the manifests themselves, and so does the prune that
//! writes a pack: nothing in it was taken from an older one. It may be deleted at any time.

use std::collections::BTreeMap;

use crate::cache::{self, SETTLED};
use crate::env::Env;
use crate::error::{Kind, Result};
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest};
use crate::parallel::in_parallel;
use crate::store::{ObjectInfo, ObjectName, get_bytes, put_bytes};

use super::{Repository, SOURCE};

/// The folder of all packs; below it, one for each source's.
const PACKS: &str = "packs";
const ENDING: &str = ".pack";
/// So few manifests are read as fast without.
const MANIFESTS_MIN: usize = 64;
/// A pack is written anew when it lacks one of so many.
const LACKING_ONE_OF: usize = 20;
/// A pack larger than this is not ours: it would be one of a million backups.
const PACK_BYTES_MAX: u64 = 256 << 20;
/// More than so many bytes beyond what the list shows are not unpacked.
const PLAIN_BYTES_BEYOND: u64 = 64 << 20;

impl Repository {
    /// Writes the pack of a source's folder anew where it lacks so much that it is worth it:
    /// whether it did. Older packs of it go; those that we may not delete are left to who may.
    pub fn pack(&self, env: &Env, folder: &str) -> Result<bool> {
        let settled_before = env.clock.now().saturating_sub(SETTLED).unwrap_or_default();
        let objects = self.store.list(Some(folder))?;
        let manifests: Vec<&ObjectInfo> = objects
            .iter()
            .filter(|object| is_manifest_of(folder, object) && object.modified < settled_before)
            .collect();
        if manifests.len() < MANIFESTS_MIN {
            return Ok(false);
        }
        let packs = self.store.list(Some(&format!("{PACKS}/{folder}")))?;
        let known = newest(&packs, folder).map(|pack| self.unpack(pack, bytes_of(&manifests)));
        if let Some(known) = known.flatten() {
            let lacking = |object: &&&ObjectInfo| known.bytes_of(object).is_none();
            if manifests.iter().filter(lacking).count() <= manifests.len() / LACKING_ONE_OF {
                return Ok(false);
            }
        }
        let read = in_parallel(&manifests, self.store.readers(), |object| {
            env.proceed()?;
            self.read_to_pack(object)
        });
        let read = read.into_iter().collect::<Result<Vec<_>>>()?;
        let packed: Vec<(&ObjectInfo, &[u8])> = manifests
            .iter()
            .zip(&read)
            .filter_map(|(object, bytes)| Some((*object, bytes.as_deref()?)))
            .collect();
        let name = env.clock.now().strftime("%Y%m%d-%H%M%S-%3f");
        let own = ObjectName::new(format!("{PACKS}/{folder}/{name}{ENDING}"))?;
        put_bytes(&*self.store, &own, &cache::pack(&packed, self.header.id))?;
        let older = |pack: &&ObjectInfo| pack.name < own && is_pack_of(folder, pack);
        packs.iter().filter(older).for_each(|pack| drop(self.store.delete(&pack.name)));
        Ok(true)
    }

    /// The bytes of a manifest; `None` for one that is damaged, or gone since it was listed.
    fn read_to_pack(&self, object: &ObjectInfo) -> Result<Option<Vec<u8>>> {
        let bytes = match get_bytes(&*self.store, &object.name, MANIFEST_BYTES_MAX) {
            Err(error) if matches!(error.kind(), Kind::NotCovered | Kind::CheckFailed) => {
                return Ok(None);
            }
            read => read?,
        };
        let is_whole = bytes.len() as u64 == object.bytes
            && Manifest::parse(&bytes, object.name.as_str()).is_ok();
        Ok(is_whole.then_some(bytes))
    }

    /// What the packs hold of those manifests, folder by folder, where enough are wanted of one.
    pub(super) fn packed(
        &self,
        objects: &[ObjectInfo],
        wanted: &BTreeMap<&str, Vec<&ObjectInfo>>,
    ) -> Vec<cache::Known> {
        let many = wanted.iter().filter(|(_, wanted)| wanted.len() >= MANIFESTS_MIN);
        let packs: Vec<(&ObjectInfo, u64)> = many
            .filter_map(|(folder, wanted)| Some((newest(objects, folder)?, bytes_of(wanted))))
            .collect();
        let unpacked =
            in_parallel(&packs, self.store.readers(), |(pack, bytes)| self.unpack(pack, *bytes));
        unpacked.into_iter().flatten().collect()
    }

    /// What a pack holds: nothing where it cannot be read, as the manifests themselves can. No more
    /// is unpacked than manifests of that many bytes explain.
    fn unpack(&self, pack: &ObjectInfo, manifests_bytes: u64) -> Option<cache::Known> {
        if pack.bytes > PACK_BYTES_MAX {
            return None;
        }
        let packed = get_bytes(&*self.store, &pack.name, PACK_BYTES_MAX).ok()?;
        let bound = manifests_bytes.saturating_mul(4).saturating_add(PLAIN_BYTES_BEYOND);
        cache::unpack(&packed, self.header.id, bound)
    }
}

fn bytes_of(objects: &[&ObjectInfo]) -> u64 {
    objects.iter().map(|object| object.bytes).sum()
}

/// Whether an object is a manifest right in that folder.
fn is_manifest_of(folder: &str, object: &ObjectInfo) -> bool {
    let file = object.name.as_str().strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
    file.is_some_and(|file| !file.contains('/') && file != SOURCE && file.ends_with(".json"))
}

fn is_pack_of(folder: &str, object: &ObjectInfo) -> bool {
    let rest = object.name.as_str().strip_prefix(PACKS).and_then(|rest| rest.strip_prefix('/'));
    let parts = rest.and_then(|rest| rest.split_once('/'));
    parts.is_some_and(|(of, file)| of == folder && !file.contains('/') && file.ends_with(ENDING))
}

/// The newest pack of a folder: its name is when it was made.
fn newest<'o>(objects: &'o [ObjectInfo], folder: &str) -> Option<&'o ObjectInfo> {
    objects.iter().filter(|object| is_pack_of(folder, object)).max_by_key(|pack| &pack.name)
}
