//! A `-wal` beside the database: the pages of its commits, as far as the chain of checksums
//! proves them. Whether it belongs to the database at all is judged elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::WalPlace;
use crate::bytes::word;
use crate::overlay::Overlay;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
const DAMAGED: &str = "is damaged: what it held behind that may have changed any page";

/// Reads the log. An error is why none of it can be used.
pub(crate) fn read(file: File, page_size: usize) -> Result<Overlay, String> {
    let (mut committed, mut open) = (BTreeMap::new(), Vec::new());
    let (mut page_count, mut taken) = (0, 0);
    let end = frames(&file, page_size, &mut |frame| {
        open.push((frame.page, frame.at + FRAME_HEADER_BYTES as u64));
        if frame.page_count != 0 {
            page_count = frame.page_count;
            committed.extend(open.drain(..));
            taken = frame.number;
        }
    })?;
    if taken == 0 {
        return Err("holds no transaction that was committed".to_owned());
    }
    committed.retain(|&page, _| page != 0 && page <= page_count);
    let torn = (end.room > taken && end.is_of_log(&file, taken)).then(|| end.room - taken);
    Ok(Overlay::new(file, committed, page_count, taken, torn))
}

/// What the log says of the time since a place in it.
pub(crate) struct Changed {
    /// All pages of which it holds a version.
    pub(crate) logged: BTreeSet<u32>,
    /// Pages that the database has after its last commit; `None` where it has none.
    pub(crate) page_count: Option<u32>,
}

/// Reads what was changed since a place; an error is why the log does not say it.
pub(crate) fn changed_since(
    file: &File,
    page_size: usize,
    place: &WalPlace,
) -> Result<Changed, String> {
    let (mut logged, mut page_count, mut is_there) = (BTreeSet::new(), None, place.frame == 0);
    let (mut number, mut open) = (0, Vec::new());
    let end = frames(file, page_size, &mut |frame| {
        number = frame.number;
        is_there |= frame.number == u64::from(place.frame) && frame.sums == place.checksum;
        open.push(frame.page);
        if frame.page_count != 0 {
            page_count = Some(frame.page_count);
            logged.extend(open.drain(..));
        }
    })?;
    if end.room > number && end.is_of_log(file, number) {
        return Err(DAMAGED.to_owned());
    }
    if end.salts != place.salts {
        return match tail(file, &end, number, place)? {
            Some(before) => {
                logged.extend(before);
                Ok(Changed { logged, page_count })
            }
            None => Err("was begun anew since: nothing says what was changed before".to_owned()),
        };
    }
    match is_there {
        true => Ok(Changed { logged, page_count }),
        false => Err("does not have the frame with which the donor ended".to_owned()),
    }
}

/// The pages that were written behind a place before the log was begun anew, once: its frames are
/// written over from the first on, and those that come later are still there. `None` where not all
/// of them are.
fn tail(
    file: &File,
    end: &End,
    written_over: u64,
    place: &WalPlace,
) -> Result<Option<Vec<u32>>, String> {
    let first = |salts: &[u8; 8]| word(salts, 0).unwrap_or(0);
    let is_next = first(&end.salts) == first(&place.salts).wrapping_add(1);
    let number = u64::from(place.frame);
    if !is_next || number <= written_over {
        return Ok(None);
    }
    let mut frame = vec![0; end.frame_bytes as usize];
    let mut at = HEADER_BYTES as u64 + (number - 1) * end.frame_bytes;
    let is_read = |frame: &mut Vec<u8>, at| file.read_exact_at(frame, at).is_ok();
    let in_frame = |frame: &[u8], at| word(frame, at).unwrap_or(0);
    let sums_of = |frame: &[u8]| (in_frame(frame, 16), in_frame(frame, 20));
    let is_place =
        is_read(&mut frame, at) && frame[8..16] == place.salts && sums_of(&frame) == place.checksum;
    if !is_place {
        return Ok(None);
    }
    let (mut sums, mut pages) = (place.checksum, Vec::new());
    loop {
        at += end.frame_bytes;
        if !is_read(&mut frame, at) {
            // A file that was made shorter ends anywhere.
            let length = file.metadata().map_or(0, |metadata| metadata.len());
            return Ok((length == at).then_some(pages));
        }
        if frame[8..16] != place.salts {
            return Ok(Some(pages));
        }
        sums = checksum(end.big_endian, sums, &frame[..8]);
        sums = checksum(end.big_endian, sums, &frame[FRAME_HEADER_BYTES..]);
        if sums != sums_of(&frame) {
            return Err(DAMAGED.to_owned());
        }
        pages.push(in_frame(&frame, 0));
    }
}

