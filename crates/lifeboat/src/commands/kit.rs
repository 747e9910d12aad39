//! `lifeboat kit`: one page with all that it takes to get everything back, for paper and a safe.

mod by_hand;
mod page;

use std::path::PathBuf;
use std::process::ExitCode;

use lifeboat_core::env::Env;
use lifeboat_core::manifest::{Artifact, Manifest};
use lifeboat_core::moment::compact;
use lifeboat_core::seal::{Identity, protect};
use lifeboat_core::{Error, Kind, Result};
use serde_json::json;

use self::page::{Block, Page};
use crate::private;
use crate::repositories::{self, Opened};
use crate::selection;
use crate::session::{Session, TOOL};
use crate::ui::{passphrase, units};

/// The file in which the commands expect the key.
const KEY_FILE: &str = "recovery.key";

/// Make a recovery kit: one page for paper and a safe
///
/// It says what is protected, where the copies are, whose key opens them, and the commands that
/// bring everything back, with lifeboat and without it. Made of what the repositories hold now:
/// make it anew when the configuration changes. With --to, the page is written as text and as HTML,
/// for the owner's eyes alone; else it is printed.
///
/// The key is not on it, unless --with-key asks for that: then it is protected by a passphrase,
/// which must be kept somewhere else.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder into which the page is written, as text and as HTML
    #[arg(long, value_name = "FOLDER")]
    to: Option<PathBuf>,
    /// Put the key on the page that --identity or the configuration names. Its new passphrase is
    /// asked for, or is the next line of standard input
    #[arg(long)]
    with_key: bool,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let env = session.env()?;
    let key = args.with_key.then(|| key(session, &env)).transpose()?;
    let (mut opened, failures) = repositories::look_over(session, &env)?;
    opened.sort_by_key(distance);
    let page = page(session, &env, &opened, key)?;
    let Some(folder) = &args.to else {
        session.printer.data(&page.to_text())?;
        return super::incomplete(&failures);
    };
    let host: String = env.host.chars().map(|c| if c == '/' { '-' } else { c }).collect();
    let name = format!("recovery-kit-{host}-{}", compact(env.clock.now()));
    let (text, html) = (folder.join(format!("{name}.txt")), folder.join(format!("{name}.html")));
    private::write_new(&text, &page.to_text())?;
    private::write_new(&html, &page.to_html())?;
    match session.printer.json() {
        true => session.printer.json_data(&json!({ "text": text, "html": html }))?,
        false => session.printer.data(&format!("{}\n{}\n", text.display(), html.display()))?,
    }
    session.printer.note("print it, and keep it away from this host; the file of the key too");
    super::incomplete(&failures)
}

/// What is far away comes first: it is there when this host is not.
fn distance(opened: &Opened) -> u8 {
    match opened.place.config.drive() {
        Some(_) => 1,
        None if opened.place.url.starts_with("file://") => 2,
        None => 0,
    }
}

/// The key under its new passphrase, proved to open with it.
fn key(session: &Session, env: &Env) -> Result<String> {
    let Some(keys) = session.keys()? else {
        return Err(Error::new(Kind::Usage, "there is no key to put on the page")
            .hint("name its file: --identity FILE"));
    };
    let identity = keys.identity()?;
    let secret = identity.to_file(&env.clock.now().to_string());
    let has_terminal = session.surroundings.stdin_is_terminal;
    let passphrase =
        passphrase::ask_new(&session.printer, has_terminal, "new passphrase for the kit's key")?;
    let protected = protect(&secret, &passphrase)?;
    let again =
        Identity::parse(protected.as_bytes(), "the key of the kit", &|_| Ok(passphrase.clone()))
            .map_err(|_| no_key_of_age())?;
    match again.recipients() == identity.recipients() {
        true => Ok(protected),
        false => Err(no_key_of_age()),
    }
}

fn no_key_of_age() -> Error {
    Error::new(Kind::Usage, "a key of SSH cannot be put on the page")
        .hint("keep its file with the kit; or seal to a key of `lifeboat key new` as well")
}

fn page(session: &Session, env: &Env, opened: &[Opened], key: Option<String>) -> Result<Page> {
    let config = &session.loaded()?.config;
    let host = units::one_line(&env.host);
    let mut page = Page { title: format!("Recovery kit of {host}"), ..Page::default() };
    let made = units::moment(env.clock.now(), &session.surroundings.time_zone);
    page.text(format!(
        "Made {made} by {TOOL}. If {host} is lost, this page brings its data back. Keep it where a \
         fire or a thief of the server does not come, and make it anew when the configuration \
         changes."
    ));
    if let Some(contact) = &config.contact {
        page.pair("Contact", units::one_line(contact));
    }
    let newest = newest(opened);
    protected(session, &mut page, &newest);
    copies(&mut page, opened);
    keys(&mut page, &newest, key);
    with_lifeboat(&mut page, opened);
    without(&mut page, &newest);
    Ok(page)
}

/// The newest good backup of each source, in the repository that is farthest away.
fn newest(opened: &[Opened]) -> Vec<(&Opened, &str, &Manifest)> {
    let mut found: Vec<(&Opened, &str, &Manifest)> = Vec::new();
    for one in opened {
        for entry in &one.catalog.sources {
            let Some(manifest) = entry.newest_good() else { continue };
            let id = manifest.source.id;
            let known = found.iter().any(|(_, _, known)| known.source.id == id);
            if !known {
                found.push((one, &entry.folder, manifest));
            }
        }
    }
    found
}

