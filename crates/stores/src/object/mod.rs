//! Object storage: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage.
//!
//! The library behind all three makes requests and signs them; [`wire`] sends them. Here is what
//! the repository asks for: objects put only if absent ([`mod@write`], [`claim`]), read in ranges
//! ([`read`]), locked and seen by their versions ([`lock`]), listed page by page, and errors that
//! say what mends them ([`explain`]).

mod azure;
mod claim;
mod client;
mod explain;
mod foreign;
mod google;
mod lock;
mod pace;
mod place;
mod profile;
mod read;
mod refusal;
mod runtime;
mod s3;
mod signed;
mod wire;
mod write;

#[cfg(test)]
pub(crate) mod for_tests;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use futures_util::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use lifeboat_core::env::Env;
use lifeboat_core::store::{LockProbe, ObjectInfo, ObjectName, ObjectReader, Put, Space, Store};
use lifeboat_core::{Error, Kind, Result};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::runtime::Handle;

use self::claim::CLAIMS;
use self::explain::{Asked, refusal_of};
use self::lock::Lock;
pub(crate) use self::place::{Place, Provider, is_url};
use self::signed::Signed;
use self::wire::Wire;
use crate::options::Options;

/// How many names are asked for at once when objects are listed.
const PAGE_KEYS: usize = 50_000;
/// How many small objects are read at once.
const READERS: usize = 16;

/// A store in a bucket.
pub struct BucketStore {
    shared: Arc<Shared>,
}

/// What readers and writers of one store have in common.
struct Shared {
    env: Env,
    provider: Provider,
    /// As a person knows it.
    url: String,
    /// The server, for messages.
    server: String,
    bucket: String,
    /// Where the repository begins in the bucket; empty, or without a slash at its ends.
    prefix: String,
    region: Option<String>,
    storage_class: Option<String>,
    store: Arc<dyn ObjectStore>,
    /// The same, which lists page by page.
    pages: Arc<dyn PaginatedListStore>,
    /// Whether the server takes a question for long pages, as far as is known.
    has_long_pages: AtomicBool,
    runtime: Handle,
    /// What sends the requests.
    wire: Arc<Wire>,
    /// For requests that the library does not make.
    signed: Option<Signed>,
    readers: usize,
    /// Whether the server refuses a second object of one name, as far as is known.
    conditional: AtomicBool,
    /// Whether and how what is put is locked; empty until the bucket was asked.
    lock: OnceLock<Option<Lock>>,
    /// Whether an object of several parts is put together only if none has its name.
    completes_only_if_absent: bool,
}

impl Shared {
    fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Where an object is in the bucket.
    fn path(&self, name: &ObjectName) -> Result<Path> {
        let key = match self.prefix.is_empty() {
            true => name.to_string(),
            false => format!("{}/{name}", self.prefix),
        };
        Path::parse(&key).map_err(|error| {
            Error::new(Kind::Failed, format!("{} cannot have an object {name}", self.url))
                .caused_by(error.to_string())
        })
    }

    fn explain(&self, asked: Asked, name: &ObjectName, error: object_store::Error) -> Error {
        explain::explain(self, asked, name.as_str(), error)
    }

    fn is_conditional(&self) -> bool {
        self.conditional.load(Ordering::Relaxed)
    }

    /// Whether and how what is put is locked.
    fn lock(&self) -> Option<&Lock> {
        let ask = || {
            let signed = self.signed.as_ref()?;
            lock::is_on(self, signed).then(|| Lock::new(None))
        };
        self.lock.get_or_init(ask).as_ref()
    }

