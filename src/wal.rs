//! [`Wal`]: the calls a user makes.

mod accept;
mod append;
mod discard;
mod follow;
mod health;
mod limits;
#[cfg(feature = "metrics")]
mod publish;
mod read;
mod reader;
mod together;
#[cfg(feature = "async")]
mod when_durable;

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::thread::ThreadId;

pub use follow::{Canceller, Follow};
pub use limits::KeyOptions;
pub use read::Keys;
pub use reader::WalReader;
#[cfg(feature = "async")]
pub use when_durable::WhenDurable;

use crate::clock::millis;
use crate::error::{Result, WalError};
use crate::format::{SegmentId, SegmentName};
use crate::fs::{Dir, LOCK_NAME, OsDir, is_no_file, len_u64};
use crate::maintenance::{Maintenance, SharedLock};
use crate::observe;
use crate::options::WalOptions;
use crate::primitives::Mutex;
use crate::primitives::atomic::{AtomicBool, Ordering};
use crate::recovery::{self, Opened};
use crate::report::{KeyStats, RecoveryReport, SnapshotReport};
use crate::retention::ClockGuard;
use crate::ring::JOURNAL_NAME;
use crate::snapshot::snapshot;
use crate::store::{META_NAME, Store};
use crate::streams::Streams;

use self::health::Watch;

/// A directory that holds, for every key, a log of entries.
///
/// Share it between threads by reference or in an [`Arc`]: all calls take `&self`. Appends to different
/// keys run in parallel; readers never wait for an appender's sync.
///
/// See the [crate documentation](crate) for what is promised.
#[derive(Debug)]
pub struct Wal {
    /// Ends before anything else does.
    maintenance: Maintenance,
    store: Arc<Store>,
    streams: Arc<Streams>,
    recovery: RecoveryReport,
    clock_guard: Mutex<ClockGuard>,
    watch: Watch,
    /// The thread that asks the hook of a `compact`.
    asking: Mutex<Option<ThreadId>>,
    /// Released when the log is shut down or dropped.
    lock: Mutex<Option<SharedLock>>,
}

impl Wal {
    /// Opens the directory, creating it and its parents if they are missing, and recovers what it
    /// holds.
    ///
    /// After a clean [`shutdown`](Self::shutdown) this lists the directory and reads no segment. After
    /// a crash it moves what the journal has to the segments, and reads the newest segment of every key, unless
    /// [`check_on_open`](WalOptions::check_on_open) says otherwise; see
    /// [`recovery_report`](Self::recovery_report).
    ///
    /// # Errors
    /// [`InvalidOptions`](WalError::InvalidOptions), [`Locked`](WalError::Locked),
    /// [`UnsupportedVersion`](WalError::UnsupportedVersion), and [`Io`](WalError::Io) if the path is not
    /// a directory that can be read and written, or if reading a segment fails.
    /// [`StorageFull`](WalError::StorageFull) if what the journal has finds no space: make some and open again;
    /// nothing is lost. Damage is no error here: it is in the report, and on the entries it hit.
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

    fn open_dir(dir: Arc<dyn Dir>, mut options: WalOptions) -> Result<Self> {
        options.max_entry_bytes = options.max_entry_bytes.min(options.max_segment_bytes);
        let retention_ms = millis(options.entry_retention);
        let clock_guard =
            ClockGuard::new(options.clock.now_ms(), options.clock.monotonic_ms(), retention_ms);
        let watch = Watch::new(options.clock.monotonic_ms());
        let _span = observe::opening(dir.path());
        let Opened { store, streams, report, lock } = recovery::open(dir, options)?;
        let (store, streams) = (Arc::new(store), Arc::new(streams));
        let lock: SharedLock = Arc::new(Mutex::new(Some(lock)));
        let maintenance = Maintenance::start(&store, &streams, &lock).map_err(|source| {
            WalError::io(store.dir.path(), "start a thread of the log's own", source)
        })?;
        observe::opened(&report);
        Ok(Self {
            maintenance,
            store,
            streams,
            recovery: report,
            clock_guard: Mutex::new(clock_guard),
            watch,
            asking: Mutex::new(None),
            lock: Mutex::new(Some(lock)),
        })
    }

    // ---- durability ----

    /// Makes every entry appended so far survive power loss, of all keys.
    ///
    /// # Errors
    /// The first that occurred; the others have been tried all the same.
    pub fn sync(&self) -> Result<()> {
        self.store.check_writable()?;
        recovery::check_rest(&self.store, &self.streams)?;
        self.streams.make_durable(&self.store)
    }

