//! A log on the mounted file system, its model, and random work on both: after every call, how long the
//! disk's log was.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use keywal::{Durability, ManualClock, Retention, Wal, WalError};
use rustix::fs::Advice;

use crate::common::ops::Op;
use crate::common::oracle::{Allowed, Item, KeyModel, Observed, index};
use crate::common::run::{Setup, WINDOW};
use crate::common::{COLLIDING, Check, EPOCH_MS, Random, content, header};
use crate::ensure;
use crate::rig::Rig;

/// Some limits.
fn setup(random: &mut Random) -> Setup {
    let keys = vec![b"a".as_slice(), b"b", COLLIDING[0], COLLIDING[1]];
    let max_segment_bytes = [8 << 10, 32 << 10, 1 << 20][pick(random, 3)];
    Setup {
        name: "powercut",
        keys,
        max_segment_bytes,
        max_open_files: [1, 8][pick(random, 2)],
        preallocate_bytes: [0, 0, max_segment_bytes.min(64 << 10)][pick(random, 3)],
        journal_bytes: [0, 8 << 10, 64 << 10][pick(random, 3)],
        check_on_open: pick(random, 2) == 0,
        followed: false,
        seed: 0,
    }
}

/// A number below `count`.
pub fn pick(random: &mut Random, count: usize) -> usize {
    (random.next() % count as u64) as usize
}

/// The models when a call had returned, and how long the disk's log was then.
struct Step {
    end: u64,
    keys: Vec<KeyModel>,
}

/// What was done since the disk was formatted.
pub struct History {
    pub setup: Setup,
    pub clock: Arc<ManualClock>,
    steps: Vec<Step>,
}

impl History {
    /// The last call that had returned at this moment.
    fn done(&self, moment: u64) -> usize {
        self.steps.partition_point(|step| step.end <= moment) - 1
    }

    /// How many entries the keys had at this moment, durable or not.
    pub fn counts(&self, moment: u64) -> impl Iterator<Item = u64> {
        self.steps[self.done(moment)].keys.iter().map(KeyModel::count)
    }

    /// What the log may hold after a power cut at this moment.
    pub fn allowed(&self, moment: u64) -> Vec<Allowed<'_>> {
        let done = self.done(moment);
        let Step { end, keys: before } = &self.steps[done];
        match self.steps.get(done + 1) {
            // Something of the next call may have been written.
            Some(after) if *end < moment => {
                let keys = before.iter().zip(&after.keys);
                keys.map(|(before, after)| before.in_flight(after, before.durable)).collect()
            }
            _ => before.iter().map(KeyModel::after_power_cut).collect(),
        }
    }

    /// Some moment: any, or just after a call has returned, or just before a flush.
    pub fn moment(&self, random: &mut Random, rig: &Rig, log_length: u64) -> Check<u64> {
        let any = random.next() % (log_length + 1);
        match random.next() % 3 {
            0 => Ok(any),
            1 => Ok(self.steps[pick(random, self.steps.len())].end),
            _ => rig.ask(&format!("last_flush {any}")),
        }
    }
}

/// A log, open or not, and its model.
pub struct World {
    pub dir: PathBuf,
    pub setup: Setup,
    pub clock: Arc<ManualClock>,
    pub wal: Option<Wal>,
    pub keys: Vec<KeyModel>,
    random: Random,
    serial: u64,
    /// Goes before the content of every entry.
    pub prefix: &'static [u8],
}

/// What a call of the log returned; the outer error is a broken promise.
pub type Outcome = Check<Result<(), WalError>>;

impl World {
    pub fn new(place: &Path, mut random: Random) -> Self {
        let setup = setup(&mut random);
        let keys = vec![KeyModel::default(); setup.keys.len()];
        let clock = Arc::new(ManualClock::new(EPOCH_MS));
        let dir = place.join("log");
        Self { dir, setup, clock, wal: None, keys, random, serial: 0, prefix: b"" }
    }

    /// Makes so many calls, and notes the disk's time when each returns.
    pub fn history(mut self, rig: &Rig, ops: usize) -> Check<History> {
        let step = |end, keys: &[KeyModel]| Step { end, keys: keys.to_vec() };
        let mut steps = vec![step(0, &self.keys)];
        self.open()?.map_err(|error| format!("first open: {error}"))?;
        steps.push(step(rig.ask("position")?, &self.keys));
        for _ in 0..ops {
            let op = self.any_op();
            self.apply(op)?.map_err(|error| format!("{op}: {error}: {error:?}"))?;
            steps.push(step(rig.ask("position")?, &self.keys));
            self.kernel_at_work()?;
        }
        Ok(History { setup: self.setup, clock: self.clock, steps })
    }

