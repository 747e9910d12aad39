//! A page as a difference from its version before: a zstd frame with that version as its prefix,
//! or, where little is new, the runs of bytes that are.
//!
//! Of a page whose content came from another one, as when a page of a B-tree was split, that one's
//! version before is in the prefix as well. Measured on 1,000 messages a second into a chat with
//! random keys: a third of the bytes. It is done where all of a file is at hand, so that whoever
//! lays it can hold what such differences need.
//!
//! Measured on a chat of 200 MB after 1,000 rows more (1,511 pages): 734 kB, where the same pages
//! compressed alone take several megabytes; runs of changed bytes take 896 kB, groups of 32 pages
//! 661 kB, but then one page cannot be read without the others. Frames lack the four bytes of
//! their magic, which are always the same.

use std::ops::Deref;

use lifeboat_core::pipeline::BlockHash;
use lifeboat_core::{Error, Kind, Result};
use zstd_safe::{CCtx, CParameter, DCtx, get_error_name};

use super::DIFFERENCES_MAX;
use super::moves::Moves;
use super::pool::PageBuffer;
use super::runs;

const FRAME_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// How a dictionary with a head begins.
const DICTIONARY_MAGIC: [u8; 4] = [0x37, 0xa4, 0x30, 0xec];
const LEVEL: i32 = 3;
/// For a writer in a hurry: a third less time for two per cent more bytes.
const HURRIED_LEVEL: i32 = 1;
/// Bytes of the number of another page.
const NUMBER_BYTES: usize = 4;
/// Runs that take no more than one part in so many of a page are not compressed.
const RUNS_PART: usize = 32;
/// The same for a writer in a hurry: more of its pages had several rows each, and to compress such
/// a page takes ten times as long as to write down its runs.
const HURRIED_RUNS_PART: usize = 6;
/// Pages that are encoded together, where others are read when it is their turn.
pub(super) const GROUP_PAGES: usize = 128;

/// How a page is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The page itself.
    Plain,
    /// Compressed alone.
    Whole,
    /// A difference from the version before, which is so many differences (this one among them)
    /// upon a whole one.
    Difference(u8),
    /// The same from that and another page's version before.
    Joint(u8),
    /// The same from another page's version before alone.
    Moved(u8),
}

impl Form {
    const PLAIN: u8 = 255;
    const JOINT: u8 = DIFFERENCES_MAX;
    const MOVED: u8 = 2 * DIFFERENCES_MAX;

    /// The byte of an index.
    pub(crate) fn byte(self) -> u8 {
        match self {
            Form::Plain => Form::PLAIN,
            Form::Whole => 0,
            Form::Difference(depth) => depth,
            Form::Joint(depth) => Form::JOINT + depth,
            Form::Moved(depth) => Form::MOVED + depth,
        }
    }

    /// What that byte says.
    pub(crate) fn of_byte(byte: u8) -> Option<Self> {
        match byte {
            Form::PLAIN => Some(Form::Plain),
            0 => Some(Form::Whole),
            1..=Form::JOINT => Some(Form::Difference(byte)),
            byte if byte <= Form::MOVED => Some(Form::Joint(byte - Form::JOINT)),
            byte if byte <= Form::MOVED + DIFFERENCES_MAX => Some(Form::Moved(byte - Form::MOVED)),
            _ => None,
        }
    }

    /// Whether the page's own version before is needed.
    pub(crate) fn needs_own(self) -> bool {
        matches!(self, Form::Difference(_) | Form::Joint(_))
    }

    /// Whether another page's version before is.
    pub(crate) fn needs_other(self) -> bool {
        matches!(self, Form::Joint(_) | Form::Moved(_))
    }

    /// Which other page, of one that is stored so.
    pub(crate) fn other(self, stored: &[u8]) -> Result<Option<u32>> {
        if !self.needs_other() {
            return Ok(None);
        }
        let none = || Error::new(Kind::CheckFailed, "the number of another page is missing");
        let number = u32::from_le_bytes(*stored.first_chunk().ok_or_else(none)?);
        if number == 0 { Err(none()) } else { Ok(Some(number)) }
    }

