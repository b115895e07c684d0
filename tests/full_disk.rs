//! Is a full disk an error, and nothing more?
//!
//! Small file systems are filled to the last block or the last inode; every call is tried there, space is
//! made, and the same log goes on. `cargo test` does a few cycles on a tmpfs; 1,000, half of them on ext4:
//! `tests/soak.sh full-disk`. Mounting needs root; limits for a process's files, which its children get, do
//! not.
//!
//! `KEYWAL_CYCLES`: so many, 10 if not given, and none on ext4 then; `KEYWAL_SEED`: of what is done.

mod common;

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, IoSlice, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use common::child;
use common::progress::Progress;
use common::{Check, EPOCH_MS, Failures, Random, content, env_number, guarded, header};
use keywal::fs::{Dir, File, Lock, Mapping, OpenMode, OsDir};
use keywal::{Clock, CompactionReport, EntryRef, ManualClock, Wal, WalError, WalOptions};

const RETENTION: Duration = Duration::from_secs(100);
const WINDOW: Duration = Duration::from_secs(10);
const KEYS: u64 = 5;
/// Larger than a block of any of the file systems.
const BLOCK: u64 = 4_096;
/// What is left of the larger file system before the first cycle.
const ROOM: u64 = 1 << 20;
/// What a file beside the log gives back in the end.
const HELD: u64 = 192 << 10;

/// A file system of its own, unmounted whatever happens.
struct Mount {
    at: PathBuf,
    _home: tempfile::TempDir,
}

impl Mount {
    fn new(kind: Kind) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("needs root to mount".into());
        }
        let home = tempfile::tempdir().unwrap();
        let (at, image) = (home.path().join("disk"), home.path().join("image"));
        fs::create_dir(&at).unwrap();
        let mut mount = Command::new("mount");
        match kind {
            Kind::Tmpfs => mount.args(["-t", "tmpfs", "-o", "size=1m,nr_inodes=256", "tmpfs"]),
            Kind::Ext4 => {
                fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
                run(Command::new("mkfs.ext4").args(["-q", "-m", "0", "-N", "256"]).arg(&image))?;
                mount.args(["-o", "loop"]).arg(image)
            }
        };
        run(mount.arg(&at))?;
        Ok(Self { at, _home: home })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.at));
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Tmpfs,
    Ext4,
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let errors = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {errors}")) }
}

/// Files that keep space from the log.
struct Ballast {
    dir: PathBuf,
}

impl Ballast {
    fn new(disk: &Path) -> Self {
        let dir = disk.join("ballast");
        fs::create_dir(&dir).unwrap();
        Self { dir }
    }

    fn take(&self, name: &str, bytes: u64) {
        let file = fs::File::create(self.dir.join(name)).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
    }

    /// Takes every block but about so many.
    fn take_blocks(&self, but: u64) {
        let mut file = fs::File::create(self.dir.join("blocks")).unwrap();
        let mut taken = 0;
        // The last bytes go one after the other: they may need blocks for the file's own map.
        for piece in [64 * BLOCK, BLOCK, 512] {
            while let Ok(n) = file.write(&vec![0xBA; common::oracle::index(piece)]) {
                taken += n as u64;
            }
        }
        let _ = file.sync_data();
        file.set_len(taken.saturating_sub(but * BLOCK)).unwrap();
        file.sync_data().unwrap();
    }

    /// Takes every inode but so many.
    fn take_inodes(&self, but: u64) {
        let name = |number: u64| self.dir.join(format!("inode {number}"));
        let mut taken = 0;
        while fs::File::create_new(name(taken)).is_ok() {
            taken += 1;
        }
        for number in taken.saturating_sub(but)..taken {
            fs::remove_file(name(number)).unwrap();
        }
    }

