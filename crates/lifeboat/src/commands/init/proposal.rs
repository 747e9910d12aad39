//! From what was found to the sources of a configuration, and to its text.
//!
//! A plain function of findings and clock: nothing is looked up here but which companions lie
//! beside a database.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::grouping::{free, free_name, groups, pattern, tenant, unit};
use super::inner;
use super::servers::{self, Server};
use crate::discover::{Database, Findings, Search};
use crate::repositories::local_url;
use crate::ui::units;
use jiff::Timestamp;

/// What was written within so many hours is in use.
const IN_USE_HOURS: i64 = 7 * 24;

/// A database larger than this is backed up daily, not hourly.
const HOURLY_BYTES_MAX: u64 = 10_000_000_000;

/// Files beside a database that no database brings back, how they are called, and what is said
/// of them.
const COMPANIONS: &[Companion] = &[
    Companion {
        suffix: "host-key",
        names: &["ssh_host_key", "ssh_host_ed25519_key", "ssh_host_rsa_key"],
        keep: "\"forever\"",
        comment: "Without the host key every user is warned of an attack: kept for ever.",
    },
    Companion {
        suffix: "config",
        names: &["config.toml", "config.yaml", "config.yml", "config.json", ".env"],
        keep: "{ within = \"365d\" }",
        comment: "Keys and settings: a backup after each change, kept for a year.",
    },
];

struct Companion {
    suffix: &'static str,
    names: &'static [&'static str],
    keep: &'static str,
    comment: &'static str,
}

/// A source that is proposed.
pub(super) struct Proposed<'a> {
    /// Its name.
    pub(super) name: String,
    /// The database; several where a glob stands for them.
    pub(super) databases: Vec<&'a Database>,
    /// The unit that has it open.
    pub(super) service: Option<String>,
    /// Its path, or the pattern of several.
    pub(super) path: String,
    is_hourly: bool,
    /// Companions: the name of their source, which they are, and their paths.
    files: Vec<(String, &'static Companion, Vec<String>)>,
}

/// All that is proposed.
pub(super) struct Proposal<'a> {
    sources: Vec<Proposed<'a>>,
    /// Servers, also those that do not let us in.
    servers: Vec<Server>,
    /// Databases whose paths no configuration can hold.
    unnameable: Vec<PathBuf>,
    now: Timestamp,
}

impl<'a> Proposal<'a> {
    /// What is proposed for what was found.
    ///
    /// Servers are asked whether they let us in; `config` is the path of the configuration.
    pub(super) fn of(
        search: &Search,
        findings: &'a Findings,
        config: &Path,
        now: Timestamp,
    ) -> Self {
        let (sources, servers) = (Vec::new(), Vec::new());
        let mut proposal = Proposal { sources, servers, unnameable: Vec::new(), now };
        let mut taken = BTreeSet::new();
        let mut files_taken = BTreeSet::new();
        let (nameable, unnameable): (Vec<&Database>, Vec<&Database>) =
            findings.databases.iter().partition(|database| database.path.to_str().is_some());
        proposal.unnameable.extend(unnameable.iter().map(|database| database.path.clone()));
        for databases in groups(&nameable) {
            let source = Proposed::of(search, databases, now, &mut taken, &mut files_taken);
            proposal.sources.push(source);
        }
        proposal.servers = servers::of(search, findings, config, &mut taken);
        proposal
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.reached().next().is_none()
    }

    /// All servers that were found.
    pub(super) fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Those that can be backed up as they are.
    pub(super) fn reached(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().filter(|server| server.is_reached())
    }

    /// What is here and no source stands for: a line for each.
    pub(super) fn unprotected(&self, findings: &Findings) -> Vec<String> {
        let servers = self.servers.iter().filter_map(Server::complaint);
        servers.chain(findings.settings.iter().flat_map(|found| found.elsewhere())).collect()
    }

    pub(super) fn sources(&self) -> &[Proposed<'a>] {
        &self.sources
    }

    pub(super) fn unnameable(&self) -> &[PathBuf] {
        &self.unnameable
    }

