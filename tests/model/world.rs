//! The log, the model, and the operations on both.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keywal::fs::sim::SimDir;
use keywal::{
    ClockTrouble, Durability, Entry, EntryRef, KeyOptions, ManualClock, Retention, SegmentInfo,
    Wal, WalError, WalOptions,
};

use crate::common::oracle::index;
use crate::common::{COLLIDING, Check, EPOCH_MS, content, header};
use crate::ensure;

#[path = "ops.rs"]
mod ops;
#[path = "reading.rs"]
mod reading;

pub use ops::{Limits, Op, Raw};

pub const KEYS: [&[u8]; 5] = [b"", b"\x00\xff\n../a", COLLIDING[0], COLLIDING[1], b"topic-7"];

/// An entry the model holds, with the number of the call that appended it.
#[derive(Debug, Clone)]
pub struct Kept {
    pub entry: Entry,
    pub call: u64,
}

/// One key.
#[derive(Debug, Clone, Default)]
pub struct KeyModel {
    /// There is at least one segment, maybe an empty one.
    pub exists: bool,
    pub life: u32,
    /// From index `first` on.
    pub kept: Vec<Kept>,
    pub first: u64,
    /// The retention of its own, and the windows of all that it has had.
    pub own: Option<Retention>,
    pub windows: Vec<u64>,
    pub metadata: Bytes,
}

impl KeyModel {
    pub fn next(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    /// Everything before this index has been dropped.
    fn drop_before(&mut self, first: u64) -> u64 {
        let dropped = first - self.first;
        self.kept.drain(..index(dropped));
        self.first = first;
        dropped
    }
}

/// A reference that was returned.
#[derive(Debug, Clone, Copy)]
pub struct Handle {
    pub reference: EntryRef,
    pub key: usize,
    pub life: u32,
    pub index: u64,
}

/// What `compact` remembers of the clocks.
#[derive(Debug, Clone, Copy)]
struct Guard {
    /// Both clocks when the log was opened.
    now_ms: u64,
    monotonic_ms: u64,
    latest_ms: u64,
    jumped: bool,
    /// The latest time that anybody saw.
    seen_ms: u64,
}

/// A hundredth of the retention, at most ten seconds.
fn tolerated_jump_ms(limits: &Limits) -> u64 {
    (limits.retention_ms / 100).min(10_000)
}

pub struct World {
    pub limits: Limits,
    pub sim: SimDir,
    pub clock: Arc<ManualClock>,
    pub wal: Option<Wal>,
    pub keys: Vec<KeyModel>,
    pub handles: Vec<Handle>,
    guard: Guard,
    serial: u64,
    pub appended: u64,
    pub reopened: u64,
    pub dropped: u64,
    pub refs_read: u64,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn text(what: &str, error: &WalError) -> String {
    format!("{what}: {error}: {error:?}")
}

impl World {
    pub fn new(limits: Limits) -> Check<Self> {
        let sim = SimDir::new(1);
        let clock = Arc::new(ManualClock::new(EPOCH_MS));
        let mut world = Self {
            limits,
            sim,
            clock,
            wal: None,
            keys: vec![KeyModel::default(); KEYS.len()],
            handles: Vec::new(),
            guard: Guard { now_ms: 0, monotonic_ms: 0, latest_ms: 0, jumped: false, seen_ms: 0 },
            serial: 0,
            appended: 0,
            reopened: 0,
            dropped: 0,
            refs_read: 0,
        };
        world.open()?;
        Ok(world)
    }

    pub fn wal(&self) -> &Wal {
        self.wal.as_ref().expect("open between operations")
    }

    pub fn now_ms(&self) -> u64 {
        keywal::Clock::now_ms(&*self.clock)
    }

    fn monotonic_ms(&self) -> u64 {
        keywal::Clock::monotonic_ms(&*self.clock)
    }

    fn window_ms(&self) -> u64 {
        self.limits.retention_ms / u64::from(self.limits.segments)
    }

    /// The retention of a key without its own.
    fn usual(&self) -> Retention {
        let limits = &self.limits;
        let mut usual = Retention::keep_for(Duration::from_millis(limits.retention_ms));
        usual.max_entries = limits.max_entries_per_key;
        usual.max_bytes = limits.max_bytes_per_key;
        usual.min_entries(limits.min_entries_per_key)
    }

