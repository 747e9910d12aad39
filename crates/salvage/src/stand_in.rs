//! Pages of a donor that stand in for those that were harmed, where it is proved that they are what
//! the database holds. There are two proofs.
//!
//! In WAL mode it is known with which frame of the `-wal` the donor ended, and that frame is in
//! the `-wal` beside the database, which is unbroken up to its end: then pages of later frames have
//! changed since, which are read there, and no other page has.
//!
//! With a rollback journal every transaction counts in the header. Where that is the donor's to the
//! last byte, none was made since. But another database may have counted as far: so each page that
//! differs must itself show that it is damaged, or nothing is proved.

use std::collections::BTreeSet;
use std::path::Path;

use lifeboat_core::Result;
use lifeboat_core::env::Env;

use crate::bytes::word;
use crate::leaf::{Leaf, judge};
use crate::look::{Look, Opened, side_files};
use crate::marks::Marks;
use crate::page::{Kind, Page, has_empty_sector};
use crate::payload::Payloads;
use crate::shape::Shape;
use crate::target::with_ending;
use crate::view::{Got, View};
use crate::walk::Stop;
use crate::{DonatedPage, Harm, WalPlace, wal};

/// The header, which counts transactions.
const HEADER_BYTES: usize = 100;
/// Bytes of an entry in the map of parents that auto_vacuum keeps.
const PARENT_BYTES: usize = 5;

/// The pages that are taken from a donor.
pub(crate) struct StandIn {
    donor: View,
    pages: Vec<DonatedPage>,
    /// Pages that the donor has.
    pub(crate) page_count: u32,
}

impl StandIn {
    /// What is taken, in the order of the pages.
    pub(crate) fn pages(&self) -> &[DonatedPage] {
        &self.pages
    }

    /// How the donor is laid out.
    pub(crate) fn shape(&self) -> &Shape {
        &self.donor.shape
    }

    /// Fills the buffer, if that page is taken from the donor.
    pub(crate) fn read(&self, page: u32, buffer: &mut [u8]) -> bool {
        let is_taken = self.pages.binary_search_by_key(&page, |donated| donated.page).is_ok();
        is_taken && self.donor.read(page, buffer) == Got::Whole
    }
}

/// Lets pages of the donor stand in, or says why none can.
pub(crate) fn lay(
    env: &Env,
    database: &Path,
    opened: &mut Opened,
    donor: &Look,
    place: Option<&WalPlace>,
) -> Result<()> {
    let proved = match prove(env, database, opened, donor, place) {
        Ok(Ok(pages)) => donor.view.again().map(|view| (view, pages)).map_err(|e| e.to_string()),
        Ok(Err(why)) => Err(why),
        Err(error) => return Err(error),
    };
    opened.view.lay(None);
    match proved {
        Err(why) => opened.notes.push(format!("no page of the donor stands in: {why}")),
        Ok((view, pages)) => {
            let how = match pages.len() {
                0 => "no page differs from those of the donor that have not changed since",
                _ => "pages stand in that the donor has, and that were proved to be unchanged",
            };
            opened.notes.push(how.to_owned());
            let page_count = donor.view.whole_count().unwrap_or(0);
            opened.view.stand_in(StandIn { donor: view, pages, page_count });
        }
    }
    Ok(())
}

/// The pages that were harmed, where the donor's are proved to be right; else why they are not.
fn prove(
    env: &Env,
    database: &Path,
    opened: &mut Opened,
    donor: &Look,
    place: Option<&WalPlace>,
) -> Result<std::result::Result<Vec<DonatedPage>, String>> {
    let view = &opened.view;
    if (view.page_size(), view.usable()) != (donor.view.page_size(), donor.view.usable()) {
        return Ok(Err("its pages have another size".to_owned()));
    }
    let is_sound = !donor.sight.survey.is_damaged() && donor.view.unreadable() == 0;
    let Some(pages) = donor.view.whole_count().filter(|_| is_sound) else {
        return Ok(Err("the donor is damaged itself".to_owned()));
    };
    match donor.view.number(18).is_some_and(|modes| modes >> 16 == 0x0202) {
        true => by_wal(env, database, view, (donor, pages), place),
        false => by_count(env, database, &mut opened.view, (donor, pages)),
    }
}

fn by_wal(
    env: &Env,
    database: &Path,
    view: &View,
    (donor, pages): (&Look, u32),
    place: Option<&WalPlace>,
) -> Result<std::result::Result<Vec<DonatedPage>, String>> {
    let Some(place) = place else {
        let why = "at which frame of the -wal it was made is known of backups in a repository, \
                   where a writer was connected: name it as SOURCE@latest";
        return Ok(Err(why.to_owned()));
    };
    let path = with_ending(database, "-wal");
    let changed = match std::fs::File::open(&path) {
        Ok(file) => wal::changed_since(&file, view.page_size(), place),
        Err(_) => Err("lies beside the database no more".to_owned()),
    };
    let changed = match changed {
        Ok(changed) => changed,
        Err(why) => return Ok(Err(format!("the -wal {why}"))),
    };
    let harmed =
        differing(env, view, donor, changed.page_count.unwrap_or(pages).min(pages), &|page| {
            !changed.logged.contains(&page)
        })?;
    Ok(Ok(harmed.into_iter().map(|(page, harm)| DonatedPage { page, harm }).collect()))
}

