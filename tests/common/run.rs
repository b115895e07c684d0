//! A log on a simulated disk, and the model that goes along with it, one operation at a time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keywal::fs::Dir;
use keywal::fs::sim::{CallKind, CrashChoice, Fault, Op as TraceOp, SimDir};
use keywal::{Clock, Durability, EntryRef, ManualClock, Retention, Wal, WalError, WalOptions};

use super::following::{self, Follower};
use super::ops::Op;
use super::oracle::{Allowed, Item, KeyModel, Observed, check_together, index};
use super::{Check, EPOCH_MS, content, header};
use crate::ensure;

pub const RETENTION: Duration = Duration::from_secs(1);
pub const WINDOW: Duration = Duration::from_millis(500);

/// The constants of a workload.
#[derive(Debug, Clone)]
pub struct Setup {
    pub name: &'static str,
    pub keys: Vec<&'static [u8]>,
    pub max_segment_bytes: u64,
    pub max_open_files: usize,
    pub preallocate_bytes: u64,
    pub journal_bytes: u64,
    pub check_on_open: bool,
    /// Each key is followed.
    pub followed: bool,
    pub seed: u64,
}

impl Setup {
    pub fn plain(seed: u64) -> Self {
        let keys: Vec<&'static [u8]> = vec![b"a", b"b"];
        Self {
            name: "plain",
            keys,
            max_segment_bytes: 1 << 20,
            max_open_files: 8,
            preallocate_bytes: 0,
            journal_bytes: 0,
            check_on_open: true,
            followed: false,
            seed,
        }
    }

    /// Two keys with one hash, one open file, segments that fill up, reserved space.
    pub fn tight(seed: u64) -> Self {
        let keys = super::COLLIDING.to_vec();
        Self {
            name: "tight",
            keys,
            max_segment_bytes: 4096,
            max_open_files: 1,
            preallocate_bytes: 4096,
            journal_bytes: 0,
            check_on_open: true,
            followed: false,
            seed,
        }
    }

    /// The same with a journal so small that it comes round in a few operations.
    pub fn with_journal(self) -> Self {
        let name = if self.name == "tight" { "journal-tight" } else { "journal" };
        Self { name, journal_bytes: 4096, ..self }
    }

    /// The same, with each key checked when it is first used.
    pub fn lazy(self) -> Self {
        let name = match self.name {
            "plain" => "lazy",
            "tight" => "lazy-tight",
            "journal" => "lazy-journal",
            _ => "lazy-journal-tight",
        };
        Self { name, check_on_open: false, ..self }
    }

    /// The same, with followers of each key. What they read changes what the log does.
    pub fn followed(self) -> Self {
        let name = match self.name {
            "plain" => "followed",
            "tight" => "followed-tight",
            "journal" => "followed-journal",
            _ => "followed-journal-tight",
        };
        Self { name, followed: true, ..self }
    }

    /// The setup with this name.
    pub fn named(name: &str, seed: u64) -> Self {
        if let Some(rest) = name.strip_prefix("followed") {
            return Self::named(rest.trim_start_matches('-'), seed).followed();
        }
        if let Some(rest) = name.strip_prefix("lazy") {
            return Self::named(rest.trim_start_matches('-'), seed).lazy();
        }
        match name {
            "tight" => Self::tight(seed),
            "journal" => Self::plain(seed).with_journal(),
            "journal-tight" => Self::tight(seed).with_journal(),
            "plain" | "" => Self::plain(seed),
            other => panic!("no setup is called {other:?}"),
        }
    }

    /// All operations that can be done.
    pub fn ops(&self) -> Vec<Op> {
        if self.journal_bytes > 0 { Op::all_with_journal() } else { Op::all() }
    }

    pub fn options(&self, clock: &Arc<ManualClock>) -> WalOptions {
        WalOptions::with_retention(RETENTION)
            .segments_per_retention_period(2)
            .max_segment_bytes(self.max_segment_bytes)
            .max_entry_bytes(4096)
            .max_open_files(self.max_open_files)
            .preallocate_bytes(self.preallocate_bytes)
            .journal_bytes(self.journal_bytes)
            .check_on_open(self.check_on_open)
            .clock(clock.clone())
    }