    /// How many differences lie upon a whole version.
    pub(crate) fn depth(self) -> u8 {
        match self {
            Form::Plain | Form::Whole => 0,
            Form::Difference(depth) | Form::Joint(depth) | Form::Moved(depth) => depth,
        }
    }
}

/// A page's version before: its bytes, and how many differences they were made of.
pub(crate) type Before = Option<(Vec<u8>, u8)>;

/// The bytes of a page.
pub(crate) enum PageBytes<'a> {
    /// Of somebody who keeps them.
    Lent(&'a [u8]),
    Own(Vec<u8>),
    /// In a buffer that is used again.
    Pooled(PageBuffer),
}

impl Deref for PageBytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            PageBytes::Lent(bytes) => bytes,
            PageBytes::Own(bytes) => bytes,
            PageBytes::Pooled(bytes) => bytes,
        }
    }
}

/// A page on its way into a log.
pub(crate) struct Changed<'a> {
    /// Its number.
    pub(crate) page: u32,
    /// Its hash.
    pub(crate) hash: BlockHash,
    /// Its content.
    pub(crate) content: PageBytes<'a>,
    /// What it was before, where that could be read, and how many differences that was made of.
    pub(crate) before: Option<(PageBytes<'a>, u8)>,
}

impl Changed<'_> {
    /// Of what it was before, when a difference may lie upon it.
    pub(super) fn usable(&self) -> Option<(&[u8], u8)> {
        let before = self.before.as_ref().filter(|(_, depth)| *depth < DIFFERENCES_MAX);
        before.map(|(before, depth)| (&before[..], *depth))
    }

    /// As it is stored where few runs of it are new, which has been decoded again.
    fn runs(
        &self,
        runs_part: usize,
        runs: &mut Vec<u8>,
        decoder: &mut Decoder,
    ) -> Result<Option<Encoded>> {
        let Some((own, depth)) = self.usable() else { return Ok(None) };
        runs.clear();
        if !runs::encode(own, &self.content, self.content.len() / runs_part, runs) {
            return Ok(None);
        }
        let one = self.encoded(Form::Difference(depth + 1), runs.clone());
        require_back(decoder, &one, Befores { own: Some(own), other: None }, &self.content)?;
        Ok(Some(one))
    }

    fn encoded(&self, form: Form, stored: Vec<u8>) -> Encoded {
        Encoded { page: self.page, hash: self.hash, form, stored }
    }

    /// The same of versions that were read.
    pub(crate) fn read((page, hash): (u32, BlockHash), content: Vec<u8>, before: Before) -> Self {
        let before = before.map(|(before, depth)| (PageBytes::Own(before), depth));
        Changed { page, hash, content: PageBytes::Own(content), before }
    }

    /// The same of somebody who keeps it.
    fn lend(&self) -> Changed<'_> {
        let Changed { page, hash, content, before } = self;
        let before = before.as_ref().map(|(before, depth)| (PageBytes::Lent(before), *depth));
        Changed { page: *page, hash: *hash, content: PageBytes::Lent(content), before }
    }
}

/// A page as it is stored.
pub(crate) struct Encoded {
    pub(crate) page: u32,
    pub(crate) hash: BlockHash,
    pub(crate) form: Form,
    pub(crate) stored: Vec<u8>,
}

/// How pages are encoded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoding {
    level: i32,
    runs_part: usize,
    is_whole: bool,
}

impl Encoding {
    /// With care.
    pub(crate) const CAREFUL: Encoding =
        Encoding { level: LEVEL, runs_part: RUNS_PART, is_whole: false };
    /// In less time, for a writer in a hurry.
    pub(crate) const HURRIED: Encoding =
        Encoding { level: HURRIED_LEVEL, runs_part: HURRIED_RUNS_PART, is_whole: false };

    /// The pages are all that a file will have: they may be differences from each other's versions
    /// before, if they are few enough.
    pub(crate) fn of_file(self, pages: usize, page_bytes: usize) -> Self {
        let is_whole = pages.saturating_mul(page_bytes) <= super::OTHERS_BYTES_MAX;
        Encoding { is_whole, ..self }
    }

