//! A lost host key: back from a backup, or made anew, with the lines that users need.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use jiff::Timestamp;
use lifeboat_core::env::Env;
use lifeboat_core::files;
use lifeboat_core::manifest::{CheckLevel, Manifest};
use lifeboat_core::moment::compact;
use lifeboat_core::restore::{self, FilesChoice, Mapping, Origin, RestoreRequest};
use lifeboat_core::service::Service;
use lifeboat_core::{Error, Kind, Result};
use serde_json::json;

use super::Args;
use super::look::opened;
use crate::checks::is_key;
use crate::commands::drill::host_keys::fingerprint;
use crate::commands::drill::scratch::Scratch;
use crate::repositories::Opened;
use crate::session::Session;
use crate::sources::{self, CHECK_MEMORY_BYTES, Target};
use crate::ui::confirm::confirm;
use crate::ui::units;

/// An archive of files that is larger holds no key that was looked for first.
const ARCHIVE_BYTES_MAX: u64 = 256 << 20;
/// So many backups of a source are looked into, the newest first.
const BACKUPS_MAX: usize = 3;

/// A key that a backup holds, unpacked.
struct Found {
    backup: String,
    repository: String,
    taken_at: Timestamp,
    path: PathBuf,
    fingerprint: String,
}

/// Brings the key back.
pub(super) fn run(session: &Session, env: &Env, args: &Args) -> Result<ExitCode> {
    let place = place(session, args)?;
    let scratch = Scratch::new(env, &session.folders.scratch)?;
    let mut notes = Vec::new();
    let opened = opened(session, env, &mut notes);
    let found = search(session, env, &opened, &place, scratch.path(), &mut notes);
    session.progress.clear();
    let printer = &session.printer;
    notes.iter().for_each(|note| printer.note(&format!("note: {}", units::one_line(note))));
    let shown = units::one_line(&place.to_string_lossy());
    let plan = match &found {
        Some(found) => format!(
            "{shown}: {} is in {} of {} ({}); it goes back with mode 0600, and no user sees a warning",
            found.fingerprint,
            found.backup,
            found.repository,
            units::age(found.taken_at, env.clock.now())
        ),
        None => format!(
            "{shown}: no backup holds it; ssh-keygen makes a new one with mode 0600, and every user \
             must be told"
        ),
    };
    if !session.globals.yes {
        if !printer.json() {
            printer.data(&format!("{plan}\n"))?;
        }
        let question = format!("putting a host key at {shown}");
        confirm(&session.surroundings, printer, &question, "yes")?;
    }
    let service = service(session, &place);
    let stopped = match &service {
        Some(service) => Some(service.stop(env)?),
        None => None,
    };
    let staged = staged(&place, found.as_ref(), scratch.path())?;
    let kept = swap(env, &staged, &place)?;
    if let Some(stopped) = stopped {
        stopped.start()?;
    }
    tell(session, args, env, &place, found.is_some(), kept.as_deref())
}

/// The key that was named, else the one of the configuration.
fn place(session: &Session, args: &Args) -> Result<PathBuf> {
    if let Some(what) = &args.what {
        return sources::place_of(Path::new(what));
    }
    let all = session.loaded()?.config.source.values().flat_map(|source| &source.files);
    let mut keys: Vec<PathBuf> = all
        .filter(|file| file.0.glob.is_none())
        .map(|file| file.0.place())
        .filter(|path| is_key(path))
        .collect();
    keys.sort();
    keys.dedup();
    match (keys.len(), keys.pop()) {
        (1, Some(key)) => Ok(key),
        (count, _) => Err(Error::new(
            Kind::Usage,
            format!("the configuration names {count} host keys: which one is lost?"),
        )
        .hint("lifeboat rescue --lost-host-key /path/of/ssh_host_key")),
    }
}

