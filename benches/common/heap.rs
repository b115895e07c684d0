//! What memory a log takes: counted at the allocator, and as the operating system sees it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use keywal::{Wal, WalOptions};

use super::key;

/// Counts the bytes in use, in the process that measures memory; elsewhere that would only cost time.
struct Counting {
    on: AtomicBool,
    bytes: AtomicUsize,
}

#[global_allocator]
static HEAP: Counting = Counting { on: AtomicBool::new(false), bytes: AtomicUsize::new(0) };

impl Counting {
    /// Counts with what glibc spends on it: 8 bytes, and rounding up to 16, at least 32.
    fn count(&self, layout: Layout, direction: impl Fn(usize) -> usize) {
        if self.on.load(Ordering::Relaxed) {
            let bytes = (layout.size() + 8).next_multiple_of(16).max(32);
            self.bytes.fetch_add(direction(bytes), Ordering::Relaxed);
        }
    }
}

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.count(layout, |bytes| bytes);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.count(layout, usize::wrapping_neg);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Bytes that opening a log took, and opening it and using every key.
pub struct Memory {
    pub opened: usize,
    pub used: usize,
    /// Anonymous memory of the process: with what the allocator did not give back.
    pub used_anonymous: usize,
}

impl Memory {
    /// Opens the log in a process of its own, which calls [`Self::print`].
    pub fn of(dir: &Path) -> Self {
        let program = std::env::current_exe().expect("name of this program");
        let output = Command::new(program).arg("--memory").arg(dir).output().expect("start");
        let text = String::from_utf8_lossy(&output.stdout);
        let mut numbers = text.split_whitespace().map(|n| n.parse().expect("a number"));
        let mut next = || numbers.next().expect("three numbers");
        Self { opened: next(), used: next(), used_anonymous: next() }
    }

    pub fn print(dir: &Path) {
        let anonymous_before = anonymous();
        HEAP.on.store(true, Ordering::Relaxed);
        let wal = Wal::new(dir, WalOptions::default()).expect("open");
        let opened = HEAP.bytes.load(Ordering::Relaxed);
        for n in 0..wal.stats().keys {
            let key = key(usize::try_from(n).expect("a number of keys"));
            assert!(wal.next_index(key).expect("read") > 0);
        }
        let used = HEAP.bytes.load(Ordering::Relaxed);
        println!("{opened} {used} {}", anonymous() - anonymous_before);
    }
}

fn anonymous() -> usize {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = rollup.lines().find(|line| line.starts_with("Anonymous:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
    kib.unwrap_or(0) * 1024
}
