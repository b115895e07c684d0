//! [`WalReader`]: reading beside a writer, which may be another process.

use std::path::Path;
use std::sync::Arc;

use ahash::HashMap;
use bytes::Bytes;

use super::health::Watch;
use super::{Keys, Wal};
use crate::clock::millis;
use crate::entries::{Entries, Records};
use crate::entry::{Entry, EntryRef};
use crate::error::{Result, WalError};
use crate::fs::{Dir, OsDir};
use crate::maintenance::Maintenance;
use crate::options::WalOptions;
use crate::primitives::Mutex;
use crate::recovery::{View, view};
use crate::report::{KeyStats, RecoveryReport, SegmentInfo};
use crate::retention::{ClockGuard, Retention};

/// A directory opened for reading only: beside the process that writes to it, or after it has died.
///
/// It takes no lock, repairs nothing and writes nothing; read permission is enough. It shows the log as
/// it was at one moment, that of [`open`](Self::open) or of the last [`refresh`](Self::refresh): of
/// each key a prefix of what the writer has appended, whole batches only. Entries count from the moment the
/// kernel has them: as [`Os`](crate::Durability::Os) says, so some may be lost with the power that were
/// seen here, and one whose append ends with an error of a sync may be seen.
///
/// Nothing keeps the writer from dropping segments: entries in them then answer
/// [`Expired`](WalError::Expired), and so does, until the next refresh, a key of which the newest one is gone.
///
/// With a [journal](WalOptions::journal_bytes), what is in it counts like everything else: each refresh
/// reads it, and keeps a copy of what has not been moved on. In a directory that a power cut has left, that
/// may be more than recovery keeps. A segment whose name was lost, so that only the journal knows of it, does
/// not show before recovery has made its file again.
///
/// ```
/// use keywal::{Wal, WalOptions, WalReader};
/// # let dir = tempfile::tempdir()?;
/// let wal = Wal::new(dir.path(), WalOptions::default())?;
/// wal.append_entry("orders", None, "first", false)?;
///
/// // In any process:
/// let mut reader = WalReader::open(dir.path())?;
/// let mut next = 0;
/// for entry in reader.entries("orders")? {
///     next = entry?.index + 1;
/// }
/// wal.append_entry("orders", None, "second", false)?;
/// let new: Vec<_> = reader.entries_from("orders", next)?.collect::<Result<_, _>>()?;
/// assert_eq!(new[0].content, "second");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct WalReader {
    /// Opened without a lock, with a store that is only read. Nothing that writes is ever called.
    wal: Wal,
}