fn protected(session: &Session, page: &mut Page, newest: &[(&Opened, &str, &Manifest)]) {
    page.heading("1. What is protected");
    for (_, folder, manifest) in newest {
        let files = manifest.artifact(lifeboat_core::files::ROLE).is_some();
        let beside = if files && manifest.source.kind != "files" { ", with its files" } else { "" };
        let what = format!(
            "{} at {} on {}{beside}; newest good backup {}, {}",
            manifest.source.kind,
            manifest.source.location,
            manifest.source.host,
            selection::moment(session, manifest),
            units::bytes(manifest.plain_bytes()),
        );
        page.pair(&units::one_line(folder), units::one_line(&what));
    }
    if newest.is_empty() {
        page.text("Nothing: no repository holds a good backup. Run `lifeboat backup` first.");
    }
}

fn copies(page: &mut Page, opened: &[Opened]) {
    page.heading("2. Where the copies are");
    for one in opened {
        let remark = match distance(one) {
            0 => "",
            1 => " (a drive: it must be attached)",
            _ => " (a folder of the server itself, lost with it unless it lies on another disk)",
        };
        let url = format!("{}{remark}", one.place.url);
        page.pair(&units::one_line(one.place.label()), units::one_line(&url));
        let config = &one.place.config;
        let named = [
            ("server", config.endpoint.clone()),
            ("region", config.region.clone()),
            ("profile", config.profile.clone()),
            ("access key", config.access_key_id.clone()),
            ("account", config.account.clone()),
            ("ssh settings", config.ssh_config.as_ref().map(|path| path.display().to_string())),
        ];
        for (term, value) in named {
            value.into_iter().for_each(|value| page.pair("", format!("{term} {value}")));
        }
    }
    page.text(
        "The secrets that these places ask for (keys of buckets, keys of SSH) are not on this page. \
         Keep them where this page is.",
    );
}

fn keys(page: &mut Page, newest: &[(&Opened, &str, &Manifest)], key: Option<String>) {
    page.heading("3. The key");
    let artifacts = newest.iter().flat_map(|(_, _, manifest)| &manifest.artifacts);
    let seals = artifacts.filter_map(|artifact| artifact.sealed.as_ref());
    let mut recipients: Vec<&String> = seals.flat_map(|seal| &seal.to).collect();
    recipients.sort();
    recipients.dedup();
    if recipients.is_empty() {
        page.text("The backups are not sealed: no key is needed, and whoever has them reads them.");
        return;
    }
    page.text(format!(
        "The backups are sealed. The key of any one of these recipients opens them; `lifeboat key \
         show FILE` says whose key a file is. The commands below expect it in a file {KEY_FILE}."
    ));
    for recipient in recipients {
        page.pair("recipient", units::one_line(recipient));
    }
    match key {
        None => page.text("The key is not on this page."),
        Some(key) => {
            page.text(format!(
                "This is the key, protected by a passphrase that is not on this page. Put the lines \
                 from BEGIN to END into a file {KEY_FILE}. lifeboat and age ask for the passphrase."
            ));
            page.blocks.push(Block::Verbatim(key));
        }
    }
}

fn with_lifeboat(page: &mut Page, opened: &[Opened]) {
    page.heading("4. Back with lifeboat");
    page.text(
        "On a new host with the program, as root, from any one of the copies. `adopt` writes the \
         configuration; add --dry-run to see first what would be done, and --map-path OLD=NEW or \
         --map-user OLD=NEW where folders or accounts have other names.",
    );
    for one in opened {
        let sealed = one.catalog.sources.iter().flat_map(|entry| &entry.backups);
        let sealed = sealed.flat_map(|manifest| &manifest.artifacts).any(|it| it.sealed.is_some());
        let identity = if sealed { format!(" --identity {KEY_FILE}") } else { String::new() };
        let url = units::shell_word(&one.place.url);
        // What the configuration says of a server is not there yet when it is asked for.
        let config = &one.place.config;
        let variables = [
            ("AWS_ENDPOINT_URL", &config.endpoint),
            ("AWS_REGION", &config.region),
            ("AWS_PROFILE", &config.profile),
            ("AZURE_STORAGE_ACCOUNT", &config.account),
        ];
        let named = variables.into_iter().filter_map(|(name, value)| {
            Some(format!("{name}={} ", units::shell_word(value.as_ref()?)))
        });
        let variables: String = named.collect();
        page.commands(vec![
            format!("{variables}lifeboat adopt {url}{identity}"),
            format!("{variables}lifeboat restore --all --repo {url}{identity} --yes"),
        ]);
    }
    page.text("Then `lifeboat install systemd` brings the schedules back.");
}

fn without(page: &mut Page, newest: &[(&Opened, &str, &Manifest)]) {
    page.heading("5. Back without lifeboat");
    page.text(
        "With age, zstd, sqlite3, tar and, for PostgreSQL, its client programs. In an empty folder; \
         files come out below it. Never put a restored database beside an old -wal or -journal.",
    );
    page.commands(vec![format!("KEY={KEY_FILE}")]);
    for (one, folder, manifest) in newest {
        let mut commands = Vec::new();
        let wanted = |artifact: &&Artifact| artifact.role != "page-hashes";
        // Roles come before what belongs to them.
        let mut artifacts: Vec<&Artifact> = manifest.artifacts.iter().filter(wanted).collect();
        artifacts.sort_by_key(|artifact| artifact.role != "globals");
        for artifact in artifacts {
            commands.push(by_hand::fetch(&one.place.config, folder, &artifact.name));
            commands.extend(by_hand::restore(manifest, artifact));
        }
        page.pair(&units::one_line(folder), units::one_line(&manifest.source.location));
        page.commands(commands);
    }
}
