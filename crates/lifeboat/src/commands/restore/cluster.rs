//! `lifeboat restore` of a whole PostgreSQL cluster: a backup, then the log up to a moment.

mod say;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lifeboat_core::env::Env;
use lifeboat_core::manifest::Manifest;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::recovery::assemble::Stored;
use lifeboat_postgres::recovery::log_state::{LogState, supply, system_of};
use lifeboat_postgres::recovery::plan::{Action, ClusterRequest, plan};
use lifeboat_postgres::recovery::restore::{Carry, apply};
use lifeboat_postgres::recovery::settings::NextStart;
use lifeboat_postgres::recovery::target::{Target, Timeline};
use lifeboat_postgres::replication::Lsn;
use lifeboat_postgres::wal::{Archive, Member};
use lifeboat_postgres::{Address, CLUSTER_KIND};

use super::{Args, CheckWord};
use crate::postgres;
use crate::repositories;
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
            || self.in_place.is_some();
        match used {
            true => Err(Error::new(
                Kind::Usage,
                "--target-*, --timeline, --tablespace, --action, --standby and --in-place are for \
                 a whole PostgreSQL cluster",
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
        tablespaces: &cluster.tablespace,
        target: wanted,
        timeline,
        action,
        options: &options,
    };
    let plan = plan(env, &request)?;
    if args.dry_run {
        say::plan(session, &request, &plan, &log)?;
        return Ok(ExitCode::SUCCESS);
    }
    let service = target.filter(|_| request.in_place);
    let service = service.and_then(|target| target.service.as_ref());
    if let (Some(process), None) = (plan.running, service) {
        let message = format!("a server (process {process}) has {} open", shown(&plan.to));
        return Err(Error::new(Kind::Refused, message)
            .hint("stop it first, or name its `service` in the configuration"));
    }
    agree(session, &request, &plan, &log, &manifest.source.name)?;
    let carry = Carry {
        supply: supply(archive, manifest),
        next: next_start(session, args, &request, manifest)?,
        users: users(target),
        service: target.filter(|_| request.in_place).and_then(|target| target.service.as_ref()),
        strict: args.check != Some(CheckWord::None),
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

/// The log of the cluster in every repository that holds its source.
fn archive(session: &Session, env: &Env, selected: &Selected) -> Result<Archive> {
    let mut members = vec![Member {
        label: selected.repository.url(),
        repository: selected.repository.clone(),
        folder: selected.folder.clone(),
    }];
    let (opened, _) = repositories::open_all(session, env).unwrap_or_default();
    for one in &opened {
        let is_known = members.iter().any(|member| member.label == one.repository.url());
        let id = selected.manifest.source.id;
        let entry = one.catalog.sources.iter().find(|entry| entry.record.id == id);
        if let Some(entry) = entry.filter(|_| !is_known) {
            members.push(Member {
                label: one.repository.url(),
                repository: one.repository.clone(),
                folder: entry.folder.clone(),
            });
        }
    }
    Ok(Archive { members, system: system_of(&selected.manifest)?, level: 1 })
}

/// The backups that one is built on, the oldest first.
fn ancestors(selected: &Selected) -> Result<Vec<Manifest>> {
    let mut chain: Vec<Manifest> = Vec::new();
    if selected.manifest.parent.is_none() {
        return Ok(chain);
    }
    let catalog = selected.repository.catalog()?;
    let entry = catalog.sources.into_iter().find(|entry| entry.folder == selected.folder);
    // One with a tombstone is as good while its bytes are there.
    let mut all: Vec<Manifest> =
        entry.map(|entry| [entry.backups, entry.removed].concat()).unwrap_or_default();
    loop {
        let youngest = chain.last().unwrap_or(&selected.manifest);
        let Some(parent) = youngest.parent else { break };
        let Some(found) = all.iter().position(|backup| backup.id == parent) else {
            let message = format!("the backup that {} builds on is not there", youngest.name);
            return Err(Error::new(Kind::NotCovered, message)
                .hint(format!("choose another: lifeboat list {}", selected.folder)));
        };
        let found = all.swap_remove(found);
        chain.push(found);
    }
    chain.reverse();
    Ok(chain)
}

/// Roles that may ask the restored cluster, where everybody is let in.
fn users(target: Option<&sources::Target>) -> Vec<String> {
    let mut users = vec!["postgres".to_owned()];
    let client = target.and_then(|target| target.cluster.as_ref()?.client().ok());
    users.extend(client.and_then(|client| client.address().get("user").map(str::to_owned)));
    users.extend(lifeboat_core::owner::user_name(rustix::process::geteuid().as_raw()));
    users
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

fn agree(
    session: &Session,
    request: &ClusterRequest<'_>,
    plan: &lifeboat_postgres::recovery::plan::ClusterPlan,
    log: &LogState,
    name: &str,
) -> Result<()> {
    let text = say::plan_text(request, plan, log);
    if !request.in_place || session.globals.yes {
        text.lines().for_each(|line| session.printer.detail(line));
        return Ok(());
    }
    text.lines().for_each(|line| session.printer.line(line));
    let place = shown(&plan.to);
    confirm(&session.surroundings, &session.printer, &format!("replacing {place}"), name)
}

fn shown(path: &Path) -> String {
    units::one_line(&path.to_string_lossy())
}