/// A frame of the log, proved by its checksum.
struct Frame {
    /// Frames count from 1.
    number: u64,
    page: u32,
    /// Pages of the database after it, where it ends a transaction; else 0.
    page_count: u32,
    /// Where in the file it begins.
    at: u64,
    /// The checksum up to its end.
    sums: (u32, u32),
}

/// Where the frames end.
struct End {
    big_endian: bool,
    salts: [u8; 8],
    frame_bytes: u64,
    /// How many frames the file has room for.
    room: u64,
}

impl End {
    /// Whether the frame behind so many is of this log too, and not of an earlier one.
    fn is_of_log(&self, file: &File, taken: u64) -> bool {
        let mut salts = [0; 8];
        let at = HEADER_BYTES as u64 + taken * self.frame_bytes + 8;
        file.read_exact_at(&mut salts, at).is_ok() && salts == self.salts
    }
}

/// Goes through the frames, as far as the chain of checksums proves them. An error is why it is no
/// log of this database.
fn frames(file: &File, page_size: usize, visit: &mut dyn FnMut(&Frame)) -> Result<End, String> {
    let mut header = [0; HEADER_BYTES];
    if file.read_exact_at(&mut header, 0).is_err() {
        return Err("is too short for a log".to_owned());
    }
    let number = |at| word(&header, at).unwrap_or(0);
    let big_endian = match number(0) {
        0x377f_0682 => false,
        0x377f_0683 => true,
        _ => return Err("is no log of SQLite".to_owned()),
    };
    let mut sums = checksum(big_endian, (0, 0), &header[..24]);
    if sums != (number(24), number(28)) {
        return Err("has a damaged header".to_owned());
    }
    if number(8) as usize != page_size {
        return Err(format!("has pages of {} bytes: it is another database's", number(8)));
    }
    let mut frame = vec![0; FRAME_HEADER_BYTES + page_size];
    let frame_bytes = frame.len() as u64;
    let mut at = HEADER_BYTES as u64;
    for number in 1.. {
        if file.read_exact_at(&mut frame, at).is_err() || frame[8..16] != header[16..24] {
            break;
        }
        sums = checksum(big_endian, sums, &frame[..8]);
        sums = checksum(big_endian, sums, &frame[FRAME_HEADER_BYTES..]);
        let in_frame = |at| word(&frame, at).unwrap_or(0);
        if sums != (in_frame(16), in_frame(20)) {
            break;
        }
        visit(&Frame { number, page: in_frame(0), page_count: in_frame(4), at, sums });
        at += frame_bytes;
    }
    let mut salts = [0; 8];
    salts.copy_from_slice(&header[16..24]);
    let bytes = file.metadata().map_or(0, |metadata| metadata.len());
    let room = bytes.saturating_sub(HEADER_BYTES as u64).div_ceil(frame_bytes);
    Ok(End { big_endian, salts, frame_bytes, room })
}

fn checksum(big_endian: bool, (mut a, mut b): (u32, u32), bytes: &[u8]) -> (u32, u32) {
    let number = |four: &[u8]| {
        let four = [four[0], four[1], four[2], four[3]];
        if big_endian { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
    };
    for eight in bytes.chunks_exact(8) {
        a = a.wrapping_add(number(&eight[..4])).wrapping_add(b);
        b = b.wrapping_add(number(&eight[4..])).wrapping_add(a);
    }
    (a, b)
}
