//! `lifeboat restore` of a whole PostgreSQL cluster: a backup, then the log up to a moment.

pub(super) mod say;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lifeboat_core::env::Env;
use lifeboat_core::manifest::Manifest;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::recovery::assemble::Stored;
use lifeboat_postgres::recovery::log_state::{LogState, supply};
use lifeboat_postgres::recovery::plan::{Action, ClusterRequest, plan};
use lifeboat_postgres::recovery::restore::{Carry, apply};
use lifeboat_postgres::recovery::reuse::survey;
use lifeboat_postgres::recovery::settings::NextStart;
use lifeboat_postgres::recovery::target::{Target, Timeline};
use lifeboat_postgres::replication::Lsn;
use lifeboat_postgres::{Address, CLUSTER_KIND};

use super::{Args, CheckWord};
use crate::cluster_backups::{ancestors, archive, users};
use crate::postgres;
use crate::selection::Selected;
use crate::session::Session;
use crate::sources;
use crate::ui::confirm::confirm;
use crate::ui::units;

/// The options that only whole clusters have.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Options for a whole PostgreSQL cluster")]
pub(crate) struct ClusterArgs {
    /// Recover to a point that was named by pg_create_restore_point
    #[arg(long, value_name = "NAME", conflicts_with_all = ["at", "target_lsn", "target_xid"])]
    target_name: Option<String>,
    /// Recover to a position of the WAL: 0/3000028
    #[arg(long, value_name = "LSN", conflicts_with_all = ["at", "target_xid"])]
    target_lsn: Option<Lsn>,
    /// Recover to a transaction, by its number
    #[arg(long, value_name = "XID", conflicts_with = "at")]
    target_xid: Option<u64>,
    /// Follow this timeline, or the latest that leads from the backup
    #[arg(long, value_name = "latest|N", default_value = "latest", value_parser = timeline)]
    timeline: Timeline,
    /// Put a tablespace elsewhere; by default they go to a folder beside --to
    #[arg(long, value_name = "OLD=NEW", value_parser = mapping)]
    tablespace: Vec<(PathBuf, PathBuf)>,
    /// What the cluster is in the end
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = ActionWord::Promote)]
    action: ActionWord,
    /// Make a standby: it catches up from the repository, then follows its primary
    #[arg(long, conflicts_with_all = ["at", "target_name", "target_lsn", "target_xid", "action"])]
    standby: bool,
    /// Of a standby: how its primary is reached; the password belongs into ~/.pgpass there
    #[arg(long, value_name = "URL", requires = "standby")]
    primary: Option<String>,
    /// Of a standby: the replication slot on its primary
    #[arg(long, value_name = "SLOT", requires = "primary")]
    slot: Option<String>,
    /// Reuse the data directory that is at --to: files with the right checksum stay, others are
    /// replaced or removed, and nothing is kept of what was there. Its server must be stopped. A
    /// run that was killed is finished by the next one
    #[arg(long, requires = "to", conflicts_with = "in_place")]
    delta: bool,
    /// Replace the cluster in this data directory, which is kept beside it: its server is stopped
    /// and started where the source has a `service`
    #[arg(long, value_name = "DIR", conflicts_with_all = ["to", "standby"])]
    in_place: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum ActionWord {
    /// Recovered, read and promoted: a cluster of its own, not running
    Promote,
    /// Recovered; when it is started it pauses at the moment and can be read
    Pause,
    /// Recovered; when it is started it is promoted
    Shutdown,
    /// Unpacked; when it is started it recovers by itself and is promoted
    Leave,
}

impl ClusterArgs {
    /// None of them means anything for something else.
    pub(super) fn refuse_elsewhere(&self) -> Result<()> {
        let target =
            self.target_name.is_some() || self.target_lsn.is_some() || self.target_xid.is_some();
        let used = target
            || self.timeline != Timeline::Latest
            || !self.tablespace.is_empty()
            || self.action != ActionWord::Promote
            || self.standby
            || self.delta
            || self.in_place.is_some();
        match used {
            true => Err(Error::new(
                Kind::Usage,
                "--target-*, --timeline, --tablespace, --action, --standby, --delta and --in-place \
                 are for a whole PostgreSQL cluster",
            )
            .hint("leave them away, or name a source with `physical = true`")),
            false => Ok(()),
        }
    }

