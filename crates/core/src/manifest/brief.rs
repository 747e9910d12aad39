//! A manifest without what only a report of that one backup shows: thousands of them are held in
//! memory by who looks at everything, and are read anew with each look.

use jiff::Timestamp;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;
use uuid::Uuid;

use super::{
    Adopted, Artifact, Check, CheckOutcome, Condition, Manifest, Method, Purpose, SchemaVersion,
    Seal, SourceLabel,
};
use crate::error::Result;

/// The name under which a sum stands.
const ALL: &str = "all";

#[derive(Deserialize)]
struct Brief {
    format: u32,
    id: Uuid,
    name: String,
    source: SourceLabel,
    method: Method,
    taken_at: Timestamp,
    completed_at: Timestamp,
    condition: Condition,
    facts: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    schema_version: Option<SchemaVersion>,
    #[serde(default)]
    rows: Option<Sum>,
    #[serde(default)]
    content_digest: Option<String>,
    artifacts: Vec<BriefArtifact>,
    checks: Vec<BriefCheck>,
    timings_ms: Sum,
    #[serde(default)]
    warnings: Vec<String>,
    #[serde(default)]
    parent: Option<Uuid>,
    #[serde(default)]
    purpose: Option<Purpose>,
    #[serde(default)]
    adopted: Option<Adopted>,
    #[serde(default)]
    pin: Option<String>,
    #[serde(default)]
    pin_until: Option<Timestamp>,
    tool: String,
}

#[derive(Deserialize)]
struct BriefArtifact {
    role: String,
    name: String,
    compression: String,
    stored_bytes: u64,
    #[serde(rename = "stored_sha256")]
    _stored_sha256: IgnoredAny,
    plain_bytes: u64,
    #[serde(rename = "plain_sha256")]
    _plain_sha256: IgnoredAny,
    #[serde(default)]
    sealed: Option<Seal>,
}

#[derive(Deserialize)]
struct BriefCheck {
    name: String,
    #[serde(rename = "on")]
    _on: IgnoredAny,
    outcome: CheckOutcome,
    elapsed_ms: u64,
}

/// The sum of the numbers of an object.
struct Sum(u64);

impl<'de> Deserialize<'de> for Sum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Numbers;

        impl<'de> Visitor<'de> for Numbers {
            type Value = Sum;

            fn expecting(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
                text.write_str("an object of numbers")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Sum, A::Error> {
                let mut sum = 0_u64;
                while let Some((_, number)) = map.next_entry::<IgnoredAny, u64>()? {
                    sum = sum.saturating_add(number);
                }
                Ok(Sum(sum))
            }
        }

        deserializer.deserialize_map(Numbers)
    }
}

impl Sum {
    fn alone(self) -> BTreeMap<String, u64> {
        BTreeMap::from([(ALL.to_owned(), self.0)])
    }
}

impl Manifest {
    /// The same as [`Manifest::parse`], for who holds thousands: `rows` and `timings_ms` are their
    /// sums, and without hashes, owners of files, and what checks noted. Facts are there for those
    /// kinds of sources alone. Nothing may be restored, verified or copied by it.
    pub(crate) fn parse_brief(bytes: &[u8], object: &str, facts_of: &[&str]) -> Result<Self> {
        match serde_json::from_slice::<Brief>(bytes) {
            Ok(brief) if brief.format <= super::FORMAT_MAX => Ok(brief.manifest(facts_of)),
            // What is wrong with it is said in one way only.
            _ => Manifest::parse(bytes, object),
        }
    }
}

impl Brief {
    fn manifest(self, facts_of: &[&str]) -> Manifest {
        let facts = match facts_of.contains(&self.source.kind.as_str()) {
            true => self.facts,
            false => serde_json::Map::new(),
        };
        let mut artifacts: Vec<Artifact> =
            self.artifacts.into_iter().map(BriefArtifact::artifact).collect();
        artifacts.shrink_to_fit();
        let mut checks: Vec<Check> = self.checks.into_iter().map(BriefCheck::check).collect();
        checks.shrink_to_fit();
        Manifest {
            format: self.format,
            id: self.id,
            name: self.name,
            source: self.source,
            method: self.method,
            taken_at: self.taken_at,
            completed_at: self.completed_at,
            condition: self.condition,
            facts,
            schema_version: self.schema_version,
            rows: self.rows.map(Sum::alone),
            content_digest: self.content_digest,
            artifacts,
            checks,
            timings_ms: self.timings_ms.alone(),
            warnings: self.warnings,
            parent: self.parent,
            purpose: self.purpose,
            adopted: self.adopted,
            pin: self.pin,
            pin_until: self.pin_until,
            tool: self.tool,
        }
    }
}

