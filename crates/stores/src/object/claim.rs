//! Keeping two writers of one name apart where the server does not.
//!
//! Some servers take `If-None-Match: *` and overwrite all the same. There each writer first puts an
//! object of its own below `.claims/`, named after the object and the writer's number, and then
//! lists the claims on that name. Whoever sees another claim, or the object, gives way. Two that
//! meet see each other, as both put before they listed: at most one goes on, maybe none. A claim is
//! deleted after its object is there, so whoever lists later sees the object. That of a killed
//! writer holds the name until it is [`CLAIM_AGE_MAX`] old by the server's clock.

use std::sync::Arc;

use jiff::SignedDuration;
use lifeboat_core::store::{ObjectInfo, ObjectName};
use lifeboat_core::{Error, Kind, Result};
use object_store::{ObjectStoreExt, PutPayload};

use super::Shared;
use super::explain::Asked;

/// The folder of claims; no object's name begins with a dot.
pub(super) const CLAIMS: &str = ".claims";
/// Nobody writes at one object for so long after the claim: it is put when all bytes are there.
const CLAIM_AGE_MAX: SignedDuration = SignedDuration::from_mins(15);

/// A name that is ours to write.
pub(super) struct Claim {
    shared: Arc<Shared>,
    object: ObjectName,
}

impl Drop for Claim {
    fn drop(&mut self) {
        // One that stays ends by its age.
        if let Ok(path) = self.shared.path(&self.object) {
            let _ = self.shared.block_on(self.shared.store.delete(&path));
        }
    }
}

/// Claims a name, where that has to be done. [`Kind::Refused`] where it is taken, or claimed by
/// another writer.
pub(super) fn claim(
    shared: &Arc<Shared>,
    name: &ObjectName,
    number: &str,
) -> Result<Option<Claim>> {
    if shared.is_conditional() {
        return Ok(None);
    }
    let folder = format!("{CLAIMS}/{name}");
    let object = ObjectName::new(format!("{folder}/{number}"))?;
    let path = shared.path(&object)?;
    let put = shared.store.put(&path, PutPayload::default());
    shared.block_on(put).map_err(|error| shared.explain(Asked::Write, &object, error))?;
    let claim = Claim { shared: Arc::clone(shared), object };
    let claims = shared.list_all(Some(&folder))?;
    // The server's clock is the one that dated all of them.
    let now = claims.iter().find(|other| other.name == claim.object).map(|own| own.modified);
    let lives = |other: &&ObjectInfo| {
        other.name != claim.object
            && now.is_none_or(|now| now.duration_since(other.modified) < CLAIM_AGE_MAX)
    };
    if claims.iter().find(lives).is_some() {
        return Err(Error::new(
            Kind::Refused,
            format!("another writer is about to write {name} in {}", shared.url),
        )
        .hint("try again; after a run that was killed there, in a quarter of an hour"));
    }
    if shared.exists(&shared.path(name)?, name)? {
        return Err(Error::new(
            Kind::Refused,
            format!("{name} exists in {} and is never overwritten", shared.url),
        ));
    }
    Ok(Some(claim))
}