    fn window_of(&self, retention: Option<Retention>) -> u64 {
        let age = retention.unwrap_or(self.usual()).max_age;
        let window = age.map_or(Duration::MAX, |age| age / self.limits.segments);
        millis(window.min(Duration::from_secs(49 * 86_400)))
    }

    fn max_entry_bytes(&self) -> u64 {
        self.limits.max_segment_bytes.min(8192)
    }

    fn open(&mut self) -> Check {
        let limits = self.limits;
        let mut options = WalOptions::with_retention(Duration::from_millis(limits.retention_ms))
            .segments_per_retention_period(limits.segments)
            .max_segment_bytes(limits.max_segment_bytes)
            .max_entry_bytes(self.max_entry_bytes())
            .max_open_files(limits.max_open_files)
            .preallocate_bytes(limits.preallocate_bytes)
            .journal_bytes(limits.journal_bytes)
            .min_entries_per_key(limits.min_entries_per_key)
            .clock(self.clock.clone());
        options.max_entries_per_key = limits.max_entries_per_key;
        options.max_bytes_per_key = limits.max_bytes_per_key;
        let wal = Wal::open_in(Arc::new(self.sim.clone()), options)
            .map_err(|error| text("open", &error))?;
        let report = wal.recovery_report();
        ensure!(report.damaged.is_empty(), "false damage: {:?}", report.damaged);
        ensure!(report.torn.is_empty(), "torn without a crash: {:?}", report.torn);
        ensure!(report.ignored.is_empty(), "ignored without a crash: {:?}", report.ignored);
        self.wal = Some(wal);
        let (now_ms, monotonic_ms) = (self.now_ms(), self.monotonic_ms());
        let (latest_ms, seen_ms) = (now_ms, now_ms);
        self.guard = Guard { now_ms, monotonic_ms, latest_ms, jumped: false, seen_ms };
        Ok(())
    }

    pub fn apply(&mut self, op: Op) -> Check {
        match op {
            Op::Append { key, size, disk } => self.append(key, size, disk.into(), Call::Append),
            Op::LogEntry { key, size } => self.append(key, size, Durability::Disk, Call::LogEntry),
            Op::AppendIf { key, off, size } => {
                self.append(key, size, Durability::Os, Call::If(u64::from(off)))
            }
            Op::Batch { key, entries, size, disk } => self.batch(key, entries, size, disk),
            Op::Many { key, step, size, disk } => self.many(key, step, size, disk),
            Op::Sync => self.wal().sync().map_err(|error| text("sync", &error)),
            Op::SyncKey { key } => {
                self.wal().sync_key(KEYS[key]).map_err(|error| text("sync_key", &error))
            }
            Op::ReadRefs { pick } => self.read_refs(pick),
            Op::MadeUpRef { pick, tweak } => self.made_up_ref(pick, tweak),
            Op::Get { key, pick } => self.get(key, pick),
            Op::Range { key, from, to } => self.range(key, from, to),
            Op::TimeRange { key, from, to } => self.time_range(key, from, to),
            Op::LastN { key, n, turns } => self.last_n(key, n, turns),
            Op::BothEnds { key, turns } => self.both_ends(key, turns),
            Op::CheckKey { key } => self.check_key(key),
            Op::CheckAll => self.check_all(),
            Op::Advance { how, n } => {
                self.advance(how, n);
                Ok(())
            }
            Op::StepBack { how } => {
                let by = [1, self.window_ms(), self.limits.retention_ms, EPOCH_MS];
                self.clock.set(self.now_ms().saturating_sub(by[usize::from(how % 4)]));
                Ok(())
            }
            Op::JumpAhead { how } => {
                let tolerated = tolerated_jump_ms(&self.limits);
                let by = [1, tolerated, tolerated + 1, 86_400_000];
                self.clock.set(self.now_ms() + by[usize::from(how % 4)]);
                Ok(())
            }
            Op::Compact => self.compact(),
            Op::Truncate { key, pick } => self.truncate(key, pick),
            Op::Remove { key } => self.remove(key),
            Op::SetRetention { key, how, n } => {
                let retention = self.retention(how, n);
                let result = self.wal().set_retention(KEYS[key], retention);
                result.map_err(|error| text("set_retention", &error))?;
                self.has_own(key, retention)
            }
            Op::CreateKey { key, how, n } => {
                let retention = self.retention(how, n);
                let mut options = KeyOptions::default().metadata(content(u64::from(n), 50));
                options.retention = retention;
                let metadata = options.metadata.clone();
                let created = self.wal().create_key(KEYS[key], options);
                let created = created.map_err(|error| text("create_key", &error))?;
                ensure!(created != self.keys[key].exists, "create_key says {created}");
                if created {
                    self.keys[key].metadata = metadata;
                    self.has_own(key, retention)?;
                }
                Ok(())
            }
            Op::Shutdown => {
                self.wal().shutdown().map_err(|error| text("shutdown", &error))?;
                let closed = self.wal().append_entry("", None, "", false);
                ensure!(matches!(closed, Err(WalError::Closed)), "open after shutdown: {closed:?}");
                self.reopen(true)
            }
            Op::DropAndReopen => self.reopen(false),
            Op::Kill => {
                let sim = self.sim.after_kill();
                self.wal = None;
                self.sim = sim;
                self.reopen(false)
            }
        }
    }