/// The newest backup that holds the key, unpacked into the scratch folder.
fn search(
    session: &Session,
    env: &Env,
    opened: &[Opened],
    place: &Path,
    scratch: &Path,
    notes: &mut Vec<String>,
) -> Option<Found> {
    let mut backups: Vec<(&Opened, &str, &Manifest)> = Vec::new();
    for one in opened {
        for entry in &one.catalog.sources {
            let with_files = entry.backups.iter().rev().filter(|backup| {
                let archive = backup.artifact(files::ROLE);
                archive.is_some_and(|archive| archive.plain_bytes <= ARCHIVE_BYTES_MAX)
            });
            let newest = with_files.take(BACKUPS_MAX);
            backups.extend(newest.map(|backup| (one, entry.folder.as_str(), backup)));
        }
    }
    backups.sort_by_key(|(_, _, backup)| std::cmp::Reverse(backup.taken_at));
    for (number, (one, folder, backup)) in backups.into_iter().enumerate() {
        let root = scratch.join(number.to_string());
        let unpacked = unpack(session, env, one, (folder, backup), &root);
        let path = root.join(place.strip_prefix("/").unwrap_or(place));
        let label = one.place.label();
        match unpacked.and_then(|()| match path.is_file() {
            true => fingerprint(&path).map(Some),
            false => Ok(None),
        }) {
            Ok(Some(fingerprint)) => {
                return Some(Found {
                    backup: backup.name.clone(),
                    repository: label.to_owned(),
                    taken_at: backup.taken_at,
                    path,
                    fingerprint,
                });
            }
            Ok(None) => {}
            Err(error) => notes.push(format!("{} of {label} was left out: {error}", backup.name)),
        }
    }
    None
}

fn unpack(
    session: &Session,
    env: &Env,
    one: &Opened,
    (folder, manifest): (&str, &Manifest),
    root: &Path,
) -> Result<()> {
    let mapping = Mapping::default();
    let request = RestoreRequest {
        origin: Origin::Backup { repository: &one.repository, folder, manifest },
        replay: None,
        engine: sources::engine(&manifest.source.kind)?,
        to: Some(root.to_owned()),
        files: FilesChoice::Only,
        files_root: Some(root.to_owned()),
        mapping: &mapping,
        check: CheckLevel::None,
        check_memory_bytes: CHECK_MEMORY_BYTES,
        service: None,
        scratch_folder: &session.folders.scratch,
    };
    let plan = restore::plan(env, &request)?;
    restore::apply(env, &request, &plan).map(drop)
}

/// The service of the source that has the key beside it.
fn service(session: &Session, place: &Path) -> Option<Service> {
    let targets = Target::all(&session.loaded().ok()?.config).ok()?;
    let is_near = |target: &Target| {
        let path = target.path.as_deref().and_then(|path| sources::place_of(path).ok());
        path.is_some_and(|path| path.parent() == place.parent())
    };
    targets.into_iter().filter(is_near).find_map(|target| target.service)
}

/// The key beside its place, 0600, with its owner.
fn staged(place: &Path, found: Option<&Found>, scratch: &Path) -> Result<PathBuf> {
    let folder = place.parent().unwrap_or(Path::new("/"));
    let failed = |what: &str| {
        let message = format!("cannot {what} {}", place.display());
        move |error| Error::io(Kind::Failed, message, error).hint("run it as the user who may")
    };
    if !folder.exists() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(failed("make the folder of"))?;
    }
    let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let staged = folder.join(format!(".{name}.lifeboat-staging"));
    for path in [staged.clone(), public_of(&staged)] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed("stage")(error));
            }
            _ => {}
        }
    }
    let owner = match found {
        Some(found) => {
            fs::copy(&found.path, &staged).map_err(failed("stage"))?;
            fs::metadata(&found.path).map_err(failed("stage"))?
        }
        None => {
            let made = scratch.join("new_host_key");
            make(&made)?;
            fs::copy(&made, &staged).map_err(failed("stage"))?;
            fs::copy(public_of(&made), public_of(&staged)).map_err(failed("stage"))?;
            fs::metadata(folder).map_err(failed("stage"))?
        }
    };
    fs::set_permissions(&staged, Permissions::from_mode(0o600)).map_err(failed("stage"))?;
    for path in [&staged, &public_of(&staged)] {
        if rustix::process::geteuid().is_root() && path.exists() {
            chown(path, Some(owner.uid()), Some(owner.gid()))
                .map_err(failed("give an owner to"))?;
        }
    }
    fs::File::open(&staged).and_then(|file| file.sync_all()).map_err(failed("sync"))?;
    fingerprint(&staged).map(|_| staged)
}