impl BriefArtifact {
    fn artifact(self) -> Artifact {
        Artifact {
            role: self.role,
            name: self.name,
            compression: self.compression,
            stored_bytes: self.stored_bytes,
            stored_sha256: String::new(),
            plain_bytes: self.plain_bytes,
            plain_sha256: String::new(),
            sealed: self.sealed,
            file: None,
        }
    }
}

impl BriefCheck {
    fn check(self) -> Check {
        Check {
            name: self.name,
            on: String::new(),
            outcome: self.outcome,
            notes: Vec::new(),
            elapsed_ms: self.elapsed_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn whole() -> serde_json::Value {
        json!({
            "format": 1, "id": Uuid::from_u128(7), "name": "app-20250108-140000",
            "source": { "id": Uuid::from_u128(8), "name": "app", "kind": "sqlite",
                        "host": "one", "location": "/a.db" },
            "method": "online", "taken_at": "2025-01-08T14:00:00Z",
            "completed_at": "2025-01-08T14:00:01Z", "condition": "good",
            "facts": { "page_size": 4096 }, "rows": { "a": 3, "b": 4 },
            "artifacts": [{ "role": "database", "name": "app-20250108-140000.db.zst",
                "compression": "zstd", "stored_bytes": 10, "stored_sha256": "ab",
                "plain_bytes": 20, "plain_sha256": "cd", "new": [1, { "x": null }],
                "file": { "path": "/a.db", "mode": 384, "uid": 0, "gid": 0, "modified_s": 1 } }],
            "checks": [{ "name": "quick_check", "on": "stored-pages", "outcome": "passed",
                "notes": ["x"], "elapsed_ms": 5 }],
            "timings_ms": { "read": 30, "total": 40 }, "warnings": ["small"],
            "pin": "kept", "tool": "lifeboat 0.1.0", "later": {},
        })
    }

    fn brief(value: &serde_json::Value, facts_of: &[&str]) -> Result<Manifest> {
        Manifest::parse_brief(&serde_json::to_vec(value).unwrap(), "app/x.json", facts_of)
    }

    #[test]
    fn what_is_not_left_out_is_as_in_the_whole_one() {
        let value = whole();
        let full = Manifest::parse(&serde_json::to_vec(&value).unwrap(), "app/x.json").unwrap();
        let mut expected = full.clone();
        expected.rows = Some(BTreeMap::from([("all".to_owned(), 7)]));
        expected.timings_ms = BTreeMap::from([("all".to_owned(), 70)]);
        let artifact = &mut expected.artifacts[0];
        (artifact.stored_sha256, artifact.plain_sha256) = (String::new(), String::new());
        artifact.file = None;
        expected.checks[0].on.clear();
        expected.checks[0].notes.clear();
        assert_eq!(brief(&value, &["sqlite"]).unwrap(), expected);
        expected.facts.clear();
        assert_eq!(brief(&value, &[]).unwrap(), expected);
        assert_eq!(expected.stored_bytes(), full.stored_bytes());
        assert_eq!(expected.plain_bytes(), full.plain_bytes());
    }

    #[test]
    fn what_cannot_be_read_whole_cannot_be_read_in_brief() {
        let lacking = |name: &str| {
            let mut value = whole();
            value.as_object_mut().unwrap().remove(name);
            value
        };
        for name in ["id", "facts", "artifacts", "checks", "timings_ms", "tool", "format"] {
            let error = brief(&lacking(name), &[]).unwrap_err();
            assert!(error.message().contains("app/x.json"), "{name}: {error}");
        }
        let mut newer = whole();
        newer["format"] = 99.into();
        assert!(brief(&newer, &[]).unwrap_err().message().contains("format 99"));
        let bytes = serde_json::to_vec(&whole()).unwrap();
        for length in (0..bytes.len()).step_by(7) {
            assert!(Manifest::parse_brief(&bytes[..length], "app/x.json", &[]).is_err());
        }
    }
}
