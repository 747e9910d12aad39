//! Which files of a cluster's log another repository lacks.

use std::collections::HashSet;

use lifeboat_core::Result;
use lifeboat_core::copy::LogSelection;
use lifeboat_core::env::Env;
use lifeboat_core::log;
use lifeboat_core::manifest::Manifest;
use lifeboat_core::repository::Repository;
use lifeboat_core::store::ObjectInfo;

use super::archive::Member;
use super::keep::needed;
use super::name::Kept;
use super::view::ClusterLog;

/// The rule for the log of a cluster: what the base backups need that are there.
#[derive(Clone, Copy, Debug)]
pub struct WalSelection;

impl LogSelection for WalSelection {
    fn lacking(
        &self,
        env: &Env,
        (from, folder): (&Repository, &str),
        (to, to_folder): (&Repository, Option<&str>),
        staying: &[&Manifest],
    ) -> Result<Vec<ObjectInfo>> {
        let member =
            Member { label: from.url(), repository: from.clone(), folder: folder.to_owned() };
        let backups: Vec<Manifest> = staying.iter().map(|backup| (*backup).clone()).collect();
        let mut wanted = Vec::new();
        for log in ClusterLog::all(env, &member, &backups)? {
            let is_needed = needed(&log, env.clock.now(), None);
            let files = log.files.into_iter().zip(is_needed);
            // A piece means nothing once its segment is whole, and that is soon.
            let files = files.filter(|((kept, _), needed)| *needed && !is_piece(kept));
            wanted.extend(files.map(|((_, object), _)| object));
        }
        let Some(to_folder) = to_folder.filter(|_| !wanted.is_empty()) else { return Ok(wanted) };
        let there = to.store().list(Some(&format!("{to_folder}/wal")))?;
        let there: HashSet<&str> =
            there.iter().filter_map(|object| file_within(object, to_folder)).collect();
        wanted
            .retain(|object| file_within(object, folder).is_none_or(|file| !there.contains(file)));
        Ok(wanted)
    }

    fn check(&self, _: &Repository, _: &ObjectInfo) -> Result<()> {
        // Its frames were read, and hold checksums; what is below is the server's.
        Ok(())
    }
}

fn is_piece(kept: &Kept) -> bool {
    matches!(kept, Kept::Piece(..))
}

/// The file that an object is, within the folder of its source, sealed or not.
fn file_within<'a>(object: &'a ObjectInfo, folder: &str) -> Option<&'a str> {
    log::file_of(object.name.as_str())?.strip_prefix(folder)
}
