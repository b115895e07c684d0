//! Noticing that this process is a forked child.
//!
//! A child shares the parent's lock and files, but neither its mutexes nor what they guard, so it may not
//! write. Asking for the process number costs a system call for every append, a quarter of the append
//! itself. The C library's `fork` can count instead; what forks without it is noticed at the next sync or
//! new segment, where the number is asked for.
//!
//! Beside `fs/map.rs`, the one file of the crate with `unsafe`: a single call of the C library.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Forks that led to this process since it began to count.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// Whether the C library counts.
static COUNTING: OnceLock<bool> = OnceLock::new();

extern "C" fn count_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

type Handler = Option<extern "C" fn()>;

unsafe extern "C" {
    fn pthread_atfork(prepare: Handler, parent: Handler, child: Handler) -> c_int;
}

/// The process in which it was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process {
    id: u32,
    forks: Option<u64>,
}

impl Process {
    pub(crate) fn current() -> Self {
        let counting = *COUNTING.get_or_init(|| {
            // SAFETY: the signature is POSIX's. The handler is a function of this program that never goes
            // away, and adds to an atomic: safe in the child of a process with threads.
            let register = || unsafe { pthread_atfork(None, None, Some(count_fork)) };
            // Miri has no such call.
            cfg!(not(miri)) && register() == 0
        });
        let forks = counting.then(|| FORKS.load(Ordering::Relaxed));
        Self { id: std::process::id(), forks }
    }

    /// Whether this is still that process. Costs a load where the C library counts.
    pub(crate) fn is_probably_current(&self) -> bool {
        match self.forks {
            Some(forks) => forks == FORKS.load(Ordering::Relaxed),
            None => self.is_current(),
        }
    }

    /// As [`Self::is_probably_current`], whatever way a process may have forked. Costs a system call.
    pub(crate) fn is_current(&self) -> bool {
        self.id == std::process::id()
    }
}
