//! Dropping: retention, truncation, removal of keys.

use std::sync::PoisonError;

use super::Wal;
use crate::clock::millis;
use crate::error::{Result, WalError};
use crate::observe;
use crate::primitives::atomic::Ordering;
use crate::report::{CompactionReport, Finding, MAX_LISTED, count};
use crate::retention::drop_through_ms;
use crate::store::Store;
use crate::stream::{Expiry, Phase};
use crate::watch::End;

impl Wal {
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
        let _span = observe::compacting(self.store.dir.path());
        let result = self.compact_all();
        observe::compacted(&result);
        count(&self.store.counters.compactions, 1);
        self.watch.compacted(self.store.options.clock.monotonic_ms(), &result);
        result
    }

    fn compact_all(&self) -> Result<CompactionReport> {
        let store = &self.store;
        store.check_writable()?;
        let mut report = CompactionReport::default();
        let clock = &store.options.clock;
        let now_ms = clock.now_ms();
        let mut guard = self.clock_guard.lock().unwrap_or_else(PoisonError::into_inner);
        let _discarding = store.discarding();
        store.check_open()?;
        store.saw_time(now_ms);
        if let Some((now_ms, monotonic_ms)) = store.set_back() {
            guard.saw(now_ms, monotonic_ms);
        }
        if let Err(trouble) = guard.check(now_ms, clock.monotonic_ms()) {
            report.refused = Some(trouble);
            return Ok(report);
        }
        // One run at a time: held until the end.
        let retention_ms = millis(store.options.entry_retention);
        let Some(through_ms) = drop_through_ms(now_ms, retention_ms) else { return Ok(report) };
        store.drops_are_done.store(false, Ordering::Relaxed);
        let all = through_ms >= store.meta().state().dropped_through_ms;
        let mut doomed = Vec::new();
        for stream in self.streams.all() {
            report.keys = report.keys.saturating_add(1);
            match stream.expire(store, now_ms, through_ms) {
                Ok(Expiry::Fresh) => {}
                Ok(Expiry::FromTheFuture) => {
                    report.keys_from_the_future = report.keys_from_the_future.saturating_add(1);
                }
                Ok(Expiry::Drop(segments, full)) => {
                    if let Some(error) = full {
                        report.fail(store, &error);
                    }
                    doomed.push((stream, segments));
                }
                Err(error) => {
                    // It may have been a sync.
                    store.watch.changed(stream.hash);
                    report.fail(store, &error);
                }
            }
        }
        if doomed.is_empty() {
            store.sync_names(store.latest_name_change())?;
            store.drops_are_done.store(all && report.is_complete(), Ordering::Relaxed);
            return Ok(report);
        }
        // Recovery has to know the reason for gaps, and successors have to survive, before anything goes.
        store.meta().update(&*store.dir, |meta| {
            meta.dropped_through_ms = meta.dropped_through_ms.max(through_ms);
        })?;
        store.sync_names(store.latest_name_change())?;
        doomed.retain(|(stream, segments)| match stream.note_dropped(store, segments) {
            Ok(()) => true,
            Err(error) => {
                report.fail(store, &error);
                false
            }
        });
        store.sync_dropped()?;
        for (stream, segments) in doomed {
            if let Err(error) = stream.unlink(store, &segments, &mut report) {
                report.fail(store, &error);
            }
        }
        store.sync_names(store.latest_name_change())?;
        store.drops_are_done.store(all && report.is_complete(), Ordering::Relaxed);
        Ok(report)
    }

    /// Drops the segments of a key that hold only entries before `index`, whatever their age. Entries
    /// before `index` that share a segment with a later one stay. An `index` at or behind
    /// [`next_index`](Self::next_index) drops all entries; the numbers go on.
    ///
    /// # Errors
    /// Those of reading headers, creating and removing files and syncing the directory. After an error
    /// some segments may be gone, always the oldest: on a full disk all those that need no successor, so
    /// that the next call has space.
    pub fn truncate_before(&self, key: impl AsRef<[u8]>, index: u64) -> Result<CompactionReport> {
        self.store.check_writable()?;
        let _discarding = self.store.discarding();
        match self.find(key.as_ref())? {
            Some(stream) => {
                let result = stream.truncate_before(&self.store, index);
                // A sync may have failed.
                self.store.watch.changed(stream.hash);
                result
            }
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
        let _discarding = self.store.discarding();
        loop {
            let Some(stream) = self.find(key.as_ref())? else {
                // A creation that failed and was undone may come back until then.
                return self.store.sync_names(self.store.latest_name_change());
            };
            let mut writer = stream.writer();
            if writer.phase == Phase::Gone {
                continue;
            }
            let keep_tombstone = self.streams.next_is_taken(stream.hash);
            let existed = stream.exists();
            let result = stream.remove(&self.store, &mut writer, keep_tombstone);
            if let (Phase::Stuck, Err(error)) = (writer.phase, &result) {
                observe::poisoned(self.store.dir.path(), error);
            }
            if writer.phase == Phase::Empty && !writer.has_tombstone() {
                writer.phase = Phase::Gone;
                self.streams.forget(&stream, 0);
            }
            let key = key.as_ref();
            if writer.phase == Phase::Stuck {
                let path = stream.path(&self.store, writer.highest());
                self.store.watch.end(stream.hash, key, &End::Stuck(path));
            } else if existed && !stream.exists() {
                self.store.watch.end(stream.hash, key, &End::Removed);
            }
            drop(writer);
            self.store.watch.changed(stream.hash);
            return result;
        }
    }
}

impl CompactionReport {
    /// Whether nothing that was to be dropped is left.
    fn is_complete(&self) -> bool {
        self.failures.is_empty() && self.keys_from_the_future == 0
    }

    /// Whether the run was as it should be.
    pub(super) fn did_all(&self) -> bool {
        self.refused.is_none() && self.is_complete()
    }

    fn fail(&mut self, store: &Store, error: &WalError) {
        store.damage.note(error);
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
