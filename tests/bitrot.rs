//! Does any damage to stored bytes go unnoticed?
//!
//! Sample directories, one closed and one left by a kill, are damaged in every way: bits flipped, sectors
//! zeroed, garbled or written to the wrong place, files removed, cut, doubled, swapped. Whatever is then
//! read must be what was stored; what was not hit must be read; what is not read must have been reported.
//! `cargo test` does a part of it; all of it, on samples of 64 KiB: `tests/soak.sh bitrot`, which sets
//! `KEYWAL_FLIPS=all`.

mod common;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use common::oracle::index;
use common::progress::Progress;
use common::{Check, EPOCH_MS, Failures, Random, content, guarded, header, on_all_cores};
use keywal::fs::sim::{Image, SimDir};
use keywal::{Entry, ManualClock, Wal, WalError, WalOptions};

const KEYS: [&str; 3] = ["orders", "x", "payments/eu"];
const SECTOR: usize = 512;

fn open(image: &Image, clock: &Arc<ManualClock>) -> Result<Wal, WalError> {
    let options = WalOptions::with_retention(Duration::from_secs(1_000))
        .journal_bytes(0)
        .clock(clock.clone());
    Wal::open_in(Arc::new(SimDir::from_image(image, 1)), options)
}

/// An entry, and where its frame is.
struct Stored {
    entry: Entry,
    file: String,
    frame: Range<usize>,
    /// Where the batch starts that it belongs to.
    batch: usize,
    /// What its frame says of how much was durable.
    watermark: usize,
}

struct Sample {
    image: Image,
    clock: Arc<ManualClock>,
    /// Oldest first.
    keys: Vec<(&'static str, Vec<Stored>)>,
    /// The segment that each key appends to, where the directory was not closed.
    active: Vec<String>,
}

impl Sample {
    /// Three segments of each key, with so many appends in each, of contents up to so many bytes.
    fn new(closed: bool, appends: u64, largest: u64, seed: u64) -> Self {
        let clock = Arc::new(ManualClock::new(EPOCH_MS));
        let dir = SimDir::new(seed);
        let options = WalOptions::with_retention(Duration::from_secs(1_000))
            .journal_bytes(0)
            .clock(clock.clone());
        let wal = Wal::open_in(Arc::new(dir.clone()), options).unwrap();
        let mut random = Random(seed);
        let mut serial = 0;
        for segment in 0..3 {
            for (key, number) in KEYS.iter().flat_map(|key| (0..appends).map(move |n| (key, n))) {
                let count = if number % 5 == 3 { 3 } else { 1 };
                let batch = (0..count).map(|_| {
                    serial += 1;
                    (header(serial), content(serial, index(random.next() % largest)))
                });
                // The last ones share a sync.
                let durable = number % 3 == 0 && (segment < 2 || number + 3 < appends);
                wal.append_batch(key, batch.collect::<Vec<_>>(), durable).unwrap();
            }
            clock.advance(Duration::from_secs(100));
        }
        wal.sync().unwrap();
        let keys = KEYS.map(|key| (key, stored(&wal, key, &dir.image()))).into();
        let newest = |key: &&str| file_name(&wal.segments(key).unwrap().last().unwrap().path);
        let active = if closed { Vec::new() } else { KEYS.iter().map(newest).collect() };
        if closed {
            wal.shutdown().unwrap();
        }
        Self { image: dir.image(), clock, keys, active }
    }

    fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.image.files()
    }

    fn segments(&self) -> impl Iterator<Item = &str> {
        self.files().map(|(name, _)| name).filter(|name| name.contains('-'))
    }

    /// Whether the segment is the first or the last of its key.
    fn is_at_an_end(&self, name: &str) -> bool {
        let ends = |entries: &[Stored]| {
            entries.first().is_some_and(|first| first.file == name)
                || entries.last().is_some_and(|last| last.file == name)
        };
        self.keys.iter().any(|(_, entries)| ends(entries))
    }

