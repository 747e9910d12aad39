//! What a server says of itself and of a database.

use lifeboat_core::{Error, Kind, Result};
use serde_json::{Map, Value, json};

use crate::session::Session;

/// Facts that a restore needs, or that a person asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerFacts {
    /// The major version: 15.
    pub major: u32,
    /// The version as the server says it.
    pub version: String,
    /// The database's name.
    pub database: String,
    /// The role that asks.
    pub role: String,
    /// The database's owner.
    pub owner: String,
    /// What the database takes on the server's disk, in bytes.
    pub database_bytes: u64,
    /// The row of `pg_database`: encoding, collation and so on, by the names of its columns.
    pub row: Map<String, Value>,
    /// Extensions by name, with their versions.
    pub extensions: Map<String, Value>,
    /// What was set by `ALTER DATABASE ... SET` and `ALTER ROLE ... IN DATABASE ... SET`.
    pub settings: Vec<Value>,
    /// Who may do what with the database, where it is not as with every new one: role (none for
    /// everybody), right, whether it may be passed on.
    pub rights: Option<Vec<Value>>,
    /// What was said of the database by `COMMENT ON DATABASE`.
    pub comment: Option<String>,
    /// Whether the server is a standby.
    pub in_recovery: bool,
    /// The cluster's number, where the role may ask for it.
    pub system_identifier: Option<String>,
}

const FACTS: &str = "\
SELECT current_setting('server_version_num')::int AS version_number, \
 current_setting('server_version') AS version, \
 current_database() AS database, current_user AS role, \
 pg_catalog.pg_get_userbyid(d.datdba) AS owner, \
 pg_catalog.pg_database_size(d.oid) AS bytes, \
 pg_catalog.pg_encoding_to_char(d.encoding) AS encoding_name, \
 pg_catalog.to_jsonb(d) - 'oid' - 'datacl' - 'datdba' AS row, \
 pg_catalog.pg_is_in_recovery() AS in_recovery, \
 (SELECT coalesce(pg_catalog.jsonb_object_agg(e.extname, e.extversion), '{}') \
   FROM pg_catalog.pg_extension e) AS extensions, \
 (SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('role', \
     CASE WHEN s.setrole = 0 THEN NULL ELSE pg_catalog.pg_get_userbyid(s.setrole) END, \
     'set', s.setconfig)), '[]') \
   FROM pg_catalog.pg_db_role_setting s WHERE s.setdatabase = d.oid) AS settings, \
 CASE WHEN d.datacl IS NULL THEN NULL ELSE ( \
   SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('role', \
     CASE WHEN a.grantee = 0 THEN NULL ELSE pg_catalog.pg_get_userbyid(a.grantee) END, \
     'right', a.privilege_type, 'grantable', a.is_grantable)), '[]') \
   FROM pg_catalog.aclexplode(d.datacl) a) END AS rights, \
 pg_catalog.shobj_description(d.oid, 'pg_database') AS comment, \
 pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE') AS may_identify \
FROM pg_catalog.pg_database d WHERE d.datname = current_database()";

impl ServerFacts {
    /// Asks, within the session's transaction if there is one.
    pub fn read(session: &mut Session) -> Result<Self> {
        let mut row = session.row(FACTS)?;
        let number = |value: Option<&Value>| value.and_then(Value::as_u64).unwrap_or(0);
        let text =
            |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let version_number = number(row.get("version_number"));
        let major = u32::try_from(version_number / 10_000).unwrap_or(0);
        if major < 10 {
            return Err(Error::new(
                Kind::SourceUnavailable,
                format!(
                    "the server has version {}: 10 is the oldest known",
                    text(row.get("version"))
                ),
            ));
        }
        let system_identifier = match row.get("may_identify") {
            Some(Value::Bool(true)) => {
                let row = session.row(
                    "SELECT system_identifier::text AS id FROM pg_catalog.pg_control_system()",
                )?;
                row.get("id").and_then(Value::as_str).map(str::to_owned)
            }
            _ => None,
        };
        let object = |value: Option<Value>| match value {
            Some(Value::Object(object)) => object,
            _ => Map::new(),
        };
        let mut database_row = object(row.remove("row"));
        database_row.insert("encoding".into(), row.get("encoding_name").cloned().into());
        Ok(ServerFacts {
            major,
            version: text(row.get("version")),
            database: text(row.get("database")),
            role: text(row.get("role")),
            owner: text(row.get("owner")),
            database_bytes: number(row.get("bytes")),
            row: database_row,
            extensions: object(row.remove("extensions")),
            settings: row
                .remove("settings")
                .and_then(|value| value.as_array().cloned())
                .unwrap_or_default(),
            rights: row.remove("rights").and_then(|value| value.as_array().cloned()),
            comment: row.get("comment").and_then(Value::as_str).map(str::to_owned),
            in_recovery: row.get("in_recovery").and_then(Value::as_bool).unwrap_or(false),
            system_identifier,
        })
    }

    /// As the manifest keeps them.
    pub fn to_manifest(&self) -> Map<String, Value> {
        let text = |name: &str| self.row.get(name).cloned().unwrap_or(Value::Null);
        let locale = ["datlocale", "daticulocale"].map(text);
        // A negative one is none.
        let connections_max = self.row.get("datconnlimit").and_then(Value::as_u64);
        let locale = locale.into_iter().find(|value| !value.is_null());
        let facts = json!({
            "engine": "PostgreSQL",
            "server_version": self.version,
            "server_major": self.major,
            "database": self.database,
            "role": self.role,
            "owner": self.owner,
            "database_bytes": self.database_bytes,
            "encoding": text("encoding"),
            "collate": text("datcollate"),
            "ctype": text("datctype"),
            "locale_provider": text("datlocprovider"),
            "locale": locale,
            "collation_version": text("datcollversion"),
            "extensions": self.extensions,
            "settings": self.settings,
            "rights": self.rights,
            "comment": self.comment,
            "connections_max": connections_max,
            "from_standby": self.in_recovery,
            "system_identifier": self.system_identifier,
        });
        match facts {
            Value::Object(mut facts) => {
                facts.retain(|_, value| !value.is_null());
                facts
            }
            _ => Map::new(),
        }
    }
}
