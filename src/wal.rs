//! [`Wal`]: the calls a user makes.

use std::cell::RefCell;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::chains::{Node, Present};
use crate::entries::{Entries, Records, entry_in};
use crate::entry::{Entry, EntryRef, EntrySlice, Key};
use crate::error::{Result, WalError};
use crate::format::{FrameFlags, FrameHeader, MAX_KEY_BYTES, SegmentName};
use crate::fs::{Dir, Lock, OsDir, len_u64};
use crate::options::{Durability, WalOptions};
use crate::recovery::{self, LOCK_NAME, Opened};
use crate::report::{
    CompactionReport, Finding, KeyStats, MAX_LISTED, RecoveryReport, SegmentInfo, Stats, count,
};
use crate::retention::{ClockGuard, drop_through_ms};
use crate::segment::{Segment, SegmentId};
use crate::store::{META_NAME, Store};
use crate::stream::{Appended, Expiry, Payload, Phase, Stream, frame_bytes};
use crate::streams::Streams;

/// Entries above this size are returned in the buffer they were read into, smaller ones are copied out
/// of one that is used again.
const OWN_BUFFER_BYTES: usize = 16 << 10;

thread_local! {
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A directory that holds, for every key, a log of entries.
///
/// Share it between threads by reference or in an [`Arc`]: all calls take `&self`. Appends to different
/// keys run in parallel; readers never wait for an appender's sync.
///
/// See the [crate documentation](crate) for what is promised.
#[derive(Debug)]
pub struct Wal {
    store: Store,
    streams: Streams,
    recovery: RecoveryReport,
    clock_guard: Mutex<ClockGuard>,
    /// Released when the log is shut down or dropped.
    lock: Mutex<Option<Box<dyn Lock>>>,
}

impl Wal {
    /// Opens the directory, creating it and its parents if they are missing, and recovers what it
    /// holds.
    ///
    /// After a clean [`shutdown`](Self::shutdown) this lists the directory and reads no segment. After
    /// a crash it reads the newest segment of every key; see
    /// [`recovery_report`](Self::recovery_report).
    ///
    /// # Errors
    /// [`InvalidOptions`](WalError::InvalidOptions), [`Locked`](WalError::Locked),
    /// [`UnsupportedVersion`](WalError::UnsupportedVersion), and [`Io`](WalError::Io) if the path is not
    /// a directory that can be read and written, or if reading a segment fails. Damage is no error here:
    /// it is in the report, and on the entries it hit.
    pub fn new(path: impl AsRef<Path>, options: WalOptions) -> Result<Self> {
        options.validate()?;
        let path = path.as_ref();
        let dir = OsDir::open(path, options.dir_mode, options.file_mode)
            .map_err(|source| WalError::io(path, "open the directory", source))?;
        Self::open_dir(Arc::new(dir), options)
    }

    /// Opens a directory of another file system: the simulated one.
    ///
    /// # Errors
    /// As [`Self::new`].
    #[cfg(any(test, feature = "sim"))]
    pub fn open_in(dir: Arc<dyn Dir>, options: WalOptions) -> Result<Self> {
        options.validate()?;
        Self::open_dir(dir, options)
    }

    fn open_dir(dir: Arc<dyn Dir>, options: WalOptions) -> Result<Self> {
        let clock_guard = ClockGuard::new(options.clock.now_ms(), options.clock.monotonic_ms());
        let Opened { store, streams, report, lock } = recovery::open(dir, options)?;
        Ok(Self {
            store,
            streams,
            recovery: report,
            clock_guard: Mutex::new(clock_guard),
            lock: Mutex::new(Some(lock)),
        })
    }

    // ---- appending ----

    /// Appends an entry to the key's log and returns a reference to it.
    ///
    /// `durable` is a [`Durability`], or `false` for `Os` and `true` for `Disk`. `Os` costs one system
    /// call; `Disk` waits for a sync, shared with everyone who waits for the same key. Nothing is
    /// allocated for small entries.
    ///
    /// # Errors
    /// [`KeyTooLong`](WalError::KeyTooLong), [`HeaderTooLarge`](WalError::HeaderTooLarge),
    /// [`TooLarge`](WalError::TooLarge), [`Forked`](WalError::Forked), [`Closed`](WalError::Closed):
    /// refused before anything was written. [`StorageFull`](WalError::StorageFull) and
    /// [`Io`](WalError::Io) of a write: the entry is not in the log, and the key can be used on.
    /// [`Io`](WalError::Io) of a sync: the entry's fate is unknown until the directory is reopened; from
    /// then on [`Poisoned`](WalError::Poisoned). [`Corrupted`](WalError::Corrupted): the end of the key's
    /// log is damaged, so it cannot be continued.
    pub fn append_entry(
        &self,
        key: impl AsRef<[u8]>,
        header: Option<Bytes>,
        content: impl AsRef<[u8]>,
        durable: impl Into<Durability>,
    ) -> Result<EntryRef> {
        let payload = Payload { header: header.as_deref(), content: content.as_ref() };
        self.append(key.as_ref(), &[payload], durable.into(), None)
            .map(|appended| first_ref(&appended))
    }

    /// Appends an entry with [`Durability::Disk`].
    ///
    /// # Errors
    /// As [`append_entry`](Self::append_entry).
    pub fn log_entry(
        &self,
        key: impl AsRef<[u8]>,
        header: Option<Bytes>,
        content: impl AsRef<[u8]>,
    ) -> Result<EntryRef> {
        self.append_entry(key, header, content, Durability::Disk)
    }

    /// Appends several entries to one key: visible together, and all there after a crash or none. One
    /// write, at most one sync. An empty batch does nothing.
    ///
    /// # Errors
    /// As [`append_entry`](Self::append_entry); a batch larger than
    /// [`max_segment_bytes`](WalOptions::max_segment_bytes) is [`TooLarge`](WalError::TooLarge).
    pub fn append_batch(
        &self,
        key: impl AsRef<[u8]>,
        entries: impl IntoIterator<Item = (Option<Bytes>, Bytes)>,
        durable: impl Into<Durability>,
    ) -> Result<Vec<EntryRef>> {
        let entries: Vec<(Option<Bytes>, Bytes)> = entries.into_iter().collect();
        let payloads: Vec<Payload<'_>> = entries
            .iter()
            .map(|(header, content)| Payload { header: header.as_deref(), content })
            .collect();
        if payloads.is_empty() {
            self.store.check_writable()?;
            return Ok(Vec::new());
        }
        let appended = self.append(key.as_ref(), &payloads, durable.into(), None)?;
        let mut next = first_ref(&appended);
        let refs = payloads.iter().map(|payload| {
            let reference = next;
            next.offset = next.offset.saturating_add(frame_bytes(payload));
            reference
        });
        Ok(refs.collect())
    }

    /// Appends an entry if it gets the index `expected_next_index`: optimistic concurrency for event
    /// streams. A key that has no entries yet expects 0.
    ///
    /// # Errors
    /// [`Conflict`](WalError::Conflict) if the key is at another index; else as
    /// [`append_entry`](Self::append_entry).
    pub fn append_if(
        &self,
        key: impl AsRef<[u8]>,
        expected_next_index: u64,
        header: Option<Bytes>,
        content: impl AsRef<[u8]>,
        durable: impl Into<Durability>,
    ) -> Result<EntryRef> {
        let payload = Payload { header: header.as_deref(), content: content.as_ref() };
        self.append(key.as_ref(), &[payload], durable.into(), Some(expected_next_index))
            .map(|appended| first_ref(&appended))
    }

    fn append(
        &self,
        key: &[u8],
        payloads: &[Payload<'_>],
        durability: Durability,
        expected: Option<u64>,
    ) -> Result<Appended> {
        let result = self.try_append(key, payloads, durability, expected);
        if result.is_err() {
            count(&self.store.counters.failed_appends, 1);
        }
        result
    }

    fn try_append(
        &self,
        key: &[u8],
        payloads: &[Payload<'_>],
        durability: Durability,
        expected: Option<u64>,
    ) -> Result<Appended> {
        let store = &self.store;
        store.check_writable()?;
        check_key(key)?;
        let bytes = self.check_sizes(payloads)?;
        let appended = loop {
            let stream = self.streams.find_or_create(store, key)?;
            let mut writer = stream.writer();
            if writer.phase == Phase::Gone {
                continue;
            }
            let result = store
                .check_open()
                .and_then(|()| {
                    expected.map_or(Ok(()), |expected| check_index(store, &stream, expected))
                })
                .and_then(|()| stream.append(store, &mut writer, payloads));
            if writer.phase == Phase::Empty && !writer.has_tombstone() {
                writer.phase = Phase::Gone;
                self.streams.forget(&stream);
            }
            break result?;
        };
        count(&store.counters.appended_entries, len_u64(payloads.len()));
        count(&store.counters.appended_bytes, bytes);
        if durability == Durability::Disk {
            store.make_durable(&appended.segment, appended.end)?;
        }
        Ok(appended)
    }

    /// Checks every length; returns the bytes of all headers and contents.
    fn check_sizes(&self, payloads: &[Payload<'_>]) -> Result<u64> {
        let options = &self.store.options;
        let mut all: u64 = 0;
        let mut frames: u64 = 0;
        for payload in payloads {
            let header = payload.header.map_or(0, <[u8]>::len);
            if header > usize::from(u16::MAX) {
                return Err(WalError::HeaderTooLarge { bytes: header });
            }
            let bytes = len_u64(header).saturating_add(len_u64(payload.content.len()));
            if bytes > options.max_entry_bytes {
                return Err(WalError::TooLarge { bytes, max: options.max_entry_bytes });
            }
            all = all.saturating_add(bytes);
            frames = frames.saturating_add(frame_bytes(payload));
        }
        if payloads.len() > 1 && frames > options.max_segment_bytes {
            return Err(WalError::TooLarge { bytes: frames, max: options.max_segment_bytes });
        }
        Ok(all)
    }

    // ---- reading ----

    /// Reads the content of the entry that a reference leads to. One read of the file in the common
    /// case, none of it under a lock that appenders hold.
    ///
    /// # Errors
    /// [`Expired`](WalError::Expired) if it has been dropped, [`InvalidRef`](WalError::InvalidRef) if it
    /// never was, [`Corrupted`](WalError::Corrupted) if its bytes are damaged.
    pub fn read_entry_at(&self, reference: EntryRef) -> Result<Bytes> {
        self.read(reference, |_, header, buffer| owned(buffer, header).1)
    }

    /// Reads an entry with its header, index and timestamp.
    ///
    /// # Errors
    /// As [`read_entry_at`](Self::read_entry_at).
    pub fn read_entry(&self, reference: EntryRef) -> Result<Entry> {
        self.read(reference, |segment, header, buffer| {
            let (entry_header, content) = owned(buffer, header);
            let (index, timestamp_ms) = place(segment, header);
            Entry { reference, index, timestamp_ms, header: entry_header, content }
        })
    }

    /// Reads an entry into a buffer of the caller's, which is grown if need be and can be used again
    /// and again: no allocation for the entry.
    ///
    /// # Errors
    /// As [`read_entry_at`](Self::read_entry_at).
    pub fn read_entry_into<'b>(
        &self,
        reference: EntryRef,
        buffer: &'b mut Vec<u8>,
    ) -> Result<EntrySlice<'b>> {
        let segment = self.segment_of(reference)?;
        let header =
            segment.read_frame(reference.offset, self.store.options.max_entry_bytes, buffer)?;
        count(&self.store.counters.read_entries, 1);
        let (entry_header, content) = parts(buffer, &header);
        let (index, timestamp_ms) = place(&segment, &header);
        Ok(EntrySlice { reference, index, timestamp_ms, header: entry_header, content })
    }

    fn read<T>(
        &self,
        reference: EntryRef,
        take: impl FnOnce(&Segment, &FrameHeader, &mut Vec<u8>) -> T,
    ) -> Result<T> {
        let segment = self.segment_of(reference)?;
        READ_BUFFER.with_borrow_mut(|buffer| {
            let header =
                segment.read_frame(reference.offset, self.store.options.max_entry_bytes, buffer)?;
            count(&self.store.counters.read_entries, 1);
            Ok(take(&segment, &header, buffer))
        })
    }

    fn segment_of(&self, reference: EntryRef) -> Result<Arc<Segment>> {
        self.store.check_open()?;
        let sequence =
            u32::try_from(reference.sequence_number).map_err(|_| WalError::InvalidRef)?;
        let id = SegmentId { key_hash: reference.key_hash, sequence };
        if let Some(segment) = self.store.files.get(id) {
            return Ok(segment);
        }
        if sequence == 0 {
            return Err(WalError::InvalidRef);
        }
        match self.streams.by_hash(reference.key_hash) {
            Some(stream) => {
                stream.ensure_loaded(&self.store)?;
                stream.segment(&self.store, sequence)
            }
            // Only numbers up to the floor can have belonged to a key that was removed.
            None if sequence <= self.store.meta().state().floor => Err(WalError::Expired),
            None => Err(WalError::InvalidRef),
        }
    }

    /// The entry with this index, `None` if the key's log does not go that far yet. Found by a search
    /// of the segment: a logarithmic number of reads, no index in memory.
    ///
    /// # Errors
    /// [`Expired`](WalError::Expired) if it has been dropped, [`Corrupted`](WalError::Corrupted) if it
    /// was damaged.
    pub fn get(&self, key: impl AsRef<[u8]>, index: u64) -> Result<Option<Entry>> {
        let store = &self.store;
        let Some(stream) = self.find(key.as_ref())? else { return Ok(None) };
        let Some(newest) = stream.newest(store)? else { return Ok(None) };
        let (segment, present) = if index >= newest.base_index {
            let present = Present::of(&newest);
            if index >= present.next_index {
                return stream.lost_tail().map_or(Ok(None), |lost| Err(lost.error(&newest)));
            }
            (newest, present)
        } else {
            let Some((chain, _)) = stream.chain(store)? else { return Err(WalError::Expired) };
            let at = chain.nodes.partition_point(|node| node.next_index() <= index);
            match chain.nodes.get(at) {
                Some(Node::Present(present)) if present.first_index <= index => {
                    (stream.segment(store, present.sequence)?, *present)
                }
                Some(Node::Lost(lost)) if lost.first_index <= index => return Err(lost.error()),
                _ => return Err(WalError::Expired),
            }
        };
        let entry = entry_in(store, segment, &present, index)?;
        count(&store.counters.read_entries, 1);
        Ok(Some(entry))
    }

    /// The entries of a key, oldest first; a key that does not exist has none. Narrow it with
    /// [`range`](Entries::range), [`time_range`](Entries::time_range) and
    /// [`last_n`](Entries::last_n), turn it round with [`rev`](Iterator::rev).
    ///
    /// ```
    /// # use keywal::{Wal, WalOptions};
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = Wal::new(dir.path(), WalOptions::default())?;
    /// for number in 0..10 {
    ///     wal.append_entry("count", None, format!("{number}"), false)?;
    /// }
    /// let newest: Vec<_> = wal.entries("count")?.last_n(2).rev().collect::<Result<_, _>>()?;
    /// assert_eq!(newest[0].content, "9");
    /// assert_eq!(newest[0].index, 9);
    /// assert_eq!(newest[1].content, "8");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of reading the headers of the key's segments. Damage to entries shows while iterating.
    pub fn entries(&self, key: impl AsRef<[u8]>) -> Result<Entries<'_>> {
        Entries::new(&self.store, self.find(key.as_ref())?)
    }

    /// The contents of a key's entries, oldest first: [`entries`](Self::entries) without the rest.
    ///
    /// # Errors
    /// As [`entries`](Self::entries).
    pub fn enumerate_records(&self, key: impl AsRef<[u8]>) -> Result<Records<'_>> {
        self.entries(key).map(Records)
    }

    /// All keys, in no order. Loads the keys that have not been used since the directory was opened:
    /// about two reads each.
    ///
    /// # Errors
    /// Those of opening and reading files. A key whose newest file is damaged so that it cannot be told
    /// does not make the others unreachable: [`Keys::unreadable`] counts such files.
    pub fn enumerate_keys(&self) -> Result<Keys> {
        self.store.check_open()?;
        let mut keys = Vec::new();
        let mut unreadable = 0;
        for stream in self.streams.all() {
            match stream.ensure_loaded(&self.store) {
                Err(WalError::Corrupted { .. } | WalError::UnsupportedVersion { .. }) => {
                    unreadable += 1
                }
                result => result?,
            }
            if let Some(key) = stream.key().filter(|_| stream.exists()) {
                keys.push(Key::from(key.to_vec()));
            }
        }
        Ok(Keys { keys: keys.into_iter(), unreadable })
    }

    /// Index of the oldest entry that is kept; 0 for a key that does not exist.
    ///
    /// # Errors
    /// Those of reading the headers of the key's segments.
    pub fn first_index(&self, key: impl AsRef<[u8]>) -> Result<u64> {
        self.find(key.as_ref())?.map_or(Ok(0), |stream| stream.first_index(&self.store))
    }

    /// Index that the key's next entry will get; 0 for a key that does not exist.
    ///
    /// # Errors
    /// Those of reading the newest segment.
    pub fn next_index(&self, key: impl AsRef<[u8]>) -> Result<u64> {
        self.find(key.as_ref())?.map_or(Ok(0), |stream| stream.next_index(&self.store))
    }

    /// Number of entries of the key that are kept, those lost to damage included.
    ///
    /// # Errors
    /// As [`first_index`](Self::first_index).
    pub fn len(&self, key: impl AsRef<[u8]>) -> Result<u64> {
        let key = key.as_ref();
        Ok(self.next_index(key)?.saturating_sub(self.first_index(key)?))
    }

    /// Public facts about the key's segments, oldest first. Segments that are missing or unreadable are
    /// not listed; reading their entries says so.
    ///
    /// # Errors
    /// As [`first_index`](Self::first_index).
    pub fn segments(&self, key: impl AsRef<[u8]>) -> Result<Vec<SegmentInfo>> {
        let Some(stream) = self.find(key.as_ref())? else { return Ok(Vec::new()) };
        let Some((chain, newest)) = stream.chain(&self.store)? else { return Ok(Vec::new()) };
        let newest = Present::of(&newest);
        let sealed = chain.nodes.iter().filter_map(|node| match node {
            Node::Present(present) => Some(*present),
            Node::Lost(_) => None,
        });
        let info = |present: Present| SegmentInfo {
            sequence: u64::from(present.sequence),
            path: stream.path(&self.store, present.sequence),
            first_index: present.first_index,
            next_index: present.next_index,
            bytes: u64::from(present.end),
            created_ms: present.created_ms,
            expiration_ms: present.expiration_ms,
            active: present.sequence == newest.sequence,
        };
        Ok(sealed.chain([newest]).map(info).collect())
    }

    fn find(&self, key: &[u8]) -> Result<Option<Arc<Stream>>> {
        self.store.check_open()?;
        check_key(key)?;
        self.streams.find(&self.store, key)
    }

    // ---- durability ----

    /// Makes every entry appended so far survive power loss, of all keys.
    ///
    /// # Errors
    /// The first that occurred; the others have been tried all the same.
    pub fn sync(&self) -> Result<()> {
        self.store.check_writable()?;
        let mut result = Ok(());
        for segment in self.store.files.dirty() {
            result = result.and(segment.sync_bytes(segment.extent().end, &self.store.counters));
        }
        result.and(self.store.sync_names(self.store.latest_name_change()))
    }

    /// Makes every entry appended to the key so far survive power loss.
    ///
    /// # Errors
    /// As those of a [`Disk`](Durability::Disk) append.
    pub fn sync_key(&self, key: impl AsRef<[u8]>) -> Result<()> {
        self.store.check_writable()?;
        let Some(stream) = self.find(key.as_ref())? else { return Ok(()) };
        let Some(newest) = stream.newest(&self.store)? else { return Ok(()) };
        if newest.is_poisoned() {
            return Err(newest.poisoned());
        }
        self.store.make_durable(&newest, newest.extent().end)
    }

    // ---- retention ----

    /// Drops the segments that have outlived the retention, of idle keys, too.
    ///
    /// A segment goes when `expiration + entry_retention` has come, the oldest first; the newest of a
    /// key stays and carries the numbers on (an idle expired one is succeeded by an empty one first). A
    /// clock that stepped back, or jumped ahead while the directory was open, deletes nothing: the
    /// report says so. A crash midway leaves more, never less, than the result of having run.
    ///
    /// # Errors
    /// Those of syncing the directory or its facts. What could not be dropped for other reasons is in
    /// the report, and everything else was dropped.
    pub fn compact(&self) -> Result<CompactionReport> {
        let store = &self.store;
        store.check_writable()?;
        let mut report = CompactionReport::default();
        let clock = &store.options.clock;
        let now_ms = clock.now_ms();
        let mut guard = self.clock_guard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(trouble) = guard.check(now_ms, clock.monotonic_ms()) {
            report.refused = Some(trouble);
            return Ok(report);
        }
        // One run at a time: held until the end.
        let retention_ms = crate::clock::millis(store.options.entry_retention);
        let Some(through_ms) = drop_through_ms(now_ms, retention_ms) else { return Ok(report) };
        let mut doomed = Vec::new();
        for stream in self.streams.all() {
            report.keys = report.keys.saturating_add(1);
            match stream.expire(store, now_ms, through_ms) {
                Ok(Expiry::Fresh) => {}
                Ok(Expiry::FromTheFuture) => {
                    report.keys_from_the_future = report.keys_from_the_future.saturating_add(1);
                }
                Ok(Expiry::Drop(segments)) => doomed.push((stream, segments)),
                Err(error) => report.fail(store, &error),
            }
        }
        if doomed.is_empty() {
            return Ok(report);
        }
        // Recovery has to know the reason for gaps, and successors have to survive, before anything goes.
        store.meta().update(&*store.dir, |meta| {
            meta.dropped_through_ms = meta.dropped_through_ms.max(through_ms);
        })?;
        store.sync_names(store.latest_name_change())?;
        for (stream, segments) in doomed {
            if let Err(error) = stream.unlink(store, &segments, &mut report) {
                report.fail(store, &error);
            }
        }
        store.sync_names(store.latest_name_change())?;
        Ok(report)
    }

    /// Drops the segments of a key that hold only entries before `index`, whatever their age. Entries
    /// before `index` that share a segment with a later one stay. An `index` at or behind
    /// [`next_index`](Self::next_index) drops all entries; the numbers go on.
    ///
    /// # Errors
    /// Those of reading headers, creating and removing files and syncing the directory. After an error
    /// some segments may be gone, always the oldest.
    pub fn truncate_before(&self, key: impl AsRef<[u8]>, index: u64) -> Result<CompactionReport> {
        self.store.check_writable()?;
        match self.find(key.as_ref())? {
            Some(stream) => stream.truncate_before(&self.store, index),
            None => Ok(CompactionReport::default()),
        }
    }

    /// Removes a key with all its entries, and forgets its numbers: if it is used again, indexes start
    /// from 0. Old references stay [`Expired`](WalError::Expired). All or nothing, across a crash;
    /// when it returns, the removal survives power loss.
    ///
    /// Deleting is not erasing: what the disk held may still be found on it.
    ///
    /// # Errors
    /// Those of creating and removing files and of syncing. If the removal was cut off half-way, the
    /// key is [`Poisoned`](WalError::Poisoned), and reopening the directory finishes it.
    pub fn remove_key(&self, key: impl AsRef<[u8]>) -> Result<()> {
        self.store.check_writable()?;
        loop {
            let Some(stream) = self.find(key.as_ref())? else { return Ok(()) };
            let mut writer = stream.writer();
            if writer.phase == Phase::Gone {
                continue;
            }
            self.store.check_open()?;
            let keep_tombstone = self.streams.next_is_taken(stream.hash);
            stream.remove(&self.store, &mut writer, keep_tombstone)?;
            if writer.phase == Phase::Empty && !writer.has_tombstone() {
                writer.phase = Phase::Gone;
                self.streams.forget(&stream);
            }
            return Ok(());
        }
    }

    // ---- facts ----

    /// What opening the directory found.
    pub fn recovery_report(&self) -> &RecoveryReport {
        &self.recovery
    }

    /// Number of active segments: one for each key that has any.
    pub fn active_segment_count(&self) -> usize {
        self.streams.all().iter().filter(|stream| stream.exists()).count()
    }

    /// What has been counted since the directory was opened, and what there is now. Looks at every key
    /// in memory; reads no file.
    pub fn stats(&self) -> Stats {
        let mut stats = self.store.counters.stats();
        for stream in self.streams.all() {
            let segments = len_u64(stream.segment_count());
            stats.keys = stats.keys.saturating_add(u64::from(segments > 0));
            stats.segments = stats.segments.saturating_add(segments);
        }
        stats.open_files = len_u64(self.store.files.len());
        stats
    }

    /// Facts about one key; all zero for a key that does not exist.
    ///
    /// # Errors
    /// As [`first_index`](Self::first_index).
    pub fn key_stats(&self, key: impl AsRef<[u8]>) -> Result<KeyStats> {
        let segments = self.segments(key)?;
        let (Some(oldest), Some(newest)) = (segments.first(), segments.last()) else {
            return Ok(KeyStats::default());
        };
        Ok(KeyStats {
            first_index: oldest.first_index,
            next_index: newest.next_index,
            segments: len_u64(segments.len()),
            bytes: segments.iter().map(|segment| segment.bytes).sum(),
            oldest_ms: oldest.created_ms,
            newest_ms: newest.created_ms,
        })
    }

    // ---- the end ----

    /// Syncs everything, leaves the directory so that the next open need not check it, and releases
    /// it. The data stays. Every later call on this `Wal` answers [`Closed`](WalError::Closed).
    ///
    /// Dropping a `Wal` without this loses nothing either: the next open takes longer.
    ///
    /// # Errors
    /// The first that occurred. The directory is released all the same; the next open checks it.
    pub fn shutdown(&self) -> Result<()> {
        let store = &self.store;
        store.check_writable()?;
        if !store.close() {
            return Err(WalError::Closed);
        }
        let mut clean = true;
        let mut result = Ok(());
        for stream in self.streams.all() {
            // Waits for an append that is on its way; none comes after.
            match stream.close(store, &mut stream.writer()) {
                Ok(closed) => clean &= closed,
                Err(error) => result = result.and(Err(error)),
            }
        }
        result = result.and_then(|()| store.sync_names(store.latest_name_change()));
        if clean {
            result = result.and_then(|()| {
                let (segments, digest) = recovery::fingerprint(&*store.dir)?;
                store.meta().update(&*store.dir, |meta| {
                    (meta.clean, meta.segments, meta.digest) = (true, segments, digest);
                })
            });
        }
        self.release();
        result
    }

    fn release(&self) {
        self.store.files.clear();
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Removes the log: every file of keywal's in the directory, and nothing else. The directory
    /// itself stays. There is no way back.
    ///
    /// # Errors
    /// [`Closed`](WalError::Closed) after a shutdown; else those of listing the directory and removing
    /// files, after which the rest is still there.
    pub fn destroy(self) -> Result<()> {
        let store = &self.store;
        store.check_writable()?;
        store.close();
        store.files.clear();
        let mut names = Vec::new();
        store
            .dir
            .list(&mut |name| {
                names.extend(
                    name.to_str()
                        .filter(|name| SegmentName::parse(name).is_some())
                        .map(str::to_owned),
                )
            })
            .map_err(|source| WalError::io(store.dir.path(), "list the directory", source))?;
        // The facts and the lock go last: until then an interrupted removal is a log with fewer keys.
        names.extend([META_NAME.to_owned(), LOCK_NAME.to_owned()]);
        for name in names {
            match store.dir.remove(&name) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                result => result.map_err(|source| {
                    WalError::io(&store.dir.path().join(&name), "remove the file", source)
                })?,
            }
        }
        store
            .dir
            .sync()
            .map_err(|source| WalError::io(store.dir.path(), "sync the directory", source))
    }
}

