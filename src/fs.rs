//! The seam between keywal and the file system: a dozen calls, nothing else touches a disk.
//!
//! [`OsDir`] is the real one, [`SimDir`](sim::SimDir) the simulated one that crashes, loses sectors and
//! fails calls on demand. Implementations report what the operating system reports and decide nothing:
//! short reads and writes, `EINTR`, rollback and retries are the business of the callers here and
//! above, so that the simulation exercises them.

use std::any::Any;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::Path;

mod map;
mod os;
#[cfg(any(test, feature = "sim"))]
pub mod sim;

pub use os::OsDir;

/// Name of the file that is locked while a directory is open.
pub(crate) const LOCK_NAME: &str = "LOCK";

/// How [`Dir::open`] opens a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// For reading; the file must exist.
    Read,
    /// For reading and writing; the file must exist.
    Write,
    /// For reading and writing; the file must not exist, not even as a dangling link.
    CreateNew,
}

/// An open directory. Names are single components made by keywal, never by a caller.
pub trait Dir: Send + Sync + Debug {
    /// Where the directory was when it was opened; for messages only.
    fn path(&self) -> &Path;

    /// Takes the directory's lock; [`io::ErrorKind::WouldBlock`] where somebody holds it. Dropping
    /// the returned value releases it.
    fn lock(&self) -> io::Result<Box<dyn Lock>>;

    /// Names every entry, in any order.
    fn list(&self, each: &mut dyn FnMut(&OsStr)) -> io::Result<()>;

    /// Opens a regular file. Never follows a link, never blocks; anything that is not a regular file
    /// is refused with [`io::ErrorKind::InvalidInput`].
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Box<dyn File>>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Gives the regular file with this name of another directory the same name here, too. Never follows a
    /// link, never replaces a file. What two directories that cannot share files say is
    /// [`io::ErrorKind::CrossesDevices`], or another error.
    fn link(&self, from: &dyn Dir, name: &str) -> io::Result<()> {
        let (_, _) = (from, name);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// What [`Self::link`] knows a directory of its own kind by, if it can link at all.
    fn as_any(&self) -> Option<&dyn Any> {
        None
    }

    /// Makes all names created and removed so far survive power loss.
    fn sync(&self) -> io::Result<()>;

    /// A random number.
    fn random(&self) -> u64;

    /// Bytes that this process may still add to the file system.
    fn free_bytes(&self) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Held while a directory is locked.
pub trait Lock: Send + Sync + Debug {}

/// An open file. All calls are positional and may be made from several threads at once.
#[allow(clippy::len_without_is_empty, reason = "a file system call, not a collection")]
pub trait File: Send + Sync + Debug {
    /// Reads up to `buffer.len()` bytes at `offset`; 0 is the end of the file, fewer is not.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes some or all of `parts`, one behind the other, at `offset`.
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;

    /// Makes all bytes written so far, and the file's length, survive power loss.
    fn sync_data(&self) -> io::Result<()>;

    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has another name as well, in whatever directory.
    fn is_shared(&self) -> io::Result<bool> {
        Ok(false)
    }

    /// Extends the file to `bytes` and reserves the space on disk, for what it shares with a copy, too. After an error
    /// the file may have grown.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// Lets go of cached pages that are not dirty, so that later reads see what the disk holds.
    fn drop_cache(&self) -> io::Result<()>;

    /// Shows the first `bytes` bytes of the file, which it must have, as memory. What is stored there is
    /// in the file as if it had been written.
    fn map(&self, bytes: usize) -> io::Result<Box<dyn Mapping>>;
}

/// Whether an unlink failed because there is no such file, or a directory in its place, which is none of ours.
pub(crate) fn is_no_file(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory)
}

/// The bytes of a file as memory: stores and loads cost a copy, and cannot fail. A range beyond the
/// mapping is ignored. Nobody may load or store what somebody else stores at that moment.
pub trait Mapping: Send + Sync + Debug {
    /// Copies `bytes` to `offset`.
    fn store(&self, offset: usize, bytes: &[u8]);

    /// Copies from `offset` on.
    fn load(&self, offset: usize, buffer: &mut [u8]);
}

/// Reads at `offset` until `buffer` is full or the file ends; returns the bytes read. An error is
/// never taken for the end of the file.
pub(crate) fn read_full(file: &dyn File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest @ [_, ..]) = buffer.get_mut(filled..) {
        match file.read_at(rest, offset.saturating_add(len_u64(filled))) {
            Ok(0) => break,
            Ok(n) => filled = filled.saturating_add(n),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Writes all of `parts` at `offset`. After an error any prefix may have been written.
pub(crate) fn write_full(
    file: &dyn File,
    mut parts: &mut [IoSlice<'_>],
    mut offset: u64,
) -> io::Result<()> {
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        match file.write_at(parts, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                IoSlice::advance_slices(&mut parts, n);
                offset = offset.saturating_add(len_u64(n));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A length in memory as a length in a file.
pub(crate) fn len_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