    /// A clean shutdown, and another boot. References that were dropped long ago are forgotten.
    pub fn reboot(&mut self) -> Check {
        self.wal().shutdown().map_err(|error| text("shutdown", &error))?;
        self.sim = SimDir::from_image(&self.sim.durable_image(), self.serial);
        let handles = std::mem::take(&mut self.handles);
        let old = handles.len().saturating_sub(4_000);
        let live = handles.iter().enumerate().filter(|(at, handle)| {
            let model = &self.keys[handle.key];
            *at >= old || model.life == handle.life && handle.index >= model.first
        });
        self.handles = live.map(|(_, handle)| *handle).collect();
        self.reopen(true)
    }

    fn reopen(&mut self, clean: bool) -> Check {
        self.wal = None;
        self.open()?;
        self.reopened += 1;
        let report = self.wal().recovery_report();
        ensure!(report.clean == clean, "clean: {}, should be {clean}", report.clean);
        let existing = self.keys.iter().filter(|key| key.exists).count() as u64;
        // After a clean shutdown, what is left of removed keys has not been looked at.
        let mut removed = self.keys.iter().filter(|key| !key.exists && key.life > 0).count() as u64;
        // Of the two keys with one hash, each may have left something at the place of the other.
        removed += self.keys[2..4].iter().filter(|key| key.exists && key.life > 0).count() as u64;
        let keys = existing..=existing + if clean { removed } else { 0 };
        ensure!(keys.contains(&report.keys), "{} keys, should be {keys:?}", report.keys);
        Ok(())
    }

    fn advance(&mut self, how: u16, n: u16) {
        let (window, retention) = (self.window_ms(), self.limits.retention_ms);
        let by = match how % 6 {
            0 => u64::from(n % 10),
            1 => window / 3,
            2 => window,
            3 => retention,
            4 => retention + window,
            _ => u64::from(n) % (retention + window + 1),
        };
        self.clock.advance(Duration::from_millis(by));
    }

    // ---- appending ----

    fn payload(&mut self, size: u16) -> (Option<Bytes>, Bytes) {
        self.serial += 1;
        let sizes = [0, 1, 17, 100, 450, 1500, 3000, 9000];
        let bytes = sizes[usize::from(size % 8)] + usize::from(size / 8 % 32);
        (header(self.serial), content(self.serial, bytes))
    }

    /// What the next entry's timestamp has to be.
    fn timestamp(&self, key: usize) -> Check<u64> {
        let last = self.keys[key].kept.last().map_or(0, |kept| kept.entry.timestamp_ms);
        // An empty segment remembers the time of its creation.
        let stats = self.wal().key_stats(KEYS[key]).map_err(|error| text("key_stats", &error))?;
        Ok(self.now_ms().max(last).max(stats.newest_ms))
    }

