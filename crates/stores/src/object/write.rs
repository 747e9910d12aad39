//! Writing an object: small ones in one request, large ones in parts that are sent while the next
//! one is filled.
//!
//! Nothing is visible before [`Put::commit`]: an object of one request is sent then, one of
//! several parts is put together then. Each object carries a number of its writer. When the answer
//! to a request is lost, or a repeated request is told that the object exists, the number says
//! whether it is ours.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use lifeboat_core::store::{ObjectName, Put};
use lifeboat_core::{Error, Kind, Result};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, MultipartUpload, PutMode, PutMultipartOptions, PutOptions,
    PutPayload,
};
use tokio::task::JoinHandle;

use super::Shared;
use super::explain::Asked;
use super::lock;

/// The size of the first parts. Providers want at least 5 MiB.
const PART_BYTES: usize = 8 << 20;
/// So many parts of one object are under way.
const PARTS_AT_ONCE: usize = 3;
/// Providers take 10,000 parts. From here on each thousand is twice as large as the one before, so
/// that there is no end to an object before the provider's own.
const PARTS_OF_ONE_SIZE: usize = 3_000;
/// The largest part that providers take is 5 GiB; this is far enough for their largest object.
const PART_BYTES_MAX: usize = 1 << 30;
/// Under this name an object carries the number of its writer. Azure wants an identifier.
const NUMBER: &str = "lifeboatput";

/// The size of a part by its place.
fn part_bytes(index: usize) -> usize {
    let doublings = match index.checked_sub(PARTS_OF_ONE_SIZE) {
        Some(beyond) => (beyond / 1_000 + 1).min(7),
        None => 0,
    };
    (PART_BYTES << doublings).min(PART_BYTES_MAX)
}

/// Begins to write.
pub(super) fn open(shared: &Arc<Shared>, name: &ObjectName) -> Result<Box<dyn Put>> {
    let path = shared.path(name)?;
    let mut number = [0; 16];
    shared.env.random.fill(&mut number);
    let number = format!("{:032x}", u128::from_le_bytes(number));
    let (shared, name) = (Arc::clone(shared), name.clone());
    Ok(Box::new(ObjectPut { shared, name, path, number, filled: Vec::new(), upload: None }))
}

struct ObjectPut {
    shared: Arc<Shared>,
    name: ObjectName,
    path: Path,
    number: String,
    filled: Vec<u8>,
    upload: Option<Upload>,
}

/// An object of several parts under way.
struct Upload {
    parts: Box<dyn MultipartUpload>,
    sending: VecDeque<JoinHandle<object_store::Result<()>>>,
    sent: usize,
}

impl Upload {
    /// The number of the next part, from 0 on.
    fn next(&self) -> usize {
        self.sent + self.sending.len()
    }
}

impl ObjectPut {
    fn attributes(&self) -> Attributes {
        let mut attributes = Attributes::new();
        attributes.insert(Attribute::Metadata(NUMBER.into()), self.number.clone().into());
        if let Some(class) = &self.shared.storage_class {
            attributes.insert(Attribute::StorageClass, class.clone().into());
        }
        attributes
    }

    /// Sends what is filled as a part.
    fn send_part(&mut self) -> Result<()> {
        let filled = std::mem::take(&mut self.filled);
        if self.upload.is_none() {
            let options =
                PutMultipartOptions { attributes: self.attributes(), ..Default::default() };
            let begun = self.shared.store.put_multipart_opts(&self.path, options);
            let parts = self.shared.block_on(begun).map_err(|error| self.explain(error))?;
            self.upload = Some(Upload { parts, sending: VecDeque::new(), sent: 0 });
        }
        // Larger parts are fewer at once.
        let at_once = (PARTS_AT_ONCE * PART_BYTES / filled.len().max(1)).clamp(1, PARTS_AT_ONCE);
        self.wait_for_parts(at_once - 1)?;
        let Some(upload) = &mut self.upload else { return Ok(()) };
        let index = upload.next();
        let sending = upload.parts.put_part(PutPayload::from(Bytes::from(filled)));
        upload.sending.push_back(self.shared.runtime.spawn(sending));
        self.filled.reserve_exact(part_bytes(index + 1));
        Ok(())
    }

