//! Calls that are to go wrong.

use std::io;

#[cfg(doc)]
use super::SimDir;
#[cfg(doc)]
use crate::fs::{Dir, File, OpenMode};

const EINTR: i32 = 4;

/// Which calls through the seam a [`Fault`] means: each one, or those to one method of [`Dir`] or
/// [`File`]. `Create` is [`Dir::open`] with [`OpenMode::CreateNew`], `Open` with another mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named after the methods")]
pub enum CallKind {
    Any,
    Open,
    Create,
    Remove,
    Link,
    List,
    SyncDir,
    Read,
    Write,
    SyncData,
    SetLen,
    Len,
    Allocate,
    Lock,
    DropCache,
    Map,
}

/// What happens to a call. Error numbers are raw: 5 is `EIO`, 24 `EMFILE`, 28 `ENOSPC`, 30 `EROFS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// It fails with this error and does nothing. A failed [`File::sync_data`] moreover loses what
    /// was not durable: no later crash image has it. The cache shows it until [`File::drop_cache`].
    Error(i32),
    /// It fails with `EINTR` and does nothing; nothing is lost.
    Interrupted,
    /// A read or write stops after so many bytes, but a read at 1 or later, as 0 is the end of the
    /// file. No other call is affected.
    Short(usize),
    /// A read or write stops after so many bytes, the next matching call fails. Another call than a
    /// read or write fails at once.
    #[expect(missing_docs, reason = "the fields are described with the variant")]
    ShortThenError { bytes: usize, error: i32 },
}

/// A call that is to go wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which calls are counted.
    pub call: CallKind,
    /// How many of them go well first, counted from [`SimDir::inject`] on.
    pub nth: u64,
    /// What happens then.
    pub kind: FaultKind,
    /// Whether all later ones go wrong too. Callers repeat [`FaultKind::Interrupted`] calls for ever.
    pub forever: bool,
    /// Counts only calls on a file with this in its name.
    pub name_contains: Option<String>,
}

impl Fault {
    /// What happens to a call of this kind that comes after `seen` matching ones: how many bytes it
    /// may move, or an error. `None`: all is well.
    pub(super) fn fire(&self, call: CallKind, seen: u64) -> Option<io::Result<usize>> {
        let due = seen == self.nth || self.forever && seen > self.nth;
        let moves = matches!(call, CallKind::Read | CallKind::Write);
        let short = |bytes: usize| Some(Ok(bytes.max(usize::from(call == CallKind::Read))));
        let fail = |code| Some(Err(io::Error::from_raw_os_error(code)));
        match self.kind {
            FaultKind::Error(code) if due => fail(code),
            FaultKind::Interrupted if due => fail(EINTR),
            FaultKind::Short(bytes) if due && moves => short(bytes),
            FaultKind::ShortThenError { bytes, .. } if seen == self.nth && moves => short(bytes),
            FaultKind::ShortThenError { error, .. } if due || seen == self.nth + 1 => fail(error),
            _ => None,
        }
    }
}
