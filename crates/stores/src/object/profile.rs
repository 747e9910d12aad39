//! `~/.aws/credentials` and `~/.aws/config`: the profiles that Amazon's own tools keep.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lifeboat_core::secret::Secret;
use lifeboat_core::{Error, Kind, Result};

use crate::options::Options;

const DEFAULT: &str = "default";
/// What a profile can say that needs a program of Amazon's.
const BEYOND_US: &[&str] = &["sso_session", "sso_start_url", "role_arn", "credential_process"];

/// The profile that is meant, of both files.
#[derive(Debug)]
pub(super) struct Profiles {
    name: String,
    values: BTreeMap<String, Secret>,
}

/// The keys of a profile.
pub(super) struct Keys {
    pub(super) id: Secret,
    pub(super) secret: Secret,
    pub(super) token: Option<Secret>,
}

impl Profiles {
    /// The profile that the options or the environment name, else the default one. An error if one
    /// that is named does not exist.
    pub(super) fn of(options: &Options) -> Result<Self> {
        let named = options.profile.clone();
        let named = named.or_else(|| options.variable("AWS_PROFILE").map(str::to_owned));
        let name = named.clone().unwrap_or_else(|| DEFAULT.to_owned());
        let folder = options.home.as_ref().map(|home| home.join(".aws"));
        let place = |variable: &str, file: &str| {
            let of_variable = options.variable(variable).map(PathBuf::from);
            of_variable.or_else(|| folder.as_ref().map(|folder| folder.join(file)))
        };
        let mut values = BTreeMap::new();
        let mut is_there = false;
        // The file of credentials counts where both say something.
        let config = [format!("profile {name}"), name.clone()];
        let files = [
            (place("AWS_CONFIG_FILE", "config"), &config[..]),
            (place("AWS_SHARED_CREDENTIALS_FILE", "credentials"), &config[1..]),
        ];
        let mut looked = Vec::new();
        for (path, sections) in files {
            let Some(path) = path else { continue };
            if let Some(text) = text_of(&path)? {
                let found = section(&text, sections);
                is_there |= found.is_some();
                values.extend(found.unwrap_or_default());
            }
            looked.push(path.display().to_string());
        }
        match (is_there, named) {
            (false, Some(name)) => {
                let message = format!("there is no profile {name} in {}", looked.join(" and "));
                Err(Error::new(Kind::Usage, message).hint("see `profile` and AWS_PROFILE"))
            }
            _ => Ok(Profiles { name, values }),
        }
    }

    /// What it says of a key that is no secret.
    pub(super) fn value(&self, key: &str) -> Option<String> {
        self.values.get(key).map(|value| value.expose().to_owned())
    }

    /// Its keys, if it has any. An error if it needs what only Amazon's tools can do.
    pub(super) fn keys(&self) -> Result<Option<Keys>> {
        let value = |key: &str| self.values.get(key).cloned();
        match (value("aws_access_key_id"), value("aws_secret_access_key")) {
            (Some(id), Some(secret)) => {
                Ok(Some(Keys { id, secret, token: value("aws_session_token") }))
            }
            (None, None) => match BEYOND_US.iter().find(|key| self.values.contains_key(**key)) {
                Some(key) => Err(Error::new(
                    Kind::Usage,
                    format!(
                        "the profile {} gets its keys by `{key}`, which is not known",
                        self.name
                    ),
                )
                .hint(format!(
                    "make keys of it: aws configure export-credentials --profile {} --format env",
                    self.name
                ))),
                None => Ok(None),
            },
            _ => Err(Error::new(Kind::Usage, format!("the profile {} has half a key", self.name))
                .hint("it needs aws_access_key_id and aws_secret_access_key")),
        }
    }
}

fn text_of(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        // Under a sandbox the home folder is often closed: other credentials may do.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(Error::io(Kind::Usage, format!("cannot read {}", path.display()), error)),
    }
}

/// The keys of the first section with one of these names.
fn section(text: &str, names: &[String]) -> Option<BTreeMap<String, Secret>> {
    let mut found: Option<BTreeMap<String, Secret>> = None;
    let mut inside = false;
    for line in text.lines() {
        let is_nested = line.starts_with([' ', '\t']);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            let header = header.split(']').next().unwrap_or_default();
            let header = header.split_whitespace().collect::<Vec<_>>().join(" ");
            inside = names.contains(&header);
            if inside {
                found.get_or_insert_default();
            }
        } else if let (true, false, Some((key, value)), Some(found)) =
            (inside, is_nested, line.split_once('='), &mut found)
        {
            // A comment begins behind a space.
            let value = value.split(" #").next().unwrap_or_default().trim();
            found.insert(key.trim().to_lowercase(), Secret::new(value));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "[default]\nregion = eu-west-1\n\n[profile backup]\nregion=eu-west-3 # Paris\n\
                          s3 =\n  max_concurrent_requests = 9\n[profile sso]\nsso_session = x\n";
    const CREDENTIALS: &str = "# mine\n[backup]\naws_access_key_id = AKIA\n\
                               aws_secret_access_key = a/b=c\n[half]\naws_access_key_id = AKIA\n";

    fn options(profile: Option<&str>) -> (tempfile::TempDir, Options) {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        std::fs::write(home.path().join(".aws/config"), CONFIG).unwrap();
        std::fs::write(home.path().join(".aws/credentials"), CREDENTIALS).unwrap();
        let options = Options {
            home: Some(home.path().to_owned()),
            profile: profile.map(str::to_owned),
            ..Options::default()
        };
        (home, options)
    }

    #[test]
    fn both_files_speak_for_a_profile() {
        let (_home, options) = options(Some("backup"));
        let profiles = Profiles::of(&options).unwrap();
        assert_eq!(profiles.value("region").as_deref(), Some("eu-west-3"));
        assert_eq!(profiles.value("max_concurrent_requests"), None);
        let keys = profiles.keys().unwrap().unwrap();
        assert_eq!((keys.id.expose(), keys.secret.expose()), ("AKIA", "a/b=c"));
        assert!(!format!("{profiles:?}").contains("AKIA"));
    }

    #[test]
    fn what_is_named_must_be_there_and_whole() {
        let (_home, none) = options(None);
        let default = Profiles::of(&none).unwrap();
        assert_eq!(default.value("region").as_deref(), Some("eu-west-1"));
        assert!(default.keys().unwrap().is_none());
        for (name, word) in
            [("missing", "no profile missing"), ("half", "half a key"), ("sso", "sso_session")]
        {
            let (_home, options) = options(Some(name));
            let error = Profiles::of(&options).and_then(|profiles| profiles.keys()).err().unwrap();
            assert!(error.message().contains(word), "{error:?}");
        }
        let nowhere = Options { home: Some("/nowhere".into()), ..Options::default() };
        assert!(Profiles::of(&nowhere).unwrap().keys().unwrap().is_none());
    }
}
