//! Is the format what the specification says, for ever?
//!
//! `tests/verify.py` is written from the specification alone, so it and the crate must find the same in
//! every directory. `tests/golden/v1` was written once; every later version has to read it, and to write
//! the same bytes. `KEYWAL_BLESS=1` writes it anew, which is right only before version 1 is released.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use keywal::fs::sim::SimDir;
use keywal::{ManualClock, Wal, WalError, WalOptions};

mod common;

const T0: u64 = 1_700_000_000_000;
const BINARY: &[u8] = b"\x00\xff Bin/\"key\"\n";
/// Two keys with one hash.
const PAIR: [&str; 2] = ["8yn0iYCKYHlIj4-BwPqk", "GReLUrM4wMqfg9yzV3KQ"];
const BIG: usize = 3500;
const GOLDEN_SEED: u64 = 0x6b65_7977_616c;

/// An entry as text: key, index, timestamp, header, content (bytes as hexadecimal), sequence, offset.
type Row = (String, u64, u64, Option<String>, String, u64, u64);

/// Held by each test: a process that another test starts holds, until it runs its program, a copy of
/// every file that is locked here.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Windows of 10 s, kept for 100 s.
fn options(clock: &Arc<ManualClock>) -> WalOptions {
    WalOptions::with_retention(Duration::from_secs(100))
        .journal_bytes(0)
        .max_segment_bytes(4096)
        .max_entry_bytes(4000)
        .clock(clock.clone())
}

/// Everything that leaves something in a directory. `rest` is told the stage each time that the log is
/// not open.
fn story(open: &dyn Fn() -> Wal, clock: &ManualClock, rest: &mut dyn FnMut(&str)) {
    let header = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    let wal = open();
    wal.append_entry("", None, "the empty key", false).unwrap();
    wal.append_entry(BINARY, header(""), "", true).unwrap();
    for key in PAIR {
        wal.append_entry(key, header("pair"), key, false).unwrap();
    }
    wal.append_entry("gone", None, "goes", true).unwrap();
    let batch = [(None, "one"), (header(""), ""), (header("h"), "three")];
    let batch = batch.map(|(header, content)| (header, Bytes::from_static(content.as_bytes())));
    wal.append_batch("idle", batch.clone(), true).unwrap();
    drop(wal);
    rest("dropped after the first entries");

    let wal = open();
    clock.advance(Duration::from_secs(60));
    wal.append_entry("", header("again"), "second window", false).unwrap();
    wal.append_entry(BINARY, None, "second window", false).unwrap();
    wal.append_entry(PAIR[1], None, "second window", false).unwrap();
    wal.append_entry("orders", None, "o".repeat(BIG), true).unwrap();
    wal.append_entry("orders", header("size"), "next segment", true).unwrap();
    clock.advance(Duration::from_millis(1));
    wal.append_batch("orders", batch.clone(), false).unwrap();
    wal.append_entry("trimmed", None, "before", false).unwrap();
    wal.append_entry("Emptied.", None, "before", false).unwrap();
    wal.shutdown().unwrap();
    rest("shut down");

    let wal = open();
    clock.advance(Duration::from_secs(11));
    wal.append_entry("orders", header("window"), "third segment", false).unwrap();
    wal.append_entry("trimmed", None, "behind", false).unwrap();
    assert_eq!(wal.truncate_before("trimmed", 1).unwrap().dropped_entries, 1);
    assert_eq!(wal.truncate_before("Emptied.", 9).unwrap().dropped_entries, 1);
    wal.remove_key("gone").unwrap();
    wal.remove_key(PAIR[0]).unwrap();
    drop(wal);
    rest("dropped after removals");

    let wal = open();
    clock.advance(Duration::from_secs(49));
    // First segments of "", the binary key and the second of the pair, and all of "idle".
    assert_eq!(wal.compact().unwrap().dropped_segments, 4);
    wal.append_entry("gone", None, "anew", false).unwrap();
    wal.append_batch(PAIR[1], batch, true).unwrap();
    wal.shutdown().unwrap();
    rest("compacted and shut down");
}

