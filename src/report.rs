//! Facts for people and monitoring: what recovery found, what compaction did, what has been counted.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::entry::Key;
use crate::error::WalError;
use crate::primitives::atomic::{AtomicU64, Ordering};
use crate::retention::ClockTrouble;

/// Items of each kind that a report lists; more are only counted.
pub(crate) const MAX_LISTED: usize = 1_000;

/// A place in a file, with what was found there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Finding {
    /// The file.
    pub path: PathBuf,
    /// Where it starts.
    pub offset: u64,
    /// How far it goes.
    pub bytes: u64,
    /// What it is.
    pub what: String,
}

impl Finding {
    /// What an error says of a file in the directory, or of the directory itself.
    pub(crate) fn of(error: &WalError, dir: &Path) -> Self {
        let path = match error {
            WalError::Corrupted { path, .. }
            | WalError::UnsupportedVersion { path, .. }
            | WalError::Poisoned { path }
            | WalError::StorageFull { path, .. }
            | WalError::Io { path, .. } => path,
            _ => dir,
        };
        let what = match error {
            WalError::Io { source, .. } => format!("{error}: {source}"),
            _ => error.to_string(),
        };
        Self { path: path.to_owned(), offset: 0, bytes: 0, what }
    }
}

/// What [`Wal::new`](crate::Wal::new) found and did; see
/// [`recovery_report`](crate::Wal::recovery_report).
///
/// After a clean shutdown segments are not read on opening, so nothing is counted or found in them.
/// Each list holds at most 1,000 findings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct RecoveryReport {
    /// The directory had been shut down, or was new: nothing had to be checked.
    pub clean: bool,
    /// Segment files.
    pub segments: u64,
    /// Keys, as far as their files could be read.
    pub keys: u64,
    /// Keys that are checked when they are first used: see
    /// [`check_on_open`](crate::WalOptions::check_on_open).
    pub unchecked_keys: u64,
    /// Entries found in the active segments that were checked.
    pub entries_checked: u64,
    /// Bytes of the active segments that were checked.
    pub bytes_checked: u64,
    /// Bytes that the journal had, and that were written to their segments, or written there again.
    pub journal_bytes: u64,
    /// Unfinished writes at the ends of segments. Nobody was promised these bytes; they stay where
    /// they are and are never read.
    pub torn: Vec<Finding>,
    /// Damage to bytes that had been durable. Entries were lost here.
    pub damaged: Vec<Finding>,
    /// Files with a segment's name that are not used, and why.
    pub ignored: Vec<Finding>,
    /// Files that are none of ours. They are left alone.
    pub foreign_files: u64,
    /// How long it took.
    pub elapsed: Duration,
}

impl RecoveryReport {
    pub(crate) fn note(list: &mut Vec<Finding>, finding: Finding) {
        if list.len() < MAX_LISTED {
            list.push(finding);
        }
    }
}

/// What [`compact`](crate::Wal::compact) or [`truncate_before`](crate::Wal::truncate_before) did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct CompactionReport {
    /// Keys that were looked at.
    pub keys: u64,
    /// Segments dropped.
    pub dropped_segments: u64,
    /// Bytes of disk space given back (lengths of the files).
    pub dropped_bytes: u64,
    /// Entries dropped.
    pub dropped_entries: u64,
    /// Why nothing was dropped for its age anywhere, if the clock could not be trusted.
    pub refused: Option<ClockTrouble>,
    /// Keys of which something is old enough and nothing was dropped for its age, because the time of day
    /// is before the creation of their newest segment.
    pub keys_from_the_future: u64,
    /// Segments that stay because [the hook](crate::WalOptions::before_drop) wants them or older ones of
    /// their key kept, or failed; then `failures` says why.
    pub held_segments: u64,
    /// Keys or files that could not be worked on, at most 1,000; everything else was done.
    pub failures: Vec<Finding>,
}

/// What [`Wal::snapshot`](crate::Wal::snapshot) or [`restore`](crate::restore) made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct SnapshotReport {
    /// Keys in the copy; those whose files could only be copied as they are do not count, nor their entries.
    pub keys: u64,
    /// Segment files in the copy: those that follow, and files that could only be copied as they are.
    pub segments: u64,
    /// Segments that an earlier snapshot had already.
    pub kept_segments: u64,
    /// Segments that share their disk space with the original.
    pub linked_segments: u64,
    /// Segments that were copied.
    pub copied_segments: u64,
    /// Segments of an earlier snapshot that are no more, and were removed.
    pub removed_segments: u64,
    /// Entries in the copy.
    pub entries: u64,
    /// Bytes of all segment files in the copy.
    pub bytes: u64,
    /// Bytes that were written.
    pub copied_bytes: u64,
    /// Damage in the original, which the copy has, too; at most 1,000 findings. What an earlier snapshot
    /// had already was not looked at again: see [`verify`](crate::verify).
    pub damaged: Vec<Finding>,
    /// How long it took.
    pub elapsed: Duration,
}