/// All keys of a log; see [`Wal::enumerate_keys`].
#[derive(Debug)]
pub struct Keys {
    keys: std::vec::IntoIter<Key>,
    unreadable: usize,
}

impl Keys {
    /// Number of keys that exist but cannot be told, because their files are damaged or of a newer
    /// format.
    pub fn unreadable(&self) -> usize {
        self.unreadable
    }
}

impl Iterator for Keys {
    type Item = Key;

    fn next(&mut self) -> Option<Key> {
        self.keys.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.keys.size_hint()
    }
}

impl ExactSizeIterator for Keys {}

impl CompactionReport {
    fn fail(&mut self, store: &Store, error: &WalError) {
        let path = match error {
            WalError::Corrupted { path, .. }
            | WalError::UnsupportedVersion { path, .. }
            | WalError::Poisoned { path }
            | WalError::StorageFull { path, .. }
            | WalError::Io { path, .. } => path.clone(),
            _ => store.dir.path().to_owned(),
        };
        if self.failures.len() < MAX_LISTED {
            self.failures.push(Finding { path, offset: 0, bytes: 0, what: error.to_string() });
        }
    }
}

fn check_key(key: &[u8]) -> Result<()> {
    if key.len() > MAX_KEY_BYTES { Err(WalError::KeyTooLong { bytes: key.len() }) } else { Ok(()) }
}

