//! The sync gate under loom: every schedule of two threads, and of three every one in which a thread is
//! interrupted four times at most, not counting where it has to wait.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64 as Untracked;
use std::sync::atomic::Ordering::Relaxed;

use loom::model::Builder;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use crate::common::progress::Progress;
use crate::common::{Failures, env_number};
use crate::sync::{SyncError, SyncGate};

/// A file, as far as its syncs go. What loom does not track is how things are, whatever a thread sees.
struct File {
    gate: SyncGate,
    /// Entries written, as the appenders publish it.
    published: AtomicU64,
    written: Untracked,
    durable: Untracked,
    leaders: Untracked,
    syncs: Untracked,
    /// The number of the sync that fails.
    fails: u64,
}

impl File {
    fn new(fails: u64) -> Self {
        Self {
            gate: SyncGate::new(0),
            published: AtomicU64::new(0),
            written: Untracked::new(0),
            durable: Untracked::new(0),
            leaders: Untracked::new(0),
            syncs: Untracked::new(0),
            fails,
        }
    }

    /// The first thing a leader does. Another thread may go on at the load.
    fn covered(&self) -> u64 {
        assert_eq!(self.leaders.fetch_add(1, Relaxed), 0, "two leaders at once");
        self.published.load(Ordering::Acquire)
    }

    /// The last thing a leader does.
    fn sync(&self) -> io::Result<()> {
        self.leaders.fetch_sub(1, Relaxed);
        let number = self.syncs.fetch_add(1, Relaxed) + 1;
        assert!(number <= self.fails, "a sync after one that failed");
        if number == self.fails {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.durable.store(self.written.load(Relaxed), Relaxed);
        Ok(())
    }

    /// Writes an entry and waits until it is durable.
    fn log(&self) -> Result<(), SyncError> {
        let mark = self.published.fetch_add(1, Ordering::AcqRel) + 1;
        self.written.store(mark, Relaxed);
        let result = self.gate.wait_durable(mark, || self.covered(), || self.sync());
        if result.is_ok() {
            assert!(self.durable.load(Relaxed) >= mark, "acknowledged before it was synced");
        }
        result
    }
}

/// Threads, entries each of them logs, the sync that fails, whether one more thread shuts the gate.
const MODELS: [(usize, usize, Option<u64>, bool); 10] = [
    (2, 1, None, false),
    (2, 1, Some(1), false),
    (2, 2, Some(1), false),
    (2, 2, Some(2), false),
    (2, 1, None, true),
    (2, 1, Some(1), true),
    (3, 1, None, false),
    (3, 1, Some(1), false),
    (3, 1, Some(2), false),
    (2, 2, None, false),
];

/// Every schedule of `threads` threads that each log `entries`; `poisoned`: while one more thread
/// shuts the gate. Returns their number.
fn explore(threads: usize, entries: usize, fails: u64, poisoned: bool) -> u64 {
    let schedules = Arc::new(Untracked::new(0));
    let counter = Arc::clone(&schedules);
    let mut model = Builder::new();
    model.preemption_bound = (threads > 2).then_some(4);
    model.check(move || {
        counter.fetch_add(1, Relaxed);
        let file = Arc::new(File::new(fails));
        let log = move |file: &File| (0..entries).map(|_| file.log()).collect::<Vec<_>>();
        let others: Vec<_> = (1..threads)
            .map(|_| {
                let file = Arc::clone(&file);
                thread::spawn(move || log(&file))
            })
            .collect();
        let last = poisoned.then(|| {
            let file = Arc::clone(&file);
            thread::spawn(move || file.gate.poison())
        });
        let mut results = log(&file);
        results.extend(others.into_iter().flat_map(|other| other.join().unwrap()));
        if let Some(last) = last {
            last.join().unwrap();
        }
        let failed = file.syncs.load(Relaxed) == fails;
        let told = results.iter().filter(|result| matches!(result, Err(SyncError::Failed(_))));
        assert_eq!(told.count() > 0, failed, "{results:?}");
        assert_eq!(file.gate.is_poisoned(), failed || poisoned);
        assert!(failed || poisoned || results.iter().all(Result::is_ok), "{results:?}");
    });
    schedules.load(Relaxed)
}

#[test]
fn every_schedule_of_the_gate() {
    const NEVER: u64 = u64::MAX;
    let models = env_number("KEYWAL_MODELS").map_or(MODELS.len(), |n| usize::try_from(n).unwrap());
    let progress = Progress::new("gate", "models", models as u64);
    let mut schedules = 0;
    for (threads, entries, fails, poisoned) in MODELS.into_iter().take(models) {
        let more = explore(threads, entries, fails.unwrap_or(NEVER), poisoned);
        println!(
            "{threads} threads, {entries} entries, fails: {fails:?}, poisoned: {poisoned}: {more}"
        );
        schedules += more;
        progress.step(|| format!("{schedules} schedules"));
    }
    progress
        .figures(&[("models", progress.done()), ("schedules", schedules)], &Failures::default());
}
