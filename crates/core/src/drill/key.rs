//! The key of an installation, with which it signs what its drills showed.

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};

use crate::env::Env;
use crate::error::{Error, Kind, Result};

/// Bytes of a private key.
const SEED_BYTES: usize = 32;
/// Hexadecimal digits of the name of an installation.
const INSTALLATION_DIGITS: usize = 16;

/// An Ed25519 key (RFC 8032).
pub struct ProofKey {
    seed: [u8; SEED_BYTES],
    pair: Ed25519KeyPair,
}

impl ProofKey {
    /// A new one.
    pub fn new(env: &Env) -> Result<Self> {
        let mut seed = [0; SEED_BYTES];
        env.random.fill(&mut seed);
        ProofKey::of(seed)
    }

    /// Reads what [`ProofKey::to_text`] wrote.
    pub fn parse(text: &str) -> Result<Self> {
        let seed = unhex(text.trim()).and_then(|bytes| bytes.try_into().ok());
        match seed {
            Some(seed) => ProofKey::of(seed),
            None => Err(unusable()),
        }
    }

    fn of(seed: [u8; SEED_BYTES]) -> Result<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| unusable())?;
        Ok(ProofKey { seed, pair })
    }

    /// The private key as 64 hexadecimal digits and a newline: for a file that nobody else reads.
    pub fn to_text(&self) -> String {
        format!("{}\n", hex(&self.seed))
    }

    /// The public key, 64 hexadecimal digits.
    pub fn public(&self) -> String {
        hex(self.pair.public_key().as_ref())
    }

    /// The name of the installation that has it.
    pub fn installation(&self) -> String {
        installation_of(&self.public())
    }

    /// Signs: 128 hexadecimal digits.
    pub fn sign(&self, bytes: &[u8]) -> String {
        hex(self.pair.sign(bytes).as_ref())
    }
}

fn unusable() -> Error {
    Error::new(Kind::CheckFailed, "the key that signs proofs cannot be used")
        .hint("move its file away: the next drill makes a new key, and begins a new chain")
}

/// The name of the installation with that public key: what its chain of proofs lies under.
pub fn installation_of(public: &str) -> String {
    sha256(public.as_bytes())[..INSTALLATION_DIGITS].to_owned()
}

/// Whether a signature is of those bytes by that key.
pub(super) fn is_signed(public: &str, bytes: &[u8], signature: &str) -> bool {
    let (Some(public), Some(signature)) = (unhex(public), unhex(signature)) else { return false };
    UnparsedPublicKey::new(&ED25519, public).verify(bytes, &signature).is_ok()
}

/// The SHA-256 of bytes, 64 hexadecimal digits.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Hashes what goes by with SHA-256.
#[derive(Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// 64 hexadecimal digits.
    pub fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| {
            let [high, low] = *pair else { return None };
            let digit = |byte: u8| char::from(byte).to_digit(16);
            u8::try_from(digit(high)? * 16 + digit(low)?).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_the_standard() {
        // RFC 8032, section 7.1, test 2.
        let key =
            ProofKey::parse("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb\n")
                .unwrap();
        let public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
        assert_eq!(key.public(), public);
        let signature = key.sign(&[0x72]);
        assert!(signature.starts_with("92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8f"));
        assert!(is_signed(public, &[0x72], &signature));
        assert!(!is_signed(public, &[0x73], &signature));
        assert!(!is_signed(public, &[0x72], &signature[2..]));
        assert!(!is_signed("xx", &[0x72], &signature));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "00", "zz", "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb"]
        {
            assert!(ProofKey::parse(text).is_err(), "{text}");
        }
    }
}