    pub fn open(&self, sim: &SimDir, clock: &Arc<ManualClock>) -> Result<Wal, WalError> {
        Wal::open_in(Arc::new(sim.clone()), self.options(clock))
    }
}

/// A log and its model.
#[allow(clippy::struct_excessive_bools, reason = "what has happened, in any combination")]
pub struct Run {
    pub setup: Setup,
    pub clock: Arc<ManualClock>,
    pub sim: SimDir,
    /// `None` after opening failed.
    pub wal: Option<Arc<Wal>>,
    pub followers: Vec<[Follower; 2]>,
    pub keys: Vec<KeyModel>,
    /// As `keys`, before the last operation.
    pub before: Vec<KeyModel>,
    /// The key of the last operation, an append that failed, as if that had not: before it has been undone, all
    /// of it may be there, as zeros that were not written are as good as others.
    pub attempted: Option<(usize, KeyModel)>,
    /// Where the last operation begins in the trace.
    pub start: usize,
    /// A sync failed since the log was opened: of no key, of this one, of any of them.
    pub poisoned: Vec<bool>,
    /// Keys of which a sync failed: what had waited for it may be lost, and no later sync proves anything.
    unsynced: Vec<bool>,
    pub sync_failed: bool,
    /// Files of segments whose creation failed, and which may have been left behind.
    unmade: Vec<PathBuf>,
    /// Appends that failed since the log was opened: each may have left a file that it could not remove.
    failed_appends: u32,
    /// The power was cut and the log has not been opened since.
    pub power_cut: bool,
    /// For the next directory, before it is opened.
    pub faults: Vec<Fault>,
    /// The calls of the directory up to the end of the last opening.
    pub calls_of_open: Vec<CallKind>,
    /// What is found after a crash is printed.
    pub verbose: bool,
    serial: u64,
}

impl Run {
    /// A new directory, just opened.
    pub fn new(setup: &Setup) -> Check<Self> {
        let mut run = Self::unopened(setup);
        let wal =
            setup.open(&run.sim, &run.clock).map_err(|error| format!("first open: {error}"))?;
        run.wal = Some(Arc::new(wal));
        run.start = run.sim.trace_len();
        Ok(run)
    }

    /// An empty directory.
    pub fn unopened(setup: &Setup) -> Self {
        let keys = vec![KeyModel::default(); setup.keys.len()];
        Self {
            setup: setup.clone(),
            clock: Arc::new(ManualClock::new(EPOCH_MS)),
            start: 0,
            sim: SimDir::new(setup.seed),
            wal: None,
            followers: following::of_keys(keys.len()),
            before: keys.clone(),
            attempted: None,
            poisoned: vec![false; keys.len()],
            unsynced: vec![false; keys.len()],
            keys,
            sync_failed: false,
            unmade: Vec::new(),
            failed_appends: 0,
            power_cut: false,
            faults: Vec::new(),
            calls_of_open: Vec::new(),
            verbose: false,
            serial: 0,
        }
    }

    /// Opens the directory as it is, if it is not open.
    pub fn open_again(&mut self) -> Check<Result<(), WalError>> {
        if self.wal.is_some() {
            return Ok(Ok(()));
        }
        self.reopen(self.sim.clone())
    }

    /// Does one operation. The outer error is one of the log's that cannot be; the inner one is one
    /// that can where calls fail.
    pub fn apply(&mut self, op: Op) -> Check<Result<(), WalError>> {
        self.before.clone_from(&self.keys);
        self.attempted = None;
        self.start = self.sim.trace_len();
        if self.wal.is_none() && !matches!(op, Op::Kill | Op::Cut(_) | Op::Shutdown) {
            return Ok(Err(WalError::Closed));
        }
        let result = self.attempt(op)?;
        let followed = if self.setup.followed { self.let_follow(op)? } else { Ok(()) };
        Ok(result.and(followed))
    }

