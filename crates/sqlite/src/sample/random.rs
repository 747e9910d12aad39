//! Randomness that a seed decides, and the unequal shares of real life.

/// A generator with 64 bits of state (SplitMix64). Not for secrets.
#[derive(Clone, Debug)]
pub struct Seeded {
    state: u64,
}

impl Seeded {
    /// The generator of that seed.
    pub fn new(seed: u64) -> Self {
        Seeded { state: seed }
    }

    /// The next 64 bits.
    #[expect(clippy::should_implement_trait, reason = "an endless stream needs no Option")]
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A number from 0 up to, not including, 1.
    pub fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Appends `count` random characters of an alphabet of 64.
    pub fn push_letters(&mut self, count: usize, into: &mut String) {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut bits = 0u64;
        for position in 0..count {
            if position % 10 == 0 {
                bits = self.next();
            }
            into.push(char::from(ALPHABET[(bits & 63) as usize]));
            bits >>= 6;
        }
    }
}

/// Picks one of n things, the first ones far more often: by Zipf's law.
#[derive(Clone, Debug)]
pub struct Zipf {
    /// The thing that each of equally likely slots stands for.
    slots: Vec<u32>,
}

impl Zipf {
    const SLOTS: usize = 1 << 16;

    /// `count` things (at least one, at most 65,536); the thing of rank r has weight r^-exponent.
    pub fn new(count: usize, exponent: f64) -> Self {
        let count = count.clamp(1, Self::SLOTS);
        let weight = |rank: usize| (rank as f64 + 1.0).powf(-exponent);
        let sum: f64 = (0..count).map(weight).sum();
        // Every thing has one slot, so that none is impossible; the rest go by weight.
        let spare = (Self::SLOTS - count) as f64;
        let mut slots = Vec::with_capacity(Self::SLOTS);
        let mut reached = 0.0;
        for rank in 0..count {
            reached += weight(rank) / sum;
            let end = (rank + 1 + (reached * spare).round() as usize).min(Self::SLOTS);
            slots.resize(end.max(slots.len()), rank as u32);
        }
        slots.resize(Self::SLOTS, count as u32 - 1);
        Zipf { slots }
    }

    /// The rank of one of them, from 0.
    pub fn pick(&self, random: &mut Seeded) -> usize {
        self.slots[random.below(Self::SLOTS as u64) as usize] as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_numbers_of_seed_0_are_those_of_splitmix64() {
        let mut random = Seeded::new(0);
        assert_eq!(random.next(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(random.next(), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn zipf_reaches_all_and_prefers_the_first() {
        let (zipf, mut random) = (Zipf::new(100, 1.0), Seeded::new(1));
        let mut seen = [0u32; 100];
        for _ in 0..1_000_000 {
            seen[zipf.pick(&mut random)] += 1;
        }
        assert!(seen.iter().all(|&count| count > 0), "{seen:?}");
        assert!(seen[0] > 150_000 && seen[0] < 230_000, "{}", seen[0]);
        assert!(seen[0] > seen[9] * 5, "{} {}", seen[0], seen[9]);
    }

    #[test]
    fn letters_are_as_many_as_asked() {
        let mut letters = String::new();
        Seeded::new(3).push_letters(32, &mut letters);
        assert_eq!(letters.len(), 32);
    }
}
