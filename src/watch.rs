//! Waking those who wait for news of a key: new entries, entries that have become durable, its end.
//!
//! Nobody who waits costs the others more than a look at a number, and no wake-up is lost:
//!
//! * Who waits [registers](Watcher::new), looks the stream up, takes and releases its writer lock once; then,
//!   as often as need be, [arms](Signal::arm) the signal, looks at the log, and waits for the signal if
//!   there is nothing.
//! * Who changes the log does so, then asks [whether anybody is registered](Watch::is_watched), and wakes.
//!
//! Between arming and waiting nothing gets lost, because a signal that is set stays set. What has to be
//! shown is that a change which the look misses finds the signal registered:
//!
//! * An append asks under the writer lock. If it has the lock before the one who waits has taken it, that
//!   one sees the entries; if later, the lock has shown it the registration. So a relaxed load will do.
//! * If the look-up found no stream, the one that comes is put in the map under the lock of a shard that
//!   the look-up has held before. So all its appends see the registration.
//! * Who has no lock in common with those who wait (a sync, a shutdown) puts a fence between the change
//!   and the question; registering puts one before the first look. One of them sees what the other did.

#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use ahash::HashMap;

use crate::primitives::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use crate::primitives::{Condvar, Mutex, MutexGuard};

/// Appends to a key ask for those who watch it or one of a few others.
#[cfg(not(keywal_loom))]
const BUCKETS: u64 = 64;
#[cfg(keywal_loom)]
const BUCKETS: u64 = 1;

/// All who wait for news of a key of this log.
#[derive(Debug)]
pub(crate) struct Watch {
    buckets: Box<[Bucket]>,
    /// The streams that syncs are wanted of; `None` once there are no more syncs.
    #[cfg(feature = "async")]
    wanted: Mutex<Option<Wanted>>,
    #[cfg(feature = "async")]
    more_wanted: Condvar,
}

/// A queue without repetitions.
#[cfg(feature = "async")]
#[derive(Debug, Default)]
struct Wanted {
    queue: std::collections::VecDeque<u64>,
    all: ahash::HashSet<u64>,
}

#[derive(Debug)]
struct Bucket {
    /// How many signals there are. Changed under the lock of `signals`.
    count: AtomicUsize,
    /// By the hash of a stream.
    signals: Mutex<HashMap<u64, Vec<Arc<Signal>>>>,
}

/// What one who waits is waiting for.
#[derive(Debug)]
pub(crate) struct Signal {
    key: Box<[u8]>,
    /// `State::end` is set.
    ended: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Something has changed since the signal was armed.
    news: bool,
    end: Option<End>,
    #[cfg(feature = "async")]
    waker: Option<std::task::Waker>,
}

/// Why there will be no more news.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Cancelled,
    /// The key was removed; what has its name now is another log.
    Removed,
    /// The key takes no more entries until the directory is reopened, because of this file.
    Stuck(PathBuf),
}

impl Watch {
    pub(crate) fn new() -> Self {
        let bucket =
            |_| Bucket { count: AtomicUsize::new(0), signals: Mutex::new(HashMap::default()) };
        Self {
            buckets: (0..BUCKETS).map(bucket).collect(),
            #[cfg(feature = "async")]
            wanted: Mutex::new(Some(Wanted::default())),
            #[cfg(feature = "async")]
            more_wanted: Condvar::new(),
        }
    }

    fn bucket(&self, hash: u64) -> &Bucket {
        let at = hash.checked_rem(BUCKETS).and_then(|at| usize::try_from(at).ok());
        #[expect(clippy::indexing_slicing, reason = "below BUCKETS")]
        &self.buckets[at.unwrap_or(0)]
    }

    /// Whether anybody may wait for news of this stream. Sure for who holds its writer lock.
    #[inline]
    pub(crate) fn is_watched(&self, hash: u64) -> bool {
        self.bucket(hash).count.load(Ordering::Relaxed) != 0
    }

    /// Wakes those who wait for news of this stream.
    pub(crate) fn wake(&self, hash: u64) {
        let signals = self.bucket(hash).lock().get(&hash).cloned().unwrap_or_default();
        wake(&signals);
    }

    /// As [`Self::wake`], for who did not ask under the stream's writer lock whether anybody watches it.
    pub(crate) fn changed(&self, hash: u64) {
        fence(Ordering::SeqCst);
        if self.is_watched(hash) {
            self.wake(hash);
        }
    }

    /// Wakes everybody, also those who wait for work: the log has been closed.
    pub(crate) fn close(&self) {
        #[cfg(feature = "async")]
        {
            *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.more_wanted.notify_all();
        }
        self.wake_all();
    }

    /// Wakes everybody.
    pub(crate) fn wake_all(&self) {
        for bucket in &*self.buckets {
            let signals: Vec<Arc<Signal>> = bucket.lock().values().flatten().cloned().collect();
            wake(&signals);
        }
    }