    fn attempt(&mut self, op: Op) -> Check<Result<(), WalError>> {
        match op {
            Op::Small(key) => self.append(key, &[40], Durability::Os),
            Op::Large(key) => self.append(key, &[900], Durability::Disk),
            Op::Batch(key) => self.append(key, &[30, 420, 50], Durability::Disk),
            Op::Rotate(key) => {
                self.clock.advance(WINDOW);
                self.append(key, &[40], Durability::Os)
            }
            Op::Truncate(key) => self.truncate(key),
            Op::Remove(key) => self.remove(key),
            Op::SyncKey(key) => self.sync_key(key),
            Op::Forever(key) => self.set_retention(key, Retention::FOREVER),
            Op::Last(key) => self.set_retention(key, Retention::keep_last(1).max_age(RETENTION)),
            Op::Together(durable) => self.together(durable),
            Op::Sync => self.sync(),
            Op::Compact => self.compact(),
            Op::Shutdown => self.shutdown(),
            Op::Kill => {
                let sim = self.sim.after_kill();
                self.reopen(sim)
            }
            Op::Cut(sample) => {
                let at = self.sim.trace_len();
                let choice = CrashChoice::Sample { at, sample, seed: self.setup.seed };
                let image = self.sim.crash_image(at, &choice);
                self.start = 0;
                let sim = SimDir::from_image(&image, self.setup.seed ^ at as u64);
                self.power_cut = true;
                self.reopen(sim)
            }
        }
    }

    /// As [`Self::apply`], where no call fails.
    pub fn succeed(&mut self, op: Op) -> Check {
        self.apply(op)?.map_err(|error| format!("{op}: {error}: {error:?}"))
    }

    fn wal(&self) -> Check<&Wal> {
        self.wal.as_deref().ok_or_else(|| "not open".into())
    }

    fn append(
        &mut self,
        key: usize,
        sizes: &[usize],
        durability: Durability,
    ) -> Check<Result<(), WalError>> {
        let entries: Vec<(Option<Bytes>, Bytes)> = sizes
            .iter()
            .map(|bytes| {
                self.serial += 1;
                (header(self.serial), content(self.serial, *bytes))
            })
            .collect();
        let (name, now_ms) = (self.setup.keys[key], self.clock.now_ms());
        let wal = self.wal.as_ref().ok_or("not open")?;
        let result = match &entries[..] {
            [(header, content)] => {
                wal.append_entry(name, header.clone(), content, durability).map(|only| vec![only])
            }
            _ => wal.append_batch(name, entries.clone(), durability),
        };
        let disk = durability == Durability::Disk;
        let (references, error): (Vec<Option<EntryRef>>, _) = match result {
            Ok(references) => (references.into_iter().map(Some).collect(), None),
            Err(error) => (vec![None; sizes.len()], Some(error)),
        };
        if let Some(error) = &error {
            self.failed_appends += 1;
            let mut attempted = self.keys[key].clone();
            attempted.items.truncate(index(attempted.count()));
            attempted.doubtful = 0;
            attempted.items.extend(items(now_ms, entries.clone(), references.clone()));
            attempted.used = true;
            self.attempted = Some((key, attempted));
            if let WalError::Io { path, operation: "write the segment's header", .. } = error {
                self.unmade.push(path.clone());
            }
            let was_poisoned = self.poisoned[key];
            if is_sync_error(error) {
                // To make room, the file of another key may have been closed, and that one failed.
                let owner = self.owner(error).unwrap_or(key);
                self.poisoned[owner] = true;
                // Where names cannot be synced any more it was refused, and nothing had waited.
                let refused =
                    matches!(error, WalError::Poisoned { path } if path == self.sim_path());
                self.unsynced[owner] |= !refused && !self.only_stuck(error);
            }
            // Only an entry whose own sync failed may be there; whether it is, the log says.
            let doubtful = disk && is_sync_error(error);
            let next = wal.next_index(name);
            let known = matches!(error, WalError::Poisoned { .. }) && was_poisoned;
            let model = &mut self.keys[key];
            model.used |= doubtful || !matches!(error, WalError::Poisoned { .. });
            match next {
                Ok(0) if model.maybe_removed => return Ok(Err(error_of(error))),
                Ok(next) if next == model.count() => {
                    let way_back_failed = wal.sync_key(name).is_err();
                    if way_back_failed && !is_sync_error(error) && model.doubtful == 0 {
                        model.doubtful = entries.len();
                        model.items.extend(items(now_ms, entries, references));
                    }
                    return Ok(Err(error_of(error)));
                }
                Ok(next) if doubtful && next == model.count() + sizes.len() as u64 => {
                    ensure!(!known, "an append refused as poisoned is in the log");
                }
                Ok(next) => {
                    let count = model.count();
                    return Err(format!("next index {next} after {count} and {error}: {error:?}"));
                }
                Err(_) => {
                    if doubtful && model.doubtful == 0 {
                        model.doubtful = entries.len();
                        model.items.extend(items(now_ms, entries, references));
                    }
                    return Ok(Err(error_of(error)));
                }
            }
        }
        let model = &mut self.keys[key];
        let gone = |next| next <= sizes.len() as u64;
        // Of a key that had no entries, what it has of its own tells.
        let bare = || wal.retention(name).is_ok_and(|own| own.is_none());
        if model.maybe_removed
            && wal.next_index(name).is_ok_and(gone)
            && (model.count() > 0 || bare())
        {
            model.remove();
        }
        model.items.truncate(index(model.count()));
        model.doubtful = 0;
        model.items.extend(items(now_ms, entries, references));
        model.used = true;
        if let Some(error) = error {
            return Ok(Err(error));
        }
        model.maybe_removed = false;
        if disk {
            ensure!(!self.poisoned[key], "`Disk` append after a failed sync is acknowledged");
            model.durable = model.count();
        }
        Ok(Ok(()))
    }

