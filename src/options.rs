//! What a user can set.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock, millis};
use crate::error::{Result, WalError};
use crate::format::{Limits, NO_LIMIT};
use crate::hook::{DropHook, DueSegment, HookResult};

/// Longest window of one segment: timestamps inside a segment are 32 bits of milliseconds.
pub(crate) const MAX_WINDOW_MS: u64 = 49 * 24 * 60 * 60 * 1000;
/// Room that headers may take in a segment beyond `max_segment_bytes`.
const SEGMENT_SLACK_BYTES: u64 = 1 << 20;
pub(crate) const JOURNAL_BYTES: std::ops::RangeInclusive<u64> = 4 << 10..=1 << 30;
const MAX_SEGMENT_BYTES: u64 = u32::MAX as u64 - SEGMENT_SLACK_BYTES;

/// Where an entry is when the call that appended it returns.
///
/// | | when the append returns `Ok`, the entry | survives |
/// |---|---|---|
/// | `Os` | has been accepted whole by the kernel | death of the process, `kill -9` |
/// | `Disk` | and every earlier entry of its key, the segment file and its directory entry are on stable storage as far as the operating system can know | process death, kernel crash, power loss on hardware that honours flushes |
///
/// There is no level that the death of the process can lose. `false` is `Os` and `true` is `Disk`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Durability {
    /// Handed to the operating system: a copy into the journal, or one system call.
    #[default]
    Os,
    /// Synced to the disk: costs a flush of the device, shared by everyone who waits at that moment.
    Disk,
}

impl From<bool> for Durability {
    fn from(durable: bool) -> Self {
        if durable { Self::Disk } else { Self::Os }
    }
}

/// When entries that were appended with [`Durability::Os`] are synced without anybody asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum SyncPolicy {
    /// They are not: a sync comes with a `Disk` append, [`sync`](crate::Wal::sync), the end of a segment, or a
    /// shutdown.
    #[default]
    OnDemand,
    /// A thread of the log's own calls [`sync`](crate::Wal::sync), and again so long after that is done; it costs
    /// nothing where nothing was appended. Power loss then takes what came in such an interval at most, and in the
    /// time a sync takes. A sync that fails poisons the keys concerned, as one that was asked for: the next append to
    /// one of them says so, and [`health`](crate::Wal::health) does. (If it was that of the directory, `Disk` appends to keys with new segments
    /// say so, and `health`.) At least one millisecond. Who forks meanwhile may find a lock held in the child.
    Every(Duration),
}