    /// The configuration's file.
    pub(super) fn text(&self, findings: &Findings, repository: &Path) -> String {
        let mut text = format!(
            "# The configuration of lifeboat, of what was found on this host on {}.\n\
             # `lifeboat config check` tries this file, `lifeboat install systemd` makes the \
             schedules run,\n\
             # `lifeboat init --example --dry-run` shows every key that there is.\n",
            self.now.strftime("%Y-%m-%d")
        );
        for warning in findings.warnings.iter() {
            text.push_str(&comment(&format!("WARNING: {warning}")));
        }
        text.push_str(&format!(
            "\n# On another disk than the databases it survives one of them; move it there if you \
             can.\n[repository.local]\nurl = \"{}\"\n",
            inner(&local_url(repository))
        ));
        text.push_str(
            "\n# What is kept: the newest backup of each of so many hours, days and months that have \
             one, the\n# newest good ones always; after each backup the others go, in two steps with \
             days between.\n# `rpo` is the age beyond which `lifeboat status` calls a source \
             stale.\n",
        );
        for source in &self.sources {
            text.push_str(&source.text(self.now));
        }
        text.extend(self.servers.iter().map(Server::text));
        text.push_str(&unprotected(findings));
        text
    }
}

/// Comments for what is here and has no source.
fn unprotected(findings: &Findings) -> String {
    let lines = findings.settings.iter().flat_map(|settings| settings.elsewhere());
    let mut text = String::new();
    for (index, line) in lines.enumerate() {
        if index == 0 {
            text.push('\n');
        }
        text.push_str(&comment(&format!("found, not yet protected: {line}")));
    }
    text
}

impl<'a> Proposed<'a> {
    /// What is proposed for databases that make one source. `taken` and `files_taken` are the
    /// names and the files that are in the configuration already.
    fn of(
        search: &Search,
        databases: Vec<&'a Database>,
        now: Timestamp,
        taken: &mut BTreeSet<String>,
        files_taken: &mut BTreeSet<PathBuf>,
    ) -> Self {
        let first = databases[0];
        let mut name = match pattern(first).filter(|_| databases.len() > 1) {
            Some((_, folder)) => free_name(&folder, taken),
            None => free_name(&first.path, taken),
        };
        if databases.len() > 1 {
            let stem = name.clone();
            while databases.iter().any(|database| taken.contains(&tenant(&name, database))) {
                name = free(Vec::new(), &stem, taken);
            }
            taken.extend(databases.iter().map(|database| tenant(&name, database)));
        }
        let is_small = databases.iter().all(|database| database.bytes <= HOURLY_BYTES_MAX);
        let in_use = databases.iter().any(|database| is_in_use(database, now));
        let pattern = pattern(first).filter(|_| databases.len() > 1).map(|found| found.0);
        let path = pattern.unwrap_or_else(|| first.path.to_string_lossy().into_owned());
        let files = companions(search, &databases, files_taken);
        let files = files.into_iter().map(|(companion, files)| {
            let wanted = format!("{name}-{}", companion.suffix);
            (free(vec![wanted.clone()], &wanted, taken), companion, files)
        });
        let files = files.collect();
        let service = unit(first);
        let is_hourly = is_small && in_use;
        Proposed { name, databases, service, path, is_hourly, files }
    }

    /// Each database with the name that its backups will have.
    pub(super) fn each(&self) -> Vec<(String, &Database)> {
        match self.databases[..] {
            [one] => vec![(self.name.clone(), one)],
            _ => self
                .databases
                .iter()
                .map(|database| (tenant(&self.name, database), *database))
                .collect(),
        }
    }

    /// Whether it is the database of a server for which there is a preset.
    pub(super) fn is_superchat(&self) -> bool {
        let has_key = self.files.iter().any(|(_, companion, _)| companion.suffix == "host-key");
        has_key && self.path.ends_with("/superchat.db")
    }

    fn text(&self, now: Timestamp) -> String {
        let mut text = format!("\n{}", comment(&self.facts(now)));
        let (name, path) = (key(&self.name), inner(&self.path));
        text.push_str(&match self.databases.len() {
            1 => format!("[source.{name}]\nsqlite = \"{path}\"\n"),
            _ => format!("[source.{name}]\nsqlite = {{ glob = \"{path}\" }}\n"),
        });
        if let Some(service) = &self.service {
            text.push_str(&format!(
                "# Stopped and started around a restore in place.\nservice = \"{}\"\n",
                inner(service)
            ));
        }
        let (schedule, keep, rpo) = match self.is_hourly {
            true => ("hourly", "hourly = 48, daily = 30, monthly = 12", "2h"),
            false => ("daily", "daily = 30, monthly = 12", "26h"),
        };
        text.push_str(&format!(
            "schedule = \"{schedule}\"\nkeep = {{ {keep} }}\nprune = \"after-backup\"\n\
             rpo = \"{rpo}\"\n"
        ));
        for (name, companion, files) in &self.files {
            let name = key(name);
            let files: Vec<String> =
                files.iter().map(|file| format!("\"{}\"", inner(file))).collect();
            text.push_str(&format!(
                "\n{}[source.{name}]\nfiles = [{}]\nwhen = \"on-change\"\nschedule = \"hourly\"\n\
                 keep = {}\n",
                comment(companion.comment),
                files.join(", "),
                companion.keep
            ));
            if companion.keep.starts_with('{') {
                text.push_str("prune = \"after-backup\"\n");
            }
        }
        text
    }

