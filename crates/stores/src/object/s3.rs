//! S3 and what speaks like it: from options to a client.

use std::sync::Arc;

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::client::HttpClient;
use reqwest::header::{HeaderName, HeaderValue};
use tokio::runtime::Handle;

use super::OpenedClient;
use super::client;
use super::place::Place;
use super::profile::Profiles;
use super::signed::Signed;
use crate::options::Options;

/// The region of servers that have none.
const REGION: &str = "us-east-1";

pub(super) fn open(
    env: &Env,
    place: &Place,
    options: &Options,
    runtime: &Handle,
) -> Result<OpenedClient> {
    let profiles = Profiles::of(options)?;
    let said = |option: &Option<String>, variables: &[&str], key: &str| {
        let of_variables = || variables.iter().find_map(|name| options.variable(name));
        option.clone().or_else(|| of_variables().map(str::to_owned)).or_else(|| profiles.value(key))
    };
    let region = said(&options.region, &["AWS_REGION", "AWS_DEFAULT_REGION"], "region");
    let variables = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];
    let endpoint = said(&options.endpoint, &variables, "endpoint_url");
    let region = match (region, &endpoint) {
        (Some(region), _) => region,
        (None, Some(_)) => REGION.to_owned(),
        (None, None) => {
            return Err(Error::new(
                Kind::Usage,
                format!("the region of {} is not known", place.bucket),
            )
            .hint("set region = \"...\" for the repository, or AWS_REGION"));
        }
    };
    let style = Style::of(place, endpoint, &region, options.path_style)?;
    // Where the parts are put together a header that S3 does not want signed keeps others' objects.
    let completion = (HeaderName::from_static("if-none-match"), HeaderValue::from_static("*"));
    let way = client::way(env, &style.endpoint, options, Some(completion))?;
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&place.bucket)
        .with_region(&region)
        .with_endpoint(&style.endpoint)
        .with_virtual_hosted_style_request(style.bucket_in_host)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // The connection sees to it, and what is stored is read back: no second hash of all bytes.
        .with_unsigned_payload(client::is_private(&style.endpoint))
        // The plain request is what every server knows.
        .with_disable_bulk_delete(true)
        .with_retry(client::no_retry())
        .with_client_options(client::options());
    builder = credentials(builder, options, &profiles)?;
    if let Some(encryption) = &options.server_side_encryption {
        let mut set = |key: &str, value: &str| -> Result<()> {
            let key: AmazonS3ConfigKey = key.parse().map_err(client::broken)?;
            builder = std::mem::take(&mut builder).with_config(key, value);
            Ok(())
        };
        set("aws_server_side_encryption", encryption)?;
        if let Some(key) = &options.kms_key {
            set("aws_sse_kms_key_id", key)?;
        }
    }
    let _entered = runtime.enter();
    let connector = way.connector;
    let wire = Arc::clone(&connector.0);
    let client = builder.with_http_connector(connector.clone()).build().map_err(client::broken)?;
    let bucket_url = match style.bucket_in_host {
        true => style.endpoint.clone(),
        false => format!("{}/{}", style.endpoint, place.bucket),
    };
    let signed = Signed {
        credentials: client.credentials().clone(),
        http: HttpClient::new(connector),
        bucket_url,
        region: region.clone(),
    };
    let client = Arc::new(client);
    Ok(OpenedClient {
        pages: client.clone(),
        client,
        server: way.authority,
        region: Some(region),
        completes_only_if_absent: true,
        wire,
        signed: Some(signed),
    })
}

/// How requests name the bucket.
struct Style {
    endpoint: String,
    bucket_in_host: bool,
}

impl Style {
    /// At Amazon the bucket is part of the host, unless its name has dots: then no certificate
    /// fits. Other servers rarely have a name for each bucket.
    fn of(
        place: &Place,
        endpoint: Option<String>,
        region: &str,
        path_style: Option<bool>,
    ) -> Result<Self> {
        let path_style = path_style.unwrap_or(endpoint.is_some() || place.bucket.contains('.'));
        let endpoint = endpoint.unwrap_or_else(|| {
            let domain =
                if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
            format!("https://s3.{region}.{domain}")
        });
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        if path_style {
            return Ok(Style { endpoint, bucket_in_host: false });
        }
        let (scheme, host) = endpoint.split_once("://").ok_or_else(|| client::no_url(&endpoint))?;
        let endpoint = format!("{scheme}://{}.{host}", place.bucket);
        Ok(Style { endpoint, bucket_in_host: true })
    }
}

