//! Waking under loom: is there a schedule of an appender, a syncer and one who waits in which that one
//! waits for ever?

use std::sync::Arc;
use std::sync::atomic::AtomicU64 as Untracked;
use std::sync::atomic::Ordering::Relaxed;

use loom::model::Builder;
use loom::sync::Mutex;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread;

use crate::watch::{End, Watch, Watcher};

const HASH: u64 = 7;
const KEY: &[u8] = b"k";

/// A log, as far as those who wait see it.
struct Log {
    watch: Arc<Watch>,
    writer: Mutex<()>,
    published: AtomicU64,
    durable: AtomicU64,
    closed: AtomicBool,
}

impl Log {
    fn new() -> Self {
        Self {
            watch: Arc::new(Watch::new()),
            writer: Mutex::new(()),
            published: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }
    }

    fn append(&self) {
        let writer = self.writer.lock().unwrap();
        let entries = self.published.load(Ordering::Relaxed) + 1;
        self.published.store(entries, Ordering::Release);
        let watched = self.watch.is_watched(HASH);
        drop(writer);
        if watched {
            self.watch.wake(HASH);
        }
    }

    fn sync(&self) {
        self.durable.fetch_max(self.published.load(Ordering::Acquire), Ordering::AcqRel);
        self.watch.changed(HASH);
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.watch.close();
    }

    fn remove(&self) {
        let writer = self.writer.lock().unwrap();
        self.watch.end(HASH, KEY, &End::Removed);
        drop(writer);
        self.watch.changed(HASH);
    }

    /// Waits until there are so many entries in `mark`; `false` if the log came to an end.
    fn follow(&self, watcher: &Watcher, mark: &AtomicU64, entries: u64) -> bool {
        drop(self.writer.lock().unwrap());
        loop {
            watcher.signal().arm();
            if self.closed.load(Ordering::Acquire) || watcher.signal().end().is_some() {
                return false;
            }
            if mark.load(Ordering::Acquire) >= entries {
                return true;
            }
            assert!(watcher.signal().wait(None));
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Append,
    AppendAndSync,
    Close,
    Remove,
    Cancel,
}

fn act(log: &Log, watcher: Option<&Watcher>, act: Act) {
    match act {
        Act::Append => log.append(),
        Act::AppendAndSync => {
            log.append();
            log.sync();
        }
        Act::Close => log.close(),
        Act::Remove => log.remove(),
        Act::Cancel => watcher.unwrap().signal().cancel(),
    }
}

/// What the other threads do, whether it is durable entries that are waited for, and how many.
const MODELS: [(&[Act], bool, u64); 8] = [
    (&[Act::Append], false, 1),
    (&[Act::AppendAndSync], true, 1),
    (&[Act::Append, Act::Append], false, 2),
    (&[Act::AppendAndSync, Act::AppendAndSync], true, 2),
    (&[Act::Close], false, 1),
    (&[Act::Remove], true, 1),
    (&[Act::Cancel], false, 1),
    (&[Act::Append, Act::Close], false, 2),
];

#[test]
fn nobody_waits_for_ever() {
    for (acts, durable, entries) in MODELS {
        let schedules = Arc::new(Untracked::new(0));
        let counter = Arc::clone(&schedules);
        let mut model = Builder::new();
        model.preemption_bound = (acts.len() > 1).then_some(3);
        model.check(move || {
            counter.fetch_add(1, Relaxed);
            let log = Arc::new(Log::new());
            let register = |log: &Log| Arc::new(Watcher::new(&log.watch, KEY, HASH));
            // Removing and cancelling end what is there; all else may happen before.
            let ends = acts.iter().any(|act| matches!(act, Act::Remove | Act::Cancel));
            let early = ends.then(|| register(&log));
            let others: Vec<_> = acts
                .iter()
                .map(|what| {
                    let (log, early) = (Arc::clone(&log), early.clone());
                    thread::spawn(move || act(&log, early.as_deref(), *what))
                })
                .collect();
            let own = early.unwrap_or_else(|| register(&log));
            let mark = if durable { &log.durable } else { &log.published };
            let found = log.follow(&own, mark, entries);
            let appends = acts.iter().all(|act| matches!(act, Act::Append | Act::AppendAndSync));
            assert_eq!(found, appends);
            others.into_iter().for_each(|other| other.join().unwrap());
        });
        println!("{acts:?}, durable: {durable}: {} schedules", schedules.load(Relaxed));
    }
}
