//! Doing something to many files with several threads, as each waits for the disk.

use std::io;
use std::thread::{self, Builder};

use crate::primitives::atomic::{AtomicUsize, Ordering};

/// From so many items on, several threads work on them.
const MANY: usize = 64;
/// How many, with the caller's. They wait for the disk, so there may be more of them than cores.
const WORKERS: usize = 16;

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
    let helpers = if all.len() < MANY { 0 } else { WORKERS - 1 };
    let results: Vec<(T, R)> = thread::scope(|scope| {
        // Without as many threads as wished it takes longer.
        let helpers: Vec<_> =
            (0..helpers).filter_map(|_| Builder::new().spawn_scoped(scope, work).ok()).collect();
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
