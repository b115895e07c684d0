//! What a disk may hold after a power cut: the units of a trace and every choice among them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::{Body, Image, Name, Op, SimDir, State, len_u64, write};
use crate::format::mix;

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;
/// In sampled choices, one in so many is of each kind.
const KINDS: u64 = 5;

/// How many crash states to visit.
#[derive(Debug, Clone, Copy)]
pub struct CrashBudget {
    /// With at most so many units all subsets are visited; 20 makes a million.
    pub exhaustive_bits: u32,
    /// With more units, so many samples.
    pub samples: u64,
    /// After an exhaustive visit, so many samples with one unit garbled. The default is 0.
    pub garbled: u64,
    /// Where samples are drawn from.
    pub seed: u64,
}

impl Default for CrashBudget {
    fn default() -> Self {
        Self { exhaustive_bits: 10, samples: 200, garbled: 0, seed: 0 }
    }
}

/// Which units of a crash reached the disk. Its `Display` names all that is needed to make it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are described with their variant")]
pub enum CrashChoice {
    /// Before operation `at` of the trace; unit number `i` iff bit `i` of `mask` is set.
    Mask { at: usize, mask: u64 },
    /// Before operation `at` of the trace. Sample 0 is none, 1 all, 2 the last unit only. After that
    /// `sample % 5` is 0 for the first so many units, 1 for the last so many, 2 for all but one, 3
    /// for each with a chance of a half, 4 for one garbled among all or half of the rest: a sector
    /// that holds random bytes where it was written, or a length half-way to the new one.
    Sample { at: usize, sample: u64, seed: u64 },
}

impl fmt::Display for CrashChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mask { at, mask } => write!(f, "at={at} mask={mask:#x}"),
            Self::Sample { at, sample, seed } => write!(f, "at={at} sample={sample} seed={seed}"),
        }
    }
}

impl State {
    /// The crash states before operation `at`, and `at` itself, which the end of the trace bounds.
    fn crash(&self, at: usize) -> (Crash, usize) {
        let at = at.min(self.trace.len());
        (Crash::new(Disk::replay(&self.origin, &self.trace[..at]), self.boot), at)
    }
}

impl SimDir {
    /// All files as the disk is sure to hold them.
    pub fn durable_image(&self) -> Image {
        let (mut crash, _) = self.state().crash(usize::MAX);
        crash.image(&vec![Pick::Drop; crash.disk.units.len()])
    }

    /// Visits what the disk may hold when power is lost just before operation `at` of the trace
    /// (`trace_len()`: after the last). Returns the number of subsets and samples. Not each subset is
    /// visited: the others only hold what no name leads to, or what lies behind the end of its file.
    pub fn crash_images(
        &self,
        at: usize,
        budget: &CrashBudget,
        each: &mut dyn FnMut(&Image, &CrashChoice),
    ) -> u64 {
        let (mut crash, at) = self.state().crash(at);
        let units = crash.disk.units.len();
        let mut visits = 0;
        let mut visit = |choice| {
            let picks = crash.disk.picks(at, &choice);
            visits += 1;
            if matches!(choice, CrashChoice::Sample { .. }) || crash.shows_all(&picks) {
                each(&crash.image(&picks), &choice);
            }
        };
        let sample = |sample| CrashChoice::Sample { at, sample, seed: budget.seed };
        if len_u64(units) > u64::from(budget.exhaustive_bits.min(63)) {
            (0..budget.samples).for_each(|index| visit(sample(index)));
        } else {
            (0..1 << units).for_each(|mask| visit(CrashChoice::Mask { at, mask }));
            let garbled = if units == 0 { 0 } else { budget.garbled };
            (0..garbled).for_each(|index| visit(sample(index * KINDS + KINDS - 1)));
        }
        visits
    }

