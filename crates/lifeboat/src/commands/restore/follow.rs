//! `lifeboat restore SOURCE --to PATH --follow`: a standby for readers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lifeboat_core::backup::lock::SourceLock;
use lifeboat_core::env::Env;
use lifeboat_core::manifest::CheckLevel;
use lifeboat_core::names;
use lifeboat_core::restore::{self, FilesChoice, Mapping, Replay, RestoreRequest};
use lifeboat_core::{Error, Kind, Result};
use lifeboat_sqlite::KIND;
use lifeboat_sqlite::pagelog::{Moment, Standby, StandbyOrigin, StandbyReplay, StandbyStep};
use serde_json::json;

use super::Args;
use crate::commands::backup::level_or;
use crate::logs::{self, State};
use crate::private;
use crate::selection;
use crate::session::Session;
use crate::signals;
use crate::sources::{self, CHECK_MEMORY_BYTES};
use crate::ui::{report, units};

/// After so many looks it is asked whether a newer backup began another log.
const NEWER_EVERY_LOOKS: u32 = 20;

pub(super) fn run(session: &Session, args: &Args, what: &str) -> Result<ExitCode> {
    args.server.refuse_elsewhere()?;
    args.cluster.refuse_elsewhere()?;
    let mut env = session.env()?;
    env.stop = signals::catch();
    let to = args.to.clone().unwrap_or_default();
    let path = sources::place_of(&to)?;
    let name = units::one_line(what);
    let lock = format!("standby-{}", names::source_name(&path.to_string_lossy()));
    let busy = format!("another run that follows into {}", path.display());
    let _lock = SourceLock::named(&env, session.folders.locks.as_deref(), &lock, &name, &busy)?;
    let follower = Follower { session, env: &env, args, what, path: &path };
    match follower.begin().and_then(|standby| follower.follow(standby)) {
        // It follows until it is told to end: that is no failure.
        Err(error) if !args.once && signals::is_end(&error) => {
            session.printer.note("ended: the next one goes on here");
            Ok(ExitCode::SUCCESS)
        }
        ended => ended.map(|()| ExitCode::SUCCESS),
    }
}

struct Follower<'a> {
    session: &'a Session,
    env: &'a Env,
    args: &'a Args,
    what: &'a str,
    path: &'a Path,
}

