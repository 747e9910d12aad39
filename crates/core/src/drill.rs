//! Drills: what a rehearsed restore showed, signed, chained and stored.
//!
//! A drill itself is a restore like any other, to a scratch place, plus checks; the program that
//! knows the databases makes it. Here is what remains of it: the record, the key that signs it,
//! and the chain in the repository in which no proof can be changed, removed or moved unseen.

mod chain;
mod key;
mod record;

pub use chain::{
    Chain, Finding, Head, Link, RightOnes, append, chains, chains_again, mark, verify,
};
pub use key::{Hasher, ProofKey, installation_of};
pub use record::{DrillCheck, DrillRecord, Drilled, FORMAT, Outcome, Phase, Proof};
