//! What all streams of a directory share: the directory itself, the open files, `META`, the clock.

mod carry;
mod damage;
mod moving;
mod upkeep;

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use ahash::HashMap;

pub(crate) use self::upkeep::Frames;

use crate::bell::Bell;
use crate::cache::FileCache;
use crate::chains::ChainCache;
use crate::cuts::Cuts;
use crate::error::{Result, WalError};
use crate::fork::Process;
use crate::format::{FormatError, Limits, Meta, SLOT_OFFSETS, SegmentId, key_hash, mix};
use crate::fs::{Dir, File, OpenMode, read_full, write_full};
use crate::observe::{self, Synced};
use crate::options::WalOptions;
use crate::primitives::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::primitives::{Mutex, MutexGuard, RwLock, RwLockReadGuard};
use crate::report::{Counters, Poisoned};
use crate::retention::Share;
use crate::ring::Ring;
use crate::scan::Tail;
use crate::segment::{Access, Overlay, Segment};
use crate::sync::{SyncError, SyncGate};
use crate::watch::Watch;

use self::damage::Damage;

/// What happened to the directory before it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Past {
    /// It is new, or was shut down: everything on disk is as the last writer left it.
    Clean,
    /// Unsynced writes may be missing, in any combination. It makes no difference whether the machine or
    /// only the process went down: a failed sync, or a device that went away, loses pages as power does.
    Unclean,
}

/// What is known of a directory that is only read.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// What the journal had when the directory was listed.
    pub(crate) journal: HashMap<SegmentId, Arc<Overlay>>,
    /// Where the newest segments ended when they were last looked at.
    pub(crate) tails: HashMap<SegmentId, Tail>,
}

#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) dir: Arc<dyn Dir>,
    pub(crate) options: WalOptions,
    /// Of keys that have none of their own, and what goes into one of their segments.
    pub(crate) limits: Limits,
    share: Share,
    pub(crate) past: Past,
    /// After an unclean stop: every key has been looked at since.
    pub(crate) all_checked: AtomicBool,
    pub(crate) directory_id: u64,
    pub(crate) files: FileCache,
    pub(crate) counters: Arc<Counters>,
    pub(crate) chains: ChainCache,
    /// `None`: everything is written to the segments themselves.
    pub(crate) ring: Option<Arc<Ring>>,
    /// Rung when much of the journal waits to be moved on, where a thread of its own does that.
    pub(crate) bell: Option<Bell>,
    pub(crate) damage: Damage,
    /// `Some`: nothing may be changed, and another process may be at it.
    pub(crate) reading: Option<Reading>,
    pub(crate) lost_tails: LostTails,
    pub(crate) cuts: Cuts,
    /// Held for reading by who drops segments or closes streams, for writing by who copies the directory.
    pub(crate) discards: RwLock<()>,
    pub(crate) watch: Arc<Watch>,
    /// As `Meta::interrupted`.
    pub(crate) interrupted: AtomicU64,
    /// Nothing is left of dropped segments, and nothing of them can come back: from the end of a
    /// `compact` that dropped all it wanted to the start of the next one.
    pub(crate) drops_are_done: AtomicBool,
    meta: Mutex<MetaFile>,
    closed: AtomicBool,
    /// The latest time of day that was seen, and what both clocks said when an append found it set back:
    /// the time of day, then the other.
    latest_ms: AtomicU64,
    set_back: Mutex<Option<(u64, u64)>>,
    /// The process that opened the directory.
    process: Process,
    /// Names created and removed so far by this process; marks of `names`.
    name_changes: AtomicU64,
    names: SyncGate,
    /// Segments that are unlinked and still in the cache: a power cut may bring the files back, so what was promised
    /// of them stays promised until the directory is synced.
    unlinked: Mutex<Vec<SegmentId>>,
}

