//! CRC-64 with the polynomial of ISO 3309, as Go's `hash/crc64` has it: eight bytes at a time.

/// The polynomial, its bits reversed.
const POLYNOMIAL: u64 = 0xd800_0000_0000_0000;

static TABLES: [[u64; 256]; 8] = tables();

const fn tables() -> [[u64; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        tables[0][byte] = value;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = tables[0][(before & 0xff) as usize] ^ (before >> 8);
            byte += 1;
        }
        table += 1;
    }
    tables
}

/// A checksum over what was added so far.
#[derive(Clone, Debug)]
pub(super) struct Crc64(u64);

impl Crc64 {
    pub(super) fn new() -> Self {
        Crc64(!0)
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        let mut value = self.0;
        let (eights, rest) = bytes.as_chunks::<8>();
        for &eight in eights {
            let mixed = (value ^ u64::from_le_bytes(eight)).to_le_bytes();
            value = 0;
            for (place, byte) in mixed.into_iter().enumerate() {
                value ^= TABLES[7 - place][usize::from(byte)];
            }
        }
        for byte in rest {
            value = TABLES[0][usize::from(*byte ^ value as u8)] ^ (value >> 8);
        }
        self.0 = value;
    }

    pub(super) fn sum(&self) -> u64 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_known_checksum_however_the_bytes_are_cut() {
        let of = |parts: &[&[u8]]| {
            let mut crc = Crc64::new();
            parts.iter().for_each(|part| crc.add(part));
            crc.sum()
        };
        // The check value of CRC-64/GO-ISO.
        assert_eq!(of(&[b"123456789"]), 0xb909_56c7_75a4_1001);
        assert_eq!(of(&[b"1", b"23456789"]), 0xb909_56c7_75a4_1001);
        assert_eq!(of(&[]), 0);
    }
}
