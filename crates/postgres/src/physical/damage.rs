//! Pages that are not what the server wrote: told apart from those that were only read while the
//! server wrote them, and named.
//!
//! The server checks pages too while it sends them. One with a wrong checksum it reads again, as
//! it may have been half written; only the server can. So it judges these, and tells at the end
//! whether any remained. It names the first five of each file; we name all. A page whose header is
//! zeros and whose rest is not, it passes over as new: that one we judge alone.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::page::{PageVerdict, RelationFile, judge};

/// So many pages are named; all are counted.
const NAMED_MAX: usize = 10_000;
/// So many lines say what is damaged.
const LINES_MAX: usize = 20;
/// So many blocks are named in one line.
const BLOCKS_MAX: usize = 8;
const UPPER_OFFSET: usize = 14;

/// A page: a file relative to the data directory, and the block in it.
pub(crate) type PageName = (String, u32);

/// What was found among the pages that went by.
#[derive(Clone, Debug, Default)]
pub(super) struct Suspects {
    began_at: u64,
    /// Pages that were looked at.
    pub(super) pages: u64,
    /// Newer than the beginning, and half written: the log holds them whole.
    pub(super) newer: u64,
    /// With a wrong checksum. The server reads these again.
    wrong: BTreeSet<PageName>,
    wrong_count: u64,
    /// With a header of zeros, and more behind it. The server takes these for new.
    headless: BTreeSet<PageName>,
    headless_count: u64,
}

/// What the pages of a backup are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Judgement {
    /// Damaged pages, as far as they are named.
    pub(super) damaged: BTreeSet<PageName>,
    /// How many are damaged, at least.
    pub(super) damaged_count: u64,
    /// Pages that were read while they were written.
    pub(super) torn: BTreeSet<PageName>,
}

impl Suspects {
    pub(super) fn new(began_at: u64) -> Self {
        Suspects { began_at, ..Suspects::default() }
    }

    /// Judges a page and counts it.
    pub(super) fn judge(&mut self, path: &str, file: RelationFile, block: u32, page: &[u8]) {
        self.pages += 1;
        let number = file.first_block().wrapping_add(block);
        let (set, count) = match judge(page, number, Some(self.began_at)) {
            PageVerdict::Sound | PageVerdict::New => return,
            PageVerdict::Newer => {
                self.newer += 1;
                return;
            }
            PageVerdict::Damaged { .. } if page[UPPER_OFFSET..UPPER_OFFSET + 2] == [0, 0] => {
                (&mut self.headless, &mut self.headless_count)
            }
            PageVerdict::Damaged { .. } => (&mut self.wrong, &mut self.wrong_count),
        };
        *count += 1;
        if set.len() < NAMED_MAX {
            set.insert((path.to_owned(), block));
        }
    }

    /// With what the server found: whether any page remained wrong, and its remarks.
    pub(super) fn judged_by_server(&self, failed: bool, remarks: &[String]) -> Judgement {
        let mut judgement = Judgement {
            damaged: self.headless.clone(),
            damaged_count: self.headless_count,
            torn: BTreeSet::new(),
        };
        if !failed {
            judgement.torn.clone_from(&self.wrong);
            return judgement;
        }
        judgement.damaged.extend(self.wrong.iter().cloned());
        judgement.damaged.extend(remarks.iter().filter_map(|remark| of_remark(remark)));
        let named = judgement.damaged.len() as u64;
        judgement.damaged_count = (self.headless_count + self.wrong_count).max(named);
        judgement
    }

    /// Without the server, long afterwards: what is not known already is damage.
    pub(super) fn unknown_to(&self, known: &BTreeSet<PageName>) -> BTreeSet<PageName> {
        self.wrong.union(&self.headless).filter(|page| !known.contains(*page)).cloned().collect()
    }
}

/// A remark of the server that names a page, in whatever language: `checksum verification failed in
/// file "./base/5/16384", block 3: calculated 1A2B but expected 3C4D`.
fn of_remark(remark: &str) -> Option<PageName> {
    let path = remark.split(['"', '«', '»', '„', '“', '”']).nth(1)?;
    let path = path.trim().strip_prefix("./").unwrap_or(path.trim());
    RelationFile::of_path(path)?;
    let behind = remark.split(path).nth(1)?;
    let digits = behind.split(|letter: char| !letter.is_ascii_digit()).find(|run| !run.is_empty());
    Some((path.to_owned(), digits?.parse().ok()?))
}

