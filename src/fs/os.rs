//! The real file system. But for the memory of `map.rs`, the only file of the crate that calls the
//! operating system.

use std::any::Any;
use std::ffi::OsStr;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use fs2::FileExt as _;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::map::Map;
use super::{Dir, File, LOCK_NAME, Lock, Mapping, OpenMode};

/// File systems that never write in place, by their magic numbers (`statfs(2)`): Btrfs, bcachefs, ZFS.
#[cfg(target_os = "linux")]
const COPY_ON_WRITE: [rustix::fs::FsWord; 3] = [0x9123_683E, 0xCA45_1A4E, 0x2FC1_2FC1];

/// A directory held open by descriptor: renaming it while it is in use changes nothing.
#[derive(Debug)]
pub struct OsDir {
    path: PathBuf,
    dir: OwnedFd,
    file_mode: Mode,
}

impl OsDir {
    /// Opens `path`, creating it and its parents with `dir_mode` where they are missing. Files
    /// created later get `file_mode`. The umask of the process narrows both.
    pub fn open(path: &Path, dir_mode: u32, file_mode: u32) -> io::Result<Self> {
        let mut created = Vec::new();
        let mut missing = path;
        while !missing.as_os_str().is_empty() && !missing.try_exists()? {
            created.push(missing);
            missing = missing.parent().unwrap_or_else(|| Path::new(""));
        }
        std::fs::DirBuilder::new().recursive(true).mode(dir_mode).create(path)?;
        for new in created {
            let parent = match new.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            std::fs::File::open(parent)?.sync_all()?;
        }
        let dir = rustix::fs::open(
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let file_mode = Mode::from_bits_truncate(file_mode);
        Ok(Self { path: path.to_owned(), dir, file_mode })
    }

    /// Opens `path`, which must exist, and changes nothing.
    pub fn existing(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { path: path.to_owned(), dir, file_mode: Mode::empty() })
    }

    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<std::fs::File> {
        // NONBLOCK keeps a planted FIFO from hanging the caller.
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let irregular = || io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
        let fd = match rustix::fs::openat(&self.dir, name, flags, self.file_mode) {
            // A link, a directory, a socket.
            Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => return Err(irregular()),
            result => result?,
        };
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
        if kind == FileType::RegularFile { Ok(std::fs::File::from(fd)) } else { Err(irregular()) }
    }
}

impl Dir for OsDir {
    fn path(&self) -> &Path {
        &self.path
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        let file = self.open_file(LOCK_NAME, OFlags::RDWR | OFlags::CREATE)?;
        match file.try_lock_exclusive() {
            Err(error) if error.raw_os_error() == fs2::lock_contended_error().raw_os_error() => {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            result => result?,
        }
        // Whoever removed the file and made it anew holds a lock on another inode.
        let held = rustix::fs::fstat(&file)?;
        let named = rustix::fs::statat(&self.dir, LOCK_NAME, AtFlags::SYMLINK_NOFOLLOW)?;
        if (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino) {
            Ok(Box::new(OsLock { file, process: std::process::id() }))
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }

    fn list(&self, each: &mut dyn FnMut(&OsStr)) -> io::Result<()> {
        for entry in rustix::fs::Dir::read_from(&self.dir)? {
            let entry = entry?;
            match entry.file_name().to_bytes() {
                b"." | b".." => {}
                name => each(OsStr::from_bytes(name)),
            }
        }
        Ok(())
    }

    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let flags = match mode {
            OpenMode::Read => OFlags::RDONLY,
            OpenMode::Write => OFlags::RDWR,
            OpenMode::CreateNew => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
        };
        Ok(Box::new(OsFile(self.open_file(name, flags)?)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.dir, name, AtFlags::empty())?)
    }

    fn link(&self, from: &dyn Dir, name: &str) -> io::Result<()> {
        let from = from.as_any().and_then(|from| from.downcast_ref::<Self>());
        let from = from.ok_or(io::ErrorKind::CrossesDevices)?;
        // Only a regular file opens.
        drop(from.open_file(name, OFlags::RDONLY)?);
        Ok(rustix::fs::linkat(&from.dir, name, &self.dir, name, AtFlags::empty())?)
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.dir)?)
    }

    fn random(&self) -> u64 {
        // The keys of `RandomState` are drawn once for a thread, and a fork copies them: what tells two
        // processes, and two calls, apart goes in.
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u32(std::process::id());
        hasher.write_u64(CALLS.fetch_add(1, Ordering::Relaxed));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        hasher.write_u128(now.as_nanos());
        hasher.finish()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let space = rustix::fs::fstatvfs(&self.dir)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }
}

/// Unlocked by name when it is dropped: closing the file is not enough while a child that another thread
/// has just forked, and that has yet to `exec`, holds a copy of the descriptor.
#[derive(Debug)]
struct OsLock {
    file: std::fs::File,
    process: u32,
}

impl Lock for OsLock {}

impl Drop for OsLock {
    fn drop(&mut self) {
        // A forked child's copy is the parent's lock.
        if self.process == std::process::id() {
            let _ = fs2::FileExt::unlock(&self.file);
        }
    }
}

#[derive(Debug)]
struct OsFile(std::fs::File);

impl File for OsFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        match parts {
            [only] => self.0.write_at(only, offset),
            #[cfg(not(target_vendor = "apple"))]
            parts => Ok(rustix::io::pwritev(self.0.as_fd(), parts, offset)?),
            #[cfg(target_vendor = "apple")]
            parts => self.0.write_at(
                parts.iter().find(|part| !part.is_empty()).map_or(&[], |part| part),
                offset,
            ),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn is_shared(&self) -> io::Result<bool> {
        Ok(self.0.metadata()?.nlink() > 1)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        // Not through fs2: its `allocate` reports a stale `errno` instead of what went wrong.
        #[cfg(not(target_vendor = "apple"))]
        {
            use rustix::fs::{FallocateFlags, fallocate};
            fallocate(&self.0, FallocateFlags::empty(), 0, bytes)?;
            // What a copy shares needs space when it is written to. Few file systems can do this.
            match fallocate(&self.0, FallocateFlags::UNSHARE_RANGE, 0, bytes) {
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {}
                unshared => unshared?,
            }
        }
        #[cfg(target_vendor = "apple")]
        fs2::FileExt::allocate(&self.0, bytes)?;
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        rustix::fs::fadvise(&self.0, 0, None, rustix::fs::Advice::DontNeed)?;
        Ok(())
    }

    fn map(&self, bytes: usize) -> io::Result<Box<dyn Mapping>> {
        // Where nothing is ever written in place, no space can be reserved for a store, and on a full disk it would be
        // the end of the process.
        #[cfg(target_os = "linux")]
        if COPY_ON_WRITE.contains(&rustix::fs::fstatfs(&self.0)?.f_type) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Box::new(Map::new(&self.0, bytes)?))
    }
}
