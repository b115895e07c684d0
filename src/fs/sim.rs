//! A file system in memory that dies, loses power, fills up and fails calls on demand.
//!
//! [`SimDir`] keeps what the running kernel shows and a *trace*: every operation that changed
//! something, in order. What a disk may hold after a power cut is computed from the trace alone. The
//! operations before the cut that a later sync covers are its *base*; the rest is split into *units*
//! of which any subset may have reached the disk, each one independently:
//!
//! * each 512-byte sector of a write,
//! * each change of a file's length. Ahead of the data the tail reads as zeros, behind it the data is
//!   cut off,
//! * each creation and each removal of a name.
//!
//! [`SimDir::crash_images`] walks these subsets, all of them where they are few, a seeded sample
//! otherwise, and [`SimDir::from_image`] boots on the result. [`SimDir::after_kill`] is the death of
//! the process alone. [`SimDir::inject`] fails calls. The lock is not a file here and not listed.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::{Arc, PoisonError};

use self::crash::{Disk, Pick, Random, build};
use super::{Dir, File, Lock, Mapping, OpenMode, len_u64};
use crate::format::mix;
use crate::primitives::{Mutex, MutexGuard};

mod crash;
mod fault;
mod folder;
mod image;
mod mapping;
#[cfg(test)]
mod tests;

pub use self::crash::{CrashBudget, CrashChoice};
pub use self::fault::{CallKind, Fault, FaultKind};
pub use self::image::Image;

/// Files end here with `EFBIG`, so that a wild length does not exhaust memory.
const MAX_FILE_BYTES: usize = 1 << 30;
/// So many calls are remembered one by one. A directory that is read for hours holds no more.
const MAX_KINDS: u64 = 1 << 16;

const EBADF: i32 = 9;
const EFBIG: i32 = 27;
const ENOSPC: i32 = 28;

type Name = Arc<str>;
type Body = Arc<Vec<u8>>;

/// An operation of the trace. Inodes are numbered from 0: first the files of the image the directory
/// began with, in order of name, then each created file.
#[derive(Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are what they are called")]
pub enum Op {
    /// A new, empty file.
    Create { name: Arc<str>, inode: usize },
    /// A file has another name, too.
    Link { name: Arc<str>, inode: usize },
    /// A name is gone.
    Unlink { name: Arc<str> },
    /// Bytes arrived in the cache; of a short write, those that did.
    Write { inode: usize, offset: usize, data: Arc<[u8]> },
    /// A file was cut, or extended with zeros (`allocate` does that too).
    SetLen { inode: usize, bytes: usize },
    /// A file's data and length became durable.
    SyncFile { inode: usize },
    /// A sync failed: whatever of the file was not durable is lost.
    LoseFile { inode: usize },
    /// All names of the directory became durable.
    SyncDir,
    /// All names of a folder of it did.
    SyncFolder { folder: Arc<str> },
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { name, inode } => write!(f, "create {name} #{inode}"),
            Self::Link { name, inode } => write!(f, "link {name} #{inode}"),
            Self::Unlink { name } => write!(f, "unlink {name}"),
            Self::Write { inode, offset, data } => {
                write!(f, "write #{inode} {offset}+{}", data.len())
            }
            Self::SetLen { inode, bytes } => write!(f, "set_len #{inode} {bytes}"),
            Self::SyncFile { inode } => write!(f, "sync #{inode}"),
            Self::LoseFile { inode } => write!(f, "sync #{inode} failed"),
            Self::SyncDir => write!(f, "sync_dir"),
            Self::SyncFolder { folder } => write!(f, "sync_dir {folder}"),
        }
    }
}

#[derive(Clone, Default)]
struct Inode {
    cache: Body,
    /// A sync failed: the cache may show what the disk will never hold.
    lossy: bool,
}

#[derive(Clone)]
struct State {
    /// Durable before the first operation of the trace.
    origin: Image,
    trace: Vec<Op>,
    names: BTreeMap<Name, usize>,
    inodes: Vec<Inode>,
    special: BTreeSet<String>,
    /// The folders that are locked.
    locked: BTreeSet<Name>,
    boot: u64,
    random: Random,
    capacity: Option<u64>,
    /// Each with the number of matching calls so far.
    faults: Vec<(Fault, u64)>,
    faults_hit: u64,
    calls: u64,
    /// Of the first [`MAX_KINDS`] calls.
    kinds: Vec<CallKind>,
    read_bytes: u64,
}