    /// Appends two entries to the first key and one to the second, in turn.
    fn together(&mut self, durable: bool) -> Check<Result<(), WalError>> {
        if self.keys.iter().any(|model| model.maybe_removed || model.doubtful > 0) {
            return Ok(Ok(()));
        }
        self.serial += 1;
        let (together, now_ms) = (self.serial, self.clock.now_ms());
        let entries: Vec<(usize, Option<Bytes>, Bytes)> = [(0, 30), (1, 420), (0, 50)]
            .into_iter()
            .map(|(key, bytes)| {
                self.serial += 1;
                (key, header(self.serial), content(self.serial, bytes))
            })
            .collect();
        let names = &self.setup.keys;
        let given = entries.iter().map(|(key, h, c)| (names[*key], h.clone(), c.clone()));
        let wal = self.wal.as_ref().ok_or("not open")?;
        let (references, error) = match wal.append_many(given, durable) {
            Ok(references) => (references.into_iter().map(Some).collect(), None),
            Err(error) => (vec![None; entries.len()], Some(error)),
        };
        let failed_sync = error.as_ref().is_some_and(is_sync_error);
        let mut there = Vec::new();
        for (key, name) in names.iter().enumerate() {
            let (parts, references): (Vec<_>, Vec<Option<EntryRef>>) = entries
                .iter()
                .zip(&references)
                .filter(|((owner, ..), _)| *owner == key)
                .map(|((_, header, content), reference)| {
                    ((header.clone(), content.clone()), *reference)
                })
                .unzip();
            let added = parts.len() as u64;
            let model = &mut self.keys[key];
            let before = model.count();
            model.used = true;
            let next = wal.next_index(name).map_err(|error| format!("next: {error}"))?;
            ensure!(next == before || next == before + added, "next index {next} after {before}");
            there.push(next > before);
            if next > before {
                model
                    .items
                    .extend(items(now_ms, parts, references).map(|item| Item { together, ..item }));
            }
            if error.is_none() && durable {
                model.durable = next;
            }
        }
        ensure!(there[0] == there[1], "one key has its part: {there:?}, {error:?}");
        let allowed = error.is_none() || durable && failed_sync;
        ensure!(!there[0] || allowed, "in the log in spite of {error:?}");
        let Some(error) = error else {
            ensure!(there[0], "acknowledged and not there");
            ensure!(!durable || !self.poisoned.contains(&true), "acknowledged after a failed sync");
            return Ok(Ok(()));
        };
        if matches!(error, WalError::NoJournal) {
            // There was no space for it when the log was opened.
            return Ok(Ok(()));
        }
        if failed_sync {
            // Either both were waiting for a sync, or something in front of one of them failed.
            let owner = self.owner(&error);
            let lost = !self.only_stuck(&error);
            for key in (0..self.keys.len()).filter(|key| there[0] || owner == Some(*key)) {
                self.poisoned[key] = true;
                self.unsynced[key] |= lost;
            }
        }
        Ok(Err(error))
    }

