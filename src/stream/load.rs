//! Learning what a stream's files hold, before its first use.

use std::path::PathBuf;

use super::{Catalog, Phase, Stream, Writer};
use crate::error::Result;
use crate::format::{FileHeader, FrameHeader};
use crate::fs::{OpenMode, read_full};
use crate::report::{Finding, RecoveryReport};
use crate::scan::{self, Scanned, Tail, TailState, scan, scan_on};
use crate::segment::{Extent, GONE, NO_HEADER, OpenError, Segment};
use crate::store::{LostTail, Past, Store};

/// What loading one stream found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) torn: Vec<Finding>,
    pub(crate) damaged: Vec<Finding>,
    pub(crate) ignored: Vec<Finding>,
    /// The key was removed: what is left of it, the file that says so last.
    pub(crate) removed: Vec<u32>,
    /// Highest sequence that the stream has used.
    pub(crate) highest: u32,
    /// The newest segment, if its header is lost: those before it tell whose it was.
    lost: Option<LostTail>,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

impl Stream {
    /// Loads the stream unless that is done. After an error it is as unloaded as before.
    ///
    /// # Errors
    /// `Corrupted` if the newest segment is damaged so that the key cannot be told, and what opening
    /// and reading files gives.
    pub(crate) fn ensure_loaded(&self, store: &Store) -> Result<()> {
        if self.owner.get().is_some() {
            return Ok(());
        }
        let mut writer = self.writer();
        let findings = self.load(store, &mut writer)?;
        store.damage.found(&findings.damaged);
        if findings.removed.len() > 1 && store.reading.is_none() {
            // The key is empty whether or not that succeeds.
            let _ = self.finish_cut_off_removal(store, &mut writer, &findings.removed);
        }
        Ok(())
    }

    /// As [`Self::ensure_loaded`], by who holds the writer lock.
    pub(crate) fn load(&self, store: &Store, writer: &mut Writer) -> Result<Findings> {
        let mut findings = Findings::default();
        if writer.phase != Phase::Unloaded {
            return Ok(findings);
        }
        let (mut sequences, label) = {
            let catalog = self.catalog();
            (catalog.sequences.to_vec(), catalog.label.clone())
        };
        store.check_open()?;
        let distrust = store.past != Past::Clean;
        let named = sequences.clone();
        let mut headerless = None;
        while let Some(sequence) = sequences.last().copied() {
            let id = self.id(sequence);
            let path = store.dir.path().join(id.file_name(&label));
            let (ring, overlay) = (store.ring.as_ref(), store.journal_of(id));
            let access = store.access(distrust);
            match Segment::open(&*store.dir, id, &label, store.directory_id, access, ring, overlay)
            {
                Ok((segment, header)) => {
                    if let Some(lost) = findings.lost.as_ref().filter(|_| header.removed) {
                        return Err(lost.error());
                    }
                    findings.highest = store.highest_used(&named, sequence);
                    writer.highest = findings.highest;
                    return self.settle(store, writer, segment, header, sequences, findings);
                }
                // A creation that a crash cut off; its number stays used.
                // After a clean shutdown, only those are forgiven that were known then.
                Err(OpenError::Header(reason))
                    if distrust && reason == NO_HEADER
                        || !distrust && store.may_be_interrupted(&id.file_name(&label)) =>
                {
                    let file = store.dir.open(&id.file_name(&label), OpenMode::Read);
                    let bytes = file.and_then(|file| file.len()).unwrap_or(0);
                    findings.interrupted(path, bytes, reason);
                    store.note_interrupted(&id.file_name(&label));
                    headerless = Some(sequence);
                }
                // Dropped by who writes. If that was the last one listed, there is a newer one by now, or the
                // key was removed.
                Err(OpenError::Header(GONE)) if store.reading.is_some() => {}
                // Somebody has opened the directory since, and this is being created.
                Err(OpenError::Header(NO_HEADER))
                    if store.reading.is_some() && !distrust && !store.is_still_closed()? =>
                {
                    headerless = Some(sequence);
                }
                // None of ours, whatever its name.
                Err(OpenError::Header(what @ "not a regular file")) => {
                    let what = what.to_owned();
                    findings.ignored.push(Finding { path, offset: 0, bytes: 0, what });
                }
                Err(OpenError::Header(reason)) => {
                    findings.lost.get_or_insert(LostTail { path, offset: 0, bytes: 0, reason });
                }
                Err(OpenError::Wal(error)) => return Err(error),
            }
            sequences.pop();
        }
        if let Some(lost) = &findings.lost {
            return Err(lost.error());
        }
        if store.reading.is_some() {
            // The first one that came since. Of those behind it, the journal may have had more when it was
            // copied than they have now, and less than they have had since.
            let since = named.last().map_or(0, |last| last.saturating_add(1));
            // One that was being created has its header by now if there is another one behind it.
            let created = |sequence: u32| {
                let (id, overlay) = (self.id(sequence), store.journal_of(self.id(sequence)));
                let (access, directory_id) = (store.access(distrust), store.directory_id);
                Segment::open(&*store.dir, id, &label, directory_id, access, None, overlay).is_ok()
            };
            let listed = self.list_again(store, headerless.unwrap_or(since)..=u32::MAX)?;
            let first = listed.into_iter().find(|found| *found >= since || created(*found));
            if let Some(first) = first {
                self.catalog().sequences = [first].into();
                return self.load(store, writer);
            }
        }
        findings.highest = store.highest_used(&named, 0);
        writer.highest = findings.highest;
        *self.catalog() = Catalog::default();
        writer.phase = Phase::Empty;
        self.owner.get_or_init(|| None);
        Ok(findings)
    }