    /// Waits until no more than so many parts are under way.
    fn wait_for_parts(&mut self, at_most: usize) -> Result<()> {
        let Some(upload) = &mut self.upload else { return Ok(()) };
        while upload.sending.len() > at_most {
            let Some(sending) = upload.sending.pop_front() else { break };
            match self.shared.runtime.block_on(sending) {
                Ok(Ok(())) => upload.sent += 1,
                Ok(Err(error)) => {
                    return Err(self.shared.explain(Asked::Write, &self.name, error));
                }
                Err(error) => {
                    let message = "a thread that sends ended early";
                    return Err(Error::new(Kind::Failed, message).caused_by(error));
                }
            }
        }
        Ok(())
    }

    fn explain(&self, error: object_store::Error) -> Error {
        self.shared.explain(Asked::Write, &self.name, error)
    }

    /// Whether the object that is there now is the one that we sent; `None` where none is there, or
    /// that is not known.
    fn is_ours(&self) -> Option<bool> {
        let options = GetOptions { head: true, ..GetOptions::default() };
        let found = self.shared.block_on(self.shared.store.get_opts(&self.path, options)).ok()?;
        let number = found.attributes.get(&Attribute::Metadata(NUMBER.into()));
        Some(number.is_some_and(|number| number.as_ref() == self.number))
    }

    /// Makes it visible; the library's error says that it was not, or that nobody knows.
    fn publish(&mut self) -> Result<object_store::Result<()>> {
        // A marker may lie above it: then the server would take another one.
        if lock::of(&self.shared, &self.name).is_some()
            && lock::version(&self.shared, &self.name)?.is_some()
        {
            return Err(self.taken());
        }
        if self.upload.is_none() {
            let payload = PutPayload::from(Bytes::from(std::mem::take(&mut self.filled)));
            let (mode, attributes) = (PutMode::Create, self.attributes());
            let options = PutOptions { mode, attributes, ..Default::default() };
            let put = self.shared.store.put_opts(&self.path, payload, options);
            return Ok(self.shared.block_on(put).map(drop));
        }
        if !self.shared.completes_only_if_absent && self.shared.exists(&self.path, &self.name)? {
            return Err(self.taken());
        }
        let Some(upload) = &mut self.upload else { return Ok(Ok(())) };
        Ok(self.shared.block_on(upload.parts.complete()).map(drop))
    }

    fn taken(&self) -> Error {
        Error::new(
            Kind::Refused,
            format!("{} exists in {} and is never overwritten", self.name, self.shared.url),
        )
    }
}

impl Write for ObjectPut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part_bytes = part_bytes(self.upload.as_ref().map_or(0, Upload::next));
        if self.filled.len() >= part_bytes {
            self.send_part().map_err(io::Error::other)?;
        }
        let room = part_bytes.saturating_sub(self.filled.len());
        let count = room.min(bytes.len());
        self.filled.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Put for ObjectPut {
    fn commit(mut self: Box<Self>) -> Result<()> {
        if self.upload.is_some() {
            if !self.filled.is_empty() {
                self.send_part()?;
            }
            self.wait_for_parts(0)?;
        }
        let claim = super::claim::claim(&self.shared, &self.name, &self.number)?;
        let published = self.publish()?;
        drop(claim);
        let error = match published {
            Ok(()) => {
                self.upload = None;
                return lock::after_put(&self.shared, &self.name);
            }
            Err(error) => error,
        };
        // Sent, the answer lost, sent again, refused because it is there: it may well be ours.
        let there = self.is_ours();
        if there == Some(true) {
            self.upload = None;
            return lock::after_put(&self.shared, &self.name);
        }
        match error {
            object_store::Error::AlreadyExists { .. }
            | object_store::Error::Precondition { .. } => Err(self.taken()),
            // Not all of the library's errors say that this is why.
            _ if there == Some(false) => Err(self.taken()),
            error => Err(self.explain(error)),
        }
    }
}

impl Drop for ObjectPut {
    fn drop(&mut self) {
        let Some(mut upload) = self.upload.take() else { return };
        upload.sending.iter().for_each(JoinHandle::abort);
        // What cannot be taken back is left for a prune.
        let _ = self.shared.block_on(upload.parts.abort());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_reach_the_largest_object() {
        let whole: u64 = (0..10_000).map(|index| part_bytes(index) as u64).sum();
        assert!(whole > 1 << 40, "{whole}");
        assert_eq!(part_bytes(2_999), PART_BYTES);
        assert_eq!(part_bytes(3_000), 2 * PART_BYTES);
        assert_eq!(part_bytes(4_000), 4 * PART_BYTES);
    }
}
