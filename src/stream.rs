//! One key's log: its segments in order, and where the next entry goes.
//!
//! Locks, in the order they are taken: `writer` (held while the key is appended to, rotated, compacted
//! or removed), then `catalog` (held to look up, open or drop a segment, never during a sync of this
//! key), then the file cache's. Readers of open segments take none of the first two.
//!
//! A stream starts *unloaded*, knowing only the names of its files; the first use reads the newest
//! segment. This is what makes opening a cleanly closed directory cheap.

#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

mod append;
mod chain;
mod discard;
mod expire;
mod limits;
mod load;

use std::ops::RangeInclusive;
use std::sync::{Arc, OnceLock, PoisonError, TryLockError};

use self::expire::Due;
pub(crate) use append::{Appended, Payload, Prepared, frame_bytes};
pub(crate) use expire::{Expired, Moment};
pub(crate) use load::Findings;

use crate::cuts::End;
use crate::error::{Result, WalError};
use crate::format::{SegmentId, SegmentName, label};
use crate::primitives::{Mutex, MutexGuard};
use crate::scan::{Tail, TailState};
use crate::segment::{AtomicExtent, Extent, GONE, OpenError, Segment};
use crate::store::Store;

/// One key's log. Small when idle: no descriptor, nothing per entry, four bytes a segment.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) hash: u64,
    /// Set once the stream is loaded: its key, or `None` if the files with this hash belong to nobody.
    owner: OnceLock<Option<Box<[u8]>>>,
    /// Of the newest segment. Grown under the writer lock.
    tail: AtomicExtent,
    writer: Mutex<Writer>,
    catalog: Mutex<Catalog>,
}

/// Where the next entry goes.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) phase: Phase,
    /// Highest sequence any file of this stream has or had.
    highest: u32,
    /// Sequence of the newest segment, in the phases that have one.
    newest: u32,
    /// The key was removed, and the file with this sequence still says so. 0: no file does.
    tombstone: u32,
    /// What that removal has left could not be unlinked, and the catalog does not have it. It goes before the
    /// key gets a new file.
    leftovers: bool,
    /// Timestamp of the newest entry; no later one is smaller.
    last_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing was read yet.
    Unloaded,
    /// There is no segment.
    Empty,
    /// The newest segment takes entries. `marked`: it ends with a mark.
    Active { marked: bool },
    /// The newest segment takes no more entries, but may be sealed: after a power loss, offsets behind
    /// its end may be in references to entries that are lost, and new entries must not meet those.
    Stale,
    /// The newest segment is not to be written to any more; the next entry starts a new one. Without a
    /// seal, it has a torn tail.
    Ended { sealed: bool },
    /// The newest segment is damaged so that the next index is not known.
    Damaged,
    /// Creating or removing a file failed half-way and could not be undone; only recovery can tell what
    /// is on the disk.
    Stuck,
    /// The stream is no longer in the map; whoever still holds it looks the key up again.
    Gone,
}

impl Writer {
    fn new(phase: Phase, highest: u32) -> Self {
        Self { phase, highest, newest: 0, tombstone: 0, leftovers: false, last_ms: 0 }
    }

    /// Highest sequence any file of the stream has or had.
    pub(crate) fn highest(&self) -> u32 {
        self.highest
    }

    /// Whether a file says that the key was removed.
    pub(crate) fn has_tombstone(&self) -> bool {
        self.tombstone != 0
    }

    /// Sequence of the file that says so.
    pub(crate) fn tombstone(&self) -> Option<u32> {
        Some(self.tombstone).filter(|tombstone| *tombstone != 0)
    }
}

/// The segments of the stream.
#[derive(Debug, Default)]
struct Catalog {
    /// In ascending order. Gaps are numbers that were never used.
    sequences: Box<[u32]>,
    /// The label in the file names, as long as the key is not known.
    label: Box<str>,
    due: Due,
}

impl Catalog {
    fn push(&mut self, sequence: u32) {
        let mut sequences = std::mem::take(&mut self.sequences).into_vec();
        sequences.push(sequence);
        self.sequences = sequences.into();
    }

