//! A `-wal` beside the database: the pages of its commits, as far as the chain of checksums
//! proves them. Whether it belongs to the database at all is judged elsewhere.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::bytes::word;
use crate::overlay::Overlay;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;

/// Reads the log. An error is why none of it can be used.
pub(crate) fn read(file: File, page_size: usize) -> Result<Overlay, String> {
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
    let (mut committed, mut open) = (BTreeMap::new(), Vec::new());
    let (mut page_count, mut index, mut frames) = (0, 0_u64, 0_u64);
    loop {
        let at = HEADER_BYTES as u64 + index * frame.len() as u64;
        if file.read_exact_at(&mut frame, at).is_err() || frame[8..16] != header[16..24] {
            break;
        }
        sums = checksum(big_endian, sums, &frame[..8]);
        sums = checksum(big_endian, sums, &frame[FRAME_HEADER_BYTES..]);
        let in_frame = |at| word(&frame, at).unwrap_or(0);
        if sums != (in_frame(16), in_frame(20)) {
            break;
        }
        index += 1;
        open.push((in_frame(0), at + FRAME_HEADER_BYTES as u64));
        if in_frame(4) != 0 {
            page_count = in_frame(4);
            committed.extend(open.drain(..));
            frames = index;
        }
    }
    if frames == 0 {
        return Err("holds no transaction that was committed".to_owned());
    }
    committed.retain(|&page, _| page != 0 && page <= page_count);
    let total = index_of_end(&file, frame.len());
    let torn = total.filter(|&total| total > frames && is_same_log(&file, &header, &frame, frames));
    Ok(Overlay::new(file, committed, page_count, frames, torn.map(|total| total - frames)))
}

/// How many frames the file has room for.
fn index_of_end(file: &File, frame_bytes: usize) -> Option<u64> {
    let bytes = file.metadata().ok()?.len();
    Some(bytes.saturating_sub(HEADER_BYTES as u64).div_ceil(frame_bytes as u64))
}

/// Whether the frame behind those that were taken is of this log too, and not of an earlier one.
fn is_same_log(file: &File, header: &[u8], frame: &[u8], taken: u64) -> bool {
    let mut salts = [0; 8];
    let at = HEADER_BYTES as u64 + taken * frame.len() as u64 + 8;
    file.read_exact_at(&mut salts, at).is_ok() && salts == header[16..24]
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