    pub fn any_op(&mut self) -> Op {
        let key = pick(&mut self.random, self.keys.len());
        match self.random.next() % 36 {
            0..8 => Op::Small(key),
            8..15 => Op::Large(key),
            15..19 => Op::Batch(key),
            19..22 => Op::Rotate(key),
            22 | 23 => Op::Truncate(key),
            24 | 25 => Op::Remove(key),
            26 | 27 => Op::SyncKey(key),
            28 => Op::Sync,
            29 => Op::Compact,
            30 => Op::Shutdown,
            31 => Op::Forever(key),
            32 => Op::Last(key),
            33 | 34 if self.setup.journal_bytes > 0 => Op::Together(self.random.next() % 2 == 0),
            _ => Op::Kill,
        }
    }

    /// What nobody asked for: sometimes data, or everything, is written back.
    fn kernel_at_work(&mut self) -> Check {
        match self.random.next() % 16 {
            0..3 => self.write_back(),
            3 => fs::File::open(&self.dir)
                .and_then(|dir| Ok(rustix::fs::syncfs(dir)?))
                .map_err(|error| format!("syncfs: {error}")),
            _ => Ok(()),
        }
    }

    /// Has the kernel begin to write all data, without a flush.
    pub fn write_back(&self) -> Check {
        let write_back = || {
            for entry in fs::read_dir(&self.dir)? {
                let file = fs::File::open(entry?.path())?;
                // This begins by writing what is dirty, and waits for nothing.
                rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
            }
            Ok(())
        };
        write_back().map_err(|error: std::io::Error| format!("write back: {error}"))
    }

    pub fn open(&mut self) -> Outcome {
        match Wal::new(&self.dir, self.setup.options(&self.clock)) {
            Ok(wal) => {
                let damaged = &wal.recovery_report().damaged;
                ensure!(damaged.is_empty(), "false damage: {damaged:?}");
                self.wal = Some(wal);
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(error)),
        }
    }

    /// Opens the log again, and takes for granted what it then holds.
    pub fn reopen(&mut self, allowed: impl Fn(&KeyModel) -> Allowed<'_>) -> Outcome {
        self.wal = None;
        if let Err(error) = self.open()? {
            return Ok(Err(error));
        }
        for (key, seen) in Observed::all(self.wal()?, &self.setup.keys)?.iter().enumerate() {
            let model = &mut self.keys[key];
            allowed(model).check(seen).map_err(|text| format!("key {key}, reopened: {text}"))?;
            model.adopt(seen);
        }
        Ok(Ok(()))
    }

    pub fn wal(&self) -> Check<&Wal> {
        self.wal.as_ref().ok_or_else(|| "not open".into())
    }

    pub fn apply(&mut self, op: Op) -> Outcome {
        match op {
            Op::Small(key) => self.append(key, 1, Durability::Os),
            Op::Large(key) => self.append(key, 1, Durability::Disk),
            Op::Batch(key) => {
                let durability = Durability::from(self.random.next() % 2 == 0);
                self.append(key, 3, durability)
            }
            Op::Rotate(key) => {
                self.clock.advance(WINDOW);
                self.append(key, 1, Durability::Os)
            }
            Op::Truncate(key) => {
                let index = self.random.next() % (self.keys[key].count() + 2);
                let result = self.wal()?.truncate_before(self.setup.keys[key], index);
                self.dropped(key, result.is_ok())?;
                Ok(result.map(drop))
            }
            Op::Remove(key) => {
                let result = self.wal()?.remove_key(self.setup.keys[key]);
                match &result {
                    Ok(()) => self.keys[key].remove(),
                    Err(_) => self.keys[key].maybe_removed = true,
                }
                Ok(result)
            }
            Op::SyncKey(key) => {
                let result = self.wal()?.sync_key(self.setup.keys[key]);
                self.durable_if(result.is_ok(), key..key + 1);
                Ok(result)
            }
            Op::Together(durable) => self.together(durable),
            Op::Forever(key) => self.set_retention(key, Retention::FOREVER),
            Op::Last(key) => self.set_retention(key, Retention::keep_last(1)),
            Op::Sync => {
                let result = self.wal()?.sync();
                self.durable_if(result.is_ok(), 0..self.keys.len());
                Ok(result)
            }
            Op::Compact => self.compact(),
            Op::Shutdown => {
                let result = self.wal()?.shutdown();
                self.durable_if(result.is_ok(), 0..self.keys.len());
                if result.is_err() {
                    return Ok(result);
                }
                let opened = self.reopen(KeyModel::after_kill)?;
                let clean = self.wal.as_ref().is_none_or(|wal| wal.recovery_report().clean);
                ensure!(clean, "not clean after a shutdown");
                Ok(opened)
            }
            Op::Kill => self.reopen(KeyModel::after_kill),
            Op::Cut(_) => Err("the power is not cut from here".into()),
        }
    }

