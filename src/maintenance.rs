//! The threads of a log's own, if any are wanted: one moves entries from the journal to the segments, one syncs.

use std::io;
use std::sync::{Arc, PoisonError, Weak};
use std::thread::{self, Builder, JoinHandle};
use std::time::Duration;

use crate::fs::Lock;
use crate::options::SyncPolicy;
use crate::parallel;
use crate::primitives::Mutex;
use crate::primitives::atomic::{AtomicBool, Ordering};
use crate::recovery;
use crate::store::Store;
use crate::streams::Streams;

#[derive(Debug)]
pub(crate) struct Maintenance {
    store: Arc<Store>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    over: Arc<AtomicBool>,
    lock: Weak<Mutex<Option<Box<dyn Lock>>>>,
}

/// The directory's lock, kept by the log and by its threads. Taken out in a forked child, where those do not exist.
pub(crate) type SharedLock = Arc<Mutex<Option<Box<dyn Lock>>>>;

impl Maintenance {
    /// No threads.
    pub(crate) fn none(store: &Arc<Store>) -> Self {
        Self {
            store: Arc::clone(store),
            threads: Mutex::default(),
            over: Arc::default(),
            lock: Weak::new(),
        }
    }

    /// Starts the threads that the options want. While they work, the directory stays locked.
    pub(crate) fn start(
        store: &Arc<Store>,
        streams: &Arc<Streams>,
        lock: &SharedLock,
    ) -> io::Result<Self> {
        let mut this = Self::none(store);
        this.lock = Arc::downgrade(lock);
        if store.bell.is_some() {
            let store = Arc::clone(store);
            this.spawn("keywal-maintenance", lock, move || store.keep_moving_on())?;
        }
        if let SyncPolicy::Every(interval) = store.options.sync_policy {
            let (store, streams) = (Arc::clone(store), Arc::clone(streams));
            let over = Arc::clone(&this.over);
            let work = move || keep_syncing(&store, &streams, interval, &over);
            this.spawn("keywal-sync", lock, work)?;
        }
        Ok(this)
    }

    fn spawn(
        &self,
        name: &str,
        lock: &SharedLock,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let lock = Arc::clone(lock);
        let thread = Builder::new().name(name.to_owned()).spawn(move || {
            parallel::be_a_logs_own();
            work();
            drop(lock);
        })?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// Returns once the threads have ended; on one of them, or one that works for it, at once: whom it wakes may let
    /// the last handle go.
    pub(crate) fn stop(&self) {
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        self.over.store(true, Ordering::Release);
        // Before any lock that a thread may have held when the process was forked.
        if self.store.check_process().is_err() {
            // A forked child has no such threads, but what they keep.
            if let Some(lock) = self.lock.upgrade() {
                lock.lock().unwrap_or_else(PoisonError::into_inner).take();
            }
            return;
        }
        if let Some(bell) = &self.store.bell {
            bell.dismiss();
        }
        for thread in threads {
            thread.thread().unpark();
            if !parallel::is_a_logs_own() {
                // It does not panic; and if it did, what it was for would be done by others.
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Syncs again and again. An error is that of the keys concerned, which are poisoned.
fn keep_syncing(store: &Store, streams: &Streams, interval: Duration, over: &AtomicBool) {
    loop {
        thread::park_timeout(interval);
        if over.load(Ordering::Acquire) {
            return;
        }
        let _ = recovery::check_rest(store, streams).and(streams.make_durable(store));
    }
}
