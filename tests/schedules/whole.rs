//! A whole `Wal` under shuttle: what threads may do to each other, a call that fails, and then a kill
//! or a power cut.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use keywal::fs::sim::{CallKind, CrashChoice, Fault, FaultKind, SimDir};
use keywal::{Canceller, ManualClock, Wal, WalError, WalOptions};
use shuttle::rand::RngCore;
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner, thread};

use crate::common::progress::Progress;
use crate::common::{
    COLLIDING, Check, EPOCH_MS, Failures, Random, env_number, guarded, mix, on_all_cores,
};
use crate::ensure;
use crate::history::{After, Append, Done, History, Moment, Other, Shown, Span};

/// Two keys that share a hash, and one that does not; in different shards of the map, because the
/// order within a shard is no schedule's to repeat.
const KEYS: [&[u8]; 3] = [COLLIDING[0], COLLIDING[1], b"k"];
const RETENTION: Duration = Duration::from_secs(10);
const CONTENT_BYTES: usize = 1_200;
/// Content of the last entry of a key that is followed: for who follows what is visible, for who follows
/// what is durable.
const LAST: [&[u8]; 2] = [b"last", b"last durable"];
/// Takes two entries and no third.
const SMALL_SEGMENT_BYTES: u64 = 4_096;
const LARGE_SEGMENT_BYTES: u64 = 1 << 20;
/// More than any schedule takes that does not wait for ever.
const MAX_STEPS: usize = 50_000;
/// Schedules drawn from one seed.
const CHUNK: usize = 500;

#[derive(Debug, Clone, Copy)]
enum Act {
    Append { key: usize, entries: usize, disk: bool },
    Read(usize),
    Other(Other),
}

/// What the threads of one schedule do, and what happens to them.
#[derive(Debug)]
struct Plan {
    threads: Vec<Vec<Act>>,
    /// Keys that are followed meanwhile, and whether only what is durable.
    followers: Vec<(usize, bool)>,
    segment_bytes: u64,
    open_files: usize,
    fault: Option<Fault>,
    /// Else the process dies.
    power_cut: bool,
    seed: u64,
}

fn below(random: &mut Random, n: usize) -> usize {
    usize::try_from(random.next() % n as u64).unwrap()
}

impl Plan {
    fn draw(seed: u64) -> Self {
        let random = &mut Random(seed);
        let threads = if below(random, 8) == 0 {
            let append = Act::Append { key: 2, entries: 1, disk: below(random, 2) == 0 };
            vec![vec![append]; 8]
        } else {
            let keys = 1 + below(random, KEYS.len());
            let (drops, ends) = (below(random, 2) == 0, below(random, 8) == 0);
            let threads = 2 + below(random, 2);
            let acts = 1 + below(random, 4);
            let mut act = || draw_act(random, keys, drops, ends);
            (0..threads).map(|_| (0..acts).map(|_| act()).collect()).collect()
        };
        let all = (0..KEYS.len()).flat_map(|key| [(key, false), (key, true)]);
        let followers = all.filter(|_| below(random, 6) == 0).collect();
        Self {
            threads,
            followers,
            segment_bytes: [SMALL_SEGMENT_BYTES, LARGE_SEGMENT_BYTES][below(random, 2)],
            open_files: 1 + below(random, 3),
            fault: (below(random, 2) == 0).then(|| draw_fault(random)),
            power_cut: below(random, 4) > 0,
            seed,
        }
    }

    fn acts(&self) -> impl Iterator<Item = &Act> {
        self.threads.iter().flatten()
    }

    fn shuts_down(&self) -> bool {
        self.acts().any(|act| matches!(act, Act::Other(Other::Shutdown)))
    }

    fn removes(&self, key: usize) -> bool {
        self.acts().any(|act| matches!(act, Act::Other(Other::Remove(at)) if *at == key))
    }

    fn only_appends(&self) -> bool {
        self.acts().all(|act| matches!(act, Act::Append { .. }))
    }

    fn options(&self, clock: &Arc<ManualClock>) -> WalOptions {
        WalOptions::with_retention(RETENTION)
            .max_segment_bytes(self.segment_bytes)
            .max_open_files(self.open_files)
            .clock(clock.clone())
    }
}

