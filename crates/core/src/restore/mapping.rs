//! A restore to a host on which folders and accounts have other names.

use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::owner::{Ownership, knows};

/// What has another name here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    paths: Vec<(PathBuf, PathBuf)>,
    users: Vec<(String, String)>,
}

static NOTHING: Mapping = Mapping { paths: Vec::new(), users: Vec::new() };

impl Mapping {
    /// Everything is called as it was.
    pub fn nothing() -> &'static Mapping {
        &NOTHING
    }

    /// Reads `OLD=NEW` of paths, which are absolute, and of users and groups, of which this host
    /// must know the new ones.
    pub fn parse(paths: &[String], users: &[String]) -> Result<Self> {
        let mut mapping = Mapping::default();
        for text in paths {
            let (old, new) = split("path", text)?;
            let (old, new) = (PathBuf::from(old), PathBuf::from(new));
            let plain = |path: &Path| {
                path.is_absolute()
                    && !path.components().any(|part| part == std::path::Component::ParentDir)
            };
            if !plain(&old) || !plain(&new) {
                let message = format!("`{text}` does not map one absolute path to another");
                return Err(Error::new(Kind::Usage, message)
                    .hint("an example: --map-path /var/lib/superchat=/srv/superchat"));
            }
            mapping.paths.push((old, new));
        }
        for text in users {
            let (old, new) = split("user", text)?;
            if !knows(new) {
                let message = format!("this host knows no user and no group `{new}`");
                return Err(Error::new(Kind::Usage, message)
                    .hint("make the account first: useradd --system NAME"));
            }
            mapping.users.push((old.to_owned(), new.to_owned()));
        }
        // The longest path decides, however they were given.
        mapping.paths.sort_by_key(|(old, _)| std::cmp::Reverse(old.components().count()));
        Ok(mapping)
    }

    /// Whether nothing has another name.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.users.is_empty()
    }

    /// Where an absolute path is now.
    pub fn path(&self, path: &Path) -> PathBuf {
        for (old, new) in &self.paths {
            match path.strip_prefix(old) {
                Ok(rest) if rest.as_os_str().is_empty() => return new.clone(),
                Ok(rest) => return new.join(rest),
                Err(_) => {}
            }
        }
        path.to_owned()
    }

    /// What a user or a group is called now.
    pub fn user<'a>(&'a self, name: &'a str) -> &'a str {
        let mapped = self.users.iter().find(|(old, _)| old == name);
        mapped.map_or(name, |(_, new)| new)
    }

    /// [`Ownership::on_this_host`] under the names of now.
    pub(super) fn ownership(
        &self,
        mode: u32,
        owner: (Option<&str>, u32),
        group: (Option<&str>, u32),
    ) -> Ownership {
        let mapped = |(name, number): (Option<&str>, u32)| {
            (name.map(|name| self.user(name).to_owned()), number)
        };
        let (owner, group) = (mapped(owner), mapped(group));
        Ownership::on_this_host(mode, (owner.0.as_deref(), owner.1), (group.0.as_deref(), group.1))
    }
}

fn split<'a>(what: &str, text: &'a str) -> Result<(&'a str, &'a str)> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => Ok((old, new)),
        _ => Err(Error::new(Kind::Usage, format!("`{text}` is not OLD=NEW"))
            .hint(format!("an example: --map-{what} OLD=NEW"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(paths: &[&str]) -> Mapping {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        Mapping::parse(&paths, &[]).unwrap()
    }

    #[test]
    fn the_longest_path_decides_and_names_are_whole() {
        let mapping = mapping(&["/var/lib=/srv", "/var/lib/chat=/data/chat"]);
        for (old, new) in [
            ("/var/lib/chat/a.db", "/data/chat/a.db"),
            ("/var/lib/chat", "/data/chat"),
            ("/var/lib/chatter/a.db", "/srv/chatter/a.db"),
            ("/etc/chat", "/etc/chat"),
        ] {
            assert_eq!(mapping.path(Path::new(old)), Path::new(new));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for wrong in ["", "/a", "a=/b", "/a=b", "=/b", "/a=", "/a=/b/../c"] {
            assert!(Mapping::parse(&[wrong.to_owned()], &[]).is_err(), "{wrong}");
        }
        let users = ["chat=root".to_owned()];
        assert_eq!(Mapping::parse(&[], &users).unwrap().user("chat"), "root");
        let error = Mapping::parse(&[], &["chat=no-such-user".to_owned()]).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
    }
}