    fn append(&mut self, key: usize, size: u16, durability: Durability, call: Call) -> Check {
        let (header, content) = self.payload(size);
        let timestamp_ms = self.timestamp(key)?;
        let (name, next) = (KEYS[key], self.keys[key].next());
        let (wal, mut index) = (self.wal(), next);
        let result = match call {
            Call::Append if self.serial % 2 == 0 => {
                let appended = wal.append_indexed(name, header.clone(), &content, durability);
                appended.map(|(got, reference)| {
                    index = got;
                    reference
                })
            }
            Call::Append => wal.append_entry(name, header.clone(), &content, durability),
            Call::LogEntry => wal.log_entry(name, header.clone(), &content),
            Call::If(off) => wal.append_if(name, next + off, header.clone(), &content, durability),
        };
        if payload_bytes(header.as_ref(), &content) > self.max_entry_bytes() {
            return refused(result, |error| matches!(error, WalError::TooLarge { .. }));
        }
        match call {
            Call::If(off) if off != 0 => {
                let conflict = |error: &WalError| {
                    matches!(error, WalError::Conflict { expected, actual }
                        if *actual == next && *expected == next + off)
                };
                refused(result, conflict)
            }
            _ => {
                let reference = result.map_err(|error| text("append", &error))?;
                ensure!(index == next, "index {index} instead of {next}");
                self.take(key, timestamp_ms, vec![(reference, header, content)]);
                Ok(())
            }
        }
    }

    fn many(&mut self, key: usize, step: u16, size: u16, disk: bool) -> Check {
        let other = (key + usize::from(step)) % KEYS.len();
        let keys = [key, other, key];
        let payloads = [0, 50, 100].map(|more| self.payload(size.wrapping_add(more)));
        let times = [self.timestamp(key)?, self.timestamp(other)?];
        let entries = keys.into_iter().zip(payloads.clone());
        let entries = entries.map(|(key, (header, content))| (KEYS[key], header, content));
        let result = self.wal().append_many_indexed(entries, disk);
        let bytes = payloads.each_ref().map(|(h, c)| payload_bytes(h.as_ref(), c) + 32);
        let too_large = |most: u64| bytes.iter().any(|bytes| bytes - 32 > most);
        let parts = [bytes[0] + bytes[2], bytes[1]];
        let whole: u64 = bytes.iter().sum();
        let segment = self.limits.max_segment_bytes;
        let refuse = if other == key {
            too_large(self.max_entry_bytes()) || whole > segment
        } else {
            let records: u64 = parts.iter().map(|part| (64 + part).next_multiple_of(8)).sum();
            too_large(self.max_entry_bytes())
                || parts[0] > segment
                || self.limits.journal_bytes > 0 && records > self.limits.journal_bytes / 4
        };
        if refuse {
            return refused(result, |error| matches!(error, WalError::TooLarge { .. }));
        }
        if other != key && self.limits.journal_bytes == 0 {
            return refused(result, |error| matches!(error, WalError::NoJournal));
        }
        let placed = result.map_err(|error| text("append_many", &error))?;
        let (next, others_next) = (self.keys[key].next(), self.keys[other].next());
        let second = if other == key { next + 1 } else { others_next };
        let third = if other == key { next + 2 } else { next + 1 };
        let (indexes, refs): (Vec<u64>, Vec<EntryRef>) = placed.into_iter().unzip();
        let expected = [next, second, third];
        ensure!(indexes == expected, "indexes {indexes:?} instead of {expected:?}");
        let mut made = refs.into_iter().zip(payloads).map(|(made, (h, c))| (made, h, c));
        let (first, second, third) = (made.next(), made.next(), made.next());
        if other == key {
            self.take(key, times[0], [first, second, third].into_iter().flatten().collect());
        } else {
            self.take(key, times[0], [first, third].into_iter().flatten().collect());
            self.take(other, times[1], second.into_iter().collect());
        }
        Ok(())
    }