/// What [`verify`](crate::verify) found in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct VerifyReport {
    /// The directory had been shut down, and was neither opened nor changed since. `false` is no damage: a
    /// directory in use and one left by a crash have it, too. Damage is in `damaged`.
    pub clean: bool,
    /// Segment files.
    pub segments: u64,
    /// The keys, in the order of their hashes, as far as their files could be read.
    pub keys: Vec<VerifiedKey>,
    /// Entries that can be read, of all keys.
    pub entries: u64,
    /// Bytes of valid segments.
    pub bytes: u64,
    /// Unfinished writes at the ends of segments: nobody was promised these bytes. At most 1,000.
    pub torn: Vec<Finding>,
    /// Damage to bytes that had been durable, of keys and of the directory as a whole; at most 1,000.
    pub damaged: Vec<Finding>,
    /// Files with a segment's name that are not used, and why; at most 1,000.
    pub ignored: Vec<Finding>,
    /// What is there twice, and damaged once: the header of a segment, the facts about the directory. Nothing is lost,
    /// and it is no sign of a bad disk by itself, since a power cut may leave it; but if the other copy goes, too, that
    /// is damage. At most 1,000.
    pub weakened: Vec<Finding>,
    /// Files that are none of ours.
    pub foreign_files: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// What [`verify`](crate::verify) found of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct VerifiedKey {
    /// The key.
    pub key: Key,
    /// Segments that could be read.
    pub segments: u64,
    /// Entries that can be read.
    pub entries: u64,
    /// Valid bytes in them, headers included.
    pub bytes: u64,
    /// Index of the oldest entry.
    pub first_index: u64,
    /// Index behind the newest entry.
    pub next_index: u64,
    /// How many of the report's findings of damage are of this key.
    pub damaged: u64,
}

impl VerifiedKey {
    pub(crate) fn of(key: &[u8]) -> Self {
        let key = Key::from(key.to_vec());
        Self { key, segments: 0, entries: 0, bytes: 0, first_index: 0, next_index: 0, damaged: 0 }
    }
}

/// Counted since the directory was opened; see [`stats`](crate::Wal::stats).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Stats {
    /// Keys with at least one segment.
    pub keys: u64,
    /// Segment files.
    pub segments: u64,
    /// Segment files held open.
    pub open_files: u64,
    /// Entries appended.
    pub appended_entries: u64,
    /// Bytes appended: headers and contents, without frame headers.
    pub appended_bytes: u64,
    /// Entries read.
    pub read_entries: u64,
    /// Syncs of segments, of the journal and of the directory.
    pub syncs: u64,
    /// Time they took.
    pub sync_time: Duration,
    /// Segments started.
    pub created_segments: u64,
    /// Segments dropped.
    pub dropped_segments: u64,
    /// Entries in the segments dropped by retention and truncation.
    pub dropped_entries: u64,
    /// Bytes of disk space these gave back.
    pub dropped_bytes: u64,
    /// Appends that returned an error, a conflict included.
    pub failed_appends: u64,
    /// Appends that returned [`Conflict`](crate::WalError::Conflict).
    pub conflicts: u64,
    /// Syncs that failed; each has poisoned something: see [`health`](crate::Wal::health).
    pub failed_syncs: u64,
    /// Runs of [`compact`](crate::Wal::compact), those that failed included.
    pub compactions: u64,
    /// 1 if the directory had not been shut down and opening it had to check it, else 0.
    pub recoveries: u64,
}