    fn sim_path(&self) -> &Path {
        Dir::path(&self.sim)
    }

    fn sync_key(&mut self, key: usize) -> Check<Result<(), WalError>> {
        let result = self.wal()?.sync_key(self.setup.keys[key]);
        if result.is_ok() {
            let lost = self.unsynced[key] && self.keys[key].durable < self.keys[key].count();
            ensure!(!lost, "sync_key after a failed sync is acknowledged");
            self.keys[key].durable = self.keys[key].count();
        }
        if result.as_ref().is_err_and(is_sync_error) {
            (self.poisoned[key], self.unsynced[key]) = (true, true);
        }
        Ok(result)
    }

    fn sync(&mut self) -> Check<Result<(), WalError>> {
        let result = self.wal()?.sync();
        if result.is_ok() {
            ensure!(
                self.may_have_lost().next().is_none(),
                "sync after a failed sync is acknowledged"
            );
            for model in &mut self.keys {
                model.durable = model.count();
            }
        }
        if let Err(error) = &result {
            self.note_failed_sync(error);
        }
        Ok(result)
    }

    /// A sync of everything failed: of one key, if the error names a segment of it.
    fn note_failed_sync(&mut self, error: &WalError) {
        match self.owner(error) {
            Some(key) if is_sync_error(error) => {
                (self.poisoned[key], self.unsynced[key]) = (true, true);
            }
            Some(_) => {}
            None => self.sync_failed |= is_sync_error(error),
        }
    }

    /// The key that has the segment which the error names.
    fn owner(&self, error: &WalError) -> Option<usize> {
        let (WalError::Io { path, .. } | WalError::Poisoned { path }) = error else { return None };
        let wal = self.wal.as_ref()?;
        self.setup.keys.iter().position(|name| {
            let segments = wal.segments(name).unwrap_or_default();
            segments.iter().any(|segment| segment.path == *path)
        })
    }

    /// Whether the error is about the file of a new segment that could be neither made nor removed. No
    /// entry waits for that one to be durable.
    fn only_stuck(&self, error: &WalError) -> bool {
        let (WalError::Poisoned { path }, Some(wal)) = (error, &self.wal) else { return false };
        if self.unmade.contains(path) {
            return true;
        }
        path.extension().is_some_and(|extension| extension == "log")
            && self.setup.keys.iter().all(|name| wal.segments(name).is_ok())
            && self.owner(error).is_none()
    }

    /// Keys of which a sync has failed that some entry was waiting for.
    fn may_have_lost(&self) -> impl Iterator<Item = &KeyModel> {
        let keys = self.keys.iter().zip(&self.unsynced);
        let failed = keys.filter(|(_, unsynced)| self.sync_failed || **unsynced);
        // Of a key that is half removed, nothing is left to sync.
        failed.map(|(key, _)| key).filter(|key| key.durable < key.count() && !key.maybe_removed)
    }

    fn set_retention(&mut self, key: usize, retention: Retention) -> Check<Result<(), WalError>> {
        let name = self.setup.keys[key];
        let wal = self.wal.as_ref().ok_or("not open")?;
        let result = wal.set_retention(name, retention);
        let next = wal.next_index(name);
        if let Err(error) = &result {
            // Not of what keys share: the new segment may have survived before that, and then the log goes on.
            let shared = matches!(error, WalError::Io { path, .. }
                if path == self.sim_path() || path.ends_with("JOURNAL"));
            if is_sync_error(error) && !shared {
                let owner = self.owner(error).unwrap_or(key);
                self.poisoned[owner] = true;
                self.unsynced[owner] |= !self.only_stuck(error);
            }
            let model = &mut self.keys[key];
            model.used = true;
            model.or_retention = Some(retention);
            return Ok(result);
        }
        ensure!(!self.poisoned[key], "retention after a failed sync is acknowledged");
        let model = &mut self.keys[key];
        if model.maybe_removed && next.is_ok_and(|next| next == 0) {
            model.remove();
        }
        (model.retention, model.or_retention) = (Some(retention), None);
        (model.used, model.named, model.maybe_removed) = (true, true, false);
        // The segment before the one that says so survives first.
        model.durable = model.count();
        Ok(result)
    }

