//! One open segment file: created or opened, read at offsets, written at its end, synced.

#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

mod check;
mod content;
mod sync;

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

use self::content::Content;
pub(crate) use self::content::{Overlay, Pending};

use crate::error::{Result, SizeLimit, WalError};
use crate::format::{
    FileHeader, FormatError, FrameHeader, LARGEST_HEADER_AREA_BYTES, Limits, Seed, SegmentId,
    find_header,
};
use crate::fs::{Dir, File, OpenMode, len_u64, read_full, write_full};
use crate::observe;
use crate::primitives::Mutex;
use crate::primitives::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::ring::Ring;
use crate::scan::{self, Step, Walk};
use crate::sync::SyncGate;

/// Covers the header, its copy and the first frames of nearly every segment in one read.
const FIRST_READ_BYTES: usize = 4096;
/// Length that a random read guesses before the segment has seen any frame.
const FIRST_GUESS_BYTES: u32 = 512;

/// Where the valid frames of a segment end, and how many entries there are before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) end: u32,
    pub(crate) count: u32,
}

/// An [`Extent`] that one thread grows and others read, both numbers at once.
#[derive(Debug, Default)]
pub(crate) struct AtomicExtent(AtomicU64);

impl AtomicExtent {
    pub(crate) fn new(extent: Extent) -> Self {
        let atomic = Self::default();
        atomic.store(extent);
        atomic
    }

    pub(crate) fn load(&self) -> Extent {
        let word = self.0.load(Ordering::Acquire);
        let half = |word: u64| u32::try_from(word & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        Extent { end: half(word >> 32), count: half(word) }
    }

    pub(crate) fn store(&self, extent: Extent) {
        let word = (u64::from(extent.end) << 32) | u64::from(extent.count);
        self.0.store(word, Ordering::Release);
    }
}

/// Why a segment was not created.
#[derive(Debug)]
pub(crate) enum CreateError {
    /// Nothing is left of it.
    Wal(WalError),
    /// An unfinished file is left, which could not be removed.
    Debris(WalError),
}

/// Why a file cannot be opened as the segment its name says it is.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// There is no valid header, or it belongs elsewhere.
    Header(&'static str),
    /// Any other error, ready for the caller.
    Wal(WalError),
}

impl From<WalError> for OpenError {
    fn from(error: WalError) -> Self {
        Self::Wal(error)
    }
}

/// How a segment is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Write,
    /// The page cache is not believed: what it holds is written out and dropped, so that everything read
    /// later is what the disk has.
    Fresh,
    /// Nothing may be changed.
    Read,
}

/// An open segment file.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    pub(crate) path: PathBuf,
    pub(crate) seed: Seed,
    /// The key was removed.
    pub(crate) removed: bool,
    pub(crate) base_index: u64,
    pub(crate) created_ms: u64,
    pub(crate) expiration_ms: u64,
    pub(crate) previous_sequence: u32,
    pub(crate) previous_end: u32,
    pub(crate) frames_start: u32,
    /// Those of the key, as of this segment.
    pub(crate) limits: Option<Limits>,
    pub(crate) metadata: Box<[u8]>,
    content: Content,
    /// What readers may see. Grown only under the stream's writer lock.
    published: AtomicExtent,
    /// Length of recent frames: what a random read asks for in its one call.
    guess: AtomicU32,
    /// Marks are file offsets.
    gate: SyncGate,
    /// Everything before this was acknowledged as durable, in the file or in the journal.
    proven: AtomicU32,
    /// Somebody may have been promised what is durable in the journal only.
    promised: AtomicBool,
    /// The file had been closed with unsynced bytes. A write-back of these may have failed and nobody have been
    /// told: they are read back from the disk before a sync counts.
    doubted: Mutex<bool>,
    /// Number of the directory change that made this file's name; the name survives power loss once
    /// that many changes do.
    name_change: u64,
}

