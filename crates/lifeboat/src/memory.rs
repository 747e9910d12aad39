//! The memory of processes that live for months and mostly wait.
//!
//! The system's allocator gives each thread a heap of its own, and keeps what was freed there. That
//! makes a short run faster; in a process whose threads each did something large once, it is all
//! that it ever takes.

/// So many heaps are enough: two threads at work are not in each other's way.
#[cfg(target_env = "gnu")]
const ARENAS: i32 = 2;

/// From now on threads share a few heaps. To be said before there are others.
pub(crate) fn share_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a bound of the allocator, and touches nothing else.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}

/// Gives memory that is free back to the system, which else keeps it for the next time.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time, and touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