fn by_count(
    env: &Env,
    database: &Path,
    view: &mut View,
    (donor, pages): (&Look, u32),
) -> Result<std::result::Result<Vec<DonatedPage>, String>> {
    for side in side_files(database, view.page_size())? {
        match side.overlay {
            Ok(overlay) if overlay.torn.is_none() => drop(view.lay(Some(overlay))),
            Ok(_) => return Ok(Err("a side file is torn".to_owned())),
            // It is of no transaction that was cut off.
            Err(_) => {}
        }
    }
    let read = |view: &View| {
        let mut page = vec![0; view.page_size()];
        let is_whole = view.glance(1, &mut page) == Got::Whole;
        page.truncate(HEADER_BYTES);
        is_whole.then_some(page)
    };
    let (own, other) = (read(view), read(&donor.view));
    if own.is_none() || own != other {
        let count = |page: &Option<Vec<u8>>| page.as_ref().and_then(|page| word(page, 24));
        let made = count(&own).zip(count(&other)).map(|(own, other)| own.wrapping_sub(other));
        return Ok(Err(match made.filter(|&made| made > 0 && made < u32::MAX / 2) {
            Some(made) => {
                format!("{made} transactions were made since, of which pages nothing says")
            }
            None => "its header is not the donor's: nothing says what was changed since".into(),
        }));
    }
    let harmed = differing(env, view, donor, pages, &|_| true)?;
    let trunks = trunks(&donor.view);
    let mut judge = Judge { donor, trunks: &trunks, payloads: Payloads::new(view), view, pages };
    for (page, harm) in &harmed {
        if *harm != Harm::Unreadable && judge.looks_sound(*page) {
            return Ok(Err(format!(
                "page {page} is another one than the donor's, and shows no damage: whether it \
                 is, or the donor is of another state, nothing says"
            )));
        }
    }
    Ok(Ok(harmed.into_iter().map(|(page, harm)| DonatedPage { page, harm }).collect()))
}

/// The pages of which the database has not the donor's bytes, among those that are asked for.
/// Those that are free in the donor hold nothing.
fn differing(
    env: &Env,
    view: &View,
    donor: &Look,
    pages: u32,
    is_asked: &dyn Fn(u32) -> bool,
) -> Result<Vec<(u32, Harm)>> {
    let (mut own, mut other) = (vec![0; view.page_size()], vec![0; view.page_size()]);
    let trunks = trunks(&donor.view);
    let marks = &donor.sight.survey.marks;
    let is_empty = |page| marks.is_free(page) && !trunks.contains(&page);
    let mut found = Vec::new();
    for page in (1..=pages).filter(|&page| is_asked(page) && !is_empty(page)) {
        if page.is_multiple_of(256) {
            env.proceed()?;
        }
        if donor.view.read(page, &mut other) != Got::Whole {
            continue;
        }
        match view.glance(page, &mut own) {
            Got::Whole if own == other => {}
            Got::Whole if own.iter().all(|&byte| byte == 0) => found.push((page, Harm::Zeros)),
            Got::Whole => found.push((page, Harm::Changed)),
            _ => found.push((page, Harm::Unreadable)),
        }
    }
    Ok(found)
}

/// The pages that hold the list of free pages.
fn trunks(view: &View) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut page = vec![0; view.page_size()];
    let mut next = view.number(32);
    while let Some(number) = next.filter(|&number| number != 0 && found.insert(number)) {
        next = (view.read(number, &mut page) == Got::Whole).then(|| word(&page, 0)).flatten();
    }
    found
}

/// Judges pages that differ by what they are in the donor.
struct Judge<'a> {
    donor: &'a Look,
    trunks: &'a BTreeSet<u32>,
    payloads: Payloads<'a>,
    view: &'a View,
    pages: u32,
}

impl Judge<'_> {
    /// Whether a page could be one of that kind as SQLite wrote it.
    fn looks_sound(&mut self, number: u32) -> bool {
        let mut page = vec![0; self.view.page_size()];
        self.view.glance(number, &mut page);
        let usable = self.view.usable();
        let is_page = |page: Option<u32>| page.is_some_and(|page| page <= self.pages);
        let marks: &Marks = &self.donor.sight.survey.marks;
        if self.trunks.contains(&number) {
            return is_page(word(&page, 0))
                && word(&page, 4).is_some_and(|leaves| leaves as usize <= usable / 4 - 2);
        }
        if marks.is_tree(number) {
            return self.is_sound_tree(number, &page);
        }
        if marks.is_claimed(number) {
            return is_page(word(&page, 0)) && !has_empty_sector(&page[..usable]);
        }
        // A map of parents: each entry begins with a kind.
        let kinds = page[..usable].chunks_exact(PARENT_BYTES).map(|entry| entry[0]);
        kinds.into_iter().all(|kind| kind <= 5) && page[0] > 0
    }

    fn is_sound_tree(&mut self, number: u32, bytes: &[u8]) -> bool {
        let mut other = vec![0; self.view.page_size()];
        self.donor.view.read(number, &mut other);
        let usable = self.view.usable();
        let kind = Page::parse(number, &other, usable).map(|page| page.kind);
        let page = Page::parse(number, bytes, usable).filter(|page| Some(page.kind) == kind);
        let Some(page) = page.filter(|page| page.is_exact() && !page.has_hole()) else {
            return false;
        };
        let is_page = |child: u32| child > 0 && child <= self.pages;
        let children = (0..page.cells).map(|index| page.cell(index));
        if !page.kind.is_leaf() {
            let mut children = children.map(|cell| cell.map(|cell| cell.child));
            return children.all(|child| child.is_some_and(is_page))
                && page.right_child().is_some_and(is_page);
        }
        let got = Got::Whole;
        let stop = Stop { number, page: Some(page), got, above: None, up_to: None };
        let leaf = Leaf::looked_at(&stop, page, self.donor.sight.encoding);
        let judged = judge(&leaf, &mut self.payloads, &mut |_| false, &mut |_| Ok(()));
        debug_assert!(page.kind == Kind::TableLeaf || page.kind == Kind::IndexLeaf);
        judged.is_ok_and(|judged| judged.faults == 0)
    }
}