    fn give_back(&self) {
        for entry in fs::read_dir(&self.dir).unwrap() {
            let path = entry.unwrap().path();
            if !path.ends_with("lasting") {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

fn free_bytes(path: &Path) -> u64 {
    let stat = rustix::fs::statvfs(path).unwrap();
    stat.f_bavail * stat.f_frsize
}

/// How often each call of the log, and each call of the system, met a full disk.
#[derive(Debug, Default)]
struct Met([AtomicU64; Met::NAMES.len()]);

impl Met {
    const NAMES: [&str; 16] = [
        "append",
        "compact",
        "truncate",
        "remove",
        "shutdown",
        "begin",
        "begin_append",
        "sys_lock",
        "sys_meta_file",
        "sys_meta",
        "sys_segment_file",
        "sys_reserve",
        "sys_header",
        "sys_entry",
        "sys_seal",
        "sys_mark",
    ];

    fn count(&self, what: &str) {
        let at = Self::NAMES.iter().position(|name| *name == what);
        self.0[at.expect("a name of the list")].fetch_add(1, Relaxed);
    }

    fn note<T>(&self, what: &str, result: io::Result<T>) -> io::Result<T> {
        if result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::StorageFull) {
            self.count(what);
        }
        result
    }

    /// The value, unless there was no space: no other error may come from a full disk.
    fn unless_full<T>(&self, what: &str, result: Result<T, WalError>) -> Check<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(WalError::StorageFull { .. }) => {
                self.count(what);
                Ok(None)
            }
            Err(error) => Err(format!("{what}: {error}: {error:?}")),
        }
    }

    fn counts(&self) -> Vec<(&'static str, u64)> {
        Self::NAMES.iter().zip(&self.0).map(|(name, count)| (*name, count.load(Relaxed))).collect()
    }
}

/// A directory that notes which calls meet a full disk.
#[derive(Debug)]
struct Watched {
    dir: OsDir,
    met: Arc<Met>,
}

#[derive(Debug)]
struct WatchedFile {
    file: Box<dyn File>,
    met: Arc<Met>,
}

impl Dir for Watched {
    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        self.met.note("sys_lock", self.dir.lock())
    }

    fn list(&self, each: &mut dyn FnMut(&OsStr)) -> io::Result<()> {
        self.dir.list(each)
    }

    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let what = if name == "META" { "sys_meta_file" } else { "sys_segment_file" };
        let file = self.met.note(what, self.dir.open(name, mode))?;
        Ok(Box::new(WatchedFile { file, met: Arc::clone(&self.met) }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.dir.remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        self.dir.sync()
    }

    fn random(&self) -> u64 {
        self.dir.random()
    }
}

/// What is being written, by its first bytes: sections 2, 3 and 5 of the format.
fn written(parts: &[IoSlice<'_>]) -> &'static str {
    match parts.first().map_or(&[][..], |part| part) {
        [b'K', b'E', b'Y', b'W', b'A', b'L', ..] => "sys_header",
        [b'K', b'E', b'Y', b'W', b'M', ..] => "sys_meta",
        [0xF7, 0x4B, 0x57, 0xE5, 4, ..] => "sys_mark",
        [0xF7, 0x4B, 0x57, 0xE5, 12, ..] => "sys_seal",
        _ => "sys_entry",
    }
}

impl File for WatchedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.met.note(written(parts), self.file.write_at(parts, offset))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.met.note("sys_reserve", self.file.allocate(bytes))
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.file.drop_cache()
    }

    fn map(&self, bytes: usize) -> io::Result<Box<dyn Mapping>> {
        self.file.map(bytes)
    }
}

/// An entry that was acknowledged.
struct Stored {
    serial: u64,
    bytes: usize,
    at_ms: u64,
    reference: EntryRef,
}

/// What a key holds.
#[derive(Default)]
struct KeyModel {
    first: u64,
    entries: VecDeque<Stored>,
    /// One that was dropped.
    dropped: Option<EntryRef>,
}

impl KeyModel {
    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// The log says that it begins at `first`. `may_go`: whether an entry may have been dropped.
    fn drop_before(&mut self, first: u64, may_go: impl Fn(u64, &Stored) -> bool) -> Check {
        while self.first < first {
            let Some(oldest) = self.entries.pop_front() else {
                return Err(format!("begins at {first}, behind its end"));
            };
            ensure!(may_go(self.first, &oldest), "entry {} was dropped too early", self.first);
            self.dropped = Some(oldest.reference);
            self.first += 1;
        }
        ensure!(self.first == first, "begins at {first} again, after {}", self.first);
        Ok(())
    }
}

/// A log on a small disk.
struct World {
    ballast: Ballast,
    disk: PathBuf,
    met: Arc<Met>,
    random: Random,
    clock: Arc<ManualClock>,
    wal: Wal,
    keys: Vec<KeyModel>,
    serial: u64,
}

fn options(clock: &Arc<ManualClock>, reserve: u64) -> WalOptions {
    WalOptions::with_retention(RETENTION)
        .segments_per_retention_period(10)
        .max_segment_bytes(40_000)
        .max_entry_bytes(20_000)
        .max_open_files(3)
        .preallocate_bytes(reserve)
        .clock(clock.clone())
}

fn open(dir: &Path, met: &Arc<Met>, options: WalOptions) -> Result<Wal, WalError> {
    let dir = OsDir::open(dir, 0o700, 0o600).map_err(|source| WalError::Io {
        path: dir.into(),
        operation: "open",
        source,
    })?;
    Wal::open_in(Arc::new(Watched { dir, met: Arc::clone(met) }), options)
}

fn key(number: usize) -> String {
    format!("key {number}")
}

impl World {
    fn new(disk: &Path, met: &Arc<Met>, seed: u64) -> Self {
        let clock = Arc::new(ManualClock::new(EPOCH_MS));
        let ballast = Ballast::new(disk);
        if let surplus @ 1.. = free_bytes(disk).saturating_sub(ROOM) {
            ballast.take("lasting", surplus);
        }
        let wal = open(&disk.join("log"), met, options(&clock, 0)).unwrap();
        let keys = (0..KEYS).map(|_| KeyModel::default()).collect();
        let (disk, met, random) = (disk.to_owned(), Arc::clone(met), Random(seed));
        Self { ballast, disk, met, random, clock, wal, keys, serial: 0 }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random.next() % limit
    }

