//! The open segment files: at most `max_open_files` of them, least recently used ones closed first.
//!
//! Invariants:
//! * A file with unsynced bytes is in the cache, or known here as closed with them. So the cache knows
//!   everything that a sync of the directory has to sync.
//! * Closing such a file may lose the error of a later write-back. So only one is closed of which nobody was
//!   promised anything, and what a later sync of it says is not believed before its bytes have been read back
//!   from the disk.
//! * A segment has at most one [`Segment`] in the cache, because segments are opened and inserted under
//!   the catalog lock of their stream.
//! * A segment somebody works on is not evicted: new holders come only from here, under the lock.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use ahash::HashMap;

use crate::format::SegmentId;
use crate::primitives::atomic::{Ordering, fence};
use crate::primitives::{Mutex, MutexGuard};
use crate::scan;
use crate::segment::Segment;

/// How many files are tried in vain to make room for one before the bound is exceeded.
const MAX_FAILURES: u32 = 3;
/// How many more files are looked at to find one that can be closed without that.
const LOOK_ON: usize = 8;

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
    /// The files that were closed with unsynced bytes, by the hashes of their keys: a key has one at most.
    /// Those bytes are not before the offset.
    unsynced: BTreeMap<u64, (u32, u32)>,
}

/// The files with unsynced bytes.
#[derive(Debug)]
pub(crate) struct Unsynced {
    pub(crate) open: Vec<Arc<Segment>>,
    /// The hashes of the keys, and as [`FileCache::unsynced_from`].
    pub(crate) closed: Vec<(u64, u32)>,
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

    /// Closes files if need be, so that another one fits in; even one that has to be written to or synced
    /// first, which `write` does.
    pub(crate) fn make_room(&self, write: impl Fn(&Segment)) {
        let mut failures = 0;
        while failures < MAX_FAILURES {
            let mut inner = self.lock();
            if inner.ring.len() < self.max_open {
                return;
            }
            let Some(victim) = inner.victim() else { return };
            drop(inner);
            if !victim.may_be_closed() {
                write(&victim);
            }
            failures = failures.saturating_add(u32::from(!self.lock().close(&victim)));
        }
    }

    /// Takes in a segment that is appended to, whether there is room or not: see
    /// [`Self::make_room`].
    pub(crate) fn insert_writable(&self, segment: &Arc<Segment>) {
        self.lock().put(segment);
    }

    /// Takes in a segment that is only read, unless the cache is full of files that cannot be closed
    /// as they are: readers do not write. Then the caller's handle is the only one.
    pub(crate) fn insert_readable(&self, segment: &Arc<Segment>) {
        let mut inner = self.lock();
        if inner.ring.len() < self.max_open || inner.close_one() {
            inner.put(segment);
        }
    }

    /// If the file was closed with unsynced bytes: the offset before which everything survives power loss.
    pub(crate) fn unsynced_from(&self, id: SegmentId) -> Option<u32> {
        let found = self.lock().unsynced.get(&id.key_hash).copied();
        found.filter(|(sequence, _)| *sequence == id.sequence).map(|(_, durable)| durable)
    }

    /// The open segments of a key up to this one.
    pub(crate) fn up_to(&self, newest: SegmentId) -> Vec<Arc<Segment>> {
        let inner = self.lock();
        let ours = |id: SegmentId| id.key_hash == newest.key_hash && id.sequence <= newest.sequence;
        let open = inner.ring.iter().filter(|slot| ours(slot.segment.id));
        open.map(|slot| Arc::clone(&slot.segment)).collect()
    }

    /// Lets a segment go whose file is unlinked, or about to be. Who works on it still can: the file gets what
    /// only the journal has, which takes nothing from there for a segment that is not open.
    pub(crate) fn remove(&self, id: SegmentId) {
        let mut inner = self.lock();
        if let Some(segment) = inner.in_use(id) {
            drop(inner);
            // Else they get the error.
            let _ = segment.settle();
            inner = self.lock();
        }
        inner.take(id);
        inner.forget_unsynced(id);
    }

