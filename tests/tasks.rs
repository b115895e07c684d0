//! Does a task get what a thread would, and is it woken whenever there is something to get?

#![cfg(feature = "async")]

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use futures_core::Stream;
use keywal::fs::sim::{CallKind, CrashChoice, Fault, FaultKind, SimDir};
use keywal::{EntryRef, Follow, SyncPolicy, Wal, WalError, WalOptions, WhenDurable};

use common::hooked::HookedDir;
use common::logs::SEGMENT;

mod common;

/// Longer than any test takes: a task that waits so long has not been woken.
const FOR_EVER: Duration = Duration::from_secs(60);

/// Without a journal, unless a test gives it one.
fn direct() -> WalOptions {
    WalOptions::default().journal_bytes(0)
}

/// Two entries fill a segment.
fn small_segments() -> WalOptions {
    direct().max_segment_bytes(4_096)
}

fn content(number: u64) -> String {
    format!("{number}:{}", "x".repeat(1_200))
}

fn open(options: WalOptions) -> (SimDir, Arc<Wal>) {
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), options).unwrap();
    (sim, Arc::new(wal))
}

fn fail(sim: &SimDir, call: CallKind, name_contains: Option<&str>) {
    let (kind, name_contains) = (FaultKind::Error(5), name_contains.map(str::to_owned));
    sim.inject(Fault { call, nth: 0, kind, forever: false, name_contains });
}

/// A runtime: one task, one thread.
struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A task that only notes that it was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = std::pin::pin!(future);
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < FOR_EVER, "it waits for ever");
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        thread::park_timeout(FOR_EVER);
    }
}

async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
}

fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn futures_of_durable_entries_share_the_syncs_of_a_lent_thread() {
    const TASKS: u64 = 8;
    for journal_bytes in [0, 65_536] {
        let (sim, wal) = open(WalOptions::default().journal_bytes(journal_bytes));
        thread::scope(|scope| {
            let servers = [(); 2].map(|()| scope.spawn(|| wal.serve_syncs()));
            let tasks: Vec<_> = (0..TASKS)
                .map(|task| {
                    let wal = &wal;
                    scope.spawn(move || {
                        block_on(async {
                            for number in 0..50 {
                                let key = (task % 3).to_string();
                                let content = format!("{task} {number}");
                                let made = wal.append_entry(key, None, content, false)?;
                                wal.when_durable(made).await?;
                            }
                            Ok::<(), WalError>(())
                        })
                    })
                })
                .collect();
            for task in tasks {
                task.join().unwrap().unwrap();
            }
            let image = sim.crash_image(
                sim.trace_len(),
                &CrashChoice::Sample { at: sim.trace_len(), sample: 0, seed: 1 },
            );
            let disk = Arc::new(SimDir::from_image(&image, 1));
            let after = Wal::open_in(disk, direct()).unwrap();
            let kept: u64 = (0..3).map(|key| after.len(key.to_string()).unwrap()).sum();
            assert_eq!(kept, TASKS * 50);
            wal.shutdown().unwrap();
            for server in servers {
                server.join().unwrap().unwrap();
            }
        });
        assert!(matches!(wal.serve_syncs(), Err(WalError::Closed)));
    }
}

/// A record of several keys that cannot be taken back poisons them, and who waits for what they had before hears of it.
#[test]
fn a_future_is_woken_when_a_failed_write_poisons_its_key() {
    let sim = SimDir::new(1);
    let once = |call, nth, kind| Fault {
        call,
        nth,
        kind,
        forever: false,
        name_contains: Some("JOURNAL".to_owned()),
    };
    sim.inject(once(CallKind::Map, 0, FaultKind::Error(5)));
    let options = WalOptions::default().journal_bytes(65_536);
    let wal = Wal::open_in(Arc::new(sim.clone()), options).unwrap();
    for key in ["k", "other"] {
        wal.append_entry(key, None, "0", true).unwrap();
    }
    let made = wal.append_entry("k", None, "1", false).unwrap();
    let mut future = wal.when_durable(made);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut poll = || Pin::new(&mut future).poll(&mut Context::from_waker(&waker));
    assert!(poll().is_pending());
    // Two bodies and a header go well. The last header does but for zeros that stood there, and is not taken back.
    sim.inject(once(CallKind::Write, 3, FaultKind::ShortThenError { bytes: 62, error: 28 }));
    sim.inject(Fault { forever: true, ..once(CallKind::Write, 4, FaultKind::Error(28)) });
    let doubtful = ["k", "other"].map(|key| (key, None, "doubtful".into()));
    wal.append_many(doubtful, false).unwrap_err();
    assert!(woken.0.load(Ordering::Relaxed));
    let result = poll();
    assert!(matches!(result, Poll::Ready(Err(WalError::Poisoned { .. }))), "{result:?}");
}

