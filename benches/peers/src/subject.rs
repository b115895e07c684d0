//! What is measured has which calls? One trait for keywal, the floors and the peers alike.

use std::fmt;
use std::path::PathBuf;

use crate::limits;

/// Why there is no figure.
#[derive(Debug)]
pub enum Failure {
    /// The subject has no such call, for this reason.
    Lacks(&'static str),
    /// It has, and did not get through.
    Failed(String),
}

pub type Result<T> = std::result::Result<T, Failure>;

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

/// What a returned, not durable append survives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Survives {
    /// The entry is in memory of the process.
    Nothing,
    /// The kernel has the entry.
    Kill,
    /// The disk has the entry.
    PowerLoss,
}

impl fmt::Display for Survives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "buf",
            Self::Kill => "kill",
            Self::PowerLoss => "disk",
        })
    }
}

/// What a subject is opened with.
pub struct Plan {
    pub dir: PathBuf,
    /// Names of the keys; the calls below name a key by its place in here.
    pub keys: Vec<String>,
    /// Not more than this is appended to a key, for subjects that have to know a size.
    pub entries_per_key: usize,
    pub content_bytes: usize,
    /// Whether the workload is about durable appends: some peers set that once, for all appends.
    pub durable: bool,
}

impl Plan {
    /// Room for everything that a key is going to hold, if an entry takes `frame_bytes` more than its
    /// content.
    pub fn bytes_per_key(&self, frame_bytes: usize) -> usize {
        (self.entries_per_key + 1) * (self.content_bytes + frame_bytes) + 4096
    }

    /// Refuses at once what would fail after creating thousands of files.
    pub fn needs_descriptors(&self, per_key: usize) -> Result<()> {
        let (needed, allowed) = (self.keys.len() * per_key, limits::spare_descriptors());
        if needed > allowed {
            let reason = format!("needs {needed} descriptors, {per_key} a key; {allowed} are left");
            return Err(Failure::Failed(reason));
        }
        Ok(())
    }
}

/// All contents are static, so that a subject that takes over what it appends need not copy.
pub type Content = &'static [u8];

/// Reads one entry and returns how many bytes it had. Each thread has one of these.
pub type Reader<'a, Place> = Box<dyn FnMut(Place) -> Result<usize> + 'a>;

/// One that is measured. Calls that a workload makes from one thread take `&mut self`, so that those
/// that are not made for threads need no lock there.
pub trait Subject: Sized + Sync {
    const NAME: &'static str;
    /// What an `append` survives.
    const SURVIVES: Survives;
    /// At the sizes measured here, reads come from a copy of the entries in memory of the process: not
    /// compared with those that read files.
    const READS_FROM_MEMORY: bool = false;
    /// What an append returns to read the entry by.
    type Place: Copy + Send + Sync;

    /// Opens what the directory holds, or creates it.
    fn open(plan: &Plan) -> Result<Self>;

    /// Ends cleanly.
    fn close(self) -> Result<()> {
        Ok(())
    }

    fn append(&mut self, key: usize, content: Content) -> Result<Self::Place>;

    /// Several entries of one key in one call.
    fn append_batch(&mut self, _key: usize, _contents: &[Content], _durable: bool) -> Result<()> {
        Err(Failure::Lacks("no batches"))
    }

    /// On the disk when it returns; from many threads.
    fn append_durably(&self, key: usize, content: Content) -> Result<()>;

    /// One entry in each key, all of them on the disk when it returns.
    fn append_to_each_durably(&mut self, content: Content) -> Result<()>;

    /// As `append`, in the way that takes least time: not measured.
    fn fill(&mut self, key: usize, contents: &[Content]) -> Result<Vec<Self::Place>> {
        contents.iter().map(|content| self.append(key, content)).collect()
    }

    /// Makes readable what was appended.
    fn publish(&mut self) -> Result<()> {
        Ok(())
    }

    /// How to read an entry at its place.
    fn reader(&self) -> Result<Reader<'_, Self::Place>>;

    /// Reads all entries of a key, oldest first.
    fn scan(&self, key: usize, each: &mut dyn FnMut(&[u8])) -> Result<()>;

    /// Why opening cannot be compared, if so.
    const NO_REOPEN: Option<&'static str> = None;
}