    /// Makes one crash state again. Give the `at` of the choice, or another one to try the same
    /// choice elsewhere.
    pub fn crash_image(&self, at: usize, choice: &CrashChoice) -> Image {
        let (mut crash, at) = self.state().crash(at);
        let picks = crash.disk.picks(at, choice);
        crash.image(&picks)
    }

    /// How many units a crash before operation `at` has: 2 to this power is the number of subsets.
    pub fn crash_units(&self, at: usize) -> usize {
        self.state().crash(at).0.disk.units.len()
    }
}

/// Whether a unit reached the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pick {
    Drop,
    Keep,
    /// In a form that this seed determines.
    Garble(u64),
}

/// What reaches the disk, or does not, on its own.
pub(super) enum Unit {
    Sector {
        inode: usize,
        offset: usize,
        data: Box<[u8]>,
    },
    /// The length becomes `to`; where that cuts the file, what was behind it does not come back.
    Len {
        inode: usize,
        from: usize,
        to: usize,
    },
    /// The name leads to this file, or to none.
    Name {
        name: Name,
        inode: Option<usize>,
    },
}

impl Unit {
    /// The file whose content this changes.
    pub(super) fn inode(&self) -> Option<usize> {
        match self {
            Self::Sector { inode, .. } | Self::Len { inode, .. } => Some(*inode),
            Self::Name { .. } => None,
        }
    }

    fn apply_name(&self, names: &mut BTreeMap<Name, usize>) {
        match self {
            Self::Name { name, inode: Some(inode) } => drop(names.insert(name.clone(), *inode)),
            Self::Name { name, inode: None } => drop(names.remove(name)),
            Self::Sector { .. } | Self::Len { .. } => {}
        }
    }

    /// Until all units have come, `body` may be shorter or longer than the file's length `len`.
    fn apply_data(&self, body: &mut Vec<u8>, len: &mut usize, pick: Pick) {
        match (self, pick) {
            (_, Pick::Drop) | (Self::Name { .. }, _) => {}
            (Self::Sector { offset, data, .. }, Pick::Keep) => write(body, *offset, data),
            (Self::Sector { offset, data, .. }, Pick::Garble(seed)) => {
                let mut random = Random(seed);
                let noise: Vec<u8> = data.iter().map(|_| random.next().to_le_bytes()[0]).collect();
                write(body, *offset, &noise);
            }
            (Self::Len { from, to, .. }, pick) => {
                if to < from {
                    body.truncate(*to);
                }
                *len = match pick {
                    Pick::Garble(seed) => from.min(to) + Random(seed).below(from.abs_diff(*to)),
                    Pick::Drop | Pick::Keep => *to,
                };
            }
        }
    }
}

/// A file's content once the picked units of it have come.
pub(super) fn build<'a>(base: &Body, units: impl Iterator<Item = (&'a Unit, Pick)>) -> Body {
    let (mut body, mut len) = (base.to_vec(), base.len());
    for (unit, pick) in units {
        unit.apply_data(&mut body, &mut len, pick);
    }
    body.resize(len, 0);
    Arc::new(body)
}

/// What is durable at one moment, and the units that may be.
pub(super) struct Disk {
    names: BTreeMap<Name, usize>,
    pub(super) bodies: Vec<Body>,
    /// The files' lengths once all units have come.
    lens: Vec<usize>,
    /// In the order of the trace.
    pub(super) units: Vec<Unit>,
}