    /// Whether they must be given at once.
    pub(crate) fn is_whole(self) -> bool {
        self.is_whole
    }

    /// Encodes pages, and decodes each again to prove that it can be.
    pub(crate) fn encode(self, pages: &[Changed<'_>]) -> Result<Vec<Encoded>> {
        match self.is_whole {
            true => self.encode_file(pages.len(), &|place| Ok(pages[place].lend())),
            false => self.encode_alone(pages, &mut Decoder::new()),
        }
    }

    /// The same of all pages that a file will have: `read` reads the one at a place, at most twice,
    /// and those of which others were made.
    pub(crate) fn encode_file<'a>(
        self,
        count: usize,
        read: &dyn Fn(usize) -> Result<Changed<'a>>,
    ) -> Result<Vec<Encoded>> {
        let (mut encoded, mut decoder) = (Vec::with_capacity(count), Decoder::new());
        let (mut moves, mut runs) = (Moves::default(), Vec::new());
        for place in 0..count {
            let page = read(place)?;
            let few = page.runs(self.runs_part, &mut runs, &mut decoder)?;
            moves.note(place, &page, few.is_some());
            encoded.push(few.unwrap_or_else(|| page.encoded(Form::Plain, Vec::new())));
        }
        moves.encode(self.level, &mut encoded, &mut decoder, read)?;
        Ok(encoded)
    }

    /// Each of them alone, or as a difference from its own version before.
    fn encode_alone(self, pages: &[Changed<'_>], decoder: &mut Decoder) -> Result<Vec<Encoded>> {
        let mut coder = Coder::new(self.level)?;
        let mut runs = Vec::new();
        let mut encode = |page| match Changed::runs(page, self.runs_part, &mut runs, decoder)? {
            Some(few) => Ok(few),
            None => coder.encode(page, None, decoder),
        };
        pages.iter().map(&mut encode).collect()
    }
}

/// What is stored must be the page again: its hash is that of what is compared here.
fn require_back(
    decoder: &mut Decoder,
    one: &Encoded,
    befores: Befores<'_>,
    content: &[u8],
) -> Result<()> {
    if decoder.decode(one.form, &one.stored, befores, content.len())? == content {
        return Ok(());
    }
    let message = format!("page {} does not come back from its difference", one.page);
    Err(Error::new(Kind::Failed, message))
}

/// Makes frames. A prefix is lent to it, so it lives no longer than those.
pub(super) struct Coder<'a> {
    context: CCtx<'a>,
    frame: Vec<u8>,
}

impl<'a> Coder<'a> {
    pub(super) fn new(level: i32) -> Result<Self> {
        let mut context = CCtx::create();
        context.set_parameter(CParameter::CompressionLevel(level)).map_err(failed)?;
        context.set_parameter(CParameter::ContentSizeFlag(false)).map_err(failed)?;
        Ok(Coder { context, frame: Vec::new() })
    }

    /// Encodes a page, with another one of which it was made if there is one, and the prefix that
    /// both make. It is decoded again.
    pub(super) fn encode(
        &mut self,
        page: &'a Changed<'_>,
        other: Option<(&'a Changed<'_>, &'a [u8])>,
        decoder: &mut Decoder,
    ) -> Result<Encoded> {
        let own = page.usable();
        let befores = Befores {
            own: own.map(|(own, _)| own),
            other: other.and_then(|(other, _)| other.usable()).map(|(other, _)| other),
        };
        let depth_of = |before: Option<(&[u8], u8)>| before.map_or(0, |(_, depth)| depth);
        let (form, number, prefix) = match (own, other) {
            (own, Some((other, prefix))) => {
                let depth = depth_of(own).max(depth_of(other.usable())) + 1;
                let form = if own.is_some() { Form::Joint(depth) } else { Form::Moved(depth) };
                (form, Some(other.page), Some(prefix))
            }
            (Some((own, depth)), None) => (Form::Difference(depth + 1), None, Some(own)),
            (None, None) => (Form::Whole, None, None),
        };
        let mut stored = Vec::new();
        stored.extend(number.into_iter().flat_map(u32::to_le_bytes));
        stored.extend(self.frame(prefix, &page.content)?);
        let one = match stored.len() < page.content.len() {
            true => page.encoded(form, stored),
            false => page.encoded(Form::Plain, page.content.to_vec()),
        };
        require_back(decoder, &one, befores, &page.content)?;
        Ok(one)
    }

    /// A frame without its magic.
    fn frame(&mut self, prefix: Option<&'a [u8]>, content: &[u8]) -> Result<&[u8]> {
        self.frame.resize(zstd_safe::compress_bound(content.len()), 0);
        if let Some(prefix) = prefix {
            self.context.ref_prefix(prefix).map_err(failed)?;
        }
        let written = self.context.compress2(&mut self.frame[..], content).map_err(failed)?;
        Ok(&self.frame[FRAME_MAGIC.len()..written])
    }
}

fn failed(code: usize) -> Error {
    Error::new(Kind::Failed, "zstd failed").caused_by(get_error_name(code))
}

/// The versions before of which a page may be a difference.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Befores<'a> {
    /// Its own.
    pub(crate) own: Option<&'a [u8]>,
    /// That of the other page which it names.
    pub(crate) other: Option<&'a [u8]>,
}

