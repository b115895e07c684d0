//! Does the public face do what its documentation says, on the real file system?

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keywal::{Entry, EntryRef, ManualClock, Wal, WalError, WalOptions};

const NOW: u64 = 1_700_000_000_000;

struct Log {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
    options: WalOptions,
}

impl Log {
    /// Retention of 100 s in windows of 10 s.
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(NOW));
        let options = WalOptions::with_retention(Duration::from_secs(100)).clock(clock.clone());
        Self { dir: tempfile::tempdir().unwrap(), clock, options }
    }

    fn open(&self) -> Wal {
        Wal::new(self.dir.path(), self.options.clone()).unwrap()
    }

    fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }
}

fn all(wal: &Wal, key: &str) -> Vec<Entry> {
    wal.entries(key).unwrap().collect::<Result<_, _>>().unwrap()
}

fn indexes(entries: impl Iterator<Item = keywal::Result<Entry>>) -> Vec<u64> {
    entries.map(|entry| entry.unwrap().index).collect()
}

#[test]
fn what_goes_in_comes_out_by_every_way_of_reading() {
    let log = Log::new();
    let wal = log.open();
    let mut refs: Vec<(EntryRef, Option<Bytes>, Bytes)> = Vec::new();
    for number in 0..500_usize {
        let header = match number % 3 {
            0 => None,
            1 => Some(Bytes::new()),
            _ => Some(Bytes::from(vec![b'h'; number])),
        };
        // Empty, small, and larger than any buffer.
        let size = [0, 1, 100, 5_000, 200_000][number % 5];
        let content = Bytes::from(vec![number.to_le_bytes()[0]; size]);
        let durable = number % 100 == 0;
        let made = wal.append_entry("k", header.clone(), &content, durable).unwrap();
        refs.push((made, header, content));
        log.clock.advance(Duration::from_millis(50));
    }
    assert!(wal.segments("k").unwrap().len() > 2);
    let mut buffer = Vec::new();
    for (index, (reference, header, content)) in (0..).zip(&refs) {
        assert_eq!(wal.read_entry_at(*reference).unwrap(), content);
        let entry = wal.read_entry(*reference).unwrap();
        assert_eq!((&entry.header, &entry.content), (header, content));
        assert_eq!((entry.index, entry.timestamp_ms), (index, NOW + 50 * index));
        assert_eq!(wal.get("k", index).unwrap().unwrap(), entry);
        let slice = wal.read_entry_into(*reference, &mut buffer).unwrap();
        assert_eq!((slice.header, slice.content), (header.as_deref(), &content[..]));
        assert_eq!((slice.index, slice.timestamp_ms), (entry.index, entry.timestamp_ms));
    }
    let forward = all(&wal, "k");
    assert!(
        forward.iter().map(|entry| &entry.content).eq(refs.iter().map(|(.., content)| content))
    );
    let mut backward: Vec<_> = wal.entries("k").unwrap().rev().map(Result::unwrap).collect();
    backward.reverse();
    assert_eq!(forward, backward);
    let mut slices = wal.entries("k").unwrap();
    let mut seen = 0;
    while let Some(slice) = slices.next_slice() {
        let slice = slice.unwrap();
        let entry = &forward[seen];
        assert_eq!((slice.header, slice.content), (entry.header.as_deref(), &*entry.content));
        seen += 1;
    }
    assert_eq!(seen, 500);
}

#[test]
fn ranges_by_index_and_time_from_both_ends() {
    let log = Log::new();
    let wal = log.open();
    for _ in 0..100 {
        wal.append_entry("k", None, "x", false).unwrap();
        log.pass(1);
    }
    let entries = || wal.entries("k").unwrap();
    assert_eq!(indexes(entries().range(10..13)), [10, 11, 12]);
    assert_eq!(indexes(entries().range(98..)), [98, 99]);
    assert_eq!(indexes(entries().range(..=1).rev()), [1, 0]);
    assert_eq!(indexes(entries().range(200..)), [] as [u64; 0]);
    assert_eq!(indexes(entries().last_n(2)), [98, 99]);
    assert_eq!(indexes(entries().range(..50).last_n(3).rev()), [49, 48, 47]);
    let at = |second: u64| NOW + 1_000 * second;
    assert_eq!(indexes(entries().time_range(at(42)..at(44)).unwrap()), [42, 43]);
    assert_eq!(indexes(entries().time_range(at(41) + 1..=at(43)).unwrap()), [42, 43]);
    assert_eq!(indexes(entries().time_range(..at(2)).unwrap()), [0, 1]);
    assert_eq!(indexes(entries().time_range(at(1_000)..).unwrap()), [] as [u64; 0]);
    // From both ends at once, no entry twice and none left out.
    let mut both = entries().range(..31);
    let (mut low, mut high) = (Vec::new(), Vec::new());
    while let Some(entry) = both.next() {
        low.push(entry.unwrap().index);
        high.extend(both.next_back().map(|entry| entry.unwrap().index));
    }
    high.reverse();
    assert_eq!([low, high].concat(), (0..31).collect::<Vec<_>>());
    // Entries appended later are not seen by an iterator that exists.
    let old = entries();
    wal.append_entry("k", None, "later", false).unwrap();
    assert_eq!(old.count(), 100);
    assert_eq!(wal.enumerate_records("nobody").unwrap().count(), 0);
}

