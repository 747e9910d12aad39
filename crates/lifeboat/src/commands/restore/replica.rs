//! `lifeboat restore REPLICA`: a state of a replica that Litestream wrote.

use std::process::ExitCode;

use lifeboat_core::env::Env;
use lifeboat_core::restore::{Mapping, Origin};
use lifeboat_core::{Error, Kind, Result, moment};
use lifeboat_sqlite::litestream::{ReplicaReplay, Target};

use super::{Args, carry_out, plain_request};
use crate::replicas::Named;
use crate::session::Session;
use crate::sources;

pub(super) fn run(session: &Session, env: &Env, args: &Args, named: &Named) -> Result<ExitCode> {
    if args.follow || args.wal.is_some() {
        let message = "a replica of Litestream is not followed, and takes no -wal";
        return Err(Error::new(Kind::Usage, message)
            .hint("take it over first, then follow: lifeboat adopt REPLICA --source PATH"));
    }
    let target = match (named.transaction, &args.at) {
        (Some(_), Some(_)) => {
            return Err(Error::new(Kind::Usage, "a transaction is named, and --at a time")
                .hint("leave one of them away"));
        }
        (Some(transaction), None) => Target::Transaction(transaction),
        (None, None) => Target::Latest,
        (None, Some(at)) => {
            let zone = &session.surroundings.time_zone;
            Target::At(moment::parse(at, env.clock.now(), zone)?)
        }
    };
    let replay = ReplicaReplay::to(&named.replica, named.replica.meant(target)?)?;
    let (url, mapping) = (named.replica.url(), Mapping::default());
    let origin = Origin::Made { name: &url };
    let request = plain_request(session, args, origin, &replay, &mapping)?;
    let name = args.to.as_deref().map_or_else(|| url.clone(), sources::name_of);
    carry_out(session, env, &request, args.dry_run, &name)
}