fn draw_act(random: &mut Random, keys: usize, drops: bool, ends: bool) -> Act {
    let key = below(random, keys);
    match below(random, 20) {
        0..13 => {
            let entries = 1 + below(random, 8) / 7;
            Act::Append { key, entries, disk: below(random, 2) == 0 }
        }
        13 => Act::Other(Other::Sync),
        14 => Act::Other(Other::SyncKey(key)),
        15 if drops => Act::Other(Other::Compact),
        16 if drops => Act::Other(Other::Truncate(key)),
        17 if drops => Act::Other(Other::Remove(key)),
        18 if ends => Act::Other(Other::Shutdown),
        _ => Act::Read(key),
    }
}

fn draw_fault(random: &mut Random) -> Fault {
    let (call, kind) = [
        (CallKind::SyncData, FaultKind::Error(5)),
        (CallKind::SyncData, FaultKind::Error(5)),
        (CallKind::SyncDir, FaultKind::Error(5)),
        (CallKind::Write, FaultKind::Error(28)),
        (CallKind::Write, FaultKind::ShortThenError { bytes: 20, error: 28 }),
        (CallKind::Create, FaultKind::Error(24)),
        (CallKind::Remove, FaultKind::Error(5)),
    ][below(random, 7)];
    let nth = below(random, 8) as u64;
    Fault { call, nth, kind, forever: below(random, 4) == 0, name_contains: None }
}

/// What the threads of one schedule share.
struct Shared {
    wal: Wal,
    sim: SimDir,
    clock: Arc<ManualClock>,
    ticks: AtomicU64,
    history: Mutex<History>,
    /// Set when followers are to end that nothing else ends.
    give_up: AtomicBool,
    cancellers: Mutex<Vec<((usize, bool), Canceller)>>,
}

impl Shared {
    fn now(&self) -> Moment {
        Moment { trace: self.sim.trace_len(), tick: self.ticks.fetch_add(1, Relaxed) }
    }

    fn timed<T>(&self, call: impl FnOnce() -> T) -> (Span, T) {
        let begin = self.now();
        let result = call();
        (Span { begin, end: self.now() }, result)
    }

    fn act(&self, act: Act, thread: usize, number: usize) -> Check {
        match act {
            Act::Append { key, entries, disk } => {
                let content = |n| {
                    [thread, number, n, 0].map(|n| n.to_le_bytes()[0]).repeat(CONTENT_BYTES / 4)
                };
                let contents: Vec<Bytes> = (0..entries).map(|n| content(n).into()).collect();
                let batch: Vec<_> =
                    contents.iter().map(|content| (None, content.clone())).collect();
                let (span, result) = self.timed(|| self.wal.append_batch(KEYS[key], batch, disk));
                self.history().appends.push(Append { key, contents, disk, span, result });
            }
            Act::Other(what) => {
                let (span, result) = self.timed(|| self.other(what));
                self.history().others.push(Done { what, span, result });
            }
            Act::Read(key) => return self.read(key),
        }
        Ok(())
    }

    fn other(&self, what: Other) -> Result<(), WalError> {
        let wal = &self.wal;
        match what {
            Other::Sync => wal.sync(),
            Other::SyncKey(key) => wal.sync_key(KEYS[key]),
            Other::Compact => {
                self.clock.advance(2 * RETENTION);
                wal.compact().map(drop)
            }
            Other::Truncate(key) => wal.truncate_before(KEYS[key], u64::MAX).map(drop),
            Other::Remove(key) => wal.remove_key(KEYS[key]),
            Other::Shutdown => wal.shutdown(),
        }
    }

    fn read(&self, key: usize) -> Check {
        let mut last = None;
        let entries = match self.wal.entries(KEYS[key]) {
            Ok(entries) => entries,
            Err(WalError::Closed) => return Ok(()),
            Err(error) => return Err(format!("reading: {error}")),
        };
        for entry in entries {
            match entry {
                Ok(entry) => {
                    ensure!(last < Some(entry.index), "after {last:?}: {entry:?}");
                    last = Some(entry.index);
                }
                Err(WalError::Expired | WalError::Closed) => {}
                Err(error) => return Err(format!("reading: {error}: {error:?}")),
            }
        }
        Ok(())
    }

