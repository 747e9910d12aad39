//! Replicas that Litestream 0.5 wrote: read, verified, restored, and carried on in our format.
//!
//! A replica is a folder `ltx` with a folder for each level, and in these are files that are named
//! after the transactions they cover. Litestream's own restore to a time takes what it finds and
//! stops where a file is missing, with success; here every way to a state is proved to be whole
//! first.
//!
//! | file | duty |
//! |---|---|
//! | `crc64` | the checksum of a file |
//! | `ltx` | one file, to the byte |
//! | `replica` | the files of a replica: which states they lead to, where some are missing |
//! | `replay` | making the database of a state |
//! | `import` | a replica's states as a backup of ours and its log |

mod crc64;
mod import;
mod ltx;
mod replay;
mod replica;

pub use self::import::{Imported, import};
pub use self::replay::ReplicaReplay;
pub use self::replica::{Damage, Replica, ReplicaState, Target};
