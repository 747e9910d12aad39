//! Pages whose content came from other pages: as when pages of a B-tree are split and evened out.

use super::super::delta::Form;
use super::*;

/// A leaf of an index with cells of those keys.
fn leaf(keys: &[u64]) -> Vec<u8> {
    let mut page = vec![0; 512];
    page[0] = 10;
    page[3..5].copy_from_slice(&(keys.len() as u16).to_be_bytes());
    for (number, key) in keys.iter().enumerate() {
        let at = 512 - 17 * (number + 1);
        page[at] = 16;
        let scattered = key.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        page[at + 1..at + 9].copy_from_slice(&scattered);
        page[at + 9..at + 17].copy_from_slice(&scattered.map(|byte| byte ^ 0x5a));
        page[8 + 2 * number..10 + 2 * number].copy_from_slice(&(at as u16).to_be_bytes());
    }
    page
}

/// States of a database of such pages: in each, pairs of pages take the upper part of each other's
/// keys, and one page splits into a new one.
fn states(splits: &[(usize, usize)]) -> Vec<Vec<Vec<u64>>> {
    let first: Vec<Vec<u64>> = (0..8).map(|page| (page * 100..page * 100 + 24).collect()).collect();
    let mut states = vec![first];
    for &(a, b) in splits {
        let mut now = states.last().unwrap().clone();
        let (a, b) = (a % now.len(), b % now.len());
        let third = now[a].len() / 3;
        let upper = now[a].split_off(third);
        let other = std::mem::replace(&mut now[b], upper);
        now.push(other);
        states.push(now);
    }
    states
}

/// Writes the file that leads from one state to the next, and tells its forms.
fn write(
    repository: &Repository,
    from: usize,
    (before, after): (&[Vec<u64>], &[Vec<u64>]),
    forms: &mut Vec<Form>,
) -> (LogObject, Footer) {
    let changed: Vec<Changed<'_>> = after
        .iter()
        .enumerate()
        .filter(|(at, keys)| before.get(*at) != Some(*keys))
        .map(|(at, keys)| {
            let content = leaf(keys);
            let old = before.get(at).map(|keys| (leaf(keys), 0));
            Changed::read((at as u32 + 1, block_hash(&content)), content, old)
        })
        .collect();
    let span = Span { from: from as u64, to: from as u64 + 1, level: 0 };
    let facts = Footer {
        from: span.from,
        to: span.to,
        page_count: (before.len() as u32, after.len() as u32),
        ..footer(&Vec::new())
    };
    let object = span.object(PREFIX, false).unwrap();
    let label = Label::of(&facts, [0; 32], [0; 32]);
    let mut writer = LogWriter::at(repository, object.clone(), None, &label).unwrap();
    let encoded = Encoding::CAREFUL.of_file(changed.len(), 512).encode(&changed).unwrap();
    forms.extend(encoded.iter().map(|page| page.form));
    writer.add(&encoded).unwrap();
    let stored = writer.finish(facts).unwrap();
    (LogObject { object, bytes: stored.bytes, span, pack: None }, stored.footer)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn pages_that_moved_are_laid_whatever_is_taken_at_once(
        splits in proptest::collection::vec((0_usize..99, 0_usize..99), 1..12),
        bytes in 100_u64..3_000,
        pages in 1_usize..40,
    ) {
        let still = Arc::new(Still);
        let env = Env::new(still.clone(), still, "host");
        let memory = Memory::default();
        let repository = Repository::open_or_create(&env, Arc::new(memory)).unwrap();
        let states = states(&splits);
        let mut forms = Vec::new();
        let steps: Vec<_> = states
            .windows(2)
            .enumerate()
            .map(|(from, pair)| write(&repository, from, (&pair[0], &pair[1]), &mut forms))
            .collect();
        for batch in [Batch { bytes, pages }, BATCH] {
            let database = tempfile::tempfile().unwrap();
            for (at, keys) in states[0].iter().enumerate() {
                database.write_all_at(&leaf(keys), at as u64 * 512).unwrap();
            }
            lay::all(&env, &repository, &steps, (&database, Path::new("app.db")), batch).unwrap();
            for (at, keys) in states.last().unwrap().iter().enumerate() {
                let mut laid = [0; 512];
                database.read_exact_at(&mut laid, at as u64 * 512).unwrap();
                prop_assert_eq!(&laid[..], &leaf(keys)[..]);
            }
        }
    }
}

/// Where cells came from is a guess, which of several splits some must allow.
#[test]
fn pages_are_made_of_others() {
    let still = Arc::new(Still);
    let env = Env::new(still.clone(), still, "host");
    let repository = Repository::open_or_create(&env, Arc::new(Memory::default())).unwrap();
    let states = states(&[(0, 1), (2, 3), (4, 5), (6, 7), (1, 6), (3, 4)]);
    let mut forms = Vec::new();
    for (from, pair) in states.windows(2).enumerate() {
        write(&repository, from, (&pair[0], &pair[1]), &mut forms);
    }
    assert!(forms.iter().any(|form| form.needs_other()), "{forms:?}");
}
