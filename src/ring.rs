//! The journal's memory: a file of fixed size that is written round and round, one record behind the
//! other, under one short lock.
//!
//! Positions count bytes since the directory was opened and never go back; a record stands in the file at
//! its position modulo the capacity. The records from `tail` to `head` are in use; everything before
//! `tail` is in the segments, and durable there if somebody was promised that, or stands once more behind it.
//! `free_to` is how far `head` may go: it lags behind `tail + capacity` as long as a power cut could still make
//! recovery look for promised records behind an older tail, and until a record names this one: a process may die
//! while it writes over what the older one led to.

#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

mod room;
mod undo;

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use ahash::{HashMap, HashMapExt, HashSet};

use crate::fork::Process;
use crate::format::{Body, Record, RecordHeader, Seed, SegmentId};
use crate::fs::{Dir, File, Mapping, OpenMode, len_u64, read_full, write_full};
use crate::observe::{self, Synced};
use crate::primitives::atomic::{AtomicU64, Ordering};
use crate::primitives::{Mutex, MutexGuard};
use crate::report::Counters;
use crate::sync::{SyncError, SyncGate};

/// Name of the journal's file.
pub(crate) const JOURNAL_NAME: &str = "JOURNAL";
/// How the file is filled with zeros: on ext4 each page is then one of its own in the page cache, and not part of a
/// larger one (a folio), and a sync of a page that was touched costs a third.
const FILL_BYTES: usize = 4096;
/// Longest body of a record: above this, a copy through the journal gains nothing.
const MAX_BODY_BYTES: u64 = 64 << 10;
/// With so many bytes for each segment, waiting for more saves less than a tenth: the rest of a write is copying them.
const WORTH_A_WRITE: u64 = 16 << 10;
/// No position.
pub(crate) const NOWHERE: u64 = u64::MAX;

/// A record to append, and what goes behind its header.
pub(crate) struct Piece<'a> {
    pub(crate) record: Record,
    pub(crate) previous: Previous<'a>,
    pub(crate) parts: &'a [&'a [u8]],
}

/// The segment's record before one that is appended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Previous<'a> {
    None,
    /// The one whose position this is, or [`NOWHERE`]; read under the lock, as others may append before.
    Newest(&'a AtomicU64),
    /// That of the piece before.
    Piece,
}

#[derive(Debug)]
pub(crate) struct Ring {
    file: Box<dyn File>,
    /// `None` where the file cannot be mapped: then it is written and read by position.
    memory: Option<Box<dyn Mapping>>,
    pub(crate) path: PathBuf,
    capacity: u64,
    /// Number of the directory, with which the records' checksums begin. No key of the log.
    key: u64,
    epoch: u32,
    process: Process,
    state: Mutex<State>,
    /// As in `state`, for who does not hold the lock.
    head: AtomicU64,
    tail: AtomicU64,
    /// Marks are positions.
    gate: SyncGate,
    counters: Arc<Counters>,
    /// Held by whoever moves records on to their segments.
    pub(crate) moving: Mutex<()>,
    /// Records before this are in their segments. As `State::waiting` has it, for who does not hold the lock.
    moved: AtomicU64,
    /// Once the head is here, records have to be moved on.
    due: AtomicU64,
    /// So many bytes go past the journal before room is made for them again.
    past: AtomicU64,
}

#[derive(Debug)]
struct State {
    head: u64,
    tail: u64,
    free_to: u64,
    /// The tail that the last record names.
    named_tail: u64,
    /// A tail that a durable record names.
    durable_tail: u64,
    /// Records before this have been promised to survive power loss.
    promised: u64,
    /// Segments with promised bytes in the journal, and up to where those reach. They have to be durable before
    /// those go.
    segments: HashMap<SegmentId, u64>,
    /// Names promised to survive because the journal knows them.
    names: u64,
    /// The segments that do not have all their records yet: no such record of theirs is before this position.
    waiting: BTreeSet<Waiting>,
}

/// A segment that waits for its records, from a position on.
pub(crate) type Waiting = (u64, SegmentId);