/// The pages for people: a line for each file, with the relation where its name is known.
pub(crate) fn lines(pages: &BTreeSet<PageName>, names: &BTreeMap<String, String>) -> Vec<String> {
    let mut files: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for (path, block) in pages {
        files.entry(path).or_default().push(*block);
    }
    let more_files = files.len().saturating_sub(LINES_MAX);
    let line = |(path, blocks): (&str, Vec<u32>)| {
        let shown: Vec<String> = blocks.iter().take(BLOCKS_MAX).map(u32::to_string).collect();
        let more = match blocks.len().saturating_sub(BLOCKS_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let name = names.get(path).map(|name| format!(" ({name})")).unwrap_or_default();
        format!("{path}{name}: block {}{more}", shown.join(", "))
    };
    let mut lines: Vec<String> = files.into_iter().take(LINES_MAX).map(line).collect();
    if more_files > 0 {
        lines.push(format!("and blocks in {more_files} more files"));
    }
    lines
}

/// As a manifest keeps them.
pub(super) fn to_json(pages: &BTreeSet<PageName>) -> Value {
    let one = |(path, block): &PageName| json!({ "file": path, "block": block });
    pages.iter().map(one).collect()
}

/// As a manifest kept them.
pub(super) fn of_json(pages: &Value) -> BTreeSet<PageName> {
    let one = |page: &Value| {
        let block = page.get("block")?.as_u64()?;
        Some((page.get("file")?.as_str()?.to_owned(), u32::try_from(block).ok()?))
    };
    pages.as_array().into_iter().flatten().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::PAGE_BYTES;

    fn suspects(began_at: u64) -> Suspects {
        let mut suspects = Suspects::new(began_at);
        let file = RelationFile::of_name("7").unwrap();
        // A wrong checksum, a header of zeros with rows behind it, a new page.
        suspects.judge("base/5/7", file, 3, &[1; PAGE_BYTES]);
        let mut headless = [0; PAGE_BYTES];
        headless[5_000] = 1;
        suspects.judge("base/5/7", file, 4, &headless);
        suspects.judge("base/5/7", file, 5, &[0; PAGE_BYTES]);
        suspects
    }

    fn page(block: u32) -> PageName {
        ("base/5/7".to_owned(), block)
    }

    #[test]
    fn the_server_judges_what_it_can_read_again() {
        let suspects = suspects(u64::MAX);
        let passed = suspects.judged_by_server(false, &[]);
        assert_eq!(passed.torn, [page(3)].into());
        assert_eq!((passed.damaged, passed.damaged_count), ([page(4)].into(), 1));
        let remark = "checksum verification failed in file \"./base/5/7\", block 9: calculated 1";
        let failed = suspects.judged_by_server(true, &[remark.to_owned(), "other".to_owned()]);
        assert_eq!(failed.damaged, [page(3), page(4), page(9)].into());
        assert_eq!((failed.torn, failed.damaged_count), (BTreeSet::new(), 3));
    }

    #[test]
    fn what_is_newer_than_the_beginning_is_in_the_log() {
        let suspects = suspects(1);
        assert_eq!((suspects.pages, suspects.newer), (3, 1));
        assert!(suspects.judged_by_server(false, &[]).torn.is_empty());
    }

    #[test]
    fn pages_are_told_by_file_and_kept() {
        let pages: BTreeSet<PageName> = (0..20).map(page).collect();
        let told = lines(&pages, &BTreeMap::new());
        assert_eq!(told, ["base/5/7: block 0, 1, 2, 3, 4, 5, 6, 7 and 12 more"]);
        let names = [("base/5/7".to_owned(), "public.t of the database shop".to_owned())].into();
        let told = lines(&[page(3)].into(), &names);
        assert_eq!(told, ["base/5/7 (public.t of the database shop): block 3"]);
        assert_eq!(of_json(&to_json(&pages)), pages);
        assert!(of_json(&Value::Null).is_empty());
    }
}
