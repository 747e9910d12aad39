//! Damage at random, the same in every run: nothing may be altered unreported, nothing may panic.
//!
//! `LIFEBOAT_LONG_TESTS=1` tries many more.

use crate::world::{Dice, Sample, rounds};

/// Damage of which each kind is visible: pages and sectors that are lost, exchanged or overwritten.
/// In UTF-16 nearly every pair of bytes is a character: there only whole pages are overwritten.
pub(crate) fn damage(bytes: &mut Vec<u8>, page_size: usize, is_wide: bool, dice: &mut Dice) {
    for _ in 0..1 + dice.roll(4) {
        let pages = bytes.len() / page_size;
        let page = dice.roll(pages) * page_size;
        let sector = page + dice.roll(page_size / 512) * 512;
        let whole = (page, page + page_size);
        let (from, to) = match dice.roll(3) {
            0 if !is_wide => (sector, sector + 512),
            1 => (page, bytes.len().min(page + page_size * (1 + dice.roll(12)))),
            _ => whole,
        };
        match dice.roll(5) {
            0 => bytes[from..to].fill(0),
            1 => bytes[from..to].iter_mut().for_each(|byte| *byte = dice.roll(256) as u8),
            2 => {
                let other = dice.roll(pages) * page_size;
                bytes.copy_within(other..other + page_size, page);
            }
            3 if dice.roll(3) == 0 => bytes.truncate(sector.max(page_size * 3)),
            _ if is_wide => bytes[from..to].fill(0),
            _ => bytes[from..to].fill(0xff),
        }
        if bytes.len() < page_size * 4 {
            return;
        }
    }
}

#[test]
fn nothing_is_altered_unreported() {
    let samples = [
        Sample::chat("PRAGMA page_size = 1024", 700),
        Sample::chat("PRAGMA page_size = 4096; PRAGMA encoding = 'UTF-16le'", 500),
        Sample::chat("PRAGMA page_size = 512; PRAGMA auto_vacuum = full", 400),
    ];
    let (mut exact, mut all) = (0, 0);
    for round in 0..rounds(45, 1_500) {
        let index = round as usize % samples.len();
        let sample = &samples[index];
        let sound = std::fs::read(&sample.path).unwrap();
        let mut dice = Dice(round * 7919 + 13);
        sample.damage(|bytes| damage(bytes, sample.page_size, index == 1, &mut dice));
        // The comparison is made where the outcome is taken.
        if let Ok(outcome) = sample.salvage() {
            exact += outcome.exact(sample, "Message");
        }
        all += sample.truth["Message"].len();
        std::fs::write(&sample.path, sound).unwrap();
    }
    assert!(exact > all * 6 / 10, "{exact} of {all} rows came back");
}

#[test]
fn no_bytes_break_it() {
    let sample = Sample::chat("PRAGMA page_size = 512", 60);
    let sound = std::fs::read(&sample.path).unwrap();
    for round in 0..rounds(150, 20_000) {
        let mut dice = Dice(round * 104_729 + 1);
        let mut bytes = sound.clone();
        for _ in 0..1 + dice.roll(40) {
            let at = match dice.roll(3) {
                0 => dice.roll(100),
                1 => dice.roll(bytes.len() / 512) * 512 + dice.roll(24),
                _ => dice.roll(bytes.len()),
            };
            bytes[at] = [0, 0xff, 1, 0x80, dice.roll(256) as u8][dice.roll(5)];
        }
        std::fs::write(&sample.path, &bytes).unwrap();
        let to = sample.to();
        let _ = std::fs::remove_file(&to);
        let report = lifeboat_salvage::salvage(&crate::world::env(), &sample.request(&to));
        assert_eq!(report.is_ok(), to.exists(), "round {round}");
    }
}
