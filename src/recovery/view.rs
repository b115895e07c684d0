//! Looking at a directory without changing anything, while somebody may write to it.
//!
//! The order makes it safe. First the names are listed, then the journal is copied, then segments are
//! read, when they are needed. What a listed segment that has a successor holds was all in the journal, or
//! in its file, when the successor was created; what has left the journal since is in the file. So no
//! listed segment but the last of its key has a gap, and of that one what is there is a prefix.

use std::io;
use std::sync::Arc;

use ahash::HashMap;

use super::replay::Copied;
use super::{FACTS_LOST, FILES_CHANGED, Listing, replay, usual_directory_id};
use crate::error::{Result, WalError};
use crate::format::{Meta, SLOT_OFFSETS, SegmentId};
use crate::fs::{Dir, OpenMode, len_u64};
use crate::options::WalOptions;
use crate::report::{Finding, RecoveryReport};
use crate::scan::Tail;
use crate::segment::Overlay;
use crate::store::{META_NAME, MetaFile, Past, Reading, Store, read_slots};
use crate::streams::Streams;

const HALF_OF_FACTS: &str =
    "one of two copies of the directory's facts is damaged; the other one is good";
/// How often a directory that is opened or closed meanwhile is looked at again.
const MAX_LOOKS: usize = 16;

/// A directory as it was at one moment.
pub(crate) struct View {
    pub(crate) store: Store,
    pub(crate) streams: Streams,
    pub(crate) report: RecoveryReport,
    /// The copy of the facts about the directory that is damaged, if the other one is good.
    pub(crate) weakened: Option<Finding>,
}

/// The facts about the directory, and where they stand damaged, too; `None`: there are none.
fn facts(dir: &dyn Dir) -> Result<Option<(Meta, Option<u64>)>> {
    let path = dir.path().join(META_NAME);
    let file = match dir.open(META_NAME, OpenMode::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(|source| WalError::io(&path, "open the directory's facts", source))?,
    };
    let slots = read_slots(&*file, &path)?;
    let damaged = slots.iter().zip(SLOT_OFFSETS).find(|(slot, _)| slot.is_none());
    let damaged = damaged.map(|(_, offset)| offset);
    let newest = slots.into_iter().flatten().max_by_key(|meta| meta.generation);
    Ok(newest.map(|meta| (meta, damaged)))
}

/// Looks at a directory. `tails`: where newest segments ended that were looked at before.
pub(crate) fn view(
    dir: Arc<dyn Dir>,
    options: WalOptions,
    tails: HashMap<SegmentId, Tail>,
) -> Result<View> {
    let mut report = RecoveryReport::default();
    let mut looks = 0;
    let (before, listing, copied) = loop {
        let before = facts(&*dir)?;
        let listing = Listing::read(&*dir)?;
        // As when the directory is opened to be written to: unless it is sure to be closed.
        let copied = match &before {
            Some((meta, None)) if meta.clean || meta.journal_bytes == 0 => Copied::default(),
            Some((meta, _)) => replay::copy_out(&*dir, meta)?,
            None if listing.segments == 0 => Copied::default(),
            None => replay::copy_out(&*dir, &without_facts(&*dir, &listing)?)?,
        };
        looks = usize::saturating_add(looks, 1);
        if looks == MAX_LOOKS || facts(&*dir)? == before {
            break (before, listing, copied);
        }
    };
    let weakened = before.as_ref().and_then(|(_, damaged)| *damaged).map(|offset| Finding {
        path: dir.path().join(META_NAME),
        offset,
        bytes: len_u64(Meta::BYTES),
        what: HALF_OF_FACTS.to_owned(),
    });
    let (meta, past) = match before {
        Some((meta, _)) if meta.incomplete => {
            return Err(WalError::Incomplete { path: dir.path().to_owned() });
        }
        Some((meta, damaged)) => {
            let whole = damaged.is_none();
            let changed = (meta.segments, meta.digest) != (listing.segments, listing.digest);
            if meta.clean && whole && changed {
                note(&mut report, dir.path().to_owned(), FILES_CHANGED);
            }
            let closed = meta.clean && whole && !changed;
            (meta, if closed { Past::Clean } else { Past::Unclean })
        }
        None if listing.segments == 0 => (Meta::default(), Past::Unclean),
        None => {
            note(&mut report, dir.path().join(META_NAME), FACTS_LOST);
            (without_facts(&*dir, &listing)?, Past::Unclean)
        }
    };
    report.clean = past == Past::Clean;
    report.segments = listing.segments;
    report.foreign_files = listing.foreign;
    let counters = Arc::default();
    let mut store = Store::new(dir, options, past, MetaFile::read_only(meta), None, counters);
    copied.damaged.into_iter().for_each(|damage| RecoveryReport::note(&mut report.damaged, damage));
    let journal =
        copied.overlays.into_iter().map(|(id, overlay)| (id, Arc::<Overlay>::new(overlay)));
    store.reading = Some(Reading { journal: journal.collect(), tails });
    let streams = listing.into_streams(&store, &mut report)?;
    Ok(View { store, streams, report, weakened })
}

/// What stands in for facts that are lost.
fn without_facts(dir: &dyn Dir, listing: &Listing) -> Result<Meta> {
    let directory_id = usual_directory_id(dir, listing)?.unwrap_or_default();
    Ok(Meta { directory_id, ..Meta::default() })
}

fn note(report: &mut RecoveryReport, path: std::path::PathBuf, what: &str) {
    let what = what.to_owned();
    RecoveryReport::note(&mut report.damaged, Finding { path, offset: 0, bytes: 0, what });
}
