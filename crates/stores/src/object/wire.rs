//! How requests reach a server: one after the other retried, limited, and judged by its answer.
//!
//! The library makes and signs requests; here they are sent. So everything that is the same for all
//! providers is in one place: how many requests are under way, how fast bytes go, how long nothing
//! may happen, what is tried again and how often, and what an answer means. An answer is taken
//! whole before it counts: one that is cut off is tried again like one that never came. That is
//! cheap, as nobody asks for more than [`super::read::RANGE_BYTES`] at once.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt;
use jiff::SignedDuration;
use lifeboat_core::env::Env;
use lifeboat_core::retry::Retry;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use reqwest::Method;
use reqwest::header::{HeaderName, HeaderValue};
use tokio::sync::Semaphore;

use super::foreign;
use super::pace::Pace;
use super::refusal::{Refusal, Verdict, time};

/// An answer longer than this is no answer to anything that we ask.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// What is handed to a connection at once.
const PIECE_BYTES: usize = 64 << 10;
/// How often a request is tried again, and when. All of it within the minutes for which a
/// signature is good.
const AGAIN: Retry = Retry { times: 6, delay_ms: 250, delay_ms_max: 10_000 };
/// The service of credentials is on this host or near it, or it is not there.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(5);

const NOT_TOLD: i64 = i64::MIN;

/// What failed without an answer.
#[derive(Debug)]
pub(super) struct Failure {
    what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

/// What was sent and fetched, for measurements.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) requests: AtomicU64,
    pub(super) retries: AtomicU64,
}

/// How requests go to one place.
pub(super) struct Wire {
    env: Env,
    client: reqwest::Client,
    /// The server's host and port: what goes elsewhere asks for credentials.
    authority: String,
    at_once: Semaphore,
    up: Pace,
    down: Pace,
    timeout: Duration,
    /// The server has answered before. One that never has may not be there at all: it is given up
    /// when the time is over, and not after as many attempts as one that will come again.
    is_known: AtomicBool,
    /// What is added to a request that completes an object of several parts, so that it replaces
    /// none.
    completion: Option<(HeaderName, HeaderValue)>,
    /// How far the server's clock is ahead, in seconds; [`NOT_TOLD`] before it told.
    ahead_s: AtomicI64,
    pub(super) counts: Counts,
}

/// What a [`Wire`] is made of.
pub(super) struct Limits {
    pub(super) requests_at_once: usize,
    pub(super) upload_bytes_per_s: Option<u64>,
    pub(super) download_bytes_per_s: Option<u64>,
    pub(super) timeout_ms: u64,
}

impl Wire {
    pub(super) fn new(
        env: &Env,
        client: reqwest::Client,
        authority: String,
        limits: &Limits,
        completion: Option<(HeaderName, HeaderValue)>,
    ) -> Arc<Self> {
        Arc::new(Wire {
            env: env.clone(),
            client,
            authority,
            at_once: Semaphore::new(limits.requests_at_once.max(1)),
            up: Pace::new(env, limits.upload_bytes_per_s),
            down: Pace::new(env, limits.download_bytes_per_s),
            timeout: Duration::from_millis(limits.timeout_ms),
            is_known: AtomicBool::new(false),
            completion,
            ahead_s: AtomicI64::new(NOT_TOLD),
            counts: Counts::default(),
        })
    }

    /// A request to the store: again and again, until it has an answer that counts.
    async fn ask(self: &Arc<Self>, request: Sent) -> Result<HttpResponse, HttpError> {
        let begun_ms = self.env.clock.monotonic_ms();
        let mut failed = 0;
        loop {
            // Within the bound, waiting for another attempt counts too: a server that is slow
            // to answer is not asked more often at once.
            let permit = self.at_once.acquire().await;
            let ended = self.attempt(&request).await;
            drop(permit);
            let error = match ended {
                Ok((response, body)) => match judged(&request, response, body) {
                    Ok(response) => return Ok(response),
                    Err((refusal, Verdict::Passing)) => {
                        HttpError::new(HttpErrorKind::Unknown, refusal)
                    }
                    Err((refusal, _)) => {
                        return Err(HttpError::new(HttpErrorKind::Unknown, refusal));
                    }
                },
                Err(failure) => HttpError::new(HttpErrorKind::Unknown, failure),
            };
            failed += 1;
            if failed > AGAIN.times || self.env.proceed().is_err() {
                return Err(error);
            }
            let mut random = [0; 8];
            self.env.random.fill(&mut random);
            let delay_ms = AGAIN.delay_ms(failed, u64::from_le_bytes(random));
            let passed = Duration::from_millis(self.env.elapsed_ms(begun_ms) + delay_ms);
            if passed >= self.timeout && !self.is_known.load(Ordering::Relaxed) {
                return Err(error);
            }
            self.counts.retries.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        }
    }

