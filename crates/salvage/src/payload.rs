//! A payload from its cell and the overflow pages behind it, as far as they hold together.

use crate::bytes::word;
use crate::page::{Cell, Page, has_empty_sector};
use crate::view::{Got, View};

/// The longest value that SQLite takes.
const BYTES_MAX: u64 = 1_000_000_000;

/// What became of reading a payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Its end is not there.
    pub(crate) is_broken: bool,
    /// One of its pages belongs to others too.
    pub(crate) is_shared: bool,
    /// A sector of one of its pages holds only zeros.
    pub(crate) is_empty: bool,
    /// Its last page says that it goes on.
    pub(crate) is_odd: bool,
}

/// Reads payloads; keeps the buffers.
pub(crate) struct Payloads<'v> {
    view: &'v View,
    page: Vec<u8>,
    bytes: Vec<u8>,
}

impl<'v> Payloads<'v> {
    pub(crate) fn new(view: &'v View) -> Self {
        Payloads { view, page: vec![0; view.page_size()], bytes: Vec::new() }
    }

    /// The payload of a cell. `visit` is told of each overflow page, and
    /// says whether others have it too.
    pub(crate) fn read<'a>(
        &'a mut self,
        page: &Page<'a>,
        cell: &Cell,
        visit: &mut dyn FnMut(u32) -> bool,
    ) -> (&'a [u8], Chain) {
        let local = &page.bytes()[cell.local.clone()];
        if cell.overflow == 0 && local.len() as u64 == cell.total {
            return (local, Chain::default());
        }
        let mut chain = Chain::default();
        self.bytes.clear();
        self.bytes.extend_from_slice(local);
        let usable = self.view.usable();
        // What is longer than the database, or than SQLite takes, is no length.
        let room = u64::from(self.view.page_count()) * usable as u64;
        let mut next = if cell.total > room.min(BYTES_MAX) { 0 } else { cell.overflow };
        let (mut seen, mut steps, mut patience) = (0, 0_u32, 1_u32);
        while (self.bytes.len() as u64) < cell.total {
            let is_there = next != 0 && next != seen && !self.view.is_special(next);
            if !is_there || self.view.read(next, &mut self.page) != Got::Whole {
                chain.is_broken = true;
                break;
            }
            // A chain that comes back to a page that it had is found by remembering one of them,
            // each time twice as long.
            steps += 1;
            if steps == patience {
                (seen, steps, patience) = (next, 0, patience.saturating_mul(2));
            }
            chain.is_shared |= visit(next);
            let left = cell.total - self.bytes.len() as u64;
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(usable - 4);
            let content = &self.page[4..4 + here];
            let is_last = left <= here as u64;
            let is_empty = content.iter().all(|&byte| byte == 0);
            next = word(&self.page, 0).unwrap_or(0);
            if is_empty && next == 0 && !is_last {
                chain.is_broken = true;
                break;
            }
            chain.is_empty |= (is_empty && next == 0) || has_empty_sector(&self.page[..4 + here]);
            chain.is_odd |= is_last && next != 0;
            self.bytes.extend_from_slice(content);
        }
        (&self.bytes, chain)
    }
}