    /// Makes every entry appended to the key so far survive power loss.
    ///
    /// # Errors
    /// As those of a [`Disk`](crate::Durability::Disk) append.
    pub fn sync_key(&self, key: impl AsRef<[u8]>) -> Result<()> {
        self.store.check_writable()?;
        self.find(key.as_ref())?.map_or(Ok(()), |stream| stream.sync(&self.store))
    }

    // ---- backup ----

    /// Copies the log, as it is at one moment, to another directory, which is created if it is missing.
    /// The copy is a log like any other: open it, or copy it to where it is needed.
    ///
    /// *What is in it.* Of each key, what had been appended when the moment came, and nothing of what was
    /// begun later. So if an entry is in the copy, then so is every entry, of whatever key, that had been
    /// acknowledged before that one was begun. Entries appended with `Os` count, too. Appends go on
    /// meanwhile; [`compact`](Self::compact), [`truncate_before`](Self::truncate_before),
    /// [`remove_key`](Self::remove_key), [`set_retention`](Self::set_retention),
    /// [`accept_loss`](Self::accept_loss) and [`shutdown`](Self::shutdown) wait until it is done.
    ///
    /// *What it costs.* Sealed segments are hard links where the two directories are on one file system,
    /// else copies; of a key's newest segment what counts is copied. Each copy is synced, 16 at a time. Every entry
    /// that is new in the copy is read and checked. If the directory holds an earlier snapshot of this log,
    /// only what has changed since is linked or copied, and what is no more is removed. Memory: about
    /// 100 bytes for a key.
    ///
    /// *What survives.* When it returns, the copy survives power loss. If it is cut off, the original is
    /// unharmed, and opening the copy answers [`Incomplete`](WalError::Incomplete) until the
    /// snapshot has been taken again. That is so, too, while an earlier snapshot is brought up to date: take
    /// two in turn if there has to be a whole one at every moment.
    ///
    /// *Writing to the copy* does the original no harm: a sealed segment is never written to again, and
    /// entries go to new files. Their references never meet those of the original. A copy that was opened
    /// is no longer taken for an earlier snapshot.
    ///
    /// Damage in the original is no error: the copy has it, too, and the report says so. Only onto an earlier
    /// snapshot it is: that may have what is lost. (A key all of whose files a power cut has taken cannot be told
    /// from a removed one, and goes from the snapshot, too; nor can one that a log has never had which was put back
    /// from an older snapshot: after a crash, or after going back, keep the last one and take a new one.)
    ///
    /// # Errors
    /// [`NotEmpty`](WalError::NotEmpty): the directory holds something else, and was not touched.
    /// [`Locked`](WalError::Locked): somebody has it open, or it is this log's own.
    /// [`Corrupted`](WalError::Corrupted): the directory holds an earlier snapshot, which may have more of the
    /// named file than the log, as damage is known, or an end that a power cut has taken; it was not touched.
    /// Take one to an empty directory, and keep this one as long as what is lost is missed.
    /// [`Poisoned`](WalError::Poisoned): of a key it is not known what the disk has; reopen the log.
    /// [`StorageFull`](WalError::StorageFull) and [`Io`](WalError::Io): the copy is incomplete.
    pub fn snapshot(&self, path: impl AsRef<Path>) -> Result<SnapshotReport> {
        self.store.check_writable()?;
        let path = path.as_ref();
        let options = &self.store.options;
        let dir = OsDir::open(path, options.dir_mode, options.file_mode)
            .map_err(|source| WalError::io(path, "open the directory", source))?;
        self.store.check_process()?;
        snapshot(&self.store, &self.streams, &self.recovery.damaged, &dir)
    }