    /// Tells those who watch a key that nothing more comes. They are to be woken afterwards.
    pub(crate) fn end(&self, hash: u64, key: &[u8], end: &End) {
        if !self.is_watched(hash) {
            return;
        }
        let signals = self.bucket(hash).lock();
        let of_key = signals.get(&hash).into_iter().flatten().filter(|signal| *signal.key == *key);
        for signal in of_key {
            signal.end_with(end.clone());
        }
    }
}

/// Syncs that are wanted of a thread that does nothing else.
#[cfg(feature = "async")]
impl Watch {
    /// Asks for a sync of this stream.
    pub(crate) fn want(&self, hash: u64) {
        let mut state = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(wanted) = state.as_mut() else { return };
        if wanted.all.insert(hash) {
            wanted.queue.push_back(hash);
            drop(state);
            self.more_wanted.notify_one();
        }
    }

    /// The stream that has waited longest for a sync: waits for one, until the log is closed.
    pub(crate) fn wanted(&self) -> Option<u64> {
        let mut state = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let wanted = state.as_mut()?;
            if let Some(hash) = wanted.queue.pop_front() {
                wanted.all.remove(&hash);
                return Some(hash);
            }
            state = self.more_wanted.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn wake(signals: &[Arc<Signal>]) {
    for signal in signals {
        signal.set();
    }
}

impl Bucket {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Vec<Arc<Signal>>>> {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, hash: u64, signal: &Arc<Signal>) {
        let mut signals = self.lock();
        signals.entry(hash).or_default().push(Arc::clone(signal));
        self.count.fetch_add(1, Ordering::Relaxed);
        drop(signals);
        fence(Ordering::SeqCst);
    }

    fn unregister(&self, hash: u64, signal: &Arc<Signal>) {
        let mut signals = self.lock();
        if let Some(of_hash) = signals.get_mut(&hash) {
            of_hash.retain(|other| !Arc::ptr_eq(other, signal));
            if of_hash.is_empty() {
                signals.remove(&hash);
            }
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Signal {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Forgets the news so far: the log is about to be looked at.
    pub(crate) fn arm(&self) {
        self.lock().news = false;
    }

    /// As [`Self::arm`], and calls the waker at the next news.
    #[cfg(feature = "async")]
    pub(crate) fn arm_with(&self, waker: &std::task::Waker) {
        let mut state = self.lock();
        state.news = false;
        state.waker = Some(waker.clone());
    }

    /// Waits for news since the signal was armed; `false` if there are none at the deadline.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> bool {
        let mut state = self.lock();
        while !state.news {
            state = match deadline {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return false;
                    }
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        true
    }

    fn set(&self) {
        let mut state = self.lock();
        state.news = true;
        #[cfg(feature = "async")]
        let waker = state.waker.take();
        drop(state);
        self.changed.notify_all();
        #[cfg(feature = "async")]
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn end_with(&self, end: End) {
        self.lock().end.get_or_insert(end);
        self.ended.store(true, Ordering::Release);
    }

    pub(crate) fn cancel(&self) {
        self.end_with(End::Cancelled);
        self.set();
    }

    /// Why nothing more comes, if so.
    pub(crate) fn end(&self) -> Option<End> {
        if self.ended.load(Ordering::Acquire) { self.lock().end.clone() } else { None }
    }
}

/// A registered signal; dropping it takes it out again.
#[derive(Debug)]
pub(crate) struct Watcher {
    watch: Arc<Watch>,
    signal: Arc<Signal>,
    /// The hash of the key.
    hash: u64,
    /// That of its stream, if it is another one.
    other: Option<u64>,
}

impl Watcher {
    pub(crate) fn new(watch: &Arc<Watch>, key: &[u8], hash: u64) -> Self {
        let signal = Arc::new(Signal {
            key: key.into(),
            ended: AtomicBool::new(false),
            state: Mutex::new(State {
                news: false,
                end: None,
                #[cfg(feature = "async")]
                waker: None,
            }),
            changed: Condvar::new(),
        });
        watch.bucket(hash).register(hash, &signal);
        Self { watch: Arc::clone(watch), signal, hash, other: None }
    }

    pub(crate) fn signal(&self) -> &Arc<Signal> {
        &self.signal
    }

    /// Watches this stream, which is found under another hash than its key has, too.
    pub(crate) fn watch_also(&mut self, hash: u64) {
        if hash != self.hash && self.other != Some(hash) {
            self.watch.bucket(hash).register(hash, &self.signal);
            if let Some(before) = self.other.replace(hash) {
                self.watch.bucket(before).unregister(before, &self.signal);
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        for hash in [Some(self.hash), self.other].into_iter().flatten() {
            self.watch.bucket(hash).unregister(hash, &self.signal);
        }
    }
}
