//! Opening a directory: lock it, list it, find out what happened to it, check what has to be checked.
//!
//! Recovery deletes nothing but what is left of removed keys, and overwrites nothing but what the journal has, with the
//! same bytes. It reads no segment after a clean shutdown, and else the newest segment of every key, now or when the
//! key is first used.

#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

mod replay;
mod view;

pub(crate) use self::view::{View, view};

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Result, WalError};
use crate::format::{Meta, SLOT_OFFSETS, SegmentId, SegmentName, mix};
use crate::fs::{Dir, LOCK_NAME, Lock, OpenMode};
use crate::options::WalOptions;
use crate::parallel;
use crate::primitives::atomic::Ordering;
use crate::report::{Counters, Finding, RecoveryReport};
use crate::ring::{JOURNAL_NAME, Ring};
use crate::segment::{NO_HEADER, OpenError, Segment};
use crate::store::{META_NAME, MetaFile, Past, Store, read_slots};
use crate::stream::{Findings, Stream};
use crate::streams::Streams;

/// How far the floor is raised when it may have been lost: more segments than a key that was removed
/// is thought to have had beyond all that still exist.
pub(crate) const LOST_FLOOR_GAP: u32 = 1 << 16;
const FILES_CHANGED: &str = "segment files were added or removed while the directory was closed";
const FACTS_LOST: &str = "missing or damaged; its facts are put together anew from the other files";

/// An open directory.
pub(crate) struct Opened {
    pub(crate) store: Store,
    pub(crate) streams: Streams,
    pub(crate) report: RecoveryReport,
    pub(crate) lock: Box<dyn Lock>,
}

pub(crate) fn open(dir: Arc<dyn Dir>, options: WalOptions) -> Result<Opened> {
    let started = Instant::now();
    let lock = dir.lock().map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => WalError::Locked { path: dir.path().to_owned() },
        _ => WalError::io(&dir.path().join(LOCK_NAME), "lock the directory", source),
    })?;
    let mut report = RecoveryReport::default();
    let mut listing = Listing::read(&*dir)?;
    report.foreign_files = listing.foreign;
    report.segments = listing.segments;

    let (mut meta, past) = read_meta(&*dir, &listing, &mut report)?;
    let mut epoch = meta.state().epoch;
    if past == Past::Unclean {
        let replayed = replay::replay(&*dir, &listing, meta.state(), &mut report)?;
        epoch = epoch.max(replayed.epoch);
        if replayed.created {
            listing = Listing::read(&*dir)?;
            report.segments = listing.segments;
        }
    }
    let counters = Arc::<Counters>::default();
    let ring = open_journal(&*dir, &mut meta, epoch, options.journal_bytes, &counters)?;
    let store = Store::new(dir, options, past, meta, ring, counters);
    let streams = listing.into_streams(&store, &mut report)?;
    report.clean = past == Past::Clean;
    // Names that are there survive the next crash, whatever became of the last one who synced them.
    store.sync_names(store.name_changed())?;
    if past == Past::Unclean {
        check(&store, &streams, &mut report)?;
    }
    report.keys = crate::fs::len_u64(streams.all().iter().filter(|stream| stream.exists()).count());
    report.elapsed = started.elapsed();
    Ok(Opened { store, streams, report, lock })
}

/// Opens the directory's journal, for a new epoch: whatever it holds counts no more. `None`: none is
/// wanted, or there is no space for one.
fn open_journal(
    dir: &dyn Dir,
    meta: &mut MetaFile,
    epoch: u32,
    capacity: u64,
    counters: &Arc<Counters>,
) -> Result<Option<Ring>> {
    let path = dir.path().join(JOURNAL_NAME);
    let before = meta.state().journal_bytes;
    if capacity == 0 && before == 0 {
        meta.update(dir, |meta| (meta.clean, meta.copy) = (false, false))?;
        return Ok(None);
    }
    let epoch = epoch.checked_add(1).ok_or(WalError::Exhausted)?;
    // What is about to be made may be cut off, and must not be missed then.
    meta.update(dir, |meta| {
        (meta.clean, meta.copy) = (false, false);
        meta.epoch = epoch;
        meta.journal_bytes = if before == capacity { before } else { 0 };
    })?;
    if capacity == 0 {
        match dir.remove(JOURNAL_NAME) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(WalError::io(&path, "remove the journal", error));
            }
            _ => return Ok(None),
        }
    }
    let directory_id = meta.state().directory_id;
    let ring = match Ring::open(dir, capacity, directory_id, epoch, Arc::clone(counters)) {
        Ok(ring) => ring,
        Err(source) => match WalError::io(&path, "create the journal", source) {
            WalError::StorageFull { .. } => {
                meta.update(dir, |meta| meta.journal_bytes = 0)?;
                return Ok(None);
            }
            error => return Err(error),
        },
    };
    if before != capacity {
        dir.sync().map_err(|source| WalError::io(dir.path(), "sync the directory", source))?;
        meta.update(dir, |meta| meta.journal_bytes = capacity)?;
    }
    Ok(Some(ring))
}