/// What somebody who runs the log has to know; see [`health`](crate::Wal::health).
///
/// Plain data, as of some moment during the call. What is alarming about it is for the user to say;
/// `examples/alerting.rs` shows one way. Each list holds at most 1,000 items.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Health {
    /// Bytes this process may still add to the file system; `None` if it could not be asked.
    pub free_bytes: Option<u64>,
    /// An estimate of the bytes that the log will want until the next segment window is over: what the
    /// journal has yet to move to the segments (all of the journal, if there was no space to create it); a
    /// file of 4 KiB, or [`preallocate_bytes`](crate::WalOptions::preallocate_bytes), for each key; and as
    /// much as was appended in a window on the average since the directory was opened, frame headers
    /// included. In the first window that is what was appended so far, which is too little; a log that
    /// gets busier wants more; what `compact` gives back is not subtracted.
    pub needed_bytes: u64,
    /// What takes no more durable entries until the directory is reopened, and why.
    pub poisoned: Vec<Poisoned>,
    /// Damage to bytes that had been durable: found on opening, and met since by reading and appending.
    /// Nobody looks for it: what has not been read yet may be damaged, too.
    pub damaged: Vec<Finding>,
    /// The latest run of [`compact`](crate::Wal::compact); `None` if there was none since the directory was
    /// opened.
    pub last_compaction: Option<LastCompaction>,
    /// Runs of [`compact`](crate::Wal::compact) in a row, up to the latest, that refused or left anything
    /// undone.
    pub compactions_failed: u64,
    /// Why a run of [`compact`](crate::Wal::compact) would refuse now (while one is running: did then).
    pub clock: Option<ClockTrouble>,
    /// Keys with entries that would be lost with the power, or that nobody has asked to be durable yet: others may have
    /// made them so with a sync of the journal, which does not show here.
    pub unsynced_keys: u64,
    /// Bytes of these entries, frame headers included.
    pub unsynced_bytes: u64,
}

/// Something that takes no more durable entries; see [`WalError::Poisoned`](crate::WalError::Poisoned).
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Poisoned {
    /// The key; `None` where it is something that keys share: the directory, its `META`, its journal.
    pub key: Option<Key>,
    /// The file in doubt.
    pub path: PathBuf,
    /// What happened.
    pub why: String,
}

/// The latest run of [`compact`](crate::Wal::compact); see [`Health`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct LastCompaction {
    /// How long ago it ended.
    pub age: Duration,
    /// What it returned: the report, or the text of the error.
    pub result: Result<CompactionReport, String>,
}

/// Facts about one key; see [`key_stats`](crate::Wal::key_stats).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct KeyStats {
    /// Index of the oldest entry kept.
    pub first_index: u64,
    /// Index the next entry will get.
    pub next_index: u64,
    /// Segment files.
    pub segments: u64,
    /// Valid bytes in them, headers included.
    pub bytes: u64,
    /// When the oldest segment was created.
    pub oldest_ms: u64,
    /// When the newest segment was created.
    pub newest_ms: u64,
}

/// Public facts about one segment; see [`segments`](crate::Wal::segments).
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct SegmentInfo {
    /// Number within the key.
    pub sequence: u64,
    /// The file.
    pub path: PathBuf,
    /// Index of its first entry.
    pub first_index: u64,
    /// Index behind its last entry.
    pub next_index: u64,
    /// Valid bytes, headers included.
    pub bytes: u64,
    /// When it was created.
    pub created_ms: u64,
    /// When it stops taking entries.
    pub expiration_ms: u64,
    /// Whether it is the newest one, which takes appends until it expires or is full.
    pub active: bool,
}

impl SegmentInfo {
    /// The indexes of its entries: what [`Entries::range`](crate::Entries::range) takes to read this segment
    /// and no other.
    pub fn indexes(&self) -> std::ops::Range<u64> {
        self.first_index..self.next_index
    }
}

/// Counters that many threads add to.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) appended_entries: AtomicU64,
    pub(crate) appended_bytes: AtomicU64,
    pub(crate) read_entries: AtomicU64,
    syncs: AtomicU64,
    sync_nanos: AtomicU64,
    pub(crate) created_segments: AtomicU64,
    pub(crate) dropped_segments: AtomicU64,
    pub(crate) dropped_entries: AtomicU64,
    pub(crate) dropped_bytes: AtomicU64,
    pub(crate) failed_appends: AtomicU64,
    pub(crate) conflicts: AtomicU64,
    failed_syncs: AtomicU64,
    pub(crate) compactions: AtomicU64,
}

/// Adds to a counter that nobody orders anything by.
pub(crate) fn count(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl Counters {
    /// Counts a sync that has ended.
    pub(crate) fn count_sync(&self, elapsed: Duration, result: &io::Result<()>) {
        count(&self.syncs, 1);
        count(&self.failed_syncs, u64::from(result.is_err()));
        count(&self.sync_nanos, u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            appended_entries: read(&self.appended_entries),
            appended_bytes: read(&self.appended_bytes),
            read_entries: read(&self.read_entries),
            syncs: read(&self.syncs),
            sync_time: Duration::from_nanos(read(&self.sync_nanos)),
            created_segments: read(&self.created_segments),
            dropped_segments: read(&self.dropped_segments),
            dropped_entries: read(&self.dropped_entries),
            dropped_bytes: read(&self.dropped_bytes),
            failed_appends: read(&self.failed_appends),
            conflicts: read(&self.conflicts),
            failed_syncs: read(&self.failed_syncs),
            compactions: read(&self.compactions),
            ..Stats::default()
        }
    }
}
