//! Do segments reach their limit of 4 GiB, and what lies just before it can be read?
//!
//! On a directory in memory that does not store zeros, so that entries full of them cost nothing but
//! time: some 9 GiB are written, and checked by each recovery.
//! `cargo test --release --test large -- --nocapture`

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use keywal::fs::{Dir, File, Lock, Mapping, OpenMode};
use keywal::{Entry, EntryRef, Wal, WalOptions};

use common::Failures;
use common::progress::Progress;

mod common;

const PAGE_BYTES: usize = 4096;
const ENTRY_BYTES: usize = 512 << 20;
/// What a frame adds to its payload.
const FRAME_BYTES: usize = 32;
/// The largest that is allowed: 1 MiB less than 4 GiB, room for headers.
const MAX_SEGMENT_BYTES: u64 = 4_293_918_719;

/// A file's pages that are not all zeros, and its length.
#[derive(Debug, Default)]
struct Sparse {
    pages: BTreeMap<u64, Vec<u8>>,
    len: u64,
}

#[derive(Debug, Clone, Default)]
struct SparseFile(Arc<Mutex<Sparse>>);

#[derive(Debug, Clone, Default)]
struct SparseDir {
    files: Arc<Mutex<BTreeMap<String, SparseFile>>>,
    numbers: Arc<AtomicU64>,
}

/// Splits `bytes` from `offset` on at the borders of pages: page, place in it, bytes.
fn by_page(offset: u64, bytes: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut at = offset;
    let end = offset + bytes as u64;
    std::iter::from_fn(move || {
        let inside = usize::try_from(at % PAGE_BYTES as u64).unwrap();
        let part = (PAGE_BYTES - inside).min(usize::try_from(end - at).unwrap());
        let page = at / PAGE_BYTES as u64;
        at += part as u64;
        (part > 0).then_some((page, inside, part))
    })
}

impl File for SparseFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let file = self.0.lock().unwrap();
        let bytes = usize::try_from(file.len.saturating_sub(offset)).unwrap().min(buffer.len());
        let mut done = 0;
        for (page, inside, part) in by_page(offset, bytes) {
            let target = &mut buffer[done..done + part];
            match file.pages.get(&page) {
                Some(page) => target.copy_from_slice(&page[inside..inside + part]),
                None => target.fill(0),
            }
            done += part;
        }
        Ok(bytes)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut file = self.0.lock().unwrap();
        let mut at = offset;
        for part in parts {
            let mut rest = &part[..];
            for (page, inside, bytes) in by_page(at, part.len()) {
                let (data, behind) = rest.split_at(bytes);
                if data.iter().any(|byte| *byte != 0) || file.pages.contains_key(&page) {
                    let page = file.pages.entry(page).or_insert_with(|| vec![0; PAGE_BYTES]);
                    page[inside..inside + bytes].copy_from_slice(data);
                }
                rest = behind;
            }
            at += part.len() as u64;
        }
        file.len = file.len.max(at);
        Ok(usize::try_from(at - offset).unwrap())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut file = self.0.lock().unwrap();
        assert!(bytes >= file.len || bytes % PAGE_BYTES as u64 == 0, "not needed here");
        file.pages.split_off(&(bytes / PAGE_BYTES as u64));
        file.len = bytes;
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len)
    }

    fn allocate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn map(&self, _: usize) -> io::Result<Box<dyn Mapping>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[derive(Debug)]
struct NoLock;

impl Lock for NoLock {}

impl Dir for SparseDir {
    fn path(&self) -> &Path {
        Path::new("/sparse")
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        Ok(Box::new(NoLock))
    }

    fn list(&self, each: &mut dyn FnMut(&OsStr)) -> io::Result<()> {
        self.files.lock().unwrap().keys().for_each(|name| each(OsStr::new(name)));
        Ok(())
    }

    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let mut files = self.files.lock().unwrap();
        let found = files.get(name).cloned();
        match (found, mode) {
            (Some(_), OpenMode::CreateNew) => Err(io::ErrorKind::AlreadyExists.into()),
            (Some(file), _) => Ok(Box::new(file)),
            (None, OpenMode::CreateNew) => {
                Ok(Box::new(files.entry(name.to_owned()).or_default().clone()))
            }
            (None, _) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let removed = self.files.lock().unwrap().remove(name);
        removed.map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn random(&self) -> u64 {
        self.numbers.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed)
    }
}

/// What was appended: its length, and the byte in its middle; all others are zeros.
struct Appended {
    reference: EntryRef,
    bytes: usize,
    middle: u8,
}

#[test]
fn segments_reach_4_gib_and_no_further() {
    if cfg!(debug_assertions) {
        println!("skipped: takes minutes unoptimised");
        return;
    }
    let options = WalOptions::default()
        .max_segment_bytes(MAX_SEGMENT_BYTES)
        .max_entry_bytes(ENTRY_BYTES as u64);
    let dir = SparseDir::default();
    let open = || Wal::open_in(Arc::new(dir.clone()), options.clone()).unwrap();
    let mut wal = open();
    let progress = Progress::new("large", "entries", 18);
    let mut all = Vec::new();
    let mut append = |wal: &Wal, bytes: usize| {
        let middle = u8::try_from(all.len()).unwrap();
        let mut content = vec![0; bytes];
        content[bytes / 2] = middle;
        let reference = wal.append_entry("large", None, &content, middle % 2 == 0).unwrap();
        all.push(Appended { reference, bytes, middle });
        progress.step(|| "");
    };
    let end = |wal: &Wal| wal.segments("large").unwrap()[0].bytes;
    (0..7).for_each(|_| append(&wal, ENTRY_BYTES));
    // A large and a small entry fill the segment to the last byte.
    let small = 100;
    let rest = usize::try_from(MAX_SEGMENT_BYTES - end(&wal)).unwrap() - small - 2 * FRAME_BYTES;
    assert!(rest < ENTRY_BYTES);
    append(&wal, rest);
    append(&wal, small);
    assert_eq!(end(&wal), MAX_SEGMENT_BYTES);
    (0..9).for_each(|_| append(&wal, ENTRY_BYTES));

    for clean in [false, true] {
        if clean {
            wal.shutdown().unwrap();
        }
        drop(wal);
        wal = open();
        assert!(wal.recovery_report().damaged.is_empty());
        let segments = wal.segments("large").unwrap();
        // The mark of its end has room behind the last entry.
        assert_eq!(segments[0].next_index, 9);
        check(&wal, &all);
    }
    let offset = |appended: &Appended| appended.reference.offset;
    let figures = [
        ("entries", all.len() as u64),
        ("bytes", all.iter().map(|appended| appended.bytes as u64).sum()),
        ("highest_offset", all.iter().map(offset).max().unwrap()),
    ];
    progress.figures(&figures, &Failures::default());
}

fn check(wal: &Wal, all: &[Appended]) {
    let check = |entry: &Entry, at: usize| {
        let Appended { reference, bytes, middle } = all[at];
        assert_eq!((entry.index, entry.reference), (at as u64, reference));
        assert_eq!((entry.content.len(), entry.content[bytes / 2]), (bytes, middle));
    };
    assert_eq!(wal.len("large").unwrap(), all.len() as u64);
    for (at, entry) in wal.entries("large").unwrap().enumerate() {
        check(&entry.unwrap(), at);
    }
    for at in [0, 6, 7, 8, 9, 17] {
        check(&wal.read_entry(all[at].reference).unwrap(), at);
        check(&wal.get("large", at as u64).unwrap().unwrap(), at);
    }
}
