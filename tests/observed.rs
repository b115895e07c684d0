//! Is what happens told to `tracing`, and what was counted to `metrics`? And nothing for an append that goes
//! well? Run with `--features tracing,metrics`.

mod common;

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keywal::fs::sim::{CallKind, FaultKind, SimDir};
use keywal::{ManualClock, Wal};
use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};

use common::logs::{NOW, SEGMENT, fail, open, open_small, options};

const EIO: FaultKind = FaultKind::Error(5);

// ---- tracing ----

/// Keeps what it is told: spans by name, events by level and text.
#[derive(Clone, Default)]
struct Listener(Arc<Mutex<Vec<(Level, String)>>>);

#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("keywal")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let metadata = span.metadata();
        self.0.lock().unwrap().push((*metadata.level(), metadata.name().to_owned()));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        self.0.lock().unwrap().push((*event.metadata().level(), text.0));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Listener {
    /// What was told since the last call.
    fn told(&self) -> Vec<(Level, String)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// What `work` leads to being told.
fn told<T>(work: impl FnOnce() -> T) -> (T, Vec<(Level, String)>) {
    let listener = Listener::default();
    let result = tracing::subscriber::with_default(listener.clone(), work);
    (result, listener.told())
}

fn assert_told(told: &[(Level, String)], level: Level, parts: &[&str]) {
    let found =
        told.iter().any(|(at, text)| *at == level && parts.iter().all(|part| text.contains(part)));
    assert!(found, "no {level} with {parts:?} in {told:#?}");
}

#[test]
fn nothing_is_told_of_appends_and_reads_that_go_well() {
    let sim = SimDir::new(1);
    for journal_bytes in [0, 64 << 10] {
        let options = options().journal_bytes(journal_bytes);
        let wal = Wal::open_in(Arc::new(sim.clone()), options).unwrap();
        wal.append_entry("k", None, "starts the segment", true).unwrap();
        let ((), told) = told(|| {
            for durable in [false, true] {
                let reference = wal.append_entry("k", None, "content", durable).unwrap();
                wal.read_entry(reference).unwrap();
            }
            assert!(wal.entries("k").unwrap().all(|entry| entry.is_ok()));
            wal.sync().unwrap();
        });
        assert!(told.is_empty(), "{told:?}");
        wal.shutdown().unwrap();
    }
}

#[test]
fn opening_tells_what_it_found() {
    let sim = SimDir::new(1);
    let (wal, fresh) = told(|| open(&sim));
    assert_told(&fresh, Level::INFO, &["keywal.open"]);
    assert_told(&fresh, Level::INFO, &["opened", "clean=true", "keys=0"]);
    wal.append_entry("k", None, [1; 100], true).unwrap();
    let reference = wal.append_entry("k", None, [2; 100], false).unwrap();
    drop(wal);
    let mut image = sim.image();
    let cut = usize::try_from(reference.offset).unwrap() + 50;
    image.set(SEGMENT, image.get(SEGMENT).unwrap()[..cut].to_vec());
    image.set("META", b"not what it was".to_vec());
    let (_, found) = told(|| open(&SimDir::from_image(&image, 1)));
    assert_told(&found, Level::WARN, &["unfinished write", SEGMENT, "bytes=50"]);
    assert_told(&found, Level::ERROR, &["damaged", "META"]);
    assert_told(&found, Level::INFO, &["opened", "clean=false", "keys=1", "torn=1"]);
}

#[test]
fn segments_compactions_and_the_end_are_told() {
    let sim = SimDir::new(1);
    let clock = Arc::new(ManualClock::new(NOW));
    let wal = Wal::open_in(Arc::new(sim.clone()), options().clock(clock.clone())).unwrap();
    let append = || {
        wal.append_entry("k", None, [0; 100], true).unwrap();
        clock.advance(Duration::from_secs(60));
    };
    let ((), first) = told(append);
    assert_told(&first, Level::DEBUG, &["segment started", SEGMENT, "rotated=false"]);
    let ((), second) = told(append);
    assert_told(&second, Level::DEBUG, &["segment started", "-0002.log", "rotated=true"]);

    let (_, compacted) = told(|| wal.compact().unwrap());
    assert_told(&compacted, Level::INFO, &["keywal.compact"]);
    assert_told(&compacted, Level::INFO, &["compacted", "dropped_segments=1", "failures=0"]);
    append();
    clock.advance(Duration::from_secs(100));
    fail(&sim, CallKind::Remove, 0, EIO, "k-");
    let (_, failed) = told(|| wal.compact().unwrap());
    assert_told(&failed, Level::WARN, &["not compacted", "k-"]);
    let now_ms = keywal::Clock::now_ms(&*clock);
    clock.set(now_ms - 5_000);
    let (_, refused) = told(|| wal.compact().unwrap());
    assert_told(&refused, Level::WARN, &["refused", "WentBack"]);
    clock.set(now_ms);
    let ((), closed) = told(|| wal.shutdown().unwrap());
    assert_told(&closed, Level::INFO, &["shut down"]);
    let (_, again) = told(|| wal.compact().unwrap_err());
    assert_told(&again, Level::ERROR, &["compaction failed", "shut down"]);
}

#[test]
fn failures_are_told_with_their_file() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    wal.append_entry("k", None, "first", false).unwrap();
    fail(&sim, CallKind::SyncData, 0, EIO, "k-");
    let (_, synced) = told(|| wal.sync_key("k").unwrap_err());
    assert_told(&synced, Level::ERROR, &["sync failed", SEGMENT, "os error 5"]);
    assert_eq!(synced.len(), 1, "once: {synced:?}");

    // A write that cannot be taken back.
    wal.append_entry("l", None, "first", true).unwrap();
    fail(&sim, CallKind::Write, 0, EIO, "l-");
    fail(&sim, CallKind::SetLen, 0, EIO, "l-");
    let (_, written) = told(|| wal.append_entry("l", None, "second", false).unwrap_err());
    assert_told(&written, Level::ERROR, &["poisoned", "l-", "could not be undone"]);

    // A removal that cannot be finished.
    wal.append_entry("m", None, "first", true).unwrap();
    fail(&sim, CallKind::Remove, 0, EIO, "m-");
    let (_, removed) = told(|| wal.remove_key("m").unwrap_err());
    assert_told(&removed, Level::ERROR, &["poisoned"]);

    fail(&sim, CallKind::SyncData, 0, EIO, "META");
    let (_, facts) = told(|| wal.destroy().unwrap_err());
    assert_told(&facts, Level::ERROR, &["sync failed", "META"]);
}