/// How a [`Wal`](crate::Wal) keeps its entries. Plain data; checked once, by
/// [`Wal::new`](crate::Wal::new).
///
/// No option weakens what [`Durability`] promises: they set what is kept for how long, what is
/// refused, and how much of the machine is used.
///
/// ```
/// use keywal::WalOptions;
/// use std::time::Duration;
///
/// let options = WalOptions {
///     entry_retention: Duration::from_secs(60 * 60 * 24),
///     segments_per_retention_period: 24, // one segment per hour
///     ..Default::default()
/// };
/// assert!(options.validate().is_ok());
///
/// let same = WalOptions::with_retention(Duration::from_secs(60 * 60 * 24)).segments_per_retention_period(24);
/// assert_eq!(same.entry_retention, options.entry_retention);
/// ```
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub struct WalOptions {
    /// No entry is dropped before it is this old; once [`compact`](crate::Wal::compact) has run, none
    /// is older than this plus one segment window. Default: one week, as in nano-wal. At least one
    /// millisecond per segment of the period. [`Duration::MAX`]: for ever. This and the next three limits
    /// are those of keys that have no [`Retention`](crate::Retention) of their own, which explains them.
    pub entry_retention: Duration,

    /// Into how many windows the retention is divided; a key starts a new segment when the window of
    /// its active one is over. More segments: expired entries go sooner, at the price of more files.
    /// Default 10, as in nano-wal: entries outlive their retention by at most a tenth. A window is
    /// never longer than 49 days, whatever the division gives, and a segment keeps the window it was
    /// created with; a changed `entry_retention` counts from the next `compact` on.
    pub segments_per_retention_period: u32,

    /// The oldest segments of a key go while the others have at least so many entries: up to a segment more
    /// stays, of small entries some 64 KiB. Default: no limit. At least 1.
    pub max_entries_per_key: Option<u64>,

    /// The oldest segments of a key go while the others have at least so many bytes. Default: no limit.
    /// At least 1.
    pub max_bytes_per_key: Option<u64>,

    /// So many entries of a key are left whatever the limits say, its age included. Default 0.
    pub min_entries_per_key: u64,

    /// Asked before retention drops a segment, so that it can be archived, or kept for now. Default: none.
    /// The setter of the same name says what it is told.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub before_drop: Option<DropHook>,

    /// A segment also ends when the next frame would take it past this many bytes. Default 64 MiB: a
    /// crash makes the next open read at most this much per key that was being written. From 4 KiB to
    /// 4 GiB - 1 MiB - 1.
    pub max_segment_bytes: u64,

    /// Largest entry, header and content together, that is accepted; also the most that a reader
    /// allocates for one entry. Default 16 MiB: far above what logs carry, small enough to hold in
    /// memory. At least 1; where `max_segment_bytes` is less, that counts.
    pub max_entry_bytes: u64,

    /// How many segment files are held open. Default 512: half of the usual limit of 1024 descriptors
    /// per process. At least 1. With more keys than this being appended to in turn, an append has to open
    /// its file and to close that of another key first, some microseconds; where that one has entries which
    /// were appended with [`Durability::Disk`], also to sync it, a flush of the device: give twice as many as there
    /// are keys in use at once, if the process's limit allows (a segment that has ended stays open until the journal
    /// has let go of it). A file that was closed unsynced is read back
    /// once it is synced. A thread that reads may hold one more, and files with a failed sync are never
    /// closed.
    pub max_open_files: usize,

    /// Disk space reserved for a segment when it is created. Default 0, nothing: with many keys this
    /// is a floor under the disk space, times keys. Reserving makes syncs somewhat cheaper and fails
    /// early when the disk is full. What is not used is given back when the segment ends. At most
    /// `max_segment_bytes`.
    pub preallocate_bytes: u64,

    /// Size of the journal: a file of fixed size through which small entries go to their segments. An
    /// append then costs a copy instead of a system call, and survives the death of the process all the
    /// same; durable appends of any number of keys share one sync, and the name of a new segment needs none of
    /// its own. (That what the segment before it has survives power loss is waited for all the same.) Only with a
    /// journal can entries of several keys be [appended together](crate::Wal::append_many).
    ///
    /// Mapped into memory, but on file systems that never write in place (Btrfs, bcachefs, ZFS): there it is
    /// written, and an append costs a system call.
    ///
    /// A power of two from 4 KiB to 1 GiB, all of which is reserved at once and read after a crash. Default
    /// 4 MiB: room for some 25,000 entries of 100 bytes. 64 MiB suits thousands of keys in use at once: the
    /// more of a key's entries go to its segment with one write, the better. 0, no journal: each append is a
    /// write to its segment, and each segment is synced by itself; for directories that must be tiny. Can be
    /// changed whenever the directory is opened. Affects speed, not what survives.
    pub journal_bytes: u64,

    /// Whether a thread of the log's own moves entries from the journal to the segments, and syncs those
    /// that were promised to be durable. Default `false`: one in a thousand appends does that on the
    /// side, and takes so much longer. With it, appends help only if the thread falls behind. It sleeps as long as
    /// there is nothing to do, and ends with the log. Without a journal there is none.
    pub maintenance_thread: bool,

    /// When entries are synced without anybody asking. Default [`SyncPolicy::OnDemand`]: never. Affects entries
    /// appended with [`Durability::Os`] only.
    pub sync_policy: SyncPolicy,

    /// Whether opening the directory after a crash checks the newest segment of every key, so that the
    /// [report](crate::Wal::recovery_report) names all damage and all torn writes. Default `true`. With `false`
    /// each key is checked when it is first used, just as thoroughly: opening then takes time for the names of
    /// the files and for the journal only, however many keys there are. Damage shows up where it is read, and
    /// in [`health`](crate::Wal::health). The first [`sync`](crate::Wal::sync) of all keys and
    /// [`shutdown`](crate::Wal::shutdown) check the keys that have not been used. Until then, `Os` entries of a process that
    /// died may be lost with the power still.
    pub check_on_open: bool,

    /// Permissions of the directory if it has to be created; the umask narrows them. Default `0o700`.
    pub dir_mode: u32,

    /// Permissions of the files created; the umask narrows them. Default `0o600`: logs hold data of
    /// others. Widen it to let another user read.
    pub file_mode: u32,

    /// Where the time comes from. Default: the operating system. Tests put a
    /// [`ManualClock`](crate::ManualClock) here.
    #[cfg_attr(feature = "serde", serde(skip, default = "system_clock"))]
    pub clock: Arc<dyn Clock>,
}

fn system_clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::default())
}

