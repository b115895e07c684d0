//! Does the log give back what it was given? Appends every line of real files, closes, reopens,
//! compares each line with its source byte for byte, then lets the retention take everything.
//!
//! ```text
//! cargo run --release --example quickstart -- [PATH] [--key RULE] [--dir DIR]
//! ```
//!
//! `PATH` is a directory or a file of lines (default: the source code of this crate); files ending in
//! `.gz` are unpacked. `RULE` says which key a line goes to: `file`, its relative path (default);
//! `field:N[:SEP]`, its N-th field, counted from 1 (`SEP` is one character, or else white space); `prefix:N`, its
//! first N bytes. The log is made in `DIR`, or else in a temporary directory that is removed at the end.

#[path = "quickstart/account.rs"]
mod account;
#[path = "quickstart/source.rs"]
mod source;

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use keywal::{Entries, EntryRef, Key, ManualClock, RecoveryReport, Wal, WalError, WalOptions};

use account::Account;
use source::Source;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// References kept in memory, and keys read at the same time.
const MAX_REFS: usize = 100_000;
const MAX_READERS: usize = 256;

fn main() -> Result {
    let (source, dir) = Source::from_args(std::env::args().skip(1))?;
    let temporary = tempfile::tempdir()?;
    let path = dir.as_deref().unwrap_or(temporary.path());
    if fs::read_dir(path).is_ok_and(|mut names| names.next().is_some()) {
        return Err("the directory given with --dir is not empty".into());
    }
    // A log takes the time from a clock of our own, so that weeks can pass in an instant.
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let options = WalOptions::with_retention(Duration::from_secs(60 * 60))
        .segments_per_retention_period(6)
        .clock(clock.clone());
    let wal = Wal::new(path, options.clone())?;
    println!("open       a new log in {}", path.display());

    let mut account = Account::default();
    let refs = append_all(&wal, &source, &mut account)?;
    account.measure_disk(&wal, &options)?;
    read_at_random(&wal, &refs, &mut account)?;
    replay_one_key(&wal, account.first_key.as_ref().ok_or("there are no lines")?)?;
    append_durably(&wal)?;

    drop(wal); // no shutdown: what the death of the process leaves behind
    let wal = Wal::new(path, options.clone())?;
    show("recovery", "after a drop without shutdown", wal.recovery_report());
    wal.shutdown()?;
    let wal = Wal::new(path, options)?;
    show("reopen", "after a shutdown", wal.recovery_report());

    compare_with_source(&wal, &source, &mut account)?;
    let_time_pass(&wal, &clock, &refs)?;
    println!("stats      since the reopen: {:?}", wal.stats());
    account.print();
    if dir.is_some() {
        wal.shutdown()?;
    } else {
        wal.destroy()?;
    }
    Ok(())
}

/// Appends every line with its place as the header. Keeps at most `MAX_REFS` references, evenly spread.
fn append_all(wal: &Wal, source: &Source, account: &mut Account) -> Result<HashMap<String, Kept>> {
    let mut refs: HashMap<String, Kept> = HashMap::new();
    let mut every = 1;
    source.each_line(&mut |line| {
        let header = Bytes::from(line.place.clone());
        account.first_key.get_or_insert_with(|| Key::from(line.key.to_vec()));
        let started = Instant::now();
        let reference = wal.append_entry(line.key, Some(header), line.content, false)?;
        account.append_time += started.elapsed();
        if account.entries % every == 0 {
            let kept = Kept { reference, number: account.entries, digest: digest(line.content) };
            refs.insert(line.place.clone(), kept);
        }
        if refs.len() > MAX_REFS {
            every *= 2;
            refs.retain(|_, kept| kept.number % every == 0);
        }
        account.entries += 1;
        account.content_bytes += line.content.len() as u64;
        account.header_bytes += line.place.len() as u64;
        Ok(())
    })?;
    account.keys = wal.enumerate_keys()?.len();
    let Account { entries, content_bytes, keys, .. } = *account;
    println!("append     {entries} lines, {content_bytes} bytes, to {keys} keys");
    Ok(refs)
}

/// Reads entries by reference, in no order, each of them alone.
fn read_at_random(wal: &Wal, refs: &HashMap<String, Kept>, account: &mut Account) -> Result {
    // A `HashMap` iterates in random order.
    let started = Instant::now();
    for (place, kept) in refs {
        let entry = wal.read_entry(kept.reference)?;
        assert_eq!(entry.header.as_deref(), Some(place.as_bytes()));
        assert_eq!(digest(&entry.content), kept.digest, "{place}");
    }
    account.random_reads = refs.len() as u64;
    account.random_time = started.elapsed();
    let bytes = refs.len() * size_of::<EntryRef>();
    println!("by ref     {} read at random, all as appended ({bytes} bytes of refs)", refs.len());
    Ok(())
}