    fn action(&self) -> Action {
        match self.action {
            _ if self.standby => Action::Standby,
            ActionWord::Promote => Action::Promote,
            ActionWord::Pause => Action::Pause,
            ActionWord::Shutdown => Action::Shutdown,
            ActionWord::Leave => Action::Leave,
        }
    }
}

fn timeline(text: &str) -> Result<Timeline, String> {
    match text {
        "latest" => Ok(Timeline::Latest),
        number => match number.parse() {
            Ok(number) if number > 0 => Ok(Timeline::Number(number)),
            _ => Err("write `latest`, or the number of a timeline".to_owned()),
        },
    }
}

fn mapping(text: &str) -> Result<(PathBuf, PathBuf), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => Ok((old.into(), new.into())),
        _ => Err("write OLD=NEW, two paths".to_owned()),
    }
}

/// Whether a backup is of a whole cluster.
pub(super) fn is_meant(kind: &str) -> bool {
    kind == CLUSTER_KIND
}

/// Restores a cluster.
pub(super) fn run(
    session: &Session,
    env: &Env,
    args: &Args,
    selected: &Selected,
    target: Option<&sources::Target>,
) -> Result<ExitCode> {
    let (cluster, manifest) = (&args.cluster, &selected.manifest);
    let what = args.what.as_deref().unwrap_or_default();
    let action = cluster.action();
    let wanted = wanted_target(session, env, args, what, manifest)?;
    let archive = archive(session, env, selected)?;
    let log = LogState::of(env, &archive, manifest)?;
    let timeline = match action {
        Action::Standby => Timeline::Latest,
        _ => log.decide(&wanted, cluster.timeline)?,
    };
    let place = args.to.as_deref().or(cluster.in_place.as_deref()).ok_or_else(|| {
        Error::new(Kind::Usage, format!("where should {} be restored to?", manifest.name)).hint(
            "name a new folder with --to DIR; or the live data directory with --in-place DIR, \
             which is kept beside it",
        )
    })?;
    let options = postgres::options();
    let older = ancestors(selected)?;
    let Selected { repository, folder, .. } = selected;
    let stored = |manifest| Stored { repository, folder, manifest };
    let request = ClusterRequest {
        chain: older.iter().chain([manifest]).map(stored).collect(),
        to: place,
        in_place: cluster.in_place.is_some(),
        delta: cluster.delta,
        tablespaces: &cluster.tablespace,
        target: wanted,
        timeline,
        action,
        options: &options,
    };
    let plan = plan(env, &request)?;
    let asks = (request.in_place || plan.reuses) && !session.globals.yes;
    let kept = match plan.reuses && (args.dry_run || asks) {
        true => Some(survey(env, &request.chain, &plan.place)?),
        false => None,
    };
    session.progress.clear();
    let said = say::Planned { request: &request, plan: &plan, log: &log, kept: kept.as_ref() };
    if args.dry_run {
        said.print(session)?;
        return Ok(ExitCode::SUCCESS);
    }
    let service = target.filter(|_| request.in_place);
    let service = service.and_then(|target| target.service.as_ref());
    if let (Some(process), None) = (plan.running, service) {
        let message = format!("a server (process {process}) has {} open", shown(&plan.to));
        return Err(Error::new(Kind::Refused, message)
            .hint("stop it first, or name its `service` in the configuration"));
    }
    agree(session, &said, asks, &manifest.source.name)?;
    let carry = Carry {
        supply: supply(archive, manifest),
        next: next_start(session, args, &request, manifest)?,
        users: users(target),
        service: target.filter(|_| request.in_place).and_then(|target| target.service.as_ref()),
        strict: args.check != Some(CheckWord::None),
        deep: false,
    };
    let outcome = apply(env, &request, &plan, &carry)?;
    session.progress.clear();
    say::outcome(session, &request, &plan, &outcome)?;
    Ok(ExitCode::SUCCESS)
}

