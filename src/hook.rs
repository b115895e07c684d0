//! The hook that is asked before retention drops a segment.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use crate::fs::{File, read_full};
use crate::scan::CHUNK_BYTES;

/// What is to become of a segment that retention would drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is dropped.
    Drop,
    /// It stays, and so do the newer ones of its key. The next [`compact`](crate::Wal::compact) asks again.
    Keep,
}

/// A segment that is about to be dropped: a file that nobody writes to any more.
///
/// Every entry in it was appended at `created_ms` or later, and before `expiration_ms`.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct DueSegment<'a> {
    /// The file. It can be copied, or linked to, while the hook runs.
    pub path: &'a Path,
    /// The key that the entries belong to.
    pub key: &'a [u8],
    /// Number within the key.
    pub sequence: u64,
    /// Index of its first entry.
    pub first_index: u64,
    /// Index behind its last entry.
    pub next_index: u64,
    /// When it was created.
    pub created_ms: u64,
    /// When it stopped taking entries.
    pub expiration_ms: u64,
    /// How much of the file counts, from its start; what may lie behind means nothing.
    pub bytes: u64,
    pub(crate) file: &'a dyn File,
}

impl DueSegment<'_> {
    /// Writes the segment to an archive. Returns the checksum of what was written, as
    /// [`checksum`](Self::checksum) does.
    ///
    /// # Errors
    /// Those of reading the segment, one that is shorter than it should be included, and of writing.
    pub fn copy_to(&self, archive: &mut dyn Write) -> io::Result<u32> {
        let mut checksum = crc32fast::Hasher::new();
        let mut buffer = vec![0; usize::try_from(CHUNK_BYTES).unwrap_or(usize::MAX)];
        let mut at = 0;
        while at < self.bytes {
            let wanted = usize::try_from(self.bytes - at).unwrap_or(usize::MAX).min(buffer.len());
            let part = buffer.get_mut(..wanted).unwrap_or_default();
            if read_full(self.file, part, at)? < wanted {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            checksum.update(part);
            archive.write_all(part)?;
            at += crate::fs::len_u64(wanted);
        }
        Ok(checksum.finalize())
    }

    /// CRC-32, as in zlib, of the first [`bytes`](Self::bytes) bytes of the file, as they are. Reads all of
    /// them; that they are what was once written is not checked.
    ///
    /// # Errors
    /// Those of reading the segment.
    pub fn checksum(&self) -> io::Result<u32> {
        self.copy_to(&mut io::sink())
    }
}

/// What a hook returns. An error keeps the segment, as [`Verdict::Keep`] does, and shows in the report.
pub type HookResult = Result<Verdict, Box<dyn Error + Send + Sync>>;

/// A hook, see [`WalOptions::before_drop`](crate::WalOptions::before_drop). Clones are the same hook.
#[derive(Clone)]
pub struct DropHook(Arc<dyn Fn(&DueSegment<'_>) -> HookResult + Send + Sync>);

impl DropHook {
    /// Makes a hook of a function.
    pub fn new(hook: impl Fn(&DueSegment<'_>) -> HookResult + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }

    pub(crate) fn ask(&self, segment: &DueSegment<'_>) -> HookResult {
        (self.0)(segment)
    }
}

impl fmt::Debug for DropHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DropHook").finish_non_exhaustive()
    }
}