#[test]
fn a_future_waits_for_whoever_syncs() {
    let (_, wal) = open(small_segments());
    let made = wal.append_entry("k", None, content(0), false).unwrap();
    let mut future = wal.when_durable(made);
    assert!(poll_once(&mut future).is_pending());
    wal.append_entry("other", None, "x", true).unwrap();
    assert!(poll_once(&mut future).is_pending());
    thread::scope(|scope| {
        scope.spawn(|| wal.sync_key("k").unwrap());
        block_on(&mut future).unwrap();
    });
    // A full segment is durable.
    let made = wal.append_entry("k", None, content(1), false).unwrap();
    let mut future = WhenDurable::new(Arc::clone(&wal), made);
    assert!(poll_once(&mut future).is_pending());
    wal.append_entry("k", None, content(2), false).unwrap();
    assert!(matches!(poll_once(&mut future), Poll::Ready(Ok(()))));
}

#[test]
fn a_future_never_waits_for_what_cannot_come() {
    let poisoned = |result: &Result<(), WalError>| {
        assert!(matches!(result, Err(WalError::Poisoned { .. })), "{result:?}");
    };
    for (call, journal_bytes) in
        [(CallKind::SyncData, 0), (CallKind::SyncDir, 0), (CallKind::SyncData, 65_536)]
    {
        let (sim, wal) = open(WalOptions::default().journal_bytes(journal_bytes));
        let made = wal.append_entry("k", None, "x", false).unwrap();
        fail(&sim, call, None);
        thread::scope(|scope| {
            scope.spawn(|| wal.serve_syncs());
            poisoned(&block_on(wal.when_durable(made)));
            poisoned(&block_on(wal.when_durable(made)));
            let _ = wal.shutdown();
        });
        assert!(matches!(block_on(wal.when_durable(made)), Err(WalError::Closed)));
    }
    let (_, wal) = open(direct());
    let made = wal.append_entry("k", None, "x", false).unwrap();
    let beyond = EntryRef { offset: made.offset + 1_000, ..made };
    assert!(matches!(block_on(wal.when_durable(beyond)), Err(WalError::InvalidRef)));
    let mut removed = wal.when_durable(made);
    let mut closed = wal.when_durable(wal.append_entry("l", None, "x", false).unwrap());
    assert!(poll_once(&mut removed).is_pending() && poll_once(&mut closed).is_pending());
    thread::scope(|scope| {
        scope.spawn(|| wal.remove_key("k").unwrap());
        assert!(matches!(block_on(removed), Err(WalError::Expired)));
    });
    thread::scope(|scope| {
        scope.spawn(|| wal.shutdown().unwrap());
        assert!(matches!(block_on(closed), Err(WalError::Closed)));
    });
}

