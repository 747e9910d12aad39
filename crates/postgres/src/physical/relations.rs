//! To which tables damaged files belong: asked of the server, where it answers questions in SQL.
//!
//! A connection for replication answers none, so this takes another, by psql. It is a help for
//! people: where it does not work, files and blocks are named as they are.

use std::collections::{BTreeMap, BTreeSet};

use super::damage::PageName;
use crate::client::Client;
use crate::page::RelationFile;
use crate::session::Session;

const WHAT: &str = "cannot ask for the names of damaged tables";
/// So many files are named.
const FILES_MAX: usize = 100;

/// A file of a relation: its database (0 of those that all share), tablespace (0 of the default)
/// and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    database: u32,
    tablespace: u32,
    number: u32,
}

impl Place {
    fn of(path: &str) -> Option<Place> {
        let file = RelationFile::of_path(path)?;
        let parts: Vec<&str> = path.split('/').collect();
        let (database, tablespace) = match parts[..] {
            // The tablespace pg_global has this number in every cluster.
            ["global", _] => (0, 1664),
            ["base", database, _] => (database.parse().ok()?, 0),
            ["pg_tblspc", tablespace, _, database, _] => {
                (database.parse().ok()?, tablespace.parse().ok()?)
            }
            _ => return None,
        };
        Some(Place { database, tablespace, number: file.number })
    }
}

/// The relations of damaged pages, by file: `public.item of the database shop`.
pub(crate) fn names(client: &Client, pages: &BTreeSet<PageName>) -> BTreeMap<String, String> {
    let files: BTreeSet<&str> = pages.iter().map(|(path, _)| path.as_str()).collect();
    let mut found = BTreeMap::new();
    let Some(databases) = databases(client) else { return found };
    let mut of_database: BTreeMap<u32, Vec<(&str, Place)>> = BTreeMap::new();
    for path in files.into_iter().take(FILES_MAX) {
        if let Some(place) = Place::of(path) {
            of_database.entry(place.database).or_default().push((path, place));
        }
    }
    for (number, files) in of_database {
        let shared = number == 0;
        let name =
            if shared { Some("postgres") } else { databases.get(&number).map(String::as_str) };
        let Some(name) = name else { continue };
        let told =
            if shared { "of all databases".to_owned() } else { format!("of the database {name}") };
        let relations = relations(client, name, &files).unwrap_or_default();
        for (path, _) in files {
            let relation = relations.get(path).map(|relation| format!("{relation} "));
            found.insert(path.to_owned(), format!("{}{told}", relation.unwrap_or_default()));
        }
    }
    found
}

fn databases(client: &Client) -> Option<BTreeMap<u32, String>> {
    let mut session = open(client, "postgres")?;
    let query = "SELECT oid::int8 AS number, datname FROM pg_catalog.pg_database";
    let rows = session.rows(query).ok()?;
    let one = |row: &crate::session::Row| {
        let number = row.get("number")?.as_u64()?;
        Some((u32::try_from(number).ok()?, row.get("datname")?.as_str()?.to_owned()))
    };
    Some(rows.iter().filter_map(one).collect())
}

fn relations(
    client: &Client,
    database: &str,
    files: &[(&str, Place)],
) -> Option<BTreeMap<String, String>> {
    let mut session = open(client, database)?;
    let mut found = BTreeMap::new();
    for (path, place) in files {
        // A catalog's number may differ from its name's; the server knows its map.
        let query = format!(
            "SELECT n.nspname || '.' || c.relname AS name FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.oid = pg_catalog.pg_filenode_relation({}, {})",
            place.tablespace, place.number
        );
        let rows = session.rows(&query).ok()?;
        let name = rows.first().and_then(|row| row.get("name")?.as_str().map(str::to_owned));
        if let Some(name) = name {
            found.insert((*path).to_owned(), name);
        }
    }
    Some(found)
}

fn open(client: &Client, database: &str) -> Option<Session> {
    Session::open(&client.with_database(database).ok()?, WHAT).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_tells_database_tablespace_and_number() {
        let place = |database, tablespace, number| Some(Place { database, tablespace, number });
        assert_eq!(Place::of("base/5/16384_vm.2"), place(5, 0, 16384));
        assert_eq!(Place::of("global/1260"), place(0, 1664, 1260));
        assert_eq!(Place::of("pg_tblspc/16385/PG_15_202209061/5/7"), place(5, 16385, 7));
        assert_eq!(Place::of("pg_xact/0000"), None);
    }
}