impl Store {
    pub(crate) fn new(
        dir: Arc<dyn Dir>,
        options: WalOptions,
        past: Past,
        meta: MetaFile,
        ring: Option<Ring>,
        counters: Arc<Counters>,
    ) -> Self {
        let opened_ms = options.clock.now_ms();
        let limits = options.limits();
        Self {
            dir,
            limits,
            share: Share::of(&limits, options.segments_per_retention_period),
            bell: (ring.is_some() && options.maintenance_thread).then(Bell::default),
            ring: ring.map(Arc::new),
            past,
            all_checked: AtomicBool::new(false),
            directory_id: meta.state.directory_id,
            files: FileCache::new(options.max_open_files),
            chains: ChainCache::new(options.max_open_files),
            reading: None,
            lost_tails: LostTails::default(),
            damage: Damage::default(),
            cuts: Cuts::default(),
            discards: RwLock::new(()),
            watch: Arc::new(Watch::new()),
            options,
            counters,
            interrupted: AtomicU64::new(if past == Past::Clean {
                meta.state.interrupted
            } else {
                0
            }),
            drops_are_done: AtomicBool::new(false),
            meta: Mutex::new(meta),
            closed: AtomicBool::new(false),
            latest_ms: AtomicU64::new(opened_ms),
            set_back: Mutex::new(None),
            process: Process::current(),
            name_changes: AtomicU64::new(0),
            names: SyncGate::new(0),
            unlinked: Mutex::default(),
        }
    }

    /// How segments are opened.
    pub(crate) fn access(&self, distrust: bool) -> Access {
        match (&self.reading, distrust) {
            (Some(_), _) => Access::Read,
            (None, true) => Access::Fresh,
            (None, false) => Access::Write,
        }
    }

    /// What the journal had of a segment when the directory was listed, to be read only.
    pub(crate) fn journal_of(&self, id: SegmentId) -> Option<&Arc<Overlay>> {
        self.reading.as_ref()?.journal.get(&id)
    }

    /// Whether nobody has opened the directory since it was listed.
    pub(crate) fn is_still_closed(&self) -> Result<bool> {
        let path = self.dir.path().join(META_NAME);
        let file = self
            .dir
            .open(META_NAME, OpenMode::Read)
            .map_err(|source| WalError::io(&path, "open the directory's facts", source))?;
        let newest = read_slots(&*file, &path)?.into_iter().flatten().map(|meta| meta.generation);
        Ok(newest.max() == Some(self.meta().state.generation))
    }

    /// Whether a segment with so many entries, that would go to `end` with the next one, ends before it.
    pub(crate) fn is_full(&self, segment: &Segment, entries: u32, end: u64) -> bool {
        let segments = self.options.segments_per_retention_period;
        let share = segment.limits.map_or(self.share, |limits| Share::of(&limits, segments));
        entries > 0 && (end > self.options.max_segment_bytes || share.is_full(entries, end))
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.options.clock.now_ms()
    }

    /// The time of day for an entry. Notes a clock that has been set back.
    pub(crate) fn append_ms(&self) -> u64 {
        let now_ms = self.now_ms();
        if now_ms < self.latest_ms.load(Ordering::Relaxed) {
            let monotonic_ms = self.options.clock.monotonic_ms();
            let mut set_back = self.set_back.lock().unwrap_or_else(PoisonError::into_inner);
            let expected_ms = set_back.map_or(u64::MAX, |(before_ms, then_ms)| {
                before_ms.saturating_add(monotonic_ms.saturating_sub(then_ms))
            });
            if now_ms < expected_ms {
                *set_back = Some((now_ms, monotonic_ms));
            }
        } else {
            self.saw_time(now_ms);
        }
        now_ms
    }

    /// Notes that it was this late.
    pub(crate) fn saw_time(&self, now_ms: u64) {
        if now_ms > self.latest_ms.load(Ordering::Relaxed) {
            self.latest_ms.fetch_max(now_ms, Ordering::Relaxed);
        }
    }

