//! What is measured? The one list of workloads.

mod append;
mod durable;
mod pace;
mod read;
mod reopen;
mod scan;

use std::path::Path;

use crate::subject::{Content, Plan, Result, Subject};

/// Entries of a batch.
const BATCH: usize = 100;

/// Workloads that share a table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Group {
    Append,
    Durable,
    Read,
    Scan,
    Reopen,
}

impl Group {
    pub const ALL: [Self; 5] = [Self::Append, Self::Durable, Self::Read, Self::Scan, Self::Reopen];

    pub fn title(self) -> &'static str {
        match self {
            Self::Append => "append, not durable, ns an entry",
            Self::Durable => "append, durable, us an entry",
            Self::Read => "random read by reference, cached, ns",
            Self::Scan => "scan, ns an entry",
            Self::Reopen => "reopen, ms",
        }
    }

    /// Nanoseconds in the unit of the title.
    pub fn unit(self) -> f64 {
        match self {
            Self::Append | Self::Read | Self::Scan => 1.0,
            Self::Durable => 1e3,
            Self::Reopen => 1e6,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Job {
    Append,
    Batch,
    /// One entry in each key, durable together.
    EachKey,
    Read,
    Scan,
    Reopen,
}

pub struct Workload {
    pub group: Group,
    pub name: &'static str,
    /// Whom keywal is compared with.
    pub floor: &'static str,
    job: Job,
    keys: usize,
    threads: usize,
    content_bytes: usize,
    /// How many calls are measured, in each thread: appends, batches, rounds over all keys, reads.
    calls: usize,
    /// Entries that are there before anything is measured, in each key.
    filled: usize,
}

/// What one process does: most workloads are one step, reopening is two.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Prepare,
    Measure,
}

impl Workload {
    pub fn has_preparation(&self) -> bool {
        self.job == Job::Reopen
    }

    /// Small enough to see within a moment that it works.
    fn shrink(mut self) -> Self {
        self.keys = self.keys.min(20);
        self.calls = self.calls.div_ceil(200);
        self.filled = self.filled.min(200);
        self
    }

    fn plan(&self, dir: &Path) -> Plan {
        let entries_of_call = match self.job {
            Job::Append => 1,
            Job::Batch => BATCH,
            Job::EachKey => self.keys,
            Job::Read | Job::Scan | Job::Reopen => 0,
        };
        let appended = (self.calls * self.threads + self.warm_up()) * entries_of_call;
        Plan {
            dir: dir.to_owned(),
            keys: (0..self.keys).map(|key| format!("key-{key:06}")).collect(),
            entries_per_key: self.filled + appended.div_ceil(self.keys),
            content_bytes: self.content_bytes,
            durable: self.group == Group::Durable,
        }
    }

    /// Calls before those that are measured: every key is created, buffers have their size.
    fn warm_up(&self) -> usize {
        match self.job {
            Job::Append => self.keys.max(self.calls / 100),
            Job::Batch => self.keys.max(self.calls / 10),
            Job::EachKey | Job::Read | Job::Scan | Job::Reopen => 1,
        }
    }

    fn content(&self) -> Content {
        &CONTENT[..self.content_bytes]
    }

    fn batch(&self) -> Vec<Content> {
        vec![self.content(); BATCH]
    }

    /// Puts into every key what has to be there before.
    fn fill<S: Subject>(&self, subject: &mut S) -> Result<Vec<S::Place>> {
        let mut places = Vec::new();
        for key in 0..self.keys {
            for at in (0..self.filled).step_by(BATCH) {
                let contents = vec![self.content(); BATCH.min(self.filled - at)];
                places.extend(subject.fill(key, &contents)?);
            }
        }
        subject.publish()?;
        Ok(places)
    }
}

/// Nanoseconds an operation; 0 of a preparation.
pub fn run<S: Subject>(workload: &Workload, step: Step, dir: &Path) -> Result<f64> {
    let plan = workload.plan(dir);
    match (workload.job, step) {
        (Job::Reopen, Step::Prepare) => reopen::prepare::<S>(workload, &plan),
        (Job::Reopen, Step::Measure) => reopen::measure::<S>(&plan),
        (Job::Read, _) => read::measure::<S>(workload, &plan),
        (Job::Scan, _) => scan::measure::<S>(workload, &plan),
        (_, _) if plan.durable => durable::measure::<S>(workload, &plan),
        (_, _) => append::measure::<S>(workload, &plan),
    }
}

/// All workloads, in the order of the tables.
pub fn all(tiny: bool) -> Vec<Workload> {
    let mut all = appends();
    all.extend(durable_appends());
    all.extend(reads());
    all.extend(scans());
    all.push(Workload {
        filled: 100,
        ..workload(
            Group::Reopen,
            "10,000 keys x 100 entries",
            "floor write",
            Job::Reopen,
            10_000,
            0,
        )
    });
    if tiny { all.into_iter().map(Workload::shrink).collect() } else { all }
}

fn appends() -> Vec<Workload> {
    let append =
        |name, job, keys, calls| workload(Group::Append, name, "floor write", job, keys, calls);
    vec![
        append("100 B, 1 key", Job::Append, 1, 200_000),
        Workload { content_bytes: 1024, ..append("1 KiB, 1 key", Job::Append, 1, 50_000) },
        append("100 B, 1,000 keys", Job::Append, 1_000, 200_000),
        append("100 B, 20,000 keys", Job::Append, 20_000, 100_000),
        append("batch 100 x 100 B", Job::Batch, 1, 2_000),
    ]
}

fn durable_appends() -> Vec<Workload> {
    let durable =
        |name, floor, job, keys, calls| workload(Group::Durable, name, floor, job, keys, calls);
    let (alone, shared) = ("floor journal", "floor gather");
    vec![
        durable("1 thread, 1 key", alone, Job::Append, 1, 1_000),
        Workload { threads: 16, ..durable("16 threads, 1 key", shared, Job::Append, 1, 200) },
        Workload { threads: 16, ..durable("16 threads, 16 keys", shared, Job::Append, 16, 200) },
        durable("1 thread, 256 keys", alone, Job::Append, 256, 1_024),
        durable("batch of 100", alone, Job::Batch, 1, 300),
        durable("1 in each of 256 keys", alone, Job::EachKey, 256, 20),
    ]
}

fn reads() -> Vec<Workload> {
    let read = |name, keys, filled| {
        let read = workload(Group::Read, name, "floor write", Job::Read, keys, 100_000);
        Workload { filled, ..read }
    };
    vec![
        read("100 B, 1 key", 1, 200_000),
        Workload { threads: 2, ..read("100 B, 1 key, 2 threads", 1, 200_000) },
        read("100 B, 1,000 keys", 1_000, 200),
        Workload { content_bytes: 1024, ..read("1 KiB, 1 key", 1, 50_000) },
    ]
}

/// Of two keys, one to warm up with: some peers can scan a key only once.
fn scans() -> Vec<Workload> {
    let scan = |name, filled| Workload {
        filled,
        ..workload(Group::Scan, name, "floor write", Job::Scan, 2, 0)
    };
    vec![
        scan("200,000 x 100 B", 200_000),
        Workload { content_bytes: 1024, ..scan("50,000 x 1 KiB", 50_000) },
    ]
}

fn workload(
    group: Group,
    name: &'static str,
    floor: &'static str,
    job: Job,
    keys: usize,
    calls: usize,
) -> Workload {
    Workload { group, name, floor, job, keys, threads: 1, content_bytes: 100, calls, filled: 0 }
}

/// Bytes that cannot be compressed (`SplitMix64`).
static CONTENT: [u8; 1024] = {
    let (mut bytes, mut at, mut state) = ([0; 1024], 0, 0_u64);
    while at < bytes.len() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes[at] = (word ^ (word >> 31)).to_le_bytes()[0];
        at += 1;
    }
    bytes
};