    /// Where the damage starts that looks like an unfinished write: behind it, nothing in the segment that
    /// is still intact says that it had been durable. The honest limit, for the active segment of a
    /// directory that was not closed.
    fn torn_from(&self, image: &Image, entries: &[Stored]) -> Option<(String, usize)> {
        let file = &entries.last()?.file;
        if !self.active.contains(file) {
            return None;
        }
        let frames = || entries.iter().filter(|stored| stored.file == *file);
        let torn = frames().find(|bad| {
            let proves = |behind: &Stored| {
                behind.frame.start > bad.frame.start
                    && behind.watermark > bad.frame.start
                    && self.is_same(image, file, behind.frame.start..behind.frame.start + 32)
            };
            !self.is_intact(image, bad) && !frames().any(proves)
        })?;
        Some((file.clone(), torn.batch))
    }

    /// Whether the header of a segment is there, or its copy, and all of the file up to the first frame.
    fn has_head(&self, image: &Image, file: &str) -> bool {
        let header = header_bytes(self.image.get(file).unwrap());
        let copy = header.next_multiple_of(SECTOR);
        let whole = image.get(file).is_some_and(|bytes| bytes.len() >= copy + header);
        whole
            && (self.is_same(image, file, 0..header)
                || self.is_same(image, file, copy..copy + header))
    }

    fn is_intact(&self, image: &Image, stored: &Stored) -> bool {
        self.is_same(image, &stored.file, stored.frame.clone())
    }

    fn is_same(&self, image: &Image, file: &str, bytes: Range<usize>) -> bool {
        let now = image.get(file).and_then(|body| body.get(bytes.clone()));
        now.is_some() && now == self.image.get(file).and_then(|body| body.get(bytes))
    }

    fn is_unclean(&self) -> bool {
        !self.active.is_empty()
    }

    /// Opens a damaged image and checks everything that can be read. Returns whether anything was
    /// noticed, and how many entries passed for an unfinished write.
    fn check(&self, image: &Image, unnoticeable: bool) -> Check<(bool, u64)> {
        let wal = match open(image, &self.clock) {
            Ok(wal) => wal,
            Err(WalError::UnsupportedVersion { .. } | WalError::Corrupted { .. }) => {
                return Ok((true, 0));
            }
            Err(other) => return Err(format!("open: {other}: {other:?}")),
        };
        let report = wal.recovery_report();
        let damaged = !report.damaged.is_empty();
        let mut noticed = damaged || !report.ignored.is_empty() || !report.torn.is_empty();
        let mut torn = 0;
        for (key, stored) in &self.keys {
            let (found, errors) = read(&wal, key)?;
            let torn_from = self.torn_from(image, stored);
            let mut rest = found.iter().peekable();
            for Stored { entry, file, frame, batch, .. } in stored {
                if rest.next_if_eq(&entry).is_some() {
                    continue;
                }
                let at = format!("entry {} of {key}", entry.index);
                let is_torn =
                    torn_from.as_ref().is_some_and(|(f, from)| f == file && batch >= from);
                ensure!(
                    is_torn
                        || !self.has_head(image, file)
                        || !self.is_same(image, file, frame.clone()),
                    "{at} was not hit and cannot be read"
                );
                torn += u64::from(is_torn);
                let silent = || {
                    // Where nothing is left, there is nothing to report.
                    let (file, from) = torn_from.as_ref()?;
                    let left = image.get(file)?.get(*from..)?;
                    Some(left.iter().all(|byte| *byte == 0))
                };
                ensure!(
                    errors > 0
                        || damaged
                        || unnoticeable
                        || is_torn && (noticed || silent().unwrap_or(true)),
                    "{at} is lost in silence"
                );
            }
            ensure!(rest.next().is_none(), "an entry of {key} is invented, altered or misplaced");
            noticed |= errors > 0;
            let was_hit = |file: &str| image.get(file) != self.image.get(file);
            for Stored { entry, .. } in stored.iter().filter(|stored| was_hit(&stored.file)) {
                match wal.read_entry(entry.reference) {
                    Ok(read) => ensure!(read == *entry, "a reference gives {read:?}"),
                    Err(WalError::Corrupted { .. } | WalError::UnsupportedVersion { .. }) => {
                        noticed = true;
                    }
                    Err(WalError::Expired | WalError::InvalidRef) if !found.contains(entry) => {}
                    Err(other) => return Err(format!("a reference: {other}: {other:?}")),
                }
            }
        }
        Ok((noticed, torn))
    }
}