    /// What both clocks said when an append found the time of day farthest behind.
    pub(crate) fn set_back(&self) -> Option<(u64, u64)> {
        *self.set_back.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(WalError::Closed) } else { Ok(()) }
    }

    /// As [`Self::check_open`], and refuses a forked child: it shares the lock and the files, but
    /// neither the locks in memory nor what they guard.
    pub(crate) fn check_writable(&self) -> Result<()> {
        self.check_open()?;
        if self.process.is_probably_current() { Ok(()) } else { Err(WalError::Forked) }
    }

    /// Refuses a forked child for certain, before something that costs more than asking.
    pub(crate) fn check_process(&self) -> Result<()> {
        if self.process.is_current() { Ok(()) } else { Err(WalError::Forked) }
    }

    /// Closes the store; `false` if it was closed before.
    pub(crate) fn close(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }

    /// Waits for a snapshot that is on its way; none begins while the guard lives.
    pub(crate) fn discarding(&self) -> RwLockReadGuard<'_, ()> {
        self.discards.read().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- META ----

    pub(crate) fn meta(&self) -> MutexGuard<'_, MetaFile> {
        self.meta.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The highest of these sequences that a segment can have used, given the newest valid one. A name
    /// alone says little: anybody can make a file with a large number.
    pub(crate) fn highest_used(&self, named: &[u32], valid: u32) -> u32 {
        let plausible = valid.max(self.meta().state.floor).saturating_add(MAX_UNUSED);
        named
            .iter()
            .copied()
            .filter(|sequence| *sequence <= plausible)
            .max()
            .unwrap_or(0)
            .max(valid)
    }

    // ---- interrupted creations ----

    /// Notes a file that a cut-off creation has left.
    pub(crate) fn note_interrupted(&self, file_name: &str) {
        self.interrupted.fetch_or(interrupted_bit(file_name), Ordering::Relaxed);
    }

    /// Whether this file may have been noted. One in 64 that was not passes for each one that was.
    pub(crate) fn may_be_interrupted(&self, file_name: &str) -> bool {
        self.interrupted.load(Ordering::Relaxed) & interrupted_bit(file_name) != 0
    }

    // ---- names ----

    /// Notes that a name was created or removed. Returns the mark to wait for.
    pub(crate) fn name_changed(&self) -> u64 {
        self.name_changes.fetch_add(1, Ordering::AcqRel).saturating_add(1)
    }

    /// The mark of the latest change, for a name that may not survive power loss yet.
    pub(crate) fn latest_name_change(&self) -> u64 {
        self.name_changes.load(Ordering::Acquire)
    }

    /// Returns once name change number `mark` survives power loss.
    pub(crate) fn sync_names(&self, mark: u64) -> Result<()> {
        let written = || self.latest_name_change();
        let result = self.names.wait_durable(mark, written, || {
            let sync = || self.dir.sync();
            observe::time_sync(&self.counters, Synced::Directory, self.dir.path(), sync)
        });
        match result {
            Ok(()) => Ok(()),
            Err(SyncError::Failed(source)) => {
                // Whose names were in doubt waits in vain.
                self.watch.wake_all();
                let path = self.dir.path().to_owned();
                Err(WalError::Io { path, operation: "sync the directory", source })
            }
            Err(SyncError::Poisoned) => {
                Err(WalError::Poisoned { path: self.dir.path().to_owned() })
            }
        }
    }

    /// Notes that a segment's file is unlinked: see [`Self::sync_unlinked`].
    pub(crate) fn note_unlinked(&self, id: SegmentId) {
        self.name_changed();
        let mut unlinked = self.unlinked.lock().unwrap_or_else(PoisonError::into_inner);
        unlinked.push(id);
    }

    /// Returns once all names created and removed so far survive power loss, and lets the unlinked segments go.
    pub(crate) fn sync_unlinked(&self) -> Result<()> {
        let mut unlinked = self.unlinked.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = std::mem::take(&mut *unlinked);
        drop(unlinked);
        self.sync_names(self.latest_name_change())?;
        for id in gone {
            self.files.remove(id);
        }
        Ok(())
    }

    /// The offset of the segment up to which everything survives power loss, its name included.
    #[cfg(feature = "async")]
    pub(crate) fn durable_end(&self, segment: &Segment) -> u32 {
        let in_file = crate::scan::reach(segment.durable_in_file());
        segment.proven().max(if self.name_is_durable(segment) { in_file } else { 0 })
    }

    /// Whether the segment's name survives power loss.
    fn name_is_durable(&self, segment: &Segment) -> bool {
        self.names.durable() >= segment.name_change()
    }

    /// Refuses a segment whose name cannot be made to survive power loss any more.
    pub(crate) fn check_name(&self, segment: &Segment) -> Result<()> {
        if self.names.is_poisoned() && !self.name_is_durable(segment) {
            return Err(WalError::Poisoned { path: self.dir.path().to_owned() });
        }
        Ok(())
    }
}

impl Store {
    /// What keys share and cannot be made durable any more. Does not wait for a sync of `META`.
    pub(crate) fn poisoned(&self) -> Vec<Poisoned> {
        let ring = self.ring.as_ref();
        let journal = ring.and_then(|ring| Some((ring.path.clone(), ring.why_dead()?)));
        let directory = self.names.why().map(|why| (self.dir.path().to_owned(), why));
        let failed = self.meta.try_lock().is_ok_and(|meta| meta.failed);
        let facts = failed.then(|| (self.dir.path().join(META_NAME), "a sync failed".to_owned()));
        let all = [journal, directory, facts].into_iter().flatten();
        all.map(|(path, why)| Poisoned { key: None, path, why }).collect()
    }
}

