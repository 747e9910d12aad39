//! What a drill showed, and the form in which it is signed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::key::{ProofKey, installation_of, is_signed};
use crate::error::{Error, Kind, Result};
use crate::manifest::SourceLabel;

pub use crate::marks::Drilled;

/// The version of the record that this program writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// How a check of a drill ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is as it must be.
    Passed,
    /// It is not: the drill failed.
    Failed,
    /// It could not be made here; the detail says why.
    Skipped,
    /// A person should know, although what was restored is right.
    Noted,
}

impl Outcome {
    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Failed => "failed",
            Outcome::Skipped => "skipped",
            Outcome::Noted => "noted",
        }
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillCheck {
    /// What was looked at: "integrity_check", "rows_live".
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found, in one line.
    pub detail: String,
}

impl DrillCheck {
    /// A check that ended so.
    pub fn new(name: &str, outcome: Outcome, detail: impl Into<String>) -> Self {
        DrillCheck { name: name.to_owned(), outcome, detail: detail.into() }
    }
}

/// How long a part of a drill took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// What was done: "restoring", "checking".
    pub name: String,
    /// Milliseconds.
    pub elapsed_ms: u64,
}

/// What one drill showed. Every number is whole, so that each writer of JSON writes it alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillRecord {
    /// Version of this description.
    pub format: u32,
    /// The drill's id.
    pub id: Uuid,
    /// The name of the installation that made it: the first 16 hexadecimal digits of the SHA-256
    /// of the text of its public key.
    pub installation: String,
    /// The public key, 64 hexadecimal digits.
    pub public_key: String,
    /// Its place in the chain of that installation in that repository, from 1 on.
    pub sequence: u64,
    /// The SHA-256 of the object before it in the chain.
    pub previous: Option<String>,
    /// The host on which it was made.
    pub host: String,
    /// The repository's id.
    pub repository: Uuid,
    /// The URL under which it was reached.
    pub repository_url: String,
    /// Of what.
    pub source: SourceLabel,
    /// How the restore point was chosen: "newest", "at" or "random".
    pub chosen: String,
    /// Whether nothing but the recovery kit was used.
    pub from_kit: bool,
    /// The backup that was restored, if one was found.
    pub backup: Option<String>,
    /// Its id.
    pub backup_id: Option<Uuid>,
    /// The state of its log that was restored, as `restore` takes it, where one was.
    pub state: Option<String>,
    /// The moment that it shows.
    pub moment: Option<Timestamp>,
    /// When the drill began.
    pub begun_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// How old what was restored was when the drill began, in milliseconds: what would have been
    /// lost then (RPO).
    pub data_age_ms: Option<u64>,
    /// How old it was promised to be at most.
    pub data_age_ms_max: Option<u64>,
    /// How long the restore took with the check that each restore makes (RTO), in milliseconds.
    pub restore_ms: Option<u64>,
    /// How long it was promised to take at most.
    pub restore_ms_max: Option<u64>,
    /// How many bytes were read from the repository.
    pub stored_bytes: Option<u64>,
    /// How many they became.
    pub plain_bytes: Option<u64>,
    /// How long each part took.
    pub phases: Vec<Phase>,
    /// What was checked.
    pub checks: Vec<DrillCheck>,
    /// Whether everything is as it must be.
    pub passed: bool,
    /// Why not, in one line.
    pub failure: Option<String>,
    /// The program that made it: "lifeboat 0.1.0".
    pub tool: String,
}

/// A record with its signature, as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Proof {
    /// What was signed.
    pub record: DrillRecord,
    /// The signature, 128 hexadecimal digits.
    pub signature: String,
}

impl Proof {
    /// Signs a record.
    pub fn sign(record: DrillRecord, key: &ProofKey) -> Self {
        let value = serde_json::to_value(&record).expect("our own types are always JSON");
        let signature = key.sign(canonical(&value).as_bytes());
        Proof { record, signature }
    }

    /// As it is stored: JSON for people, with a newline at its end.
    pub fn to_bytes(&self) -> Vec<u8> {
        let value = serde_json::json!({ "record": self.record, "signature": self.signature });
        let mut bytes = serde_json::to_vec_pretty(&value).expect("our own types are always JSON");
        bytes.push(b'\n');
        bytes
    }

    /// Reads one, and requires that its signature is of its record by the key that it names.
    pub fn parse(bytes: &[u8], object: &str) -> Result<Self> {
        Proof::read(bytes, object, false)
    }