fn header_bytes(segment: &[u8]) -> usize {
    index(u32::from_le_bytes(segment[12..16].try_into().unwrap()).into())
}

/// What can be read of a key, and how often there was damage on the way.
fn read(wal: &Wal, key: &str) -> Check<(Vec<Entry>, usize)> {
    let mut found = Vec::new();
    let mut errors = 0;
    let mut damaged = |error| match error {
        WalError::Corrupted { .. } | WalError::UnsupportedVersion { .. } => {
            errors += 1;
            Ok(())
        }
        other => Err(format!("reading {key}: {other}: {other:?}")),
    };
    match wal.entries(key) {
        Ok(entries) => {
            for result in entries {
                match result {
                    Ok(entry) => found.push(entry),
                    Err(error) => damaged(error)?,
                }
            }
        }
        Err(error) => damaged(error)?,
    }
    Ok((found, errors))
}

fn file_name(path: &std::path::Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// The entries of a key, with what section 3 of the format says of their frames.
fn stored(wal: &Wal, key: &str, image: &Image) -> Vec<Stored> {
    let segments = wal.segments(key).unwrap();
    let mut batch = None;
    let entries = wal.entries(key).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let at = segments.iter().find(|s| s.sequence == entry.reference.sequence_number).unwrap();
        let file = file_name(&at.path);
        let start = index(entry.reference.offset);
        let header = entry.header.as_ref().map_or(0, bytes::Bytes::len);
        let frame = start..start + 32 + header + entry.content.len();
        let bytes = &image.get(&file).unwrap()[frame.clone()];
        let watermark = u32::from_le_bytes(bytes[20..24].try_into().unwrap());
        let batch_start = *batch.get_or_insert(start);
        let continues = bytes[4] & 1 != 0;
        batch = batch.filter(|_| continues);
        Stored { entry, file, frame, batch: batch_start, watermark: index(watermark.into()) }
    });
    entries.collect()
}

#[derive(Debug, Clone)]
enum Damage {
    Flip {
        file: String,
        bit: usize,
    },
    Zero {
        file: String,
        sector: usize,
    },
    Garble {
        file: String,
        sector: usize,
    },
    /// The right bytes of a sector, at a wrong place.
    Misdirect {
        from: (String, usize),
        to: (String, usize),
    },
    Cut {
        file: String,
        length: usize,
    },
    Remove {
        file: String,
    },
    /// The file has another name, too.
    Double {
        file: String,
        name: String,
    },
    Swap {
        file: String,
        other: String,
    },
    /// The file comes from another directory of the same program and keys.
    Foreign {
        file: String,
        bytes: Vec<u8>,
    },
}

impl Damage {
    const KINDS: [&str; 9] = [
        "flips",
        "zeroed",
        "garbled",
        "misdirected",
        "cuts",
        "removed",
        "doubled",
        "swapped",
        "foreign",
    ];

    fn kind(&self) -> usize {
        match self {
            Self::Flip { .. } => 0,
            Self::Zero { .. } => 1,
            Self::Garble { .. } => 2,
            Self::Misdirect { .. } => 3,
            Self::Cut { .. } => 4,
            Self::Remove { .. } => 5,
            Self::Double { .. } => 6,
            Self::Swap { .. } => 7,
            Self::Foreign { .. } => 8,
        }
    }

