//! Signals that ask for an end: caught, so that a run can leave nothing behind.
//!
//! The handler only writes down which signal came. A second one ends the process at once, as it
//! would without us. What was ignored when the program was started (`nohup`) stays ignored.

use std::sync::atomic::{AtomicU8, Ordering};

use lifeboat_core::stop::{INTERRUPT, Stop, TERMINATE};
use lifeboat_core::{Error, Kind};

/// Zero, or the exit code of the signal that was caught first.
static CAUGHT: AtomicU8 = AtomicU8::new(0);

extern "C" fn write_down(signal: libc::c_int) {
    let code = if signal == libc::SIGINT { INTERRUPT } else { TERMINATE };
    // Nothing else is allowed here: no lock, no allocation.
    let _ = CAUGHT.compare_exchange(0, code, Ordering::Relaxed, Ordering::Relaxed);
}

/// Catches SIGINT, SIGTERM and SIGHUP from now on; what is given back says whether one came.
pub(crate) fn catch() -> Stop {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the structs are plain data for which zeros are valid; both pointers live through
        // the calls; the handler does what a handler may do.
        unsafe {
            let mut before: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &mut before);
            if before.sa_sigaction == libc::SIG_IGN {
                continue;
            }
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = write_down as *const () as libc::sighandler_t;
            // Once only: the second signal finds the default again. Calls that wait are resumed.
            action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
    Stop::at_signal(&CAUGHT)
}

/// Whether a signal was caught.
pub(crate) fn is_caught() -> bool {
    CAUGHT.load(Ordering::Relaxed) != 0
}

/// Whether that is no failure, but the end that somebody asked for.
pub(crate) fn is_end(error: &Error) -> bool {
    matches!(error.kind(), Kind::Interrupted | Kind::Terminated)
}