    /// The same; of bytes whose signature was found right before, it is not checked once more.
    pub(super) fn read(bytes: &[u8], object: &str, was_right: bool) -> Result<Self> {
        let damaged = |why: String| {
            Error::new(Kind::CheckFailed, format!("{object} is no proof: {why}"))
                .hint("it was changed after it was signed, or damaged; the backups are untouched")
        };
        let value: Value =
            serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        let record = value.get("record").ok_or_else(|| damaged("it has no record".to_owned()))?;
        match record.get("format").and_then(Value::as_u64) {
            Some(format) if format > u64::from(FORMAT) => {
                let message =
                    format!("{object} has format {format}, this program reads up to {FORMAT}");
                return Err(Error::new(Kind::Failed, message).hint("use a newer lifeboat"));
            }
            _ => {}
        }
        let signature = value.get("signature").and_then(Value::as_str).unwrap_or_default();
        let public = record.get("public_key").and_then(Value::as_str).unwrap_or_default();
        // What is signed is what is there, also of fields that this program does not know.
        if !was_right && !is_signed(public, canonical(record).as_bytes(), signature) {
            return Err(damaged("its signature does not fit".to_owned()));
        }
        let read: DrillRecord =
            serde_json::from_value(record.clone()).map_err(|error| damaged(error.to_string()))?;
        match read.installation == installation_of(public) {
            true => Ok(Proof { record: read, signature: signature.to_owned() }),
            false => Err(damaged("it names another installation than its key does".to_owned())),
        }
    }
}

/// JSON as it is signed: without spaces, the keys of each object in the order of their bytes.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut keys: Vec<&String> = fields.keys().collect();
            keys.sort();
            let fields: Vec<String> = keys
                .into_iter()
                .map(|key| format!("{}:{}", Value::from(key.as_str()), canonical(&fields[key])))
                .collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        plain => plain.to_string(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::drill) fn record(sequence: u64) -> DrillRecord {
        let key = key();
        DrillRecord {
            format: FORMAT,
            id: Uuid::from_u128(u128::from(sequence)),
            installation: key.installation(),
            public_key: key.public(),
            sequence,
            previous: None,
            host: "db1".into(),
            repository: Uuid::from_u128(7),
            repository_url: "file:///var/backups".into(),
            source: SourceLabel {
                id: Uuid::from_u128(8),
                name: "app".into(),
                kind: "sqlite".into(),
                host: "db1".into(),
                location: "/srv/app.db".into(),
            },
            chosen: "newest".into(),
            from_kit: false,
            backup: Some("app-20250108-140000".into()),
            backup_id: Some(Uuid::from_u128(9)),
            state: None,
            moment: Some(Timestamp::UNIX_EPOCH),
            begun_at: Timestamp::UNIX_EPOCH,
            ended_at: Timestamp::UNIX_EPOCH,
            data_age_ms: Some(1),
            data_age_ms_max: None,
            restore_ms: Some(2),
            restore_ms_max: None,
            stored_bytes: Some(3),
            plain_bytes: Some(4),
            phases: vec![Phase { name: "restoring".into(), elapsed_ms: 2 }],
            checks: vec![DrillCheck::new("integrity_check", Outcome::Passed, "ok \"é\"\u{1}\n")],
            passed: true,
            failure: None,
            tool: "lifeboat".into(),
        }
    }

    pub(in crate::drill) fn key() -> ProofKey {
        ProofKey::parse(&"07".repeat(32)).unwrap()
    }

    #[test]
    fn what_is_signed_is_read_again_and_what_was_changed_is_not() {
        let bytes = Proof::sign(record(1), &key()).to_bytes();
        let read = Proof::parse(&bytes, "x").unwrap();
        assert_eq!(read.record, record(1));
        let text = String::from_utf8(bytes).unwrap();
        for (old, new) in [
            ("\"passed\": true", "\"passed\": false"),
            ("\"sequence\": 1", "\"sequence\": 2"),
            ("app-20250108", "app-20250109"),
            ("\"signature\": \"", "\"signature\": \"00"),
        ] {
            assert!(text.contains(old), "{old}");
            let error = Proof::parse(text.replace(old, new).as_bytes(), "x").unwrap_err();
            assert_eq!(error.kind(), Kind::CheckFailed, "{old}");
        }
        // Another layout of the same values is the same record.
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(Proof::parse(value.to_string().as_bytes(), "x").is_ok());
    }

    #[test]
    fn the_signed_form_has_one_way_to_write_it() {
        let value =
            serde_json::json!({ "b": [1, null, true], "a": { "d": "\"é\u{1}\n", "c": {} } });
        assert_eq!(
            canonical(&value),
            "{\"a\":{\"c\":{},\"d\":\"\\\"é\\u0001\\n\"},\"b\":[1,null,true]}"
        );
    }

    #[test]
    fn a_newer_format_is_not_guessed_at() {
        let text = "{\"record\": {\"format\": 2}, \"signature\": \"\"}";
        assert_eq!(Proof::parse(text.as_bytes(), "x").unwrap_err().kind(), Kind::Failed);
    }
}