fn check_index(store: &Store, stream: &Stream, expected: u64) -> Result<()> {
    let actual = stream.next_index(store)?;
    if actual == expected { Ok(()) } else { Err(WalError::Conflict { expected, actual }) }
}

fn first_ref(appended: &Appended) -> EntryRef {
    EntryRef {
        key_hash: appended.segment.id.key_hash,
        sequence_number: u64::from(appended.segment.id.sequence),
        offset: u64::from(appended.offset),
    }
}

/// Index and timestamp of the entry behind a frame header.
fn place(segment: &Segment, header: &FrameHeader) -> (u64, u64) {
    let index = segment.base_index.saturating_add(u64::from(header.index));
    (index, segment.created_ms.saturating_add(u64::from(header.timestamp)))
}

/// Header and content in a frame.
fn parts<'b>(frame: &'b [u8], header: &FrameHeader) -> (Option<&'b [u8]>, &'b [u8]) {
    let payload = frame.get(FrameHeader::BYTES..).unwrap_or_default();
    let (entry_header, content) =
        payload.split_at_checked(usize::from(header.header_bytes)).unwrap_or((&[], payload));
    (header.flags.has(FrameFlags::HEADER).then_some(entry_header), content)
}

/// Header and content of a frame, as values of their own.
fn owned(frame: &mut Vec<u8>, header: &FrameHeader) -> (Option<Bytes>, Bytes) {
    let mut payload = if frame.len() > OWN_BUFFER_BYTES {
        Bytes::from(std::mem::take(frame)).split_off(FrameHeader::BYTES)
    } else {
        Bytes::copy_from_slice(frame.get(FrameHeader::BYTES..).unwrap_or_default())
    };
    let entry_header = payload.split_to(usize::from(header.header_bytes).min(payload.len()));
    (header.flags.has(FrameFlags::HEADER).then_some(entry_header), payload)
}
