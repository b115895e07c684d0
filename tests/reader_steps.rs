//! Does who reads beside a writer see a prefix of every key, and never damage, whatever happens between its
//! steps: listing the files, copying the journal, reading the files?

use std::ffi::OsStr;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use common::{Check, EPOCH_MS, Failures, Random, guarded};
use keywal::fs::sim::SimDir;
use keywal::fs::{Dir, File, Lock, OpenMode};
use keywal::{Entries, ManualClock, Wal, WalError, WalOptions, WalReader, restore_in, verify_in};

mod common;

const KEYS: [&str; 3] = ["a", "b", "c"];

/// A directory at three moments: when its files are listed, when the journal is copied, and from then on.
#[derive(Debug)]
struct Moments {
    listed: SimDir,
    copied: SimDir,
    read: SimDir,
    /// How often the facts about the directory were asked for: before the first step, and after the second.
    facts: AtomicU64,
}

impl Dir for Moments {
    fn path(&self) -> &Path {
        Dir::path(&self.listed)
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        unreachable!("locked")
    }

    fn list(&self, each: &mut dyn FnMut(&OsStr)) -> io::Result<()> {
        let listed = if self.facts.load(SeqCst) < 2 { &self.listed } else { &self.read };
        listed.list(each)
    }

    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Box<dyn File>> {
        assert_eq!(mode, OpenMode::Read);
        let dir = match name {
            "META" if self.facts.fetch_add(1, SeqCst) < 2 => &self.copied,
            "JOURNAL" => &self.copied,
            _ => &self.read,
        };
        Dir::open(dir, name, mode)
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        unreachable!("removed")
    }

    fn sync(&self) -> io::Result<()> {
        unreachable!("synced")
    }

    fn random(&self) -> u64 {
        self.listed.random()
    }
}

/// What a key had from some moment on.
#[derive(Debug, Clone, Copy)]
struct Said {
    at: usize,
    /// Which of the logs it is that the key had one after the other; `None`: it is being removed.
    life: Option<u64>,
    next_index: u64,
}

fn entry(life: u64, index: u64) -> Bytes {
    let bytes = usize::try_from(index * 377 % 1500).unwrap();
    format!("{life} {index} {}", "x".repeat(bytes)).into()
}

/// A log to which much has happened, at every moment of that.
struct Past {
    options: WalOptions,
    said: [Vec<Said>; KEYS.len()],
    moments: Vec<SimDir>,
}

impl Past {
    fn new(journal: u64, preallocate: u64, random: &mut Random) -> Self {
        let sim = SimDir::new(1);
        let clock = Arc::new(ManualClock::new(EPOCH_MS));
        let options = WalOptions::default().max_segment_bytes(4096).journal_bytes(journal);
        let options = options.preallocate_bytes(preallocate).clock(clock.clone());
        let wal = Wal::open_in(Arc::new(sim.clone()), options.clone()).unwrap();
        let start = sim.trace_len();
        let nothing = Said { at: 0, life: Some(0), next_index: 0 };
        let mut said = [(); KEYS.len()].map(|()| vec![nothing]);
        for _ in 0..90 {
            let at = usize::try_from(random.next() % 3).unwrap();
            let (key, said) = (KEYS[at], &mut said[at]);
            let now = |life, next_index| Said { at: sim.trace_len() - start, life, next_index };
            let Said { life, next_index, .. } = *said.last().unwrap();
            let life = life.unwrap();
            match random.next() % 14 {
                0 => {
                    clock.advance(Duration::from_secs(100_000));
                    wal.compact().unwrap();
                }
                1 => {
                    wal.truncate_before(key, random.next() % (next_index + 1)).unwrap();
                }
                2 => drop(wal.truncate_before(key, next_index).unwrap()),
                3 => {
                    said.push(now(None, 0));
                    wal.remove_key(key).unwrap();
                    said.push(now(Some(life + 1), 0));
                }
                _ => {
                    let end = next_index + 1 + random.next() % 2;
                    let batch = (next_index..end).map(|index| (None, entry(life, index)));
                    wal.append_batch(key, batch, random.next() % 6 == 0).unwrap();
                    said.push(now(Some(life), end));
                }
            }
        }
        let moments = (start..=sim.trace_len()).map(|at| sim.killed_before(at)).collect();
        Self { options, said, moments }
    }

    fn dir(&self, [listed, copied, read]: [usize; 3]) -> Arc<Moments> {
        let [listed, copied, read] = [listed, copied, read].map(|at| self.moments[at].clone());
        Arc::new(Moments { listed, copied, read, facts: AtomicU64::new(0) })
    }