fn public_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

/// What is there goes aside; the staged key, and its public half where it was made, take its place.
fn swap(env: &Env, staged: &Path, place: &Path) -> Result<Option<PathBuf>> {
    let failed =
        |error| Error::io(Kind::Failed, format!("cannot put in place {}", place.display()), error);
    let aside = |path: &Path| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".before_restore.{}", compact(env.clock.now())));
        PathBuf::from(name)
    };
    let mut kept = None;
    for (from, to) in [(staged.to_owned(), place.to_owned()), (public_of(staged), public_of(place))]
    {
        if !from.exists() {
            continue;
        }
        if fs::symlink_metadata(&to).is_ok() {
            fs::rename(&to, aside(&to)).map_err(failed)?;
            kept = kept.or(Some(aside(&to)));
        }
        fs::rename(&from, &to).map_err(failed)?;
    }
    let folder = place.parent().unwrap_or(Path::new("/"));
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
    Ok(kept)
}

/// A new key of the kind that the guide makes.
fn make(path: &Path) -> Result<()> {
    let made = ssh_keygen(&["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"], path)?;
    drop(made);
    Ok(())
}

fn ssh_keygen(arguments: &[&str], path: &Path) -> Result<String> {
    let output = Command::new("ssh-keygen")
        .args(arguments)
        .arg(path)
        .stdin(Stdio::null())
        .env("LC_ALL", "C")
        .output()
        .map_err(|error| {
            Error::io(Kind::Failed, "cannot run ssh-keygen", error)
                .hint("apt-get install openssh-client")
        })?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(Error::new(Kind::Failed, format!("ssh-keygen failed: {said}")))
        }
    }
}

/// What users need.
fn tell(
    session: &Session,
    args: &Args,
    env: &Env,
    place: &Path,
    is_old: bool,
    kept: Option<&Path>,
) -> Result<ExitCode> {
    let found = fingerprint(place)?;
    let public = ssh_keygen(&["-y", "-P", "", "-f"], place)?;
    let public: Vec<&str> = public.split_whitespace().take(2).collect();
    let public = public.join(" ");
    let host = known_as(args.address.as_deref().unwrap_or(&env.host));
    let forget = format!("ssh-keygen -R '{host}'");
    let known = format!("{host} {public}");
    if session.printer.json() {
        session.printer.json_data(&json!({
            "outcome": if is_old { "restored" } else { "made" },
            "place": place, "fingerprint": found, "public_key": public, "kept_aside": kept,
            "users_forget": forget, "known_hosts": known,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = format!("{}\n  fingerprint {found}\n", place.display());
    if let Some(kept) = kept {
        text.push_str(&format!("  kept        {}\n", kept.display()));
    }
    match is_old {
        true => text.push_str("the key that users know is back: they see no warning\n"),
        false => text.push_str(&format!(
            "this is a NEW key: every user sees a warning. Tell them, on another way than this \
             server:\n\n  The host key of {host} was lost, and is new since {}.\n  Its fingerprint \
             is {found}.\n  Remove the old one:      {forget}\n  and compare, or put this line into \
             ~/.ssh/known_hosts:\n  {known}\n\nand back the key up now: lifeboat backup\n",
            units::moment(env.clock.now(), &session.surroundings.time_zone)
        )),
    }
    session.printer.data(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// How `known_hosts` calls `HOST` or `HOST:PORT`.
fn known_as(address: &str) -> String {
    match address.rsplit_once(':') {
        Some((host, "22")) => host.to_owned(),
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("[{}]:{port}", host.trim_matches(['[', ']']))
        }
        _ => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::known_as;

    #[test]
    fn hosts_are_named_as_known_hosts_names_them() {
        assert_eq!(known_as("chat.example.com:6466"), "[chat.example.com]:6466");
        assert_eq!(known_as("chat.example.com:22"), "chat.example.com");
        assert_eq!(known_as("chat.example.com"), "chat.example.com");
    }
}
