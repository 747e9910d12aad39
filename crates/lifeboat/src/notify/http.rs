//! Requests of notifiers: one attempt, within a limit of time, and judged by its answer.
//!
//! The URL of a notifier often is a secret, so no error shows more of it than its host. The runtime
//! of the client lives and ends here: callers block.

use std::time::Duration;

use lifeboat_core::secret::Secret;
use lifeboat_core::{Error, Kind, Result};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Certificate, Client, Method, Url};

use super::Delivery;
use crate::config::notify::{NotifyConfig, UrlConfig};
use crate::postgres;

/// What is sent, beside the URL.
pub(super) struct Request {
    pub(super) method: Method,
    /// Added to the path of the URL.
    pub(super) path: &'static str,
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) content: &'static str,
    pub(super) body: String,
}

impl Request {
    /// JSON.
    pub(super) fn json(body: String) -> Self {
        Request { content: "application/json", ..Request::text(body) }
    }

    /// Text.
    pub(super) fn text(body: String) -> Self {
        Request {
            method: Method::POST,
            path: "",
            query: Vec::new(),
            headers: Vec::new(),
            content: "text/plain; charset=utf-8",
            body,
        }
    }
}

/// Sends it to the URL of the notifier. Anything but 2xx is an error.
pub(super) fn send(delivery: &Delivery<'_>, request: Request) -> Result<()> {
    let config = delivery.config;
    let ways = config.ways();
    let Some((_, Some(kept))) = ways.first() else {
        return Err(Error::new(Kind::Usage, "it has no URL"));
    };
    let url = url(kept, config.allow_http)?;
    let host = host(&url);
    let token = config.token.as_ref().map(postgres::fetch).transpose()?;
    let timeout = Duration::from_millis(config.timeout_ms());
    let client = client(config, timeout)?;
    let built = built(&client, url, request, token.as_ref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io(Kind::Failed, "cannot start a request", error))?;
    let sent = async { client.execute(built).await };
    // The client's own limit ends with the head of the answer, which is all that is read.
    let answer = runtime.block_on(async { tokio::time::timeout(timeout, sent).await });
    // A look-up of a name that hangs must not hold the run.
    runtime.shutdown_background();
    let unreachable = |why: String| {
        Error::new(Kind::StoreUnavailable, format!("{host} {why}"))
            .hint("it is tried again with the next run; `lifeboat notify test` tries it now")
    };
    match answer {
        Err(_) => Err(unreachable(format!("did not answer within {} s", timeout.as_secs_f64()))),
        Ok(Err(error)) => Err(unreachable(format!("cannot be reached: {}", cause(&error)))),
        Ok(Ok(answer)) if answer.status().is_success() => Ok(()),
        Ok(Ok(answer)) => Err(unreachable(format!("answered {}", answer.status()))),
    }
}

/// The deepest cause: those above it show the URL.
fn cause(error: &reqwest::Error) -> String {
    use std::error::Error as _;
    let mut deepest = None;
    let mut next = error.source();
    while let Some(inner) = next {
        deepest = Some(inner.to_string());
        next = inner.source();
    }
    match deepest {
        Some(_) if error.is_timeout() => "its time was over".to_owned(),
        Some(text) => text,
        None if error.is_timeout() => "its time was over".to_owned(),
        None => "the request failed".to_owned(),
    }
}

/// The URL, from where it is kept. What is wrong with it is said without it.
fn url(kept: &UrlConfig, allow_http: bool) -> Result<Url> {
    let text = match &kept.text {
        Some(text) => Secret::new(text.clone()),
        None => postgres::fetch(&kept.secret())?,
    };
    let wrong = |why: &str| {
        Error::new(Kind::Usage, format!("its URL {why}")).hint("write https://HOST/...")
    };
    let url = Url::parse(text.expose().trim()).map_err(|_| wrong("is no URL"))?;
    let is_here = match url.host() {
        Some(host) => {
            let host = host.to_string();
            let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
            host == "localhost" || address.is_ok_and(|address| address.is_loopback())
        }
        None => return Err(wrong("names no host")),
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_here || allow_http => Ok(url),
        "http" => Err(wrong("is not encrypted: everybody in between can read it")
            .hint("use https://, or say allow_http = true")),
        _ => Err(wrong("is neither https:// nor http://")),
    }
}

fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn client(config: &NotifyConfig, timeout: Duration) -> Result<Client> {
    // The library asks for the process's provider; another one set before is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .user_agent(concat!("lifeboat/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(timeout)
        .redirect(reqwest::redirect::Policy::none());
    if let Some(path) = &config.ca_certificate {
        let failed = || format!("cannot use the certificate {}", path.display());
        let pem = std::fs::read(path).map_err(|error| Error::io(Kind::Usage, failed(), error))?;
        let certificates = Certificate::from_pem_bundle(&pem)
            .map_err(|error| Error::new(Kind::Usage, failed()).caused_by(error))?;
        for certificate in certificates {
            builder = builder.add_root_certificate(certificate);
        }
    }
    builder
        .build()
        .map_err(|error| Error::new(Kind::Failed, "cannot prepare a request").caused_by(error))
}

fn built(
    client: &Client,
    mut url: Url,
    request: Request,
    token: Option<&Secret>,
) -> Result<reqwest::Request> {
    let failed = || Error::new(Kind::Usage, "the request cannot be written");
    if !request.path.is_empty() {
        let path = format!("{}{}", url.path().trim_end_matches('/'), request.path);
        url.set_path(&path);
    }
    for (name, value) in &request.query {
        url.query_pairs_mut().append_pair(name, value);
    }
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(request.content));
    for (name, value) in &request.headers {
        headers.insert(*name, value.parse().map_err(|_| failed())?);
    }
    if let Some(token) = token {
        let value = format!("Bearer {}", token.expose().trim());
        let mut value: HeaderValue = value.parse().map_err(|_| failed())?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    client
        .request(request.method, url)
        .headers(headers)
        .body(request.body)
        .build()
        .map_err(|_| failed())
}