    /// As [`Self::snapshot`], into a directory of another file system: the simulated one.
    ///
    /// # Errors
    /// As [`Self::snapshot`].
    #[cfg(any(test, feature = "sim"))]
    pub fn snapshot_in(&self, dir: &dyn Dir) -> Result<SnapshotReport> {
        self.store.check_writable()?;
        snapshot(&self.store, &self.streams, &self.recovery.damaged, dir)
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
    /// it. The data stays. Every later call on this `Wal` answers [`Closed`](WalError::Closed). If the
    /// creation or removal of a file could be neither done nor undone, or the files are missing by which a
    /// key with the same hash is found, the next open does check it.
    ///
    /// Dropping a `Wal` without this loses nothing either: the next open takes longer.
    ///
    /// # Errors
    /// The first that occurred. The directory is released all the same; the next open checks it.
    /// [`InDropHook`](WalError::InDropHook): nothing has happened.
    pub fn shutdown(&self) -> Result<()> {
        let store = &self.store;
        store.check_writable()?;
        self.check_not_in_hook()?;
        let checked = recovery::check_rest(store, &self.streams);
        if !store.close() {
            return Err(WalError::Closed);
        }
        self.maintenance.stop();
        store.watch.close();
        // Waits for a `compact` that is on its way; none comes after.
        let _clock_guard = self.clock_guard.lock().unwrap_or_else(PoisonError::into_inner);
        let _discarding = store.discarding();
        let clean = AtomicBool::new(!self.streams.has_filled_places());
        // First, so that the marks say so: after a later crash they prove what is before them.
        let synced = self.streams.make_durable(store);
        let closed = store.each(&self.streams.all(), |stream| {
            // Waits for an append that is on its way; none comes after.
            if !stream.close(store, &mut stream.writer())? {
                clean.store(false, Ordering::Relaxed);
            }
            Ok(())
        });
        let mut result = checked.and(synced).and(closed);
        result = result.and_then(|()| store.empty_journal());
        result = result.and_then(|()| store.sync_names(store.latest_name_change()));
        if clean.load(Ordering::Relaxed) {
            result = result.and_then(|()| {
                let (segments, digest) = recovery::fingerprint(&*store.dir)?;
                store.meta().update(&*store.dir, |meta| {
                    (meta.clean, meta.segments, meta.digest) = (true, segments, digest);
                    meta.interrupted = store.interrupted.load(Ordering::Relaxed);
                    if store.drops_are_done.load(Ordering::Relaxed) {
                        // There is no gap to explain, and if the clock was ahead, a lost segment is one.
                        meta.dropped_through_ms = 0;
                    }
                })
            });
        }
        self.release();
        observe::closed(store.dir.path(), &result);
        result
    }

    fn release(&self) {
        self.store.files.clear();
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Removes the log: every file of keywal's in the directory, and nothing else. The directory
    /// itself stays. There is no way back. If it is cut off, what is left can be opened: keys with fewer entries, or
    /// none, of which some may be reported as damaged.
    ///
    /// It takes the log by value: nobody may hold another `Arc` of it any more, and neither may a
    /// [`Follow`](crate::Follow).
    ///
    /// # Errors
    /// [`Closed`](WalError::Closed) after a shutdown; else those of listing the directory and removing
    /// files, after which the rest is still there.
    pub fn destroy(self) -> Result<()> {
        let store = &self.store;
        store.check_writable()?;
        store.close();
        self.maintenance.stop();
        // If this is cut off, what is left is a log without the keys that are gone, and their references
        // must not meet what is appended to it.
        let highest = self.streams.all().iter().map(|stream| stream.writer().highest()).max();
        let _ = store.empty_journal();
        store.meta().update(&*store.dir, |meta| {
            meta.floor = meta.floor.max(highest.unwrap_or(0));
            // Nothing comes back from the journal.
            meta.epoch = meta.epoch.saturating_add(1);
            meta.journal_bytes = 0;
        })?;
        store.files.clear();
        let mut segments = Vec::new();
        let listed = store.dir.list(&mut |name| {
            let name = name.to_str().and_then(SegmentName::parse);
            segments.extend(name.map(|name| (name.key_hash, name.label.to_owned(), name.sequence)));
        });
        listed.map_err(|source| WalError::io(store.dir.path(), "list the directory", source))?;
        segments.sort_unstable();
        let remove = |name: &str| match store.dir.remove(name) {
            Err(error) if is_no_file(&error) => Ok(()),
            result => result.map_err(|source| {
                WalError::io(&store.dir.path().join(name), "remove the file", source)
            }),
        };
        let sync = || {
            let synced = store.dir.sync();
            synced.map_err(|source| WalError::io(store.dir.path(), "sync the directory", source))
        };
        // The newest of each key last: it may say that the key was removed, and older ones are still there.
        for newest in [false, true] {
            for (at, (key_hash, label, sequence)) in segments.iter().enumerate() {
                let next = segments.get(at.saturating_add(1));
                let is_newest = next.is_none_or(|next| (&next.0, &next.1) != (key_hash, label));
                if is_newest == newest {
                    let id = SegmentId { key_hash: *key_hash, sequence: *sequence };
                    remove(&id.file_name(label))?;
                }
            }
            sync()?;
        }
        // The facts and the lock go last: until then an interrupted removal is a log with fewer keys.
        remove(JOURNAL_NAME)?;
        sync()?;
        remove(META_NAME)?;
        remove(LOCK_NAME)?;
        sync()
    }
}