    fn remove(&mut self, sequence: u32) {
        let mut sequences = std::mem::take(&mut self.sequences).into_vec();
        sequences.retain(|other| *other != sequence);
        self.sequences = sequences.into();
    }
}

impl Stream {
    /// A stream of files that were found.
    pub(crate) fn found(hash: u64, label: &str, sequences: Vec<u32>) -> Self {
        let highest = sequences.last().copied().unwrap_or(0);
        let catalog =
            Catalog { sequences: sequences.into(), label: label.into(), ..Catalog::default() };
        Self {
            hash,
            owner: OnceLock::new(),
            tail: AtomicExtent::default(),
            writer: Mutex::new(Writer::new(Phase::Unloaded, highest)),
            catalog: Mutex::new(catalog),
        }
    }

    /// A stream for a new key. `highest`: sequence of files with this hash that belong to nobody.
    pub(crate) fn new(hash: u64, key: &[u8], highest: u32) -> Self {
        Self {
            hash,
            owner: OnceLock::from(Some(key.into())),
            tail: AtomicExtent::default(),
            writer: Mutex::new(Writer::new(Phase::Empty, highest)),
            catalog: Mutex::default(),
        }
    }

    /// A place that no key has, though files with this hash were there.
    pub(crate) fn nobodys(hash: u64, highest: u32) -> Self {
        Self { owner: OnceLock::from(None), ..Self::new(hash, &[], highest) }
    }

    /// The key; `None` if the stream is not loaded, or belongs to nobody.
    pub(crate) fn key(&self) -> Option<&[u8]> {
        self.owner.get()?.as_deref()
    }

    /// Whether the files of a stream that cannot be loaded are named as those of `key`.
    pub(crate) fn is_labelled(&self, key: &[u8]) -> bool {
        *self.catalog().label == *label(key)
    }

    /// Whether the stream is loaded and its files belong to nobody.
    pub(crate) fn is_nobodys(&self) -> bool {
        self.owner.get().is_some_and(Option::is_none)
    }

    /// Whether the stream has entries, or had and still carries their numbers on.
    pub(crate) fn exists(&self) -> bool {
        self.segment_count() > 0
    }

    pub(crate) fn sequences(&self) -> Vec<u32> {
        self.catalog().sequences.to_vec()
    }

    pub(crate) fn segment_count(&self) -> usize {
        self.catalog().sequences.len()
    }

