//! A log on a simulated disk, and the model that goes along with it, one operation at a time.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keywal::fs::sim::{CallKind, CrashChoice, Fault, Op as TraceOp, SimDir};
use keywal::{Durability, EntryRef, ManualClock, Wal, WalError, WalOptions};

use super::oracle::{Item, KeyModel, Observed, index};
use super::{Check, EPOCH_MS, content, header};
use crate::ensure;

/// What a workload is made of. The number is that of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Appends 40 bytes, `Os`.
    Small(usize),
    /// Appends 900 bytes, `Disk`: over two or three sectors.
    Large(usize),
    /// Appends three entries, `Disk`.
    Batch(usize),
    /// Lets the window pass and appends, `Os`.
    Rotate(usize),
    /// Drops everything by `truncate_before`.
    Truncate(usize),
    Remove(usize),
    SyncKey(usize),
    Sync,
    /// Lets the retention pass and compacts.
    Compact,
    /// Shuts down and opens again.
    Shutdown,
    /// The process dies; another one opens.
    Kill,
    /// The power is cut, and of what was not durable this sample is there.
    Cut(u64),
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Small(key) => write!(f, "small:{key}"),
            Self::Large(key) => write!(f, "large:{key}"),
            Self::Batch(key) => write!(f, "batch:{key}"),
            Self::Rotate(key) => write!(f, "rotate:{key}"),
            Self::Truncate(key) => write!(f, "truncate:{key}"),
            Self::Remove(key) => write!(f, "remove:{key}"),
            Self::SyncKey(key) => write!(f, "sync:{key}"),
            Self::Sync => write!(f, "sync"),
            Self::Compact => write!(f, "compact"),
            Self::Shutdown => write!(f, "shutdown"),
            Self::Kill => write!(f, "kill"),
            Self::Cut(sample) => write!(f, "cut:{sample}"),
        }
    }
}

impl FromStr for Op {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, number) = text.split_once(':').unwrap_or((text, "0"));
        let number: u64 = number.parse().map_err(|_| format!("no number in {text}"))?;
        let key = index(number);
        Ok(match (name, text.contains(':')) {
            ("small", _) => Self::Small(key),
            ("large", _) => Self::Large(key),
            ("batch", _) => Self::Batch(key),
            ("rotate", _) => Self::Rotate(key),
            ("truncate", _) => Self::Truncate(key),
            ("remove", _) => Self::Remove(key),
            ("sync", true) => Self::SyncKey(key),
            ("sync", false) => Self::Sync,
            ("compact", _) => Self::Compact,
            ("shutdown", _) => Self::Shutdown,
            ("kill", _) => Self::Kill,
            ("cut", _) => Self::Cut(number),
            _ => return Err(format!("unknown operation {text}")),
        })
    }
}

impl Op {
    pub fn key(self) -> Option<usize> {
        match self {
            Self::Small(key) | Self::Large(key) | Self::Batch(key) | Self::Rotate(key) => Some(key),
            Self::Truncate(key) | Self::Remove(key) | Self::SyncKey(key) => Some(key),
            _ => None,
        }
    }

    pub fn parse_all(text: &str) -> Vec<Self> {
        text.split_whitespace().map(|op| op.parse().unwrap_or_else(|e| panic!("{e}"))).collect()
    }

    pub fn print_all(ops: &[Self]) -> String {
        ops.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }
}

pub const RETENTION: Duration = Duration::from_millis(1000);
pub const WINDOW: Duration = Duration::from_millis(500);

/// The constants of a workload.
#[derive(Debug, Clone)]
pub struct Setup {
    pub name: &'static str,
    pub keys: Vec<&'static [u8]>,
    pub max_segment_bytes: u64,
    pub max_open_files: usize,
    pub preallocate_bytes: u64,
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
            seed,
        }
    }

    pub fn options(&self, clock: &Arc<ManualClock>) -> WalOptions {
        WalOptions::with_retention(RETENTION)
            .segments_per_retention_period(2)
            .max_segment_bytes(self.max_segment_bytes)
            .max_entry_bytes(4096)
            .max_open_files(self.max_open_files)
            .preallocate_bytes(self.preallocate_bytes)
            .clock(clock.clone())
    }

    pub fn open(&self, sim: &SimDir, clock: &Arc<ManualClock>) -> Result<Wal, WalError> {
        Wal::open_in(Arc::new(sim.clone()), self.options(clock))
    }
}

