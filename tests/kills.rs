//! Is everything that was acknowledged there after `kill -9`, at any moment?
//!
//! A child process works on a directory and says before and after each call what it does, until it is
//! killed; the next one goes on in the same directory. 10,000 lives: `tests/soak.sh kills`.
//!
//! `KEYWAL_KILLS`: so many, 15 if not given; `KEYWAL_SEED`: of what is done; `TMPDIR`: where.

mod common;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use common::oracle::index;
use common::progress::Progress;
use common::{Check, EPOCH_MS, Failures, Random, child, content, env_number, guarded, header};
use keywal::{Clock, Durability, ManualClock, Wal, WalOptions};

const KEYS: u64 = 5;
const RETENTION: Duration = Duration::from_secs(10);
const WINDOW: Duration = Duration::from_secs(1);
/// What tells a child how to spend its life.
const LIFE: &str = "KEYWAL_TEST_LIFE";
const LIFE_SEED: &str = "KEYWAL_TEST_LIFE_SEED";
const NOW_MS: &str = "KEYWAL_TEST_NOW_MS";
/// No life has more entries.
const SERIALS: u64 = 1_000_000;

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}

fn key(number: u64) -> String {
    format!("key {number}")
}

fn entry(serial: u64) -> (Option<Bytes>, Bytes) {
    (header(serial), content(serial, index(common::mix(serial) % 700)))
}

fn open(dir: &Path, clock: &Arc<ManualClock>, life: u64) -> Wal {
    let options = WalOptions::with_retention(RETENTION)
        .segments_per_retention_period(10)
        .max_segment_bytes(16_384)
        .max_entry_bytes(4_096)
        .max_open_files(2)
        .preallocate_bytes([0, 8_192][index(life % 2)])
        .journal_bytes([65_536, 0, 4_096, 65_536][index(life / 2 % 4)])
        .clock(clock.clone());
    Wal::new(dir, options).unwrap()
}

/// What a child is about to do; the line that says so.
#[derive(Debug, Clone, Copy)]
enum Call {
    /// Entries with the serial numbers from `serial` on, together.
    Append {
        key: u64,
        serial: u64,
        count: u64,
        ms: u64,
    },
    Truncate {
        key: u64,
        before: u64,
    },
    Remove {
        key: u64,
    },
    Compact {
        ms: u64,
    },
    Sync,
    Shutdown,
}

impl Call {
    fn line(self) -> String {
        match self {
            Self::Append { key, serial, count, ms } => {
                format!("append {key} {serial} {count} {ms}")
            }
            Self::Truncate { key, before } => format!("truncate {key} {before}"),
            Self::Remove { key } => format!("remove {key}"),
            Self::Compact { ms } => format!("compact {ms}"),
            Self::Sync => "sync".into(),
            Self::Shutdown => "shutdown".into(),
        }
    }

    fn parse(name: &str, numbers: &[u64]) -> Option<Self> {
        Some(match (name, numbers) {
            ("append", &[key, serial, count, ms]) => Self::Append { key, serial, count, ms },
            ("truncate", &[key, before]) => Self::Truncate { key, before },
            ("remove", &[key]) => Self::Remove { key },
            ("compact", &[ms]) => Self::Compact { ms },
            ("sync", []) => Self::Sync,
            ("shutdown", []) => Self::Shutdown,
            _ => return None,
        })
    }

    fn choose(random: &mut Random, wal: &Wal, serial: u64, ms: u64) -> Self {
        let number = random.next();
        let key = random.next() % KEYS;
        match number % 128 {
            0 => Self::Shutdown,
            1 => Self::Remove { key },
            2 | 3 => Self::Compact { ms },
            4 | 5 => {
                let next = wal.next_index(self::key(key)).unwrap();
                Self::Truncate { key, before: next.saturating_sub(random.next() % 50) }
            }
            6 | 7 => Self::Sync,
            8..28 => Self::Append { key, serial, count: 2 + number / 128 % 4, ms },
            _ => Self::Append { key, serial, count: 1, ms },
        }
    }