    /// Follows a key until its last entry, or until it is told that no more can come. One who waits then waits
    /// for ever, which the checker finds out.
    fn follow(&self, plan: &Plan, key: usize, durable: bool) -> Check {
        let follow = match self.wal.follow(KEYS[key], 0) {
            Ok(follow) => follow,
            Err(WalError::Closed) if plan.shuts_down() => return Ok(()),
            Err(error) => return Err(format!("following: {error}: {error:?}")),
        };
        self.cancellers.lock().unwrap().push(((key, durable), follow.canceller()));
        if self.give_up.load(Relaxed) {
            return Ok(());
        }
        let follow = if durable { follow.durable_only() } else { follow };
        let mut expected = 0;
        for entry in follow {
            match entry {
                Ok(entry) => {
                    ensure!(entry.index == expected, "{expected} is next, not {entry:?}");
                    expected += 1;
                    let last = *entry.content == *LAST[usize::from(durable)];
                    if durable {
                        let (content, moment) = (entry.content, self.now());
                        self.history().shown.push(Shown { key, content, moment });
                    }
                    if last {
                        return Ok(());
                    }
                }
                Err(WalError::Behind { wanted, oldest }) => {
                    ensure!(wanted == expected && oldest > wanted, "{wanted}, {oldest}");
                    expected = oldest;
                }
                Err(WalError::Closed) if plan.shuts_down() => {}
                Err(WalError::Expired) if plan.removes(key) => {}
                Err(WalError::Poisoned { .. } | WalError::Io { .. }) if plan.fault.is_some() => {}
                Err(error) => return Err(format!("following: {error}: {error:?}")),
            }
        }
        Ok(())
    }

    /// Appends the last entries, for which the followers wait. Cancels those that may wait for ever with
    /// good reason.
    fn end_followers(&self, plan: &Plan, failed: bool) -> Check {
        for (key, durable) in plan.followers.iter().copied() {
            let (name, content) = (KEYS[key], Bytes::from_static(LAST[usize::from(durable)]));
            let batch = [(None, content.clone())];
            let (span, result) = self.timed(|| self.wal.append_batch(name, batch, durable));
            let (contents, disk) = (vec![content], durable);
            // A key that cannot be created because of another one may be waited for.
            let exists = self.wal.segments(name).is_ok_and(|segments| !segments.is_empty());
            let told = match &result {
                Ok(_) | Err(WalError::Closed) => true,
                Err(WalError::Io { operation, .. }) => operation.starts_with("sync") && exists,
                Err(WalError::Poisoned { .. }) => exists,
                Err(_) => false,
            };
            self.history().appends.push(Append { key, contents, disk, span, result });
            if failed || !told {
                self.give_up.store(true, Relaxed);
                // Not under the lock, which no schedule knows of.
                let cancellers = self.cancellers.lock().unwrap().clone();
                for (followed, canceller) in &cancellers {
                    if failed || *followed == (key, durable) {
                        canceller.cancel();
                    }
                }
            }
        }
        Ok(())
    }

    fn history(&self) -> std::sync::MutexGuard<'_, History> {
        self.history.lock().unwrap()
    }
}

/// One schedule of one plan: opens a log, lets the threads loose on it, and checks what they were told,
/// what the log holds, and what it holds when it is opened again.
fn run(plan: &Plan) -> Check {
    let sim = SimDir::new(plan.seed);
    let clock = Arc::new(ManualClock::new(EPOCH_MS));
    let open = |sim: &SimDir| Wal::open_in(Arc::new(sim.clone()), plan.options(&clock));
    let wal = open(&sim).map_err(|error| format!("open: {error}"))?;
    let opened = sim.trace_len();
    if let Some(fault) = &plan.fault {
        sim.inject(fault.clone());
    }
    let shared = Shared {
        wal,
        sim: sim.clone(),
        clock: clock.clone(),
        ticks: AtomicU64::new(0),
        history: Mutex::default(),
        give_up: AtomicBool::new(false),
        cancellers: Mutex::default(),
    };
    thread::scope(|scope| {
        let followers: Vec<_> = plan
            .followers
            .iter()
            .map(|(key, durable)| {
                let shared = &shared;
                scope.spawn(move || shared.follow(plan, *key, *durable))
            })
            .collect();
        let threads: Vec<_> = (0..)
            .zip(&plan.threads)
            .map(|(thread, acts)| {
                let shared = &shared;
                let acts = (0..).zip(acts);
                let mut acts = acts.map(move |(number, act)| shared.act(*act, thread, number));
                scope.spawn(move || acts.try_for_each(|done| done))
            })
            .collect();
        let acted = threads.into_iter().try_for_each(|thread| thread.join().unwrap());
        let ended = shared.end_followers(plan, acted.is_err());
        let followed = followers.into_iter().try_for_each(|thread| thread.join().unwrap());
        acted.and(ended).and(followed)
    })?;
    sim.clear_faults();
    let history = shared.history();
    check_errors(plan, &history)?;
    history.check_calls()?;
    if !plan.shuts_down() {
        history.check(&shared.wal, &KEYS, After::Kill)?;
        check_segments(plan, &shared.wal)?;
    }
    let (after, next) = end(plan, &sim, opened);
    let wal = open(&next).map_err(|error| format!("open again: {error}: {error:?}"))?;
    let report = wal.recovery_report();
    ensure!(report.damaged.is_empty(), "false damage: {:?}", report.damaged);
    history.check(&wal, &KEYS, after).map_err(|text| format!("after {after:?}: {text}"))
}