impl Segment {
    /// Creates the file and writes its header. After an error no file is left, unless it is
    /// [`CreateError::Debris`].
    pub(crate) fn create(
        dir: &dyn Dir,
        header: &FileHeader,
        label: &str,
        reserve: u64,
        ring: Option<&Arc<Ring>>,
    ) -> Result<Self, CreateError> {
        let id = SegmentId { key_hash: header.key_hash, sequence: header.sequence };
        let name = id.file_name(label);
        let path = dir.path().join(&name);
        let file = dir.open(&name, OpenMode::CreateNew).map_err(|source| {
            CreateError::Wal(WalError::io(&path, "create the segment", source))
        })?;
        let write = || {
            if reserve > 0 {
                file.allocate(reserve)?;
            }
            write_full(&*file, &mut [IoSlice::new(&header.to_bytes())], 0)
        };
        if let Err(source) = write() {
            drop(file);
            let error = WalError::io(&path, "write the segment's header", source);
            return Err(match dir.remove(&name) {
                Ok(()) => CreateError::Wal(error),
                Err(_) => CreateError::Debris(error),
            });
        }
        let extent = Extent { end: header.frames_start(), count: 0 };
        let segment = Self::assemble(id, path, header, Content::new(file, ring), extent);
        segment.content.wrote(extent.end);
        Ok(segment)
    }

