//! Where all streams end at one moment, found out without stopping anybody.
//!
//! [`Cuts::begin`] raises a flag: that is the moment. Who appends afterwards finds it raised, under the
//! stream's writer lock, and first notes where the stream ends; who takes the cut comes by every stream,
//! takes the same lock and notes that, too. The first note of a stream counts. So an entry is before the cut
//! if and only if its appender looked at the flag before it was raised: if an entry is, so is every one
//! that was acknowledged before it was begun, whatever their keys.

use std::sync::PoisonError;

use ahash::HashMap;

use crate::primitives::atomic::{AtomicU64, Ordering};
use crate::primitives::{Mutex, MutexGuard};
use crate::segment::Extent;

/// Where a stream ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    /// Of the newest segment.
    pub(crate) sequence: u32,
    pub(crate) extent: Extent,
    /// Timestamp of the newest entry.
    pub(crate) last_ms: u64,
    /// The newest segment ends with a seal.
    pub(crate) sealed: bool,
}

/// By key hash; `None`: the stream has no segment.
pub(crate) type Ends = HashMap<u64, Option<End>>;

#[derive(Debug, Default)]
pub(crate) struct Cuts {
    /// Number of the cut that is being taken, 0 = none is.
    wanted: AtomicU64,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    /// The cut they are for. Who is late with a note for an earlier one must not be heard.
    cut: u64,
    ends: Ends,
}

impl Cuts {
    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cut for which the end of a stream is to be noted, if there is one. To be asked under the
    /// stream's writer lock, before it is appended to.
    pub(crate) fn wanted(&self) -> Option<u64> {
        Some(self.wanted.load(Ordering::SeqCst)).filter(|cut| *cut != 0)
    }

    /// Notes where a stream ends, whose writer lock is held. The first note of a cut counts.
    pub(crate) fn note(&self, cut: u64, key_hash: u64, end: Option<End>) {
        let mut notes = self.lock();
        if notes.cut == cut {
            notes.ends.entry(key_hash).or_insert(end);
        }
    }

    /// Raises the flag. One cut at a time: the caller sees to that.
    pub(crate) fn begin(&self) -> Cutting<'_> {
        let mut notes = self.lock();
        notes.cut = notes.cut.saturating_add(1);
        let cut = notes.cut;
        drop(notes);
        self.wanted.store(cut, Ordering::SeqCst);
        Cutting { cuts: self, cut }
    }
}

/// A cut that is being taken. When dropped, nobody notes anything any more.
pub(crate) struct Cutting<'a> {
    cuts: &'a Cuts,
    pub(crate) cut: u64,
}

impl Cutting<'_> {
    /// The notes, once every stream has been come by.
    pub(crate) fn finish(self) -> Ends {
        self.cuts.wanted.store(0, Ordering::SeqCst);
        std::mem::take(&mut self.cuts.lock().ends)
    }
}

impl Drop for Cutting<'_> {
    fn drop(&mut self) {
        self.cuts.wanted.store(0, Ordering::SeqCst);
        let mut notes = self.cuts.lock();
        // Whoever is late with a note finds another number.
        notes.cut = notes.cut.saturating_add(1);
        notes.ends = Ends::default();
    }
}
