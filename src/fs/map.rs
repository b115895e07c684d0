//! A file as memory.
//!
//! Beside `fork.rs`, the one file of the crate with `unsafe`: mapping, copying, unmapping. No reference
//! into the mapping ever exists, so nothing is assumed about bytes that another process may change.
//!
//! Whoever cuts the file while it is mapped kills the process with `SIGBUS`; so does a disk that cannot
//! read a page back.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ptr::{self, NonNull};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::Mapping;

#[derive(Debug)]
pub(super) struct Map {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping belongs to nobody but this value, which only copies into it and out of it.
unsafe impl Send for Map {}
// SAFETY: as above; who may touch which range at which moment is the contract of `Mapping`.
unsafe impl Sync for Map {}

impl Map {
    pub(super) fn new(file: &File, bytes: usize) -> io::Result<Self> {
        if file.metadata()?.len() < super::len_u64(bytes) || bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address of the kernel's choice, overlaps nothing that is in use.
        let start = unsafe { mmap(ptr::null_mut(), bytes, access, MapFlags::SHARED, file, 0)? };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, bytes })
    }

    /// Where a range of so many bytes starts, if it lies in the mapping.
    fn range(&self, offset: usize, bytes: usize) -> Option<NonNull<u8>> {
        let end = offset.checked_add(bytes)?;
        // SAFETY: `offset` is not behind the end of the mapping.
        (end <= self.bytes).then(|| unsafe { self.start.add(offset) })
    }
}

impl Mapping for Map {
    fn store(&self, offset: usize, bytes: &[u8]) {
        if let Some(to) = self.range(offset, bytes.len()) {
            // SAFETY: the range lies in the mapping, which is writable and no Rust value.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) }
        }
    }

    fn load(&self, offset: usize, buffer: &mut [u8]) {
        if let Some(from) = self.range(offset, buffer.len()) {
            // SAFETY: the range lies in the mapping, which is readable and no Rust value.
            unsafe { ptr::copy_nonoverlapping(from.as_ptr(), buffer.as_mut_ptr(), buffer.len()) }
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: mapped with this address and length, and nothing refers to it any more.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
