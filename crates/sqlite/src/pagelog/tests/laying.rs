//! Many files laid over one database, however little of them is taken at once: what comes out is
//! what the database was at the end, and what a later whole version replaces is not needed.

use super::*;
use crate::pagelog::chain::Step;

/// What one file does: pages and what becomes of them (a byte, and whether as a difference), and
/// the size in pages.
type Doing = (Vec<(u32, u8, bool)>, u32);

const PAGES_MAX: u32 = 30;

fn doings() -> impl Strategy<Value = Vec<Doing>> {
    let change = (1..=PAGES_MAX, any::<u8>(), prop::bool::weighted(0.6));
    let changes = proptest::collection::vec(change, 0..9);
    proptest::collection::vec((changes, 1..=PAGES_MAX), 1..20)
}

fn page(seed: u8) -> Vec<u8> {
    (0..512_u32).map(|at| (at % 7 * u32::from(seed)) as u8).collect()
}

/// A database, and its pages' depths.
struct Model {
    pages: Vec<(Vec<u8>, u8)>,
}

impl Model {
    /// Changes it; what a file holds of that.
    fn change(&mut self, (changes, size): &Doing) -> Vec<Changed<'static>> {
        let kept = self.pages.len().min(*size as usize);
        self.pages.truncate(kept);
        let changes: BTreeMap<u32, (u8, bool)> = changes
            .iter()
            .map(|&(page, byte, is_difference)| (page, (byte, is_difference)))
            .collect();
        let mut changed = Vec::new();
        for number in 1..=*size {
            let before = self.pages.get(number as usize - 1).cloned();
            let change = changes.get(&number).copied();
            let (content, before) = match (before, change) {
                (Some(_), None) => continue,
                (Some(before), Some((byte, is_difference))) => {
                    let mut content = before.0.clone();
                    content[usize::from(byte) * 2] ^= byte | 1;
                    (content, Some(before).filter(|_| is_difference))
                }
                (None, change) => (page(change.map_or(number as u8, |(byte, _)| byte)), None),
            };
            let hash = block_hash(&content);
            let depth = before.as_ref().map_or(0, |(_, depth)| depth + 1);
            self.pages.truncate(self.pages.len().max(number as usize - 1));
            match self.pages.get_mut(number as usize - 1) {
                Some(old) => *old = (content.clone(), depth),
                None => self.pages.push((content.clone(), depth)),
            }
            changed.push(Changed::read((number, hash), content, before));
        }
        changed
    }
}

fn add(repository: &Repository, at: u64, changed: &[Changed<'_>], counts: (u32, u32)) -> Step {
    let span = Span { from: at, to: at + 1, level: 0 };
    let object = span.object(PREFIX, false).unwrap();
    let facts = Footer { from: at, to: at + 1, page_count: counts, ..footer(&Vec::new()) };
    let label = Label::of(&facts, [7; 32], [0; 32]);
    let mut writer = LogWriter::at(repository, object.clone(), None, &label).unwrap();
    writer.add(&Encoding::CAREFUL.encode(changed).unwrap()).unwrap();
    let stored = writer.finish(facts).unwrap();
    (LogObject { object, bytes: stored.bytes, span, pack: None }, stored.footer)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn many_files_are_laid_over_a_database(
        doings in doings(),
        begin in 1..=PAGES_MAX,
        bytes in 200_u64..6_000,
        pages in 2_usize..40,
        lost in any::<prop::sample::Index>(),
    ) {
        let memory = Memory::default();
        let still = Arc::new(Still);
        let env = Env::new(still.clone(), still, "host");
        let repository = Repository::open_or_create(&env, Arc::new(memory.clone())).unwrap();
        let mut model = Model { pages: (1..=begin).map(|at| (page(at as u8), 0)).collect() };
        let base: Vec<u8> = model.pages.iter().flat_map(|(page, _)| page.clone()).collect();
        let (mut steps, mut holds) = (Vec::new(), Vec::new());
        for (at, doing) in doings.iter().enumerate() {
            let before = model.pages.len() as u32;
            let changed = model.change(doing);
            holds.push(changed.iter().map(|one| (one.page, one.before.is_none())).collect());
            steps.push(add(&repository, at as u64, &changed, (before, doing.1)));
        }
        let wanted: Vec<u8> = model.pages.iter().flat_map(|(page, _)| page.clone()).collect();
        // A file of which nothing counts may as well be gone, if not all are taken at once.
        let holds: Vec<BTreeMap<u32, bool>> = holds;
        let counts = |at: usize| holds[at].keys().any(|page| {
            let is_whole = |later: &BTreeMap<u32, bool>| later.get(page) == Some(&true);
            *page as usize <= model.pages.len() && !holds[at + 1..].iter().any(is_whole)
        });
        let lost = lost.index(steps.len());
        let batch = Batch { bytes, pages };
        let all_bytes: u64 = steps.iter().map(|(_, footer)| footer.index.end).sum();
        let all_pages: usize = steps.iter().map(|(_, footer)| footer.pages as usize).sum();
        let is_lost = !counts(lost) && (all_bytes > bytes || all_pages > pages);
        for batch in [Some(batch), Some(BATCH).filter(|_| !is_lost)].into_iter().flatten() {
            let database = tempfile::tempfile().unwrap();
            database.write_all_at(&base, 0).unwrap();
            if is_lost {
                // Its index is read, its pages are not.
                let (object, footer) = &steps[lost];
                let mut objects = memory.0.lock().unwrap();
                let stored = objects.get_mut(&object.object).unwrap();
                stored[..footer.index.start as usize].fill(0);
            }
            lay::all(&env, &repository, &steps, (&database, Path::new("app.db")), batch).unwrap();
            let mut laid = vec![0; database.metadata().unwrap().len() as usize];
            database.read_exact_at(&mut laid, 0).unwrap();
            prop_assert!(laid == wanted);
        }
    }
}