/// A promise that a segment's bytes survive once the journal does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Promise {
    pub(crate) segment: SegmentId,
    /// The segment's name is promised, too.
    pub(crate) name: bool,
}

/// Promises, and what tells from the tail whether they can be given: the journal must have all that is
/// missing elsewhere.
pub(crate) type Promises<'a> = (&'a [Promise], &'a dyn Fn(u64) -> bool);

pub(crate) const NO_PROMISES: Promises<'static> = (&[], &|_| true);

/// What [`Ring::append`] comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Appended,
    /// Space has to be made first, or nothing is taken any more.
    NoRoom,
    /// What comes before has to be made durable in the segment first.
    NotAllowed,
    /// A write failed, and could not be taken back: recovery may find all of the records, and nothing is taken any more.
    InDoubt,
}

impl State {
    /// Records before this are in their segments.
    fn moved(&self) -> u64 {
        self.waiting.first().map_or(self.head, |(position, _)| *position)
    }

    fn note(&mut self, promise: Promise, mark: u64) {
        self.promised = self.promised.max(mark);
        let reach = self.segments.entry(promise.segment).or_default();
        *reach = mark.max(*reach);
        self.names = self.names.saturating_add(u64::from(promise.name));
    }
}

/// What [`Ring::retire`] comes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Retired {
    /// These have been promised something since: make them durable, then call again.
    First(Vec<SegmentId>),
    /// Names have been promised: make them durable, say how many there were, call again.
    Names(u64),
    /// Done, and the space can be used again.
    Free,
    /// Done, and the space can be used again once the record that names this new tail is durable: sync the journal.
    FreeAfter(u64),
    /// No record names the new tail yet: append one, then call again.
    Unnamed,
}