    fn truncate(&mut self, key: usize) -> Check<Result<(), WalError>> {
        let name = self.setup.keys[key];
        let count = self.keys[key].count();
        let result = self.wal()?.truncate_before(name, count).map(drop);
        self.dropped(key, count, result.is_ok());
        Ok(result)
    }

    fn compact(&mut self) -> Check<Result<(), WalError>> {
        self.clock.advance(RETENTION + WINDOW);
        let first = (0..self.keys.len())
            .map(|key| self.first_after_compact(key))
            .collect::<Check<Vec<_>>>()?;
        let result = match self.wal()?.compact() {
            Ok(report) if report.failures.is_empty() => {
                ensure!(report.refused.is_none(), "refused: {:?}", report.refused);
                Ok(())
            }
            Ok(report) => {
                let source = std::io::Error::other(report.failures[0].what.clone());
                let path = report.failures[0].path.clone();
                Err(WalError::Io { path, operation: "compact", source })
            }
            Err(error) => Err(error),
        };
        for (key, first) in first.into_iter().enumerate() {
            let all = self.keys[key].count();
            self.dropped(key, first.unwrap_or(all), first.is_some() && result.is_ok());
        }
        Ok(result)
    }

    /// The oldest entry that is kept when retention has passed.
    /// `None`: the call that is to fail was one of those that find that out.
    fn first_after_compact(&self, key: usize) -> Check<Option<u64>> {
        let (wal, name) = (self.wal()?, self.setup.keys[key]);
        let count = self.keys[key].count();
        let (Ok(own), Ok(segments)) = (wal.retention(name), wal.segments(name)) else {
            return Ok(None);
        };
        Ok(Some(match own {
            None => count,
            Some(Retention::FOREVER) => self.keys[key].first.1,
            // All but the segment with the last entry, and an empty one behind it.
            Some(_) => {
                let kept =
                    segments.iter().rfind(|segment| segment.next_index > segment.first_index);
                kept.or(segments.last()).map_or(0, |segment| segment.first_index)
            }
        }))
    }

    /// All entries of a key before this one were dropped; after an error, some may be.
    fn dropped(&mut self, key: usize, first: u64, ok: bool) {
        let model = &mut self.keys[key];
        if !ok {
            model.first.1 = first.max(model.first.1);
            model.half_dropped = model.half_dropped.max(first);
            return;
        }
        model.first = (first, first);
        if first == model.count() {
            model.durable = first;
        }
    }

    fn remove(&mut self, key: usize) -> Check<Result<(), WalError>> {
        let result = self.wal()?.remove_key(self.setup.keys[key]);
        match &result {
            Ok(()) => {
                self.keys[key].remove();
                // A new life has new files.
                (self.poisoned[key], self.unsynced[key]) = (false, false);
            }
            Err(_) => self.keys[key].maybe_removed = true,
        }
        Ok(result)
    }

    fn shutdown(&mut self) -> Check<Result<(), WalError>> {
        let closed = self.wal.as_deref().map(Wal::shutdown).transpose();
        self.end_following(closed.is_ok())?;
        let was_open = self.wal.take().is_some();
        if closed.is_ok() && was_open {
            // A removal that failed may have come so far that nothing of the key counts. If it has not, all
            // of it has to be there.
            let lost = self.may_have_lost().any(|key| !key.maybe_removed);
            ensure!(!lost, "shutdown after a failed sync is acknowledged");
            for model in &mut self.keys {
                model.durable = model.count();
            }
        }
        let twin = self.twin();
        if !self.faults.is_empty() {
            self.faults.drain(..).for_each(|fault| self.sim.inject(fault));
        }
        let opened = match self.setup.open(&self.sim, &self.clock) {
            Ok(wal) => wal,
            Err(error) => return Ok(Err(error)),
        };
        // A key whose creation or removal was cut off half-way has to be looked at.
        let report = opened.recovery_report();
        let debris = self.failed_appends > 0 && !report.ignored.is_empty();
        let removal = self.keys.iter().any(|key| key.maybe_removed);
        let stuck = self.poisoned.contains(&true) || removal || debris;
        let clean = closed.is_ok() && was_open && !stuck;
        ensure!(!clean || report.clean, "not clean after a shutdown");
        self.recovered(opened, twin.as_ref())?;
        Ok(closed.map(drop))
    }