    /// Sends it once, and takes the whole answer.
    async fn attempt(self: &Arc<Self>, request: &Sent) -> Result<(Head, Bytes), Failure> {
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        let progress = Arc::new(AtomicU64::new(0));
        let sending = self.client.execute(self.built(request, &progress)?);
        let response = self.watched(sending, &progress).await?.map_err(|error| failure(&error))?;
        let mut response: reqwest::Response = response;
        let head = Head { status: response.status(), headers: response.headers().clone() };
        self.is_known.store(true, Ordering::Relaxed);
        self.note_time(&head);
        let mut body = Vec::new();
        loop {
            let next = tokio::time::timeout(self.timeout, response.chunk()).await;
            let chunk = next.map_err(|_| self.stalled())?.map_err(|error| failure(&error))?;
            let Some(chunk) = chunk else { return Ok((head, body.into())) };
            self.down.take(chunk.len()).await;
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                let what = "the answer is longer than anything that was asked for".to_owned();
                return Err(Failure { what });
            }
            if body.capacity() == 0 {
                let length = response.content_length().unwrap_or(0).min(ANSWER_BYTES_MAX as u64);
                body.reserve_exact((length as usize).max(chunk.len()));
            }
            body.extend_from_slice(&chunk);
        }
    }

    /// Each answer says what time it is there.
    fn note_time(&self, head: &Head) {
        let date = head.headers.get("date").and_then(|date| date.to_str().ok()).and_then(time);
        if let Some(date) = date {
            let ahead = date.duration_since(self.env.clock.now());
            self.ahead_s.store(ahead.as_secs(), Ordering::Relaxed);
        }
    }

    /// How far the server's clock is ahead of ours, as its last answer told.
    pub(super) fn clock_ahead(&self) -> Option<SignedDuration> {
        let ahead_s = self.ahead_s.load(Ordering::Relaxed);
        (ahead_s != NOT_TOLD).then(|| SignedDuration::from_secs(ahead_s))
    }

    /// Waits for an answer as long as bytes are taken.
    async fn watched<T>(
        &self,
        answer: impl Future<Output = T>,
        progress: &AtomicU64,
    ) -> Result<T, Failure> {
        let mut answer = std::pin::pin!(answer);
        let mut seen = progress.load(Ordering::Relaxed);
        loop {
            match tokio::time::timeout(self.timeout, &mut answer).await {
                Ok(answer) => return Ok(answer),
                Err(_) if progress.load(Ordering::Relaxed) == seen => return Err(self.stalled()),
                Err(_) => seen = progress.load(Ordering::Relaxed),
            }
        }
    }

    fn stalled(&self) -> Failure {
        let what = format!("nothing came or went for {} s", self.timeout.as_secs_f64());
        Failure { what }
    }

    fn built(
        self: &Arc<Self>,
        request: &Sent,
        progress: &Arc<AtomicU64>,
    ) -> Result<reqwest::Request, Failure> {
        let url = request.uri.parse().map_err(|_| Failure {
            what: format!("`{}` is not the address of a server", request.uri),
        })?;
        let mut built = reqwest::Request::new(request.method.clone(), url);
        *built.headers_mut() = request.headers.clone();
        if let Some((name, value)) = &self.completion
            && request.method == Method::POST
            && request.query_has("uploadId")
        {
            built.headers_mut().insert(name.clone(), value.clone());
        }
        if !request.body.is_empty() {
            // A body in pieces does not say how long it is.
            built.headers_mut().insert("content-length", HeaderValue::from(request.body.len()));
        }
        *built.body_mut() = Some(match request.body.is_empty() {
            true => Bytes::new().into(),
            false => self.body(request.body.clone(), progress),
        });
        Ok(built)
    }

    /// The body in pieces, so that it can be held to a pace and be seen to go on.
    fn body(self: &Arc<Self>, bytes: Bytes, progress: &Arc<AtomicU64>) -> reqwest::Body {
        let (wire, progress) = (Arc::clone(self), Arc::clone(progress));
        let pieces = stream::unfold((bytes, wire, progress), |(mut rest, wire, progress)| async {
            if rest.is_empty() {
                return None;
            }
            let piece = rest.split_to(rest.len().min(PIECE_BYTES));
            wire.up.take(piece.len()).await;
            progress.fetch_add(1, Ordering::Relaxed);
            Some((Ok::<_, std::io::Error>(piece), (rest, wire, progress)))
        });
        reqwest::Body::wrap_stream(pieces)
    }

    /// A request for credentials: its answers mean something to the library.
    async fn ask_for_credentials(&self, request: Sent) -> Result<HttpResponse, HttpError> {
        let failed = |what: String| HttpError::new(HttpErrorKind::Unknown, Failure { what });
        let url = request.uri.parse().map_err(|_| failed(format!("`{}`", request.uri)))?;
        let mut built = reqwest::Request::new(request.method, url);
        *built.headers_mut() = request.headers;
        *built.body_mut() = Some(request.body.into());
        let asked = async {
            let response = self.client.execute(built).await?;
            let head = Head { status: response.status(), headers: response.headers().clone() };
            Ok::<_, reqwest::Error>((head, response.bytes().await?))
        };
        match tokio::time::timeout(CREDENTIALS_TIMEOUT, asked).await {
            Err(_) => Err(failed("no answer from the service of credentials".to_owned())),
            Ok(Err(error)) => Err(failed(failure(&error).what)),
            Ok(Ok((head, body))) => Ok(head.response(body)),
        }
    }
}