/// What is in the directory, by name.
#[derive(Debug, Default)]
struct Listing {
    /// By key hash, then by label: sequences. More than one label is an oddity.
    by_hash: BTreeMap<u64, BTreeMap<String, Vec<u32>>>,
    segments: u64,
    digest: u64,
    foreign: u64,
}

impl Listing {
    fn read(dir: &dyn Dir) -> Result<Self> {
        let mut listing = Self::default();
        dir.list(&mut |name| match name.to_str() {
            Some(LOCK_NAME | META_NAME | JOURNAL_NAME) => {}
            Some(name) => match SegmentName::parse(name) {
                Some(name) => listing.add(&name),
                None => listing.foreign = listing.foreign.saturating_add(1),
            },
            None => listing.foreign = listing.foreign.saturating_add(1),
        })
        .map_err(|source| WalError::io(dir.path(), "list the directory", source))?;
        Ok(listing)
    }

    fn add(&mut self, name: &SegmentName<'_>) {
        self.segments = self.segments.saturating_add(1);
        self.digest = self.digest.wrapping_add(mix(name.key_hash ^ mix(u64::from(name.sequence))));
        let labels = self.by_hash.entry(name.key_hash).or_default();
        match labels.get_mut(name.label) {
            Some(sequences) => sequences.push(name.sequence),
            None => drop(labels.insert(name.label.to_owned(), vec![name.sequence])),
        }
    }

    fn into_streams(self, store: &Store, report: &mut RecoveryReport) -> Result<Streams> {
        let streams = Streams::default();
        for (hash, mut labels) in self.by_hash {
            let mut label = labels.keys().next().cloned().unwrap_or_default();
            let mut claims = BTreeMap::new();
            if labels.len() > 1 {
                let mut best = Claim::None;
                for (candidate, sequences) in &labels {
                    let claim = claim(store, hash, candidate, sequences)?;
                    if claim > best {
                        (best, label) = (claim, candidate.clone());
                    }
                    claims.insert(candidate.clone(), claim);
                }
            }
            let mut sequences = labels.remove(&label).unwrap_or_default();
            for (other, sequences) in labels {
                if claims.get(&other) == Some(&Claim::Removed) {
                    continue;
                }
                for sequence in sequences {
                    let name = SegmentId { key_hash: hash, sequence }.file_name(&other);
                    if store.past == Past::Unclean {
                        // When this key is removed, it may be all that is left of its hash.
                        store.note_interrupted(&name);
                    }
                    let path = store.dir.path().join(name);
                    let what = "the label does not belong to the key".to_owned();
                    RecoveryReport::note(
                        &mut report.ignored,
                        Finding { path, offset: 0, bytes: 0, what },
                    );
                }
            }
            sequences.sort_unstable();
            sequences.shrink_to_fit();
            streams.insert(Stream::found(hash, &label, sequences));
        }
        Ok(streams)
    }
}

/// What a label's files can say for its claim to a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    /// None of them is what its name says.
    None,
    /// They are what is left of a key that was removed; another one has taken its place since.
    Removed,
    /// One was a segment, and has lost its header since.
    Damaged,
    /// One is a segment.
    Segment,
}

fn claim(store: &Store, key_hash: u64, label: &str, sequences: &[u32]) -> Result<Claim> {
    let mut best = Claim::None;
    for sequence in sequences {
        let id = SegmentId { key_hash, sequence: *sequence };
        let (access, overlay) = (store.access(false), store.journal_of(id));
        match Segment::open(&*store.dir, id, label, store.directory_id, access, None, overlay) {
            Ok((segment, _)) if segment.removed => best = best.max(Claim::Removed),
            Ok(_) => best = Claim::Segment,
            Err(OpenError::Header(NO_HEADER))
                if store.past == Past::Clean && !store.may_be_interrupted(&id.file_name(label)) =>
            {
                best = best.max(Claim::Damaged);
            }
            // It may be hidden, so that nobody else notes it, and count once the key that hides it is gone.
            Err(OpenError::Header(NO_HEADER)) => store.note_interrupted(&id.file_name(label)),
            Err(OpenError::Header(_) | OpenError::Wal(WalError::UnsupportedVersion { .. })) => {}
            Err(OpenError::Wal(error)) => return Err(error),
        }
    }
    Ok(best)
}