impl State {
    /// Counts a call, and returns how many bytes it may move or the error it is to fail with.
    fn enter(&mut self, call: CallKind, name: Option<&str>) -> io::Result<usize> {
        if self.calls < MAX_KINDS {
            self.kinds.push(call);
        }
        self.calls += 1;
        let mut outcome = None;
        for (fault, seen) in &mut self.faults {
            let part = fault.name_contains.as_deref();
            let named = part.is_none_or(|part| name.is_some_and(|name| name.contains(part)));
            if named && (fault.call == CallKind::Any || fault.call == call) {
                outcome = outcome.or(fault.fire(call, *seen));
                *seen += 1;
            }
        }
        self.faults_hit += u64::from(outcome.is_some());
        outcome.unwrap_or(Ok(usize::MAX))
    }

    fn free_bytes(&self) -> Option<u64> {
        let used = self.names.values().map(|linked| len_u64(self.inodes[*linked].cache.len()));
        Some(self.capacity?.saturating_sub(used.sum()))
    }

    /// How many of the bytes from `offset` to `end` of a file the disk has room for.
    fn room(&self, inode: usize, offset: usize, end: usize) -> usize {
        let Some(free) = self.free_bytes() else { return end - offset };
        let free = usize::try_from(free).unwrap_or(usize::MAX);
        let len = self.inodes[inode].cache.len();
        end.min(len.saturating_add(free)).saturating_sub(offset)
    }

    /// Lets an operation of a trace happen to names and caches.
    fn redo(&mut self, op: &Op) {
        match *op {
            Op::Create { ref name, inode } => {
                self.inodes.push(Inode::default());
                self.names.insert(name.clone(), inode);
            }
            Op::Link { ref name, inode } => drop(self.names.insert(name.clone(), inode)),
            Op::Unlink { ref name } => drop(self.names.remove(name)),
            Op::Write { inode, offset, ref data } => {
                write(Arc::make_mut(&mut self.inodes[inode].cache), offset, data);
            }
            Op::SetLen { inode, bytes } => {
                Arc::make_mut(&mut self.inodes[inode].cache).resize(bytes, 0);
            }
            Op::LoseFile { inode } => self.inodes[inode].lossy = true,
            Op::SyncFile { .. } | Op::SyncDir | Op::SyncFolder { .. } => {}
        }
    }

    fn image(&self) -> Image {
        let body =
            |(name, inode): (&Name, &usize)| (name.clone(), self.inodes[*inode].cache.clone());
        Image { files: self.names.iter().map(body).collect(), boot: self.boot }
    }
}

/// A simulated directory. Clones are the same directory.
#[derive(Clone)]
pub struct SimDir {
    disk: Arc<Mutex<State>>,
    /// What its names begin with: nothing, or a folder and a slash. See [`Self::folder`].
    prefix: Name,
}

impl SimDir {
    /// An empty directory.
    pub fn new(seed: u64) -> Self {
        Self::from_image(&Image::default(), seed)
    }

    /// The first sight of `image` after a boot: all of it is durable. Whatever the seed, the boot has
    /// another number than that of the directory the image was taken from.
    pub fn from_image(image: &Image, seed: u64) -> Self {
        let mut random = Random(mix(image.boot) ^ seed);
        let boot = random.next() | 1;
        let inode = |cache: &Body| Inode { cache: cache.clone(), lossy: false };
        Self::with(State {
            origin: image.clone(),
            trace: Vec::with_capacity(32),
            names: image.files.keys().cloned().zip(0..).collect(),
            inodes: image.files.values().map(inode).collect(),
            special: BTreeSet::new(),
            locked: BTreeSet::new(),
            boot,
            random,
            capacity: None,
            faults: Vec::new(),
            faults_hit: 0,
            calls: 0,
            kinds: Vec::with_capacity(128),
            read_bytes: 0,
        })
    }

    fn with(state: State) -> Self {
        Self { disk: Arc::new(Mutex::new(state)), prefix: Name::from("") }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory as the next process finds it when this one dies now: the kernel, its cache and
    /// the trace live on, the lock is free, no faults are set. What is done to `self` and its open
    /// files afterwards does not show there.
    #[must_use]
    pub fn after_kill(&self) -> Self {
        let state = self.state().clone();
        Self::with(State {
            locked: BTreeSet::new(),
            faults: Vec::new(),
            faults_hit: 0,
            calls: 0,
            kinds: Vec::new(),
            read_bytes: 0,
            ..state
        })
    }

    /// As [`Self::after_kill`], had the process died just before operation `at` of the trace.
    #[must_use]
    pub fn killed_before(&self, at: usize) -> Self {
        let state = self.state();
        let trace = state.trace.get(..at).unwrap_or(&state.trace);
        let before = Self::from_image(&state.origin, 0);
        let mut past = before.state();
        (past.boot, past.random) = (state.boot, state.random.clone());
        past.special.clone_from(&state.special);
        past.capacity = state.capacity;
        for op in trace {
            past.redo(op);
        }
        past.trace = trace.to_vec();
        drop(past);
        before
    }

    /// How many operations changed something so far.
    pub fn trace_len(&self) -> usize {
        self.state().trace.len()
    }

    /// The operations that changed something so far.
    pub fn trace(&self) -> Vec<Op> {
        self.state().trace.clone()
    }

    /// All files as the running kernel shows them.
    pub fn image(&self) -> Image {
        self.state().image()
    }

    /// Makes calls go wrong from now on. Of several faults due at once, the first one set decides.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.push((fault, 0));
    }

