//! Roles that a dump names: which are missing on the server, and how they are made again.
//!
//! The statements come from the globals that were stored beside the dump: `CREATE ROLE`, `ALTER
//! ROLE` and the memberships of the missing roles, and nothing else of them.

use std::collections::BTreeSet;

use lifeboat_core::Result;

use crate::archive::Contents;
use crate::client::Client;
use crate::quote::identifier;
use crate::session::Session;

/// A role that is missing, with the statements that make it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingRole {
    /// Its name.
    pub name: String,
    /// What makes it; empty where nothing says how it was.
    pub statements: Vec<String>,
}

/// The roles that an archive gives objects or rights to.
pub(super) fn named_by(contents: &Contents) -> BTreeSet<String> {
    let mut roles = BTreeSet::new();
    for entry in &contents.entries {
        if !entry.owner.is_empty() {
            roles.insert(entry.owner.clone());
        }
        let names =
            matches!(entry.kind.as_str(), "ACL" | "DEFAULT ACL" | "POLICY" | "ROW SECURITY");
        if names {
            entry.definition.lines().for_each(|line| roles.extend(grantees(line)));
        }
    }
    // Those that every server has.
    roles.retain(|role| role != "PUBLIC" && !role.is_empty() && !role.starts_with("pg_"));
    roles
}

/// The roles behind `TO` in `GRANT SELECT ON TABLE x TO reader, "shop owner" WITH GRANT OPTION;`.
fn grantees(line: &str) -> Vec<String> {
    let words = words(line);
    let mut names = Vec::new();
    let is_policy = words.get(1).is_some_and(|word| word == "POLICY");
    let at = match is_policy {
        true => words.iter().position(|word| word == "TO"),
        false => words.iter().rposition(|word| word == "TO" || word == "FROM"),
    };
    let Some(at) = at else { return names };
    for word in &words[at + 1..] {
        match word.as_str() {
            "," => {}
            ";" | "WITH" | "USING" | "(" | "GRANTED" => break,
            name => names.push(plain(name)),
        }
    }
    names.retain(|name| {
        !matches!(name.as_str(), "PUBLIC" | "CURRENT_USER" | "SESSION_USER" | "CURRENT_ROLE")
    });
    names
}

/// Words and signs of a statement; a quoted name is one word with its quotes.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for letter in line.chars() {
        quoted ^= letter == '"';
        let is_sign = matches!(letter, ',' | ';' | '(' | ')');
        match quoted || (!letter.is_whitespace() && !is_sign) {
            true => word.push(letter),
            false => {
                words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()));
                words.extend(is_sign.then(|| letter.to_string()));
            }
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

/// A name without its quotes.
fn plain(word: &str) -> String {
    match word.strip_prefix('"').and_then(|word| word.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => word.to_owned(),
    }
}

/// Which of the roles are missing, and how the globals make them.
pub(super) fn missing(
    session: &mut Session,
    named: &BTreeSet<String>,
    globals: Option<&str>,
) -> Result<Vec<MissingRole>> {
    let rows = session.rows("SELECT rolname FROM pg_catalog.pg_roles")?;
    let there: BTreeSet<&str> =
        rows.iter().filter_map(|row| row.get("rolname")?.as_str()).collect();
    let missing: Vec<&String> =
        named.iter().filter(|name| !there.contains(name.as_str())).collect();
    let mut known: BTreeSet<String> = there.iter().map(|name| (*name).to_owned()).collect();
    known.extend(missing.iter().map(|name| (*name).clone()));
    let statements = |name: &String| {
        let lines = globals.unwrap_or_default().lines();
        lines.filter(|line| makes(line, name, &known)).map(str::to_owned).collect::<Vec<_>>()
    };
    let made = missing
        .into_iter()
        .map(|name| MissingRole { name: name.clone(), statements: statements(name) });
    Ok(made.collect())
}

/// Whether a line of the globals makes that role, or makes it a member of a known one.
fn makes(line: &str, name: &str, known: &BTreeSet<String>) -> bool {
    let words = words(line);
    let word = |index: usize| words.get(index).map(String::as_str).unwrap_or_default();
    match (word(0), word(1)) {
        ("CREATE" | "ALTER", "ROLE") => plain(word(2)) == name && word(3) != "IN",
        ("GRANT", role) => {
            let to = words.iter().position(|word| word == "TO");
            let member = to.map(|to| plain(word(to + 1)));
            member.as_deref() == Some(name) && known.contains(&plain(role))
        }
        _ => false,
    }
}

/// Makes the roles: all `CREATE` first, then what may name others.
pub(super) fn make(server: &Client, roles: &[MissingRole]) -> Result<Vec<String>> {
    if roles.is_empty() {
        return Ok(Vec::new());
    }
    let mut session = Session::open(server, "cannot make the missing roles")?;
    session.execute("BEGIN")?;
    for role in roles {
        session.execute(&format!("CREATE ROLE {}", identifier(&role.name)))?;
    }
    for statement in roles.iter().flat_map(|role| &role.statements) {
        if !statement.starts_with("CREATE ROLE ") {
            // A grantor of the old server may be unknown here: then we are the grantor.
            let statement = statement.split(" GRANTED BY ").next().unwrap_or(statement);
            session.execute(statement.trim_end_matches(';'))?;
        }
    }
    session.execute("COMMIT")?;
    Ok(roles.iter().map(|role| role.name.clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_read_from_grants() {
        let cases = [
            ("GRANT SELECT ON TABLE public.x TO reader;", vec!["reader"]),
            (
                "GRANT ALL ON TABLE x TO \"shop \"\"owner\", b WITH GRANT OPTION;",
                vec!["shop \"owner", "b"],
            ),
            ("REVOKE ALL ON SCHEMA public FROM PUBLIC;", vec![]),
            ("CREATE POLICY p ON x TO ann USING ((a = 'TO x'));", vec!["ann"]),
            ("", vec![]),
        ];
        for (line, roles) in cases {
            assert_eq!(grantees(line), roles, "{line}");
        }
    }

    #[test]
    fn statements_of_one_role_are_found() {
        let known: BTreeSet<String> = ["readers", "ann b"].map(str::to_owned).into();
        for (line, is) in [
            ("CREATE ROLE \"ann b\";", true),
            ("ALTER ROLE \"ann b\" WITH LOGIN PASSWORD 'SCRAM';", true),
            ("ALTER ROLE \"ann b\" IN DATABASE x SET a TO b;", false),
            ("GRANT readers TO \"ann b\" GRANTED BY postgres;", true),
            ("GRANT strangers TO \"ann b\";", false),
            ("CREATE ROLE other;", false),
        ] {
            assert_eq!(makes(line, "ann b", &known), is, "{line}");
        }
    }
}
