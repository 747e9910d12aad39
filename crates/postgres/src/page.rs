//! Pages of a data directory: which files consist of them, and whether a page is what the server
//! wrote.
//!
//! With data checksums on, each page carries a checksum of its bytes and its block number. A page
//! that the server has added to a file but not filled yet is all zeros. While a server runs, a page
//! may be read half written: such a page is newer than the start of the backup, and the WAL of the
//! backup holds it whole.

/// The block size of every build that is distributed.
pub const PAGE_BYTES: usize = 8_192;
/// How many blocks a file of a relation has before the next segment begins, as distributed.
pub const SEGMENT_BLOCKS: u32 = 131_072;

/// Checksums that run beside each other over a page.
const LANES: usize = 32;
const PRIME: u32 = 16_777_619;
const CHECKSUM_OFFSET: usize = 8;
const UPPER_OFFSET: usize = 14;
/// What each of them begins with: part of the format of PostgreSQL's pages.
const SEEDS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageVerdict {
    /// Its checksum is right.
    Sound,
    /// The server has added it and not filled it yet.
    New,
    /// Its checksum is wrong, and it was written after `newer_than`: read half written.
    Newer,
    /// It is not what the server wrote.
    Damaged {
        /// The checksum that it carries.
        stored: u16,
        /// The checksum of its bytes.
        computed: u16,
    },
}

/// A file of a relation, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationFile {
    /// Its number in the data directory: `pg_class.relfilenode`.
    pub number: u32,
    /// Its fork.
    pub fork: Fork,
    /// Which segment of the fork it is.
    pub segment: u32,
}

/// The forks of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// Its rows.
    Main,
    /// The map of free space, `_fsm`.
    FreeSpace,
    /// The map of visibility, `_vm`.
    Visibility,
    /// What an unlogged relation is set to after a crash, `_init`.
    Initial,
}

impl RelationFile {
    /// Reads a path relative to the data directory: `base/5/1259_fsm.1`, `global/1260`,
    /// `pg_tblspc/16385/PG_15_202209061/5/16386`. The name may begin with `INCREMENTAL.`. `None`:
    /// not a file of pages, or one of a temporary relation.
    pub fn of_path(path: &str) -> Option<RelationFile> {
        let (folder, name) = path.rsplit_once('/')?;
        let mut parts = folder.split('/');
        let known = match (parts.next()?, parts.next(), parts.next(), parts.next(), parts.next()) {
            ("global", None, ..) => true,
            ("base", Some(database), None, ..) => is_number(database),
            ("pg_tblspc", Some(space), Some(version), Some(database), None) => {
                is_number(space) && version.starts_with("PG_") && is_number(database)
            }
            _ => false,
        };
        known.then(|| RelationFile::of_name(name)).flatten()
    }

    /// Reads the name alone: `16384`, `16384_vm`, `16384.2`, `INCREMENTAL.16384`.
    pub fn of_name(name: &str) -> Option<RelationFile> {
        let name = name.strip_prefix("INCREMENTAL.").unwrap_or(name);
        let (name, segment) = match name.split_once('.') {
            Some((name, segment)) => (name, number(segment).filter(|segment| *segment > 0)?),
            None => (name, 0),
        };
        let (digits, fork) = match name.split_once('_') {
            Some((digits, "fsm")) => (digits, Fork::FreeSpace),
            Some((digits, "vm")) => (digits, Fork::Visibility),
            Some((digits, "init")) => (digits, Fork::Initial),
            Some(_) => return None,
            None => (name, Fork::Main),
        };
        Some(RelationFile { number: number(digits)?, fork, segment })
    }

    /// The block number that the first page of this file has.
    pub fn first_block(&self) -> u32 {
        self.segment.wrapping_mul(SEGMENT_BLOCKS)
    }
}

fn is_number(text: &str) -> bool {
    number(text).is_some()
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Judges a page of [`PAGE_BYTES`], or of another multiple of 128 bytes. `newer_than` is where the
/// backup began, if the server was running meanwhile: see [`PageVerdict::Newer`].
pub fn judge(page: &[u8], block: u32, newer_than: Option<u64>) -> PageVerdict {
    let upper = u16::from_le_bytes([page[UPPER_OFFSET], page[UPPER_OFFSET + 1]]);
    if upper == 0 && page.iter().all(|byte| *byte == 0) {
        return PageVerdict::New;
    }
    let stored = u16::from_le_bytes([page[CHECKSUM_OFFSET], page[CHECKSUM_OFFSET + 1]]);
    let computed = checksum(page, block);
    if stored == computed && upper != 0 {
        return PageVerdict::Sound;
    }
    match newer_than {
        // A position far behind the end of the log would be damage of that field; the caller knows
        // the end, and the WAL of the backup is what counts.
        Some(start) if position(page) >= start => PageVerdict::Newer,
        _ => PageVerdict::Damaged { stored, computed },
    }
}

/// Up to where the log holds changes of this page.
pub fn position(page: &[u8]) -> u64 {
    let half = |at: usize| {
        u64::from(u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]))
    };
    half(0) << 32 | half(4)
}

