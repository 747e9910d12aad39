//! To which source each file belongs: as the command line says, else as the configuration and the
//! repository know it.

use std::path::{Path, PathBuf};

use lifeboat_core::adopt::{Candidate, Content, KnownSource, candidates};
use lifeboat_core::catalog::{Catalog, SourceRecord};
use lifeboat_core::env::Env;
use lifeboat_core::names::{self, NamePattern};
use lifeboat_core::pipeline::Compression;
use lifeboat_core::repository::SourceIdentity;
use lifeboat_core::{Error, Kind, Result};

use crate::repositories::Place;
use crate::session::Session;
use crate::sources::{self, CHECK_MEMORY_BYTES, Target};
use crate::ui::units;

/// A source that takes files.
#[derive(Clone)]
pub(super) struct Destination {
    pub(super) identity: SourceIdentity,
    pub(super) pattern: NamePattern,
    pub(super) compression: Compression,
    pub(super) check_memory_bytes: u64,
}

/// A source and the files that become its backups, oldest first.
pub(super) struct Group {
    pub(super) destination: Destination,
    pub(super) files: Vec<Candidate>,
}

/// What the files are sorted by.
pub(super) struct Sorter {
    known: Vec<(KnownSource, Destination)>,
    /// What `--source` said: of which names, if it said that, and what.
    said: Vec<(Option<String>, Said)>,
    host: String,
    compression: Compression,
}

enum Said {
    /// A database.
    Known(Box<Destination>),
    /// A name: enough for dumps, as no server is asked.
    Name(String),
}

impl Sorter {
    pub(super) fn new(
        session: &Session,
        env: &Env,
        place: &Place,
        catalog: Option<&Catalog>,
        said: &[String],
    ) -> Result<Self> {
        let config = &session.loaded()?.config;
        let compression = place.compression.unwrap_or(Compression::DEFAULT);
        let mut sorter =
            Sorter { known: Vec::new(), said: Vec::new(), host: env.host.clone(), compression };
        // A glob whose folder is gone must not hinder the others.
        let targets = Target::all(config).unwrap_or_else(|error| {
            env.warn("", &format!("the configured sources are left out: {error}"));
            Vec::new()
        });
        for target in &targets {
            let known = sorter.of_target(env, target)?;
            sorter.known.push(known);
        }
        for entry in catalog.iter().flat_map(|catalog| &catalog.sources) {
            let is_known = sorter.known.iter().any(|(_, known)| known.identity.is(&entry.record));
            if !is_known {
                let known = sorter.of_record(&entry.record);
                sorter.known.push(known);
            }
        }
        for text in said {
            let said = sorter.said(session, env, text)?;
            sorter.said.push(said);
        }
        Ok(sorter)
    }

    fn of_target(&self, env: &Env, target: &Target) -> Result<(KnownSource, Destination)> {
        let identity = target.identity(env)?;
        let known = KnownSource {
            name: target.name.clone(),
            kind: identity.kind.clone(),
            path: target.path.as_deref().map(sources::place_of).transpose()?,
            pattern: target.pattern.clone(),
        };
        let destination = Destination {
            identity,
            pattern: target.pattern.clone(),
            compression: target.compression.unwrap_or(self.compression),
            check_memory_bytes: target.options.check_memory_bytes,
        };
        Ok((known, destination))
    }

    fn of_record(&self, record: &SourceRecord) -> (KnownSource, Destination) {
        let is_file = record.kind == Content::Sqlite.kind();
        let known = KnownSource {
            name: record.name.clone(),
            kind: record.kind.clone(),
            path: is_file.then(|| PathBuf::from(&record.location)),
            pattern: NamePattern::default(),
        };
        let identity = SourceIdentity {
            id: Some(record.id),
            name: record.name.clone(),
            kind: record.kind.clone(),
            host: record.host.clone(),
            location: record.location.clone(),
        };
        (known, self.plain(identity))
    }

    fn plain(&self, identity: SourceIdentity) -> Destination {
        Destination {
            identity,
            pattern: NamePattern::default(),
            compression: self.compression,
            check_memory_bytes: CHECK_MEMORY_BYTES,
        }
    }

