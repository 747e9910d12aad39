//! Google Cloud Storage: from options to a client.

use std::sync::Arc;

use lifeboat_core::Result;
use lifeboat_core::env::Env;
use object_store::gcp::GoogleCloudStorageBuilder;
use reqwest::header::{HeaderName, HeaderValue};
use tokio::runtime::Handle;

use super::place::Place;
use super::{OpenedClient, client};
use crate::options::Options;

const ENDPOINT: &str = "https://storage.googleapis.com";

pub(super) fn open(
    env: &Env,
    place: &Place,
    options: &Options,
    runtime: &Handle,
) -> Result<OpenedClient> {
    let endpoint = options.endpoint.as_deref().unwrap_or(ENDPOINT).trim_end_matches('/');
    // An object of several parts replaces none: its generation must be the first.
    let completion =
        (HeaderName::from_static("x-goog-if-generation-match"), HeaderValue::from_static("0"));
    let way = client::way(env, endpoint, options, Some(completion))?;
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(&place.bucket)
        .with_base_url(endpoint)
        .with_retry(client::no_retry())
        .with_client_options(client::options());
    if let Some(path) = &options.service_account {
        builder = builder.with_service_account_path(path.display().to_string());
    } else if let Some(path) = options.variable("GOOGLE_APPLICATION_CREDENTIALS") {
        builder = builder.with_application_credentials(path);
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
        completes_only_if_absent: true,
        wire: way.connector.0,
        signed: None,
    })
}
