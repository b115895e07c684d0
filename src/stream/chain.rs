//! Putting the segments of a stream in a row, and noticing which are missing.

use std::sync::Arc;

use super::Stream;
use crate::chains::{Chain, Lost, Node, Present};
use crate::error::{Result, WalError};
use crate::segment::Segment;
use crate::store::Store;

/// What comes before a row of segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Tombstone,
    Segment,
}

impl Stream {
    /// The sealed segments and the newest one, all as of one moment; `None` if the stream is empty.
    /// The stream must be loaded.
    pub(crate) fn chain(&self, store: &Store) -> Result<Option<(Arc<Chain>, Arc<Segment>)>> {
        let mut unused: Vec<u32> = Vec::new();
        loop {
            let sequences = self.sequences();
            let Some((newest, sealed)) = sequences.split_last() else { return Ok(None) };
            let newest = match self.segment(store, *newest) {
                // Dropped since, so there is a newer one.
                Err(WalError::Expired) if store.reading.is_none() => continue,
                result => result?,
            };
            if let Some(chain) = store.chains.get(self.hash, &sequences) {
                return Ok(Some((chain, newest)));
            }
            let chain = Arc::new(self.link(store, sealed, &newest)?);
            let sound = chain.nodes.iter().all(|node| matches!(node, Node::Present(_)));
            if !sound && self.sequences() != sequences {
                continue; // some were dropped meanwhile, which may look like a loss
            }
            let reading = store.reading.is_some();
            if !sound && reading && self.look_again(store, newest.id.sequence, &unused)? {
                continue; // as above, by another process
            }
            if !chain.unused.is_empty() {
                // They are no part of the stream, and no reference leads to them. When the key is removed,
                // they may be all that is left of its files.
                for sequence in &chain.unused {
                    store.note_interrupted(&self.file_name(*sequence));
                    self.catalog().remove(*sequence);
                }
                unused.extend(&chain.unused);
                continue;
            }
            // A lost segment may be put back by hand, so only sound chains are remembered.
            if sound {
                store.chains.put(self.hash, sequences, &chain);
            }
            return Ok(Some((chain, newest)));
        }
    }

    fn link(&self, store: &Store, mut older: &[u32], newest: &Arc<Segment>) -> Result<Chain> {
        let mut chain = Chain::default();
        // The oldest segment linked so far: what its header says, and where its entries start.
        let mut previous_sequence = newest.previous_sequence;
        let mut first_index = newest.base_index;
        while let Some((sequence, rest)) = older.split_last() {
            if previous_sequence != 0 && previous_sequence < *sequence {
                chain.unused.push(*sequence);
                older = rest;
                continue;
            }
            let missing = previous_sequence > *sequence;
            let before = if missing { self.newest_of(store, older)? } else { Before::Segment };
            if before == Before::Nothing {
                // Nothing says that there ever was a segment between them and the row.
                chain.unused.extend_from_slice(older);
                break;
            }
            if previous_sequence == 0
                || before == Before::Tombstone
                || self.is_tombstone(store, *sequence)
                || (missing && newest.limits.is_none() && self.were_dropped(store, older))
            {
                self.sort_leftovers(store, older, &mut chain)?;
                break;
            }
            if previous_sequence != *sequence {
                chain.nodes.push(Node::Lost(Lost {
                    first_index: 0,
                    next_index: first_index,
                    path: self.path(store, previous_sequence),
                    reason: "the segment is missing",
                }));
            }
            match self.segment(store, *sequence) {
                Ok(segment) => {
                    let present = Present::of(&segment);
                    // What lost segments held is what their neighbours do not.
                    for node in chain.nodes.iter_mut().rev() {
                        let Node::Lost(lost) = node else { break };
                        lost.first_index = present.next_index;
                    }
                    chain.nodes.push(Node::Present(present));
                    previous_sequence = segment.previous_sequence;
                    first_index = segment.base_index;
                }
                Err(WalError::Expired) => break,
                Err(WalError::Corrupted { path, reason, .. }) => {
                    // From 0 unless an older segment tells more.
                    chain.nodes.push(Node::Lost(Lost {
                        first_index: 0,
                        next_index: first_index,
                        path,
                        reason,
                    }));
                    // What came before it is not known; take the next one there is.
                    previous_sequence = rest.last().copied().unwrap_or(0);
                }
                Err(error) => return Err(error),
            }
            older = rest;
        }
        chain.nodes.reverse();
        Ok(chain)
    }

    /// What the newest of these files is that was not cut off when it was created.
    fn newest_of(&self, store: &Store, sequences: &[u32]) -> Result<Before> {
        for sequence in sequences.iter().rev() {
            match self.segment(store, *sequence) {
                Ok(segment) if segment.removed => return Ok(Before::Tombstone),
                Ok(_) | Err(WalError::Expired) => return Ok(Before::Segment),
                Err(WalError::Corrupted { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Before::Nothing)
    }

    fn is_tombstone(&self, store: &Store, sequence: u32) -> bool {
        self.segment(store, sequence).is_ok_and(|segment| segment.removed)
    }

    /// Tells what is left of dropped segments from what never was one. A file without a valid header may
    /// be anything, and is not to be dropped.
    fn sort_leftovers(&self, store: &Store, sequences: &[u32], chain: &mut Chain) -> Result<()> {
        for sequence in sequences {
            match self.segment(store, *sequence) {
                Ok(_) => chain.leftovers.push(*sequence),
                Err(WalError::Expired) => {}
                Err(WalError::Corrupted { .. }) => chain.unused.push(*sequence),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether retention has dropped all of these segments, and a crash brought some back. Among them
    /// may be creations that another crash had cut off. A key with limits of its own never gets there.
    fn were_dropped(&self, store: &Store, sequences: &[u32]) -> bool {
        let through_ms = store.meta().state().dropped_through_ms;
        let dropped = |sequence: &u32| match self.segment(store, *sequence) {
            Ok(segment) => segment.expiration_ms <= through_ms,
            Err(error) => matches!(error, WalError::Corrupted { .. }),
        };
        sequences.iter().all(dropped)
    }

    /// Index of the oldest entry that can be read. The stream must be loaded.
    pub(crate) fn first_index(&self, store: &Store) -> Result<u64> {
        let Some((chain, newest)) = self.chain(store)? else { return Ok(0) };
        let oldest = chain.nodes.iter().find_map(|node| match node {
            Node::Present(present) => Some(present.first_index),
            Node::Lost(_) => None,
        });
        Ok(oldest.unwrap_or(newest.base_index))
    }
}