/// Makes pages of what is stored of them.
pub(crate) struct Decoder {
    /// One for all pages: to make one costs more than a page.
    context: DCtx<'static>,
    frame: Vec<u8>,
    prefix: Vec<u8>,
    page: Vec<u8>,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Decoder { context: DCtx::create(), frame: Vec::new(), prefix: Vec::new(), page: Vec::new() }
    }

    /// The page that was made last.
    pub(crate) fn page(&self) -> &[u8] {
        &self.page
    }

    /// The page. `befores` are the versions that a difference needs. What comes out must be
    /// compared with the page's hash.
    pub(crate) fn decode(
        &mut self,
        form: Form,
        stored: &[u8],
        befores: Befores<'_>,
        page_bytes: usize,
    ) -> Result<&[u8]> {
        let damaged = |why: &str| Error::new(Kind::CheckFailed, why);
        self.page.resize(page_bytes, 0);
        if form == Form::Plain {
            return match stored.len() == page_bytes {
                true => {
                    self.page.copy_from_slice(stored);
                    Ok(&self.page)
                }
                false => Err(damaged("a page has another size than the others")),
            };
        }
        if let (Form::Difference(_), Some(&runs::MARK)) = (form, stored.first()) {
            let own = befores.own.ok_or_else(|| damaged("the version before it is missing"))?;
            return match runs::decode(own, stored, &mut self.page) {
                Some(()) => Ok(&self.page),
                None => Err(damaged("its runs do not fit the version before")),
            };
        }
        let number_bytes = if form.other(stored)?.is_some() { NUMBER_BYTES } else { 0 };
        self.frame.clear();
        self.frame.extend(FRAME_MAGIC);
        self.frame.extend(&stored[number_bytes..]);
        let missing = || damaged("the version before it is missing");
        let own = match form.needs_own() {
            true => Some(befores.own.ok_or_else(missing)?),
            false => None,
        };
        let other = match form.needs_other() {
            true => Some(befores.other.ok_or_else(missing)?),
            false => None,
        };
        let prefix = match (own, other) {
            (Some(own), Some(other)) => {
                self.prefix.clear();
                self.prefix.extend(own);
                self.prefix.extend(other);
                Some(&self.prefix[..])
            }
            (own, other) => own.or(other),
        };
        let written = match prefix {
            Some(prefix) => with_prefix(&mut self.context, &mut self.page, &self.frame, prefix),
            None => self.context.decompress(&mut self.page[..], &self.frame),
        };
        let written = written
            .map_err(|code| damaged("it cannot be decompressed").caused_by(get_error_name(code)))?;
        match written == page_bytes {
            true => Ok(&self.page),
            false => Err(damaged("a page is shorter than the others")),
        }
    }
}