    fn set_retention(&mut self, key: usize, retention: Retention) -> Outcome {
        let result = self.wal()?.set_retention(self.setup.keys[key], retention);
        let model = &mut self.keys[key];
        model.used = true;
        match result {
            Ok(()) => {
                (model.retention, model.or_retention) = (Some(retention), None);
                model.named = true;
            }
            Err(_) => model.or_retention = Some(retention),
        }
        self.durable_if(result.is_ok(), key..key + 1);
        Ok(result)
    }

    fn durable_if(&mut self, durable: bool, keys: Range<usize>) {
        for model in self.keys[keys].iter_mut().filter(|_| durable) {
            model.durable = model.count();
        }
    }

    fn append(&mut self, key: usize, entries: usize, durability: Durability) -> Outcome {
        let batch: Vec<(Option<Bytes>, Bytes)> = (0..entries)
            .map(|_| {
                self.serial += 1;
                let bytes = [20, 300, 2_000][pick(&mut self.random, 3)];
                let content = content(self.serial, pick(&mut self.random, bytes));
                (header(self.serial), [self.prefix, &content].concat().into())
            })
            .collect();
        let name = self.setup.keys[key];
        let wal = self.wal()?;
        let result = match &batch[..] {
            [(header, content)] => {
                wal.append_entry(name, header.clone(), content, durability).map(|only| vec![only])
            }
            _ => wal.append_batch(name, batch.clone(), durability),
        };
        let refused = matches!(result, Err(WalError::Poisoned { .. }));
        let model = &mut self.keys[key];
        model.used |= !refused;
        if refused || result.is_err() && model.doubtful > 0 {
            return Ok(result.map(drop));
        }
        model.items.truncate(index(model.count()));
        let references = result.as_ref().ok();
        model.items.extend(batch.into_iter().enumerate().map(|(at, (header, content))| Item {
            reference: references.map(|references| references[at]),
            timestamp_ms: None,
            header,
            content,
            ends: at + 1 == entries,
            together: 0,
        }));
        model.doubtful = if result.is_ok() { 0 } else { entries };
        self.durable_if(result.is_ok() && durability == Durability::Disk, key..key + 1);
        Ok(result.map(drop))
    }

    /// Appends an entry to each of two keys, together.
    fn together(&mut self, durable: bool) -> Outcome {
        let first = pick(&mut self.random, self.keys.len() - 1);
        let together = self.serial + 1;
        let entries: Vec<(usize, Option<Bytes>, Bytes)> = [first, first + 1]
            .into_iter()
            .map(|key| {
                self.serial += 1;
                let content = content(self.serial, pick(&mut self.random, 300));
                (key, header(self.serial), [self.prefix, &content].concat().into())
            })
            .collect();
        let named = entries
            .iter()
            .map(|(key, header, content)| (self.setup.keys[*key], header.clone(), content.clone()));
        let result = self.wal()?.append_many(named, durable);
        for (at, (key, header, content)) in entries.into_iter().enumerate() {
            let model = &mut self.keys[key];
            model.used = true;
            if let Ok(references) = &result {
                let reference = Some(references[at]);
                model.items.push(Item {
                    reference,
                    timestamp_ms: None,
                    header,
                    content,
                    ends: true,
                    together,
                });
            }
        }
        self.durable_if(result.is_ok() && durable, first..first + 2);
        Ok(result.map(drop))
    }

    fn compact(&mut self) -> Outcome {
        let windows = self.random.next() % 5;
        self.clock.advance(WINDOW * u32::try_from(windows).unwrap_or(0));
        let result = self.wal()?.compact();
        if let Ok(report) = &result {
            ensure!(report.refused.is_none() && report.failures.is_empty(), "compact: {report:?}");
        }
        for key in 0..self.keys.len() {
            self.dropped(key, result.is_ok())?;
        }
        Ok(result.map(drop))
    }

    /// The oldest entries of a key were dropped; after an error, some may be.
    fn dropped(&mut self, key: usize, ok: bool) -> Check {
        let first = self.wal()?.first_index(self.setup.keys[key]);
        let model = &mut self.keys[key];
        let count = model.count();
        if !ok {
            model.first.1 = count;
            return Ok(());
        }
        let first = first.map_err(|error| format!("first_index: {error}"))?;
        ensure!((model.first.0..=count).contains(&first), "first {first}, of {:?}", model.first);
        model.first = (first, first);
        model.durable = model.durable.max(first);
        Ok(())
    }
}