    /// The second half of loading: `segment` is the newest one that exists.
    fn settle(
        &self,
        store: &Store,
        writer: &mut Writer,
        segment: Segment,
        header: FileHeader,
        sequences: Vec<u32>,
        mut findings: Findings,
    ) -> Result<Findings> {
        if header.removed {
            writer.phase = Phase::Empty;
            writer.tombstone = segment.id.sequence;
            *self.catalog() = Catalog::default();
            self.owner.get_or_init(|| Some(header.key));
            findings.removed = sequences;
            return Ok(findings);
        }
        let distrust = store.past != Past::Clean;
        let (tail, lost_tail) = match store.past {
            Past::Clean if findings.lost.is_none() => match closed_tail(&segment)? {
                // Somebody has opened it since, and writes over the mark.
                (_, Some(_)) if store.reading.is_some() && !store.is_still_closed()? => {
                    (scan_live(store, &segment)?.tail, None)
                }
                closed => closed,
            },
            Past::Clean => (scan_file(&segment, false)?.tail, None),
            Past::Unclean => {
                let scanned = match store.reading {
                    Some(_) => scan_live(store, &segment)?,
                    None => scan_file(&segment, false)?,
                };
                findings.take_in(&segment, &scanned);
                (scanned.tail, None)
            }
        };
        let lost_tail = findings.lost.take().or(lost_tail);
        let phase = match tail.state {
            _ if lost_tail.is_some() => Phase::Damaged,
            TailState::Sealed => Phase::Ended { sealed: true },
            TailState::Torn => Phase::Ended { sealed: false },
            _ if distrust || segment.id.sequence <= store.meta().state().floor => Phase::Stale,
            TailState::Open => Phase::Active { marked: false },
            TailState::Marked => Phase::Active { marked: true },
        };
        let newest = segment.id.sequence;
        let last_ms = segment.created_ms.saturating_add(u64::from(tail.timestamp));
        let extent = Extent { end: tail.end, count: tail.count };
        let segment = segment.admit(extent, store.latest_name_change());

        let mut catalog = self.catalog();
        catalog.sequences = sequences.into();
        catalog.label = Box::default();
        if let Some(lost_tail) = lost_tail {
            store.lost_tails.put(self.hash, lost_tail);
        }
        self.tail.store(extent);
        store.files.insert_readable(&segment.into());
        drop(catalog);
        writer.newest = newest;
        writer.phase = phase;
        writer.last_ms = last_ms;
        self.owner.get_or_init(|| Some(header.key));
        Ok(findings)
    }
}

impl Findings {
    fn interrupted(&mut self, path: PathBuf, bytes: u64, reason: &str) {
        let what = format!("an interrupted creation, or damage to all of the header: {reason}");
        self.ignored.push(Finding { path, offset: 0, bytes, what });
    }

