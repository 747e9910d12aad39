//! The pages of a damaged database, read at random and never written: the file, what lies over it,
//! and what is not there.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::copy_file_range;

use crate::DonatedPage;
use crate::bytes::word;
use crate::overlay::Overlay;
use crate::page::SECTOR_BYTES;
use crate::shape::{MAGIC, Shape, read_up_to};
use crate::stand_in::StandIn;

/// The byte at which the locks of a database begin; its page has no content.
const LOCK_BYTE: u64 = 0x4000_0000;

/// How much of a page could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    Whole,
    /// Some of it; the rest are zeros.
    Part,
    Nothing,
}

/// One way to see the database.
pub(crate) struct View {
    file: File,
    length: u64,
    /// Where it begins, and how large its pages are.
    pub(crate) shape: Shape,
    overlay: Option<Overlay>,
    stand_in: Option<Box<StandIn>>,
    unreadable: AtomicU64,
}

impl View {
    pub(crate) fn new(file: File, length: u64, shape: Shape) -> Self {
        let unreadable = AtomicU64::new(0);
        View { file, length, shape, overlay: None, stand_in: None, unreadable }
    }

    /// The same file, with nothing over it.
    pub(crate) fn again(&self) -> std::io::Result<Self> {
        Ok(View::new(self.file.try_clone()?, self.length, self.shape.clone()))
    }

    /// Lets pages of a donor stand in, whose shape the database has then, too.
    pub(crate) fn stand_in(&mut self, stand_in: StandIn) {
        self.shape = Shape { base: self.shape.base, ..stand_in.shape().clone() };
        self.stand_in = Some(Box::new(stand_in));
    }

    /// The pages that stand in.
    pub(crate) fn donated(&self) -> &[DonatedPage] {
        self.stand_in.as_ref().map_or(&[], |stand_in| stand_in.pages())
    }

    /// Lays pages over the file, or takes them away; gives back what lay there.
    pub(crate) fn lay(&mut self, overlay: Option<Overlay>) -> Option<Overlay> {
        std::mem::replace(&mut self.overlay, overlay)
    }

    /// Bytes of a page.
    pub(crate) fn page_size(&self) -> usize {
        self.shape.page_size
    }

    /// Bytes of a page that are SQLite's.
    pub(crate) fn usable(&self) -> usize {
        self.shape.page_size - self.shape.reserved
    }

    /// Pages of the file, the last of which may be cut.
    pub(crate) fn file_pages(&self) -> u32 {
        let pages = (self.length - self.shape.base).div_ceil(self.shape.page_size as u64);
        u32::try_from(pages).unwrap_or(u32::MAX - 1)
    }

    /// Pages that may be read.
    pub(crate) fn page_count(&self) -> u32 {
        let donor_pages = self.stand_in.as_ref().map_or(0, |stand_in| stand_in.page_count);
        let pages = self.file_pages().max(donor_pages);
        match &self.overlay {
            Some(overlay) => overlay.page_count.min(pages + overlay.taken as u32),
            None => pages,
        }
    }

    /// Pages that the database says it has; `None` where nothing reliable says it.
    pub(crate) fn claimed(&self) -> Option<u32> {
        match &self.overlay {
            Some(overlay) => Some(overlay.page_count),
            None => self.shape.page_count(),
        }
    }

    /// Pages that the database has, where the file has them all. A header may claim any number.
    pub(crate) fn whole_count(&self) -> Option<u32> {
        let pages = self.claimed().unwrap_or(self.page_count());
        (pages <= self.page_count()).then_some(pages)
    }

    /// How many pages the disk did not give.
    pub(crate) fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// Reads a page into a buffer of its size.
    pub(crate) fn read(&self, page: u32, buffer: &mut [u8]) -> Got {
        self.get(page, buffer, &self.unreadable)
    }

    /// The same; what the disk does not give is not counted.
    pub(crate) fn glance(&self, page: u32, buffer: &mut [u8]) -> Got {
        self.get(page, buffer, &AtomicU64::new(0))
    }

    fn get(&self, page: u32, buffer: &mut [u8], unreadable: &AtomicU64) -> Got {
        if page == 0 {
            return Got::Nothing;
        }
        if self.stand_in.as_ref().is_some_and(|stand_in| stand_in.read(page, buffer)) {
            return Got::Whole;
        }
        if let Some(overlay) = &self.overlay {
            if page > overlay.page_count {
                return Got::Nothing;
            }
            if overlay.read(page, buffer) {
                return Got::Whole;
            }
        }
        let at = self.shape.base + u64::from(page - 1) * self.page_size() as u64;
        if at >= self.length {
            return Got::Nothing;
        }
        if self.file.read_exact_at(buffer, at).is_ok() {
            return Got::Whole;
        }
        if at + buffer.len() as u64 <= self.length {
            unreadable.fetch_add(1, Ordering::Relaxed);
        }
        self.read_sectors(buffer, at)
    }

    /// Copies whole pages by the kernel, where nothing lies over them; `false` where that cannot
    /// be, and they have to be read.
    pub(crate) fn copy_to(&self, first: u32, bytes: usize, to: &File, at: u64) -> bool {
        let mut from = self.shape.base + u64::from(first - 1) * self.page_size() as u64;
        let is_covered = self.overlay.is_some() || !self.donated().is_empty();
        if is_covered || from + bytes as u64 > self.length {
            return false;
        }
        let (mut left, mut to_at) = (bytes, at);
        while left > 0 {
            let copied = copy_file_range(&self.file, Some(&mut from), to, Some(&mut to_at), left);
            match copied {
                Ok(count) if count > 0 => left -= count,
                _ => return false,
            }
        }
        true
    }

    /// Reads what can be read, sector by sector: the file may end here, or the disk be damaged.
    fn read_sectors(&self, buffer: &mut [u8], at: u64) -> Got {
        buffer.fill(0);
        let (mut any, mut begin) = (false, at);
        for sector in buffer.chunks_mut(SECTOR_BYTES) {
            any |= read_up_to(&self.file, sector, begin) > 0;
            begin += SECTOR_BYTES as u64;
        }
        if any { Got::Part } else { Got::Nothing }
    }

    /// Whether a page holds what is no page of a tree by its number: locks, or the map of parents
    /// that auto_vacuum keeps.
    pub(crate) fn is_special(&self, page: u32) -> bool {
        let lock_page = LOCK_BYTE / self.page_size() as u64 + 1;
        if u64::from(page) == lock_page {
            return true;
        }
        let per_map = (self.usable() / 5) as u32 + 1;
        self.shape.number(52) != 0 && page >= 2 && (page - 2).is_multiple_of(per_map)
    }

    /// A number of the header, as what lies over the file has it. `None` where there is no header.
    pub(crate) fn number(&self, at: usize) -> Option<u32> {
        let mut page = vec![0; self.page_size()];
        let got = self.read(1, &mut page);
        if got == Got::Nothing || !page.starts_with(MAGIC) {
            return None;
        }
        word(&page, at)
    }
}
