//! From the configuration of a repository to what its store is opened with: secrets are fetched
//! here, when it is opened and not before.

use lifeboat_core::Result;
use lifeboat_core::secret::Secret;
use lifeboat_stores::Options;

use crate::config::postgres::SecretConfig;
use crate::config::repository::RepositoryConfig;
use crate::{postgres, world};

/// What the store is opened with.
pub(crate) fn options(config: &RepositoryConfig) -> Result<Options> {
    let fetched = |secret: &Option<SecretConfig>| -> Result<Option<Secret>> {
        secret.as_ref().map(postgres::fetch).transpose()
    };
    Ok(Options {
        ssh_config: config.ssh_config.clone(),
        drive: config.drive(),
        region: config.region.clone(),
        endpoint: config.endpoint.clone(),
        path_style: config.path_style,
        storage_class: config.storage_class.clone(),
        server_side_encryption: config.server_side_encryption.clone(),
        kms_key: config.kms_key.clone(),
        object_lock: config.lock(),
        finds_object_lock: false,
        profile: config.profile.clone(),
        access_key_id: config.access_key_id.clone().map(Secret::new),
        secret_access_key: fetched(&config.secret_access_key)?,
        session_token: fetched(&config.session_token)?,
        account: config.account.clone(),
        account_key: fetched(&config.account_key)?,
        sas_token: fetched(&config.sas_token)?,
        service_account: config.service_account.clone(),
        upload_bytes_per_s: config.upload_limit.map(|limit| limit.0.bytes),
        download_bytes_per_s: config.download_limit.map(|limit| limit.0.bytes),
        requests_at_once: config.requests_at_once,
        timeout_ms: config.timeout.map(|timeout| timeout.0.milliseconds),
        allow_http: config.allow_http,
        ca_certificate: config.ca_certificate.clone(),
        variables: world::of_providers(lifeboat_stores::VARIABLES),
        home: world::home(),
    })
}
