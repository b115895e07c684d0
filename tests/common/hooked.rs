//! A simulated directory in which something happens before a file, or the directory itself, is synced, or a file
//! written to.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::{Arc, Mutex};

use keywal::fs::sim::SimDir;
use keywal::fs::{Dir, File, Lock, Mapping, OpenMode};

type Hook = Box<dyn FnOnce() + Send>;

/// In place of a part of a file's name: the directory itself.
pub const DIRECTORY: &str = "/";

/// Clones are the same directory.
#[derive(Clone)]
pub struct HookedDir {
    sim: SimDir,
    part: &'static str,
    hook: Arc<Mutex<Option<Hook>>>,
    write_hook: Arc<Mutex<Option<Hook>>>,
}

impl HookedDir {
    /// With hooks in the files that have `part` in their names.
    pub fn new(sim: &SimDir, part: &'static str) -> Self {
        Self { sim: sim.clone(), part, hook: Arc::default(), write_hook: Arc::default() }
    }

    /// Does this once, right before the next sync of such a file.
    pub fn before_sync(&self, hook: impl FnOnce() + Send + 'static) {
        *self.hook.lock().unwrap() = Some(Box::new(hook));
    }

    /// Does this once, right before the next write to such a file.
    pub fn before_write(&self, hook: impl FnOnce() + Send + 'static) {
        *self.write_hook.lock().unwrap() = Some(Box::new(hook));
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
        self.sim.list(each)
    }

    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let file = Dir::open(&self.sim, name, mode)?;
        if !name.contains(self.part) {
            return Ok(file);
        }
        let (hook, write_hook) = (Arc::clone(&self.hook), Arc::clone(&self.write_hook));
        Ok(Box::new(HookedFile { file, hook, write_hook }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.sim.remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        if self.part == DIRECTORY {
            run(&self.hook);
        }
        Dir::sync(&self.sim)
    }

    fn random(&self) -> u64 {
        self.sim.random()
    }
}

struct HookedFile {
    file: Box<dyn File>,
    hook: Arc<Mutex<Option<Hook>>>,
    write_hook: Arc<Mutex<Option<Hook>>>,
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
        run(&self.write_hook);
        self.file.write_at(parts, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        run(&self.hook);
        self.file.sync_data()
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