    /// Every damage there can be; of flips, cuts and misdirected sectors, one in `step`.
    fn all(sample: &Sample, other: &Sample, step: usize) -> Vec<Self> {
        let mut all = Vec::new();
        let sectors = |bytes: &[u8]| 0..bytes.len().div_ceil(SECTOR);
        for (name, bytes) in sample.files() {
            let file = || name.to_owned();
            let bits = (0..bytes.len() * 8).step_by(step);
            all.extend(bits.map(|bit| Self::Flip { file: file(), bit }));
            all.extend(sectors(bytes).map(|sector| Self::Zero { file: file(), sector }));
            all.extend(sectors(bytes).map(|sector| Self::Garble { file: file(), sector }));
            let lengths = (0..bytes.len()).step_by(step);
            all.extend(lengths.map(|length| Self::Cut { file: file(), length }));
            all.push(Self::Remove { file: file() });
            for (other, other_bytes) in sample.files() {
                let from = || sectors(other_bytes).map(|sector| (other.to_owned(), sector));
                // The last one is behind the end.
                let to = (0..=sectors(bytes).end).map(|sector| (file(), sector));
                let pairs = to.flat_map(|to| from().map(move |from| (from, to.clone())));
                let pairs = pairs.step_by(step);
                all.extend(pairs.map(|(from, to)| Self::Misdirect { from, to }));
            }
        }
        for name in sample.segments() {
            let file = || name.to_owned();
            for other in sample.segments().filter(|other| *other != name) {
                all.push(Self::Double { file: file(), name: other.to_owned() });
                all.push(Self::Swap { file: file(), other: other.to_owned() });
            }
            for (part, with) in [(0, "label"), (1, "0123456789abcdef"), (2, "0099.log")] {
                let mut parts: Vec<&str> = name.split('-').collect();
                parts[part] = with;
                all.push(Self::Double { file: file(), name: parts.join("-") });
            }
            let bytes = other.image.get(name).expect("the same names").to_vec();
            all.push(Self::Foreign { file: file(), bytes });
        }
        all
    }

    /// The damaged image; `None` if that is the image as it was.
    fn apply(&self, image: &Image) -> Option<Image> {
        let mut damaged = image.clone();
        let body = |file: &str| image.get(file).unwrap().to_vec();
        match self {
            Self::Flip { file, bit } => {
                let mut bytes = body(file);
                bytes[bit / 8] ^= 1 << (bit % 8);
                damaged.set(file, bytes);
            }
            Self::Zero { file, sector } => {
                let bytes = part(image, file, *sector).len();
                damaged.set(file, overwritten(body(file), *sector, &vec![0; bytes]));
            }
            Self::Garble { file, sector } => {
                let noise = content(2 + 5 * *sector as u64, part(image, file, *sector).len());
                damaged.set(file, overwritten(body(file), *sector, &noise));
            }
            Self::Misdirect { from, to } => {
                let bytes = part(image, &from.0, from.1);
                damaged.set(&to.0, overwritten(body(&to.0), to.1, bytes));
            }
            Self::Cut { file, length } => damaged.set(file, &body(file)[..*length]),
            Self::Remove { file } => drop(damaged.remove(file)),
            Self::Double { file, name } => damaged.set(name, body(file)),
            Self::Swap { file, other } => {
                damaged.set(file, body(other));
                damaged.set(other, body(file));
            }
            Self::Foreign { file, bytes } => damaged.set(file, bytes.clone()),
        }
        (damaged != *image).then_some(damaged)
    }

    /// Whether nobody can notice: after an unclean stop, that the first or the last segment is missing.
    fn is_unnoticeable(&self, sample: &Sample) -> bool {
        matches!(self, Self::Remove { file } if sample.is_unclean() && sample.is_at_an_end(file))
    }

