//! What can go wrong: one variant per different thing a caller would do about it.

use std::io;
use std::path::{Path, PathBuf};

/// The result of every fallible call of this crate.
pub type Result<T, E = WalError> = std::result::Result<T, E>;

/// Every error of this crate. Each variant says what to do about it.
///
/// Errors name files and offsets and never contain bytes of an entry. Unless a variant says
/// otherwise, no part of a refused entry is in the log. A call that does the same to many keys or files, as `sync`,
/// `compact` and `snapshot` do, may have done it to some.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// The options contradict themselves or are out of range. Correct them as the text says.
    #[error("invalid options: {0}")]
    InvalidOptions(String),

    /// A key is longer than 65,535 bytes. Shorten or hash it.
    #[error("the key has {bytes} bytes; at most 65535 are allowed")]
    KeyTooLong {
        /// Length of the refused key.
        bytes: usize,
    },

    /// An entry's header is longer than 65,535 bytes. Move the surplus into the content.
    #[error("the entry header has {bytes} bytes; at most 65535 are allowed")]
    HeaderTooLarge {
        /// Length of the refused header.
        bytes: usize,
    },

    /// An entry, or what is appended together, is larger than the options allow. Split it, or raise the option
    /// that [`limit`](SizeLimit) names.
    #[error("{}", limit.explain(*bytes, *max))]
    TooLarge {
        /// Size of what was refused.
        bytes: u64,
        /// How much the option allows.
        max: u64,
        /// Which option it was.
        limit: SizeLimit,
    },

    /// Entries of several keys go together only through a journal, and there is none: set
    /// [`journal_bytes`](crate::WalOptions::journal_bytes). (If it is set, the disk was too full for the
    /// journal when the directory was opened: make space and reopen.)
    #[error(
        "entries of several keys need a journal; set journal_bytes, with space for it on the disk"
    )]
    NoJournal,

    /// The key's next index is not the expected one: somebody else appended. Read what is new, decide
    /// again, retry.
    #[error("expected the next index to be {expected}, but it is {actual}")]
    Conflict {
        /// What the caller expected.
        expected: u64,
        /// The key's next index.
        actual: u64,
    },

    /// The reference does not lead to an entry of this directory: it was made up, belongs to another
    /// directory, or its entry (appended with [`Durability::Os`](crate::Durability::Os)) was lost with
    /// the power.
    #[error("the reference does not lead to an entry")]
    InvalidRef,

    /// The entry was in the log and has been dropped by retention, truncation or removal of its key. (An
    /// entry that was lost with the power can answer this, too, once newer ones have been appended, and so can a
    /// reference that was made up or belongs to another directory.)
    #[error("the entry has been dropped")]
    Expired,

    /// The entry that a reader is to go on with has been dropped by retention or truncation: it was too
    /// slow, or away for too long. Start again at the oldest entry, knowing what is missing, or from a copy.
    #[error("entry {wanted} has been dropped; the oldest one kept is {oldest}")]
    Behind {
        /// Index of the entry that should have come next.
        wanted: u64,
        /// Index of the oldest entry that is kept.
        oldest: u64,
    },

    /// A [`Canceller`](crate::Canceller) has ended the following of a key. Nothing is wrong.
    #[error("the following was cancelled")]
    Cancelled,

    /// Bytes that had been safely stored are damaged or gone. The entries in the span are lost; those
    /// before and behind it, and all other segments and keys, stay readable. Restore the file from a
    /// backup if you have one. A key that takes no appends for it does again after
    /// [`accept_loss`](crate::Wal::accept_loss).
    #[error("{}: damaged{}: {reason}", .path.display(), span(*offset, *bytes))]
    Corrupted {
        /// The damaged file.
        path: PathBuf,
        /// Where the damage starts.
        offset: u64,
        /// How far it goes; 0 where that cannot be known (a missing or shortened file).
        bytes: u64,
        /// What was found.
        reason: &'static str,
    },

    /// The directory or a segment was written by a newer version of this crate, and is left alone.
    /// Upgrade.
    #[error("{}: format version {version} is newer than this program", .path.display())]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u16,
    },

    /// Another `Wal`, in this or another process, has the directory open. Share that one.
    #[error("{}: the directory is already open, in this or in another process", .path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },

    /// The directory is a snapshot, or was restored from one, and that was cut off: entries are missing. A
    /// snapshot is completed by taking it again into the same directory; what [`restore`](crate::restore) left
    /// is to be removed.
    #[error("{}: a snapshot or restore that was not finished", .path.display())]
    Incomplete {
        /// The directory.
        path: PathBuf,
    },

    /// The target of a snapshot or restore is not empty: it holds files of somebody's, another log, or a
    /// snapshot that has been opened for writing since. (Only a snapshot may go to where an earlier one of the
    /// same log is.) Nothing was touched; give another directory.
    #[error("{}: the directory is not empty: give an empty one; a snapshot may also go onto an earlier one of the same log", .path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },

    /// A sync failed earlier, so the system may have thrown written data away, and trying again could
    /// not tell; or a write, or creating or removing a file, failed half-way and could not be undone. Entries appended since
    /// the last successful sync are in doubt. Close and reopen the
    /// `Wal`: recovery finds out what the disk holds. Reads go on working; see
    /// [`Durability`](crate::Durability).
    #[error("{}: an earlier failure left this in doubt; reopen the log to find out what was kept", .path.display())]
    Poisoned {
        /// The file in doubt.
        path: PathBuf,
    },

    /// No space left on the device, or a quota is used up. Nothing of the entry was kept; make space
    /// and append again, without reopening.
    #[error("{}: no space left", .path.display())]
    StorageFull {
        /// The file that could not grow.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },

    /// The operating system refused a call. Where the call was a sync ([`Poisoned`](Self::Poisoned)
    /// will follow), the fate of what it should have made durable is unknown until reopened.
    #[error("{}: cannot {operation}{}", .path.display(), advice(.source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The operating system's error.
        source: io::Error,
    },

    /// [`shutdown`](crate::Wal::shutdown) was called. Open the directory again.
    #[error("the log has been shut down")]
    Closed,

    /// The call would wait for the [`compact`](crate::Wal::compact) that waits for the hook it was called
    /// from. Call it when `compact` has returned.
    #[error("called from a hook of `compact`, which it would wait for")]
    InDropHook,

    /// This process is a fork of the one that opened the log. Only the process that opened it may
    /// write; open another directory here.
    #[error("the log was opened by another process; a forked child may not write to it")]
    Forked,

    /// A key has used all 4,294,967,294 segment numbers, or a segment all 2^32 entry numbers.
    #[error("the key has used up its segment numbers")]
    Exhausted,
}

