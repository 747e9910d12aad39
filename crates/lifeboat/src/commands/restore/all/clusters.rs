//! Whole clusters in `restore --all`: each goes to its `data_directory`, or to a folder of its own
//! below `--root`, and brings the databases of its server along, whose dumps are then not loaded.
//! What is in a data directory is kept beside it. Where a cluster goes of which nothing is
//! configured is for a person to say: nobody stops a server unasked.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use lifeboat_core::env::Env;
use lifeboat_core::restore::Mapping;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::recovery::assemble::Stored;
use lifeboat_postgres::recovery::log_state::{LogState, supply};
use lifeboat_postgres::recovery::plan::{Action, ClusterRequest, is_free, plan};
use lifeboat_postgres::recovery::restore::{Carry, apply};
use lifeboat_postgres::recovery::settings::NextStart;
use lifeboat_postgres::recovery::target::{Target as Moment, Timeline};
use lifeboat_postgres::wal::Archive;
use serde_json::Value;

use super::super::cluster::say;
use super::super::{Args, CheckWord};
use crate::cluster_backups::{ancestors, archive, users};
use crate::clusters::Cluster as ClusterConfig;
use crate::postgres;
use crate::repositories::Opened;
use crate::selection::{self, Selected};
use crate::session::Session;
use crate::sources::Target;
use crate::ui::units;

/// Below the root, the folder of all clusters.
const FOLDER: &str = "clusters";

/// A cluster with the backup that it goes back to.
pub(super) struct Cluster {
    pub(super) selected: Selected,
    pub(super) target: Target,
    /// Where it goes.
    pub(super) place: Place,
}

/// Where a cluster goes.
pub(super) struct Place {
    /// The data directory that it becomes.
    pub(super) to: PathBuf,
    /// Whether something is there, which is kept beside it.
    pub(super) is_taken: bool,
}

/// What is known of a cluster's restore before it begins.
pub(super) struct Planned {
    pub(super) text: String,
    pub(super) json: Value,
}

impl Place {
    /// Below the root, if there is one, else at its data directory.
    fn of(target: &Target, mapping: &Mapping, root: Option<&Path>) -> Result<Place> {
        let configured = target.cluster.as_ref().and_then(ClusterConfig::data_directory);
        match (root, configured) {
            (Some(root), _) => {
                Ok(Place { to: root.join(FOLDER).join(&target.name), is_taken: false })
            }
            (None, Some(data)) => {
                let to = mapping.path(data);
                Ok(Place { is_taken: !is_free(&to)?, to })
            }
            (None, None) => {
                let name = units::shell_word(&target.name);
                Err(Error::new(
                    Kind::Incomplete,
                    format!("`{}` is a whole cluster, which goes where you say", target.name),
                )
                .hint(format!(
                    "lifeboat restore {name} --to DIR, or --in-place DATA-DIRECTORY; or say it \
                     once, as `data_directory` of the source; or all of it below a folder: --root"
                )))
            }
        }
    }
}

/// Whether the databases of a server come back with one of these clusters: with which.
pub(super) fn bringing<'a>(clusters: &'a [Cluster], target: &Target) -> Option<&'a str> {
    let database = target.database.as_ref()?;
    let brings = |one: &&Cluster| {
        let cluster = one.target.cluster.as_ref();
        cluster.is_some_and(|cluster| cluster.is_server_of(database.address()))
    };
    clusters.iter().find(brings).map(|one| one.target.name.as_str())
}

impl Cluster {
    /// Looks, and changes nothing.
    pub(super) fn plan(&self, session: &Session, env: &Env, args: &Args) -> Result<Planned> {
        self.with_plan(session, env, args, |said, _| {
            if let (Some(process), None) = (said.plan.running, &self.target.service) {
                let data = units::one_line(&said.plan.to.to_string_lossy());
                let message = format!("a server (process {process}) has {data} open");
                return Err(Error::new(Kind::Refused, message)
                    .hint("stop it first, or name its `service` in the configuration"));
            }
            Ok(Planned { text: said.text(), json: said.as_json() })
        })
    }

    /// Does it.
    pub(super) fn apply(&self, session: &Session, env: &Env, args: &Args) -> Result<Value> {
        self.with_plan(session, env, args, |said, archive| {
            let carry = Carry {
                supply: supply(archive, &self.selected.manifest),
                next: NextStart::Plain,
                users: users(Some(&self.target)),
                service: self.target.service.as_ref().filter(|_| self.place.is_taken),
                strict: args.check != Some(CheckWord::None),
                deep: false,
            };
            let outcome = apply(env, said.request, said.plan, &carry)?;
            session.progress.clear();
            say::warn(session, said.plan, &outcome);
            say::text(session, said.request, said.plan, &outcome);
            Ok(say::as_json(said.request, said.plan, &outcome, None))
        })
    }

    fn with_plan<R>(
        &self,
        session: &Session,
        env: &Env,
        args: &Args,
        act: impl FnOnce(&say::Planned<'_>, Archive) -> Result<R>,
    ) -> Result<R> {
        let Selected { repository, folder, manifest, .. } = &self.selected;
        let moment = match args.at.as_deref().filter(|at| *at != "latest") {
            Some(at) => {
                let zone = &session.surroundings.time_zone;
                Moment::Time(lifeboat_core::moment::parse(at, env.clock.now(), zone)?)
            }
            None => Moment::End,
        };
        let archive = archive(session, env, &self.selected)?;
        let log = LogState::of(env, &archive, manifest)?;
        let timeline = log.decide(&moment, Timeline::Latest)?;
        let options = postgres::options();
        let older = ancestors(&self.selected)?;
        let stored = |manifest| Stored { repository, folder, manifest };
        let request = ClusterRequest {
            chain: older.iter().chain([manifest]).map(stored).collect(),
            to: &self.place.to,
            in_place: self.place.is_taken,
            delta: false,
            tablespaces: &[],
            target: moment,
            timeline,
            action: Action::Promote,
            options: &options,
        };
        let plan = plan(env, &request)?;
        act(&say::Planned { request: &request, plan: &plan, log: &log, kept: None }, archive)
    }
}

/// The newest backup of a cluster at or before the moment.
pub(super) fn find(
    env: &Env,
    opened: &[Opened],
    target: Target,
    at: Timestamp,
    (mapping, root): (&Mapping, Option<&Path>),
) -> Result<Cluster, (String, Error)> {
    let name = target.name.clone();
    let found = Place::of(&target, mapping, root)
        .and_then(|place| Ok((place, selection::of_target(env, opened, &target, at)?)));
    match found {
        Ok((place, selected)) => Ok(Cluster { selected, target, place }),
        Err(error) => Err((name, error)),
    }
}