    fn some_key(&mut self) -> usize {
        common::oracle::index(self.below(KEYS))
    }

    /// Fills the disk, tries everything, makes space, goes on.
    fn cycle(&mut self) -> Check {
        self.ballast.take("held", HELD);
        while self.append_something()? {
            self.clock.advance(Duration::from_millis(100));
        }
        if self.below(4) == 0 {
            self.ballast.take_inodes(0);
        } else {
            self.ballast.take_blocks(0);
        }
        self.try_everything()?;
        self.verify()?;
        if self.below(3) == 0 {
            self.reopen()?;
        }
        self.make_space()?;
        if self.below(4) == 0 {
            self.reopen()?;
        }
        for number in 0..self.keys.len() {
            let appended = self.append(number, &[700], true)?;
            ensure!(appended, "no space, although there is: {} bytes", free_bytes(&self.disk));
        }
        self.verify()?;
        self.ballast.give_back();
        if free_bytes(&self.disk) < 2 * HELD {
            for number in 0..self.keys.len() {
                self.remove(number)?;
                ensure!(self.keys[number].entries.is_empty(), "no space to remove a key");
            }
        }
        self.begin_anew()
    }

    /// One append of a random kind; whether there was space.
    fn append_something(&mut self) -> Check<bool> {
        let number = self.some_key();
        let sizes = match self.below(8) {
            0 => vec![common::oracle::index(self.below(18_000))],
            1 | 2 => vec![10, 3_000, 400],
            _ => vec![common::oracle::index(self.below(4_000))],
        };
        let durable = self.below(8) == 0;
        self.append(number, &sizes, durable)
    }

    /// Appends entries of these sizes together; whether there was space.
    fn append(&mut self, number: usize, sizes: &[usize], durable: bool) -> Check<bool> {
        let first = self.serial + 1;
        self.serial += sizes.len() as u64;
        let serials = first..=self.serial;
        let entries: Vec<(Option<Bytes>, Bytes)> =
            serials.clone().zip(sizes).map(|(n, bytes)| (header(n), content(n, *bytes))).collect();
        let result = match &entries[..] {
            [(header, content)] => self
                .wal
                .append_entry(key(number), header.clone(), content, durable)
                .map(|only| vec![only]),
            _ => self.wal.append_batch(key(number), entries, durable),
        };
        let Some(references) = self.met.unless_full("append", result)? else { return Ok(false) };
        let at_ms = self.clock.now_ms();
        for ((serial, bytes), reference) in serials.zip(sizes).zip(references) {
            self.keys[number].entries.push_back(Stored { serial, bytes: *bytes, at_ms, reference });
        }
        Ok(true)
    }

