//! Reading all of a directory, to know whether it is sound.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ahash::HashMap;

use crate::chains::Node;
use crate::error::{Result, WalError};
use crate::fs::{Dir, OsDir, len_u64};
use crate::options::WalOptions;
use crate::recovery::{View, view};
use crate::report::{Finding, RecoveryReport, VerifiedKey, VerifyReport};
use crate::segment::{Extent, Segment};
use crate::store::Store;
use crate::stream::Stream;

/// Reads and checks every entry of a directory, and changes nothing: no lock is taken, nothing is repaired.
/// The directory may be in use, closed, left by a crash with a journal that was not replayed, or damaged.
/// If it is in use, this is about what was there when it began; segments that are dropped meanwhile are
/// passed over. A directory that is no log has no keys.
///
/// Costs reading all of it; memory for 100 bytes of each key and its own.
///
/// ```
/// use keywal::{Wal, WalOptions};
/// # let dir = tempfile::tempdir()?;
/// let wal = Wal::new(dir.path(), WalOptions::default())?;
/// wal.append_entry("orders", None, "first", false)?;
/// let report = keywal::verify(dir.path())?;
/// assert_eq!((report.entries, report.damaged.len()), (1, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Io`](WalError::Io) if the directory or a file cannot be read,
/// [`UnsupportedVersion`](WalError::UnsupportedVersion), and [`Incomplete`](WalError::Incomplete) for a
/// snapshot that was not finished. Damage is no error: it is in the report.
pub fn verify(path: impl AsRef<Path>) -> Result<VerifyReport> {
    let path = path.as_ref();
    let dir =
        OsDir::existing(path).map_err(|source| WalError::io(path, "open the directory", source))?;
    verify_in(Arc::new(dir))
}

/// As [`verify`], of a directory of another file system.
pub fn verify_in(dir: Arc<dyn Dir>) -> Result<VerifyReport> {
    let started = Instant::now();
    let View { store, streams, report: mut found, weakened } =
        view(dir, WalOptions::default(), HashMap::default())?;
    let mut report = VerifyReport {
        clean: found.clean,
        segments: found.segments,
        foreign_files: found.foreign_files,
        weakened: weakened.into_iter().collect(),
        ..VerifyReport::default()
    };
    for stream in streams.in_order() {
        match check(&store, &stream, &mut found, &mut report.weakened) {
            Ok(Some(key)) => {
                report.entries = report.entries.saturating_add(key.entries);
                report.bytes = report.bytes.saturating_add(key.bytes);
                report.keys.push(key);
            }
            Ok(None) | Err(WalError::Expired) => {}
            Err(WalError::Corrupted { path, offset, bytes, reason }) => {
                let what = reason.to_owned();
                RecoveryReport::note(&mut found.damaged, Finding { path, offset, bytes, what });
            }
            Err(WalError::UnsupportedVersion { path, version }) => {
                let what = format!("format version {version} is newer than this program");
                let finding = Finding { path, offset: 0, bytes: 0, what };
                RecoveryReport::note(&mut found.ignored, finding);
            }
            Err(error) => return Err(error),
        }
        // Reading many keys is not to keep many files open.
        store.files.clear();
    }
    (report.torn, report.damaged, report.ignored) = (found.torn, found.damaged, found.ignored);
    report.elapsed = started.elapsed();
    Ok(report)
}

/// Checks one stream; `None` if it has nothing.
fn check(
    store: &Store,
    stream: &Stream,
    found: &mut RecoveryReport,
    weakened: &mut Vec<Finding>,
) -> Result<Option<VerifiedKey>> {
    // Damage in the newest segment is found again with the others.
    let findings = stream.load(store, &mut stream.writer())?;
    let before = found.damaged.len();
    findings.report(found);
    found.damaged.truncate(before);
    let Some((chain, newest)) = stream.chain(store)? else { return Ok(None) };
    let mut key = VerifiedKey::of(stream.key().unwrap_or_default());
    key.first_index = newest.base_index;
    key.next_index = newest.next_index();
    let mut damaged = Vec::new();
    for (at, node) in chain.nodes.iter().enumerate() {
        if at == 0 {
            key.first_index = node.first_index();
        }
        let segment = match node {
            Node::Present(present) => stream.segment(store, present.sequence),
            Node::Lost(lost) => Err(lost.error()),
        };
        match segment {
            Ok(segment) => {
                take(&segment, segment.extent(), &mut key, &mut damaged)?;
                note(weakened, segment.damaged_header()?);
            }
            Err(WalError::Expired) => {}
            Err(WalError::Corrupted { path, offset, bytes, reason }) => {
                damaged.push(Finding { path, offset, bytes, what: reason.to_owned() });
            }
            Err(error) => return Err(error),
        }
    }
    take(&newest, newest.extent(), &mut key, &mut damaged)?;
    note(weakened, newest.damaged_header()?);
    if let Some(lost) = store.lost_tails.get(stream.hash) {
        let (offset, bytes) = (u64::from(lost.offset), u64::from(lost.bytes));
        damaged.push(Finding { path: lost.path, offset, bytes, what: lost.reason.to_owned() });
    }
    key.damaged = len_u64(damaged.len());
    for finding in damaged {
        RecoveryReport::note(&mut found.damaged, finding);
    }
    Ok(Some(key))
}

fn note(list: &mut Vec<Finding>, finding: Option<Finding>) {
    if let Some(finding) = finding {
        RecoveryReport::note(list, finding);
    }
}

fn take(
    segment: &Segment,
    extent: Extent,
    key: &mut VerifiedKey,
    damaged: &mut Vec<Finding>,
) -> Result<()> {
    let checked = segment.check(segment.file(), extent)?;
    key.segments = key.segments.saturating_add(1);
    key.entries = key.entries.saturating_add(u64::from(checked.entries));
    key.bytes = key.bytes.saturating_add(u64::from(extent.end));
    damaged.extend(checked.damaged);
    Ok(())
}
