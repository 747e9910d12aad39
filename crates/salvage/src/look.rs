//! A first look at a damaged database: its file, what lies over it, its schema, and how much
//! speaks against each way to see it.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};

use crate::overlay::Overlay;
use crate::page::Page;
use crate::schema::{self, Described, Entry};
use crate::shape;
use crate::survey::{Survey, Tree, survey};
use crate::target::with_ending;
use crate::text::Encoding;
use crate::unpack::unpack;
use crate::view::{Got, View};
use crate::{infer, journal, wal};

/// A database, as far as it is understood.
pub(crate) struct Look {
    pub(crate) view: View,
    pub(crate) sight: Sight,
    /// What was found about the file and those beside it.
    pub(crate) notes: Vec<String>,
    /// Whether transactions may be lost with the end of a side file.
    pub(crate) torn: bool,
}

/// What is seen of a database in one way to see it.
pub(crate) struct Sight {
    pub(crate) encoding: Encoding,
    pub(crate) entries: Vec<Entry>,
    /// Whether the schema's own tree was whole.
    pub(crate) schema_is_whole: bool,
    pub(crate) described: Described,
    pub(crate) survey: Survey,
}

/// A database whose pages can be read.
pub(crate) struct Opened {
    pub(crate) view: View,
    pub(crate) notes: Vec<String>,
}

/// Looks at a database, and at what lies beside it.
pub(crate) fn look(env: &Env, path: &Path, opened: Opened, donor: &[Entry]) -> Result<Look> {
    let Opened { mut view, mut notes } = opened;
    let mut sight = see(env, &view, donor)?;
    let mut torn = false;
    for side in side_files(path, view.page_size())? {
        match side.overlay {
            Err(why) => notes.push(why),
            Ok(overlay) => {
                let is_torn = overlay.torn.is_some();
                let before = view.lay(Some(overlay));
                let other = see(env, &view, donor)?;
                // What SQLite would read is read, unless it makes things worse.
                if other.survey.faults <= sight.survey.faults {
                    notes.push(side.words);
                    sight = other;
                    torn |= is_torn;
                } else {
                    view.lay(before);
                    notes.push(format!(
                        "the {} beside it was left out: it does not belong to this database, \
                         which contradicts itself with it more than without ({} times, and {})",
                        side.ending, other.survey.faults, sight.survey.faults
                    ));
                }
            }
        }
    }
    Ok(Look { view, sight, notes, torn })
}

/// A file beside a database, whose pages may lie over its own.
pub(crate) struct SideFile {
    ending: &'static str,
    /// What it holds, or why it is of no use.
    pub(crate) overlay: std::result::Result<Overlay, String>,
    /// What is said where it is read.
    pub(crate) words: String,
}

/// The side files that are there.
pub(crate) fn side_files(path: &Path, page_size: usize) -> Result<Vec<SideFile>> {
    let mut found = Vec::new();
    for (ending, read) in [("-journal", journal::read as ReadOverlay), ("-wal", wal::read)] {
        let Some(file) = open_beside(&with_ending(path, ending))? else { continue };
        let overlay = read(file, page_size);
        let overlay =
            overlay.map_err(|why| format!("the {ending} beside it was left out: it {why}"));
        let what = overlay.as_ref().map_or_else(|_| String::new(), |it| words(it, ending));
        let words = format!("the {ending} beside it was read: {what}");
        found.push(SideFile { ending, overlay, words });
    }
    Ok(found)
}

type ReadOverlay = fn(File, usize) -> std::result::Result<Overlay, String>;

fn words(overlay: &Overlay, ending: &str) -> String {
    let what = if ending == "-wal" { "frames" } else { "pages of before" };
    match overlay.torn {
        None => format!("{} {what}", overlay.taken),
        Some(left) => format!("{} {what}; {left} behind them are torn", overlay.taken),
    }
}