    fn reopen(&mut self, sim: SimDir) -> Check<Result<(), WalError>> {
        self.end_following(false)?;
        self.wal = None;
        self.sim = sim;
        let twin = self.twin();
        self.faults.drain(..).for_each(|fault| self.sim.inject(fault));
        match self.setup.open(&self.sim, &self.clock) {
            Ok(wal) => self.recovered(wal, twin.as_ref()).map(Ok),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Milliseconds since the run began.
    pub fn clock_ms(&self) -> u64 {
        self.clock.monotonic_ms()
    }

    /// Whether a failed sync has made pages disappear.
    pub fn lost_pages(&self) -> bool {
        self.sim.trace().iter().any(|op| matches!(op, TraceOp::LoseFile { .. }))
    }

    /// Where keys are checked when they are used, to look at one would be to use it: what the directory
    /// holds is looked at in a copy.
    fn twin(&self) -> Option<SimDir> {
        (!self.setup.check_on_open).then(|| self.sim.after_kill())
    }

    /// Checks what recovery found, and takes it for given from now on.
    fn recovered(&mut self, wal: Wal, twin: Option<&SimDir>) -> Check {
        let damaged = &wal.recovery_report().damaged;
        ensure!(damaged.is_empty(), "false damage: {damaged:?}");
        self.sim.clear_faults();
        self.calls_of_open = self.sim.call_kinds();
        let lost = std::mem::take(&mut self.power_cut) || self.lost_pages();
        let seen = match twin {
            None => Observed::all(&wal, &self.setup.keys)?,
            Some(twin) => {
                let wal = self.setup.open(twin, &self.clock);
                let wal = wal.map_err(|error| format!("open a copy: {error}"))?;
                Observed::all(&wal, &self.setup.keys)?
            }
        };
        let models = self.keys.iter();
        let wanted: Vec<Allowed<'_>> = models
            .map(|model| if lost { model.after_power_cut() } else { model.after_kill() })
            .collect();
        for (key, (wanted, seen)) in wanted.iter().zip(&seen).enumerate() {
            wanted.check(seen).map_err(|text| format!("key {key} after reopening: {text}"))?;
        }
        check_together(&wanted, &seen)?;
        for (model, seen) in self.keys.iter_mut().zip(&seen) {
            let durable = model.durable;
            model.adopt(seen);
            if twin.is_some() && !lost {
                // What the process that died had not synced, nobody has until the key is used.
                model.durable = durable.min(seen.next);
            }
        }
        self.wal = Some(Arc::new(wal));
        self.poisoned.fill(false);
        self.unsynced.fill(false);
        self.unmade.clear();
        self.sync_failed = false;
        self.failed_appends = 0;
        Ok(())
    }
}

fn items(
    timestamp_ms: u64,
    entries: Vec<(Option<Bytes>, Bytes)>,
    references: Vec<Option<EntryRef>>,
) -> impl Iterator<Item = Item> {
    let last = entries.len() - 1;
    let entries = entries.into_iter().zip(references).enumerate();
    entries.map(move |(at, ((header, content), reference))| Item {
        reference,
        timestamp_ms: Some(timestamp_ms),
        header,
        content,
        ends: at == last,
        together: 0,
    })
}

/// Whether the error says that bytes may be lost, or that a sync failed before.
fn is_sync_error(error: &WalError) -> bool {
    match error {
        WalError::Poisoned { .. } => true,
        WalError::Io { operation, .. } => operation.starts_with("sync"),
        _ => false,
    }
}

/// Errors cannot be cloned.
fn error_of(error: &WalError) -> WalError {
    WalError::Io {
        path: std::path::PathBuf::new(),
        operation: "append",
        source: std::io::Error::other(error.to_string()),
    }
}