#[test]
fn a_stream_yields_what_the_iterator_does() {
    let (sim, wal) = open(small_segments());
    let mut follow = Follow::new(Arc::clone(&wal), "k", 0).unwrap();
    let canceller = follow.canceller();
    let mut durable = Follow::new(Arc::clone(&wal), "k", 0).unwrap().durable_only();
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..100 {
                wal.append_entry("k", None, content(number), false).unwrap();
            }
            wal.sync().unwrap();
        });
        for index in 0..100 {
            let entry = block_on(next(&mut follow)).unwrap().unwrap();
            assert_eq!((entry.index, entry.content), (index, content(index).into()));
            assert_eq!(block_on(next(&mut durable)).unwrap().unwrap().index, index);
        }
    });
    let once = |stream: &mut Follow<_>| {
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(stream).poll_next(&mut context).is_pending()
    };
    assert!(once(&mut follow) && once(&mut durable));
    thread::scope(|scope| {
        scope.spawn(|| canceller.cancel());
        assert!(block_on(next(&mut follow)).is_none());
        assert!(block_on(next(&mut follow)).is_none());
    });
    thread::scope(|scope| {
        scope.spawn(|| {
            fail(&sim, CallKind::SyncData, Some("k-"));
            wal.append_entry("k", None, "x", true).unwrap_err();
        });
        let end = block_on(next(&mut durable)).unwrap();
        assert!(matches!(end, Err(WalError::Poisoned { .. })), "{end:?}");
        assert!(block_on(next(&mut durable)).is_none());
    });
}

/// The file of such a key is opened for the sync alone where the cache is full, and again to look at.
#[test]
fn an_entry_of_a_file_that_was_closed_unsynced_becomes_durable() {
    let (_sim, wal) = open(WalOptions::default().journal_bytes(1 << 20).max_open_files(1));
    let made = wal.append_entry("k", None, "0", false).unwrap();
    wal.append_entry("other", None, "0", false).unwrap();
    let read = wal.read_entry_at(made).unwrap();
    assert_eq!(read, "0");
    let server = Arc::clone(&wal);
    let server = thread::spawn(move || server.serve_syncs());
    block_on(wal.when_durable(made)).unwrap();
    wal.shutdown().unwrap();
    server.join().unwrap().unwrap();
}

type Task = Pin<Box<dyn Future<Output = keywal::Result<()>> + Send>>;

/// An executor that has been shut down: the task goes when it is woken.
struct Gone(Mutex<Option<Task>>, mpsc::Sender<&'static str>);

impl Wake for Gone {
    fn wake(self: Arc<Self>) {
        let Some(task) = self.0.lock().unwrap().take() else { return };
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(task)));
        self.1.send(if dropped.is_ok() { "dropped" } else { "panicked" }).unwrap();
    }
}

/// A task that waits for the entry with the handle it is given; tells when it is gone.
fn wait_until_gone(wal: Arc<Wal>, reference: EntryRef) -> mpsc::Receiver<&'static str> {
    let task: Task = Box::pin(WhenDurable::new(wal, reference));
    let (says, said) = mpsc::channel();
    let gone = Arc::new(Gone(Mutex::new(Some(task)), says));
    let waker = Waker::from(Arc::clone(&gone));
    let mut task = gone.0.lock().unwrap();
    let polled = task.as_mut().unwrap().as_mut().poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    drop(task);
    said
}