    fn make(self, wal: &Wal, durability: Durability) {
        match self {
            Self::Append { key, serial, count: 1, .. } => {
                let (header, content) = entry(serial);
                wal.append_entry(self::key(key), header, content, durability).unwrap();
            }
            Self::Append { key, serial, count, .. } => {
                let batch = (serial..serial + count).map(entry);
                wal.append_batch(self::key(key), batch, durability).unwrap();
            }
            Self::Truncate { key, before } => {
                wal.truncate_before(self::key(key), before).unwrap();
            }
            Self::Remove { key } => wal.remove_key(self::key(key)).unwrap(),
            Self::Compact { .. } => {
                let report = wal.compact().unwrap();
                assert!(report.failures.is_empty() && report.refused.is_none(), "{report:?}");
            }
            Self::Sync => wal.sync().unwrap(),
            Self::Shutdown => wal.shutdown().unwrap(),
        }
    }
}

/// One write for a line: it is in the pipe whole, or not at all.
fn say(line: &str) {
    std::io::stdout().lock().write_all(format!("\n> {line}\n").as_bytes()).unwrap();
    std::io::stdout().lock().flush().unwrap();
}

/// First and next index of every key.
fn spans(wal: &Wal) -> Vec<(u64, u64)> {
    let span = |number| {
        let key = key(number);
        (wal.first_index(&key).unwrap(), wal.next_index(&key).unwrap())
    };
    (0..KEYS).map(span).collect()
}

/// Not a test of its own: works until it is killed.
#[test]
fn worker() {
    let Some(dir) = child::started_as("worker") else { return };
    let life = env_number(LIFE).unwrap();
    let mut random = Random(env_number(LIFE_SEED).unwrap());
    let clock = Arc::new(ManualClock::new(env_number(NOW_MS).unwrap()));
    let mut serial = life * SERIALS;
    loop {
        let wal = open(&dir, &clock, life);
        let mut state = String::from("opened");
        for (first, next) in spans(&wal) {
            write!(state, " {first} {next}").unwrap();
        }
        say(&state);
        loop {
            clock.advance(Duration::from_millis(random.next() % 40));
            let call = Call::choose(&mut random, &wal, serial, clock.now_ms());
            say(&format!("{} @{}", call.line(), clock.now_ms()));
            call.make(&wal, (random.next() % 11 == 0).into());
            say("done");
            match call {
                Call::Append { count, .. } => serial += count,
                Call::Shutdown => break,
                _ => {}
            }
        }
    }
}

/// What a key holds, as far as the child has said.
#[derive(Debug, Default)]
struct KeyModel {
    first: u64,
    /// Serial number and time of each.
    entries: VecDeque<(u64, u64)>,
    /// Truncation may have dropped the entries before this index.
    truncated: u64,
}

#[derive(Debug, Default)]
struct Model {
    keys: Vec<KeyModel>,
    /// The latest time at which retention may have dropped entries, and at which it has.
    compacting_ms: u64,
    compacted_ms: u64,
    /// Begun and not yet done.
    call: Option<Call>,
    is_open: bool,
    now_ms: u64,
    entries: u64,
}

impl Model {
    fn new() -> Self {
        let keys = (0..KEYS).map(|_| KeyModel::default()).collect();
        Self { keys, now_ms: EPOCH_MS, ..Self::default() }
    }

    /// A line of the child.
    fn hear(&mut self, line: &str) -> Check {
        // When it is: a truncation, too, may start a segment, whose entries are not older than it.
        let line = match line.rsplit_once(" @") {
            Some((line, ms)) => {
                self.now_ms = u64::from_str(ms).map_err(|_| format!("the child says: {line}"))?;
                line
            }
            None => line,
        };
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        let numbers: Result<Vec<u64>, _> = words.map(u64::from_str).collect();
        let numbers = numbers.map_err(|_| format!("the child says: {line}"))?;
        match name {
            "opened" => {
                let spans: Vec<_> = numbers.chunks(2).map(|span| (span[0], span[1])).collect();
                self.is_open = true;
                self.settle(&spans)
            }
            "done" => {
                self.finish();
                Ok(())
            }
            name => {
                let call = Call::parse(name, &numbers);
                self.begin(call.ok_or_else(|| format!("the child says: {line}"))?);
                Ok(())
            }
        }
    }