impl Ring {
    /// Opens the journal's file, an empty one of `capacity` bytes, which is a power of two. What an
    /// existing file of this size holds is of no use to anybody any more. The name waits for a sync of
    /// the directory.
    pub(crate) fn open(
        dir: &dyn Dir,
        capacity: u64,
        key: u64,
        epoch: u32,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        let file = match dir.open(JOURNAL_NAME, OpenMode::Write) {
            Ok(file) if file.len()? == capacity => {
                // A copy may have holes: a store into one would be the first to hear of a full disk.
                match file.allocate(capacity) {
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => return Err(error),
                    _ => file,
                }
            }
            Ok(_) => {
                dir.remove(JOURNAL_NAME)?;
                Self::create(dir, capacity)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(dir, capacity)?,
            Err(error) => return Err(error),
        };
        let memory = usize::try_from(capacity).ok().and_then(|bytes| file.map(bytes).ok());
        Ok(Self {
            file,
            memory,
            path: dir.path().join(JOURNAL_NAME),
            capacity,
            key,
            epoch,
            process: Process::current(),
            state: Mutex::new(State {
                head: 0,
                tail: 0,
                free_to: capacity,
                named_tail: 0,
                durable_tail: 0,
                promised: 0,
                segments: HashMap::new(),
                names: 0,
                waiting: BTreeSet::new(),
            }),
            head: AtomicU64::new(0),
            tail: AtomicU64::new(0),
            gate: SyncGate::new(0),
            counters,
            moving: Mutex::new(()),
            moved: AtomicU64::new(0),
            due: AtomicU64::new(capacity / 4),
            past: AtomicU64::new(0),
        })
    }

    /// A file of zeros, all of it on the disk: a full disk is noticed here, and never by a store.
    fn create(dir: &dyn Dir, capacity: u64) -> io::Result<Box<dyn File>> {
        let file = dir.open(JOURNAL_NAME, OpenMode::CreateNew)?;
        let write_zeros = || {
            let zeros = [0; FILL_BYTES];
            let mut at = 0;
            while at < capacity {
                write_full(&*file, &mut [IoSlice::new(&zeros)], at)?;
                at = at.saturating_add(len_u64(FILL_BYTES));
            }
            file.sync_data()
        };
        if let Err(error) = write_zeros() {
            let _ = dir.remove(JOURNAL_NAME);
            return Err(error);
        }
        Ok(file)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is made in one step, so what a panic left behind is consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Position behind the last record.
    pub(crate) fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    /// Position of the oldest record in use.
    pub(crate) fn tail(&self) -> u64 {
        self.tail.load(Ordering::Acquire)
    }

    /// Bytes of records that have yet to be moved on to their segments: these at most.
    pub(crate) fn backlog(&self) -> u64 {
        self.head().saturating_sub(self.moved.load(Ordering::Relaxed))
    }

    /// Whether there is so much to move on that it should be done: enough for each of the segments, or as much as
    /// the journal has room for.
    pub(crate) fn is_due(&self) -> bool {
        self.head() >= self.due.load(Ordering::Relaxed)
    }

    /// Works out when records are to be moved on, for who does not hold the lock. At most half, or a quarter where
    /// something is promised: with what was moved on and has not left the journal yet, all of that may be of one
    /// segment that has to be carried on, which takes room.
    fn update_due(&self, state: &State) {
        let (moved, segments) = (state.moved(), len_u64(state.waiting.len()));
        let least = self.capacity / 4;
        let most = if state.segments.is_empty() { self.capacity / 2 } else { least };
        let wanted = segments.saturating_mul(WORTH_A_WRITE).clamp(least, most);
        self.moved.store(moved, Ordering::Relaxed);
        self.due.store(moved.saturating_add(wanted), Ordering::Relaxed);
    }

    /// Whether a sync or a write has failed: nothing is appended any more.
    pub(crate) fn is_dead(&self) -> bool {
        self.gate.is_poisoned()
    }

    /// Why nothing is appended any more.
    pub(crate) fn why_dead(&self) -> Option<String> {
        self.gate.why()
    }

    /// Whether this process may move records on: a forked child may not.
    pub(crate) fn is_ours(&self) -> bool {
        self.process.is_probably_current()
    }

    // ---- appending ----

    /// Appends records, all or none; recovery sees them so, too, if all but the last continue. `placed`
    /// is told where each one stands before anybody else can see it, and says whether it is the oldest that the segment
    /// waits for. With promises, as [`Self::promise`] has them, for what comes before the
    /// records and for themselves.
    pub(crate) fn append(
        &self,
        pieces: &[Piece<'_>],
        promises: Promises<'_>,
        placed: impl FnMut(usize, &RecordHeader) -> bool,
    ) -> io::Result<Outcome> {
        self.append_leaving_room(true, pieces, promises, placed)
    }

    /// As [`Self::append`], into the space that others leave: what was promised and would leave the journal, and what
    /// has to go there although that has taken more than half.
    pub(crate) fn append_again(
        &self,
        pieces: &[Piece<'_>],
        promises: Promises<'_>,
        placed: impl FnMut(usize, &RecordHeader) -> bool,
    ) -> io::Result<Outcome> {
        self.append_leaving_room(false, pieces, promises, placed)
    }

    #[inline]
    fn append_leaving_room(
        &self,
        leave_room: bool,
        pieces: &[Piece<'_>],
        (promises, allowed): Promises<'_>,
        mut placed: impl FnMut(usize, &RecordHeader) -> bool,
    ) -> io::Result<Outcome> {
        let bytes: u64 = pieces.iter().map(|piece| piece.record.bytes()).sum();
        let mut state = self.lock();
        let reserve = if leave_room {
            let to_be_carried = !(promises.is_empty() && state.segments.is_empty());
            let reserve = pieces.iter().map(|piece| self.reserve(piece.record.body, to_be_carried));
            reserve.max().unwrap_or(0)
        } else {
            // For the record that names the new tail.
            Record::bytes_for(0)
        };
        let end = state.head.saturating_add(bytes);
        if end.saturating_add(reserve) > state.free_to || self.is_dead() {
            return Ok(Outcome::NoRoom);
        }
        if !promises.is_empty() && !allowed(state.tail) {
            return Ok(Outcome::NotAllowed);
        }
        let tail = state.tail;
        let start = (state.head, NOWHERE);
        let headers = pieces.iter().scan(start, |(position, before), piece| {
            let previous = match piece.previous {
                Previous::None => NOWHERE,
                Previous::Newest(newest) => newest.load(Ordering::Acquire),
                Previous::Piece => *before,
            };
            let header = self.header(tail, piece.record, previous, *position);
            (*position, *before) = (header.next(), header.position);
            Some(header)
        });
        // Bytes that no header leads to need not be undone, which would take space, too.
        let mut position = state.head;
        for piece in pieces {
            self.put_body(position, piece.parts)?;
            position = position.saturating_add(piece.record.bytes());
        }
        for header in headers.clone() {
            if let Err(error) = self.store(header.position, &header.to_bytes(self.key)) {
                let begun = headers.take_while(|begun| begun.position <= header.position);
                return if self.undo(begun) { Err(error) } else { Ok(Outcome::InDoubt) };
            }
        }
        for (at, header) in headers.enumerate() {
            if placed(at, &header) {
                state.waiting.insert((header.position, header.record.segment));
            }
        }
        for promise in promises {
            state.note(*promise, end);
        }
        state.head = end;
        state.named_tail = tail;
        self.head.store(end, Ordering::Release);
        self.update_due(&state);
        Ok(Outcome::Appended)
    }

    fn header(&self, tail: u64, record: Record, previous: u64, position: u64) -> RecordHeader {
        let back = |to: u64| u32::try_from(position.saturating_sub(to)).unwrap_or(u32::MAX);
        RecordHeader {
            record,
            position,
            epoch: self.epoch,
            back: if previous == NOWHERE { 0 } else { back(previous) },
            tail_back: back(tail),
            durable_back: back(self.gate.durable()),
        }
    }

    fn put_body(&self, position: u64, parts: &[&[u8]]) -> io::Result<()> {
        let start = position.saturating_add(RecordHeader::BYTES_U64);
        let put = |at: u64, part: &&[u8]| {
            self.store(at, part).map(|()| at.saturating_add(len_u64(part.len())))
        };
        parts.iter().try_fold(start, put).map(drop)
    }

    // ---- moving on ----

    /// The segment that waits for the oldest record, or else up to where no segment waits for any.
    pub(crate) fn oldest_waiting(&self) -> Result<Waiting, u64> {
        let state = self.lock();
        state.waiting.first().copied().ok_or(state.head)
    }

    /// Takes note that a segment has its records. `rest` says from where on it waits for more: no record is
    /// appended meanwhile.
    pub(crate) fn moved_on(&self, waiting: Waiting, rest: impl FnOnce() -> Option<u64>) {
        let mut state = self.lock();
        state.waiting.remove(&waiting);
        state.waiting.extend(rest().map(|position| (position, waiting.1)));
        self.update_due(&state);
    }

    // ---- memory ----

    /// Splits a range of positions where the file ends.
    fn places(&self, position: u64, bytes: usize) -> [(u64, std::ops::Range<usize>); 2] {
        let start = position & self.capacity.saturating_sub(1);
        let room = self.capacity.saturating_sub(start);
        let first = usize::try_from(room).unwrap_or(usize::MAX).min(bytes);
        [(start, 0..first), (0, first..bytes)]
    }

    fn store(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        for (offset, range) in self.places(position, bytes.len()) {
            let Some(part @ [_, ..]) = bytes.get(range) else { continue };
            match (&self.memory, usize::try_from(offset)) {
                (Some(memory), Ok(offset)) => memory.store(offset, part),
                _ => write_full(&*self.file, &mut [IoSlice::new(part)], offset)?,
            }
        }
        Ok(())
    }

    /// As long as this is held, nobody appends, so any record may be loaded, in use or not.
    pub(crate) fn hold(&self) -> impl Drop + '_ {
        self.lock()
    }

    /// Copies bytes out of records in use, which nobody writes over, or under [`Self::hold`].
    pub(crate) fn load(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        for (offset, range) in self.places(position, buffer.len()) {
            let Some(part @ [_, ..]) = buffer.get_mut(range) else { continue };
            match (&self.memory, usize::try_from(offset)) {
                (Some(memory), Ok(offset)) => memory.load(offset, part),
                _ => drop(read_full(&*self.file, part, offset)?),
            }
        }
        Ok(())
    }

    /// The header of the record at a position.
    pub(crate) fn header_at(&self, position: u64) -> io::Result<RecordHeader> {
        let mut bytes = [0; RecordHeader::BYTES];
        self.load(position, &mut bytes)?;
        match RecordHeader::from_bytes(&bytes, self.key) {
            Ok(header) if header.position == position && header.epoch == self.epoch => Ok(header),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a record of the journal is gone")),
        }
    }

    // ---- durability ----

    /// Promises that what a segment has in the journal up to `mark` will be in the segment, and durable
    /// there, before it leaves the journal. `false`: it is not allowed any more.
    pub(crate) fn promise(
        &self,
        promise: Promise,
        mark: u64,
        allowed: impl FnOnce(u64) -> bool,
    ) -> bool {
        let mut state = self.lock();
        let given = !self.is_dead() && allowed(state.tail);
        if given {
            state.note(promise, mark);
            self.update_due(&state);
        }
        given
    }

    /// Returns once every record before `mark` survives power loss.
    pub(crate) fn wait_durable(&self, mark: u64) -> Result<(), SyncError> {
        let sync = || {
            let sync = || self.file.sync_data();
            observe::time_sync(&self.counters, Synced::Journal, &self.path, sync)
        };
        // Under the lock: the mark may be that of records which are being appended.
        self.gate.wait_durable(mark, || self.lock().head, sync)
    }

    /// Every record before this survives power loss.
    pub(crate) fn durable(&self) -> u64 {
        self.gate.durable()
    }

    /// Gives the space of all records before `to` back; they are in their segments. `checked` are the
    /// segments known to be durable as far as those records go, `names` the number of promised names
    /// that have been made durable.
    pub(crate) fn retire(&self, to: u64, checked: &HashSet<SegmentId>, names: u64) -> Retired {
        let mut state = self.lock();
        // What is promised behind a tail knows it.
        if to > state.tail {
            let mut first: Vec<SegmentId> =
                state.segments.keys().filter(|id| !checked.contains(id)).copied().collect();
            // The same calls in the same order each time, whatever the hasher.
            first.sort_unstable();
            if !first.is_empty() {
                return Retired::First(first);
            }
            if state.names != names {
                return Retired::Names(state.names);
            }
            state.names = 0;
            state.tail = to;
            self.tail.store(to, Ordering::Release);
        }
        if state.named_tail < state.tail {
            return Retired::Unnamed;
        }
        // Recovery would start from the older tail: it must not miss promised records behind it, nor take
        // what has been used again for damage. (A sync may have ended since it was named, and there is room for one
        // more record only if this one makes some.)
        if state.promised > state.tail || self.gate.durable() > state.durable_tail {
            return Retired::FreeAfter(state.tail);
        }
        state.free_to = state.tail.saturating_add(self.capacity);
        Retired::Free
    }

    /// Lets the space before `tail` be used again: a record that names this tail is durable.
    pub(crate) fn free(&self, tail: u64) {
        let mut state = self.lock();
        state.durable_tail = state.durable_tail.max(tail);
        state.free_to = state.free_to.max(tail.saturating_add(self.capacity));
    }

    /// Forgets promises to segments that `is_kept` says are durable as far as they were promised to be.
    pub(crate) fn forget(&self, is_kept: impl Fn(SegmentId, u64) -> bool) {
        let mut state = self.lock();
        state.segments.retain(|id, mark| !is_kept(*id, *mark));
        self.update_due(&state);
    }
}

/// A record without bytes of its own.
pub(crate) fn bare(body: Body, segment: SegmentId) -> Piece<'static> {
    let seed = Seed::of_nonce(0);
    let record = Record {
        body,
        continues: false,
        segment,
        offset: 0,
        seed,
        body_bytes: 0,
        body_checksum: 0,
    };
    Piece { record, previous: Previous::None, parts: &[] }
}
