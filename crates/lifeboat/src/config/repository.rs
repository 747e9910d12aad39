//! A place where backups live, and how it is reached.
//!
//! One table for all kinds of places: the scheme of `url` says which keys count, and
//! [`RepositoryConfig::mistakes`] refuses those that do not.

use std::path::PathBuf;

use jiff::SignedDuration;
use lifeboat_core::pipeline::Compression;
use lifeboat_stores::{Drive, LockMode, ObjectLock};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::keys::RecipientConfig;
use super::model::{KeepConfig, LogConfig};
use super::postgres::SecretConfig;
use super::values::{Period, Size, Text, TextOr};

/// A place where backups live.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RepositoryConfig {
    /// Where it is: file:///absolute/path, sftp://user@host/absolute/path by way of `ssh`, or a
    /// bucket and a folder in it: s3://my-backups/chat, gs://my-backups/chat, az://container/chat.
    #[schemars(example = &"file:///var/backups/lifeboat")]
    pub(crate) url: String,
    /// How artifacts are compressed: "zstd", "zstd:1" to "zstd:19", "gzip", "gzip:1" to
    /// "gzip:12", or "none". Default: "zstd:3".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"zstd:3")]
    pub(crate) compression: Option<Text<Compression>>,
    /// To whom everything that is stored here is sealed, in the age format: recipients that begin
    /// with age1, lines of public keys of SSH, or tables with a `file` that has one on each line.
    /// Each opens it alone: name a second one whose key lies elsewhere. Default: it is not sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"])]
    pub(crate) encrypt_to: Option<Vec<TextOr<RecipientConfig>>>,
    /// What is kept here, instead of what the source says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) keep: Option<TextOr<KeepConfig>>,
    /// How finely the states of logs can be told apart here, instead of what the source says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) log: Option<LogConfig>,
    /// For sftp: the configuration of `ssh`, instead of the one of the user that runs lifeboat. It
    /// names keys, jump hosts and known hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"/etc/lifeboat/ssh_config")]
    pub(crate) ssh_config: Option<PathBuf>,
    /// For a drive that is there at times: the folder at which it is mounted. Where it is not,
    /// nothing is written, and the exit code of a backup there is 75.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"/mnt/backup-drive")]
    pub(crate) mount: Option<PathBuf>,
    /// The UUID of the file system on that drive, as `lsblk -o NAME,UUID` tells it. Another one
    /// counts as absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"5f1d7a3e-9d0a-4b7e-8f53-2f6b0e1c9a44")]
    pub(crate) file_system: Option<String>,
    /// For s3: the region of the bucket. Default: AWS_REGION, else that of the profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"eu-central-1")]
    pub(crate) region: Option<String>,
    /// For buckets: the server, where it is not the provider's own. Default: AWS_ENDPOINT_URL,
    /// else Amazon's, Google's or Azure's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"https://minio.example.org:9000")]
    pub(crate) endpoint: Option<String>,
    /// For s3: whether requests name the bucket in their path instead of the host. Default: true
    /// with an `endpoint` and for names with dots, else false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = true)]
    pub(crate) path_style: Option<bool>,
    /// For buckets: the storage class of new objects. Default: that of the bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"STANDARD_IA")]
    pub(crate) storage_class: Option<String>,
    /// For s3: how the server encrypts new objects: "AES256", "aws:kms" or "aws:kms:dsse".
    /// Default: as the bucket says. That keeps nothing from the server itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"aws:kms")]
    pub(crate) server_side_encryption: Option<String>,
    /// For s3: the key for "aws:kms".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"arn:aws:kms:eu-central-1:111122223333:key/1234")]
    pub(crate) kms_key: Option<String>,
    /// For s3: locks everything that backups are made of, so that nobody with these credentials can
    /// delete it before its time: "compliance", or "governance", which a right of its own can end.
    /// The bucket must have been made with object lock. Default: nothing is locked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"compliance")]
    pub(crate) object_lock: Option<String>,
    /// For s3: for how long at least. A backup whose source has `schedule` and `keep` is locked
    /// from the beginning for as long as these will keep it, foreseen for up to 400 days, and its
    /// grace time. While a backup is kept its lock is extended, once half of this is over. Default:
    /// "30d" with `object_lock`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"30d")]
    pub(crate) lock_period: Option<Text<Period>>,
    /// For buckets: the credentials with which `lifeboat prune` deletes, where those of backups
    /// have no right to. They belong on another host than the one that makes backups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) prune_credentials: Option<PruneCredentials>,
    /// For s3: a profile of ~/.aws/credentials and ~/.aws/config. Default: what the variables
    /// AWS_* say, else the profile "default", else the service of the machine or the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"backup")]
    pub(crate) profile: Option<String>,
    /// For s3: the id of the access key. It is no secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"AKIAIOSFODNN7EXAMPLE")]
    pub(crate) access_key_id: Option<String>,
    /// For s3: where the secret of that key is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret_access_key: Option<SecretConfig>,
    /// For s3: where the token is that temporary keys have besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) session_token: Option<SecretConfig>,
    /// For az: the account. Default: AZURE_STORAGE_ACCOUNT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"mybackups")]
    pub(crate) account: Option<String>,
    /// For az: where the account's key is. Default: AZURE_STORAGE_KEY.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) account_key: Option<SecretConfig>,
    /// For az: or where a shared access signature is. Default: AZURE_STORAGE_SAS_TOKEN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sas_token: Option<SecretConfig>,
    /// For gs: the file with the key of a service account. Default:
    /// GOOGLE_APPLICATION_CREDENTIALS, else the service of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"/etc/lifeboat/google.json")]
    pub(crate) service_account: Option<PathBuf>,
    /// For buckets: how much may be sent in a second. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"10MB")]
    pub(crate) upload_limit: Option<Text<Size>>,
    /// For buckets: how much may be fetched in a second. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"50MB")]
    pub(crate) download_limit: Option<Text<Size>>,
    /// For buckets: how many requests may be under way. Default: 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = 16)]
    pub(crate) requests_at_once: Option<usize>,
    /// For buckets and hosts that are reached by SSH: how long nothing at all may happen on a
    /// connection. A server that has not answered yet is given up after that time, whatever is
    /// tried again. Default: "30s"; a host by SSH that was reached may be silent for "2m".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"30s")]
    pub(crate) timeout: Option<Text<Period>>,
    /// For buckets: whether an `endpoint` elsewhere may be spoken to without encryption.
    /// Default: false, only on this host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(example = true)]
    pub(crate) allow_http: bool,
    /// For buckets: certificates that are trusted beside the system's, as PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"/etc/lifeboat/minio-ca.pem")]
    pub(crate) ca_certificate: Option<PathBuf>,
}