impl Disk {
    pub(super) fn replay(origin: &Image, trace: &[Op]) -> Self {
        let mut disk = Self {
            names: origin.files.keys().cloned().zip(0..).collect(),
            bodies: origin.files.values().cloned().collect(),
            lens: origin.files.values().map(|body| body.len()).collect(),
            units: Vec::new(),
        };
        for op in trace {
            disk.step(op);
        }
        disk
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Create { ref name, inode } => {
                self.bodies.push(Body::default());
                self.lens.push(0);
                self.units.push(Unit::Name { name: name.clone(), inode: Some(inode) });
            }
            Op::Link { ref name, inode } => {
                self.units.push(Unit::Name { name: name.clone(), inode: Some(inode) });
            }
            Op::Unlink { ref name } => {
                self.units.push(Unit::Name { name: name.clone(), inode: None });
            }
            Op::Write { inode, offset, ref data } => {
                self.change_len(inode, self.lens[inode].max(offset + data.len()));
                let (mut offset, mut rest) = (offset, &data[..]);
                while !rest.is_empty() {
                    let sector = SECTOR_BYTES - offset % SECTOR_BYTES;
                    let (data, behind) = rest.split_at(sector.min(rest.len()));
                    self.units.push(Unit::Sector { inode, offset, data: data.into() });
                    (offset, rest) = (offset + data.len(), behind);
                }
            }
            Op::SetLen { inode, bytes } => self.change_len(inode, bytes),
            Op::SyncFile { inode } => {
                let units = self.take(|unit| unit.inode() == Some(inode));
                if !units.is_empty() {
                    let kept = units.iter().map(|unit| (unit, Pick::Keep));
                    self.bodies[inode] = build(&self.bodies[inode], kept);
                }
            }
            Op::LoseFile { inode } => {
                self.take(|unit| unit.inode() == Some(inode));
                self.lens[inode] = self.bodies[inode].len();
            }
            Op::SyncDir => self.settle_names(|name| !name.contains('/')),
            Op::SyncFolder { ref folder } => self.settle_names(|name| name.starts_with(&**folder)),
        }
    }

    fn settle_names(&mut self, of: impl Fn(&str) -> bool) {
        let units = self.take(|unit| matches!(unit, Unit::Name { name, .. } if of(name)));
        for unit in units {
            unit.apply_name(&mut self.names);
        }
    }

    fn change_len(&mut self, inode: usize, to: usize) {
        let from = std::mem::replace(&mut self.lens[inode], to);
        if from != to {
            self.units.push(Unit::Len { inode, from, to });
        }
    }

    /// Takes out these units.
    fn take(&mut self, wanted: impl Fn(&Unit) -> bool) -> Vec<Unit> {
        let units = std::mem::take(&mut self.units).into_iter();
        let (taken, left) = units.partition(wanted);
        self.units = left;
        taken
    }

    fn picks(&self, at: usize, choice: &CrashChoice) -> Vec<Pick> {
        let bit = |mask: u64, unit: usize| unit < 64 && mask >> unit & 1 == 1;
        match *choice {
            CrashChoice::Mask { mask, .. } => self.pick(|unit| bit(mask, unit)),
            CrashChoice::Sample { sample, seed, .. } => self.sample(at, sample, seed),
        }
    }

    fn pick(&self, mut keep: impl FnMut(usize) -> bool) -> Vec<Pick> {
        let pick = |unit| if keep(unit) { Pick::Keep } else { Pick::Drop };
        (0..self.units.len()).map(pick).collect()
    }

    fn sample(&self, at: usize, sample: u64, seed: u64) -> Vec<Pick> {
        let count = self.units.len();
        let seed = mix(mix(seed) ^ len_u64(at));
        // Consecutive samples walk through all lengths, from a random one on.
        let turn = (seed >> 1) + sample / KINDS;
        let part = usize::try_from(turn % (len_u64(count) + 1)).unwrap_or(0);
        let mut random = Random(mix(seed ^ sample));
        let (one, all) = (random.below(count), random.coin());
        match (sample, sample % KINDS) {
            (0, _) => self.pick(|_| false),
            (1, _) => self.pick(|_| true),
            (2, _) => self.pick(|unit| unit + 1 == count),
            (_, 0) => self.pick(|unit| unit < part),
            (_, 1) => self.pick(|unit| unit >= part),
            (_, 2) => self.pick(|unit| unit != one),
            (_, 3) => self.pick(|_| random.coin()),
            _ => {
                let mut picks = self.pick(|_| all || random.coin());
                let content = |unit: &usize| self.units[*unit].inode().is_some();
                let content: Vec<usize> = (0..count).filter(content).collect();
                if let Some(unit) = content.get(random.below(content.len())) {
                    picks[*unit] = Pick::Garble(random.next());
                }
                picks
            }
        }
    }
}