    fn batch(&mut self, key: usize, entries: u16, size: u16, disk: bool) -> Check {
        let payloads: Vec<_> =
            (0..entries).map(|n| self.payload(size.wrapping_add(n * 3))).collect();
        let timestamp_ms = self.timestamp(key)?;
        let next = self.keys[key].next();
        let result = self.wal().append_batch_indexed(KEYS[key], payloads.clone(), disk);
        let too_large =
            payloads.iter().any(|(h, c)| payload_bytes(h.as_ref(), c) > self.max_entry_bytes());
        let frames: u64 = payloads.iter().map(|(h, c)| payload_bytes(h.as_ref(), c) + 32).sum();
        if too_large || (payloads.len() > 1 && frames > self.limits.max_segment_bytes) {
            return refused(result, |error| matches!(error, WalError::TooLarge { .. }));
        }
        let (first, refs) = result.map_err(|error| text("append_batch_indexed", &error))?;
        ensure!(first == next, "the first has index {first} instead of {next}");
        ensure!(refs.len() == payloads.len(), "{} references", refs.len());
        let new = refs.into_iter().zip(payloads).map(|(r, (h, c))| (r, h, c)).collect();
        self.take(key, timestamp_ms, new);
        Ok(())
    }

    fn take(&mut self, key: usize, timestamp_ms: u64, new: Vec<(EntryRef, Option<Bytes>, Bytes)>) {
        self.serial += 1;
        if !new.is_empty() {
            self.note_clock();
        }
        let model = &mut self.keys[key];
        for (reference, header, content) in new {
            let index = model.next();
            let entry = Entry { reference, index, timestamp_ms, header, content };
            self.handles.push(Handle { reference, key, life: model.life, index });
            model.kept.push(Kept { entry, call: self.serial });
            model.exists = true;
            self.appended += 1;
        }
    }

    /// An append meets a clock that may have been set back.
    fn note_clock(&mut self) {
        let (now_ms, monotonic_ms) = (self.now_ms(), self.monotonic_ms());
        let guard = &mut self.guard;
        let expected = guard.now_ms + (monotonic_ms - guard.monotonic_ms);
        if now_ms < guard.seen_ms && now_ms < expected {
            (guard.now_ms, guard.monotonic_ms) = (now_ms, monotonic_ms);
        }
        guard.seen_ms = guard.seen_ms.max(now_ms);
    }

    // ---- dropping ----

    fn truncate(&mut self, key: usize, pick: u16) -> Check {
        let (first, next) = (self.keys[key].first, self.keys[key].next());
        let at = match pick % 4 {
            0 => next,
            1 => next + 5,
            _ => first + u64::from(pick / 4) % (next - first + 1),
        };
        let segments = self.wal().segments(KEYS[key]).map_err(|error| text("segments", &error))?;
        let report = self
            .wal()
            .truncate_before(KEYS[key], at)
            .map_err(|error| text("truncate_before", &error))?;
        // The first segment that has an entry from `at` on is kept whole, and those behind it.
        let kept = segments.iter().find(|segment| segment.next_index > at);
        let first = kept.map_or(next, |segment| segment.first_index).max(first);
        let dropped = self.keys[key].drop_before(first);
        self.dropped += dropped;
        ensure!(report.dropped_entries == dropped, "{report:?}, should have dropped {dropped}");
        ensure!(report.failures.is_empty(), "failures: {report:?}");
        self.check_key(key)
    }

    fn remove(&mut self, key: usize) -> Check {
        self.wal().remove_key(KEYS[key]).map_err(|error| text("remove_key", &error))?;
        let model = &mut self.keys[key];
        *model = KeyModel { life: model.life + 1, ..KeyModel::default() };
        self.check_key(key)
    }

    /// Why compaction has to refuse, if it has to.
    fn trouble(&mut self) -> Option<ClockTrouble> {
        let (now_ms, monotonic_ms) = (self.now_ms(), self.monotonic_ms());
        let tolerated = tolerated_jump_ms(&self.limits);
        let guard = &mut self.guard;
        guard.seen_ms = guard.seen_ms.max(now_ms);
        let expected = guard.now_ms + (monotonic_ms - guard.monotonic_ms);
        guard.jumped |= now_ms > expected + tolerated;
        if guard.jumped {
            return Some(ClockTrouble::JumpedAhead);
        }
        if now_ms < guard.latest_ms {
            return Some(ClockTrouble::WentBack);
        }
        guard.latest_ms = now_ms;
        None
    }