/// Opens the file, unpacked where it is compressed. `scratch` is a path for a moment, for that.
pub(crate) fn open(env: &Env, path: &Path, scratch: &Path) -> Result<Opened> {
    let mut notes = Vec::new();
    let failed = |error| {
        Error::io(Kind::SourceUnavailable, format!("cannot read {}", path.display()), error)
            .hint("name the file of a database that may be read; `lifeboat list` shows its backups")
    };
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        let message = format!("{} is no file", path.display());
        return Err(Error::new(Kind::Usage, message).hint("name the file of a database"));
    }
    let file = unpack(env, File::open(path).map_err(failed)?, scratch, &mut notes)?;
    let length = file.metadata().map_err(failed)?.len();
    if length == 0 {
        let message = format!("{} is empty: no database is in it", path.display());
        return Err(Error::new(Kind::CheckFailed, message)
            .hint("restore a backup: `lifeboat list` shows them; and check the path"));
    }
    let Some(found) = shape::find(&file, length) else {
        let message = format!("no page of {} is one of a SQLite database", path.display());
        return Err(Error::new(Kind::CheckFailed, message)
            .hint("restore a backup: `lifeboat list` shows them; it may be encrypted, too"));
    };
    if found.base > 0 {
        notes.push(format!("the database begins at byte {} of the file", found.base));
    }
    if !found.has_header {
        notes.push(format!(
            "its header is damaged: pages of {} bytes were found by their structure",
            found.page_size
        ));
    }
    Ok(Opened { view: View::new(file, length, found), notes })
}

fn open_beside(path: &Path) -> Result<Option<File>> {
    match File::open(path) {
        Ok(file) => {
            let length = file.metadata().map_or(0, |metadata| metadata.len());
            Ok((length > 0).then_some(file))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let message = format!("cannot read {}", path.display());
            Err(Error::io(Kind::SourceUnavailable, message, error))
        }
    }
}

/// Reads the schema and goes through all trees.
fn see(env: &Env, view: &View, donor: &[Entry]) -> Result<Sight> {
    let encoding = Encoding::of(view.number(56).unwrap_or(0));
    let encoding = encoding.unwrap_or_else(|| schema::guess_encoding(view));
    let (mut entries, schema_is_whole) = schema::read(env, view, encoding)?;
    if !schema_is_whole {
        schema::read_anywhere(env, view, encoding, &mut entries)?;
        let missing = donor.iter().filter(|other| entries.iter().all(|own| own.name != other.name));
        let missing: Vec<Entry> = missing.map(|other| Entry { root: 0, ..other.clone() }).collect();
        entries.extend(missing);
    }
    let mut described = schema::describe(&entries, donor).map_err(schema::describing)?;
    for entry in &entries {
        if !is_undescribed(entry, &described) {
            continue;
        }
        if let Some(sql) = infer::statement(env, view, encoding, &entry.name, entry.root)? {
            described.infer(entry, &sql);
        }
    }
    let survey = survey(env, view, encoding, &trees(view, &entries, &described))?;
    Ok(Sight { encoding, entries, schema_is_whole, described, survey })
}

/// Whether an entry is a table with rows whose statement could not be used.
fn is_undescribed(entry: &Entry, described: &Described) -> bool {
    let is_own = !entry.name.to_ascii_lowercase().starts_with("sqlite_");
    let is_known = described.tables.iter().any(|table| table.layout.name == entry.name);
    entry.kind == "table" && entry.root > 1 && is_own && !entry.is_virtual() && !is_known
}

/// All trees: the schema's, those of tables in the order in which they are described, the others.
fn trees<'a>(view: &View, entries: &[Entry], described: &'a Described) -> Vec<Tree<'a>> {
    let schema = Tree { root: 1, is_table: true, layout: None };
    let tables = described.tables.iter().map(|table| Tree {
        root: table.root,
        is_table: table.layout.has_rowids,
        layout: Some(&table.layout),
    });
    let is_described =
        |entry: &&Entry| described.tables.iter().any(|table| table.layout.name == entry.name);
    let others = entries.iter().filter(|entry| entry.root > 1 && !is_described(entry));
    let others = others.map(|entry| {
        let is_table = entry.kind == "table" && is_table_page(view, entry.root);
        Tree { root: entry.root, is_table, layout: None }
    });
    std::iter::once(schema).chain(tables).chain(others).collect()
}

/// Whether a page is of a tree with rowids, where nothing else says it.
fn is_table_page(view: &View, number: u32) -> bool {
    let mut buffer = vec![0; view.page_size()];
    let got = view.read(number, &mut buffer);
    let page = Page::parse(number, &buffer, view.usable());
    got != Got::Nothing && page.is_some_and(|page| page.kind.is_table())
}