/// Decompresses a frame whose content follows that of a prefix. A prefix is a dictionary without a
/// head of its own; one that begins as such a head would be taken for it, and is lent instead.
fn with_prefix(
    context: &mut DCtx<'static>,
    page: &mut [u8],
    frame: &[u8],
    before: &[u8],
) -> zstd_safe::SafeResult {
    if !before.starts_with(&DICTIONARY_MAGIC) {
        return context.decompress_using_dict(page, frame, before);
    }
    let mut lent = DCtx::create();
    lent.ref_prefix(before)?;
    lent.decompress(page, frame)
}

#[cfg(test)]
mod tests {
    use lifeboat_core::pipeline::block_hash;

    use super::*;
    use proptest::prelude::*;

    fn changed(before: Option<Vec<u8>>, depth: u8, content: Vec<u8>) -> Changed<'static> {
        let hash = block_hash(&content);
        Changed::read((7, hash), content, before.map(|before| (before, depth)))
    }

    fn encode(pages: &[Changed<'_>]) -> Result<Vec<Encoded>> {
        Encoding::CAREFUL.encode(pages)
    }

    fn own(before: &[u8]) -> Befores<'_> {
        Befores { own: Some(before), other: None }
    }

    proptest! {
        #[test]
        fn any_page_comes_back(
            mut before in proptest::collection::vec(any::<u8>(), 512),
            edits in proptest::collection::vec((0_usize..512, any::<u8>()), 0..64),
            depth in 0_u8..20,
            alone in any::<bool>(),
        ) {
            let mut content = before.clone();
            content.rotate_right(edits.len() % 9);
            for (at, byte) in edits {
                content[at] = byte;
            }
            before.truncate(512);
            let page = changed((!alone).then(|| before.clone()), depth, content.clone());
            let encoded = encode(&[page]).unwrap();
            let form = encoded[0].form;
            prop_assert!(form.depth() <= DIFFERENCES_MAX);
            prop_assert_eq!(Form::of_byte(form.byte()), Some(form));
            let mut decoder = Decoder::new();
            let back = decoder.decode(form, &encoded[0].stored, own(&before), 512).unwrap();
            prop_assert_eq!(back, &content[..]);
        }

        #[test]
        fn any_bytes_are_an_error_or_a_page(
            stored in proptest::collection::vec(any::<u8>(), 0..600),
            byte in any::<u8>(),
            before in any::<bool>(),
        ) {
            let Some(form) = Form::of_byte(byte) else { return Ok(()) };
            let old = vec![3; 512];
            let old = before.then_some(&old[..]);
            let mut decoder = Decoder::new();
            match decoder.decode(form, &stored, Befores { own: old, other: old }, 512) {
                Ok(page) => prop_assert_eq!(page.len(), 512),
                Err(error) => prop_assert_eq!(error.kind(), Kind::CheckFailed),
            }
        }
    }

    #[test]
    fn a_page_that_begins_as_a_dictionary_does_is_a_prefix_like_others() {
        let mut before: Vec<u8> = (0..4096_u32).map(|at| (at * at % 251) as u8).collect();
        before[..4].copy_from_slice(&DICTIONARY_MAGIC);
        let mut content = before.clone();
        content[700] ^= 9;
        let encoded = encode(&[changed(Some(before.clone()), 0, content.clone())]).unwrap();
        assert_eq!(encoded[0].form, Form::Difference(1));
        let mut decoder = Decoder::new();
        let (form, stored) = (encoded[0].form, &encoded[0].stored);
        assert_eq!(decoder.decode(form, stored, own(&before), 4096).unwrap(), &content[..]);
    }

    #[test]
    fn a_difference_is_small_and_ends_when_its_chain_is_long() {
        let before: Vec<u8> = (0..4096_u32).map(|at| (at * at % 251) as u8).collect();
        let mut content = before.clone();
        content[100..120].fill(9);
        let forms = [0, DIFFERENCES_MAX - 1, DIFFERENCES_MAX].map(|depth| {
            let page = changed(Some(before.clone()), depth, content.clone());
            encode(&[page]).unwrap().remove(0)
        });
        assert_eq!(forms[0].form, Form::Difference(1));
        assert!(forms[0].stored.len() < 60, "{}", forms[0].stored.len());
        assert_eq!(forms[1].form, Form::Difference(DIFFERENCES_MAX));
        assert_eq!(forms[2].form, Form::Whole);
    }
}