#[test]
fn damage_is_told_when_it_is_met_and_once() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    let reference = wal.append_entry("k", None, [7; 100], true).unwrap();
    wal.shutdown().unwrap();
    drop(wal);
    let mut image = sim.image();
    let mut bytes = image.get(SEGMENT).unwrap().to_vec();
    bytes[usize::try_from(reference.offset).unwrap() + 40] ^= 1;
    image.set(SEGMENT, bytes);
    let wal = open(&SimDir::from_image(&image, 1));
    let (_, met) = told(|| wal.read_entry(reference).unwrap_err());
    assert_told(&met, Level::ERROR, &["damaged", SEGMENT]);
    let (_, again) = told(|| wal.read_entry(reference).unwrap_err());
    assert!(again.is_empty(), "{again:?}");
}

#[test]
fn waiting_for_the_journal_is_told() {
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), options().journal_bytes(4 << 10)).unwrap();
    // The segments take nothing, so the journal fills up.
    wal.append_entry("k", None, [0; 10], false).unwrap();
    sim.set_capacity(Some(0));
    let ((), told) = told(|| while wal.append_entry("k", None, [0; 500], false).is_ok() {});
    assert_told(&told, Level::DEBUG, &["waited for the journal"]);
    assert_told(&told, Level::WARN, &["cannot be emptied", "No space"]);
}

// ---- metrics ----