/// What the crate reads, and the errors on the way.
fn read(wal: &Wal) -> (Vec<Row>, Vec<WalError>) {
    let (mut rows, mut errors) = (Vec::new(), Vec::new());
    for key in wal.enumerate_keys().unwrap() {
        for entry in wal.entries(&key).unwrap() {
            match entry {
                Ok(e) => rows.push((
                    hex(&key),
                    e.index,
                    e.timestamp_ms,
                    e.header.as_deref().map(hex),
                    hex(&e.content),
                    e.reference.sequence_number,
                    e.reference.offset,
                )),
                Err(error) => errors.push(error),
            }
        }
    }
    rows.sort();
    (rows, errors)
}

/// A copy of the directory, opened by the crate, so that the original stays as it is.
fn read_copy(dir: &Path, clock: &Arc<ManualClock>) -> (Vec<Row>, Vec<WalError>, Wal) {
    let copy = tempfile::tempdir().unwrap();
    copy_files(dir, copy.path());
    let wal = Wal::new(copy.path(), options(clock)).unwrap();
    let (rows, errors) = read(&wal);
    (rows, errors, wal)
}

fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn has_python() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok_and(|o| o.status.success());
    if !found {
        println!("skipped: no python3");
    }
    found
}

/// What verify.py finds: entries, and the lines about damage.
fn verify(dir: &Path) -> (Vec<Row>, Vec<String>) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verify.py");
    let output =
        Command::new("python3").arg("-B").arg(script).arg(dir).arg("--entries").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let rows = text.lines().filter(|line| line.starts_with('{')).map(|line| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let number = |name: &str| row[name].as_u64().unwrap();
        let bytes = |name: &str| row[name].as_str().map(str::to_owned);
        (
            bytes("key").unwrap(),
            number("index"),
            number("timestamp_ms"),
            bytes("header"),
            bytes("content").unwrap(),
            number("sequence"),
            number("offset"),
        )
    });
    let mut rows: Vec<Row> = rows.collect();
    rows.sort();
    let damage: Vec<String> =
        text.lines().filter(|line| line.starts_with("damage: ")).map(str::to_owned).collect();
    let code = i32::from(!damage.is_empty());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}{errors}");
    (rows, damage)
}

/// Runs the story on the real file system up to the end of a stage.
fn directory_at(stage: &str) -> (tempfile::TempDir, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(T0));
    let dir = tempfile::tempdir().unwrap();
    let kept = tempfile::tempdir().unwrap();
    let mut now = None;
    story(&|| Wal::new(dir.path(), options(&clock)).unwrap(), &clock, &mut |name| {
        if name == stage {
            copy_files(dir.path(), kept.path());
            now = Some(keywal::Clock::now_ms(&*clock));
        }
    });
    (kept, Arc::new(ManualClock::new(now.expect("no such stage"))))
}

#[test]
fn the_specification_and_the_crate_read_the_same() {
    let _alone = alone();
    if !has_python() {
        return;
    }
    let clock = Arc::new(ManualClock::new(T0));
    let dir = tempfile::tempdir().unwrap();
    let mut stages = 0;
    story(&|| Wal::new(dir.path(), options(&clock)).unwrap(), &clock, &mut |stage| {
        let (rows, damage) = verify(dir.path());
        assert_eq!(damage, [""; 0], "{stage}");
        let (expected, errors, _) = read_copy(dir.path(), &clock);
        assert!(errors.is_empty(), "{stage}: {errors:?}");
        assert!(rows.len() >= 7, "{stage}: {} entries", rows.len());
        assert_eq!(rows, expected, "{stage}");
        stages += 1;
    });
    assert_eq!(stages, 4);
}

#[test]
fn a_torn_tail_is_none_of_the_entries() {
    let _alone = alone();
    if !has_python() {
        return;
    }
    let (dir, clock) = directory_at("dropped after removals");
    let before = verify(dir.path()).0;
    let path = segment(dir.path(), "orders", 5);
    let mut bytes = fs::read(&path).unwrap();
    // A signature alone, a piece of a frame from elsewhere, noise.
    bytes.extend(b"\xf7\x4b\x57\xe5");
    bytes.extend_from_within(bytes.len() - 40..);
    bytes.extend((0..99).map(|n: u8| n.wrapping_mul(151)));
    fs::write(&path, bytes).unwrap();
    let (rows, damage) = verify(dir.path());
    assert_eq!(damage, [""; 0]);
    assert_eq!(rows, before);
    let (expected, errors, wal) = read_copy(dir.path(), &clock);
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(rows, expected);
    assert_eq!(wal.recovery_report().torn.len(), 1);
    assert_eq!(wal.recovery_report().damaged, []);
}