    pub(crate) fn writer(&self) -> MutexGuard<'_, Writer> {
        // Every change is made in one step at the end of a successful operation, so what a panic left
        // behind is the state before it.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file in doubt of a stream that nothing can be done with until recovery: a creation or a removal
    /// failed half-way. Does not wait: whoever works on such a stream is done at once.
    pub(crate) fn stuck_file(&self, store: &Store) -> Option<std::path::PathBuf> {
        let writer = match self.writer.try_lock() {
            Ok(writer) => writer,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        (writer.phase == Phase::Stuck).then(|| self.path(store, writer.highest))
    }

    fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes for a snapshot where the stream ends, if nobody has yet. The writer lock is held.
    pub(crate) fn note_end(&self, store: &Store, writer: &Writer, cut: u64) {
        let end = match writer.phase {
            Phase::Active { .. } | Phase::Stale | Phase::Ended { .. } => Some(End {
                sequence: writer.newest,
                extent: self.tail.load(),
                last_ms: writer.last_ms,
                sealed: writer.phase == Phase::Ended { sealed: true },
            }),
            _ => None,
        };
        store.cuts.note(cut, self.hash, end);
    }

    /// The newest segment and where it ends, for who looks at it later; `None` if that is not known.
    pub(crate) fn known_tail(&self, store: &Store) -> Option<(SegmentId, Tail)> {
        let writer = self.writer();
        if !matches!(writer.phase, Phase::Active { .. } | Phase::Stale | Phase::Ended { .. }) {
            return None;
        }
        let segment = store.files.get(self.id(writer.newest))?;
        let Extent { end, count } = self.tail.load();
        let timestamp = u32::try_from(writer.last_ms.saturating_sub(segment.created_ms)).ok()?;
        let state = match writer.phase {
            Phase::Ended { sealed: true } => TailState::Sealed,
            _ => TailState::Open,
        };
        Some((segment.id, Tail { end, count, timestamp, state }))
    }

    /// Lists the stream's files up to this one once more, for who does not keep others from changing them.
    /// Returns whether there are others than before.
    fn look_again(&self, store: &Store, through: u32, unused: &[u32]) -> Result<bool> {
        let mut now = self.list_again(store, 0..=through)?;
        now.retain(|sequence| !unused.contains(sequence));
        let changed = now != self.sequences() && !now.is_empty();
        if changed {
            self.catalog().sequences = now.into();
        }
        Ok(changed)
    }

    /// The stream's files with these numbers that are there now, in order.
    fn list_again(&self, store: &Store, numbers: RangeInclusive<u32>) -> Result<Vec<u32>> {
        let ours = self.key().map_or_else(|| self.catalog().label.to_string(), label);
        let mut now = Vec::new();
        let listed = store.dir.list(&mut |name| {
            let parsed = name.to_str().and_then(SegmentName::parse);
            if let Some(name) = parsed.filter(|name| name.key_hash == self.hash) {
                if ours == name.label && numbers.contains(&name.sequence) {
                    now.push(name.sequence);
                }
            }
        });
        listed.map_err(|source| WalError::io(store.dir.path(), "list the directory", source))?;
        now.sort_unstable();
        Ok(now)
    }

    /// The newest segment, open; `None` if the stream has none. The stream must be loaded.
    pub(crate) fn newest(&self, store: &Store) -> Result<Option<Arc<Segment>>> {
        loop {
            let Some(newest) = self.catalog().sequences.last().copied() else { return Ok(None) };
            match self.segment(store, newest) {
                // A newer one came and retention took this one, in between. To who only reads it does not show.
                Err(WalError::Expired) if store.reading.is_none() => {}
                result => return result.map(Some),
            }
        }
    }

    /// The segment with this sequence, open. The stream must be loaded.
    ///
    /// # Errors
    /// `Expired` if it was dropped, `InvalidRef` if there is no such one yet, `Corrupted` if it should be
    /// there and is not what it should be.
    pub(crate) fn segment(&self, store: &Store, sequence: u32) -> Result<Arc<Segment>> {
        let id = self.id(sequence);
        if let Some(segment) = store.files.get(id) {
            return Ok(segment);
        }
        let catalog = self.catalog();
        if let Some(segment) = store.files.get(id) {
            return Ok(segment);
        }
        let Ok(at) = catalog.sequences.binary_search(&sequence) else {
            // Below the newest, what is not there has been dropped, or lost before that.
            let dropped = catalog.sequences.last().is_none_or(|newest| sequence < *newest);
            return Err(if dropped { WalError::Expired } else { WalError::InvalidRef });
        };
        let segment = match catalog.sequences.get(at.saturating_add(1)..) {
            None | Some([]) => {
                let segment = self.open_file(store, sequence)?;
                let (extent, change) = (self.tail.load(), store.latest_name_change());
                match store.files.unsynced_from(id) {
                    None => segment.admit(extent, change),
                    Some(durable) => segment.admit_unsynced(extent, durable, change),
                }
            }
            Some(later) => self.open_sealed(store, sequence, later)?,
        };
        let segment = Arc::new(segment);
        store.files.insert_readable(&segment);
        Ok(segment)
    }

    /// The newest segment, open to be written to, which the cache then always holds: to the journal, a
    /// segment that is not there is one that has everything.
    fn segment_to_append(&self, store: &Store, writer: &Writer) -> Result<Arc<Segment>> {
        if let Some(segment) = store.files.get(self.id(writer.newest)) {
            return Ok(segment);
        }
        store.make_room_for_file();
        let Some(segment) = self.newest(store)? else { return Err(WalError::Expired) };
        let _catalog = self.catalog();
        if let Some(cached) = store.files.get(segment.id) {
            return Ok(cached);
        }
        // Others took the room.
        store.files.insert_writable(&segment);
        Ok(segment)
    }

    /// The newest segment, in the cache, if there is one: what a sync of a handle beside it has met would be
    /// known to nobody afterwards. The stream must be loaded.
    fn newest_to_sync(&self, store: &Store, writer: &Writer) -> Result<Option<Arc<Segment>>> {
        if self.exists() { self.segment_to_append(store, writer).map(Some) } else { Ok(None) }
    }

    /// Makes everything that was appended survive power loss. The stream must be loaded.
    pub(crate) fn sync(&self, store: &Store) -> Result<()> {
        let newest = self.newest_to_sync(store, &self.writer())?;
        newest.map_or(Ok(()), |newest| sync_segment(store, &newest))
    }

    /// As [`Self::sync`], by who holds the writer lock.
    pub(crate) fn sync_locked(&self, store: &Store, writer: &Writer) -> Result<()> {
        let newest = self.newest_to_sync(store, writer)?;
        newest.map_or(Ok(()), |newest| sync_segment(store, &newest))
    }

    /// Bytes of the newest segment from this offset on.
    pub(crate) fn bytes_from(&self, offset: u32) -> u32 {
        self.tail.load().end.saturating_sub(offset)
    }

    /// Opens a segment whose successor exists: that knows where it ends.
    fn open_sealed(&self, store: &Store, sequence: u32, later: &[u32]) -> Result<Segment> {
        let segment = self.open_file(store, sequence)?;
        for next in later {
            let successor = match store.files.get(self.id(*next)) {
                Some(open) => open,
                None => match self.open_unchecked(store, *next) {
                    Ok((segment, _)) => Arc::new(segment),
                    // Damaged, or a creation that a crash cut off: the next one may know better.
                    Err(OpenError::Header(_)) => continue,
                    Err(OpenError::Wal(error)) => return Err(error),
                },
            };
            if successor.previous_sequence != sequence {
                break;
            }
            let entries = successor.base_index.saturating_sub(segment.base_index);
            let count = u32::try_from(entries).unwrap_or(u32::MAX);
            return Ok(segment.admit(Extent { end: successor.previous_end, count }, 0));
        }
        // No successor tells: the frames have to.
        let extent = load::extent_by_scan(&segment)?;
        Ok(segment.admit(extent, 0))
    }

    /// Opens a file of this stream; anything but a good header is damage.
    fn open_file(&self, store: &Store, sequence: u32) -> Result<Segment> {
        match self.open_unchecked(store, sequence) {
            Ok((segment, _)) => Ok(segment),
            Err(OpenError::Wal(error)) => Err(error),
            // Whoever writes has dropped it.
            Err(OpenError::Header(GONE)) if store.reading.is_some() => Err(WalError::Expired),
            Err(OpenError::Header(reason)) => {
                let path = self.path(store, sequence);
                Err(WalError::Corrupted { path, offset: 0, bytes: 0, reason })
            }
        }
    }

    fn open_unchecked(
        &self,
        store: &Store,
        sequence: u32,
    ) -> std::result::Result<(Segment, crate::format::FileHeader), OpenError> {
        let id = self.id(sequence);
        let label = label(self.key().unwrap_or_default());
        let access = store.access(false);
        let (ring, overlay) = (store.ring.as_ref(), store.journal_of(id));
        Segment::open(&*store.dir, id, &label, store.directory_id, access, ring, overlay)
    }

    pub(crate) fn id(&self, sequence: u32) -> SegmentId {
        SegmentId { key_hash: self.hash, sequence }
    }

    /// The path of one of the stream's files. The stream must be loaded.
    pub(crate) fn path(&self, store: &Store, sequence: u32) -> std::path::PathBuf {
        store.dir.path().join(self.file_name(sequence))
    }

    pub(crate) fn file_name(&self, sequence: u32) -> String {
        self.id(sequence).file_name(&label(self.key().unwrap_or_default()))
    }
}

fn sync_segment(store: &Store, segment: &Segment) -> Result<()> {
    if segment.is_poisoned() {
        return Err(segment.poisoned());
    }
    store.make_durable(segment, segment.extent().end)
}