impl Default for WalOptions {
    fn default() -> Self {
        Self {
            entry_retention: Duration::from_secs(60 * 60 * 24 * 7),
            segments_per_retention_period: 10,
            max_entries_per_key: None,
            max_bytes_per_key: None,
            min_entries_per_key: 0,
            before_drop: None,
            max_segment_bytes: 64 << 20,
            max_entry_bytes: 16 << 20,
            max_open_files: 512,
            preallocate_bytes: 0,
            journal_bytes: 4 << 20,
            maintenance_thread: false,
            sync_policy: SyncPolicy::OnDemand,
            check_on_open: true,
            dir_mode: 0o700,
            file_mode: 0o600,
            clock: system_clock(),
        }
    }
}

impl WalOptions {
    /// The defaults with another [`entry_retention`](Self::entry_retention).
    pub fn with_retention(entry_retention: Duration) -> Self {
        Self { entry_retention, ..Self::default() }
    }

    /// The defaults with other
    /// [`segments_per_retention_period`](Self::segments_per_retention_period).
    pub fn with_segments_per_retention_period(segments: u32) -> Self {
        Self { segments_per_retention_period: segments, ..Self::default() }
    }

    /// Sets [`entry_retention`](Self::entry_retention).
    #[must_use]
    pub fn retention(mut self, entry_retention: Duration) -> Self {
        self.entry_retention = entry_retention;
        self
    }

    /// Sets [`segments_per_retention_period`](Self::segments_per_retention_period).
    #[must_use]
    pub fn segments_per_retention_period(mut self, segments: u32) -> Self {
        self.segments_per_retention_period = segments;
        self
    }

    /// Sets [`max_entries_per_key`](Self::max_entries_per_key).
    #[must_use]
    pub fn max_entries_per_key(mut self, entries: u64) -> Self {
        self.max_entries_per_key = Some(entries);
        self
    }

    /// Sets [`max_bytes_per_key`](Self::max_bytes_per_key).
    #[must_use]
    pub fn max_bytes_per_key(mut self, bytes: u64) -> Self {
        self.max_bytes_per_key = Some(bytes);
        self
    }

    /// Sets [`min_entries_per_key`](Self::min_entries_per_key).
    #[must_use]
    pub fn min_entries_per_key(mut self, entries: u64) -> Self {
        self.min_entries_per_key = entries;
        self
    }

    /// Has `hook` asked by [`compact`](crate::Wal::compact) before each segment that it would drop, the
    /// oldest of a key first. What is dropped by name, with [`truncate_before`](crate::Wal::truncate_before),
    /// [`remove_key`](crate::Wal::remove_key) and [`destroy`](crate::Wal::destroy), is not asked about.
    ///
    /// After [`Verdict::Drop`](crate::Verdict::Drop) the segment goes, unless something fails, a crash
    /// comes first, or the key is given another retention meanwhile: then the hook is asked about it again.
    /// After [`Verdict::Keep`](crate::Verdict::Keep) or an error, it and the newer ones of its key stay.
    ///
    /// The hook may use the log, of whichever key: no lock of a key is held. `compact` and
    /// [`shutdown`](crate::Wal::shutdown) would wait for the `compact` that waits for the hook: called by
    /// the hook, they answer [`InDropHook`](crate::WalError::InDropHook); it must not wait for a thread
    /// that calls them. A panic ends the `compact`, and nothing has been dropped by it.
    ///
    /// ```
    /// # use keywal::{Verdict, Wal, WalOptions};
    /// # let dir = tempfile::tempdir()?;
    /// # let archive = tempfile::tempdir()?.keep();
    /// let options = WalOptions::default().before_drop(move |segment| {
    ///     let name = segment.path.file_name().ok_or("no name")?;
    ///     let mut copy = std::fs::File::create(archive.join(name))?;
    ///     let checksum = segment.copy_to(&mut copy)?;
    ///     copy.sync_all()?;
    ///     println!("{name:?}: entries from {}, checksum {checksum:08x}", segment.first_index);
    ///     Ok(Verdict::Drop)
    /// });
    /// let wal = Wal::new(dir.path(), options)?;
    /// # wal.compact()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn before_drop(
        mut self,
        hook: impl Fn(&DueSegment<'_>) -> HookResult + Send + Sync + 'static,
    ) -> Self {
        self.before_drop = Some(DropHook::new(hook));
        self
    }

    /// Sets [`max_segment_bytes`](Self::max_segment_bytes).
    #[must_use]
    pub fn max_segment_bytes(mut self, bytes: u64) -> Self {
        self.max_segment_bytes = bytes;
        self
    }

    /// Sets [`max_entry_bytes`](Self::max_entry_bytes).
    #[must_use]
    pub fn max_entry_bytes(mut self, bytes: u64) -> Self {
        self.max_entry_bytes = bytes;
        self
    }

    /// Sets [`max_open_files`](Self::max_open_files).
    #[must_use]
    pub fn max_open_files(mut self, files: usize) -> Self {
        self.max_open_files = files;
        self
    }