#[test]
fn retention_keeps_its_two_promises() {
    let log = Log::new();
    let wal = log.open();
    let mut appended = Vec::new();
    for second in 0..300_u64 {
        appended.push(wal.append_entry("k", None, "x", false).unwrap());
        log.pass(1);
        let report = wal.compact().unwrap();
        assert!(report.refused.is_none() && report.failures.is_empty());
        let oldest = wal.entries("k").unwrap().next().unwrap().unwrap();
        let age = NOW + 1_000 * (second + 1) - oldest.timestamp_ms;
        assert!(age <= 110_000, "an entry is {age} ms old");
        let kept = wal.first_index("k").unwrap();
        let dropped_age = 1_000 * (second + 1).saturating_sub(kept.saturating_sub(1));
        assert!(kept == 0 || dropped_age >= 100_000, "dropped an entry of {dropped_age} ms");
    }
    // An idle key goes, too, and its numbers stay.
    log.pass(1_000);
    let kept = wal.len("k").unwrap();
    assert_eq!(wal.compact().unwrap().dropped_entries, kept);
    assert_eq!(wal.len("k").unwrap(), 0);
    assert_eq!(wal.next_index("k").unwrap(), 300);
    assert!(matches!(wal.read_entry_at(appended[299]), Err(WalError::Expired)));
    let report = wal.compact().unwrap();
    assert_eq!(report.dropped_segments, 0, "an empty segment is left alone");
    let next = wal.append_if("k", 300, None, "goes on", false).unwrap();
    assert_eq!(wal.read_entry(next).unwrap().index, 300);
}

#[test]
fn segments_end_by_time_and_by_size() {
    let log = Log::new();
    let wal = log.open();
    for _ in 0..3 {
        wal.append_entry("time", None, "x", false).unwrap();
        log.pass(9);
    }
    // The window of 10 s was over at the third: 18 s after the first.
    let segments = wal.segments("time").unwrap();
    let spans: Vec<_> =
        segments.iter().map(|s| (s.sequence, s.first_index, s.next_index)).collect();
    assert_eq!(spans, [(1, 0, 2), (2, 2, 3)]);
    assert_eq!(segments[0].expiration_ms, NOW + 10_000);
    assert_eq!(segments.iter().map(|s| s.active).collect::<Vec<_>>(), [false, true]);
    drop(wal);

    let small = log.options.clone().max_segment_bytes(4_096).journal_bytes(0);
    let wal = Wal::new(log.dir.path(), small).unwrap();
    for _ in 0..10 {
        wal.append_entry("size", None, [0; 1_000], false).unwrap();
    }
    let segments = wal.segments("size").unwrap();
    assert!(segments.iter().all(|s| s.bytes <= 4_096 + 32), "{segments:?}");
    assert_eq!(segments.len(), 4);
    let stats = wal.key_stats("size").unwrap();
    assert_eq!((stats.first_index, stats.next_index, stats.segments), (0, 10, 4));
    let on_disk: u64 = segments.iter().map(|s| std::fs::metadata(&s.path).unwrap().len()).sum();
    assert_eq!(stats.bytes, on_disk);
}

