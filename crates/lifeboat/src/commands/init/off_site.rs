//! A second place for everything, off this host: its section of a configuration that is made.

use lifeboat_core::seal::Recipients;
use lifeboat_core::{Error, Kind, Result};

use super::inner;

/// Where the section comes behind.
const FIRST: &str = "[repository.local]\n";

/// What was said of it.
#[derive(Debug, clap::Args)]
pub(super) struct OffSite {
    /// A second place that gets a copy of every backup: s3://my-backups/chat,
    /// sftp://user@host/path, the URL of a bucket or a folder elsewhere
    #[arg(long, value_name = "URL")]
    copy_to: Option<String>,
    /// To whom the copies are sealed: the line that `lifeboat key new` prints, or a public key of
    /// SSH. Without it the section says how that is done
    #[arg(long, value_name = "RECIPIENT", requires = "copy_to")]
    encrypt_to: Vec<String>,
}

impl OffSite {
    /// Whether what was said can be done; nobody is asked.
    pub(super) fn require_sound(&self) -> Result<()> {
        if let Some(url) = &self.copy_to {
            lifeboat_stores::check_url(url)?;
        }
        if !self.encrypt_to.is_empty() {
            Recipients::parse(&self.encrypt_to)?;
        }
        Ok(())
    }

    /// The same configuration with this place in it.
    pub(super) fn added_to(&self, text: String) -> Result<String> {
        let Some(url) = &self.copy_to else { return Ok(text) };
        let behind = text.find(FIRST).and_then(|at| {
            let begin = at + FIRST.len();
            text[begin..].find('\n').map(|end| begin + end + 1)
        });
        let behind = behind.ok_or_else(|| {
            Error::new(Kind::Failed, "the configuration has no place for a second repository")
        })?;
        let (before, after) = text.split_at(behind);
        Ok(format!("{before}{}{after}", self.section(url)))
    }

    fn section(&self, url: &str) -> String {
        let mut section = format!(
            "\n# A copy of every backup, off this host: read once, written to both. One that fails \
             leaves the\n# other, and `lifeboat copy --to off-site` catches up.{}\n\
             [repository.off-site]\nurl = \"{}\"\n",
            reached(url),
            inner(url)
        );
        match self.encrypt_to.is_empty() {
            true => section.push_str(
                "# Sealed, so that nobody there can read it: `lifeboat key new recovery.key`, keep \
                 that file\n# elsewhere, and write the line that it prints:\n\
                 # encrypt_to = [\"age1...\"]\n",
            ),
            false => {
                let quoted: Vec<String> =
                    self.encrypt_to.iter().map(|to| format!("\"{}\"", inner(to))).collect();
                section.push_str(&format!("encrypt_to = [{}]\n", quoted.join(", ")));
            }
        }
        section
    }
}

/// How it is reached, which the URL does not say.
fn reached(url: &str) -> &'static str {
    match url.split_once("://").map_or("", |(scheme, _)| scheme) {
        "s3" => {
            "\n# Keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, `profile`, or the \
             machine; the region\n# from AWS_REGION or `region`; a server of your own is \
             `endpoint`."
        }
        "gs" => {
            "\n# The key comes from GOOGLE_APPLICATION_CREDENTIALS, `service_account`, or the \
             machine."
        }
        "az" => "\n# `account` and AZURE_STORAGE_KEY, or `account_key`, say who we are.",
        "sftp" => {
            "\n# Try `ssh` there first, as the user who makes the backups: its host must be known, \
             its key let in."
        }
        _ => "",
    }
}
