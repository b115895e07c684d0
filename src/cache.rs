//! The open segment files: at most `max_open_files` of them, least recently used ones closed first.
//!
//! Invariants:
//! * A file with unsynced bytes is in the cache and stays open: closing it would lose the error of a
//!   later write-back. So the cache also knows everything that a sync of the directory has to sync.
//! * A segment has at most one [`Segment`] in the cache, because segments are opened and inserted under
//!   the catalog lock of their stream.
//! * A segment somebody works on is not evicted: new holders come only from here, under the lock.

use std::sync::{Arc, PoisonError};

use ahash::HashMap;

use crate::format::SegmentId;
use crate::primitives::{Mutex, MutexGuard};
use crate::segment::Segment;

/// How many files are synced at most to make room for one before the bound is exceeded.
const MAX_SYNCS: usize = 3;

#[derive(Debug)]
pub(crate) struct FileCache {
    max_open: usize,
    inner: Mutex<Inner>,
}

/// The CLOCK algorithm: a ring of slots, a hand, and one bit a slot that says "used since the hand
/// last came by".
#[derive(Debug, Default)]
struct Inner {
    slots: HashMap<SegmentId, usize>,
    ring: Vec<Slot>,
    hand: usize,
}

#[derive(Debug)]
struct Slot {
    segment: Arc<Segment>,
    used: bool,
}

impl FileCache {
    pub(crate) fn new(max_open: usize) -> Self {
        Self { max_open, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().ring.len()
    }

    pub(crate) fn get(&self, id: SegmentId) -> Option<Arc<Segment>> {
        let mut inner = self.lock();
        let at = *inner.slots.get(&id)?;
        let slot = inner.ring.get_mut(at)?;
        slot.used = true;
        Some(Arc::clone(&slot.segment))
    }

    /// Closes a file if need be, so that another one fits in; even one that has to be synced first.
    pub(crate) fn make_room(&self, sync: impl Fn(&Segment)) {
        for _ in 0..MAX_SYNCS {
            let mut inner = self.lock();
            if inner.make_room(self.max_open) {
                return;
            }
            let Some(victim) = inner.dirty_victim() else { return };
            drop(inner);
            sync(&victim);
        }
    }

    /// Takes in a segment that is appended to, whether there is room or not: see
    /// [`Self::make_room`].
    pub(crate) fn insert_writable(&self, segment: &Arc<Segment>) {
        self.lock().put(segment);
    }

    /// Takes in a segment that is only read, unless the cache is full of files that cannot be closed
    /// without a sync: readers do not wait for those. Then the caller's handle is the only one.
    pub(crate) fn insert_readable(&self, segment: &Arc<Segment>) {
        let mut inner = self.lock();
        if inner.make_room(self.max_open) {
            inner.put(segment);
        }
    }

    /// Lets a segment go whose file is about to be unlinked. Who works on it still can: the file gets what
    /// only the journal has, which takes nothing from there for a segment that is not open.
    pub(crate) fn remove(&self, id: SegmentId) {
        if let Some(segment) = self.get(id).filter(|segment| Arc::strong_count(segment) > 2) {
            // Else they get the error.
            let _ = segment.settle();
        }
        self.lock().take(id);
    }

    /// All open segments with unsynced bytes.
    pub(crate) fn dirty(&self) -> Vec<Arc<Segment>> {
        let inner = self.lock();
        let dirty = inner.ring.iter().filter(|slot| slot.segment.is_dirty());
        dirty.map(|slot| Arc::clone(&slot.segment)).collect()
    }

    /// All segments with a failed sync: they stay open.
    pub(crate) fn poisoned(&self) -> Vec<Arc<Segment>> {
        let inner = self.lock();
        let poisoned = inner.ring.iter().filter(|slot| slot.segment.is_poisoned());
        poisoned.map(|slot| Arc::clone(&slot.segment)).collect()
    }

    /// Closes every file that nobody works on.
    pub(crate) fn clear(&self) {
        let mut inner = self.lock();
        inner.slots.clear();
        inner.ring.clear();
    }
}

impl Inner {
    fn put(&mut self, segment: &Arc<Segment>) {
        self.slots.insert(segment.id, self.ring.len());
        self.ring.push(Slot { segment: Arc::clone(segment), used: true });
    }

    fn take(&mut self, id: SegmentId) {
        let Some(at) = self.slots.remove(&id) else { return };
        self.ring.swap_remove(at);
        if let Some(moved) = self.ring.get(at) {
            self.slots.insert(moved.segment.id, at);
        }
    }

    fn make_room(&mut self, max_open: usize) -> bool {
        self.ring.len() < max_open || self.evict_clean()
    }

    /// The slot the hand points to next.
    fn advance(&mut self) -> usize {
        let next = self.hand.saturating_add(1);
        self.hand = if next < self.ring.len() { next } else { 0 };
        self.hand
    }

    /// Closes one file that is idle and synced; `false` if there is none.
    fn evict_clean(&mut self) -> bool {
        for _ in 0..self.ring.len().saturating_mul(2) {
            let at = self.advance();
            let Some(slot) = self.ring.get_mut(at) else { return false };
            let idle = Arc::strong_count(&slot.segment) == 1;
            if !idle || slot.segment.is_dirty() || slot.segment.is_poisoned() {
                continue;
            }
            if !std::mem::take(&mut slot.used) {
                let id = slot.segment.id;
                self.take(id);
                return true;
            }
        }
        false
    }

    /// An idle file that could be closed once it is synced, the next one under the hand.
    fn dirty_victim(&mut self) -> Option<Arc<Segment>> {
        for _ in 0..self.ring.len() {
            let at = self.advance();
            let slot = self.ring.get(at)?;
            if Arc::strong_count(&slot.segment) == 1 && !slot.segment.is_poisoned() {
                return Some(Arc::clone(&slot.segment));
            }
        }
        None
    }
}
