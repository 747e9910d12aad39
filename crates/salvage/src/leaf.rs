//! The rows of one page, each with what speaks against it.

use lifeboat_core::Result;

use crate::layout::Layout;
use crate::page::{Kind, Page};
use crate::payload::{Chain, Payloads};
use crate::reason::Reason;
use crate::record::{self, Form, Value};
use crate::text::Encoding;
use crate::view::Got;
use crate::walk::Stop;

/// A page with rows or entries, and what they must be.
pub(crate) struct Leaf<'a> {
    pub(crate) stop: &'a Stop<'a>,
    pub(crate) page: Page<'a>,
    /// The columns that they have, where that is known.
    pub(crate) layout: Option<&'a Layout>,
    pub(crate) encoding: Encoding,
    /// Why none of them can be certain, before they are looked at.
    pub(crate) doubt: Reason,
    /// The same for those whose values go on on other pages, which have no structure of their own
    /// that could prove them.
    pub(crate) doubt_long: Reason,
}

impl<'a> Leaf<'a> {
    /// One that is only looked at, for the shape of its rows: they need not be judged.
    pub(crate) fn looked_at(stop: &'a Stop<'a>, page: Page<'a>, encoding: Encoding) -> Self {
        let sound = Reason::Sound;
        Leaf { stop, page, layout: None, encoding, doubt: sound, doubt_long: sound }
    }
}

/// What a page gave.
pub(crate) enum Item<'a> {
    Row(Row<'a>),
    /// A cell that gave nothing.
    Lost {
        page: u32,
        rowid: Option<i64>,
        reason: Reason,
    },
}

/// One row, or index entry.
pub(crate) struct Row<'a> {
    pub(crate) page: u32,
    pub(crate) rowid: i64,
    pub(crate) values: &'a [Value<'a>],
    pub(crate) reason: Reason,
}

/// What was found of a page.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Judged {
    /// Rows against which nothing speaks.
    pub(crate) sound: u64,
    /// Everything that speaks against the page or its cells.
    pub(crate) faults: u64,
    /// Whether single bytes of it seem to have changed: sound cells stand beside damaged ones.
    pub(crate) is_changed: bool,
}

/// Reads a page. `shared` is asked of each overflow page whether others have it too.
pub(crate) fn judge(
    leaf: &Leaf<'_>,
    payloads: &mut Payloads<'_>,
    shared: &mut dyn FnMut(u32) -> bool,
    sink: &mut dyn FnMut(Item<'_>) -> Result<()>,
) -> Result<Judged> {
    let (page, number) = (&leaf.page, leaf.stop.number);
    let mut judged = Judged::default();
    let of_page = of_page(leaf);
    judged.faults += u64::from(of_page != Reason::Sound);
    let mut broken = 0;
    for index in 0..page.cells {
        let cell = page.cell(index);
        let rowid = cell.as_ref().map(|cell| cell.rowid).filter(|_| page.kind == Kind::TableLeaf);
        let read = cell.map(|cell| {
            let (payload, chain) = payloads.read(page, &cell, shared);
            let mut values = Vec::new();
            let form = record::read(payload, cell.total, &mut values);
            (cell, values, form, chain)
        });
        let Some((cell, values, form, chain)) = read.filter(|read| read.2 != Form::Broken) else {
            broken += 1;
            let reason = Reason::RecordBroken;
            sink(Item::Lost { page: number, rowid, reason })?;
            continue;
        };
        let own = of_row(leaf, &values, form, chain);
        judged.faults += u64::from(own != Reason::Sound);
        judged.is_changed |= matches!(own, Reason::InvalidText | Reason::WrongType);
        let doubt_long = if cell.overflow == 0 { Reason::Sound } else { leaf.doubt_long };
        let reasons = [own, of_page, leaf.doubt, doubt_long];
        let reason = reasons.into_iter().find(|&reason| reason != Reason::Sound);
        let reason = reason.unwrap_or(Reason::Sound);
        judged.sound += u64::from(reason == Reason::Sound);
        sink(Item::Row(Row { page: number, rowid: cell.rowid, values: &values, reason }))?;
    }
    judged.faults += broken;
    judged.is_changed |= broken > 0 && broken < page.cells as u64;
    judged.is_changed |= matches!(of_page, Reason::PageDoesNotAddUp | Reason::KeysOutOfOrder);
    // Where a sector is gone, not single bytes changed.
    judged.is_changed &= leaf.stop.got == Got::Whole && !page.has_hole();
    Ok(judged)
}

/// What speaks against all rows of a page.
fn of_page(leaf: &Leaf<'_>) -> Reason {
    let page = &leaf.page;
    if leaf.stop.got == Got::Part {
        return Reason::PartOfPage;
    }
    // An application may store zeros, too.
    if leaf.doubt_long != Reason::Sound && page.has_hole() {
        return Reason::Hole;
    }
    if !page.is_exact() {
        return Reason::PageDoesNotAddUp;
    }
    if page.kind != Kind::TableLeaf {
        return Reason::Sound;
    }
    let mut rowids = (0..page.cells).filter_map(|index| page.cell(index)).map(|cell| cell.rowid);
    let first = rowids.next();
    let mut last = first;
    if !rowids.all(|rowid| last.replace(rowid).is_none_or(|last| last < rowid)) {
        return Reason::KeysOutOfOrder;
    }
    let (above, up_to) = (leaf.stop.above, leaf.stop.up_to);
    let is_below = first.zip(above).is_some_and(|(first, above)| first <= above);
    let is_beyond = last.zip(up_to).is_some_and(|(last, up_to)| last > up_to);
    if is_below || is_beyond { Reason::OutOfBounds } else { Reason::Sound }
}

fn of_row(leaf: &Leaf<'_>, values: &[Value<'_>], form: Form, chain: Chain) -> Reason {
    let is_invalid = |value: &Value<'_>| match value {
        Value::Text(bytes) => !leaf.encoding.is_valid(bytes),
        _ => false,
    };
    match () {
        () if form != Form::Whole || chain.is_broken => Reason::ChainBroken,
        () if chain.is_shared => Reason::SharedOverflow,
        () if chain.is_empty && leaf.doubt_long != Reason::Sound => Reason::EmptyOverflow,
        () if chain.is_odd => Reason::OddChain,
        () if values.iter().any(is_invalid) => Reason::InvalidText,
        () if leaf.layout.is_some_and(|layout| !layout.fits(values)) => Reason::WrongType,
        () => Reason::Sound,
    }
}