impl WalReader {
    /// Opens the directory, with the default [`WalOptions`].
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, WalOptions::default())
    }

    /// Opens the directory. Of the options, `max_entry_bytes` and `max_open_files` count. Costs a
    /// listing of the directory, and reading the journal if there is one; a key's newest segment is
    /// read when the key is first used. A directory that is no log, or none yet, has no keys.
    ///
    /// # Errors
    /// [`InvalidOptions`](WalError::InvalidOptions), [`UnsupportedVersion`](WalError::UnsupportedVersion),
    /// [`Incomplete`](WalError::Incomplete), and [`Io`](WalError::Io) if the path is not a directory
    /// that can be read. Damage is no error here, but one on the entries it hit.
    pub fn open_with(path: impl AsRef<Path>, options: WalOptions) -> Result<Self> {
        options.validate()?;
        let path = path.as_ref();
        let dir = OsDir::existing(path)
            .map_err(|source| WalError::io(path, "open the directory", source))?;
        Self::open_dir(Arc::new(dir), options)
    }

    /// As [`Self::open_with`], in a directory of another file system: the simulated one.
    ///
    /// # Errors
    /// As [`Self::open_with`].
    #[cfg(any(test, feature = "sim"))]
    pub fn open_in(dir: Arc<dyn Dir>, options: WalOptions) -> Result<Self> {
        options.validate()?;
        Self::open_dir(dir, options)
    }

    fn open_dir(dir: Arc<dyn Dir>, mut options: WalOptions) -> Result<Self> {
        options.max_entry_bytes = options.max_entry_bytes.min(options.max_segment_bytes);
        view(dir, options, HashMap::default()).map(Self::of)
    }

    fn of(view: View) -> Self {
        let View { store, streams, report, .. } = view;
        let options = &store.options;
        let retention_ms = millis(options.entry_retention);
        let clock_guard =
            ClockGuard::new(options.clock.now_ms(), options.clock.monotonic_ms(), retention_ms);
        let watch = Watch::new(options.clock.monotonic_ms());
        let store = Arc::new(store);
        Self {
            wal: Wal {
                maintenance: Maintenance::none(&store),
                store,
                streams: Arc::new(streams),
                recovery: report,
                clock_guard: Mutex::new(clock_guard),
                watch,
                asking: Mutex::new(None),
                lock: Mutex::new(None),
            },
        }
    }

    /// Goes on to the present moment. Costs what opening does, whatever has changed: a listing of the directory,
    /// some 5 µs for each file in it, and reading the journal, some milliseconds for one of the default
    /// size. So wait between two calls for many times what one takes: with 1,000 keys that was 6 ms, with
    /// 50,000 260 ms. But of the newest segment of a key that was used before, only what is new is read. After
    /// an error, the view is as before.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub fn refresh(&mut self) -> Result<()> {
        let store = &self.wal.store;
        let known = self.wal.streams.all().into_iter().filter_map(|s| s.known_tail(store));
        let mut tails: HashMap<_, _> = known.collect();
        if let Some(reading) = &store.reading {
            // Of keys that were not used since the last time.
            for (id, tail) in &reading.tails {
                tails.entry(*id).or_insert(*tail);
            }
        }
        let newest = |id: &crate::format::SegmentId| {
            let stream = self.wal.streams.by_hash(id.key_hash);
            stream.is_some_and(|stream| stream.sequences().last() == Some(&id.sequence))
        };
        tails.retain(|id, _| newest(id));
        *self = Self::of(view(Arc::clone(&store.dir), store.options.clone(), tails)?);
        Ok(())
    }

    /// The entries of a key from this index on, as of now: [`refresh`](Self::refresh), then what
    /// [`Wal::entries_from`] does. To follow a key, call it again and again with the index behind the last
    /// entry. Each call costs a refresh: to follow many keys, call that once for all of them, and then
    /// [`entries`](Self::entries) with [`starting_at`](Entries::starting_at) for each.
    ///
    /// # Errors
    /// As [`refresh`](Self::refresh); [`Behind`](WalError::Behind) if the entry with this index has been dropped.
    pub fn entries_from(&mut self, key: impl AsRef<[u8]>, index: u64) -> Result<Entries<'_>> {
        self.refresh()?;
        self.wal.entries_from(key, index)
    }

    /// What is known of the directory as a whole: whether it was closed, how many files there are.
    pub fn report(&self) -> &RecoveryReport {
        &self.wal.recovery
    }

    /// As [`Wal::read_entry_at`]; what was appended since the last refresh is
    /// [`InvalidRef`](WalError::InvalidRef).
    ///
    /// # Errors
    /// As [`Wal::read_entry_at`].
    pub fn read_entry_at(&self, reference: EntryRef) -> Result<Bytes> {
        self.wal.read_entry_at(reference)
    }

    /// As [`Wal::read_entry`].
    ///
    /// # Errors
    /// As [`read_entry_at`](Self::read_entry_at).
    pub fn read_entry(&self, reference: EntryRef) -> Result<Entry> {
        self.wal.read_entry(reference)
    }

    /// As [`Wal::get`].
    ///
    /// # Errors
    /// As [`Wal::get`].
    pub fn get(&self, key: impl AsRef<[u8]>, index: u64) -> Result<Option<Entry>> {
        self.wal.get(key, index)
    }

    /// As [`Wal::entries`].
    ///
    /// # Errors
    /// As [`Wal::entries`].
    pub fn entries(&self, key: impl AsRef<[u8]>) -> Result<Entries<'_>> {
        self.wal.entries(key)
    }

    /// As [`Wal::enumerate_records`].
    ///
    /// # Errors
    /// As [`Wal::enumerate_records`].
    pub fn enumerate_records(&self, key: impl AsRef<[u8]>) -> Result<Records<'_>> {
        self.wal.enumerate_records(key)
    }

    /// As [`Wal::enumerate_keys`].
    ///
    /// # Errors
    /// As [`Wal::enumerate_keys`].
    pub fn enumerate_keys(&self) -> Result<Keys> {
        self.wal.enumerate_keys()
    }

    /// As [`Wal::first_index`].
    ///
    /// # Errors
    /// As [`Wal::first_index`].
    pub fn first_index(&self, key: impl AsRef<[u8]>) -> Result<u64> {
        self.wal.first_index(key)
    }

    /// As [`Wal::next_index`].
    ///
    /// # Errors
    /// As [`Wal::next_index`].
    pub fn next_index(&self, key: impl AsRef<[u8]>) -> Result<u64> {
        self.wal.next_index(key)
    }

    /// As [`Wal::len`].
    ///
    /// # Errors
    /// As [`Wal::len`].
    pub fn len(&self, key: impl AsRef<[u8]>) -> Result<u64> {
        self.wal.len(key)
    }

    /// As [`Wal::retention`].
    ///
    /// # Errors
    /// As [`Wal::retention`].
    pub fn retention(&self, key: impl AsRef<[u8]>) -> Result<Option<Retention>> {
        self.wal.retention(key)
    }

    /// As [`Wal::key_metadata`].
    ///
    /// # Errors
    /// As [`Wal::key_metadata`].
    pub fn key_metadata(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        self.wal.key_metadata(key)
    }

    /// As [`Wal::key_stats`].
    ///
    /// # Errors
    /// As [`Wal::key_stats`].
    pub fn key_stats(&self, key: impl AsRef<[u8]>) -> Result<KeyStats> {
        self.wal.key_stats(key)
    }

    /// As [`Wal::segments`].
    ///
    /// # Errors
    /// As [`Wal::segments`].
    pub fn segments(&self, key: impl AsRef<[u8]>) -> Result<Vec<SegmentInfo>> {
        self.wal.segments(key)
    }
}