/// The number and digest of the segment files, as a clean `META` has them.
pub(crate) fn fingerprint(dir: &dyn Dir) -> Result<(u64, u64)> {
    let listing = Listing::read(dir)?;
    Ok((listing.segments, listing.digest))
}

fn read_meta(
    dir: &dyn Dir,
    listing: &Listing,
    report: &mut RecoveryReport,
) -> Result<(MetaFile, Past)> {
    let path = dir.path().join(META_NAME);
    let file = match dir.open(META_NAME, OpenMode::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        result => Some(
            result.map_err(|source| WalError::io(&path, "open the directory's facts", source))?,
        ),
    };
    if let Some(file) = &file {
        // What the page cache holds may be what a failed sync has left in it.
        let flush = file.sync_data().and_then(|()| file.drop_cache());
        flush.map_err(|source| WalError::io(&path, "sync the directory's facts", source))?;
    }
    let slots = file.as_deref().map_or(Ok([None, None]), |file| read_slots(file, &path))?;
    let whole = slots.iter().all(Option::is_some);
    let state = slots.into_iter().flatten().max_by_key(|meta| meta.generation);
    if state.as_ref().is_some_and(|state| state.incomplete) {
        return Err(WalError::Incomplete { path: dir.path().to_owned() });
    }
    let (state, past) = match (file, state) {
        (Some(file), Some(mut state)) => {
            let unchanged = (state.segments, state.digest) == (listing.segments, listing.digest);
            let past = match () {
                () if !whole => Past::Unclean,
                () if state.clean && unchanged => Past::Clean,
                () if state.clean => {
                    let what = FILES_CHANGED.to_owned();
                    let path = dir.path().to_owned();
                    RecoveryReport::note(
                        &mut report.damaged,
                        Finding { path, offset: 0, bytes: 0, what },
                    );
                    Past::Unclean
                }
                () => Past::Unclean,
            };
            if !whole {
                state.floor = state.floor.saturating_add(LOST_FLOOR_GAP);
            }
            return Ok((MetaFile::new(file, state), past));
        }
        (file, _) if listing.segments == 0 => {
            // If this is damage, it is not known what numbers the removed keys had.
            let floor = if file.is_some() { LOST_FLOOR_GAP } else { 0 };
            let directory_id = dir.random();
            (Meta { floor, directory_id, clean: true, ..Meta::default() }, Past::Clean)
        }
        (_, _) => {
            let what = FACTS_LOST.to_owned();
            RecoveryReport::note(
                &mut report.damaged,
                Finding { path: path.clone(), offset: 0, bytes: 0, what },
            );
            let directory_id = usual_directory_id(dir, listing)?.unwrap_or_else(|| dir.random());
            let floor = LOST_FLOOR_GAP;
            (Meta { floor, directory_id, ..Meta::default() }, Past::Unclean)
        }
    };
    let file = match dir.open(META_NAME, OpenMode::CreateNew) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            dir.open(META_NAME, OpenMode::Write)
        }
        result => result,
    };
    let mut meta = MetaFile::new(
        file.map_err(|source| WalError::io(&path, "create the directory's facts", source))?,
        state,
    );
    // Both slots, so that one that does not validate later is known to be torn or damaged.
    for _ in SLOT_OFFSETS {
        meta.rewrite(dir)?;
    }
    dir.sync().map_err(|source| WalError::io(dir.path(), "sync the directory", source))?;
    Ok((meta, past))
}

/// The number that most of the segments with a valid header give as their directory's.
fn usual_directory_id(dir: &dyn Dir, listing: &Listing) -> Result<Option<u64>> {
    let mut votes: BTreeMap<u64, u64> = BTreeMap::new();
    for (key_hash, labels) in &listing.by_hash {
        for (label, sequences) in labels {
            for sequence in sequences {
                let id = SegmentId { key_hash: *key_hash, sequence: *sequence };
                if let Some(directory_id) = Segment::directory_id(dir, &id.file_name(label))? {
                    let count = votes.entry(directory_id).or_default();
                    *count = count.saturating_add(1);
                }
            }
        }
    }
    Ok(votes.into_iter().max_by_key(|(_, count)| *count).map(|(directory_id, _)| directory_id))
}

