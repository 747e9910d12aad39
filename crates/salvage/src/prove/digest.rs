//! What rows and index entries have in common, in a number that does not depend on their order: if
//! the sums are equal, each row has its entry, and each entry its row, but for a chance of one in
//! 2^64. It is no proof against someone who means harm, and neither is SQLite's own check.

use crate::record::Value;

const SEEDS: [u64; 4] =
    [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db, 0x8ebc_6af0_9c88_c6e3, 0x5899_65cc_7537_4cc3];

/// Entries, and the sum of their hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) entries: u64,
    sum: u64,
}

impl Digest {
    /// Takes an entry.
    pub(super) fn add<'a>(&mut self, values: impl Iterator<Item = Value<'a>>) {
        let hash = values.fold(SEEDS[0], |hash, value| with(hash, &value));
        self.entries += 1;
        self.sum = self.sum.wrapping_add(mix(hash ^ SEEDS[1], SEEDS[2]));
    }

    /// Takes all that another has.
    pub(super) fn join(&mut self, other: &Digest) {
        self.entries += other.entries;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

fn with(hash: u64, value: &Value<'_>) -> u64 {
    match *value {
        Value::Null => mix(hash ^ 1, SEEDS[3]),
        Value::Integer(number) => mix(hash ^ 2 ^ SEEDS[1], number as u64 ^ SEEDS[3]),
        // An index may keep a whole number as an integer where its table keeps another kind.
        Value::Real(real) => match as_integer(real) {
            Some(number) => with(hash, &Value::Integer(number)),
            None => mix(hash ^ 3 ^ SEEDS[1], real.to_bits() ^ SEEDS[3]),
        },
        Value::Text(bytes) => with_bytes(mix(hash ^ 4, SEEDS[3]), bytes),
        Value::Blob(bytes) => with_bytes(mix(hash ^ 5, SEEDS[3]), bytes),
    }
}

fn as_integer(real: f64) -> Option<i64> {
    let number = real as i64;
    (number as f64 == real && number != i64::MAX).then_some(number)
}

fn with_bytes(mut hash: u64, bytes: &[u8]) -> u64 {
    let (eights, rest) = bytes.as_chunks::<8>();
    for eight in eights {
        hash = mix(hash ^ u64::from_le_bytes(*eight), SEEDS[2]);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(hash ^ u64::from_le_bytes(last), SEEDS[1] ^ bytes.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rows: &[&[Value<'_>]]) -> Digest {
        let mut digest = Digest::default();
        rows.iter().for_each(|row| digest.add(row.iter().copied()));
        digest
    }

    #[test]
    fn the_order_of_entries_is_all_the_same_and_nothing_else_is() {
        let a = [Value::Text(b"a"), Value::Integer(1)];
        let b = [Value::Text(b"b"), Value::Integer(2)];
        assert_eq!(of(&[&a, &b]), of(&[&b, &a]));
        assert_ne!(of(&[&a]), of(&[&a, &a]));
        let crossed =
            [[Value::Text(b"a"), Value::Integer(2)], [Value::Text(b"b"), Value::Integer(1)]];
        assert_ne!(of(&[&a, &b]), of(&[&crossed[0], &crossed[1]]));
        let other = [
            [Value::Blob(b"a"), Value::Integer(1)],
            [Value::Text(b"a\0"), Value::Integer(1)],
            [Value::Text(b""), Value::Integer(1)],
            [Value::Null, Value::Integer(1)],
            [Value::Text(b"a"), Value::Real(1.5)],
        ];
        for other in &other {
            assert_ne!(of(&[&a]), of(&[other]), "{other:?}");
        }
        assert_eq!(of(&[&[Value::Real(-4.0)]]), of(&[&[Value::Integer(-4)]]));
        assert_ne!(of(&[&[Value::Real(1e300)]]), of(&[&[Value::Integer(i64::MAX)]]));
    }
}
