//! A rollback journal of a transaction that was cut off: the pages as they were before it. SQLite
//! would write them back; here they are laid over the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::bytes::word;
use crate::overlay::Overlay;

const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
const HEADER_BYTES: usize = 28;

/// Reads the journal. An error is why none of it can be used.
pub(crate) fn read(file: File, page_size: usize) -> Result<Overlay, String> {
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    let mut pages = BTreeMap::new();
    let (mut offset, mut sector, mut page_count, mut records) = (0_u64, 0_u64, 0, 0_u64);
    let mut torn = None;
    let mut record = vec![0; page_size + 8];
    loop {
        let mut header = [0; HEADER_BYTES];
        if file.read_exact_at(&mut header, offset).is_err() || header[..8] != MAGIC {
            break;
        }
        let number = |at| word(&header, at).unwrap_or(0);
        if offset == 0 {
            (sector, page_count) = (u64::from(number(20)), number(16));
            let own_size = number(24) as usize;
            if own_size != 0 && own_size != page_size {
                return Err(format!("has pages of {own_size} bytes: it is another database's"));
            }
            if !sector.is_power_of_two() || !(32..=65536).contains(&sector) {
                return Err("has a damaged header".to_owned());
            }
        }
        offset += sector;
        let room = length.saturating_sub(offset) / record.len() as u64;
        let claimed = match number(8) {
            u32::MAX => room,
            count => u64::from(count),
        };
        let mut whole = true;
        for _ in 0..claimed {
            if file.read_exact_at(&mut record, offset).is_err() {
                whole = false;
                break;
            }
            let (page, image) = (word(&record, 0).unwrap_or(0), &record[4..4 + page_size]);
            if page == 0 || checksum(number(12), image) != word(&record, 4 + page_size).unwrap_or(0)
            {
                whole = false;
                break;
            }
            if page <= page_count {
                pages.entry(page).or_insert(offset + 4);
            }
            records += 1;
            offset += record.len() as u64;
        }
        if !whole {
            torn = Some(claimed.saturating_sub(records)).filter(|&left| left > 0);
            break;
        }
        offset = offset.next_multiple_of(sector);
    }
    match records {
        0 => Err("is of no transaction that was cut off".to_owned()),
        _ => Ok(Overlay::new(file, pages, page_count, records, torn)),
    }
}

/// The checksum of a record: every 200th byte from the page's end.
fn checksum(seed: u32, image: &[u8]) -> u32 {
    let places = (1..).map_while(|step| image.len().checked_sub(200 * step)).filter(|&at| at > 0);
    places.fold(seed, |sum, at| sum.wrapping_add(u32::from(image[at])))
}