    /// Lets all calls go well again.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// How many calls a fault has changed.
    pub fn faults_hit(&self) -> u64 {
        self.state().faults_hit
    }

    /// How many calls went through the seam: those that [`CallKind::Any`] counts.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// How many bytes were read.
    pub fn read_bytes(&self) -> u64 {
        self.state().read_bytes
    }

    /// All calls so far, to know which faults can matter to the k-th.
    ///
    /// # Panics
    ///
    /// After more than 65,536 calls: they are not all known.
    pub fn call_kinds(&self) -> Vec<CallKind> {
        let state = self.state();
        assert!(state.calls <= MAX_KINDS, "{} calls, the first {MAX_KINDS} are known", state.calls);
        state.kinds.clone()
    }

    /// Limits the sum of all files' lengths. A write beyond it is short, then fails with `ENOSPC`,
    /// an allocation takes what is left and fails. Removing and cutting files makes room. `set_len` needs none, but
    /// takes it.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// The kernel's own write-back of a file fails while nobody has it open who would be told: what was not
    /// durable of it is lost. The cache shows it until [`File::drop_cache`].
    pub fn lose_unsynced(&self, name: &str) {
        let mut state = self.state();
        if let Some(inode) = state.names.get(name).copied() {
            state.trace.push(Op::LoseFile { inode });
            state.redo(&Op::LoseFile { inode });
        }
    }

    /// Puts something there that is not a regular file. It survives a kill but is in no image.
    pub fn plant_special(&self, name: &str) {
        self.state().special.insert(name.to_owned());
    }
}

impl fmt::Debug for SimDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimDir").field(&self.image()).finish()
    }
}

impl Dir for SimDir {
    fn path(&self) -> &Path {
        if self.prefix.is_empty() { Path::new("/simulated") } else { Path::new(&*self.prefix) }
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        let mut state = self.state();
        state.enter(CallKind::Lock, None)?;
        if !state.locked.insert(self.prefix.clone()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock(self.clone())))
    }

    fn list(&self, each: &mut dyn FnMut(&OsStr)) -> io::Result<()> {
        let mut state = self.state();
        state.enter(CallKind::List, None)?;
        let files: Vec<Name> = state.names.keys().cloned().collect();
        let special = state.special.clone();
        drop(state);
        let all = files.iter().map(|name| &**name).chain(special.iter().map(String::as_str));
        all.filter_map(|name| self.own(name)).for_each(|name| each(OsStr::new(name)));
        Ok(())
    }

    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let name = &*self.full(name);
        let mut state = self.state();
        let create = mode == OpenMode::CreateNew;
        state.enter(if create { CallKind::Create } else { CallKind::Open }, Some(name))?;
        let special = state.special.contains(name);
        let found = state.names.get_key_value(name).map(|(name, inode)| (name.clone(), *inode));
        let (name, inode) = match found {
            _ if create && (special || found.is_some()) => {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            _ if special => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
            }
            Some(found) => found,
            None if create => {
                let (name, inode) = (Name::from(name), state.inodes.len());
                state.inodes.push(Inode::default());
                state.names.insert(name.clone(), inode);
                state.trace.push(Op::Create { name: name.clone(), inode });
                (name, inode)
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Box::new(SimFile { dir: self.clone(), inode, name, writable: mode != OpenMode::Read }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let name = &*self.full(name);
        let mut state = self.state();
        state.enter(CallKind::Remove, Some(name))?;
        if state.special.remove(name) {
            return Ok(());
        }
        let Some((name, _)) = state.names.remove_entry(name) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        state.trace.push(Op::Unlink { name });
        Ok(())
    }

    fn link(&self, from: &dyn Dir, name: &str) -> io::Result<()> {
        self.link_from(from, name)
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        state.enter(CallKind::SyncDir, None)?;
        state.trace.push(self.synced());
        Ok(())
    }

    fn random(&self) -> u64 {
        self.state().random.next()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.state().free_bytes().unwrap_or(u64::MAX))
    }
}