/// Who we are: what is said of the repository, the environment, files of the home folder, the
/// service of the machine; the first of these that says anything.
fn credentials(
    builder: AmazonS3Builder,
    options: &Options,
    profiles: &Profiles,
) -> Result<AmazonS3Builder> {
    if let (Some(id), Some(secret)) = (&options.access_key_id, &options.secret_access_key) {
        let builder =
            builder.with_access_key_id(id.expose()).with_secret_access_key(secret.expose());
        return Ok(match &options.session_token {
            Some(token) => builder.with_token(token.expose()),
            None => builder,
        });
    }
    if options.access_key_id.is_some() || options.secret_access_key.is_some() {
        return Err(Error::new(Kind::Usage, "`access_key_id` and `secret_access_key` go together")
            .hint("set both, or use `profile`"));
    }
    let of_environment =
        (options.variable("AWS_ACCESS_KEY_ID"), options.variable("AWS_SECRET_ACCESS_KEY"));
    if let ((Some(id), Some(secret)), None) = (of_environment, &options.profile) {
        let builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        return Ok(match options.variable("AWS_SESSION_TOKEN") {
            Some(token) => builder.with_token(token),
            None => builder,
        });
    }
    let mut builder = builder;
    let services = [
        ("aws_endpoint_url_sts", "AWS_ENDPOINT_URL_STS"),
        ("aws_metadata_endpoint", "AWS_EC2_METADATA_SERVICE_ENDPOINT"),
    ];
    for (key, name) in services {
        if let Some(endpoint) = options.variable(name) {
            client::check_scheme(endpoint, options)?;
            let key: AmazonS3ConfigKey = key.parse().map_err(client::broken)?;
            builder = builder.with_config(key, endpoint);
        }
    }
    let mut of_service = |names: &[(&str, &str)]| -> Result<bool> {
        if !names.iter().all(|(_, name)| options.variable(name).is_some()) {
            return Ok(false);
        }
        for (key, name) in names {
            let key: AmazonS3ConfigKey = key.parse().map_err(client::broken)?;
            builder =
                std::mem::take(&mut builder).with_config(key, options.variable(name).unwrap_or(""));
        }
        Ok(true)
    };
    if options.profile.is_none() {
        let identity = [
            ("aws_web_identity_token_file", "AWS_WEB_IDENTITY_TOKEN_FILE"),
            ("aws_role_arn", "AWS_ROLE_ARN"),
        ];
        if of_service(&identity)? {
            return Ok(builder);
        }
    }
    if let Some(keys) = profiles.keys()? {
        let builder = builder
            .with_access_key_id(keys.id.expose())
            .with_secret_access_key(keys.secret.expose());
        return Ok(match &keys.token {
            Some(token) => builder.with_token(token.expose()),
            None => builder,
        });
    }
    let relative =
        [("aws_container_credentials_relative_uri", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")];
    let full = [
        ("aws_container_credentials_full_uri", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        ("aws_container_authorization_token_file", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
    ];
    if of_service(&relative)? || of_service(&full)? {
        return Ok(builder);
    }
    match options.variable("AWS_EC2_METADATA_DISABLED") {
        Some("true") => Err(Error::new(Kind::Usage, "no credentials were found").hint(
            "set `profile`, or `access_key_id` and `secret_access_key`, or the variables \
             AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )),
        // The library asks the machine's own service.
        _ => Ok(builder),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn style(url: &str, endpoint: Option<&str>, path_style: Option<bool>) -> (String, bool) {
        let place = Place::parse(url).unwrap();
        let style = Style::of(&place, endpoint.map(str::to_owned), "eu-west-1", path_style);
        let style = style.unwrap();
        (style.endpoint, style.bucket_in_host)
    }

    #[test]
    fn the_bucket_is_in_the_host_where_a_certificate_fits() {
        let amazon = "https://abc.s3.eu-west-1.amazonaws.com".to_owned();
        assert_eq!(style("s3://abc/x", None, None), (amazon, true));
        let dots = "https://s3.eu-west-1.amazonaws.com".to_owned();
        assert_eq!(style("s3://a.b.c", None, None), (dots, false));
        let own = "http://localhost:9000".to_owned();
        assert_eq!(style("s3://abc", Some("http://localhost:9000/"), None), (own, false));
        let hosted = "https://abc.example.org".to_owned();
        assert_eq!(style("s3://abc", Some("https://example.org"), Some(false)), (hosted, true));
    }
}
