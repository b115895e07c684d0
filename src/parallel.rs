//! Doing something to many files with several threads, as each waits for the disk.

use std::cell::Cell;
use std::io;
use std::thread::{self, Builder};

use crate::primitives::atomic::{AtomicUsize, Ordering};
use crate::primitives::thread_local;

/// From so many items on, several threads work on them.
const MANY: usize = 64;
/// How many, with the caller's. They wait for the disk, so there may be more of them than cores.
const WORKERS: usize = 16;

thread_local! {
    /// Whether this is a thread of a log's own, or works for one.
    static A_LOGS_OWN: Cell<bool> = const { Cell::new(false) };
}

/// Says so of this thread, from now on.
pub(crate) fn be_a_logs_own() {
    A_LOGS_OWN.with(|own| own.set(true));
}

/// Whether this thread works for a log alone, and not for a call of the log.
pub(crate) fn is_a_logs_own() -> bool {
    A_LOGS_OWN.with(Cell::get)
}

/// Does something to every item, in order unless there are many.
///
/// # Errors
/// A thread panicked.
pub(crate) fn for_each<T: Clone + Send + Sync, R: Send>(
    all: &[T],
    each: impl Fn(&T) -> R + Sync,
) -> io::Result<Vec<(T, R)>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut results = Vec::new();
        while let Some(item) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            results.push((item.clone(), each(item)));
        }
        results
    };
    let own = is_a_logs_own();
    let help = || {
        if own {
            be_a_logs_own();
        }
        work()
    };
    let helpers = if all.len() < MANY { 0 } else { WORKERS - 1 };
    let results: Vec<(T, R)> = thread::scope(|scope| {
        // Without as many threads as wished it takes longer.
        let helpers: Vec<_> =
            (0..helpers).filter_map(|_| Builder::new().spawn_scoped(scope, help).ok()).collect();
        let mut results = work();
        for helper in helpers {
            results.extend(helper.join().unwrap_or_default());
        }
        results
    });
    if results.len() < all.len() {
        return Err(io::Error::other("a thread that worked on many files panicked"));
    }
    Ok(results)
}