    fn begin(&mut self, call: Call) {
        match call {
            Call::Truncate { key, before } => {
                let truncated = &mut self.keys[index(key)].truncated;
                *truncated = before.max(*truncated);
            }
            Call::Compact { ms } => self.compacting_ms = ms,
            _ => {}
        }
        self.call = Some(call);
    }

    fn finish(&mut self) {
        match self.call.take() {
            Some(Call::Append { key, serial, count, ms }) => {
                self.entries += count;
                let new = (serial..serial + count).map(|serial| (serial, ms));
                self.keys[index(key)].entries.extend(new);
            }
            Some(Call::Remove { key }) => self.keys[index(key)] = KeyModel::default(),
            Some(Call::Compact { ms }) => self.compacted_ms = ms,
            Some(Call::Shutdown) => self.is_open = false,
            Some(Call::Truncate { .. } | Call::Sync) | None => {}
        }
    }

    /// Whether a call that was cut off has been made is told by what the keys hold.
    fn settle(&mut self, spans: &[(u64, u64)]) -> Check {
        match self.call {
            Some(Call::Append { key, count, .. }) => {
                let model = &self.keys[index(key)];
                let next = model.first + model.entries.len() as u64;
                if spans[index(key)].1 == next + count {
                    self.finish();
                }
            }
            Some(Call::Remove { key }) if spans[index(key)].1 == 0 => self.finish(),
            _ => {}
        }
        self.call = None;
        for (number, (first, next)) in spans.iter().enumerate() {
            let model = &mut self.keys[number];
            while model.first < *first {
                let Some((serial, ms)) = model.entries.pop_front() else { break };
                let expired = ms + millis(RETENTION) <= self.compacting_ms;
                let may_go = expired || model.first < model.truncated;
                ensure!(may_go, "key {number}: entry {} ({serial}) dropped too early", model.first);
                model.first += 1;
            }
            let end = model.first + model.entries.len() as u64;
            ensure!(
                (model.first, end) == (*first, *next),
                "key {number} holds {first}..{next}, acknowledged are {}..{end}",
                model.first
            );
            let oldest = model.entries.front().map_or(u64::MAX, |(_, ms)| *ms);
            let latest = self.compacted_ms.saturating_sub(millis(RETENTION + WINDOW));
            ensure!(oldest > latest, "key {number}: entry {first} outlives the retention");
        }
        Ok(())
    }

    /// Opens the directory and reads everything.
    fn check(&mut self, dir: &Path, life: u64, shutdown: bool) -> Check {
        let wal = open(dir, &Arc::new(ManualClock::new(self.now_ms)), life);
        let report = wal.recovery_report();
        ensure!(report.damaged.is_empty(), "false damage: {:?}", report.damaged);
        let may_be_clean = !self.is_open || matches!(self.call, Some(Call::Shutdown));
        ensure!(may_be_clean || !report.clean, "a kill passes for a shutdown");
        ensure!(report.torn.len() <= 1, "more than one unfinished write: {:?}", report.torn);
        self.settle(&spans(&wal))?;
        let listed: Vec<String> =
            wal.enumerate_keys().unwrap().map(|key| key.to_string()).collect();
        for (number, model) in (0..).zip(&self.keys) {
            ensure!(model.entries.is_empty() || listed.contains(&key(number)), "a key is lost");
            let mut stored = (model.first..).zip(&model.entries);
            for found in wal.entries(key(number)).unwrap() {
                let found = found.map_err(|error| format!("key {number}: {error}"))?;
                let Some((at, (serial, ms))) = stored.next() else {
                    return Err(format!("key {number}: an invented entry: {found:?}"));
                };
                ensure!(
                    (found.index, found.timestamp_ms) == (at, *ms)
                        && (&found.header, &found.content)
                            == (&entry(*serial).0, &entry(*serial).1),
                    "key {number}: entry {at} is altered: {found:?}"
                );
            }
            ensure!(stored.next().is_none(), "key {number}: an entry is lost");
        }
        self.is_open = false;
        if shutdown {
            wal.shutdown().map_err(|error| format!("shutdown: {error}"))?;
        }
        Ok(())
    }
}

