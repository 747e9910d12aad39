//! Buffers of pages that are used again.
//!
//! Of a writer in a hurry tens of thousands of pages a second come and go, made by one thread and
//! dropped by another. The system's allocator keeps such threads waiting for each other, and asks
//! the kernel for memory page by page.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where buffers of pages are taken from, and come back to.
#[derive(Clone)]
pub(super) struct Pool(Arc<Free>);

struct Free {
    page_bytes: usize,
    /// So many are kept.
    count_max: usize,
    buffers: Mutex<Vec<Box<[u8]>>>,
}

/// A page in a buffer of a pool.
pub(crate) struct PageBuffer {
    bytes: Box<[u8]>,
    pool: Pool,
}

impl Pool {
    /// An empty one, that keeps so many bytes at most.
    pub(super) fn new(page_bytes: usize, bytes_max: usize) -> Self {
        let count_max = bytes_max / page_bytes;
        Pool(Arc::new(Free { page_bytes, count_max, buffers: Mutex::default() }))
    }

    /// A page that is whatever it was.
    pub(super) fn take(&self) -> PageBuffer {
        let bytes = self.lock().pop();
        let bytes = bytes.unwrap_or_else(|| vec![0; self.0.page_bytes].into());
        PageBuffer { bytes, pool: self.clone() }
    }

    /// A copy of a page.
    pub(super) fn copy(&self, content: &[u8]) -> PageBuffer {
        let mut page = self.take();
        page.copy_from_slice(content);
        page
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Box<[u8]>>> {
        self.0.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PageBuffer {
    fn drop(&mut self) {
        let mut buffers = self.pool.lock();
        if buffers.len() < self.pool.0.count_max {
            buffers.push(std::mem::take(&mut self.bytes));
        }
    }
}

impl Deref for PageBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for PageBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_as_many_as_are_kept() {
        let pool = Pool::new(512, 3 * 512 + 100);
        let count = || pool.lock().len();
        let pages: Vec<PageBuffer> = (0..5).map(|page| pool.copy(&[page; 512])).collect();
        assert!(pages.iter().zip(0..).all(|(page, number)| page[..] == [number; 512]));
        assert_eq!(count(), 0);
        drop(pages);
        assert_eq!(count(), 3);
        let page = pool.take();
        assert_eq!((page.len(), count()), (512, 2));
    }
}