    fn retention(&self, how: u16, n: u16) -> Option<Retention> {
        let least = u64::from(self.limits.segments);
        let age = |n: u16| match n % 4 {
            0 => least,
            1 => (self.limits.retention_ms / 3).max(least),
            2 => self.limits.retention_ms * 2,
            _ => self.limits.retention_ms,
        };
        let keep_for = Retention::keep_for(Duration::from_millis(age(n / 8)));
        let (few, bytes) = (u64::from(n % 8), u64::from(n % 16 + 1) * 700);
        match how % 8 {
            0 => None,
            1 => Some(Retention::FOREVER),
            2 => Some(Retention::keep_last(few + 1)),
            3 => Some(Retention::FOREVER.max_bytes(bytes)),
            4 => Some(keep_for),
            5 => Some(keep_for.min_entries(few)),
            6 => Some(keep_for.max_entries(few + 1)),
            _ => Some(keep_for.max_entries(few + 1).max_bytes(bytes).min_entries(few / 2)),
        }
    }

    fn has_own(&mut self, key: usize, retention: Option<Retention>) -> Check {
        let window_ms = self.window_of(retention);
        let model = &mut self.keys[key];
        (model.exists, model.own) = (true, retention);
        model.windows.push(window_ms);
        self.check_key(key)
    }

    /// The oldest entry that compaction leaves of a key with these segments. `sure_ms`: how late it is for
    /// those with a retention of their own.
    fn first_kept(
        &self,
        key: usize,
        segments: &[SegmentInfo],
        now_ms: Option<u64>,
        sure_ms: u64,
    ) -> u64 {
        let model = &self.keys[key];
        let retention = model.own.unwrap_or(self.usual());
        let window_ms = self.window_of(model.own);
        let Some(newest) = segments.last() else { return model.next() };
        let now_ms = now_ms.filter(|now_ms| *now_ms >= newest.created_ms);
        let now_ms = now_ms.map(|now_ms| if model.own.is_some() { sure_ms } else { now_ms });
        let max_age_ms = retention.max_age.map(millis);
        for (at, segment) in segments.iter().enumerate() {
            let later = &segments[at + 1..];
            let mut end_ms = segment.expiration_ms;
            if end_ms - segment.created_ms > window_ms {
                end_ms = later.first().map_or(end_ms, |next| end_ms.min(next.created_ms));
            }
            let old =
                now_ms.zip(max_age_ms).is_some_and(|(now_ms, age_ms)| end_ms + age_ms <= now_ms);
            let entries = newest.next_index - segment.next_index;
            let bytes: u64 = later.iter().map(|later| later.bytes).sum();
            let many = retention.max_entries.is_some_and(|max| entries >= max)
                || retention.max_bytes.is_some_and(|max| bytes >= max);
            let goes = (old || many && !later.is_empty()) && entries >= retention.min_entries;
            if !goes && segment.first_index < segment.next_index {
                return segment.first_index;
            }
        }
        model.next()
    }

    fn compact(&mut self) -> Check {
        let segments: Vec<Vec<_>> = KEYS
            .iter()
            .map(|key| self.wal().segments(key))
            .collect::<Result<_, _>>()
            .map_err(|error| text("segments", &error))?;
        let report = self.wal().compact().map_err(|error| text("compact", &error))?;
        let trouble = self.trouble();
        ensure!(report.refused == trouble, "refused: {:?}, should be {trouble:?}", report.refused);
        ensure!(report.failures.is_empty(), "failures: {report:?}");
        let now_ms = Some(self.now_ms()).filter(|_| trouble.is_none());
        let elapsed_ms = self.monotonic_ms() - self.guard.monotonic_ms;
        let sure_ms = self.now_ms().min(self.guard.now_ms + elapsed_ms);
        let mut all_dropped = 0;
        for (key, segments) in segments.iter().enumerate() {
            let first = self.first_kept(key, segments, now_ms, sure_ms);
            self.check_contract(key, segments, first, now_ms)?;
            all_dropped += self.keys[key].drop_before(first);
            self.check_key(key)?;
        }
        self.dropped += all_dropped;
        let counted = report.dropped_entries;
        ensure!(counted == all_dropped, "{counted} entries dropped, should be {all_dropped}");
        Ok(())
    }