/// Loads the streams, all or as few as will do, and puts what was found into the report.
fn check(store: &Store, streams: &Streams, report: &mut RecoveryReport) -> Result<()> {
    let all = streams.all();
    let checked = if store.options.check_on_open {
        parallel::for_each(&all, |stream| stream.load(store, &mut stream.writer()))
            .map_err(|source| not_checked(store, source))?
    } else {
        check_newest(store, &all)
    };
    store.all_checked.store(store.options.check_on_open, Ordering::Release);
    let mut highest = 0;
    let mut removed = Vec::new();
    report.unchecked_keys = crate::fs::len_u64(all.len().saturating_sub(checked.len()));
    for (stream, result) in checked {
        if let Some(mut findings) = readable(result, report)? {
            highest = highest.max(findings.highest);
            if !findings.removed.is_empty() {
                removed.push((stream, std::mem::take(&mut findings.removed)));
            }
            findings.report(report);
        }
    }
    for stream in &all {
        let lost = streams.fill_the_way_to(stream);
        if lost > 0 {
            let path =
                stream.newest(store)?.map_or_else(PathBuf::new, |newest| newest.path.clone());
            let what = format!("all files of {lost} keys with nearly the same hash are missing");
            RecoveryReport::note(&mut report.damaged, Finding { path, offset: 0, bytes: 0, what });
        }
    }
    // A segment that is lost with its name had at most the number after the last one that is left. This
    // has to survive before anything that tells of the old numbers goes.
    store
        .meta()
        .update(&*store.dir, |meta| meta.floor = meta.floor.max(highest).saturating_add(1))?;
    for (stream, sequences) in removed {
        if let Some(error) = finish_removal(store, streams, &stream, &sequences)? {
            let mut finding = Finding::of(&error, store.dir.path());
            finding.what = format!("left of a removed key: {}", finding.what);
            RecoveryReport::note(&mut report.ignored, finding);
        }
    }
    Ok(())
}

type Checked = Vec<(Arc<Stream>, Result<Findings>)>;

/// Loads streams until the highest number is known that any of them has used: names alone say little.
fn check_newest(store: &Store, all: &[Arc<Stream>]) -> Checked {
    let mut by_name: Vec<(u32, &Arc<Stream>)> =
        all.iter().map(|stream| (stream.writer().highest(), stream)).collect();
    by_name.sort_unstable_by_key(|(named, stream)| (Reverse(*named), stream.hash));
    let mut highest = 0;
    let mut checked = Vec::new();
    for (named, stream) in by_name {
        if named <= highest {
            break;
        }
        let result = stream.load(store, &mut stream.writer());
        highest = result.as_ref().map_or(highest, |findings| findings.highest.max(highest));
        checked.push((Arc::clone(stream), result));
    }
    checked
}

/// Looks at every key that has not been used since a crash: what it had then survives power loss from now on.
pub(crate) fn check_rest(store: &Store, streams: &Streams) -> Result<()> {
    if store.past == Past::Clean || store.all_checked.load(Ordering::Acquire) {
        return Ok(());
    }
    let checked = parallel::for_each(&streams.all(), |stream| stream.ensure_loaded(store));
    for (_, result) in checked.map_err(|source| not_checked(store, source))? {
        match result {
            // That is for those who read it.
            Ok(()) | Err(WalError::Corrupted { .. } | WalError::UnsupportedVersion { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    store.all_checked.store(true, Ordering::Release);
    Ok(())
}

fn not_checked(store: &Store, source: io::Error) -> WalError {
    WalError::io(store.dir.path(), "check the segments", source)
}

/// Deletes what is left of a key that was removed. The value says what cannot be, which keeps nobody from other keys.
fn finish_removal(
    store: &Store,
    streams: &Streams,
    stream: &Stream,
    sequences: &[u32],
) -> Result<Option<WalError>> {
    let mut left = stream.finish_cut_off_removal(store, &mut stream.writer(), sequences)?;
    let tombstone = sequences.last().filter(|_| left.is_none());
    if let Some(tombstone) = tombstone.filter(|_| !streams.next_is_taken(stream.hash)) {
        left = stream.unlink_tombstone(store, *tombstone).err();
        if left.is_none() {
            streams.forget(stream, 0);
        }
    }
    Ok(left)
}

/// What loading a stream found. Damage, and what a newer program wrote, goes into the report; any other
/// error is one of opening the directory.
fn readable(result: Result<Findings>, report: &mut RecoveryReport) -> Result<Option<Findings>> {
    match result {
        Ok(findings) => return Ok(Some(findings)),
        Err(WalError::Corrupted { path, offset, bytes, reason }) => {
            let what = reason.to_owned();
            RecoveryReport::note(&mut report.damaged, Finding { path, offset, bytes, what });
        }
        Err(WalError::UnsupportedVersion { path, version }) => {
            let what = format!("format version {version} is newer than this program");
            RecoveryReport::note(&mut report.ignored, Finding { path, offset: 0, bytes: 0, what });
        }
        Err(error) => return Err(error),
    }
    Ok(None)
}