    fn take_in(&mut self, segment: &Segment, scanned: &Scanned) {
        self.entries = self.entries.saturating_add(u64::from(scanned.tail.count));
        self.bytes = self.bytes.saturating_add(u64::from(scanned.tail.end));
        let finding = |offset: u32, bytes: u32, what: &str| Finding {
            path: segment.path.clone(),
            offset: u64::from(offset),
            bytes: u64::from(bytes),
            what: what.to_owned(),
        };
        if scanned.torn_bytes > 0 {
            self.torn.push(finding(scanned.tail.end, scanned.torn_bytes, "unfinished write"));
        }
        for damage in &scanned.damage {
            let bytes = damage.to.saturating_sub(damage.from);
            self.damaged.push(finding(damage.from, bytes, "durable entries are damaged"));
        }
    }

    pub(crate) fn report(self, report: &mut RecoveryReport) {
        report.entries_checked = report.entries_checked.saturating_add(self.entries);
        report.bytes_checked = report.bytes_checked.saturating_add(self.bytes);
        let lists = [
            (self.torn, &mut report.torn),
            (self.damaged, &mut report.damaged),
            (self.ignored, &mut report.ignored),
        ];
        for (found, list) in lists {
            for finding in found {
                RecoveryReport::note(list, finding);
            }
        }
    }
}

fn scan_file(segment: &Segment, all_durable: bool) -> Result<Scanned> {
    let file_bytes = scan::reach(segment.file_bytes()?);
    scan(segment.file(), segment.seed, segment.frames_start, file_bytes, all_durable)
        .map_err(|source| segment.io_error("read the segment", source))
}

/// As [`scan_file`], of a segment that somebody may be writing to, and from where it was last known to
/// end. Bytes that arrive while the file is read look like damage if those behind them are seen first; what
/// is found twice is there.
fn scan_live(store: &Store, segment: &Segment) -> Result<Scanned> {
    let known = store.reading.as_ref().and_then(|reading| reading.tails.get(&segment.id)).copied();
    let start = Tail::start(segment.frames_start);
    let once = || {
        let bytes = scan::reach(segment.file_bytes()?);
        let from = known.filter(|known| known.end <= bytes).unwrap_or(start);
        scan_on(segment.file(), segment.seed, from, bytes, false)
            .map_err(|source| segment.io_error("read the segment", source))
    };
    let mut scanned = once()?;
    while !scanned.damage.is_empty() {
        let again = once()?;
        if again.damage == scanned.damage {
            break;
        }
        scanned = again;
    }
    Ok(scanned)
}

/// The extent of a sealed segment whose successor cannot tell it.
pub(super) fn extent_by_scan(segment: &Segment) -> Result<Extent> {
    let tail = scan_file(segment, false)?.tail;
    Ok(Extent { end: tail.end, count: tail.count })
}

/// The tail of a segment that was closed cleanly: its last 32 bytes say where it ends. If they do
/// not, they have been damaged or cut off since.
fn closed_tail(segment: &Segment) -> Result<(Tail, Option<LostTail>)> {
    let file_bytes = scan::reach(segment.file_bytes()?);
    let offset = file_bytes.saturating_sub(FrameHeader::BYTES_U32).max(segment.frames_start);
    let mut bytes = [0; FrameHeader::BYTES];
    let read = read_full(segment.file(), &mut bytes, u64::from(offset))
        .map_err(|source| segment.io_error("read the segment", source))?;
    let mark = FrameHeader::from_bytes(&bytes, segment.seed, offset).ok();
    if let Some(mark) = mark.filter(|mark| mark.is_mark() && read == bytes.len()) {
        let sealed = mark.flags.has(crate::format::FrameFlags::SEAL);
        let state = if sealed { TailState::Sealed } else { TailState::Marked };
        let end = if sealed { file_bytes } else { offset };
        let tail = Tail { end, count: mark.index, timestamp: mark.timestamp, state };
        return Ok((tail, None));
    }
    let scanned = scan_file(segment, true)?;
    let end = scanned.tail.end;
    let lost = LostTail {
        path: segment.path.clone(),
        offset: end,
        bytes: file_bytes.saturating_sub(end),
        reason: "the segment was closed cleanly, and its closing mark is gone: it was cut off or damaged",
    };
    // Bytes behind a good mark are not part of the log, and what is before it is complete.
    let complete = matches!(scanned.tail.state, TailState::Marked | TailState::Sealed);
    Ok((scanned.tail, (!complete).then_some(lost)))
}