    /// What has unsynced bytes, at one moment: files are closed and opened again at any time.
    pub(crate) fn unsynced(&self) -> Unsynced {
        let inner = self.lock();
        let open = inner.ring.iter().filter(|slot| slot.segment.is_dirty());
        let closed = inner.unsynced.iter();
        Unsynced {
            open: open.map(|slot| Arc::clone(&slot.segment)).collect(),
            closed: closed.map(|(key_hash, (_, durable))| (*key_hash, *durable)).collect(),
        }
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
        *inner = Inner::default();
    }
}

impl Inner {
    fn put(&mut self, segment: &Arc<Segment>) {
        self.forget_unsynced(segment.id);
        self.slots.insert(segment.id, self.ring.len());
        self.ring.push(Slot { segment: Arc::clone(segment), used: true });
    }

    /// The segment, if somebody works on it.
    fn in_use(&self, id: SegmentId) -> Option<Arc<Segment>> {
        let segment = &self.ring.get(*self.slots.get(&id)?)?.segment;
        (Arc::strong_count(segment) > 1).then(|| Arc::clone(segment))
    }

    fn take(&mut self, id: SegmentId) {
        let Some(at) = self.slots.remove(&id) else { return };
        self.ring.swap_remove(at);
        if let Some(moved) = self.ring.get(at) {
            self.slots.insert(moved.segment.id, at);
        }
    }

    fn forget_unsynced(&mut self, id: SegmentId) {
        if self.unsynced.get(&id.key_hash).is_some_and(|(sequence, _)| *sequence == id.sequence) {
            self.unsynced.remove(&id.key_hash);
        }
    }

    /// The slot the hand points to next.
    fn advance(&mut self) -> usize {
        let next = self.hand.saturating_add(1);
        self.hand = if next < self.ring.len() { next } else { 0 };
        self.hand
    }

    /// The next file under the hand that is idle and has not been used since it last came by.
    fn next_idle(&mut self) -> Option<Arc<Segment>> {
        for _ in 0..self.ring.len().saturating_mul(2) {
            let at = self.advance();
            let slot = self.ring.get_mut(at)?;
            let idle = Arc::strong_count(&slot.segment) == 1 && !slot.segment.is_poisoned();
            if idle && !std::mem::take(&mut slot.used) {
                return Some(Arc::clone(&slot.segment));
            }
        }
        None
    }

    /// A file to close: as it is, if there is such a one near the hand.
    fn victim(&mut self) -> Option<Arc<Segment>> {
        let first = self.next_idle()?;
        if first.may_be_closed() {
            return Some(first);
        }
        for _ in 0..LOOK_ON {
            if let Some(other) = self.next_idle().filter(|other| other.may_be_closed()) {
                return Some(other);
            }
        }
        Some(first)
    }

    /// Closes one idle file that can be closed as it is; `false` if there is none.
    fn close_one(&mut self) -> bool {
        for _ in 0..self.ring.len().saturating_mul(2) {
            let Some(segment) = self.next_idle() else { return false };
            if self.close(&segment) {
                return true;
            }
        }
        false
    }

    /// Lets a file go that only the caller has in hand, if nothing keeps it open.
    fn close(&mut self, segment: &Arc<Segment>) -> bool {
        let id = segment.id;
        let cached = self.slots.get(&id).and_then(|at| self.ring.get(*at));
        let is_ours = cached.is_some_and(|slot| Arc::ptr_eq(&slot.segment, segment));
        if !is_ours || Arc::strong_count(segment) > 2 {
            return false;
        }
        // After whoever let it go last: the count alone does not bring what they did.
        fence(Ordering::Acquire);
        if !segment.may_be_closed() {
            return false;
        }
        if segment.is_dirty() {
            let durable = scan::reach(segment.durable_in_file());
            self.unsynced.insert(id.key_hash, (id.sequence, durable));
        }
        self.take(id);
        true
    }
}
