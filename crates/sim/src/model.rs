//! What must be true of the repository, kept beside it: which backups there are, what each one
//! must restore to, and which of them we damaged ourselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use lifeboat_core::manifest::Manifest;
use lifeboat_core::store::ObjectName;

/// What was damaged of a backup after it had been read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// The database's artifact: it cannot be restored.
    Database,
    /// Another artifact: the database can be restored.
    Other,
    /// The manifest: the backup may be gone from the list.
    Manifest,
}

/// A backup whose run said that it succeeded.
pub(crate) struct Acknowledged {
    /// The database at its moment.
    pub(crate) image: Arc<Vec<u8>>,
    /// Its manifest's object and those of its artifacts, with what damage to each would be.
    pub(crate) objects: Vec<(ObjectName, Damage)>,
    /// What we did to it.
    pub(crate) damage: Vec<Damage>,
}

/// Everything that was tried.
#[derive(Default)]
pub(crate) struct Model {
    /// By folder and name.
    pub(crate) acknowledged: BTreeMap<(String, String), Acknowledged>,
    /// What runs that failed wanted to store. A backup of them may exist, if its manifest was
    /// stored and only the answer was lost; then it must be whole.
    pub(crate) attempted: Vec<Arc<Vec<u8>>>,
}

impl Model {
    /// A run succeeded.
    pub(crate) fn acknowledge(&mut self, folder: &str, manifest: &Manifest, image: Arc<Vec<u8>>) {
        let object = |file: &str| ObjectName::new(format!("{folder}/{file}")).ok();
        let of_artifacts = manifest.artifacts.iter().filter_map(|artifact| {
            let damage = match artifact.role.as_str() {
                "database" => Damage::Database,
                _ => Damage::Other,
            };
            Some((object(&artifact.name)?, damage))
        });
        let own = object(&format!("{}.json", manifest.name));
        let objects =
            of_artifacts.chain(own.map(|own| (own, Damage::Manifest))).collect::<Vec<_>>();
        let key = (folder.to_owned(), manifest.name.clone());
        self.acknowledged.insert(key, Acknowledged { image, objects, damage: Vec::new() });
    }

    /// The image that a listed backup must have; `None` where any attempted one will do.
    pub(crate) fn expected(&self, folder: &str, name: &str) -> Option<&Acknowledged> {
        self.acknowledged.get(&(folder.to_owned(), name.to_owned()))
    }
}