/// Up to where: what is said, else the end of the log; a backup that is named is meant as it is.
fn wanted_target(
    session: &Session,
    env: &Env,
    args: &Args,
    what: &str,
    manifest: &Manifest,
) -> Result<Target> {
    let cluster = &args.cluster;
    if let Some(name) = &cluster.target_name {
        return Ok(Target::Name(name.clone()));
    }
    if let Some(position) = cluster.target_lsn {
        return Ok(Target::Position(position));
    }
    if let Some(number) = cluster.target_xid {
        return Ok(Target::Transaction(number));
    }
    if let Some(at) = &args.at {
        let zone = &session.surroundings.time_zone;
        let time = lifeboat_core::moment::parse(at, env.clock.now(), zone)?;
        return Ok(if at == "latest" { Target::End } else { Target::Time(time) });
    }
    let names_a_backup = what == manifest.name
        || what.contains('/')
        || what.rsplit_once('@').is_some_and(|(_, moment)| moment != "latest");
    Ok(if names_a_backup { Target::Consistent } else { Target::End })
}

/// What the cluster does when a person starts it.
fn next_start(
    session: &Session,
    args: &Args,
    request: &ClusterRequest<'_>,
    manifest: &Manifest,
) -> Result<NextStart> {
    let restore_command = restore_command(session, manifest)?;
    let recover = |action| NextStart::Recover {
        restore_command: restore_command.clone(),
        target: request.target.clone(),
        timeline: request.timeline,
        action,
    };
    Ok(match request.action {
        Action::Promote => NextStart::Plain,
        Action::Pause => recover("pause"),
        Action::Shutdown | Action::Leave => recover("promote"),
        Action::Standby => NextStart::Follow {
            restore_command,
            primary: args.cluster.primary.as_deref().map(primary).transpose()?,
            slot: args.cluster.slot.clone(),
        },
    })
}

/// How a standby reaches its primary. A password would lie there to be read.
fn primary(url: &str) -> Result<String> {
    let address = Address::parse(url)?;
    if address.password.is_some() {
        return Err(Error::new(Kind::Usage, "a password does not belong into --primary").hint(
            "write it into ~/.pgpass of the server's user, in a line for the database replication",
        ));
    }
    Ok(address.with("application_name", "lifeboat_standby").conninfo())
}

/// The restore command of a server that a person starts.
fn restore_command(session: &Session, manifest: &Manifest) -> Result<String> {
    let program = std::env::current_exe()
        .map_err(|error| Error::io(Kind::Failed, "cannot tell where this program is", error))?;
    let mut words = vec![program.to_string_lossy().into_owned()];
    let named = session.globals.config.clone();
    if let Some(config) = named.or_else(|| session.surroundings.path("LIFEBOAT_CONFIG")) {
        let config = std::path::absolute(&config).unwrap_or(config);
        words.extend(["--config".to_owned(), config.to_string_lossy().into_owned()]);
    }
    if let Some(repository) = &session.globals.repo {
        words.extend(["--repo".to_owned(), repository.clone()]);
    }
    words.extend(["wal", "fetch", "--source", &manifest.source.name].map(str::to_owned));
    let quoted: Vec<String> =
        words.iter().map(|word| units::shell_word(word).replace('%', "%%")).collect();
    Ok(format!("{} %f %p", quoted.join(" ")))
}

fn agree(session: &Session, said: &say::Planned<'_>, asks: bool, name: &str) -> Result<()> {
    let text = said.text();
    if !asks {
        text.lines().for_each(|line| session.printer.detail(line));
        return Ok(());
    }
    text.lines().for_each(|line| session.printer.line(line));
    let place = shown(&said.plan.to);
    confirm(&session.surroundings, &session.printer, &format!("replacing {place}"), name)
}

fn shown(path: &Path) -> String {
    units::one_line(&path.to_string_lossy())
}
