//! How do the everyday calls fare from commit to commit? Each stands beside its floor in one group.
//! `cargo bench --bench criterion`. The figures of the README are those of `ratios.rs`, which alternates
//! subject and floor and so holds on a noisy machine.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use keywal::{Durability, EntryRef, Wal, WalOptions};

const FRAME_HEADER_BYTES: usize = 32;

fn log() -> (tempfile::TempDir, Wal) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("create a directory");
    let wal = Wal::new(dir.path(), WalOptions::default()).expect("open a log");
    (dir, wal)
}

fn append(criterion: &mut Criterion) {
    for (durability, bytes) in
        [(Durability::Os, 100), (Durability::Os, 1024), (Durability::Disk, 100)]
    {
        let mut group = criterion.benchmark_group(format!("append {durability:?} {bytes} B"));
        group.throughput(Throughput::Bytes(bytes as u64));
        let (dir, wal) = log();
        let content = vec![7; bytes];
        group.bench_function("keywal", |bencher| {
            bencher.iter(|| wal.append_entry("k", None, &content, durability).expect("append"));
        });
        let file = File::create(dir.path().join("floor")).expect("create a file");
        let frame = vec![7; bytes + FRAME_HEADER_BYTES];
        let mut end = 0;
        group.bench_function("floor", |bencher| {
            bencher.iter(|| {
                file.write_all_at(&frame, end).expect("write");
                end += frame.len() as u64;
                if durability == Durability::Disk {
                    file.sync_data().expect("sync");
                }
            });
        });
    }
}

fn read(criterion: &mut Criterion) {
    const ENTRIES: usize = 100_000;
    let (_dir, wal) = log();
    let append = |_| wal.append_entry("k", None, [7; 100], false).expect("append");
    let refs: Vec<EntryRef> = (0..ENTRIES).map(append).collect();
    // Moves what only the journal has to the file, which the floor reads.
    wal.last("k").expect("read");
    let path = wal.segments("k").expect("list")[0].path.clone();
    let file = File::open(path).expect("open");
    let mut group = criterion.benchmark_group("read 100 B");
    let mut at = 0;
    let mut next = || {
        at = (at + 7_919) % ENTRIES;
        refs[at]
    };
    group.bench_function("by reference", |bencher| {
        bencher.iter(|| wal.read_entry_at(next()).expect("read"));
    });
    group.bench_function("by index", |bencher| {
        bencher.iter(|| wal.get("k", next().offset % ENTRIES as u64).expect("read"));
    });
    let mut frame = [0; 100 + FRAME_HEADER_BYTES];
    group.bench_function("floor", |bencher| {
        bencher.iter(|| {
            file.read_exact_at(&mut frame, next().offset).expect("read");
            black_box((crc32fast::hash(&frame), frame[FRAME_HEADER_BYTES..].to_vec()))
        });
    });
    group.throughput(Throughput::Elements(ENTRIES as u64));
    group.bench_function("all in order", |bencher| {
        let each = |entry: keywal::Result<_>| drop(black_box(entry.expect("read")));
        bencher.iter(|| wal.entries("k").expect("read").for_each(each));
    });
    group.finish();
}

criterion_group!(benches, append, read);
criterion_main!(benches);
