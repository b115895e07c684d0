//! A simulated directory in which something happens before a file, or the directory itself, is synced, a file
//! written to, or the directory listed; after a file is synced; or around each call that changes something.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use keywal::fs::sim::{CallKind, SimDir};
use keywal::fs::{Dir, File, Lock, Mapping, OpenMode};

type Hook = Box<dyn FnOnce() + Send>;
type EachHook = Box<dyn Fn(CallKind, &str) + Send + Sync>;

/// In place of a part of a file's name: the directory itself.
pub const DIRECTORY: &str = "/";

/// Clones are the same directory.
#[derive(Clone)]
pub struct HookedDir {
    sim: SimDir,
    part: &'static str,
    hook: Arc<Mutex<Option<Hook>>>,
    write_hook: Arc<Mutex<Option<Hook>>>,
    list_hook: Arc<Mutex<Option<Hook>>>,
    each_hook: Arc<OnceLock<EachHook>>,
    synced_hook: Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>,
}

impl HookedDir {
    /// With hooks in the files that have `part` in their names.
    pub fn new(sim: &SimDir, part: &'static str) -> Self {
        let (hook, write_hook, list_hook, each_hook, synced_hook) = Default::default();
        Self { sim: sim.clone(), part, hook, write_hook, list_hook, each_hook, synced_hook }
    }

    /// Does this once, right before the next sync of such a file.
    pub fn before_sync(&self, hook: impl FnOnce() + Send + 'static) {
        *self.hook.lock().unwrap() = Some(Box::new(hook));
    }

    /// Does this once, right before the next write to such a file.
    pub fn before_write(&self, hook: impl FnOnce() + Send + 'static) {
        *self.write_hook.lock().unwrap() = Some(Box::new(hook));
    }

    /// Does this once, right before the directory is listed the next time.
    pub fn before_list(&self, hook: impl FnOnce() + Send + 'static) {
        *self.list_hook.lock().unwrap() = Some(Box::new(hook));
    }

    /// Does this from now on, told the call and the name of the file: right before each write to and sync of such a
    /// file, each creation, removal, and sync of the directory; and behind each removal.
    pub fn at_each_call(&self, hook: impl Fn(CallKind, &str) + Send + Sync + 'static) {
        assert!(self.each_hook.set(Box::new(hook)).is_ok(), "there is one already");
    }

    /// Does this from now on, on the thread that has synced such a file, before it hears of the result.
    pub fn after_each_sync(&self, hook: impl Fn() + Send + Sync + 'static) {
        assert!(self.synced_hook.set(Box::new(hook)).is_ok(), "there is one already");
    }

    fn call(&self, kind: CallKind, name: &str) {
        if let Some(hook) = self.each_hook.get() {
            hook(kind, name);
        }
    }
}

impl fmt::Debug for HookedDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sim.fmt(f)
    }
}

impl Dir for HookedDir {
    fn path(&self) -> &Path {
        Dir::path(&self.sim)
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        self.sim.lock()
    }

    fn list(&self, each: &mut dyn FnMut(&OsStr)) -> io::Result<()> {
        run(&self.list_hook);
        self.sim.list(each)
    }

    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Box<dyn File>> {
        if mode == OpenMode::CreateNew {
            self.call(CallKind::Create, name);
        }
        let file = Dir::open(&self.sim, name, mode)?;
        if !name.contains(self.part) {
            return Ok(file);
        }
        Ok(Box::new(HookedFile { file, name: name.to_owned(), dir: self.clone() }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.call(CallKind::Remove, name);
        let removed = self.sim.remove(name);
        self.call(CallKind::Remove, name);
        removed
    }

    fn sync(&self) -> io::Result<()> {
        if self.part == DIRECTORY {
            run(&self.hook);
        }
        self.call(CallKind::SyncDir, DIRECTORY);
        Dir::sync(&self.sim)
    }

    fn random(&self) -> u64 {
        self.sim.random()
    }
}

struct HookedFile {
    file: Box<dyn File>,
    name: String,
    dir: HookedDir,
}

impl fmt::Debug for HookedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl File for HookedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        run(&self.dir.write_hook);
        self.dir.call(CallKind::Write, &self.name);
        self.file.write_at(parts, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        run(&self.dir.hook);
        self.dir.call(CallKind::SyncData, &self.name);
        let synced = self.file.sync_data();
        if let Some(hook) = self.dir.synced_hook.get() {
            hook();
        }
        synced
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn is_shared(&self) -> io::Result<bool> {
        self.file.is_shared()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.file.allocate(bytes)
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.file.drop_cache()
    }

    fn map(&self, bytes: usize) -> io::Result<Box<dyn Mapping>> {
        self.file.map(bytes)
    }
}

fn run(hook: &Mutex<Option<Hook>>) {
    let hook = hook.lock().unwrap().take();
    if let Some(hook) = hook {
        hook();
    }
}