    /// What was seen of the database, in a line.
    fn facts(&self, now: Timestamp) -> String {
        let database = self.databases[0];
        if self.databases.len() > 1 {
            let bytes = self.databases.iter().map(|database| database.bytes).sum();
            let count = self.databases.len();
            return format!(
                "{count} databases, {} together, and those that join them later; the backups of \
                 each have a name of their own",
                units::bytes(bytes)
            );
        }
        let mode = if database.is_wal { "WAL mode" } else { "rollback journal" };
        let mut facts = vec![units::bytes(database.bytes), mode.to_owned()];
        facts.extend(written(database).map(|at| format!("written {}", units::age(at, now))));
        facts.extend(database.named_by.iter().cloned());
        let openers = openers(database);
        if !openers.is_empty() {
            facts.push(format!("open in {openers}"));
        }
        facts.join(", ")
    }
}

/// Who has a database open: "superchat (812), sqlite3 (9)".
pub(super) fn openers(database: &Database) -> String {
    let mut names: Vec<String> = database
        .openers
        .iter()
        .map(|opener| format!("{} ({})", units::one_line(&opener.name), opener.pid))
        .collect();
    names.dedup();
    if names.len() > 3 {
        names.truncate(3);
        names.push("...".to_owned());
    }
    names.join(", ")
}

/// When a database was written last.
pub(super) fn written(database: &Database) -> Option<Timestamp> {
    Timestamp::try_from(database.written?).ok()
}

fn is_in_use(database: &Database, now: Timestamp) -> bool {
    let age = written(database).map(|at| now.duration_since(at).as_hours());
    !database.openers.is_empty() || age.is_some_and(|hours| hours <= IN_USE_HOURS)
}

/// What lies beside a database, and in the folder of its name below `/etc`; each file once.
fn companions(
    search: &Search,
    databases: &[&Database],
    taken: &mut BTreeSet<PathBuf>,
) -> Vec<(&'static Companion, Vec<String>)> {
    let folders: Vec<PathBuf> =
        databases.iter().flat_map(|database| folders_of(&database.path)).collect();
    let mut found = Vec::new();
    for companion in COMPANIONS {
        let mut files = Vec::new();
        for path in folders
            .iter()
            .flat_map(|folder| companion.names.iter().map(move |name| folder.join(name)))
        {
            let is_file = search.real(&path).is_file();
            if is_file && taken.insert(path.clone()) {
                files.extend(path.to_str().map(str::to_owned));
            }
        }
        if !files.is_empty() {
            found.push((companion, files));
        }
    }
    found
}

/// Where the companions of a database may lie.
fn folders_of(database: &Path) -> Vec<PathBuf> {
    let Some(folder) = database.parent() else { return Vec::new() };
    let mut folders = vec![folder.to_owned()];
    if let Some(stem) = database.file_stem() {
        folders.push(Path::new("/etc").join(stem));
    }
    // An application's own folder is above its folder of data.
    if folder.file_name().is_some_and(|name| name == "data") {
        let above = folder.parent().filter(|above| above.parent().is_some());
        folders.extend(above.map(Path::to_owned));
    }
    folders
}

/// A name as it stands in the brackets of a section.
pub(super) fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match !name.is_empty() && name.chars().all(bare) {
        true => name.to_owned(),
        false => format!("\"{}\"", inner(name)),
    }
}

/// A text as lines of comment. What was found may have any name: nothing of it may end the line.
pub(super) fn comment(text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::from("#");
    for word in units::one_line(text).split(' ') {
        if line.chars().count() + 1 + word.chars().count() > 100 && line != "#" {
            lines.push_str(&line);
            lines.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    lines.push_str(&line);
    lines.push('\n');
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_never_ends_before_its_text_does() {
        let text = comment("a\nb = 1 [source.x]");
        assert_eq!(text, "# a\\nb = 1 [source.x]\n");
        assert!(comment(&"word ".repeat(60)).lines().all(|line| line.starts_with("# ")));
    }
}