/// When a child is killed.
enum Death {
    /// So long after its start.
    After(Duration),
    /// So long after it has said so many things.
    Said(u64, Duration),
}

impl Death {
    fn choose(random: &mut Random) -> Self {
        let micros = random.next();
        if random.next() % 2 == 0 {
            Self::After(Duration::from_micros(micros % 12_000))
        } else {
            Self::Said(random.next() % 300, Duration::from_micros(micros % 300))
        }
    }
}

/// One life of a child, to its end.
fn live(dir: &Path, model: &mut Model, random: &mut Random, life: u64) -> Check {
    let mut child = child::command("worker", dir)
        .env(LIFE, life.to_string())
        .env(LIFE_SEED, random.next().to_string())
        .env(NOW_MS, model.now_ms.to_string())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let kill = || rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = lines.map_while(Result::ok);
    let mut said = said.filter_map(|line| line.strip_prefix("> ").map(str::to_owned));
    let heard = thread::scope(|scope| {
        let last = match Death::choose(random) {
            Death::After(time) => {
                scope.spawn(move || {
                    thread::sleep(time);
                    kill();
                });
                None
            }
            Death::Said(last, time) => Some((last, time)),
        };
        let mut count = 0;
        said.try_for_each(|line| {
            if let Some((_, time)) = last.filter(|(last, _)| *last == count) {
                thread::sleep(time);
                kill();
            }
            count += 1;
            model.hear(&line)
        })
    });
    // The child is not waited for before this, so the number is still its own.
    let _ = child.kill();
    let status = child.wait().unwrap();
    heard?;
    ensure!(status.signal() == Some(9), "the child failed: {status}");
    Ok(())
}

/// What a child was at when it was killed.
fn moment(model: &Model) -> &'static str {
    match model.call {
        _ if !model.is_open => "at_open",
        Some(Call::Append { count: 1, .. }) => "at_append",
        Some(Call::Append { .. }) => "at_batch",
        Some(Call::Truncate { .. }) => "at_truncate",
        Some(Call::Remove { .. }) => "at_remove",
        Some(Call::Compact { .. }) => "at_compact",
        Some(Call::Sync) => "at_sync",
        Some(Call::Shutdown) => "at_shutdown",
        None => "between",
    }
}

#[test]
fn every_acknowledged_entry_survives_kill_9() {
    let kills = env_number("KEYWAL_KILLS").unwrap_or(15);
    let seed = env_number("KEYWAL_SEED").unwrap_or(5);
    println!("KEYWAL_SEED={seed}");
    let mut dir = tempfile::tempdir().unwrap();
    let (progress, failures) = (Progress::new("kills", "kills", kills), Failures::default());
    let mut random = Random(seed);
    let mut model = Model::new();
    let mut moments = BTreeMap::new();
    let (mut checks, mut most_files) = (0, 0);
    for life in 1..=kills {
        model.is_open = false;
        let result = guarded(|| {
            live(dir.path(), &mut model, &mut random, life)?;
            *moments.entry(moment(&model)).or_default() += 1;
            // Every other time the next child has to recover what this one has left.
            if random.next() % 2 == 0 || life == kills {
                checks += 1;
                most_files = most_files.max(std::fs::read_dir(dir.path()).unwrap().count() as u64);
                model.check(dir.path(), life, random.next() % 4 == 0)?;
            }
            Ok(())
        });
        if let Err(what) = result {
            dir.disable_cleanup(true);
            let kept = dir.path().display();
            failures.note(&what, &format!("KEYWAL_SEED={seed}, life {life}, {kept}"));
            break;
        }
        progress.step(|| format!("{} entries, {moments:?}", model.entries));
    }
    let mut numbers = vec![("seed", seed), ("kills", progress.done())];
    numbers.extend([("entries", model.entries), ("checks", checks), ("most_files", most_files)]);
    numbers.extend(moments);
    progress.figures(&numbers, &failures);
    failures.finish();
}