    /// Opens the file and checks its header. The caller says where it ends, with [`Self::admit`]. Reads find
    /// what only the journal has in `overlay`, as it was copied from there: the header, too.
    pub(crate) fn open(
        dir: &dyn Dir,
        id: SegmentId,
        label: &str,
        directory_id: u64,
        access: Access,
        ring: Option<&Arc<Ring>>,
        overlay: Option<&Arc<Overlay>>,
    ) -> Result<(Self, FileHeader), OpenError> {
        let name = id.file_name(label);
        let path = dir.path().join(&name);
        let mode = if access == Access::Read { OpenMode::Read } else { OpenMode::Write };
        let file = match dir.open(&name, mode) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Err(OpenError::Header("not a regular file"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OpenError::Header(GONE));
            }
            result => result.map_err(|source| WalError::io(&path, "open the segment", source))?,
        };
        if access == Access::Fresh {
            file.sync_data().map_err(|source| WalError::io(&path, "sync the segment", source))?;
            file.drop_cache().map_err(|source| {
                WalError::io(&path, "drop the cached pages of the segment", source)
            })?;
        }
        let named =
            |header: &FileHeader| (header.key_hash, header.sequence) == (id.key_hash, id.sequence);
        let ours = |header: &FileHeader| header.directory_id == directory_id && named(header);
        let content = Content::new(file, ring).under(overlay);
        let header = match read_header(content.with_header(), ours)
            .map_err(|source| WalError::io(&path, "read the segment", source))?
        {
            Ok(header) => header,
            Err(FormatError::Newer(version)) => {
                return Err(WalError::UnsupportedVersion { path, version }.into());
            }
            Err(_) => return Err(OpenError::Header(NO_HEADER)),
        };
        if header.directory_id != directory_id {
            return Err(OpenError::Header("the file belongs to another directory"));
        }
        if !named(&header) {
            return Err(OpenError::Header("the file belongs under another name"));
        }
        if label != crate::format::label(&header.key) {
            return Err(OpenError::Header("the file belongs under another name"));
        }
        let start = header.frames_start();
        let extent = Extent { end: start, count: 0 };
        let segment = Self::assemble(id, path, &header, content, extent);
        Ok((segment, header))
    }

    /// The directory a file says it belongs to, if its header is valid.
    pub(crate) fn directory_id(dir: &dyn Dir, name: &str) -> Result<Option<u64>> {
        let read = || match dir.open(name, OpenMode::Read) {
            // None of ours, or dropped by who writes.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::NotFound
                ) =>
            {
                Ok(None)
            }
            file => Ok(read_header(&*file?, |_| true)?.ok()),
        };
        let header: io::Result<Option<FileHeader>> = read();
        let header = header
            .map_err(|source| WalError::io(&dir.path().join(name), "read the segment", source))?;
        Ok(header.map(|header| header.directory_id))
    }

    fn assemble(
        id: SegmentId,
        path: PathBuf,
        header: &FileHeader,
        content: Content,
        extent: Extent,
    ) -> Self {
        Self {
            id,
            path,
            seed: Seed::of_nonce(header.nonce),
            removed: header.removed,
            base_index: header.base_index,
            created_ms: header.created_ms,
            expiration_ms: header.expiration_ms,
            previous_sequence: header.previous_sequence,
            previous_end: header.previous_end,
            frames_start: header.frames_start(),
            limits: header.limits,
            metadata: header.metadata.clone(),
            content,
            published: AtomicExtent::new(extent),
            guess: AtomicU32::new(FIRST_GUESS_BYTES),
            gate: SyncGate::new(0),
            proven: AtomicU32::new(0),
            promised: AtomicBool::new(false),
            doubted: Mutex::new(false),
            name_change: 0,
        }
    }

    /// Says how far the segment goes, that all of it is durable as far as its bytes go, and which
    /// directory change its name waits for.
    pub(crate) fn admit(mut self, extent: Extent, name_change: u64) -> Self {
        self.published = AtomicExtent::new(extent);
        self.gate = SyncGate::new(u64::from(extent.end));
        self.name_change = name_change;
        self
    }

    /// As [`Self::admit`], for a segment that was closed with unsynced bytes: those before `durable` are not.
    pub(crate) fn admit_unsynced(self, extent: Extent, durable: u32, name_change: u64) -> Self {
        let mut segment = self.admit(extent, name_change);
        segment.gate = SyncGate::new(u64::from(durable));
        segment.doubted = Mutex::new(true);
        segment.content.wrote(extent.end);
        segment
    }

    /// As [`Self::admit`], for a segment that has just been created: nothing is durable.
    pub(crate) fn admit_new(mut self, name_change: u64) -> Self {
        self.name_change = name_change;
        self
    }

    /// What the segment holds, wherever it is.
    pub(crate) fn file(&self) -> &dyn File {
        &self.content
    }

    /// The segment's part of the journal, if there is a journal.
    pub(crate) fn pending(&self) -> Option<&Pending> {
        self.content.pending()
    }

    pub(crate) fn extent(&self) -> Extent {
        self.published.load()
    }

    pub(crate) fn next_index(&self) -> u64 {
        self.base_index.saturating_add(u64::from(self.extent().count))
    }

    pub(crate) fn io_error(&self, operation: &'static str, source: io::Error) -> WalError {
        WalError::io(&self.path, operation, source)
    }

    pub(crate) fn corrupted(&self, offset: u32, bytes: u32, reason: &'static str) -> WalError {
        let (offset, bytes) = (u64::from(offset), u64::from(bytes));
        WalError::Corrupted { path: self.path.clone(), offset, bytes, reason }
    }

    pub(crate) fn file_bytes(&self) -> Result<u64> {
        self.content.len().map_err(|source| self.io_error("ask for the length", source))
    }

    /// Whether the seal that the segment ends with says that everything before it was durable.
    pub(crate) fn proves_itself(&self) -> Result<bool> {
        let mut bytes = [0; FrameHeader::BYTES];
        let offset = self.extent().end.saturating_sub(FrameHeader::BYTES_U32);
        read_full(&self.content, &mut bytes, u64::from(offset))
            .map_err(|source| self.io_error("read the seal", source))?;
        let seal = FrameHeader::from_bytes(&bytes, self.seed, offset);
        Ok(seal.is_ok_and(|seal| seal.watermark >= offset))
    }

    // ---- writing: appends only under the stream's writer lock; the rest, settling included, beside them, too ----

    /// The offset up to which everything is durable, for the watermark of the next frame.
    pub(crate) fn watermark(&self) -> u32 {
        scan::reach(self.gate.durable()).max(self.proven.load(Ordering::Acquire))
    }

    /// Notes that everything before `end` survives power loss.
    pub(crate) fn prove(&self, end: u32) {
        self.proven.fetch_max(end, Ordering::AcqRel);
    }

    /// The mark of [`Self::prove`].
    pub(crate) fn proven(&self) -> u32 {
        self.proven.load(Ordering::Acquire)
    }

    /// What of the file itself survives power loss.
    pub(crate) fn durable_in_file(&self) -> u64 {
        self.gate.durable()
    }

    /// Nothing more is known of what the disk has: no entry is accepted any more.
    pub(crate) fn poison(&self) {
        self.gate.poison();
        observe::poisoned(&self.path, &"the journal that had its entries failed");
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.gate.is_poisoned()
    }

    /// What poisoned the segment.
    pub(crate) fn why_poisoned(&self) -> Option<String> {
        self.gate.why()
    }

    pub(crate) fn poisoned(&self) -> WalError {
        WalError::Poisoned { path: self.path.clone() }
    }

    /// Lets readers see what the journal has accepted.
    pub(crate) fn publish(&self, extent: Extent) {
        self.published.store(extent);
    }

    /// Offset up to which the file has the segment's bytes.
    pub(crate) fn file_end(&self) -> u32 {
        self.content.applied(self.extent().end)
    }

    /// Writes to the file what only the journal has.
    pub(crate) fn settle(&self) -> Result<()> {
        self.content.settle().map_err(|source| {
            if self.pending().is_some_and(Pending::is_in_doubt) {
                self.poison();
                return self.poisoned();
            }
            self.io_error("move entries to the segment", source)
        })
    }

    /// Stores bytes at the end of the file and lets readers see them. After an error the file is as before; if
    /// that cannot be had, the segment is poisoned.
    pub(crate) fn append(&self, parts: &mut [IoSlice<'_>], extent: Extent) -> Result<()> {
        self.settle()?;
        let start = self.extent().end;
        if let Err(source) = write_full(&self.content, parts, u64::from(start)) {
            // What was written must be gone for good: frames that come to stand there have the same seed.
            let undo =
                || self.content.set_len(u64::from(start)).and_then(|()| self.content.sync_data());
            if self.gate.undo(undo).is_err() {
                observe::poisoned(&self.path, &"a failed write could not be undone");
            }
            return Err(self.io_error("append", source));
        }
        self.content.wrote(extent.end);
        self.published.store(extent);
        Ok(())
    }

    /// Gives back reserved space behind the end.
    pub(crate) fn trim(&self) -> Result<()> {
        let end = u64::from(self.extent().end);
        if self.file_bytes()? > end {
            self.content
                .set_len(end)
                .map_err(|source| self.io_error("give back reserved space", source))?;
        }
        Ok(())
    }

    // ---- reading ----

    /// Reads the frame at `offset` into `buffer`: header and content behind the frame header. One
    /// call to the system if the length is guessed right.
    pub(crate) fn read_frame(
        &self,
        offset: u64,
        max_bytes: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<FrameHeader> {
        let end = self.extent().end;
        let Ok(offset) = u32::try_from(offset) else { return Err(WalError::InvalidRef) };
        let room = end.saturating_sub(offset);
        if offset < self.frames_start || room < FrameHeader::BYTES_U32 {
            return Err(WalError::InvalidRef);
        }
        let guess = self.guess.load(Ordering::Relaxed).clamp(FrameHeader::BYTES_U32, room);
        let have = self.fill(buffer, 0, guess, offset)?;
        let header = buffer.get(..have).and_then(|bytes| bytes.first_chunk());
        let Some(Ok(header)) =
            header.map(|bytes| FrameHeader::from_bytes(bytes, self.seed, offset))
        else {
            return Err(self.explain(offset, end));
        };
        let frame_bytes = header.frame_bytes();
        if header.is_mark() {
            return Err(WalError::InvalidRef);
        }
        if frame_bytes > u64::from(room) {
            return Err(self.explain(offset, end));
        }
        if header.payload_bytes() > max_bytes {
            let (bytes, max) = (header.payload_bytes(), max_bytes);
            return Err(WalError::TooLarge { bytes, max, limit: SizeLimit::Read });
        }
        let wanted = scan::reach(frame_bytes);
        self.learn(guess, wanted);
        if wanted > guess {
            self.fill(buffer, have, wanted.saturating_sub(guess), offset)?;
        }
        buffer.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
        let payload = buffer.get(FrameHeader::BYTES..).unwrap_or_default();
        let whole = len_u64(buffer.len()) == frame_bytes;
        if whole && self.seed.checksum(offset, payload) == header.payload_checksum {
            Ok(header)
        } else {
            Err(self.explain(offset, end))
        }
    }

    /// Sets the next guess: up at once, because a short guess costs a second call, down slowly.
    fn learn(&self, guess: u32, frame_bytes: u32) {
        let surplus = self.guess.load(Ordering::Relaxed).saturating_sub(frame_bytes);
        if surplus > 0 || frame_bytes > guess {
            let next = frame_bytes.saturating_add(surplus.saturating_sub(surplus.div_ceil(16)));
            self.guess.store(next, Ordering::Relaxed);
        }
    }

    /// Appends `bytes` bytes of the file, from `offset + have` on, to the first `have` of `buffer`.
    fn fill(&self, buffer: &mut Vec<u8>, have: usize, bytes: u32, offset: u32) -> Result<usize> {
        let total = have.saturating_add(usize::try_from(bytes).unwrap_or(usize::MAX));
        buffer.truncate(total);
        let missing = total.saturating_sub(buffer.len());
        buffer.try_reserve(missing).map_err(|_| {
            self.io_error("get memory for an entry", io::ErrorKind::OutOfMemory.into())
        })?;
        buffer.resize(total, 0);
        let rest = buffer.get_mut(have..).unwrap_or_default();
        let from = u64::from(offset).saturating_add(len_u64(have));
        let read = read_full(&self.content, rest, from)
            .map_err(|source| self.io_error("read an entry", source))?;
        Ok(have.saturating_add(read))
    }

    /// Why there is no valid frame at `offset`: damage, or a reference that never was one. Walks the
    /// segment; only for the error path.
    fn explain(&self, offset: u32, end: u32) -> WalError {
        let mut walk = Walk::new(self.seed, self.frames_start, end, scan::CHUNK_BYTES);
        loop {
            match walk.next(&self.content) {
                Ok(Some(Step::Damage(damage))) if (damage.from..damage.to).contains(&offset) => {
                    let bytes = damage.to.saturating_sub(damage.from);
                    return self.corrupted(
                        damage.from,
                        bytes,
                        "no valid entry where one was stored",
                    );
                }
                Ok(Some(_)) if walk.position() <= offset => {}
                Ok(_) => return WalError::InvalidRef,
                Err(source) => return self.io_error("read an entry", source),
            }
        }
    }
}

/// Why a file is no segment, if it was there when the directory was listed.
pub(crate) const GONE: &str = "the file is gone";
/// Why a file is no segment, as a creation that was cut off looks.
pub(crate) const NO_HEADER: &str = "no valid file header";

/// The header of a file, read in one call in nearly every case. A file that ends before its frames would
/// start has none: that is how a creation that was cut off looks.
fn read_header(
    file: &dyn File,
    belongs: impl Fn(&FileHeader) -> bool,
) -> io::Result<std::result::Result<FileHeader, FormatError>> {
    let mut bytes = vec![0; FIRST_READ_BYTES];
    let mut read = read_full(file, &mut bytes, 0)?;
    bytes.truncate(read);
    let mut header = find_header(&bytes, &belongs);
    let fits = |header: &FileHeader, read| scan::reach(len_u64(read)) >= header.frames_start();
    let decided = match &header {
        Ok(header) => belongs(header) && fits(header, read),
        Err(error) => matches!(error, FormatError::Newer(_)),
    };
    if read == FIRST_READ_BYTES && !decided {
        bytes.resize(LARGEST_HEADER_AREA_BYTES, 0);
        read = read_full(file, &mut bytes, 0)?;
        bytes.truncate(read);
        header = find_header(&bytes, &belongs);
    }
    Ok(header
        .and_then(|header| if fits(&header, read) { Ok(header) } else { Err(FormatError::Short) }))
}