/// Makes the images of one crash. A file is made anew only when other units of it are picked.
struct Crash {
    disk: Disk,
    boot: u64,
    /// By inode; `None` where no unit changes the content.
    drafts: Vec<Option<Draft>>,
}

/// A file in the image made last.
#[derive(Default)]
struct Draft {
    units: Vec<usize>,
    picks: Vec<Pick>,
    body: Body,
}

impl Crash {
    fn new(mut disk: Disk, boot: u64) -> Self {
        // No name can lead to a file that is removed for good: its units make no difference.
        let mut reachable: BTreeSet<usize> = disk.names.values().copied().collect();
        reachable.extend(disk.units.iter().filter_map(|unit| match unit {
            Unit::Name { inode, .. } => *inode,
            _ => None,
        }));
        disk.units.retain(|unit| unit.inode().is_none_or(|inode| reachable.contains(&inode)));
        let mut drafts: Vec<Option<Draft>> = disk.bodies.iter().map(|_| None).collect();
        for (index, unit) in disk.units.iter().enumerate() {
            if let Some(inode) = unit.inode() {
                drafts[inode].get_or_insert_default().units.push(index);
            }
        }
        Self { disk, boot, drafts }
    }

    /// Whether everything picked is to be seen in the image: without the rest it would be the same.
    fn shows_all(&self, picks: &[Pick]) -> bool {
        let Disk { units, names, bodies, .. } = &self.disk;
        let picked = || units.iter().zip(picks).filter(|(_, pick)| **pick != Pick::Drop);
        let mut names = names.clone();
        picked().for_each(|(unit, _)| unit.apply_name(&mut names));
        picked().all(|(unit, _)| {
            let Some(inode) = unit.inode() else { return true };
            let last_len = picked().rev().find_map(|(unit, _)| match unit {
                Unit::Len { inode: of, to, .. } if *of == inode => Some(*to),
                _ => None,
            });
            let len = last_len.unwrap_or(bodies[inode].len());
            let inside = !matches!(unit, Unit::Sector { offset, .. } if *offset >= len);
            inside && names.values().any(|linked| *linked == inode)
        })
    }

    fn image(&mut self, picks: &[Pick]) -> Image {
        let Self { disk, boot, drafts } = self;
        let mut names = disk.names.clone();
        for (unit, pick) in disk.units.iter().zip(picks) {
            if *pick != Pick::Drop {
                unit.apply_name(&mut names);
            }
        }
        let body = |(name, inode): (Name, usize)| {
            let base = &disk.bodies[inode];
            let body = drafts[inode].as_mut().map_or(base, |draft| draft.body(disk, picks));
            (name, body.clone())
        };
        Image { files: names.into_iter().map(body).collect(), boot: *boot }
    }
}

impl Draft {
    /// The content of the file, whose units these are, with `picks` of all units of the disk.
    fn body(&mut self, disk: &Disk, picks: &[Pick]) -> &Body {
        let wanted = self.units.iter().map(|unit| picks[*unit]);
        if !wanted.clone().eq(self.picks.iter().copied()) {
            self.picks = wanted.collect();
            let units = self.units.iter().map(|unit| &disk.units[*unit]);
            let inode = self.units.first().and_then(|unit| disk.units[*unit].inode());
            let base = &disk.bodies[inode.unwrap_or_default()];
            self.body = build(base, units.zip(self.picks.iter().copied()));
        }
        &self.body
    }
}

/// `SplitMix64`.
#[derive(Clone)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    fn coin(&mut self) -> bool {
        self.next() >> 63 == 1
    }

    /// A number below `end`, 0 if that is 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % len_u64(end).max(1)).unwrap_or(0)
    }
}