    fn head(&self, path: &Path, name: &ObjectName) -> Result<Option<ObjectMeta>> {
        let version = lock::version(self, name)?;
        if version.is_none() && lock::of(self, name).is_some() {
            return Ok(None);
        }
        let options = GetOptions { head: true, version, ..GetOptions::default() };
        match self.block_on(self.store.get_opts(path, options)) {
            Ok(found) => Ok(Some(found.meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.explain(Asked::Look, name, error)),
        }
    }

    fn exists(&self, path: &Path, name: &ObjectName) -> Result<bool> {
        self.head(path, name).map(|found| found.is_some())
    }

    /// Everything below a prefix, in the order of names.
    fn list_all(&self, prefix: Option<&str>) -> Result<Vec<ObjectInfo>> {
        let parts = [Some(self.prefix.as_str()).filter(|prefix| !prefix.is_empty()), prefix];
        let whole: Vec<&str> = parts.into_iter().flatten().collect();
        let folder = Path::parse(whole.join("/")).map_err(|error| {
            Error::new(Kind::Failed, format!("cannot list {:?} in {}", prefix, self.url))
                .caused_by(error.to_string())
        })?;
        if let Some(lock) = self.lock() {
            let mut found = lock::list(self, lock, folder.as_ref())?;
            found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            return Ok(found);
        }
        let listed = match self.has_long_pages.load(Ordering::Relaxed) {
            true => self.list_in_long_pages(&folder),
            false => None,
        };
        let listed = match listed {
            Some(listed) => listed,
            None => self.block_on(self.store.list(Some(&folder)).try_collect()),
        };
        let listed: Vec<ObjectMeta> =
            listed.map_err(|error| explain::explain(self, Asked::List, "", error))?;
        let mut found: Vec<ObjectInfo> =
            listed.into_iter().filter_map(|meta| self.info(meta)).collect();
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// The same in as few requests as the server allows. Most give at most a thousand names at once
    /// whatever they are asked for; one that does not take the question at all gives `None`.
    fn list_in_long_pages(&self, folder: &Path) -> Option<object_store::Result<Vec<ObjectMeta>>> {
        let prefix = match folder.as_ref() {
            "" => None,
            folder => Some(format!("{folder}/")),
        };
        let (mut found, mut page_token) = (Vec::new(), None);
        loop {
            let is_first = page_token.is_none();
            let max_keys = Some(PAGE_KEYS);
            let options = PaginatedListOptions { max_keys, page_token, ..Default::default() };
            let asked = self.pages.list_paginated(prefix.as_deref(), options);
            let page = match self.block_on(asked) {
                Ok(page) => page,
                Err(error) => {
                    let refused = refusal_of(&error).is_some_and(|refusal| refusal.status == 400);
                    if !(is_first && refused) {
                        return Some(Err(error));
                    }
                    self.has_long_pages.store(false, Ordering::Relaxed);
                    return None;
                }
            };
            found.extend(page.result.objects);
            page_token = page.page_token;
            if page_token.is_none() {
                return Some(Ok(found));
            }
        }
    }

    /// What is said of an object; `None` for a key that no object of ours has.
    fn info(&self, meta: ObjectMeta) -> Option<ObjectInfo> {
        let name = self.name_of(meta.location.as_ref())?;
        let nanoseconds = meta.last_modified.timestamp_subsec_nanos().min(999_999_999) as i32;
        let modified = Timestamp::new(meta.last_modified.timestamp(), nanoseconds);
        let modified = modified.unwrap_or(Timestamp::UNIX_EPOCH);
        Some(ObjectInfo { name, bytes: meta.size, modified })
    }

    /// The object with that key; `None` for a key that no object of ours has.
    fn name_of(&self, key: &str) -> Option<ObjectName> {
        let name = match self.prefix.is_empty() {
            true => key,
            false => key.strip_prefix(&self.prefix)?.strip_prefix('/')?,
        };
        ObjectName::new(name).ok()
    }
}

impl BucketStore {
    /// The store behind a URL. Nothing is asked of a server yet.
    pub fn open(env: &Env, url: &str, options: &Options) -> Result<Self> {
        let place = Place::parse(url)?;
        let runtime = runtime::handle()?;
        let opened = match place.provider {
            Provider::S3 => s3::open(env, &place, options, &runtime)?,
            Provider::Google => google::open(env, &place, options, &runtime)?,
            Provider::Azure => azure::open(env, &place, options, &runtime)?,
        };
        let lock = match (options.object_lock, options.finds_object_lock) {
            (None, true) => OnceLock::new(),
            (asked, _) => OnceLock::from(asked.map(|asked| Lock::new(Some(asked)))),
        };
        let shared = Shared {
            env: env.clone(),
            provider: place.provider,
            url: url.trim_end_matches('/').to_owned(),
            server: opened.server,
            bucket: place.bucket,
            prefix: place.prefix,
            region: opened.region,
            storage_class: options.storage_class.clone(),
            store: opened.client,
            pages: opened.pages,
            has_long_pages: AtomicBool::new(true),
            runtime,
            wire: opened.wire,
            signed: opened.signed,
            readers: options.requests_at_once.unwrap_or(READERS).clamp(1, 64),
            lock,
            conditional: AtomicBool::new(true),
            completes_only_if_absent: opened.completes_only_if_absent,
        };
        Ok(BucketStore { shared: Arc::new(shared) })
    }
}

/// What the file of a provider gives.
struct OpenedClient {
    client: Arc<dyn ObjectStore>,
    pages: Arc<dyn PaginatedListStore>,
    server: String,
    region: Option<String>,
    completes_only_if_absent: bool,
    wire: Arc<Wire>,
    signed: Option<Signed>,
}

impl Store for BucketStore {
    fn url(&self) -> String {
        self.shared.url.clone()
    }

    fn put(&self, name: &ObjectName) -> Result<Box<dyn Put>> {
        write::open(&self.shared, name)
    }

    fn get(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<ObjectReader> {
        read::open(&self.shared, name, range)
    }

    fn head(&self, name: &ObjectName) -> Result<Option<ObjectInfo>> {
        let found = self.shared.head(&self.shared.path(name)?, name)?;
        Ok(found.and_then(|meta| self.shared.info(meta)))
    }

    fn list(&self, prefix: Option<&str>) -> Result<Vec<ObjectInfo>> {
        let mut found = self.shared.list_all(prefix)?;
        let hidden = [Some(CLAIMS), Some(lock::PROBES)];
        found.retain(|object| !hidden.contains(&object.name.as_str().split('/').next()));
        Ok(found)
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        if let Some((_, signed)) = lock::of(&self.shared, name) {
            return lock::delete(&self.shared, signed, name);
        }
        let path = self.shared.path(name)?;
        match self.shared.block_on(self.shared.store.delete(&path)) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.shared.explain(Asked::Delete, name, error)),
        }
    }

    fn unfinished(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        match &self.shared.signed {
            Some(signed) => signed::unfinished(&self.shared, signed, prefix),
            None => Ok(Vec::new()),
        }
    }

    fn discard(&self, name: &ObjectName) -> Result<bool> {
        match &self.shared.signed {
            Some(signed) => signed::discard(&self.shared, signed, name),
            None => Ok(false),
        }
    }

    fn without_conditional_put(&self) {
        self.shared.conditional.store(false, Ordering::Relaxed);
    }

    fn clock_ahead(&self) -> Option<SignedDuration> {
        self.shared.wire.clock_ahead()
    }

    fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }

    fn lock_period(&self) -> Option<SignedDuration> {
        self.shared.lock().and_then(Lock::period)
    }

    fn retain(&self, name: &ObjectName, until: Timestamp) -> Result<()> {
        lock::retain(&self.shared, name, until)
    }

    fn locked_until(&self, name: &ObjectName) -> Result<Option<Timestamp>> {
        lock::locked_until(&self.shared, name)
    }

    fn probe_lock(&self) -> Result<Option<LockProbe>> {
        lock::probe(&self.shared)
    }

    fn readers(&self) -> usize {
        self.shared.readers
    }
}
