//! Configurations for systems that we know: all that their backup guides ask for.

use std::path::{Path, PathBuf};

use lifeboat_core::{Error, Kind, Result};

use super::inner;
use crate::repositories::local_url;
use crate::world::{self, Surroundings};

/// A system that we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Preset {
    /// The SuperChat server: database, host key, configuration and logs
    Superchat,
    /// The GPT chatbot: database, configuration and logs
    GptChatbot,
}

/// The configuration of a system, for whoever asks.
pub(super) fn text(surroundings: &Surroundings, preset: Preset) -> Result<String> {
    let repository = world::default_repository(surroundings).ok_or_else(no_home)?;
    let (template, places): (&str, Vec<(&str, PathBuf)>) = match preset {
        Preset::Superchat => (include_str!("superchat.toml"), superchat(surroundings)?),
        Preset::GptChatbot => (
            include_str!("gpt-chatbot.toml"),
            vec![("<folder>", PathBuf::from("/var/www/chatbot"))],
        ),
    };
    let mut text = template.replace("<repository>", &inner(&local_url(&repository)));
    for (mark, place) in places {
        let place = place.to_str().ok_or_else(|| {
            Error::new(Kind::Usage, "the path of the home folder is not UTF-8")
                .hint("name another one: HOME=/home/ann lifeboat init ...")
        })?;
        text = text.replace(mark, &inner(place));
    }
    Ok(text)
}

/// Where the server keeps its things: as a service of the system, or as the program of a user.
fn superchat(surroundings: &Surroundings) -> Result<Vec<(&'static str, PathBuf)>> {
    if surroundings.is_root {
        let data = PathBuf::from("/var/lib/superchat");
        let config = PathBuf::from("/etc/superchat");
        let logs = data.join(".local/share/superchat");
        return Ok(vec![
            ("<data>", data.clone()),
            ("<config>", config),
            ("<logs>", logs),
            ("<own-logs>", data),
        ]);
    }
    let own = surroundings.path("HOME").ok_or_else(no_home)?.join(".superchat");
    let ours = surroundings.data_folder().ok_or_else(no_home)?;
    let logs = ours.parent().unwrap_or(Path::new("/")).join("superchat");
    Ok(vec![
        ("<data>", own.clone()),
        ("<config>", own.clone()),
        ("<logs>", logs),
        ("<own-logs>", own),
    ])
}

pub(super) fn no_home() -> Error {
    Error::new(Kind::Usage, "the places of this system are not known: HOME is not set")
        .hint("set HOME, or run it as root")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, schedule::Schedule};

    #[test]
    fn every_preset_is_a_configuration_for_root_and_for_a_user_with_an_odd_home() {
        let root = Surroundings::for_test(&[("HOME", "/root")], true);
        let user = Surroundings::for_test(&[("HOME", "/home/a \"b\"\\c")], false);
        for surroundings in [root, user] {
            for (preset, sources) in [(Preset::Superchat, 4), (Preset::GptChatbot, 3)] {
                let text = text(&surroundings, preset).unwrap();
                assert!(!text.contains('<'), "{text}");
                let config: Config = toml::from_str(&text).unwrap();
                assert_eq!(config.source.len(), sources, "{text}");
                for source in config.source.values() {
                    Schedule::read(source.schedule.as_deref().unwrap()).unwrap().cron().unwrap();
                    assert!(source.keep.is_some(), "{text}");
                }
            }
        }
    }
}