/// The checksum that a page must carry as that block. The bytes of the checksum itself count as
/// zeros.
pub fn checksum(page: &[u8], block: u32) -> u16 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has just said that it knows these instructions.
        return reduce(unsafe { mixed_avx2(page) }, block);
    }
    reduce(mixed(page), block)
}

fn reduce(mixed: u32, block: u32) -> u16 {
    ((mixed ^ block) % 65_535 + 1) as u16
}

/// The same code, compiled for wider registers: twice as fast.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn mixed_avx2(page: &[u8]) -> u32 {
    mixed(page)
}

#[inline(always)]
fn mixed(page: &[u8]) -> u32 {
    let mut lanes = SEEDS;
    let (rows, _) = page.as_chunks::<{ LANES * 4 }>();
    for (index, row) in rows.iter().enumerate() {
        let (words, _) = row.as_chunks::<4>();
        let mut values = [0_u32; LANES];
        for (value, word) in values.iter_mut().zip(words) {
            *value = u32::from_le_bytes(*word);
        }
        if index == 0 {
            values[CHECKSUM_OFFSET / 4] &= 0xFFFF_0000;
        }
        step(&mut lanes, &values);
    }
    step(&mut lanes, &[0; LANES]);
    step(&mut lanes, &[0; LANES]);
    lanes.iter().fold(0, |all, lane| all ^ lane)
}

#[inline(always)]
fn step(lanes: &mut [u32; LANES], values: &[u32; LANES]) {
    for (lane, value) in lanes.iter_mut().zip(values) {
        let mixed = *lane ^ value;
        *lane = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_pages_are_told_from_others() {
        let file = |path| RelationFile::of_path(path);
        let main = |number, segment| RelationFile { number, fork: Fork::Main, segment };
        assert_eq!(file("base/5/1259"), Some(main(1259, 0)));
        assert_eq!(file("base/5/INCREMENTAL.1259.3"), Some(main(1259, 3)));
        assert_eq!(file("pg_tblspc/16385/PG_15_202209061/5/16386"), Some(main(16386, 0)));
        assert_eq!(file("global/1260_vm").map(|file| file.fork), Some(Fork::Visibility));
        assert_eq!(file("base/5/9_init").map(|file| file.fork), Some(Fork::Initial));
        assert_eq!(main(1, 3).first_block(), 3 * SEGMENT_BLOCKS);
        for other in [
            "global/pg_control",
            "global/pg_filenode.map",
            "base/5/PG_VERSION",
            "base/5/t3_16390",
            "base/5/1259.0",
            "base/5/1259_",
            "base/pgsql_tmp/5",
            "pg_wal/000000010000000000000001",
            "pg_xact/0000",
            "1259",
            "pg_tblspc/16385/5/16386",
        ] {
            assert_eq!(file(other), None, "{other}");
        }
    }

    #[test]
    fn wide_registers_give_the_same_checksum() {
        let page: Vec<u8> = (0..PAGE_BYTES).map(|at| (at * 31 % 251) as u8).collect();
        assert_eq!(checksum(&page, 7), reduce(mixed(&page), 7));
        assert_ne!(checksum(&page, 7), checksum(&page, 8), "the block counts");
    }

    #[test]
    fn each_flipped_bit_is_seen() {
        let mut page = vec![0_u8; PAGE_BYTES];
        page[UPPER_OFFSET + 1] = 0x20;
        page[100] = 3;
        let sum = checksum(&page, 1).to_le_bytes();
        page[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].copy_from_slice(&sum);
        assert_eq!(judge(&page, 1, None), PageVerdict::Sound);
        assert!(matches!(judge(&page, 2, None), PageVerdict::Damaged { .. }), "another block's");
        for at in (0..PAGE_BYTES).step_by(97) {
            page[at] ^= 0x10;
            assert!(matches!(judge(&page, 1, None), PageVerdict::Damaged { .. }), "{at}");
            page[at] ^= 0x10;
        }
        page[200] = 9;
        page[4] = 50;
        assert_eq!(judge(&page, 1, Some(50)), PageVerdict::Newer);
        assert!(matches!(judge(&page, 1, Some(51)), PageVerdict::Damaged { .. }));
    }

    #[test]
    fn zeros_are_a_new_page_and_a_header_without_rows_is_damage() {
        let mut page = vec![0_u8; PAGE_BYTES];
        assert_eq!(judge(&page, 3, None), PageVerdict::New);
        page[5_000] = 1;
        assert!(matches!(judge(&page, 3, None), PageVerdict::Damaged { .. }));
    }
}
