//! The floors: the least that the system calls and checksums of the same work cost.

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Condvar, Mutex};

use bytes::Bytes;

/// What a scan reads at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// A growing file, one thread.
pub struct Growing {
    file: File,
    end: u64,
}

impl Growing {
    pub fn create(path: &Path) -> Self {
        Self { file: create(path), end: 0 }
    }

    pub fn write(&mut self, bytes: &[u8]) {
        let written = self.file.write_at(bytes, self.end).expect("write");
        assert_eq!(written, bytes.len());
        self.end += bytes.len() as u64;
    }

    pub fn write_durably(&mut self, bytes: &[u8]) {
        self.write(bytes);
        self.file.sync_data().expect("sync");
    }
}

/// A growing file, many threads: whoever finds nobody syncing syncs for all who wait by then.
pub struct Shared {
    file: File,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    end: u64,
    durable: u64,
    syncing: bool,
}

impl Shared {
    pub fn create(path: &Path) -> Self {
        Self { file: create(path), state: Mutex::default(), changed: Condvar::new() }
    }

    pub fn write_durably(&self, bytes: &[u8]) {
        let mut state = self.state.lock().expect("lock");
        self.file.write_all_at(bytes, state.end).expect("write");
        state.end += bytes.len() as u64;
        let mine = state.end;
        while state.durable < mine {
            if state.syncing {
                state = self.changed.wait(state).expect("lock");
                continue;
            }
            state.syncing = true;
            let covered = state.end;
            drop(state);
            self.file.sync_data().expect("sync");
            state = self.state.lock().expect("lock");
            state.syncing = false;
            state.durable = covered;
            self.changed.notify_all();
        }
    }
}

/// Reads one frame into `buffer` in one call and checks all of it.
pub fn read_frame(file: &File, offset: u64, buffer: &mut [u8]) {
    file.read_exact_at(buffer, offset).expect("read");
    black_box(crc32fast::hash(buffer));
}

/// As [`read_frame`], and a copy of the payload that the caller may keep.
pub fn read_entry(file: &File, offset: u64, buffer: &mut [u8], header_bytes: usize) -> Bytes {
    read_frame(file, offset, buffer);
    Bytes::copy_from_slice(&buffer[header_bytes..])
}

/// Reads the frames between two offsets, all of the same length: 64 KiB at a time, checks each and
/// copies it. Returns how many there were.
pub fn scan(file: &File, start: u64, end: u64, frame_bytes: usize) -> usize {
    let (mut chunk, mut copy) = (vec![0; CHUNK_BYTES], vec![0; frame_bytes]);
    let (mut at, mut frames) = (start, 0);
    while at < end {
        let read = file.read_at(&mut chunk, at).expect("read");
        let mut whole = 0;
        for frame in chunk[..read].chunks_exact(frame_bytes) {
            if at + whole >= end {
                break;
            }
            black_box(crc32fast::hash(frame));
            copy.copy_from_slice(black_box(frame));
            black_box(&copy);
            whole += frame_bytes as u64;
            frames += 1;
        }
        assert_ne!(whole, 0, "a file ends in the middle of a frame");
        at += whole;
    }
    frames
}

fn create(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).open(path).expect("create a file")
}
