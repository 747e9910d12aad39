//! What a store is opened with beside its URL.
//!
//! Whoever opens one has fetched the secrets already; nothing here reads a variable by itself.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::SignedDuration;
use lifeboat_core::secret::Secret;

use crate::drive::Drive;

/// How a server locks objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Nobody can end it before its time.
    Compliance,
    /// Who has a right of its own can.
    Governance,
}

impl LockMode {
    /// The word for it in requests.
    pub(crate) fn word(self) -> &'static str {
        match self {
            LockMode::Compliance => "COMPLIANCE",
            LockMode::Governance => "GOVERNANCE",
        }
    }
}

/// For how long objects are locked when they are put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectLock {
    /// How.
    pub mode: LockMode,
    /// How long.
    pub period: SignedDuration,
}

/// Everything that may be said of a place. What a kind of store does not know it ignores; the
/// configuration refuses it before.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The configuration of `ssh` that is used instead of the user's.
    pub ssh_config: Option<PathBuf>,
    /// The drive on which a folder of this host lies, where it is there at times.
    pub drive: Option<Drive>,
    /// The region of a bucket.
    pub region: Option<String>,
    /// Another server than the provider's own.
    pub endpoint: Option<String>,
    /// Whether the bucket stands in the path of a request instead of its host.
    pub path_style: Option<bool>,
    /// The storage class of new objects.
    pub storage_class: Option<String>,
    /// How the server encrypts: `AES256`, `aws:kms` or `aws:kms:dsse`.
    pub server_side_encryption: Option<String>,
    /// The key that it uses for that.
    pub kms_key: Option<String>,
    /// Whether and how objects are locked.
    pub object_lock: Option<ObjectLock>,
    /// Whether the bucket is asked if it was made with object lock, where nothing says so: then
    /// what somebody hid or covered is seen, and nothing more is locked than the bucket does by
    /// itself.
    pub finds_object_lock: bool,
    /// A profile of `~/.aws/credentials` and `~/.aws/config`.
    pub profile: Option<String>,
    /// Who we are.
    pub access_key_id: Option<Secret>,
    /// What proves it.
    pub secret_access_key: Option<Secret>,
    /// What temporary credentials have besides.
    pub session_token: Option<Secret>,
    /// The account of Azure's storage.
    pub account: Option<String>,
    /// Its key.
    pub account_key: Option<Secret>,
    /// Or a signature that is shared.
    pub sas_token: Option<Secret>,
    /// The file with a service account's key, for Google.
    pub service_account: Option<PathBuf>,
    /// How many bytes a second may be sent.
    pub upload_bytes_per_s: Option<u64>,
    /// How many bytes a second may be fetched.
    pub download_bytes_per_s: Option<u64>,
    /// How many requests may be under way.
    pub requests_at_once: Option<usize>,
    /// How long nothing at all may happen on a connection, and how long a server that has not
    /// answered yet is tried, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Whether a server elsewhere may be spoken to without TLS.
    pub allow_http: bool,
    /// Certificates that are trusted beside the system's, as PEM.
    pub ca_certificate: Option<PathBuf>,
    /// The variables of the environment that providers' own tools read.
    pub variables: BTreeMap<String, Secret>,
    /// The home folder, for `~/.aws`.
    pub home: Option<PathBuf>,
}

impl Options {
    /// A variable of the environment that is set and not empty.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(Secret::expose).filter(|value| !value.is_empty())
    }
}

/// The variables that [`Options::variables`] may hold.
pub const VARIABLES: &[&str] = &[
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_PROFILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_ENDPOINT_URL_STS",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "AZURE_STORAGE_ACCOUNT",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
];
