//! Dropping: retention, truncation, removal of keys.

use std::sync::{Arc, PoisonError};
use std::thread::{self, ThreadId};

use super::Wal;
use crate::error::{Result, WalError};
use crate::fs::len_u64;
use crate::hook::DropHook;
use crate::observe;
use crate::parallel;
use crate::primitives::Mutex;
use crate::primitives::atomic::Ordering;
use crate::report::{CompactionReport, Finding, MAX_LISTED, count};
use crate::store::Store;
use crate::stream::{Expired, Moment, Phase, Stream};
use crate::watch::End;

/// The thread that asks the hook, as long as it does.
struct Asking<'a>(&'a Mutex<Option<ThreadId>>);

impl<'a> Asking<'a> {
    fn start(asking: &'a Mutex<Option<ThreadId>>) -> Self {
        *asking.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::current().id());
        Self(asking)
    }
}

impl Drop for Asking<'_> {
    /// Also after a panic of the hook.
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Wal {
    /// Drops the segments that have outlived the retention, of idle keys, too.
    ///
    /// A segment goes when its `expiration` (with a window that is longer than the retention gives now: the creation of
    /// the next one) and the retention's age have passed, or when the key has more
    /// than the [`Retention`](crate::Retention) or the [options](crate::WalOptions) allow; the oldest first;
    /// the newest of a key stays and carries the numbers on (an idle expired one is succeeded by an empty one
    /// first). A clock that stepped back, or jumped ahead while the directory was open, deletes nothing for
    /// its age: the report says so. Before anything goes, the [hook](crate::WalOptions::before_drop) is asked,
    /// if there is one. A crash midway leaves more, never less, than the result of having run.
    ///
    /// Costs a look at each key in memory, reads of headers for keys that may have something to drop, and a
    /// few syncs for all keys; where recovery cannot tell from one moment what was to go (limits other than
    /// an age, keys with a retention of their own, a hook), one more for each segment that the key with the
    /// most of them loses.
    ///
    /// # Errors
    /// Those of syncing the directory or its facts; [`InDropHook`](WalError::InDropHook). What could not be
    /// dropped for other reasons is in the report, and everything else was dropped.
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
        self.check_not_in_hook()?;
        let mut report = CompactionReport::default();
        let clock = &store.options.clock;
        let now_ms = clock.now_ms();
        // One run at a time: held until the end.
        let mut guard = self.clock_guard.lock().unwrap_or_else(PoisonError::into_inner);
        store.check_open()?;
        store.saw_time(now_ms);
        if let Some((now_ms, monotonic_ms)) = store.set_back() {
            guard.saw(now_ms, monotonic_ms);
        }
        let sure_ms = match guard.check(now_ms, clock.monotonic_ms()) {
            Ok(sure_ms) => Some(sure_ms),
            Err(trouble) => {
                report.refused = Some(trouble);
                None
            }
        };
        let moment = Moment { now_ms, sure_ms };
        let through_ms = moment.drop_through_ms(store, None).unwrap_or(0);
        let all = through_ms >= store.meta().state().dropped_through_ms;
        if sure_ms.is_some() {
            store.drops_are_done.store(false, Ordering::Relaxed);
        }
        let mut doomed = self.find_doomed(&moment, &mut report)?;
        if let Some(hook) = &store.options.before_drop {
            self.ask_hook(hook, &mut doomed, &mut report);
        }
        // Not while the hook is asked, which may call back.
        let _discarding = store.discarding();
        // Recovery has to know the reason for gaps, and successors have to survive, before anything goes.
        if doomed.iter().any(|(_, expired)| expired.has_explained()) {
            store.meta().update(&*store.dir, |meta| {
                meta.dropped_through_ms = meta.dropped_through_ms.max(through_ms);
            })?;
        }
        store.sync_names(store.latest_name_change())?;
        doomed.retain(|(stream, expired)| {
            let noted = stream.note_dropped(store, expired);
            noted.map_err(|error| report.fail(store, &error)).is_ok()
        });
        if !doomed.is_empty() {
            store.sync_dropped()?;
        }
        while !doomed.is_empty() {
            doomed.retain_mut(|(stream, expired)| {
                let more = stream.unlink(store, expired, &mut report);
                more.unwrap_or_else(|error| {
                    report.fail(store, &error);
                    false
                })
            });
            store.sync_unlinked()?;
        }
        if sure_ms.is_some() {
            store.drops_are_done.store(all && report.is_complete(), Ordering::Relaxed);
        }
        Ok(report)
    }

    /// What retention wants to drop, of all keys that it wants something of. Many of them are looked at by
    /// several threads: those that need successors then share syncs.
    fn find_doomed(
        &self,
        moment: &Moment,
        report: &mut CompactionReport,
    ) -> Result<Vec<(Arc<Stream>, Expired)>> {
        let store = &self.store;
        let mut streams = self.streams.all();
        report.keys = len_u64(streams.len());
        streams.retain(|stream| stream.may_expire(moment));
        let found = parallel::for_each(&streams, |stream| stream.expire(store, moment))
            .map_err(|source| WalError::io(store.dir.path(), "look at the segments", source))?;
        let mut doomed = Vec::new();
        for (stream, expired) in found {
            match expired {
                Ok(mut expired) => {
                    let future = u64::from(expired.from_the_future);
                    report.keys_from_the_future =
                        report.keys_from_the_future.saturating_add(future);
                    if let Some(error) = expired.full.take() {
                        report.fail(store, &error);
                    }
                    if !expired.is_empty() {
                        doomed.push((stream, expired));
                    }
                }
                Err(error) => {
                    // It may have been a sync.
                    store.watch.changed(stream.hash);
                    report.fail(store, &error);
                }
            }
        }
        Ok(doomed)
    }

    /// Has the hook asked about all of that. What it says no to is not doomed any more.
    fn ask_hook(
        &self,
        hook: &DropHook,
        doomed: &mut Vec<(Arc<Stream>, Expired)>,
        report: &mut CompactionReport,
    ) {
        let _asking = Asking::start(&self.asking);
        doomed.retain_mut(|(stream, expired)| {
            if let Err(error) = stream.ask(&self.store, hook, expired, report) {
                report.fail(&self.store, &error);
            }
            !expired.is_empty()
        });
    }

    /// Refuses a hook what it would wait for itself.
    pub(super) fn check_not_in_hook(&self) -> Result<()> {
        let asking = *self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if asking == Some(thread::current().id()) { Err(WalError::InDropHook) } else { Ok(()) }
    }

    /// Drops the segments of a key that hold only entries before `index`, whatever its retention. Entries
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
    /// key is [`Poisoned`](WalError::Poisoned), and reopening the directory finishes it; the key
    /// takes no entries, and others do, while a file of it cannot be deleted then. Where the journal has failed, or has
    /// no room to end it, nothing is begun, unless removals at the same moment take the last of that.
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
        self.failures.is_empty() && self.keys_from_the_future == 0 && self.held_segments == 0
    }

    /// Whether the run was as it should be.
    pub(super) fn did_all(&self) -> bool {
        self.refused.is_none() && self.is_complete()
    }

    fn fail(&mut self, store: &Store, error: &WalError) {
        store.damage.note(error);
        if self.failures.len() < MAX_LISTED {
            self.failures.push(Finding::of(error, store.dir.path()));
        }
    }
}