/// A log and its model.
pub struct Run {
    pub setup: Setup,
    pub clock: Arc<ManualClock>,
    pub sim: SimDir,
    /// `None` after opening failed.
    pub wal: Option<Wal>,
    pub keys: Vec<KeyModel>,
    /// As `keys`, before the last operation.
    pub before: Vec<KeyModel>,
    /// Where the last operation begins in the trace.
    pub start: usize,
    /// A sync failed since the log was opened: of no key, of this one, of any of them.
    pub poisoned: Vec<bool>,
    pub sync_failed: bool,
    /// For the next directory, before it is opened.
    pub faults: Vec<Fault>,
    /// The calls of the directory up to the end of the last opening.
    pub calls_of_open: Vec<CallKind>,
    serial: u64,
}

impl Run {
    /// A new directory, just opened.
    pub fn new(setup: &Setup) -> Check<Self> {
        let mut run = Self::unopened(setup);
        let wal =
            setup.open(&run.sim, &run.clock).map_err(|error| format!("first open: {error}"))?;
        run.wal = Some(wal);
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
            before: keys.clone(),
            poisoned: vec![false; keys.len()],
            keys,
            sync_failed: false,
            faults: Vec::new(),
            calls_of_open: Vec::new(),
            serial: 0,
        }
    }

    /// Opens the directory as it is, if it is not open.
    pub fn open_again(&mut self) -> Check<Result<(), WalError>> {
        if self.wal.is_some() {
            return Ok(Ok(()));
        }
        self.reopen(self.sim.clone(), KeyModel::after_kill)
    }

    /// Does one operation. The outer error is one of the log's that cannot be; the inner one is one
    /// that can where calls fail.
    pub fn apply(&mut self, op: Op) -> Check<Result<(), WalError>> {
        self.before.clone_from(&self.keys);
        self.start = self.sim.trace_len();
        if self.wal.is_none() && !matches!(op, Op::Kill | Op::Cut(_) | Op::Shutdown) {
            return Ok(Err(WalError::Closed));
        }
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
            Op::Sync => self.sync(),
            Op::Compact => self.compact(),
            Op::Shutdown => self.shutdown(),
            Op::Kill => {
                let sim = self.sim.after_kill();
                self.reopen(sim, KeyModel::after_kill)
            }
            Op::Cut(sample) => {
                let at = self.sim.trace_len();
                let choice = CrashChoice::Sample { at, sample, seed: self.setup.seed };
                let image = self.sim.crash_image(at, &choice);
                self.start = 0;
                let sim = SimDir::from_image(&image, self.setup.seed ^ at as u64);
                self.reopen(sim, KeyModel::after_power_cut)
            }
        }
    }

    /// As [`Self::apply`], where no call fails.
    pub fn succeed(&mut self, op: Op) -> Check {
        self.apply(op)?.map_err(|error| format!("{op}: {error}: {error:?}"))
    }

    fn wal(&self) -> Check<&Wal> {
        self.wal.as_ref().ok_or_else(|| "not open".into())
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
        let name = self.setup.keys[key];
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
            let was_poisoned = std::mem::replace(
                &mut self.poisoned[key],
                self.poisoned[key] || is_sync_error(error),
            );
            // Only an entry whose own sync failed may be there; whether it is, the log says.
            let doubtful = disk && is_sync_error(error);
            let next = wal.next_index(name);
            let known = matches!(error, WalError::Poisoned { .. }) && was_poisoned;
            let model = &mut self.keys[key];
            model.used |= doubtful || !matches!(error, WalError::Poisoned { .. });
            match next {
                Ok(next) if next == model.count() => return Ok(Err(error_of(error))),
                Ok(next) if doubtful && next == model.count() + sizes.len() as u64 => {
                    ensure!(!known, "an append refused as poisoned is in the log");
                }
                Ok(next) => {
                    let count = model.count();
                    return Err(format!("next index {next} after {count} and {error}: {error:?}"));
                }
                Err(unreadable) => {
                    ensure!(!doubtful, "cannot tell after {error}: {unreadable}");
                    return Ok(Err(error_of(error)));
                }
            }
        }
        let model = &mut self.keys[key];
        let last = entries.len() - 1;
        for (at, ((header, content), reference)) in entries.into_iter().zip(references).enumerate()
        {
            model.items.push(Item { reference, header, content, ends: at == last });
        }
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

    fn sync_key(&mut self, key: usize) -> Check<Result<(), WalError>> {
        let result = self.wal()?.sync_key(self.setup.keys[key]);
        if result.is_ok() {
            ensure!(!self.poisoned[key], "sync_key after a failed sync is acknowledged");
            self.keys[key].durable = self.keys[key].count();
        }
        self.poisoned[key] |= result.as_ref().is_err_and(is_sync_error);
        Ok(result)
    }

    fn sync(&mut self) -> Check<Result<(), WalError>> {
        let result = self.wal()?.sync();
        if result.is_ok() {
            let poisoned = self.sync_failed || self.poisoned.contains(&true);
            ensure!(!poisoned, "sync after a failed sync is acknowledged");
            for model in &mut self.keys {
                model.durable = model.count();
            }
        }
        self.sync_failed |= result.as_ref().is_err_and(is_sync_error);
        Ok(result)
    }

    fn truncate(&mut self, key: usize) -> Check<Result<(), WalError>> {
        let name = self.setup.keys[key];
        let count = self.keys[key].count();
        let result = self.wal()?.truncate_before(name, count).map(drop);
        self.dropped(key, &result);
        Ok(result)
    }

    fn compact(&mut self) -> Check<Result<(), WalError>> {
        self.clock.advance(RETENTION + WINDOW);
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
        (0..self.keys.len()).for_each(|key| self.dropped(key, &result));
        Ok(result)
    }

    /// All entries of a key were dropped; after an error, some may be.
    fn dropped(&mut self, key: usize, result: &Result<(), WalError>) {
        let model = &mut self.keys[key];
        let count = model.count();
        if result.is_ok() {
            (model.first, model.durable) = ((count, count), count);
        } else {
            model.first.1 = count;
            // The successor that carries the numbers on was created at most.
            self.poisoned[key] |= result.as_ref().is_err_and(is_sync_error);
        }
    }

    fn remove(&mut self, key: usize) -> Check<Result<(), WalError>> {
        let result = self.wal()?.remove_key(self.setup.keys[key]);
        match &result {
            Ok(()) => {
                self.keys[key].remove();
                // A new life has new files.
                self.poisoned[key] = false;
            }
            Err(_) => self.keys[key].maybe_removed = true,
        }
        Ok(result)
    }

    fn shutdown(&mut self) -> Check<Result<(), WalError>> {
        let closed = self.wal.as_ref().map(Wal::shutdown).transpose();
        let was_open = self.wal.take().is_some();
        if closed.is_ok() && was_open {
            let failed = self.sync_failed || self.poisoned.contains(&true);
            ensure!(!failed, "shutdown after a failed sync is acknowledged");
            for model in &mut self.keys {
                model.durable = model.count();
            }
        }
        if !self.faults.is_empty() {
            self.faults.drain(..).for_each(|fault| self.sim.inject(fault));
        }
        let opened = match self.setup.open(&self.sim, &self.clock) {
            Ok(wal) => wal,
            Err(error) => return Ok(Err(error)),
        };
        let clean = closed.is_ok() && was_open;
        ensure!(!clean || opened.recovery_report().clean, "not clean after a shutdown");
        self.recovered(opened, KeyModel::after_kill)?;
        Ok(closed.map(drop))
    }

    fn reopen(
        &mut self,
        sim: SimDir,
        allowed: impl Fn(&KeyModel) -> super::oracle::Allowed<'_>,
    ) -> Check<Result<(), WalError>> {
        self.wal = None;
        self.sim = sim;
        self.faults.drain(..).for_each(|fault| self.sim.inject(fault));
        match self.setup.open(&self.sim, &self.clock) {
            Ok(wal) => self.recovered(wal, allowed).map(Ok),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Whether a failed sync has made pages disappear.
    pub fn lost_pages(&self) -> bool {
        self.sim.trace().iter().any(|op| matches!(op, TraceOp::LoseFile { .. }))
    }

    /// Checks what recovery found, and takes it for given from now on.
    fn recovered(
        &mut self,
        wal: Wal,
        allowed: impl Fn(&KeyModel) -> super::oracle::Allowed<'_>,
    ) -> Check {
        let damaged = &wal.recovery_report().damaged;
        ensure!(damaged.is_empty(), "false damage: {damaged:?}");
        let power_lost = wal.recovery_report().power_lost;
        self.sim.clear_faults();
        self.calls_of_open = self.sim.call_kinds();
        let lost_pages = self.lost_pages();
        for (key, seen) in Observed::all(&wal, &self.setup.keys)?.iter().enumerate() {
            let model = &mut self.keys[key];
            let wanted = if lost_pages { model.after_power_cut() } else { allowed(model) };
            wanted.check(seen).map_err(|text| {
                format!("key {key} after reopening (power lost: {power_lost}): {text}")
            })?;
            model.adopt(seen);
        }
        self.wal = Some(wal);
        self.poisoned.fill(false);
        self.sync_failed = false;
        Ok(())
    }
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