    /// With no block or no inode left, every call works or says that the disk is full.
    fn try_everything(&mut self) -> Check {
        let number = self.some_key();
        self.fill_block(number)?;
        match self.below(3) {
            0 => self.clock.advance(WINDOW),
            1 => self.clock.advance(RETENTION + WINDOW),
            _ => {}
        }
        // A seal, a successor, an entry.
        self.append(number, &[1], false)?;
        for number in 0..self.keys.len() {
            self.append(number, &[300, 9_000], true)?;
            self.append(number, &[8_000], false)?;
        }
        let newcomer = self.wal.append_entry("newcomer", None, "x", true);
        if self.met.unless_full("append", newcomer)?.is_some() {
            self.met.unless_full("remove", self.wal.remove_key("newcomer"))?;
        }
        self.wal.sync().map_err(|error| format!("sync: {error}: {error:?}"))?;
        self.compact()?;
        Ok(())
    }

    /// Makes the newest segment of a key end with a block, as far as there is room in that.
    fn fill_block(&mut self, number: usize) -> Check {
        let segments = self.wal.segments(key(number)).map_err(|error| error.to_string())?;
        let end = segments.last().map_or(0, |segment| segment.bytes);
        let left = end.next_multiple_of(BLOCK) - end;
        let frame = header(self.serial + 1).map_or(0, |header| header.len()) + 32;
        if let Some(bytes) = common::oracle::index(left).checked_sub(frame) {
            self.append(number, &[bytes], false)?;
        }
        Ok(())
    }

    /// Whoever wants to make space has these ways.
    fn make_space(&mut self) -> Check {
        let before = free_bytes(&self.disk);
        match self.below(4) {
            0 => {
                self.clock.advance(RETENTION + WINDOW);
                self.compact()?;
                for number in 0..self.keys.len() {
                    let left = self.wal.segments(key(number)).map_err(|error| error.to_string())?;
                    ensure!(left.len() <= 1, "compact leaves {} expired segments", left.len());
                }
            }
            1 => (0..self.keys.len()).try_for_each(|number| self.truncate(number))?,
            2 => {
                for number in 0..self.keys.len() {
                    self.remove(number)?;
                }
            }
            _ => {}
        }
        if free_bytes(&self.disk) < before + 32 * BLOCK {
            self.ballast.give_back();
        }
        Ok(())
    }

    fn compact(&mut self) -> Check {
        let report = self.wal.compact().map_err(|error| format!("compact: {error}: {error:?}"))?;
        let CompactionReport { refused, failures, .. } = report;
        ensure!(refused.is_none(), "compact refused: {refused:?}");
        for failure in failures {
            ensure!(failure.what.ends_with("no space left"), "compact: {}", failure.what);
            self.met.count("compact");
        }
        let now_ms = self.clock.now_ms();
        let retention_ms = u64::try_from(RETENTION.as_millis()).unwrap();
        for (number, model) in self.keys.iter_mut().enumerate() {
            let first = self.wal.first_index(key(number)).map_err(|error| error.to_string())?;
            model.drop_before(first, |_, entry| entry.at_ms + retention_ms <= now_ms)?;
        }
        Ok(())
    }

    fn truncate(&mut self, number: usize) -> Check {
        let model = &mut self.keys[number];
        let index = model.next().saturating_sub(self.random.next() % 3);
        self.met.unless_full("truncate", self.wal.truncate_before(key(number), index))?;
        let first = self.wal.first_index(key(number)).map_err(|error| error.to_string())?;
        model.drop_before(first, |at, _| at < index)
    }

    fn remove(&mut self, number: usize) -> Check {
        if self.met.unless_full("remove", self.wal.remove_key(key(number)))?.is_some() {
            let model = &mut self.keys[number];
            let dropped = model.entries.back().map(|entry| entry.reference).or(model.dropped);
            *model = KeyModel { dropped, ..KeyModel::default() };
        }
        Ok(())
    }