#[derive(Debug)]
struct SimLock(SimDir);

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.state().locked.remove(&self.0.prefix);
    }
}

struct SimFile {
    dir: SimDir,
    inode: usize,
    name: Name,
    writable: bool,
}

impl SimFile {
    /// The state, and how many bytes the call may move.
    fn enter(&self, call: CallKind) -> io::Result<(MutexGuard<'_, State>, usize)> {
        let mut state = self.dir.state();
        let limit = state.enter(call, Some(&self.name))?;
        let changes = matches!(call, CallKind::Write | CallKind::SetLen | CallKind::Allocate);
        if changes && !self.writable {
            return Err(io::Error::from_raw_os_error(EBADF));
        }
        Ok((state, limit))
    }

    fn resize(&self, state: &mut State, bytes: usize) {
        let inode = self.inode;
        if state.inodes[inode].cache.len() != bytes {
            Arc::make_mut(&mut state.inodes[inode].cache).resize(bytes, 0);
            state.trace.push(Op::SetLen { inode, bytes });
        }
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({} #{})", self.name, self.inode)
    }
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let (mut state, limit) = self.enter(CallKind::Read)?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = state.inodes[self.inode].cache.get(offset..).unwrap_or_default();
        let bytes = rest.len().min(buffer.len()).min(limit);
        buffer[..bytes].copy_from_slice(&rest[..bytes]);
        state.read_bytes += len_u64(bytes);
        Ok(bytes)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let (mut state, limit) = self.enter(CallKind::Write)?;
        let (inode, offset) = (self.inode, in_file(offset)?);
        let mut data = Vec::new();
        for part in parts {
            data.extend_from_slice(part);
        }
        data.truncate(limit);
        if data.is_empty() {
            return Ok(0);
        }
        let room = state.room(inode, offset, offset + data.len());
        data.truncate(room.min(MAX_FILE_BYTES - offset));
        if data.is_empty() {
            let code = if room == 0 { ENOSPC } else { EFBIG };
            return Err(io::Error::from_raw_os_error(code));
        }
        write(Arc::make_mut(&mut state.inodes[inode].cache), offset, &data);
        let written = data.len();
        state.trace.push(Op::Write { inode, offset, data: data.into() });
        Ok(written)
    }

    fn sync_data(&self) -> io::Result<()> {
        let inode = self.inode;
        let outcome = self.enter(CallKind::SyncData).map(drop);
        let mut state = self.dir.state();
        match &outcome {
            Ok(()) => state.trace.push(Op::SyncFile { inode }),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => {
                state.inodes[inode].lossy = true;
                state.trace.push(Op::LoseFile { inode });
            }
        }
        outcome
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let (mut state, _) = self.enter(CallKind::SetLen)?;
        self.resize(&mut state, in_file(bytes)?);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let (state, _) = self.enter(CallKind::Len)?;
        Ok(len_u64(state.inodes[self.inode].cache.len()))
    }

    fn is_shared(&self) -> io::Result<bool> {
        let (state, _) = self.enter(CallKind::Len)?;
        Ok(state.names.values().filter(|inode| **inode == self.inode).count() > 1)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let (mut state, _) = self.enter(CallKind::Allocate)?;
        let bytes = in_file(bytes)?;
        let len = state.inodes[self.inode].cache.len();
        let end = bytes.max(len);
        let room = state.room(self.inode, len, end);
        // As on ext4, what there was room for stays allocated after a failure.
        self.resize(&mut state, len + room);
        if len + room < end {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        let (mut state, _) = self.enter(CallKind::DropCache)?;
        if state.inodes[self.inode].lossy {
            let disk = Disk::replay(&state.origin, &state.trace);
            let dirty = disk.units.iter().filter(|unit| unit.inode() == Some(self.inode));
            let cache = build(&disk.bodies[self.inode], dirty.map(|unit| (unit, Pick::Keep)));
            state.inodes[self.inode] = Inode { cache, lossy: false };
        }
        Ok(())
    }

    fn map(&self, bytes: usize) -> io::Result<Box<dyn Mapping>> {
        let (state, _) = self.enter(CallKind::Map)?;
        if state.inodes[self.inode].cache.len() < bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Box::new(mapping::SimMapping { dir: self.dir.clone(), inode: self.inode, bytes }))
    }
}

/// A length or offset of a file.
fn in_file(bytes: u64) -> io::Result<usize> {
    let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes <= MAX_FILE_BYTES);
    bytes.ok_or_else(|| io::Error::from_raw_os_error(EFBIG))
}

/// Writes `data` at `offset`, behind zeros where the file was shorter.
fn write(body: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if body.len() < end {
        body.resize(end, 0);
    }
    body[offset..end].copy_from_slice(data);
}