/// The connector that the library is given.
#[derive(Clone)]
pub(super) struct Connector(pub(super) Arc<Wire>);

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait::async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let to_store = request.uri().authority().map(|authority| authority.as_str())
            == Some(self.0.authority.as_str());
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let (method, headers) = (parts.method, parts.headers);
        let request = Sent { method, uri: parts.uri.to_string(), headers, body };
        match to_store {
            true => self.0.ask(request).await,
            false => self.0.ask_for_credentials(request).await,
        }
    }
}

/// A request that can be sent again.
struct Sent {
    method: Method,
    uri: String,
    headers: reqwest::header::HeaderMap,
    body: Bytes,
}

impl Sent {
    fn query_has(&self, name: &str) -> bool {
        let query = self.uri.split_once('?').map_or("", |(_, query)| query);
        query.split('&').any(|pair| pair.split('=').next() == Some(name))
    }
}

/// The beginning of an answer.
struct Head {
    status: reqwest::StatusCode,
    headers: reqwest::header::HeaderMap,
}

impl Head {
    fn response(self, body: Bytes) -> HttpResponse {
        let mut response = HttpResponse::new(body.into());
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

/// The response, or why it counts as none.
fn judged(request: &Sent, head: Head, body: Bytes) -> Result<HttpResponse, (Refusal, Verdict)> {
    let status = head.status.as_u16();
    // Where several parts are put together, S3 begins to answer before it knows how it will end.
    let may_be_both = request.method == Method::POST && request.query_has("uploadId");
    let refused = match head.status.is_success() {
        true => may_be_both && contains(&body, b"<Error>"),
        false => true,
    };
    if !refused {
        let is_list = request.query_has("list-type") || request.query_has("comp");
        return Ok(match is_list && request.method == Method::GET {
            true => head.response(foreign::without(body)),
            false => part_of_whole(request, head, body),
        });
    }
    let refusal = Refusal::read(status, &head.headers, &body);
    match refusal.verdict() {
        Verdict::Answer => Ok(head.response(body)),
        verdict => Err((refusal, verdict)),
    }
}

/// A server may answer with the whole object where a range was asked for, or with the range and the
/// status of the whole. The library takes only what it asked for.
fn part_of_whole(request: &Sent, mut head: Head, body: Bytes) -> HttpResponse {
    let range = || {
        let text = request.headers.get("range")?.to_str().ok()?.strip_prefix("bytes=")?;
        let (first, last) = text.split_once('-')?;
        Some((first.parse::<usize>().ok()?, last.parse::<usize>().ok()?))
    };
    let whole = body.len();
    let (200, Some((first, last))) = (head.status.as_u16(), range()) else {
        return head.response(body);
    };
    if head.headers.contains_key("content-range") {
        head.status = reqwest::StatusCode::PARTIAL_CONTENT;
        return head.response(body);
    }
    if first >= whole {
        return head.response(body);
    }
    let last = last.min(whole - 1);
    let said = format!("bytes {first}-{last}/{whole}");
    if let Ok(value) = HeaderValue::from_str(&said) {
        head.status = reqwest::StatusCode::PARTIAL_CONTENT;
        head.headers.insert("content-range", value);
        head.headers.insert("content-length", HeaderValue::from(last - first + 1));
    }
    head.response(body.slice(first..=last))
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// An error of the connection in words, without the address that it repeats.
fn failure(error: &reqwest::Error) -> Failure {
    let mut what = match (error.is_connect(), error.is_timeout()) {
        (true, _) => "cannot connect".to_owned(),
        (_, true) => "the time is over".to_owned(),
        _ => "the connection failed".to_owned(),
    };
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        cause = inner.source();
        // The innermost one says it, the others repeat it.
        if cause.is_none() {
            what.push_str(&format!(": {inner}"));
        }
    }
    Failure { what }
}