/// Nothing fails unless a call was made to, or the log was shut down.
fn check_errors(plan: &Plan, history: &History) -> Check {
    let appends = history.appends.iter().filter_map(|append| append.result.as_ref().err());
    let others = history.others.iter().filter_map(|other| other.result.as_ref().err());
    for error in appends.chain(others) {
        let excused = match error {
            WalError::Closed => plan.shuts_down(),
            WalError::Io { .. } | WalError::StorageFull { .. } | WalError::Poisoned { .. } => {
                plan.fault.is_some()
            }
            _ => false,
        };
        ensure!(excused, "{error}: {error:?}");
    }
    Ok(())
}

/// However many threads create a key, it gets one segment.
fn check_segments(plan: &Plan, wal: &Wal) -> Check {
    if plan.only_appends() && plan.fault.is_none() && plan.segment_bytes == LARGE_SEGMENT_BYTES {
        let stats = wal.stats();
        ensure!(stats.created_segments == stats.keys, "a key, and not one segment: {stats:?}");
    }
    Ok(())
}

/// The end of the process: the directory as the next one finds it.
fn end(plan: &Plan, sim: &SimDir, opened: usize) -> (After, SimDir) {
    let random = &mut Random(!plan.seed);
    let trace = sim.trace_len();
    if plan.power_cut {
        let at = opened + below(random, trace - opened + 1);
        // Half of the time nothing is left of what was not durable.
        let sample = (random.next() % 2) * (random.next() % 64);
        let choice = CrashChoice::Sample { at, sample, seed: random.next() };
        let image = sim.crash_image(at, &choice);
        return (After::PowerCut(at), SimDir::from_image(&image, plan.seed));
    }
    let sync_failed = plan.fault.as_ref().is_some_and(|fault| fault.call == CallKind::SyncData);
    // What a failed sync was to write is lost with the page cache.
    let after = if sync_failed { After::PowerCut(trace) } else { After::Kill };
    (after, sim.after_kill())
}

/// Runs the schedules of one scheduler; the text of the first that breaks a promise.
fn explore(scheduler: impl Scheduler + 'static, progress: &Arc<Progress>) -> Check {
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    config.silence_warnings = true;
    config.max_steps = MaxSteps::FailAfter(MAX_STEPS);
    let progress = Arc::clone(progress);
    let schedule = move || {
        let plan = Plan::draw(shuttle::rand::thread_rng().next_u64());
        run(&plan).unwrap_or_else(|text| panic!("broken: {text}\n{plan:?}"));
        progress.step(|| "");
    };
    let explored = guarded(|| {
        Runner::new(scheduler, config).run(schedule);
        Ok(())
    });
    explored.map_err(|text| text.replacen("panic: broken: ", "", 1))
}

#[test]
fn schedules_of_a_whole_log() {
    if let Ok(schedule) = std::env::var("KEYWAL_SCHEDULE") {
        let progress = Arc::new(Progress::new("schedules", "schedules", 1));
        let scheduler = ReplayScheduler::new_from_encoded(&schedule);
        explore(scheduler, &progress).unwrap();
        return;
    }
    let seed = env_number("KEYWAL_SEED").unwrap_or(1);
    let wanted = env_number("KEYWAL_SCHEDULES").unwrap_or(5_000);
    let chunks = usize::try_from(wanted).unwrap().div_ceil(CHUNK);
    println!("schedules: KEYWAL_SEED={seed}");
    let progress = Arc::new(Progress::new("schedules", "schedules", (chunks * CHUNK) as u64));
    let failures = Failures::default();
    on_all_cores(chunks, |chunk| {
        let seed = mix(seed.wrapping_add(mix(chunk as u64)));
        let explored = if chunk % 2 == 0 {
            explore(RandomScheduler::new_from_seed(seed, CHUNK), &progress)
        } else {
            explore(PctScheduler::new_from_seed(seed, 2 + chunk / 2 % 4, CHUNK), &progress)
        };
        explored.map_or_else(
            |text| failures.note(&text, "set KEYWAL_SCHEDULE to the schedule printed above"),
            |()| true,
        )
    });
    progress.figures(&[("schedules", progress.done()), ("seed", seed)], &failures);
    failures.finish();
}