/// Credentials of a prune.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PruneCredentials {
    /// For s3: a profile of ~/.aws/credentials and ~/.aws/config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) profile: Option<String>,
    /// For s3: the id of the access key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) access_key_id: Option<String>,
    /// For s3: where the secret of that key is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret_access_key: Option<SecretConfig>,
    /// For az: where the account's key is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) account_key: Option<SecretConfig>,
    /// For az: or where a shared access signature is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sas_token: Option<SecretConfig>,
    /// For gs: the file with the key of a service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) service_account: Option<PathBuf>,
}

impl RepositoryConfig {
    /// The same place as a prune opens it.
    pub(crate) fn to_prune(&self) -> RepositoryConfig {
        let Some(own) = &self.prune_credentials else { return self.clone() };
        RepositoryConfig {
            profile: own.profile.clone(),
            access_key_id: own.access_key_id.clone(),
            secret_access_key: own.secret_access_key.clone(),
            session_token: None,
            account_key: own.account_key.clone(),
            sas_token: own.sas_token.clone(),
            service_account: own.service_account.clone(),
            ..self.clone()
        }
    }

    /// How what is stored here is locked.
    pub(crate) fn lock(&self) -> Option<ObjectLock> {
        const PERIOD_MS: u64 = 30 * 24 * 3_600_000;
        let mode = match self.object_lock.as_deref()? {
            "governance" => LockMode::Governance,
            _ => LockMode::Compliance,
        };
        let period_ms = self.lock_period.map_or(PERIOD_MS, |period| period.0.milliseconds);
        let period = SignedDuration::from_millis(i64::try_from(period_ms).unwrap_or(i64::MAX));
        Some(ObjectLock { mode, period })
    }

    /// The drive that it lies on.
    pub(crate) fn drive(&self) -> Option<Drive> {
        let mount = self.mount.clone()?;
        Some(Drive { mount, file_system: self.file_system.clone() })
    }

    /// What no type can check, each with the key that it is about.
    pub(crate) fn mistakes(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if let Err(error) = lifeboat_stores::check_url(&self.url) {
            found.push(("url", error.message().to_owned()));
        }
        let scheme = self.url.split_once("://").map_or("file", |(scheme, _)| scheme);
        for (key, is_set, schemes) in self.keys() {
            if is_set && !schemes.contains(&scheme) {
                let known = schemes.join("://, ");
                found.push((key, format!("`{key}` is for repositories at {known}://")));
            }
        }
        let secrets = [
            ("secret_access_key", &self.secret_access_key),
            ("session_token", &self.session_token),
            ("account_key", &self.account_key),
            ("sas_token", &self.sas_token),
        ];
        for (key, secret) in secrets {
            found.extend(secret.as_ref().and_then(SecretConfig::mistake).map(|why| (key, why)));
        }
        if self.access_key_id.is_some() != self.secret_access_key.is_some() {
            let message = "`access_key_id` and `secret_access_key` go together".to_owned();
            found.push(("access_key_id", message));
        }
        if self.kms_key.is_some()
            && !self.server_side_encryption.as_deref().is_some_and(|word| word.contains("kms"))
        {
            let message = "`kms_key` needs server_side_encryption = \"aws:kms\"".to_owned();
            found.push(("kms_key", message));
        }
        if let Some(word) = self.object_lock.as_deref()
            && !["compliance", "governance"].contains(&word)
        {
            found.push(("object_lock", format!("`{word}` is neither compliance nor governance")));
        }
        if self.lock_period.is_some() && self.object_lock.is_none() {
            found.push(("lock_period", "`lock_period` needs `object_lock`".to_owned()));
        }
        if let Some(own) = &self.prune_credentials
            && own.access_key_id.is_some() != own.secret_access_key.is_some()
        {
            let message = "`access_key_id` and `secret_access_key` go together".to_owned();
            found.push(("prune_credentials", message));
        }
        match self.server_side_encryption.as_deref() {
            None | Some("AES256" | "aws:kms" | "aws:kms:dsse") => {}
            Some(word) => {
                let message = format!("`{word}` is none of AES256, aws:kms and aws:kms:dsse");
                found.push(("server_side_encryption", message));
            }
        }
        if self.requests_at_once == Some(0) {
            found.push(("requests_at_once", "at least one request must be allowed".to_owned()));
        }
        found
    }

