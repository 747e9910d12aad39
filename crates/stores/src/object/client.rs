//! What the clients of all providers are made of.

use std::net::IpAddr;
use std::time::Duration;

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use object_store::{ClientOptions, RetryConfig};
use reqwest::header::{HeaderName, HeaderValue};

use super::wire::{Connector, Limits, Wire};
use crate::options::Options;

/// As many requests as keep a link busy without many megabytes in memory.
const REQUESTS_AT_ONCE: usize = 16;
const TIMEOUT_MS: u64 = 30_000;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How a server is reached.
pub(super) struct Way {
    pub(super) connector: Connector,
    /// Its host and port.
    pub(super) authority: String,
}

/// The way to a server. `completion` is added where the parts of an object are put together, so
/// that it replaces none.
pub(super) fn way(
    env: &Env,
    endpoint: &str,
    options: &Options,
    completion: Option<(HeaderName, HeaderValue)>,
) -> Result<Way> {
    check_scheme(endpoint, options)?;
    let authority = authority(endpoint)?;
    let http = http(endpoint, options)?;
    let wire = Wire::new(env, http, authority.clone(), &limits(options), completion);
    Ok(Way { connector: Connector(wire), authority })
}

/// The limits of one place.
fn limits(options: &Options) -> Limits {
    Limits {
        requests_at_once: options.requests_at_once.unwrap_or(REQUESTS_AT_ONCE),
        upload_bytes_per_s: options.upload_bytes_per_s,
        download_bytes_per_s: options.download_bytes_per_s,
        timeout_ms: timeout_ms(options),
    }
}

fn timeout_ms(options: &Options) -> u64 {
    options.timeout_ms.unwrap_or(TIMEOUT_MS)
}

/// The client that sends requests, ours and those of the library.
fn http(endpoint: &str, options: &Options) -> Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("lifeboat/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT.min(Duration::from_millis(timeout_ms(options))))
        .redirect(reqwest::redirect::Policy::none())
        // A connection that a server closed meanwhile costs an attempt.
        .pool_idle_timeout(Duration::from_secs(20));
    if is_loopback(host_of(endpoint)) {
        // A server that sends its answers in two pieces and has not switched Nagle's algorithm off
        // holds the second one back until the first is acknowledged, and on a connection that was
        // used before the kernel delays that by 40 ms. Servers that are made for networks switch it
        // off; those that are run beside a test or a single host may not, and there a new
        // connection costs nothing.
        builder = builder.pool_max_idle_per_host(0);
    }
    if let Some(path) = &options.ca_certificate {
        let failed = || format!("cannot use the certificate {}", path.display());
        let pem = std::fs::read(path).map_err(|error| Error::io(Kind::Usage, failed(), error))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem)
            .map_err(|error| Error::new(Kind::Usage, failed()).caused_by(error))?;
        if certificates.is_empty() {
            return Err(Error::new(Kind::Usage, failed()).caused_by("it holds no certificate"));
        }
        for certificate in certificates {
            builder = builder.add_root_certificate(certificate);
        }
    }
    builder.build().map_err(broken)
}

/// What the library is told: connections are not its matter.
pub(super) fn options() -> ClientOptions {
    ClientOptions::new().with_allow_http(true).with_timeout_disabled().with_user_agent(
        object_store::HeaderValue::from_static(concat!("lifeboat/", env!("CARGO_PKG_VERSION"))),
    )
}

/// It tries nothing again: that is done where requests are sent.
pub(super) fn no_retry() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

/// Whether nobody between us and the server can change what is sent: then nobody need sign it.
pub(super) fn is_private(endpoint: &str) -> bool {
    endpoint.starts_with("https://") || is_loopback(host_of(endpoint))
}

/// The host in the URL of a server.
fn host_of(endpoint: &str) -> &str {
    let rest = endpoint.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Refuses to send keys and backups in the clear through a network.
pub(super) fn check_scheme(endpoint: &str, options: &Options) -> Result<()> {
    let Some((scheme, rest)) = endpoint.split_once("://") else { return Err(no_url(endpoint)) };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = host_of(endpoint);
    match scheme {
        _ if host.is_empty() || authority.contains('@') => Err(no_url(endpoint)),
        "https" => Ok(()),
        "http" if is_loopback(host) || options.allow_http => Ok(()),
        "http" => {
            let message = format!("{endpoint} is not encrypted: everybody in between can read it");
            Err(Error::new(Kind::Usage, message).hint("use https://, or say allow_http = true"))
        }
        _ => Err(no_url(endpoint)),
    }
}

/// The host and port in the URL of a server.
fn authority(endpoint: &str) -> Result<String> {
    let rest = endpoint.split_once("://").ok_or_else(|| no_url(endpoint))?.1;
    Ok(rest.split('/').next().unwrap_or_default().to_owned())
}

pub(super) fn no_url(endpoint: &str) -> Error {
    Error::new(Kind::Usage, format!("`{endpoint}` is not the URL of a server"))
        .hint("write endpoint = \"https://HOST\", with a port if it is not 443")
}

/// What the library refuses before it asks anybody.
pub(super) fn broken(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Kind::Usage, "the options of the repository do not fit together").caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_spoken_to_in_the_clear() {
        let options = Options::default();
        for good in [
            "https://example.org",
            "http://localhost:9000",
            "http://127.0.0.1:1/x",
            "http://[::1]:9",
        ] {
            assert!(check_scheme(good, &options).is_ok(), "{good}");
        }
        for bad in [
            "http://example.org",
            "http://10.0.0.1:9000",
            "example.org",
            "https://",
            "ftp://x",
            "https://key@host",
        ] {
            assert_eq!(check_scheme(bad, &options).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
        assert!(is_private("https://example.org") && is_private("http://[::1]:9"));
        assert!(!is_private("http://example.org"));
        let said = Options { allow_http: true, ..Options::default() };
        assert!(check_scheme("http://10.0.0.1:9000", &said).is_ok());
    }
}