    /// Sets [`preallocate_bytes`](Self::preallocate_bytes).
    #[must_use]
    pub fn preallocate_bytes(mut self, bytes: u64) -> Self {
        self.preallocate_bytes = bytes;
        self
    }

    /// Sets [`journal_bytes`](Self::journal_bytes).
    #[must_use]
    pub fn journal_bytes(mut self, bytes: u64) -> Self {
        self.journal_bytes = bytes;
        self
    }

    /// Sets [`maintenance_thread`](Self::maintenance_thread).
    #[must_use]
    pub fn maintenance_thread(mut self, wanted: bool) -> Self {
        self.maintenance_thread = wanted;
        self
    }

    /// Sets [`sync_policy`](Self::sync_policy).
    #[must_use]
    pub fn sync_policy(mut self, policy: SyncPolicy) -> Self {
        self.sync_policy = policy;
        self
    }

    /// Sets [`check_on_open`](Self::check_on_open).
    #[must_use]
    pub fn check_on_open(mut self, check: bool) -> Self {
        self.check_on_open = check;
        self
    }

    /// Sets [`dir_mode`](Self::dir_mode) and [`file_mode`](Self::file_mode).
    #[must_use]
    pub fn modes(mut self, dir_mode: u32, file_mode: u32) -> Self {
        self.dir_mode = dir_mode;
        self.file_mode = file_mode;
        self
    }

    /// Sets [`clock`](Self::clock).
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Checks the options, as [`Wal::new`](crate::Wal::new) does.
    ///
    /// # Errors
    /// [`WalError::InvalidOptions`] names the field, the bound and what was given.
    pub fn validate(&self) -> Result<()> {
        let refuse = |text: String| Err(WalError::InvalidOptions(text));
        let segments = self.segments_per_retention_period;
        if segments == 0 {
            return refuse("segments_per_retention_period is 0; give at least 1".into());
        }
        let retention_ms = millis(self.entry_retention);
        if retention_ms / u64::from(segments) == 0 {
            return refuse(format!(
                "entry_retention of {retention_ms} ms in {segments} segments gives windows under 1 ms; \
                 lengthen the retention or use fewer segments"
            ));
        }
        for (name, given) in [
            ("max_entries_per_key", self.max_entries_per_key),
            ("max_bytes_per_key", self.max_bytes_per_key),
        ] {
            if given == Some(0) {
                return refuse(format!("{name} is 0; give at least 1, or no limit"));
            }
        }
        if !(4096..=MAX_SEGMENT_BYTES).contains(&self.max_segment_bytes) {
            let given = self.max_segment_bytes;
            return refuse(format!(
                "max_segment_bytes is {given}; give 4096 to {MAX_SEGMENT_BYTES}"
            ));
        }
        for (name, given, least, most) in [
            ("max_entry_bytes", self.max_entry_bytes, 1, MAX_SEGMENT_BYTES),
            ("preallocate_bytes", self.preallocate_bytes, 0, self.max_segment_bytes),
        ] {
            if !(least..=most).contains(&given) {
                return refuse(format!("{name} is {given}; give {least} to {most}"));
            }
        }
        let journal = self.journal_bytes;
        if journal != 0 && !(JOURNAL_BYTES.contains(&journal) && journal.is_power_of_two()) {
            return refuse(format!(
                "journal_bytes is {journal}; give 0, or a power of two from {} to {}",
                JOURNAL_BYTES.start(),
                JOURNAL_BYTES.end()
            ));
        }
        if let SyncPolicy::Every(interval) = self.sync_policy {
            if millis(interval) == 0 {
                return refuse(format!("sync_policy is every {interval:?}; give at least 1 ms"));
            }
        }
        if self.max_open_files == 0 {
            return refuse("max_open_files is 0; give at least 1".into());
        }
        for (name, mode, least) in
            [("dir_mode", self.dir_mode, 0o700), ("file_mode", self.file_mode, 0o600)]
        {
            if mode & least != least || mode > 0o777 {
                return refuse(format!(
                    "{name} is {mode:#o}; the owner needs {least:#o}, and 0o777 is the most"
                ));
            }
        }
        Ok(())
    }

    /// What is kept of keys that have no limits of their own.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            max_age_ms: millis(self.entry_retention),
            max_entries: self.max_entries_per_key.unwrap_or(NO_LIMIT),
            max_bytes: self.max_bytes_per_key.unwrap_or(NO_LIMIT),
            min_entries: self.min_entries_per_key,
        }
    }

    /// How long a segment is appended to, in milliseconds.
    pub(crate) fn window_ms(&self, max_age_ms: u64) -> u64 {
        let segments = u64::from(self.segments_per_retention_period.max(1));
        (max_age_ms / segments).clamp(1, MAX_WINDOW_MS)
    }
}
