//! What does an index cost where memory is short? Documents on disk, in RAM only where they are: as
//! references, as 8-byte positions, or nothing at all. Counts what each of them takes from the heap.
//!
//! ```text
//! cargo run --release --example ref_index
//! ```

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::HashMap;
use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use bytes::Bytes;
use keywal::{EntryRef, Wal, WalOptions};

type Result<T = (), E = Box<dyn Error>> = std::result::Result<T, E>;

const KEY: &str = "documents";
const DOCUMENTS: u64 = 100_000;
const LOOKUPS: u64 = 5_000;

/// The system's allocator, which also knows how much is held.
struct Counting;

static HELD_BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands everything on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD_BYTES.fetch_add(layout.size(), Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD_BYTES.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `work`, and says how many more bytes are held for each document with what it returned.
fn measured<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let before = HELD_BYTES.load(Relaxed);
    let done = work()?;
    let held = HELD_BYTES.load(Relaxed).saturating_sub(before);
    Ok((done, f64::from(u32::try_from(held)?) / f64::from(u32::try_from(DOCUMENTS)?)))
}

/// Identifiers that say nothing about the order of the documents.
fn id_of(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn document(number: u64) -> String {
    format!("document {number}: {}", "lorem ipsum dolor sit amet ".repeat(5))
}

/// Stores the documents in batches, with their identifiers as headers.
fn store(wal: &Wal) -> Result {
    let numbers: Vec<u64> = (0..DOCUMENTS).collect();
    for some in numbers.chunks(1_000) {
        let batch = some.iter().map(|number| {
            let header = Bytes::copy_from_slice(&id_of(*number).to_le_bytes());
            (Some(header), Bytes::from(document(*number)))
        });
        wal.append_batch(KEY, batch, false)?;
    }
    Ok(())
}

/// A document from its identifier. An index is rebuilt from the log, so it needs no file of its own.
trait Index: Sized {
    const NAME: &'static str;
    /// No more than this for a document.
    const MAX_BYTES: f64;
    fn build(wal: &Wal) -> Result<Self>;
    fn find(&self, id: u64) -> Option<EntryRef>;
}

/// Calls `each` with the identifier and the reference of every document.
fn each_reference(wal: &Wal, mut each: impl FnMut(u64, EntryRef)) -> Result {
    let mut entries = wal.entries(KEY)?;
    while let Some(entry) = entries.next_slice() {
        let entry = entry?;
        let id = entry.header.ok_or("a document without an identifier")?;
        each(u64::from_le_bytes(id.try_into()?), entry.reference);
    }
    Ok(())
}

/// The obvious one: a hash map of whole references.
struct ByHash(HashMap<u64, EntryRef>);

impl Index for ByHash {
    const NAME: &'static str = "hash map of references";
    const MAX_BYTES: f64 = 80.0;

    fn build(wal: &Wal) -> Result<Self> {
        let mut map = HashMap::new();
        each_reference(wal, |id, reference| {
            map.insert(id, reference);
        })?;
        Ok(Self(map))
    }

    fn find(&self, id: u64) -> Option<EntryRef> {
        self.0.get(&id).copied()
    }
}

/// The small one: all documents are in one key, so that a position is enough; sorted by identifier.
struct Sorted {
    key_hash: u64,
    positions: Vec<(u64, u64)>,
}

impl Index for Sorted {
    const NAME: &'static str = "sorted pairs of identifier and position";
    const MAX_BYTES: f64 = 16.1;

    fn build(wal: &Wal) -> Result<Self> {
        let mut positions = Vec::with_capacity(usize::try_from(wal.len(KEY)?)?);
        let mut key_hash = 0;
        each_reference(wal, |id, reference| {
            key_hash = reference.key_hash;
            positions.push((id, reference.position()));
        })?;
        positions.sort_unstable();
        Ok(Self { key_hash, positions })
    }

    fn find(&self, id: u64) -> Option<EntryRef> {
        let at = self.positions.binary_search_by_key(&id, |pair| pair.0).ok()?;
        Some(EntryRef::from_position(self.key_hash, self.positions.get(at)?.1))
    }
}

/// Numbers of documents, all over the place.
fn lookups() -> impl Iterator<Item = u64> {
    (0..LOOKUPS).map(|number| number.wrapping_mul(7_919) % DOCUMENTS)
}

fn report(name: &str, bytes: f64, started: Instant) {
    let nanos = started.elapsed().as_nanos() / u128::from(LOOKUPS);
    println!(
        "{name:<40} {bytes:>5.1} bytes a document, {nanos:>6} ns to look one up and compare it"
    );
}

/// Builds the index, looks up documents, compares each of them with what was stored.
fn try_index<I: Index>(wal: &Wal) -> Result {
    let (index, bytes) = measured(|| I::build(wal))?;
    let mut buffer = Vec::new();
    let started = Instant::now();
    for number in lookups() {
        let reference = index.find(id_of(number)).ok_or("a document is not in the index")?;
        let found = wal.read_entry_into(reference, &mut buffer)?;
        assert_eq!((found.index, found.content), (number, document(number).as_bytes()));
    }
    report(I::NAME, bytes, started);
    assert!(bytes <= I::MAX_BYTES, "{}: {bytes} bytes a document", I::NAME);
    assert_eq!(index.find(id_of(DOCUMENTS)), None);
    Ok(())
}

/// Who numbers documents as the log does needs no index: the log searches its segment instead.
fn try_without_index(wal: &Wal) -> Result {
    let ((), bytes) = measured(|| {
        let started = Instant::now();
        for number in lookups() {
            let found = wal.get(KEY, number)?.ok_or("a document is not in the log")?;
            assert_eq!(found.content, document(number));
        }
        report("no index, by number", 0.0, started);
        Ok(())
    })?;
    assert!(bytes < 1.0, "looking up left {bytes} bytes a document");
    Ok(())
}

fn main() -> Result {
    let dir = tempfile::tempdir()?;
    let (wal, bytes) = measured(|| {
        let wal = Wal::new(dir.path(), WalOptions::default())?;
        store(&wal)?;
        Ok(wal)
    })?;
    let on_disk = wal.key_stats(KEY)?.bytes / DOCUMENTS;
    println!(
        "{DOCUMENTS} documents, {on_disk} bytes each on disk; the log holds {bytes:.2} bytes for each"
    );
    assert!(bytes < 1.0, "the log itself holds {bytes} bytes a document");

    try_index::<ByHash>(&wal)?;
    try_index::<Sorted>(&wal)?;
    try_without_index(&wal)?;

    // References are as durable as what they lead to: the index can be kept, or built again.
    let before = Sorted::build(&wal)?;
    wal.shutdown()?;
    drop(wal);
    let wal = Wal::new(dir.path(), WalOptions::default())?;
    let (after, _) = measured(|| Sorted::build(&wal))?;
    println!("after a restart the index is the same: {}", before.positions == after.positions);
    assert_eq!((before.key_hash, &before.positions), (after.key_hash, &after.positions));
    Ok(wal.shutdown()?)
}
