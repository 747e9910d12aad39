//! Azure Blob Storage: from options to a client.

use std::sync::Arc;

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use tokio::runtime::Handle;

use super::place::Place;
use super::{OpenedClient, client};
use crate::options::Options;

pub(super) fn open(
    env: &Env,
    place: &Place,
    options: &Options,
    runtime: &Handle,
) -> Result<OpenedClient> {
    let variable = |names: &[&str]| names.iter().find_map(|name| options.variable(name));
    let account = options
        .account
        .as_deref()
        .or_else(|| variable(&["AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"]))
        .ok_or_else(|| {
            Error::new(Kind::Usage, format!("the account of az://{} is not known", place.bucket))
                .hint("set account = \"...\" for the repository, or AZURE_STORAGE_ACCOUNT")
        })?;
    let own = format!("https://{account}.blob.core.windows.net");
    let endpoint = options.endpoint.as_deref().unwrap_or(&own).trim_end_matches('/');
    // Its signature covers all conditions: where parts are put together we look first.
    let way = client::way(env, endpoint, options, None)?;
    let mut builder = MicrosoftAzureBuilder::new()
        .with_account(account)
        .with_container_name(&place.bucket)
        .with_endpoint(endpoint.to_owned())
        .with_retry(client::no_retry())
        .with_client_options(client::options());
    let key = options.account_key.as_ref().map(|key| key.expose());
    let token = options.sas_token.as_ref().map(|token| token.expose());
    let of_environment = || variable(&["AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"]);
    if let Some(token) = token.or_else(|| variable(&["AZURE_STORAGE_SAS_TOKEN"]))
        && key.is_none()
    {
        builder = builder.with_config(AzureConfigKey::SasKey, token);
    } else if let Some(key) = key.or_else(of_environment) {
        builder = builder.with_access_key(key);
    }
    let _entered = runtime.enter();
    let client =
        builder.with_http_connector(way.connector.clone()).build().map_err(client::broken)?;
    let client = Arc::new(client);
    Ok(OpenedClient {
        pages: client.clone(),
        client,
        server: way.authority,
        region: None,
        completes_only_if_absent: false,
        wire: way.connector.0,
        signed: None,
    })
}