/// Keeps the newest value of everything, by name.
#[derive(Default)]
struct Keeper {
    values: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    labels: Mutex<Vec<String>>,
    described: Mutex<BTreeMap<String, Option<Unit>>>,
    syncs: Arc<Syncs>,
}

#[derive(Default)]
struct Syncs(AtomicU64);

impl HistogramFn for Syncs {
    fn record(&self, seconds: f64) {
        assert!(seconds >= 0.0);
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Keeper {
    fn value(&self, key: &Key) -> Arc<AtomicU64> {
        let labels = key.labels().map(|label| format!("{}={}", label.key(), label.value()));
        self.labels.lock().unwrap().extend(labels);
        let mut values = self.values.lock().unwrap();
        Arc::clone(values.entry(key.name().to_owned()).or_default())
    }

    fn counter(&self, name: &str) -> Option<u64> {
        Some(self.values.lock().unwrap().get(name)?.load(Ordering::Relaxed))
    }

    fn gauge(&self, name: &str) -> Option<f64> {
        self.counter(name).map(f64::from_bits)
    }

    fn describe(&self, name: &KeyName, unit: Option<Unit>) {
        self.described.lock().unwrap().insert(name.as_str().to_owned(), unit);
    }
}

impl Recorder for Keeper {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(&name, unit);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(&name, unit);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(&name, unit);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.value(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.value(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        assert_eq!(key.name(), "keywal_sync_seconds");
        let labels = key.labels().map(|label| format!("{}={}", label.key(), label.value()));
        self.labels.lock().unwrap().extend(labels);
        Histogram::from_arc(Arc::clone(&self.syncs))
    }
}

#[test]
fn everything_counted_is_published_when_asked_for() {
    let sim = SimDir::new(1);
    let keeper = Keeper::default();
    metrics::with_local_recorder(&keeper, || {
        let wal = open_small(&sim);
        for _ in 0..3 {
            wal.append_entry("k", None, [0; 3_000], false).unwrap();
        }
        wal.append_if("k", 9, None, "late", true).unwrap_err();
        wal.sync_key("k").unwrap();
        assert!(keeper.values.lock().unwrap().is_empty(), "nothing without being asked");

        wal.publish_metrics();
        let stats = wal.stats();
        assert_eq!(keeper.syncs.0.load(Ordering::Relaxed), stats.syncs);
        for (name, value) in [
            ("keywal_appended_entries_total", 3),
            ("keywal_appended_bytes_total", 9_000),
            ("keywal_syncs_total", stats.syncs),
            ("keywal_conflicts_total", 1),
            ("keywal_created_segments_total", 3),
            ("keywal_recoveries_total", 0),
        ] {
            assert_eq!(keeper.counter(name), Some(value), "{name}");
        }
        for (name, value) in
            [("keywal_keys", 1.0), ("keywal_segments", 3.0), ("keywal_poisoned", 0.0)]
        {
            assert_eq!(keeper.gauge(name), Some(value), "{name}");
        }
        assert_eq!(keeper.gauge("keywal_compaction_age_seconds"), None);

        fail(&sim, CallKind::SyncData, 0, EIO, "k-");
        wal.append_entry("k", None, "lost", true).unwrap_err();
        wal.compact().unwrap();
        wal.publish_metrics();
        assert_eq!(keeper.counter("keywal_failed_syncs_total"), Some(1));
        assert_eq!(keeper.gauge("keywal_poisoned"), Some(1.0));
        assert_eq!(keeper.gauge("keywal_compaction_age_seconds"), Some(0.0));
    });
    let labels = keeper.labels.lock().unwrap();
    for label in ["directory=/simulated", "file=segment", "file=directory"] {
        assert!(labels.iter().any(|known| known == label), "{label}");
    }
    let described = keeper.described.lock().unwrap();
    assert!(keeper.values.lock().unwrap().keys().all(|name| described.contains_key(name)));
    assert_eq!(described["keywal_needed_bytes"], Some(Unit::Bytes));
}
