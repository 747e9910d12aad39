//! What a restored cluster finds in its data directory when a person starts it.
//!
//! It goes into `postgresql.auto.conf`: a server reads it wherever its other files are (Debian
//! keeps those under `/etc`), and programs that compare a data directory with its manifest leave it
//! out. Our lines stand between two remarks, at the end, where they count more than older ones.

use std::fs;

use lifeboat_core::Result;

use super::target::{Target, Timeline};
use super::write::{Place, failed, write_file};

const AUTO: &str = "postgresql.auto.conf";
const BEGIN: &str = "# lifeboat restore: begin";
const END: &str = "# lifeboat restore: end";

/// What the next start of a cluster is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextStart {
    /// It is a cluster of its own: nothing.
    Plain,
    /// It recovers to the moment, then this action: `promote` or `pause`.
    Recover {
        /// The command that fetches the log.
        restore_command: String,
        /// Up to where.
        target: Target,
        /// Along which timeline.
        timeline: Timeline,
        /// What follows: `promote` or `pause`.
        action: &'static str,
    },
    /// It follows a primary.
    Follow {
        /// The command that fetches the log.
        restore_command: String,
        /// How the primary is reached, without a password.
        primary: Option<String>,
        /// The slot there.
        slot: Option<String>,
    },
}

/// Writes what the next start needs: our lines, and the file that tells the server to recover.
pub fn write_settings(place: &Place, next: &NextStart) -> Result<()> {
    let path = place.data.join(AUTO);
    let was = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(failed("read", &path, error)),
    };
    let mut text = without_ours(&was);
    let lines = next.lines();
    if !lines.is_empty() {
        text.push_str(&format!("{BEGIN}\n{lines}{END}\n"));
    }
    if text != was {
        write_file(place, &path, text.as_bytes(), 0o600)?;
    }
    for (name, wanted) in [
        ("recovery.signal", matches!(next, NextStart::Recover { .. })),
        ("standby.signal", matches!(next, NextStart::Follow { .. })),
    ] {
        let path = place.data.join(name);
        match wanted {
            true => write_file(place, &path, b"", 0o600)?,
            false if path.exists() => {
                fs::remove_file(&path).map_err(|error| failed("remove", &path, error))?;
            }
            false => {}
        }
    }
    Ok(())
}

impl NextStart {
    fn lines(&self) -> String {
        let mut settings = Vec::new();
        match self {
            NextStart::Plain => {}
            NextStart::Recover { restore_command, target, timeline, action } => {
                settings.push(("restore_command", restore_command.clone()));
                settings.extend(target.settings(*timeline));
                settings.push(("recovery_target_action", (*action).to_owned()));
            }
            NextStart::Follow { restore_command, primary, slot } => {
                settings.push(("restore_command", restore_command.clone()));
                settings.extend(Target::End.settings(Timeline::Latest));
                settings.push(("primary_conninfo", primary.clone().unwrap_or_default()));
                settings.push(("primary_slot_name", slot.clone().unwrap_or_default()));
            }
        }
        settings.iter().map(|(name, value)| format!("{name} = {}\n", quoted(value))).collect()
    }
}

fn without_ours(text: &str) -> String {
    let mut kept = String::new();
    let mut is_ours = false;
    for line in text.lines() {
        match line {
            BEGIN => is_ours = true,
            END => is_ours = false,
            _ if is_ours => {}
            _ => {
                kept.push_str(line);
                kept.push('\n');
            }
        }
    }
    kept
}

/// A value as the server's files have it.
fn quoted(value: &str) -> String {
    let mut text = String::from("'");
    for letter in value.chars() {
        match letter {
            '\'' => text.push_str("''"),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
    text.push('\'');
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn our_lines_come_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().to_owned();
        let place = Place { data: data.clone(), tablespaces: BTreeMap::new(), owner: None };
        let auto = data.join(AUTO);
        fs::write(&auto, "# Do not edit\nwork_mem = '4MB'\n").unwrap();
        let recover = |name: &str| NextStart::Recover {
            restore_command: "x %f '%p'".to_owned(),
            target: Target::Name(name.to_owned()),
            timeline: Timeline::Latest,
            action: "promote",
        };
        write_settings(&place, &recover("it's \\ one")).unwrap();
        let text = fs::read_to_string(&auto).unwrap();
        assert!(text.starts_with("# Do not edit\nwork_mem = '4MB'\n"));
        assert!(text.contains("restore_command = 'x %f ''%p'''\n"), "{text}");
        assert!(text.contains("recovery_target_name = 'it''s \\\\ one'\n"), "{text}");
        assert!(data.join("recovery.signal").exists());
        let follow = NextStart::Follow { restore_command: "y".into(), primary: None, slot: None };
        write_settings(&place, &follow).unwrap();
        let text = fs::read_to_string(&auto).unwrap();
        assert_eq!(text.matches(BEGIN).count(), 1);
        assert!(text.contains("recovery_target_name = ''\n"), "{text}");
        assert!(data.join("standby.signal").exists() && !data.join("recovery.signal").exists());
        write_settings(&place, &NextStart::Plain).unwrap();
        let text = fs::read_to_string(&auto).unwrap();
        assert_eq!(text, "# Do not edit\nwork_mem = '4MB'\n");
        assert!(!data.join("standby.signal").exists());
    }
}