/// Damage at the end of a log that had been closed cleanly: everything from there on is lost.
#[derive(Debug, Clone)]
pub(crate) struct LostTail {
    pub(crate) path: PathBuf,
    /// 0 where a whole segment is lost with its header.
    pub(crate) offset: u32,
    pub(crate) bytes: u32,
    pub(crate) reason: &'static str,
}

impl LostTail {
    pub(crate) fn error(&self) -> WalError {
        let (offset, bytes) = (u64::from(self.offset), u64::from(self.bytes));
        WalError::Corrupted { path: self.path.clone(), offset, bytes, reason: self.reason }
    }
}

/// The keys whose newest segment is damaged like that, by key hash. Hardly ever any, so that the
/// streams themselves need no room for it.
#[derive(Debug, Default)]
pub(crate) struct LostTails(Mutex<HashMap<u64, LostTail>>);

impl LostTails {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, LostTail>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, key_hash: u64) -> Option<LostTail> {
        self.lock().get(&key_hash).cloned()
    }

    pub(crate) fn all(&self) -> Vec<LostTail> {
        self.lock().values().cloned().collect()
    }

    pub(crate) fn put(&self, key_hash: u64, lost_tail: LostTail) {
        self.lock().insert(key_hash, lost_tail);
    }

    pub(crate) fn remove(&self, key_hash: u64) -> Option<LostTail> {
        self.lock().remove(&key_hash)
    }
}

/// The bit of `Meta::interrupted` that stands for a file.
fn interrupted_bit(file_name: &str) -> u64 {
    1 << (mix(key_hash(file_name.as_bytes())) % 64)
}

/// So many numbers at most are passed over because of creations that failed.
const MAX_UNUSED: u32 = 16;

/// `META`: two slots, written in turn, each write synced.
#[derive(Debug)]
pub(crate) struct MetaFile {
    /// `None`: nothing may be written.
    file: Option<Box<dyn File>>,
    state: Meta,
    failed: bool,
}

impl MetaFile {
    pub(crate) fn new(file: Box<dyn File>, state: Meta) -> Self {
        Self { file: Some(file), state, failed: false }
    }

    /// The state alone.
    pub(crate) fn read_only(state: Meta) -> Self {
        Self { file: None, state, failed: false }
    }

    pub(crate) fn state(&self) -> &Meta {
        &self.state
    }

    /// Makes an edited state survive power loss. After an error the old state counts, and after a
    /// failed sync no other can be written.
    pub(crate) fn update(&mut self, dir: &dyn Dir, edit: impl FnOnce(&mut Meta)) -> Result<()> {
        let mut next = self.state.clone();
        edit(&mut next);
        if next == self.state { Ok(()) } else { self.write(dir, next) }
    }

    /// Writes the state as it is, to the slot that is the older one.
    pub(crate) fn rewrite(&mut self, dir: &dyn Dir) -> Result<()> {
        self.write(dir, self.state.clone())
    }

    fn write(&mut self, dir: &dyn Dir, mut next: Meta) -> Result<()> {
        let path = || dir.path().join(META_NAME);
        let Some(file) = self.file.as_deref().filter(|_| !self.failed) else {
            return Err(WalError::Poisoned { path: path() });
        };
        next.generation = next.generation.saturating_add(1);
        let [even, odd] = SLOT_OFFSETS;
        let offset = if next.generation % 2 == 0 { even } else { odd };
        write_full(file, &mut [IoSlice::new(&next.to_bytes())], offset)
            .map_err(|source| WalError::io(&path(), "write the directory's facts", source))?;
        if let Err(source) = file.sync_data() {
            self.failed = true;
            observe::sync_failed(Synced::Meta, &path(), &source);
            return Err(WalError::Io {
                path: path(),
                operation: "sync the directory's facts",
                source,
            });
        }
        self.state = next;
        Ok(())
    }
}

pub(crate) fn read_slots(file: &dyn File, path: &Path) -> Result<[Option<Meta>; 2]> {
    let mut slots = [None, None];
    for (slot, offset) in slots.iter_mut().zip(SLOT_OFFSETS) {
        let mut bytes = [0; Meta::BYTES];
        read_full(file, &mut bytes, offset)
            .map_err(|source| WalError::io(path, "read the directory's facts", source))?;
        match Meta::from_bytes(&bytes) {
            Err(FormatError::Newer(version)) => {
                return Err(WalError::UnsupportedVersion { path: path.to_owned(), version });
            }
            result => *slot = result.ok(),
        }
    }
    Ok(slots)
}

/// Name of the file with the facts about the directory as a whole.
pub(crate) const META_NAME: &str = "META";