    /// What was acknowledged of a key before these moments, unless it was removed meanwhile.
    fn least(&self, key: usize, moments: Range<usize>) -> Option<Said> {
        let since = self.said[key].partition_point(|said| said.at <= moments.start);
        let first = self.said[key][since - 1];
        let mut meanwhile =
            self.said[key][since..].iter().take_while(|said| said.at <= moments.end);
        meanwhile.all(|said| said.life == first.life).then_some(first)
    }

    fn check(&self, at: [usize; 3]) -> Check {
        let reader = WalReader::open_in(self.dir(at), self.options.clone()).unwrap();
        ensure!(reader.report().damaged.is_empty(), "{:?}", reader.report());
        for (number, key) in KEYS.into_iter().enumerate() {
            let entries = match reader.entries(key) {
                Err(WalError::Expired) => continue,
                entries => entries.map_err(|error| format!("{key}: {error}"))?,
            };
            let read = read(entries).map_err(|text| format!("{key}: {text}"))?;
            let Some(least) = self.least(number, at[0]..at[2]) else { continue };
            match reader.next_index(key) {
                Err(WalError::Expired) => {}
                Ok(next) => {
                    let wanted = least.next_index;
                    ensure!(next >= wanted, "{key}: {next} entries of {wanted}, {read:?}");
                }
                Err(error) => return Err(format!("{key}: {error}")),
            }
        }
        let report = verify_in(self.dir(at)).map_err(|error| format!("verify: {error}"))?;
        ensure!(report.damaged.is_empty(), "verify: {:?}", report.damaged);
        let copy = SimDir::new(2);
        let report = restore_in(self.dir(at), &copy, None);
        let report = report.map_err(|error| format!("restore: {error}: {error:?}"))?;
        ensure!(report.damaged.is_empty(), "restore: {:?}", report.damaged);
        let copy = Wal::open_in(Arc::new(copy), self.options.clone()).unwrap();
        let report = copy.recovery_report();
        ensure!(report.clean && report.damaged.is_empty(), "restored: {report:?}");
        for key in KEYS {
            read(copy.entries(key).unwrap()).map_err(|text| format!("restored {key}: {text}"))?;
        }
        Ok(())
    }
}

/// Entries without a gap but for what was dropped; the last one.
fn read(entries: Entries<'_>) -> Check<Option<(u64, u64)>> {
    let mut last = None;
    let mut dropped = false;
    for found in entries {
        let found = match found {
            Err(WalError::Expired) => {
                dropped = true;
                continue;
            }
            found => found.map_err(|error| error.to_string())?,
        };
        let text = String::from_utf8_lossy(&found.content).into_owned();
        let life = text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(u64::MAX);
        ensure!(found.content == entry(life, found.index), "{} is {text:.20}", found.index);
        if let Some((before, index)) = last {
            ensure!(life == before && (found.index == index + 1 || dropped), "a gap at {index}");
        }
        (last, dropped) = (Some((life, found.index)), false);
    }
    Ok(last)
}

#[test]
fn whatever_happens_between_the_steps_of_a_reader_it_sees_a_prefix() {
    let mut random = Random(common::env_number("KEYWAL_SEED").unwrap_or(1));
    let wanted = common::env_number("KEYWAL_READER_MOMENTS").unwrap_or(400);
    let failures = Failures::default();
    let mut checked = 0;
    for (journal, preallocate) in [(0, 0), (4096, 0), (16 << 10, 0), (64 << 10, 1024)] {
        let past = Past::new(journal, preallocate, &mut random);
        let all = past.moments.len() as u64;
        for _ in 0..wanted {
            let mut at = [random.next() % all; 3];
            for step in [1, 2] {
                let most = [3, 10, 40, all][usize::try_from(random.next() % 4).unwrap()];
                at[step] = (at[step - 1] + random.next() % most).min(all - 1);
            }
            let at = at.map(|at| usize::try_from(at).unwrap());
            let facts = |at: usize| past.moments[at].image().get("META").map(<[u8]>::to_vec);
            if facts(at[0]) != facts(at[1]) {
                continue; // they are looked at again
            }
            checked += 1;
            if let Err(text) = guarded(|| past.check(at)) {
                failures.note(&text, &format!("journal {journal}, moments {at:?} of {all}"));
            }
        }
    }
    println!("{checked} times three moments");
    failures.finish();
    assert!(checked > wanted);
}
