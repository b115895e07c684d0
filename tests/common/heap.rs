//! An allocator that knows how much is held, and stops the program if that is more than it may be.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// To be made the `#[global_allocator]`. While a buffer grows, the old and the new one count.
pub struct Counting;

// SAFETY: hands everything on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        let limit = LIMIT.load(Relaxed);
        // What a failure has to say may take what it needs.
        if live > limit && !std::thread::panicking() {
            LIMIT.store(usize::MAX, Relaxed);
            eprintln!("{live} bytes on the heap with {} more; allowed: {limit}", layout.size());
            std::process::abort();
        }
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// The most bytes that were on the heap during `work`, beyond those at its start.
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let start = LIVE.load(Relaxed);
    PEAK.store(start, Relaxed);
    let done = work();
    (done, PEAK.load(Relaxed) - start)
}

/// Stops the program as soon as `work` holds more than `bytes`. One call at a time.
pub fn within<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let _lifted = Lifted;
    LIMIT.store(LIVE.load(Relaxed) + bytes, Relaxed);
    work()
}

/// Lifts the limit when it goes, also after a panic.
struct Lifted;

impl Drop for Lifted {
    fn drop(&mut self) {
        LIMIT.store(usize::MAX, Relaxed);
    }
}
