//! Reading an object: ranges that are fetched ahead, given in their order.
//!
//! The first range says how large the object is and which version of it; the others are asked for
//! that version. Each is fetched whole or not at all, so that an error is never half a range.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use lifeboat_core::store::{ObjectName, ObjectReader};
use lifeboat_core::{Error, Kind, Result};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore};
use tokio::task::JoinHandle;

use super::Shared;
use super::explain::{Asked, refusal_of};
use super::lock;

/// What is fetched at once.
pub(super) const RANGE_BYTES: u64 = 2 << 20;
/// So many ranges of one reader are fetched at once: a server far away takes its time for each.
const RANGES_AHEAD: usize = 3;

/// Begins to read.
pub(super) fn open(
    shared: &Arc<Shared>,
    name: &ObjectName,
    range: Option<Range<u64>>,
) -> Result<ObjectReader> {
    let wanted = range.unwrap_or(0..u64::MAX);
    if wanted.start >= wanted.end {
        return Ok(Box::new(io::empty()));
    }
    let path = shared.path(name)?;
    let version = lock::version(shared, name)?;
    if version.is_none() && lock::of(shared, name).is_some() {
        let message = format!("there is no {name} in {}", shared.url);
        return Err(Error::new(Kind::NotCovered, message));
    }
    let first = wanted.start..wanted.end.min(wanted.start.saturating_add(RANGE_BYTES));
    let fetched =
        shared.block_on(fetch(Arc::clone(shared), path.clone(), first, (None, version.clone())));
    let fetched = match fetched {
        Ok(fetched) => fetched,
        // Nothing of the object is in that range.
        Err(error) if refusal_of(&error).is_some_and(|refusal| refusal.status == 416) => {
            return Ok(Box::new(io::empty()));
        }
        Err(error) => return Err(shared.explain(Asked::Read, name, error)),
    };
    let end = wanted.end.min(fetched.object_bytes);
    let next = wanted.start + fetched.bytes.len() as u64;
    let mut reader = Reader {
        shared: Arc::clone(shared),
        name: name.clone(),
        path,
        asked_for: (fetched.etag, version),
        current: fetched.bytes,
        ahead: VecDeque::new(),
        next,
        end,
    };
    reader.fetch_ahead();
    Ok(Box::new(reader))
}

/// What all ranges must be of: an etag, and a version where there are several.
type AskedFor = (Option<String>, Option<String>);

/// A range of an object, whole.
struct Fetched {
    bytes: Bytes,
    object_bytes: u64,
    etag: Option<String>,
}

async fn fetch(
    shared: Arc<Shared>,
    path: Path,
    range: Range<u64>,
    asked_for: AskedFor,
) -> object_store::Result<Fetched> {
    let options = GetOptions {
        range: Some(GetRange::Bounded(range)),
        if_match: asked_for.0,
        version: asked_for.1,
        ..GetOptions::default()
    };
    let result = shared.store.get_opts(&path, options).await?;
    let (object_bytes, etag) = (result.meta.size, result.meta.e_tag.clone());
    let must = result.range.end - result.range.start;
    let bytes = result.bytes().await?;
    match bytes.len() as u64 == must {
        true => Ok(Fetched { bytes, object_bytes, etag }),
        false => Err(object_store::Error::Generic {
            store: "object",
            source: format!("{} bytes came instead of {must}", bytes.len()).into(),
        }),
    }
}

struct Reader {
    shared: Arc<Shared>,
    name: ObjectName,
    path: Path,
    asked_for: AskedFor,
    current: Bytes,
    ahead: VecDeque<JoinHandle<object_store::Result<Fetched>>>,
    /// Where the next range that is not asked for begins.
    next: u64,
    end: u64,
}

impl Reader {
    fn fetch_ahead(&mut self) {
        while self.ahead.len() < RANGES_AHEAD && self.next < self.end {
            let range = self.next..self.end.min(self.next + RANGE_BYTES);
            self.next = range.end;
            let shared = Arc::clone(&self.shared);
            let fetching = fetch(shared, self.path.clone(), range, self.asked_for.clone());
            self.ahead.push_back(self.shared.runtime.spawn(fetching));
        }
    }

    /// The next range.
    fn advance(&mut self, fetching: JoinHandle<object_store::Result<Fetched>>) -> Result<()> {
        let fetched = self.shared.runtime.block_on(fetching).map_err(|error| {
            Error::new(Kind::Failed, "a thread that reads ended early").caused_by(error)
        })?;
        self.current = match fetched {
            Ok(fetched) => fetched.bytes,
            Err(object_store::Error::Precondition { .. }) => {
                let message = format!("{} was replaced while it was read", self.name);
                return Err(Error::new(Kind::StoreUnavailable, message));
            }
            Err(error) => return Err(self.shared.explain(Asked::Read, &self.name, error)),
        };
        self.fetch_ahead();
        Ok(())
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            let Some(fetching) = self.ahead.pop_front() else { return Ok(0) };
            self.advance(fetching).map_err(io::Error::other)?;
        }
        let count = self.current.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.ahead.iter().for_each(JoinHandle::abort);
    }
}