    /// Whether it has to be noticed even if it costs nothing: a segment is where none belongs.
    fn is_remarkable(&self) -> bool {
        matches!(self, Self::Double { .. } | Self::Swap { .. } | Self::Foreign { .. })
    }
}

fn part<'a>(image: &'a Image, file: &str, sector: usize) -> &'a [u8] {
    image.get(file).unwrap().chunks(SECTOR).nth(sector).unwrap()
}

fn overwritten(mut bytes: Vec<u8>, sector: usize, with: &[u8]) -> Vec<u8> {
    let start = sector * SECTOR;
    bytes.resize(bytes.len().max(start + with.len()), 0);
    bytes[start..start + with.len()].copy_from_slice(with);
    bytes
}

/// What became of the damages of one kind.
#[derive(Default)]
struct Counts {
    done: [AtomicU64; Damage::KINDS.len()],
    noticed: AtomicU64,
    /// Nobody noticed, and nothing was lost.
    harmless: AtomicU64,
    /// It passed for an unfinished write, as the honest limit has it.
    torn: AtomicU64,
}

fn try_one(sample: &Sample, damage: &Damage, counts: &Counts) -> Check {
    let Some(image) = damage.apply(&sample.image) else { return Ok(()) };
    let (noticed, torn) = sample.check(&image, damage.is_unnoticeable(sample))?;
    ensure!(noticed || !damage.is_remarkable(), "nobody noticed");
    counts.done[damage.kind()].fetch_add(1, Relaxed);
    let outcome = match (torn, noticed) {
        (1.., _) => &counts.torn,
        (0, true) => &counts.noticed,
        (0, false) => &counts.harmless,
    };
    outcome.fetch_add(1, Relaxed);
    Ok(())
}

#[test]
fn no_damage_goes_unnoticed() {
    let all = std::env::var("KEYWAL_FLIPS").is_ok_and(|flips| flips == "all");
    let (appends, largest, step) = if all { (10, 900, 1) } else { (5, 200, 149) };
    let samples = [true, false].map(|closed| Sample::new(closed, appends, largest, 1));
    let others = [true, false].map(|closed| Sample::new(closed, appends, largest, 2));
    let mut cases = Vec::new();
    for (sample, other) in samples.iter().zip(&others) {
        let bytes: usize = sample.files().map(|(_, bytes)| bytes.len()).sum();
        let entries: usize = sample.keys.iter().map(|(_, entries)| entries.len()).sum();
        println!("a sample of {bytes} bytes, {entries} entries, closed: {}", !sample.is_unclean());
        assert!(!all || bytes >= 64 << 10);
        assert_eq!(sample.check(&sample.image, false), Ok((false, 0)), "nothing is damaged");
        let damages = Damage::all(sample, other, step);
        cases.extend(damages.into_iter().map(|damage| (sample, damage)));
    }
    let progress = Progress::new("bitrot", "damages", cases.len() as u64);
    let (counts, failures) = (Counts::default(), Failures::default());
    on_all_cores(cases.len(), |at| {
        let (sample, damage) = &cases[at];
        let result = guarded(|| try_one(sample, damage, &counts));
        progress.step(|| format!("{} failures", failures.count()));
        result.map_or_else(
            |what| failures.note(&what, &format!("{damage:?}, closed: {}", !sample.is_unclean())),
            |()| true,
        )
    });
    let of = |count: &AtomicU64| count.load(Relaxed);
    let mut numbers: Vec<(&str, u64)> =
        Damage::KINDS.iter().copied().zip(counts.done.iter().map(of)).collect();
    numbers.extend([("noticed", of(&counts.noticed)), ("harmless", of(&counts.harmless))]);
    numbers.extend([("torn", of(&counts.torn)), ("silent", failures.count())]);
    progress.figures(&numbers, &failures);
    failures.finish();
}