    /// As after a shutdown, which may find no space, or as after a kill. Opening needs none.
    fn reopen(&mut self) -> Check {
        if self.below(2) == 0 {
            self.met.unless_full("shutdown", self.wal.shutdown())?;
        }
        let reserve = [0, 0, 3 * BLOCK][common::oracle::index(self.below(3))];
        let elsewhere = tempfile::tempdir().unwrap();
        // Lets go of the directory first.
        self.wal = Wal::new(elsewhere.path(), WalOptions::default()).unwrap();
        self.wal = open(&self.disk.join("log"), &self.met, options(&self.clock, reserve))
            .map_err(|error| format!("reopen: {error}: {error:?}"))?;
        let report = self.wal.recovery_report();
        ensure!(report.damaged.is_empty(), "false damage: {:?}", report.damaged);
        ensure!(report.torn.is_empty(), "a refused entry was not cut off: {:?}", report.torn);
        self.verify()
    }

    /// What was acknowledged is there, and nothing else.
    fn verify(&mut self) -> Check {
        let wrong = |error: WalError| format!("reading: {error}: {error:?}");
        for (number, model) in self.keys.iter().enumerate() {
            let next = self.wal.next_index(key(number)).map_err(wrong)?;
            ensure!(next == model.next(), "next index {next} instead of {}", model.next());
            let mut stored = model.entries.iter();
            for (at, entry) in (model.first..).zip(self.wal.entries(key(number)).map_err(wrong)?) {
                let entry = entry.map_err(wrong)?;
                let Some(stored) = stored.next() else {
                    return Err(format!("entry {at} invented"));
                };
                ensure!(
                    entry.index == at
                        && entry.reference == stored.reference
                        && entry.header == header(stored.serial)
                        && entry.content == content(stored.serial, stored.bytes),
                    "entry {at} is altered: {entry:?}"
                );
            }
            ensure!(stored.next().is_none(), "an acknowledged entry is lost");
            if let Some(Stored { serial, bytes, reference, .. }) = model.entries.back() {
                let read = self.wal.read_entry_at(*reference).map_err(wrong)?;
                ensure!(read == content(*serial, *bytes), "the last entry is altered");
            }
            let dropped = model.dropped.map(|reference| self.wal.read_entry_at(reference));
            let expired = dropped.is_none_or(|result| matches!(result, Err(WalError::Expired)));
            ensure!(expired, "a dropped entry is not expired");
        }
        Ok(())
    }

    /// A second log begins where there is no space, or space for its first files only.
    fn begin_anew(&mut self) -> Check {
        let dir = self.disk.join("new");
        fs::create_dir(&dir).unwrap();
        let left = self.below(5);
        match self.below(2) {
            0 => self.ballast.take_blocks(left),
            _ => self.ballast.take_inodes(left),
        }
        let reopen = || open(&dir, &self.met, options(&self.clock, 0));
        let append = |wal: Wal| wal.append_entry("k", None, content(1, 5_000), true);
        let begun = self.met.unless_full("begin", reopen())?;
        let kept = begun
            .map(|wal| self.met.unless_full("begin_append", append(wal)))
            .transpose()?
            .flatten();
        self.ballast.give_back();
        let wal = reopen().map_err(|error| format!("begin again: {error}: {error:?}"))?;
        let damaged = &wal.recovery_report().damaged;
        ensure!(damaged.is_empty(), "false damage: {damaged:?}");
        let entries = wal.len("k").map_err(|error| error.to_string())?;
        ensure!(entries == u64::from(kept.is_some()), "{entries} entries, acknowledged {kept:?}");
        append(wal).map_err(|error| format!("append again: {error}: {error:?}"))?;
        fs::remove_dir_all(&dir).unwrap();
        Ok(())
    }
}

#[test]
fn a_full_disk_is_an_error_and_nothing_more() {
    let seed = env_number("KEYWAL_SEED").unwrap_or(7);
    let cycles = env_number("KEYWAL_CYCLES");
    let runs = match cycles {
        Some(cycles) => vec![(Kind::Tmpfs, cycles - cycles / 2), (Kind::Ext4, cycles / 2)],
        None => vec![(Kind::Tmpfs, 10)],
    };
    println!("KEYWAL_SEED={seed}");
    let total = runs.iter().map(|(_, cycles)| cycles).sum();
    let progress = Progress::new("full-disk", "cycles", total);
    let (met, failures) = (Arc::new(Met::default()), Failures::default());
    let mut entries = 0;
    for (kind, cycles) in runs {
        let mount = match Mount::new(kind) {
            Ok(mount) => mount,
            Err(reason) => {
                println!("skipped: {reason}");
                continue;
            }
        };
        let mut world = World::new(&mount.at, &met, seed);
        for cycle in 0..cycles {
            if let Err(what) = guarded(|| world.cycle()) {
                failures.note(&what, &format!("{kind:?}, KEYWAL_SEED={seed}, cycle {cycle}"));
                break;
            }
            progress.step(|| format!("{:?}", met.counts()));
        }
        entries += world.serial;
    }
    let mut numbers = vec![("seed", seed), ("cycles", progress.done()), ("entries", entries)];
    numbers.extend(met.counts());
    progress.figures(&numbers, &failures);
    failures.finish();
    if cycles.is_some_and(|cycles| cycles >= 1_000) {
        let missed: Vec<_> = met.counts().into_iter().filter(|(_, count)| *count == 0).collect();
        assert!(missed.is_empty(), "never met a full disk: {missed:?}");
    }
}

/// What a file of the children below may grow to.
const LIMIT: u64 = 30_000;

fn limit_files(bytes: Option<u64>) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum }).unwrap();
}