    /// The contract, whatever the segments: nobody goes early, nobody stays late.
    fn check_contract(
        &self,
        key: usize,
        segments: &[SegmentInfo],
        first: u64,
        now_ms: Option<u64>,
    ) -> Check {
        let model = &self.keys[key];
        let retention = model.own.unwrap_or(self.usual());
        let (old, young) = model.kept.split_at(index(first - model.first));
        let left = young.len() as u64;
        ensure!(old.is_empty() || left >= retention.min_entries, "{left} entries would be left");
        let kept = segments.iter().filter(|segment| segment.first_index >= first);
        let bytes: u64 = kept.clone().map(|segment| segment.bytes).sum();
        let many = retention.max_entries.is_some_and(|max| left >= max)
            || retention.max_bytes.is_some_and(|max| bytes >= max);
        let age_of = |kept: &Kept| self.now_ms().saturating_sub(kept.entry.timestamp_ms);
        let max_age_ms = retention.max_age.map_or(u64::MAX, millis);
        for kept in old.iter().filter(|_| !many) {
            let age = age_of(kept);
            ensure!(age >= max_age_ms && now_ms.is_some(), "entry of {age} ms would be dropped");
        }
        let future = segments.last().is_some_and(|newest| self.now_ms() < newest.created_ms);
        let plain = model.windows.is_empty() && retention.min_entries == 0;
        for kept in young.iter().filter(|_| plain && now_ms.is_some() && !future) {
            let age = age_of(kept);
            ensure!(age < max_age_ms + self.window_ms(), "entry of {age} ms would be kept");
        }
        // Without the oldest of several segments, there would not be enough.
        let entries = kept.clone().map(|segment| segment.next_index - segment.first_index);
        let smaller = left - entries.clone().find(|entries| *entries > 0).unwrap_or(0);
        let several = entries.filter(|entries| *entries > 0).count() > 1;
        let limit = retention.max_entries.unwrap_or(u64::MAX).max(retention.min_entries);
        ensure!(!several || smaller < limit, "{left} entries would be kept");
        Ok(())
    }

    /// Keys, counters, and every key.
    pub fn check_all(&mut self) -> Check {
        let listed = self.wal().enumerate_keys().map_err(|error| text("enumerate_keys", &error))?;
        let (names, unreadable) = (listed.len(), listed.unreadable());
        ensure!(unreadable == 0, "{unreadable} unreadable keys");
        let listed: BTreeSet<Vec<u8>> = listed.map(|key| key.as_bytes().to_vec()).collect();
        let existing = KEYS.iter().zip(&self.keys).filter(|(_, model)| model.exists);
        let existing: BTreeSet<Vec<u8>> = existing.map(|(key, _)| key.to_vec()).collect();
        ensure!(names == listed.len() && listed == existing, "{listed:?}, should be {existing:?}");
        let stats = self.wal().stats();
        ensure!(stats.keys == names as u64, "{} keys in stats, should be {names}", stats.keys);
        let active = self.wal().active_segment_count();
        ensure!(active == names, "{active} active segments, should be {names}");
        (0..KEYS.len()).try_for_each(|key| self.check_key(key))?;
        self.read_all_refs()?;
        // Entries of two keys need two at once, and the one that was sealed last may still be open.
        let limit = self.limits.max_open_files.max(2) as u64 + 1;
        let open = self.wal().stats().open_files;
        ensure!(open <= limit, "{open} open files, the limit is {limit}");
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Call {
    Append,
    LogEntry,
    If(u64),
}

fn payload_bytes(header: Option<&Bytes>, content: &Bytes) -> u64 {
    (header.map_or(0, Bytes::len) + content.len()) as u64
}

fn refused<T>(result: Result<T, WalError>, expected: impl Fn(&WalError) -> bool) -> Check {
    match result {
        Err(error) if expected(&error) => Ok(()),
        Err(error) => Err(text("refused for another reason", &error)),
        Ok(_) => Err("not refused".into()),
    }
}
