//! Owners and groups of files: names of numbers, and back.
//!
//! Read from `/etc/passwd` and `/etc/group`, which is where the accounts of services are. A name
//! is what survives the move to another host, where the numbers may differ.

use std::fs;
use std::path::Path;

use crate::manifest::FileFacts;

/// The mode, owner and group that a restored file gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Permission bits, without set-uid and its like.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
}

impl Ownership {
    /// What `facts` ask for on this host.
    pub fn of(facts: &FileFacts) -> Self {
        let owner = (facts.owner.as_deref(), facts.uid);
        let group = (facts.group.as_deref(), facts.gid);
        Ownership::on_this_host(facts.mode, owner, group)
    }

    /// Mode, owner and group as names and numbers of another host: the name counts where this
    /// host knows it, else the number.
    pub fn on_this_host(mode: u32, owner: (Option<&str>, u32), group: (Option<&str>, u32)) -> Self {
        let uid = owner.0.and_then(user_number).unwrap_or(owner.1);
        let gid = group.0.and_then(group_number).unwrap_or(group.1);
        Ownership { mode: mode & 0o1777, uid, gid }
    }
}

/// The name of a user.
pub fn user_name(uid: u32) -> Option<String> {
    name_of(Path::new("/etc/passwd"), uid)
}

/// The name of a group.
pub fn group_name(gid: u32) -> Option<String> {
    name_of(Path::new("/etc/group"), gid)
}

/// Whether this host has a user or a group of that name.
pub fn knows(name: &str) -> bool {
    user_number(name).or_else(|| group_number(name)).is_some()
}

fn user_number(name: &str) -> Option<u32> {
    number_of(Path::new("/etc/passwd"), name)
}

fn group_number(name: &str) -> Option<u32> {
    number_of(Path::new("/etc/group"), name)
}

/// Name and number of each line of `name:x:number:...`.
fn lines(text: &str) -> impl Iterator<Item = (&str, u32)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        Some((name, fields.nth(1)?.parse().ok()?))
    })
}

fn name_of(table: &Path, number: u32) -> Option<String> {
    let text = fs::read_to_string(table).ok()?;
    lines(&text).find(|(_, found)| *found == number).map(|(name, _)| name.to_owned())
}

fn number_of(table: &Path, name: &str) -> Option<u32> {
    let text = fs::read_to_string(table).ok()?;
    lines(&text).find(|(found, _)| *found == name).map(|(_, number)| number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_number_zero() {
        assert_eq!(user_name(0).as_deref(), Some("root"));
        assert_eq!(user_number("root"), Some(0));
        assert_eq!(lines("a:x:1:\nbroken\nb:x:2:").collect::<Vec<_>>(), [("a", 1), ("b", 2)]);
    }
}