    /// `SOURCE`, or `NAME=SOURCE` for the files whose names begin with NAME.
    fn said(&self, session: &Session, env: &Env, text: &str) -> Result<(Option<String>, Said)> {
        let (of, source) = match text.split_once('=') {
            Some((of, source)) if !of.contains('/') => (Some(of.to_owned()), source),
            _ => (None, text),
        };
        if source.is_empty() || of.as_deref() == Some("") {
            return Err(Error::new(Kind::Usage, format!("`--source {text}` names no source"))
                .hint("write --source NAME, --source /path/of/the.db or --source chat=NAME"));
        }
        let by_name = |(known, _): &&(KnownSource, Destination)| known.name == source;
        if let Some((_, destination)) = self.known.iter().find(by_name) {
            return Ok((of, Said::Known(Box::new(destination.clone()))));
        }
        if !source.contains('/') && !Path::new(source).exists() {
            return Ok((of, Said::Name(names::source_name(source))));
        }
        let targets = sources::named(&session.loaded()?.config, &[source.to_owned()])?;
        let target = targets
            .first()
            .ok_or_else(|| Error::new(Kind::Usage, format!("`--source {text}` names no source")))?;
        Ok((of, Said::Known(Box::new(self.of_target(env, target)?.1))))
    }

    /// The source of each file; of those without one the reason.
    pub(super) fn sort(&self, files: Vec<Candidate>) -> (Vec<Group>, Vec<(Candidate, String)>) {
        let mut bases: Vec<String> =
            files.iter().map(|file| file.script.group().to_owned()).collect();
        bases.sort();
        bases.dedup();
        let known: Vec<KnownSource> = self.known.iter().map(|(known, _)| known.clone()).collect();
        let (mut groups, mut without) = (Vec::<Group>::new(), Vec::new());
        for file in files {
            match self.destination(&file, &known, bases.len() == 1) {
                Ok(destination) => {
                    let same = |group: &&mut Group| {
                        let (a, b) = (&group.destination.identity, &destination.identity);
                        (a.id, &a.name, &a.kind, &a.location)
                            == (b.id, &b.name, &b.kind, &b.location)
                    };
                    match groups.iter_mut().find(same) {
                        Some(group) => group.files.push(file),
                        None => groups.push(Group { destination, files: vec![file] }),
                    }
                }
                Err(why) => without.push((file, why)),
            }
        }
        for group in &mut groups {
            group
                .files
                .sort_by(|a, b| (a.decided.taken_at, &a.path).cmp(&(b.decided.taken_at, &b.path)));
        }
        (groups, without)
    }

    fn destination(
        &self,
        file: &Candidate,
        known: &[KnownSource],
        is_only_base: bool,
    ) -> Result<Destination, String> {
        let (script, kind) = (&file.script, file.script.content.kind());
        let folder = file.path.parent().unwrap_or(Path::new("/"));
        let is_named = |of: &str| of == script.base || of == script.group();
        let for_it = self.said.iter().find(|(of, _)| of.as_deref().is_some_and(is_named));
        // A database that was named for all does not take the dumps beside its copies.
        let for_all = self.said.iter().find(|(of, said)| match said {
            Said::Known(destination) => of.is_none() && destination.identity.kind == kind,
            Said::Name(_) => of.is_none(),
        });
        let found = candidates(script, folder, known);
        let said = match for_it {
            Some((_, said)) => Some(said),
            None if is_only_base || found.len() != 1 => for_all.map(|(_, said)| said),
            None => None,
        };
        match (said, &found[..]) {
            (Some(Said::Known(destination)), _) if destination.identity.kind == kind => {
                Ok((**destination).clone())
            }
            (Some(Said::Name(name)), _) if script.content == Content::Dump => {
                Ok(self.of_dumps(name))
            }
            (Some(Said::Known(destination)), []) => Err(format!(
                "`{}` is of the kind {}, and this is of the kind {kind}",
                units::one_line(&destination.identity.name),
                destination.identity.kind
            )),
            (Some(Said::Name(name)), []) => Err(format!(
                "no source is named `{}`; a database can be named by its path, also one that is \
                 gone: --source /path/of/the.db",
                units::one_line(name)
            )),
            (_, [one]) => Ok(self.known[*one].1.clone()),
            (_, []) if script.content == Content::Dump => Ok(self.of_dumps(script.group())),
            (_, []) => Err(format!(
                "no source is known for it; name the source or the path of its database: \
                 --source {0}=NAME",
                units::shell_word(script.group())
            )),
            (_, several) => {
                let names: Vec<String> =
                    several.iter().map(|index| units::one_line(&known[*index].name)).collect();
                Err(format!(
                    "it may be of {}: --source {}=NAME says which",
                    names.join(" or "),
                    units::shell_word(script.group())
                ))
            }
        }
    }

    /// A source of dumps, known by its name alone.
    fn of_dumps(&self, name: &str) -> Destination {
        let name = names::source_name(name);
        self.plain(SourceIdentity {
            id: None,
            kind: Content::Dump.kind().to_owned(),
            host: self.host.clone(),
            location: format!("dumps of {name}"),
            name,
        })
    }
}
