//! What somebody who runs the log has to know: counters, and what is wrong.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::Wal;
use crate::cache::Unsynced;
use crate::entry::Key;
use crate::error::Result;
use crate::format::FrameHeader;
use crate::fs::len_u64;
use crate::primitives::Mutex;
use crate::report::{
    CompactionReport, Finding, Health, LastCompaction, MAX_LISTED, Poisoned, RecoveryReport, Stats,
};
use crate::retention::ClockTrouble;
use crate::stream::Stream;

/// Disk space of a segment without entries: a block of most file systems.
const EMPTY_SEGMENT_BYTES: u64 = 4096;

/// What is kept for [`Wal::health`].
#[derive(Debug)]
pub(super) struct Watch {
    opened_monotonic_ms: u64,
    compactions: Mutex<Compactions>,
}

#[derive(Debug, Default)]
struct Compactions {
    /// When it ended, and what it returned.
    last: Option<(u64, Result<CompactionReport, String>)>,
    failed: u64,
}

impl Watch {
    pub(super) fn new(opened_monotonic_ms: u64) -> Self {
        Self { opened_monotonic_ms, compactions: Mutex::default() }
    }

    /// Notes what a run of `compact` is about to return.
    pub(super) fn compacted(&self, monotonic_ms: u64, result: &Result<CompactionReport>) {
        let result = match result {
            Ok(report) => Ok(report.clone()),
            Err(error) => Err(error.to_string()),
        };
        let mut compactions = self.compactions.lock().unwrap_or_else(PoisonError::into_inner);
        let done = result.as_ref().is_ok_and(CompactionReport::did_all);
        compactions.failed = if done { 0 } else { compactions.failed.saturating_add(1) };
        compactions.last = Some((monotonic_ms, result));
    }
}

impl Wal {
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
        stats.recoveries = u64::from(!self.recovery.clean);
        stats
    }

    /// What somebody who runs the log has to know: disk space, what is poisoned, damage, how compaction
    /// goes. Looks at every key in memory and asks the file system for its free space; reads no file, and
    /// waits for no sync. Can be called at any time, after a [`shutdown`](Self::shutdown), too.
    ///
    /// ```
    /// # use keywal::{Wal, WalOptions};
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = Wal::new(dir.path(), WalOptions::default())?;
    /// wal.append_entry("key", None, "content", false)?;
    /// let health = wal.health();
    /// assert!(health.free_bytes.is_none_or(|free| free > health.needed_bytes));
    /// assert!(health.poisoned.is_empty() && health.damaged.is_empty());
    /// assert_eq!(health.unsynced_keys, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn health(&self) -> Health {
        let streams = self.streams.all();
        let mut health = Health {
            free_bytes: self.store.dir.free_bytes().ok(),
            needed_bytes: self.needed_bytes(&streams),
            poisoned: self.poisoned(&streams),
            damaged: self.damaged(),
            ..Health::default()
        };
        let Unsynced { open, closed } = self.store.files.unsynced();
        let open = open.into_iter();
        let open = open.map(|segment| segment.extent().end.saturating_sub(segment.watermark()));
        let closed = closed.into_iter().filter_map(|(hash, durable)| {
            self.streams.by_hash(hash).map(|stream| stream.bytes_from(durable))
        });
        for unsynced in open.chain(closed) {
            health.unsynced_keys = health.unsynced_keys.saturating_add(u64::from(unsynced > 0));
            health.unsynced_bytes = health.unsynced_bytes.saturating_add(u64::from(unsynced));
        }
        let monotonic_ms = self.store.options.clock.monotonic_ms();
        {
            let compactions = self.watch.compactions.lock().unwrap_or_else(PoisonError::into_inner);
            health.compactions_failed = compactions.failed;
            health.last_compaction = compactions.last.as_ref().map(|(ended_ms, result)| {
                let age = Duration::from_millis(monotonic_ms.saturating_sub(*ended_ms));
                LastCompaction { age, result: result.clone() }
            });
        }
        health.clock = self.clock_trouble(health.last_compaction.as_ref());
        health
    }

    fn needed_bytes(&self, streams: &[Arc<Stream>]) -> u64 {
        let store = &self.store;
        let options = &store.options;
        let journal = store.ring.as_ref().map_or(options.journal_bytes, |ring| ring.backlog());
        let keys = len_u64(streams.iter().filter(|stream| stream.exists()).count());
        let segments = keys.saturating_mul(options.preallocate_bytes.max(EMPTY_SEGMENT_BYTES));
        let stats = store.counters.stats();
        let headers = stats.appended_entries.saturating_mul(u64::from(FrameHeader::BYTES_U32));
        let appended = u128::from(stats.appended_bytes.saturating_add(headers));
        let window_ms = options.window_ms(store.limits.max_age_ms);
        let since_ms = options.clock.monotonic_ms().saturating_sub(self.watch.opened_monotonic_ms);
        let per_window =
            appended.saturating_mul(window_ms.into()) / u128::from(since_ms.max(window_ms));
        let per_window = u64::try_from(per_window).unwrap_or(u64::MAX);
        journal.saturating_add(segments).saturating_add(per_window)
    }

    fn poisoned(&self, streams: &[Arc<Stream>]) -> Vec<Poisoned> {
        let store = &self.store;
        let mut poisoned = store.poisoned();
        for segment in store.files.poisoned() {
            let stream = self.streams.by_hash(segment.id.key_hash);
            let Some(key) = stream.as_ref().and_then(|stream| stream.key()) else { continue };
            poisoned.push(Poisoned {
                key: Some(Key::from(key.to_vec())),
                path: segment.path.clone(),
                why: segment.why_poisoned().unwrap_or_default(),
            });
        }
        for stream in streams {
            let Some(path) = stream.stuck_file(store) else { continue };
            poisoned.push(Poisoned {
                key: stream.key().map(|key| Key::from(key.to_vec())),
                path,
                why: "creating or removing a file failed half-way and could not be undone"
                    .to_owned(),
            });
        }
        poisoned.truncate(MAX_LISTED);
        poisoned
    }

    fn damaged(&self) -> Vec<Finding> {
        let mut damaged = self.recovery.damaged.clone();
        for lost_tail in self.store.lost_tails.all() {
            self.store.damage.note(&lost_tail.error());
        }
        for met in self.store.damage.met() {
            let known = |found: &Finding| (&found.path, found.offset) == (&met.path, met.offset);
            if !self.recovery.damaged.iter().any(known) {
                RecoveryReport::note(&mut damaged, met);
            }
        }
        damaged
    }

    fn clock_trouble(&self, last: Option<&LastCompaction>) -> Option<ClockTrouble> {
        let clock = &self.store.options.clock;
        let Ok(guard) = self.clock_guard.try_lock() else {
            return last?.result.as_ref().ok()?.refused;
        };
        let mut guard = guard.clone();
        if let Some((now_ms, monotonic_ms)) = self.store.set_back() {
            guard.saw(now_ms, monotonic_ms);
        }
        guard.check(clock.now_ms(), clock.monotonic_ms()).err()
    }
}
