//! `lifeboat restore FILE --wal COPY`: a copy of a database with a copy of its `-wal`.

use std::path::Path;
use std::process::ExitCode;

use lifeboat_core::env::Env;
use lifeboat_core::manifest::CheckLevel;
use lifeboat_core::restore::{Mapping, Origin, RestoreRequest};
use lifeboat_core::{Error, Kind, Result};
use lifeboat_sqlite::WalCopy;

use super::{Args, carry_out, plain_request};
use crate::commands::words::CheckWord;
use crate::session::Session;
use crate::sources;

pub(super) fn run(
    session: &Session,
    env: &Env,
    args: &Args,
    (what, wal): (&str, &Path),
) -> Result<ExitCode> {
    let path = Path::new(what);
    if !path.is_file() {
        let message = format!("{what} is no file: --wal is for a copy of a database and its -wal");
        return Err(Error::new(Kind::Usage, message)
            .hint("lifeboat restore COPY-OF.db --wal COPY-OF.db-wal --to PATH"));
    }
    if args.check == Some(CheckWord::None) || args.at.is_some() {
        let message = "what two copies make together is always checked, and is of one moment";
        return Err(Error::new(Kind::Usage, message).hint("leave --check none and --at away"));
    }
    let copy = WalCopy::open(wal, path)?;
    let (keys, mapping) = (session.keys()?, Mapping::default());
    let origin = Origin::File { path, keys: keys.as_deref() };
    let request = plain_request(session, args, origin, &copy, &mapping)?;
    let target = super::target_at(session, args.to.as_deref())?;
    let service = super::service(target.as_ref(), args.to.as_deref());
    // A -wal of another time shows in indexes and their tables, which a quick check passes over.
    let request = RestoreRequest { check: CheckLevel::Full, service, ..request };
    let restored = carry_out(session, env, &request, args.dry_run, &sources::name_of(path));
    restored.map_err(|error| match error.kind() {
        Kind::CheckFailed => {
            let message = format!("{} does not belong to {what}", wal.display());
            Error::new(Kind::NotCovered, message).caused_by(error).hint(
                "nothing was changed; what can be restored is the database alone, without --wal, \
                 or with an older copy of its -wal",
            )
        }
        _ => error,
    })
}