/// The file of a segment.
fn segment(dir: &Path, label: &str, sequence: u32) -> PathBuf {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names = names.map(|name| name.into_string().unwrap());
    let (front, back) = (format!("{label}-"), format!("-{sequence:04}.log"));
    dir.join(names.find(|name| name.starts_with(&front) && name.ends_with(&back)).unwrap())
}

/// Damages a directory, after a crash and after a clean shutdown, and compares what both find. `lost`:
/// indexes of "orders" that nobody can read any more.
fn both_report(damage: impl Fn(&Path) -> (String, Option<u64>), lost: &[u64]) {
    if !has_python() {
        return;
    }
    for stage in ["dropped after removals", "compacted and shut down"] {
        let (dir, clock) = directory_at(stage);
        let mut left = verify(dir.path()).0;
        left.retain(|row| row.0 != hex(b"orders") || !lost.contains(&row.1));
        let (name, offset) = damage(dir.path());
        let (rows, lines) = verify(dir.path());
        let place = match offset {
            Some(offset) => format!("damage: {name}: offset {offset}: "),
            None => format!("damage: {name}: "),
        };
        assert!(lines.iter().any(|line| line.starts_with(&place)), "{stage}: {lines:#?}");
        assert_eq!(rows, left, "{stage}: verify.py");
        let (rows, errors, _) = read_copy(dir.path(), &clock);
        assert_eq!(rows, left, "{stage}: the crate");
        assert!(!errors.is_empty(), "{stage}");
        for error in &errors {
            let WalError::Corrupted { path, offset: found, .. } = error else {
                panic!("{stage}: {error}")
            };
            assert!(path.to_string_lossy().contains("orders-"), "{stage}: {error}");
            assert!(offset.is_none_or(|offset| offset == *found), "{stage}: {error}");
        }
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn a_flipped_bit_of_a_sealed_segment_is_reported_by_both() {
    let _alone = alone();
    let flip = |dir: &Path| {
        let path = segment(dir, "orders", 4);
        let mut bytes = fs::read(&path).unwrap();
        let three = bytes.windows(5).position(|w| w == b"three").unwrap();
        bytes[three + 2] ^= 0x10;
        fs::write(&path, bytes).unwrap();
        // In front of the content: the entry's header "h", and the frame header.
        (name(&path), Some(u64::try_from(three - 33).unwrap()))
    };
    both_report(flip, &[4]);
}

#[test]
fn a_missing_middle_segment_is_reported_by_both() {
    let _alone = alone();
    let remove = |dir: &Path| {
        fs::remove_file(segment(dir, "orders", 4)).unwrap();
        // It is the segment behind it that says so.
        (name(&segment(dir, "orders", 5)), None)
    };
    both_report(remove, &[1, 2, 3, 4]);
}

#[test]
fn a_sealed_segment_cut_short_is_reported_by_both() {
    let _alone = alone();
    let cut = |dir: &Path| {
        let path = segment(dir, "orders", 4);
        let bytes = fs::read(&path).unwrap();
        let three = bytes.windows(5).position(|w| w == b"three").unwrap();
        fs::write(&path, &bytes[..three + 2]).unwrap();
        (name(&path), None)
    };
    both_report(cut, &[4]);
}

/// An empty file, where the next segment was about to be: known when the directory was closed, or not.
#[test]
fn a_cut_off_creation_is_no_damage_unless_a_closed_directory_does_not_know_it() {
    let _alone = alone();
    if !has_python() {
        return;
    }
    let (dir, clock) = directory_at("dropped after removals");
    let before = verify(dir.path()).0;
    let newest = segment(dir.path(), "orders", 5);
    let next = newest.with_file_name(name(&newest).replace("-0005", "-0006"));
    fs::write(&next, "").unwrap();
    assert_eq!(verify(dir.path()), (before.clone(), Vec::new()));
    Wal::new(dir.path(), options(&clock)).unwrap().shutdown().unwrap();
    assert!(next.exists());
    assert_eq!(verify(dir.path()), (before.clone(), Vec::new()));
    let (rows, errors, wal) = read_copy(dir.path(), &clock);
    assert!(errors.is_empty() && wal.recovery_report().clean, "{errors:?}");
    assert_eq!(rows, before);

    // Nothing was cut off here, so a segment without a header is one that has lost it.
    let (dir, clock) = directory_at("compacted and shut down");
    fs::write(segment(dir.path(), "orders", 5), "").unwrap();
    let (_, damage) = verify(dir.path());
    assert!(damage.iter().any(|line| line.contains("orders-")), "{damage:?}");
    let wal = read_copy(dir.path(), &clock).2;
    let last = wal.entries("orders").unwrap().last();
    assert!(matches!(last, Some(Err(WalError::Corrupted { .. }))), "{last:?}");
    let refused = wal.append_entry("orders", None, "x", false);
    assert!(matches!(refused, Err(WalError::Corrupted { .. })), "{refused:?}");
}

/// A version that is not known yet, with the right checksum behind it.
fn set_version(path: &Path, version: usize, checksum: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[version] = 2;
    let sum = crc32fast::hash(&bytes[..checksum]).to_le_bytes();
    bytes[checksum..checksum + 4].copy_from_slice(&sum);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_newer_version_is_refused_by_name_and_left_alone() {
    let _alone = alone();
    let clock = Arc::new(ManualClock::new(T0 + 121_000));
    let dir = tempfile::tempdir().unwrap();
    copy_files(&golden_dir(), dir.path());
    let path = segment(dir.path(), "orders", 5);
    set_version(&path, 6, 132 + "orders".len() - 4);
    let newer = fs::read(&path).unwrap();
    let wal = Wal::new(dir.path(), options(&clock)).unwrap();
    for refused in [
        wal.append_entry("orders", None, "x", true).unwrap_err(),
        wal.entries("orders").unwrap_err(),
        wal.remove_key("orders").unwrap_err(),
    ] {
        let text = format!("{}: format version 2 is newer than this program", path.display());
        assert_eq!(refused.to_string(), text);
    }
    let mut others = golden_rows();
    others.retain(|row| row.0 != hex(b"orders"));
    assert_eq!(read(&wal).0, others);
    wal.shutdown().unwrap();
    assert_eq!(fs::read(&path).unwrap(), newer);
    if has_python() {
        let (rows, damage) = verify(dir.path());
        assert_eq!(damage, [""; 0]);
        assert!(others.iter().all(|row| rows.contains(row)));
    }

    let meta = dir.path().join("META");
    set_version(&meta, 8, 124);
    let newer = fs::read(&meta).unwrap();
    let refused = Wal::new(dir.path(), options(&clock)).unwrap_err();
    assert!(matches!(&refused, WalError::UnsupportedVersion { path, version: 2 } if *path == meta));
    assert_eq!(fs::read(&meta).unwrap(), newer);
}

/// The entries of the golden directory: key, index, milliseconds since [`T0`], header, content,
/// sequence, offset.
type Golden = (&'static [u8], u64, u64, Option<&'static str>, &'static str, u64, u64);

#[rustfmt::skip]
const GOLDEN: &[Golden] = &[
    (b"", 1, 60_000, Some("again"), "second window", 3, 644),
    (BINARY, 1, 60_000, None, "second window", 3, 657),
    (PAIR[1].as_bytes(), 1, 60_000, None, "second window", 3, 664),
    (PAIR[1].as_bytes(), 2, 120_001, None, "one", 7, 664),
    (PAIR[1].as_bytes(), 3, 120_001, Some(""), "", 7, 699),
    (PAIR[1].as_bytes(), 4, 120_001, Some("h"), "three", 7, 731),
    (b"gone", 0, 120_001, None, "anew", 7, 648),
    (b"orders", 0, 60_000, None, "BIG", 3, 650),
    (b"orders", 1, 60_000, Some("size"), "next segment", 4, 650),
    (b"orders", 2, 60_001, None, "one", 4, 698),
    (b"orders", 3, 60_001, Some(""), "", 4, 733),
    (b"orders", 4, 60_001, Some("h"), "three", 4, 765),
    (b"orders", 5, 71_001, Some("window"), "third segment", 5, 650),
    (b"trimmed", 1, 71_001, None, "behind", 4, 651),
];

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

fn golden_rows() -> Vec<Row> {
    let big = "o".repeat(BIG);
    let row = |&(key, index, ms, header, content, sequence, offset): &Golden| {
        let content = if content == "BIG" { &big } else { content };
        let header = header.map(|header| hex(header.as_bytes()));
        (hex(key), index, T0 + ms, header, hex(content.as_bytes()), sequence, offset)
    };
    GOLDEN.iter().map(row).collect()
}

/// Runs the story on the simulated file system, where even the random numbers are the same each time.
fn golden_files() -> Vec<(String, Vec<u8>)> {
    let clock = Arc::new(ManualClock::new(T0));
    let dir = SimDir::new(GOLDEN_SEED);
    story(&|| Wal::open_in(Arc::new(dir.clone()), options(&clock)).unwrap(), &clock, &mut |_| {});
    dir.image().files().map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).collect()
}

#[test]
fn the_bytes_written_are_those_of_the_golden_directory() {
    let _alone = alone();
    let written = golden_files();
    if std::env::var_os("KEYWAL_BLESS").is_some() {
        let _ = fs::remove_dir_all(golden_dir());
        fs::create_dir_all(golden_dir()).unwrap();
        for (name, bytes) in &written {
            fs::write(golden_dir().join(name), bytes).unwrap();
        }
    }
    let entries = fs::read_dir(golden_dir()).expect("KEYWAL_BLESS=1 writes the golden directory");
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, written.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
    for (name, bytes) in written {
        let golden = fs::read(golden_dir().join(&name)).unwrap();
        let differs = golden.iter().zip(&bytes).position(|(a, b)| a != b);
        assert_eq!((differs, bytes.len()), (None, golden.len()), "{name}: first different offset");
    }
}

#[test]
fn the_golden_directory_is_read_and_continued() {
    let _alone = alone();
    let clock = Arc::new(ManualClock::new(T0 + 121_000));
    let dir = tempfile::tempdir().unwrap();
    copy_files(&golden_dir(), dir.path());
    let wal = Wal::new(dir.path(), options(&clock)).unwrap();
    assert!(wal.recovery_report().clean);
    let (rows, errors) = read(&wal);
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(rows, golden_rows());
    // Keys without entries carry their numbers on.
    assert_eq!(wal.next_index("idle").unwrap(), 3);
    assert_eq!(wal.next_index("Emptied.").unwrap(), 1);
    assert_eq!(wal.next_index(PAIR[0]).unwrap(), 0);

    let expected = |wal: &Wal| {
        let (rows, errors) = read(wal);
        assert!(errors.is_empty(), "{errors:?}");
        let mut old = golden_rows();
        let new = |row: &Row| row.4 == hex(b"continued");
        assert_eq!(rows.iter().filter(|row| new(row)).count(), 5);
        old.extend(rows.iter().filter(|row| new(row)).cloned());
        old.sort();
        assert_eq!(rows, old);
    };
    for (key, index) in [("", 2), ("idle", 3), ("orders", 6), (PAIR[0], 0), (PAIR[1], 5)] {
        wal.append_if(key, index, None, "continued", true).unwrap();
    }
    drop(wal);
    let wal = Wal::new(dir.path(), options(&clock)).unwrap();
    expected(&wal);
    wal.shutdown().unwrap();
    let wal = Wal::new(dir.path(), options(&clock)).unwrap();
    assert!(wal.recovery_report().clean);
    expected(&wal);
    wal.shutdown().unwrap();
    if has_python() {
        assert_eq!(verify(dir.path()).1, [""; 0]);
    }
}

#[test]
fn the_specification_reads_the_golden_directory() {
    let _alone = alone();
    if has_python() {
        assert_eq!(verify(&golden_dir()), (golden_rows(), Vec::new()));
    }
}

/// A snapshot reads like its original, and one that is not finished is not read.
#[test]
fn a_snapshot_is_read_by_both() {
    if !has_python() {
        return;
    }
    let (dir, clock) = directory_at("dropped after removals");
    let (rows, ..) = read_copy(dir.path(), &clock);
    let home = tempfile::tempdir().unwrap();
    let wal = Wal::new(dir.path(), options(&clock)).unwrap();
    wal.snapshot(home.path()).unwrap();
    let (found, damage) = verify(home.path());
    assert_eq!((&found, damage.len()), (&rows, 0));

    let path = home.path().join("META");
    let mut facts = fs::read(&path).unwrap();
    for slot in [0, 4096] {
        facts[slot + 10] |= 4;
    }
    common::forge::reseal("META", &mut facts);
    fs::write(&path, facts).unwrap();
    let opened = Wal::new(home.path(), options(&clock));
    assert!(matches!(opened, Err(WalError::Incomplete { .. })));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verify.py");
    let output = Command::new("python3").arg("-B").arg(script).arg(home.path()).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("not finished"), "{output:?}");
}
