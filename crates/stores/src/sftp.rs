//! A folder on a host that is reached by SSH.
//!
//! The system's `ssh` makes the connection, so that the user's configuration, agent, jump hosts and
//! known hosts hold; over its pipes we speak SFTP ourselves. An object is written under a hidden
//! name (`.NAME.ID.part`), synced, and then named by a hard link, which never overwrites. Files are
//! 0600 and folders 0700.

mod address;
mod connection;
mod explain;
mod list;
mod put;
mod read;
mod server;
mod wire;

use std::ops::Range;
use std::sync::Arc;

use lifeboat_core::env::Env;
use lifeboat_core::store::{ObjectInfo, ObjectName, ObjectReader, Put, Space, Store};
use lifeboat_core::{Error, Kind, Result};

pub use address::SftpAddress;
use put::SftpPut;
use read::SftpReader;
use server::Server;
use wire::{Attributes, Entry};

use crate::part;

/// How many objects are read at once: each is a connection, and servers bound their number.
const READERS: usize = 4;

/// A store on a host that is reached by SSH.
pub struct SftpStore {
    server: Arc<Server>,
}

impl SftpStore {
    /// The store at that address. Nothing is connected yet.
    pub fn new(env: &Env, address: SftpAddress) -> Self {
        SftpStore { server: Arc::new(Server::new(env, address)) }
    }

    fn path(&self, name: &str) -> String {
        self.server.address.path(name)
    }

    fn create(&self, part: &str, path: &str) -> Result<SftpPut> {
        let attempt = || SftpPut::create(&self.server, part.to_owned(), path.to_owned());
        let status = match attempt()? {
            Ok(put) => return Ok(put),
            Err(status) => status,
        };
        let folder = path.rsplit_once('/').map(|(folder, _)| folder).unwrap_or_default();
        if !status.is(wire::NO_SUCH_FILE) || folder.is_empty() {
            return Err(self.server.refused("cannot write to", folder, &status));
        }
        if let Err(status) = self.server.make_folders(folder)? {
            return Err(self.server.refused("cannot create the folder", folder, &status));
        }
        attempt()?.map_err(|status| self.server.refused("cannot write to", folder, &status))
    }

    /// All files below a folder, hidden ones left out.
    fn walk(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let mut found = Vec::new();
        let mut names = vec![prefix.to_owned()];
        while !names.is_empty() {
            let folders: Vec<String> = names.iter().map(|name| self.path(name)).collect();
            let mut below = Vec::new();
            for (name, entries) in names.iter().zip(self.read_folders(&folders)?) {
                for entry in &entries {
                    let Some(name) = visible(name, entry) else { continue };
                    if entry.attributes.is_folder() {
                        below.push(name);
                    } else if entry.attributes.is_file() {
                        found.push(info(ObjectName::new(name)?, &entry.attributes));
                    }
                }
            }
            names = below;
        }
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn read_folders(&self, folders: &[String]) -> Result<Vec<Vec<Entry>>> {
        let read = self.server.with(|connection| list::read_folders(connection, folders))?;
        read.map_err(|status| {
            let all = self.path("");
            let folder = if let [folder] = folders { folder } else { &all };
            self.server.refused("cannot list", folder, &status)
        })
    }
}

/// The object's or folder's name of an entry; `None` for what is hidden or no text, which is not
/// ours.
fn visible(prefix: &str, entry: &Entry) -> Option<String> {
    let name = std::str::from_utf8(&entry.name).ok()?;
    match (prefix, name.starts_with('.') || name.is_empty() || name.contains('/')) {
        (_, true) => None,
        ("", false) => Some(name.to_owned()),
        (prefix, false) => Some(format!("{prefix}/{name}")),
    }
}

fn info(name: ObjectName, found: &Attributes) -> ObjectInfo {
    ObjectInfo { name, bytes: found.bytes.unwrap_or_default(), modified: found.modified() }
}

impl Store for SftpStore {
    fn url(&self) -> String {
        self.server.address.url()
    }

    fn put(&self, name: &ObjectName) -> Result<Box<dyn Put>> {
        let part = part::name(&self.server.env, name.file_name());
        let part = match name.as_str().rsplit_once('/') {
            Some((folder, _)) => format!("{folder}/{part}"),
            None => part,
        };
        Ok(Box::new(self.create(&self.path(&part), &self.path(name.as_str()))?))
    }

    fn get(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<ObjectReader> {
        let path = self.path(name.as_str());
        match SftpReader::open(&self.server, path.clone(), range)? {
            Ok(reader) => Ok(Box::new(reader)),
            Err(status) if status.is(wire::NO_SUCH_FILE) => {
                let message = format!("there is no {name} in {}", self.url());
                Err(Error::new(Kind::NotCovered, message))
            }
            Err(status) => Err(self.server.refused("cannot read", &path, &status)),
        }
    }

    fn head(&self, name: &ObjectName) -> Result<Option<ObjectInfo>> {
        let path = self.path(name.as_str());
        match self.server.stat(&path)? {
            Ok(found) => {
                let found = found.filter(Attributes::is_file);
                Ok(found.map(|found| info(name.clone(), &found)))
            }
            Err(status) => Err(self.server.refused("cannot look at", &path, &status)),
        }
    }

    fn list(&self, prefix: Option<&str>) -> Result<Vec<ObjectInfo>> {
        self.walk(prefix.unwrap_or_default())
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        let path = self.path(name.as_str());
        self.server
            .remove(&path)?
            .map_err(|status| self.server.refused("cannot delete", &path, &status))
    }

    /// Nothing over SFTP says whether a writer lives: the age of what is left has to.
    fn unfinished(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let mut found = Vec::new();
        for entry in self.read_folders(&[self.path(prefix)])?.iter().flatten() {
            let Ok(name) = std::str::from_utf8(&entry.name) else { continue };
            if part::is_one(name) && entry.attributes.is_file() {
                let name = ObjectName::new(format!("{prefix}/{name}"))?;
                found.push(info(name, &entry.attributes));
            }
        }
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn discard(&self, name: &ObjectName) -> Result<bool> {
        match part::is_one(name.file_name()) {
            true => self.delete(name).map(|()| true),
            false => Err(Error::new(Kind::Failed, format!("{name} is no unfinished object"))),
        }
    }

    /// A hidden file is created in the nearest folder that exists, and removed.
    fn check_writable(&self) -> Result<()> {
        let mut folder = self.path("");
        while self.is_absent(&folder)? {
            folder = match folder.rsplit_once('/') {
                Some((above, _)) if !above.is_empty() => above.to_owned(),
                Some(_) => "/".to_owned(),
                None => ".".to_owned(),
            };
        }
        let part = part::name(&self.server.env, "check");
        let path = format!("{}/{part}", folder.trim_end_matches('/'));
        let created = SftpPut::create(&self.server, path, String::new())?;
        created.map(drop).map_err(|status| self.server.refused("cannot write to", &folder, &status))
    }

    fn space(&self) -> Result<Option<Space>> {
        self.server.space()
    }

    fn readers(&self) -> usize {
        READERS
    }
}

impl SftpStore {
    fn is_absent(&self, folder: &str) -> Result<bool> {
        match self.server.stat(folder)? {
            Ok(found) => Ok(found.is_none() && folder != "/" && folder != "."),
            Err(status) => Err(self.server.refused("cannot look at", folder, &status)),
        }
    }
}