    /// The keys that are not for all places: whether they are set, and for which schemes they are.
    fn keys(&self) -> [(&'static str, bool, &'static [&'static str]); 24] {
        const S3: &[&str] = &["s3"];
        const AZ: &[&str] = &["az"];
        const ALL: &[&str] = &["s3", "gs", "az"];
        [
            ("ssh_config", self.ssh_config.is_some(), &["sftp"]),
            ("region", self.region.is_some(), S3),
            ("endpoint", self.endpoint.is_some(), ALL),
            ("path_style", self.path_style.is_some(), S3),
            ("storage_class", self.storage_class.is_some(), ALL),
            ("server_side_encryption", self.server_side_encryption.is_some(), S3),
            ("kms_key", self.kms_key.is_some(), S3),
            ("object_lock", self.object_lock.is_some(), S3),
            ("lock_period", self.lock_period.is_some(), S3),
            ("prune_credentials", self.prune_credentials.is_some(), ALL),
            ("profile", self.profile.is_some(), S3),
            ("access_key_id", self.access_key_id.is_some(), S3),
            ("secret_access_key", self.secret_access_key.is_some(), S3),
            ("session_token", self.session_token.is_some(), S3),
            ("account", self.account.is_some(), AZ),
            ("account_key", self.account_key.is_some(), AZ),
            ("sas_token", self.sas_token.is_some(), AZ),
            ("service_account", self.service_account.is_some(), &["gs"]),
            ("upload_limit", self.upload_limit.is_some(), ALL),
            ("download_limit", self.download_limit.is_some(), ALL),
            ("requests_at_once", self.requests_at_once.is_some(), ALL),
            ("timeout", self.timeout.is_some(), &["s3", "gs", "az", "sftp"]),
            ("allow_http", self.allow_http, ALL),
            ("ca_certificate", self.ca_certificate.is_some(), ALL),
        ]
    }

    /// The secrets that are fetched when it is opened.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &SecretConfig> {
        let all =
            [&self.secret_access_key, &self.session_token, &self.account_key, &self.sas_token];
        all.into_iter().flatten()
    }

    /// The files that are read when it is opened.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let own = [&self.ssh_config, &self.ca_certificate, &self.service_account];
        let of_secrets = self.secrets().filter_map(|secret| secret.file.clone());
        own.into_iter().flatten().cloned().chain(of_secrets).collect()
    }

    /// Whether commands are run to open it.
    pub(crate) fn runs_commands(&self) -> bool {
        self.secrets().any(|secret| !secret.command.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<&'static str> {
        let config: RepositoryConfig = toml::from_str(text).unwrap();
        config.mistakes().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn keys_of_another_kind_of_place_are_mistakes() {
        assert!(mistakes("url = \"s3://bucket/x\"\nregion = \"eu-west-1\"").is_empty());
        assert_eq!(mistakes("url = \"file:///b\"\nregion = \"eu-west-1\""), ["region"]);
        assert_eq!(mistakes("url = \"gs://bucket\"\nprofile = \"x\""), ["profile"]);
        assert_eq!(mistakes("url = \"s3://b\""), ["url"]);
        let half = "url = \"s3://bucket\"\naccess_key_id = \"A\"";
        assert_eq!(mistakes(half), ["access_key_id"]);
        let lock = "url = \"s3://bucket\"\nobject_lock = \"for ever\"";
        assert_eq!(mistakes(lock), ["object_lock"]);
        assert_eq!(mistakes("url = \"s3://bucket\"\nlock_period = \"1d\""), ["lock_period"]);
        let two = "url = \"az://bucket\"\naccount_key = { file = \"/a\", env = \"B\" }";
        assert_eq!(mistakes(two), ["account_key"]);
        let kms = "url = \"s3://bucket\"\nserver_side_encryption = \"rot13\"\nkms_key = \"k\"";
        assert_eq!(mistakes(kms), ["kms_key", "server_side_encryption"]);
    }
}
