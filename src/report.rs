//! Facts for people and monitoring: what recovery found, what compaction did, what has been counted.

use std::path::PathBuf;
use std::time::{Duration, Instant};

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
    /// Syncs of segments and of the directory.
    pub syncs: u64,
    /// Time they took.
    pub sync_time: Duration,
    /// Segments started.
    pub created_segments: u64,
    /// Segments dropped.
    pub dropped_segments: u64,
    /// Appends that returned an error, a conflict included.
    pub failed_appends: u64,
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
    pub(crate) failed_appends: AtomicU64,
}

/// Adds to a counter that nobody orders anything by.
pub(crate) fn count(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl Counters {
    /// Does a sync, counts it and takes its time.
    pub(crate) fn time_sync<T>(&self, sync: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = sync();
        count(&self.syncs, 1);
        count(&self.sync_nanos, u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
        result
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
            failed_appends: read(&self.failed_appends),
            ..Stats::default()
        }
    }
}