fn numbered(number: u64) -> Bytes {
    content(number, 1_500)
}

/// Not a test of its own: appends until its file may not grow, and says what has returned.
#[test]
fn appender_with_a_limit() {
    let Some(dir) = child::started_as("appender_with_a_limit") else { return };
    let wal = Wal::new(dir, WalOptions::default().journal_bytes(0)).unwrap();
    limit_files(Some(LIMIT));
    for number in 0.. {
        wal.append_entry("k", None, numbered(number), false).unwrap();
        println!("ack");
    }
}

/// What a Rust program does by default about `SIGXFSZ`: it dies.
#[test]
fn a_signal_for_a_file_too_large_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let child = child::command("appender_with_a_limit", dir.path()).output().unwrap();
    assert_eq!(child.status.signal(), Some(25), "{child:?}");
    let acked = String::from_utf8(child.stdout).unwrap().matches("ack").count();
    assert!(acked > 10, "{acked}");
    let wal = Wal::new(dir.path(), WalOptions::default().journal_bytes(0)).unwrap();
    let report = wal.recovery_report();
    assert_eq!((report.damaged.len(), report.torn.len()), (0, 1), "{report:?}");
    let stored: Vec<Bytes> = wal.enumerate_records("k").unwrap().collect::<Result<_, _>>().unwrap();
    assert!(stored.into_iter().eq((0..acked as u64).map(numbered)));
}

/// Not a test of its own: has a file that may not grow, and a signal that it ignores.
#[test]
fn survivor_of_a_limit() {
    let Some(dir) = child::started_as("survivor_of_a_limit") else { return };
    let wal = Wal::new(&dir, WalOptions::default()).unwrap();
    limit_files(Some(LIMIT));
    let mut stored = 0;
    let append = |number| wal.append_entry("k", None, numbered(number), number % 3 == 0);
    let refused = loop {
        match append(stored) {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    let WalError::StorageFull { source, .. } = &refused else { panic!("{refused:?}") };
    assert_eq!(source.kind(), io::ErrorKind::FileTooLarge);
    assert_eq!(wal.len("k").unwrap(), stored);
    wal.append_entry("other", None, "has a file of its own", true).unwrap();
    assert!(matches!(append(stored), Err(WalError::StorageFull { .. })));
    limit_files(None);
    append(stored).unwrap();
    drop(wal);
    let wal = Wal::new(&dir, WalOptions::default()).unwrap();
    assert!(wal.recovery_report().torn.is_empty(), "{:?}", wal.recovery_report());
    let all: Vec<Bytes> = wal.enumerate_records("k").unwrap().collect::<Result<_, _>>().unwrap();
    assert!(all.into_iter().eq((0..=stored).map(numbered)));
    println!("survived");
}

#[test]
fn a_file_too_large_is_a_full_disk_where_the_signal_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let child = child::ignoring("XFSZ", "survivor_of_a_limit", dir.path()).output().unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("survived"), "{child:?}");
}