#[test]
fn truncation_drops_whole_segments_and_never_the_numbers() {
    let log = Log::new();
    let wal = log.open();
    for _ in 0..6 {
        wal.append_entry("k", None, "x", false).unwrap();
        log.pass(5);
    }
    let report = wal.truncate_before("k", 3).unwrap();
    assert_eq!((report.dropped_segments, report.dropped_entries), (1, 2));
    assert_eq!(indexes(wal.entries("k").unwrap()), [2, 3, 4, 5]);
    assert!(matches!(wal.get("k", 1), Err(WalError::Expired)));
    let report = wal.truncate_before("k", 100).unwrap();
    assert_eq!(report.dropped_entries, 4);
    assert_eq!((wal.first_index("k").unwrap(), wal.next_index("k").unwrap()), (6, 6));
    wal.append_entry("k", None, "x", false).unwrap();
    drop(wal);
    let wal = log.open();
    assert!(wal.recovery_report().damaged.is_empty());
    assert_eq!(indexes(wal.entries("k").unwrap()), [6]);
}

#[test]
fn batches_and_conditions() {
    let log = Log::new();
    let wal = log.open();
    let entry = |text: &'static str| (None, Bytes::from_static(text.as_bytes()));
    assert!(wal.append_batch("k", [], true).unwrap().is_empty());
    assert_eq!(wal.active_segment_count(), 0);
    let syncs = wal.stats().syncs;
    let refs = wal.append_batch("k", [entry("a"), entry("b"), entry("c")], true).unwrap();
    assert_eq!(wal.stats().syncs - syncs, 1, "of the journal, which knows the new segment");
    let contents: Vec<_> = refs.iter().map(|made| wal.read_entry_at(*made).unwrap()).collect();
    assert_eq!(contents, ["a", "b", "c"]);
    wal.append_batch("k", [entry("d"), entry("e")], true).unwrap();
    assert_eq!(wal.stats().syncs - syncs, 2);
    let stale = wal.append_if("k", 4, None, "x", false);
    assert!(matches!(stale, Err(WalError::Conflict { expected: 4, actual: 5 })));
    wal.append_if("k", 5, None, "f", false).unwrap();
    assert!(matches!(
        wal.append_if("new", 1, None, "x", false),
        Err(WalError::Conflict { actual: 0, .. })
    ));
    assert_eq!(wal.active_segment_count(), 1, "a refused append creates no key");
    wal.append_if("new", 0, None, "x", true).unwrap();
    assert_eq!(wal.stats().appended_entries, 7);
}

#[test]
fn a_clean_restart_goes_on_in_the_same_segment_and_any_other_in_a_new_one() {
    let log = Log::new();
    let mut segments = 1;
    for round in 0..6_u64 {
        let wal = log.open();
        assert_eq!(wal.recovery_report().clean, round != 3);
        assert_eq!(wal.next_index("k").unwrap(), round);
        wal.append_if("k", round, None, format!("{round}"), false).unwrap();
        // After an unclean stop, offsets behind the end may be in references to lost entries.
        segments += usize::from(round == 3);
        assert_eq!(wal.segments("k").unwrap().len(), segments);
        if round != 2 {
            wal.shutdown().unwrap();
        }
    }
    assert_eq!(all(&log.open(), "k").len(), 6);
}

#[test]
fn references_options_and_reports_serialize() {
    let log = Log::new();
    let wal = log.open();
    let made = wal.append_entry("k", None, "x", true).unwrap();
    let json = serde_json::to_string(&made).unwrap();
    assert_eq!(serde_json::from_str::<EntryRef>(&json).unwrap(), made);
    let options: WalOptions = serde_json::from_str(r#"{"max_open_files": 7}"#).unwrap();
    assert_eq!((options.max_open_files, options.segments_per_retention_period), (7, 10));
    let report = serde_json::to_value(wal.recovery_report()).unwrap();
    assert_eq!(report["clean"], true);
    let stats = serde_json::to_value(wal.stats()).unwrap();
    assert_eq!(stats["appended_entries"], 1);
}

#[test]
fn destroying_is_not_shutting_down() {
    let log = Log::new();
    let wal = log.open();
    wal.append_entry("k", None, "x", true).unwrap();
    wal.shutdown().unwrap();
    assert!(matches!(wal.destroy(), Err(WalError::Closed)));
    let wal = log.open();
    assert_eq!(all(&wal, "k").len(), 1);
    wal.remove_key("k").unwrap();
    wal.remove_key("never there").unwrap();
    assert_eq!((wal.next_index("k").unwrap(), wal.active_segment_count()), (0, 0));
    wal.append_entry("k", None, "y", false).unwrap();
    wal.destroy().unwrap();
    assert_eq!(std::fs::read_dir(log.dir.path()).unwrap().count(), 0);
}