/// As soon as nobody else has it open.
fn open_after(sim: &SimDir, options: impl Fn() -> WalOptions) -> Wal {
    let began = Instant::now();
    loop {
        match Wal::open_in(Arc::new(sim.clone()), options()) {
            Err(WalError::Locked { .. }) => assert!(began.elapsed() < FOR_EVER, "never released"),
            opened => return opened.unwrap(),
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// The last handle of the log goes on the log's own thread.
#[test]
fn the_log_may_end_on_the_thread_that_wakes_a_task() {
    let every = SyncPolicy::Every(Duration::from_millis(200));
    let (sim, wal) = open(direct().sync_policy(every));
    let reference = wal.append_entry("k", None, "0", false).unwrap();
    assert_eq!(wait_until_gone(wal, reference).recv_timeout(FOR_EVER).unwrap(), "dropped");
    assert_eq!(open_after(&sim, direct).len("k").unwrap(), 1);
}

/// What the thread is in the middle of goes on for a while: nobody else may have the directory meanwhile. It had written to
/// the journal of the next log.
#[test]
fn a_log_that_ends_on_its_own_thread_stays_locked_until_that_has_ended() {
    let options = || WalOptions::default().journal_bytes(16_384);
    for count in 36..42 {
        let sim = SimDir::new(1);
        let dir = HookedDir::new(&sim, "");
        let is_slow = Arc::new(AtomicBool::new(false));
        let slow = Arc::clone(&is_slow);
        dir.at_each_call(move |call, name| match call {
            CallKind::SyncData if name == SEGMENT => thread::sleep(Duration::from_millis(50)),
            CallKind::SyncDir if slow.load(Ordering::Relaxed) => {
                thread::sleep(Duration::from_millis(100));
            }
            _ => {}
        });
        let wal = Wal::open_in(Arc::new(dir), options().maintenance_thread(true)).unwrap();
        let wal = Arc::new(wal);
        wal.append_entry("k", None, "0", true).unwrap();
        let reference = wal.append_entry("k", None, "1", false).unwrap();
        let gone = wait_until_gone(Arc::clone(&wal), reference);
        is_slow.store(true, Ordering::Relaxed);
        // Until the thread has something to do.
        wal.append_entry("busy", None, [7; 3_600], false).unwrap();
        drop(wal);
        let next = open_after(&sim, options);
        for _ in 0..count {
            next.append_entry("new", None, [7; 20], true).unwrap();
        }
        assert_eq!(gone.recv_timeout(FOR_EVER).unwrap(), "dropped");
        thread::sleep(Duration::from_millis(200));
        let after = SimDir::from_image(&sim.durable_image(), 3);
        let after = Wal::open_in(Arc::new(after), options()).unwrap();
        assert_eq!(after.len("new").unwrap(), count, "{:?}", after.recovery_report().damaged);
    }
}

/// The thread has so much to sync that others help it; the log ends on one of those.
#[test]
fn the_log_may_end_on_a_thread_that_helps_its_own() {
    let sim = SimDir::new(1);
    let dir = HookedDir::new(&sim, ".log");
    let synced = Arc::new(AtomicBool::new(false));
    dir.at_each_call(move |call, name| match thread::current().name() {
        // It is slow: that key is left to those that help, which have no name.
        Some("keywal-maintenance") if call == CallKind::SyncData => {
            let began = Instant::now();
            while !synced.load(Ordering::Relaxed) && began.elapsed() < Duration::from_secs(1) {
                thread::sleep(Duration::from_millis(1));
            }
        }
        None if call == CallKind::SyncData && name.starts_with("k50-") => {
            synced.store(true, Ordering::Relaxed);
        }
        _ => {}
    });
    let options = || WalOptions::default().journal_bytes(1 << 20);
    let wal = Wal::open_in(Arc::new(dir), options().maintenance_thread(true)).unwrap();
    let wal = Arc::new(wal);
    for number in 0..100 {
        wal.append_entry(format!("k{number}"), None, "0", true).unwrap();
    }
    let reference = wal.append_entry("k50", None, "1", false).unwrap();
    let gone = wait_until_gone(Arc::clone(&wal), reference);
    // Until the thread has something to do.
    for _ in 0..300 {
        wal.append_entry("busy", None, [7; 600], false).unwrap();
    }
    drop(wal);
    assert_eq!(gone.recv_timeout(FOR_EVER).unwrap(), "dropped");
    assert_eq!(open_after(&sim, options).len("k50").unwrap(), 2);
}

/// The file of a key cannot even be opened for its sync: no segment has an error to tell.
#[test]
fn a_future_whose_sync_could_not_begin_is_told() {
    for journal in [0, 1 << 16] {
        let (sim, wal) = open(WalOptions::default().journal_bytes(journal).max_open_files(1));
        let append = |key| wal.append_entry(key, None, "x", false).unwrap();
        let reference = append("k");
        append("other");
        let waits = wal.when_durable(reference);
        let mut waits = std::pin::pin!(waits);
        assert!(waits.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        append("other");
        append("another");
        fail(&sim, CallKind::Open, Some("k-"));
        let server = Arc::clone(&wal);
        let server = thread::spawn(move || server.serve_syncs());
        // It was durable in the meantime, or asks once more and is, or it is told the error.
        let _told = block_on(waits);
        wal.shutdown().unwrap();
        let ended = server.join().unwrap();
        assert!(matches!(ended, Ok(()) | Err(WalError::Closed)), "{ended:?}");
    }
}
