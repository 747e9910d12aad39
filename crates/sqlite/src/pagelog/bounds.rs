//! The bounds of a follower.

/// So small a part of what a `-wal` may grow by is waited for where nothing needs be held.
const HELD_PART: u64 = 4;

/// The bounds of a follower.
#[derive(Clone, Copy, Debug)]
pub struct FollowBounds {
    /// How large the `-wal` may be while we keep it from beginning anew, in bytes: the checkpoint
    /// after that is as large, and a commit waits for it.
    pub pinned_wal_bytes_max: u64,
    /// By how much it may grow while all pages are compared, in bytes.
    pub compared_wal_bytes_max: u64,
    /// How long we keep it from beginning anew, in milliseconds.
    pub pinned_ms_max: u64,
    /// Databases that are smaller are compared instead of being kept from it, in bytes.
    pub pinned_from_bytes: u64,
    /// After so long without a change, that there was none is written down, in milliseconds.
    pub heartbeat_ms: u64,
    /// After all pages were compared, so many times as long as that took they are not again. In
    /// WAL mode, where nobody waits for it.
    pub compare_pause_wal: u64,
    /// The same where writers wait meanwhile.
    pub compare_pause_rollback: u64,
    /// A writer of so many bytes a second in the `-wal` is in a hurry: no state is held.
    pub rush_from_bytes: u64,
    /// After so long what was collected of such a writer is stored, in milliseconds.
    pub store_every_ms: u64,
    /// What is kept of such a writer in memory, collected or being stored, in bytes.
    pub collected_bytes_max: usize,
    /// What is put aside of more than that, in bytes: never more than a quarter of the space that
    /// is free there. Of what goes beyond it only page numbers are kept.
    pub aside_bytes_max: u64,
}

impl FollowBounds {
    /// By how much the `-wal` may grow while a state is held and all pages are compared, in bytes:
    /// less where they can be compared without holding one. A writer that is so fast waits for its
    /// next checkpoint, the longer the more there is to copy.
    pub(super) fn held_wal_bytes_max(&self) -> u64 {
        match self.rush_from_bytes < u64::MAX {
            true => self.compared_wal_bytes_max / HELD_PART,
            false => self.compared_wal_bytes_max,
        }
    }
}

/// When a follower should look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// When its time has come.
    Calm,
    /// Sooner, if the `-wal` has grown by much.
    Watched,
    /// Within hundredths of a second.
    Hurried,
}

impl Default for FollowBounds {
    fn default() -> Self {
        FollowBounds {
            pinned_wal_bytes_max: 8 << 20,
            compared_wal_bytes_max: 64 << 20,
            pinned_ms_max: 10 * 60_000,
            pinned_from_bytes: 32 << 20,
            heartbeat_ms: 60_000,
            compare_pause_wal: 3,
            compare_pause_rollback: 20,
            rush_from_bytes: 4 << 20,
            store_every_ms: 1_000,
            collected_bytes_max: 28 << 20,
            aside_bytes_max: 2 << 30,
        }
    }
}