/// The option that a [size](WalError::TooLarge) has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SizeLimit {
    /// [`max_entry_bytes`](crate::WalOptions::max_entry_bytes): header and content of one entry.
    Entry,
    /// [`max_segment_bytes`](crate::WalOptions::max_segment_bytes), which also bounds an entry if it is not more
    /// than `max_entry_bytes`. For a batch of one key, with 32 bytes for each entry.
    Segment,
    /// A quarter of [`journal_bytes`](crate::WalOptions::journal_bytes): entries of several keys that are
    /// appended together, with about 64 bytes for each key and 32 for each entry.
    Journal,
    /// Of who reads: `max_entry_bytes`, or `max_segment_bytes` if that is less. The entry was appended with
    /// larger ones.
    Read,
}

impl SizeLimit {
    fn explain(self, bytes: u64, max: u64) -> String {
        let (what, option, do_this) = match self {
            Self::Entry => ("an entry", "max_entry_bytes", "split it, or raise that option"),
            Self::Segment => (
                "what goes into one segment",
                "max_segment_bytes",
                "append it in parts, or raise that option",
            ),
            Self::Journal => (
                "what is appended to several keys together",
                "a quarter of journal_bytes",
                "append fewer together, or raise that option",
            ),
            Self::Read => (
                "the entry",
                "max_entry_bytes (or max_segment_bytes, if that is less)",
                "raise it to read the entry",
            ),
        };
        format!("{what} has {bytes} bytes, and {option} allows {max}: {do_this}")
    }
}

/// `EMFILE`, the same on every Unix.
const TOO_MANY_OPEN_FILES: i32 = 24;

/// What to do about an error of the operating system, where that can be said.
fn advice(source: &io::Error) -> &'static str {
    if source.raw_os_error() == Some(TOO_MANY_OPEN_FILES) {
        ": too many open files; raise `ulimit -n`, or lower the option `max_open_files`"
    } else {
        ""
    }
}

/// Where damage is, as far as that is known.
fn span(offset: u64, bytes: u64) -> String {
    match (offset, bytes) {
        (0, 0) => String::new(),
        (_, 0) => format!(" from offset {offset} on"),
        _ => format!(" from offset {offset}, {bytes} bytes"),
    }
}

impl WalError {
    pub(crate) fn io(path: &Path, operation: &'static str, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::StorageFull { path, source },
            _ => Self::Io { path, operation, source },
        }
    }
}
