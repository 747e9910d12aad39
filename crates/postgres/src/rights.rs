//! What a role may do in a database, asked before anything is tried: a dump that fails on its last
//! table after an hour was bound to fail from its first second.

use lifeboat_core::Result;
use serde_json::Value;

use crate::session::{Row, Session};

/// So many things are named at most; the others are counted.
const NAMED_MAX: usize = 20;

/// What a role may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// The role that was asked for.
    pub role: String,
    /// The database's owner.
    pub owner: String,
    /// Tables, sequences and views with stored rows that it may not read: `public.message`. At
    /// most twenty.
    pub unreadable: Vec<String>,
    /// How many those are.
    pub unreadable_count: u64,
    /// Tables of which row security would hide rows from it: `pg_dump` refuses them. At most
    /// twenty.
    pub row_security: Vec<String>,
    /// Large objects that it may not read.
    pub unreadable_large_objects: u64,
    /// Whether it may read the passwords of roles, which are in the globals.
    pub role_passwords: bool,
    /// Whether it may make databases, as a restore does.
    pub creates_databases: bool,
    /// Whether it may make roles, as a restore of a dump with other owners does.
    pub creates_roles: bool,
    /// Whether it may rename the database, as a restore in place does.
    pub renames_database: bool,
}

const ROLE: &str = "\
SELECT current_user::text AS role, pg_catalog.pg_get_userbyid(d.datdba)::text AS owner, \
 r.rolsuper OR r.rolcreatedb AS creates_databases, \
 r.rolsuper OR r.rolcreaterole AS creates_roles, \
 pg_catalog.pg_has_role(d.datdba, 'USAGE') AS renames_database, \
 pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT') AS role_passwords, \
 (SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata m \
   WHERE NOT pg_catalog.pg_has_role(m.lomowner, 'USAGE') AND NOT EXISTS ( \
     SELECT FROM pg_catalog.aclexplode(m.lomacl) a WHERE a.privilege_type = 'SELECT' \
       AND CASE a.grantee WHEN 0 THEN true \
         ELSE pg_catalog.pg_has_role(a.grantee, 'USAGE') END)) AS large_objects \
FROM pg_catalog.pg_database d, pg_catalog.pg_roles r \
WHERE d.datname = current_database() AND r.rolname = current_user";

/// What a dump reads: not what belongs to an extension, nor to the session of somebody.
const DUMPED: &str = "\
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
WHERE c.relkind IN ('r', 'p', 'm', 'S') AND c.relpersistence <> 't' \
 AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
 AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.deptype = 'e' \
   AND e.classid = 'pg_catalog.pg_class'::regclass AND e.objid = c.oid)";

const NAME: &str = "pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)";

const UNREADABLE: &str = "\
NOT pg_catalog.has_schema_privilege(n.oid, 'USAGE') OR CASE c.relkind \
 WHEN 'S' THEN NOT pg_catalog.has_sequence_privilege(c.oid, 'SELECT') \
 ELSE NOT pg_catalog.has_table_privilege(c.oid, 'SELECT') END";

impl Rights {
    /// Asks for those of the session's role in the session's database.
    pub fn read(session: &mut Session) -> Result<Self> {
        let row = session.row(ROLE)?;
        let is = |name: &str| row.get(name) == Some(&Value::Bool(true));
        let text =
            |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let unreadable = session
            .rows(&format!("SELECT {NAME} AS name {DUMPED} AND ({UNREADABLE}) ORDER BY 1"))?;
        let row_security = session.rows(&format!(
            "SELECT {NAME} AS name {DUMPED} AND c.relkind IN ('r', 'p') AND c.relrowsecurity \
             AND pg_catalog.row_security_active(c.oid) ORDER BY 1"
        ))?;
        Ok(Rights {
            role: text("role"),
            owner: text("owner"),
            unreadable_count: unreadable.len() as u64,
            unreadable: names(&unreadable),
            row_security: names(&row_security),
            unreadable_large_objects: row.get("large_objects").and_then(Value::as_u64).unwrap_or(0),
            role_passwords: is("role_passwords"),
            creates_databases: is("creates_databases"),
            creates_roles: is("creates_roles"),
            renames_database: is("renames_database"),
        })
    }
}

fn names(rows: &[Row]) -> Vec<String> {
    let name = |row: &Row| row.get("name")?.as_str().map(str::to_owned);
    rows.iter().filter_map(name).take(NAMED_MAX).collect()
}