impl Follower<'_> {
    /// The database as its source is now.
    fn begin(&self) -> Result<Standby> {
        let state = self.newest()?;
        self.prepare(&state)?;
        self.bring(&state)
    }

    /// Goes on until it is told to end, or once.
    fn follow(&self, standby: Standby) -> Result<()> {
        let Follower { session, env, args, .. } = *self;
        let name = units::one_line(self.what);
        let mut standby = Some(standby);
        let mut told = String::new();
        let mut looks = 0;
        loop {
            if args.once {
                return self.catch_up(&mut standby);
            }
            looks += 1;
            let looked = match looks % NEWER_EVERY_LOOKS {
                0 => self.renew(&mut standby),
                _ => self.catch_up(&mut standby),
            };
            match looked {
                Ok(()) => told.clear(),
                Err(error) if signals::is_end(&error) => return Err(error),
                // What it shows stays whole; it goes on as soon as the repository leads on.
                Err(error) => {
                    let causes =
                        report::causes(&error).into_iter().map(|cause| format!(": {cause}"));
                    let message = format!("{error}{}", causes.collect::<String>());
                    if told != message {
                        session.printer.warning(&name, &message);
                        told = message;
                    }
                }
            }
            env.pause_ms(args.interval.milliseconds.max(1))?;
        }
    }

    /// The newest state of the source.
    fn newest(&self) -> Result<State> {
        let selected = selection::backup(self.session, self.env, self.what, None)?;
        if selected.manifest.source.kind != KIND {
            let message = format!("`{}` is no SQLite database", units::one_line(self.what));
            return Err(Error::new(Kind::Usage, message)
                .hint("a standby of a PostgreSQL cluster is one of its server: --standby"));
        }
        logs::meant(selected)
    }

    /// Makes the database where there is none. What is there and is no standby is left alone.
    fn prepare(&self, state: &State) -> Result<()> {
        let marker = marker(self.path);
        let source = state.selected.manifest.source.id.to_string();
        let marked = fs::read_to_string(&marker).ok();
        if self.path.exists() {
            return match marked.as_deref().map(str::trim) {
                Some(of) if of == source => Ok(()),
                Some(_) => Err(self.refused("is a standby of another source")),
                None => Err(self.refused("is there already, and is no standby")),
            };
        }
        if marked.is_none() {
            private::write_new(&marker, &format!("{source}\n"))?;
        } else if marked.as_deref().map(str::trim) != Some(source.as_str()) {
            return Err(self.refused("was a standby of another source"));
        }
        let replay =
            StandbyReplay { replay: state.replay.as_ref(), base: &state.selected.manifest };
        let mapping = Mapping::default();
        let request = RestoreRequest {
            origin: state.selected.origin(),
            replay: Some(&replay as &dyn Replay),
            engine: sources::engine(KIND)?,
            to: Some(self.path.to_owned()),
            files: FilesChoice::No,
            files_root: None,
            mapping: &mapping,
            check: level_or(self.args.check, CheckLevel::Quick),
            check_memory_bytes: CHECK_MEMORY_BYTES,
            service: None,
            scratch_folder: &self.session.folders.scratch,
        };
        let plan = restore::plan(self.env, &request)?;
        if plan.in_place {
            return Err(self.refused("has files of another database beside it"));
        }
        restore::apply(self.env, &request, &plan)?;
        self.session.progress.clear();
        Ok(())
    }

    fn refused(&self, why: &str) -> Error {
        let (path, marker) = (self.path.display(), marker(self.path));
        Error::new(Kind::Refused, format!("{path} {why}"))
            .hint(format!("name another path with --to, or remove it and {}", marker.display()))
    }

    fn bring(&self, state: &State) -> Result<Standby> {
        let State { selected, replay } = state;
        let origin = StandbyOrigin {
            repository: &selected.repository,
            folder: &selected.folder,
            base: &selected.manifest,
            replay: replay.as_ref(),
        };
        let scratch = &self.session.folders.scratch;
        let standby = Standby::bring(self.env, self.path, &origin, scratch)?;
        self.session.progress.clear();
        self.tell(&standby, standby.moment())?;
        Ok(standby)
    }

    /// Goes on as far as the log leads.
    fn catch_up(&self, standby: &mut Option<Standby>) -> Result<()> {
        let scratch = &self.session.folders.scratch;
        let Some(mut current) = standby.take() else {
            *standby = Some(self.bring(&self.newest()?)?);
            return Ok(());
        };
        loop {
            // After an error it is not put back: the next look brings it anew.
            match current.step(self.env, scratch)? {
                StandbyStep::Unchanged => break,
                StandbyStep::Advanced(moment) => self.tell(&current, &moment)?,
                StandbyStep::Lost => {
                    current = self.bring(&self.newest()?)?;
                    break;
                }
            }
        }
        *standby = Some(current);
        Ok(())
    }

    /// Where a newer backup began another log, goes on there.
    fn renew(&self, standby: &mut Option<Standby>) -> Result<()> {
        self.catch_up(standby)?;
        let Some(current) = standby else { return Ok(()) };
        let newest = self.newest()?;
        if newest.selected.manifest.id != current.base().id {
            *standby = Some(self.bring(&newest)?);
        }
        Ok(())
    }

    fn tell(&self, standby: &Standby, moment: &Moment) -> Result<()> {
        let lag = self.env.clock.now().duration_since(moment.held);
        let lag_ms = u64::try_from(lag.as_millis()).unwrap_or(0);
        let (path, base) = (self.path.display(), units::one_line(&standby.base().name));
        let printer = &self.session.printer;
        if printer.json() {
            let told = json!({
                "outcome": "advanced", "place": self.path, "backup": standby.base().name,
                "position": moment.position, "held": moment.held, "until": moment.until,
                "lag_ms": lag_ms,
            });
            return printer.data(&format!("{told}\n"));
        }
        printer.note(&format!(
            "{path} shows {base}+{}, all of {} ({} ago)",
            moment.position,
            moment.held.strftime("%Y-%m-%dT%H:%M:%SZ"),
            units::duration(lag_ms)
        ));
        Ok(())
    }
}

/// What says that a database is a standby, and of which source.
fn marker(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lifeboat-standby");
    name.into()
}