/// Reads one key from its first entry to its last.
fn replay_one_key(wal: &Wal, key: &Key) -> Result {
    let (mut entries, mut bytes) = (0, 0);
    for entry in wal.entries(key)? {
        let entry = entry?;
        assert_eq!(entry.index, entries);
        entries += 1;
        bytes += entry.content.len();
    }
    println!("replay     key {key:?}: {entries} entries in order, {bytes} bytes");
    Ok(())
}

/// Appends that survive power loss: one, and many at once, which share their syncs.
fn append_durably(wal: &Wal) -> Result {
    let started = Instant::now();
    let reference = wal.log_entry("quickstart:durable", None, "on the disk")?;
    let first = started.elapsed();
    assert_eq!(wal.read_entry_at(reference)?, "on the disk");
    println!("durable    one append in {first:.0?}, its file and its name synced");

    let (threads, each) = (8, 50);
    let (before, started) = (wal.stats().syncs, Instant::now());
    std::thread::scope(|scope| {
        let append =
            || (0..each).try_for_each(|_| wal.log_entry("quickstart:shared", None, "!").map(drop));
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(append)).collect();
        all.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })?;
    assert_eq!(wal.len("quickstart:shared")?, threads * each);
    let (appends, syncs) = (threads * each, wal.stats().syncs - before);
    let elapsed = started.elapsed();
    println!(
        "durable    {appends} appends from {threads} threads in {elapsed:.0?} with {syncs} syncs"
    );
    Ok(())
}

fn show(step: &str, when: &str, report: &RecoveryReport) {
    let RecoveryReport { clean, segments, keys, entries_checked, elapsed, .. } = report;
    println!(
        "{step:<10} {when}: clean {clean}, {keys} keys, {segments} segments, {entries_checked} entries \
         checked, {} torn, {} damaged, in {elapsed:.1?}",
        report.torn.len(),
        report.damaged.len()
    );
    assert!(report.torn.is_empty() && report.damaged.is_empty(), "{report:?}");
}

/// The proof: goes through the source again, and every line must be the next entry of its key.
fn compare_with_source(wal: &Wal, source: &Source, account: &mut Account) -> Result {
    let mut readers: HashMap<Vec<u8>, Entries<'_>> = HashMap::new();
    let mut next: HashMap<Vec<u8>, u64> = HashMap::new();
    let mut lines = 0;
    source.each_line(&mut |line| {
        let index = next.entry(line.key.to_vec()).or_default();
        if readers.len() >= MAX_READERS && !readers.contains_key(line.key) {
            readers.clear();
        }
        let started = Instant::now();
        let reader = match readers.get_mut(line.key) {
            Some(reader) => reader,
            None => {
                readers.entry(line.key.to_vec()).or_insert(wal.entries(line.key)?.range(*index..))
            }
        };
        let entry = reader.next().ok_or_else(|| format!("{} is missing", line.place))??;
        account.scan_time += started.elapsed();
        assert_eq!((entry.index, &entry.content[..]), (*index, line.content), "{}", line.place);
        assert_eq!(entry.header.as_deref(), Some(line.place.as_bytes()));
        *index += 1;
        lines += 1;
        Ok(())
    })?;
    for (key, count) in &next {
        assert_eq!(wal.next_index(key)?, *count, "entries that are not in the source");
    }
    assert_eq!((lines, next.len()), (account.entries, account.keys));
    println!("compare    {lines} lines of {} keys equal their source, byte for byte", next.len());
    Ok(())
}

/// Entries are kept for the retention (an hour) and go at most one window (ten minutes) later.
fn let_time_pass(wal: &Wal, clock: &ManualClock, refs: &HashMap<String, Kept>) -> Result {
    clock.advance(Duration::from_secs(60 * 60));
    let early = wal.compact()?;
    let fresh = wal.append_entry("quickstart:fresh", None, "new", false)?;
    clock.advance(Duration::from_secs(10 * 60));
    let started = Instant::now();
    let late = wal.compact()?;
    println!("compact    60 minutes on: {} segments dropped", early.dropped_segments);
    println!(
        "compact    70 minutes on: {} segments, {} entries, {} bytes dropped in {:.1?}",
        late.dropped_segments,
        late.dropped_entries,
        late.dropped_bytes,
        started.elapsed()
    );
    assert_eq!((early.dropped_segments, late.failures.len()), (0, 0));
    for (place, kept) in refs {
        let result = wal.read_entry_at(kept.reference);
        assert!(matches!(result, Err(WalError::Expired)), "{place}: {result:?}");
    }
    assert_eq!(wal.read_entry_at(fresh)?, "new");
    println!("expired    all {} old refs say Expired; an entry of 10 minutes is there", refs.len());
    Ok(())
}

struct Kept {
    reference: EntryRef,
    number: u64,
    digest: u64,
}

fn digest(content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}
