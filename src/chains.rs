//! What the sealed segments of a key hold, put together from their headers.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use ahash::HashMap;

use crate::error::WalError;
use crate::primitives::Mutex;
use crate::retention::Span;
use crate::segment::Segment;

/// One link of a key's chain of segments, oldest first.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    Present(Present),
    Lost(Lost),
}

/// A segment that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Present {
    pub(crate) sequence: u32,
    pub(crate) first_index: u64,
    pub(crate) next_index: u64,
    pub(crate) end: u32,
    pub(crate) created_ms: u64,
    pub(crate) expiration_ms: u64,
}

/// A segment that should be there and is not, or cannot be read at all.
#[derive(Debug, Clone)]
pub(crate) struct Lost {
    pub(crate) first_index: u64,
    pub(crate) next_index: u64,
    pub(crate) path: PathBuf,
    pub(crate) reason: &'static str,
}

/// The sealed segments of a key.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    pub(crate) nodes: Vec<Node>,
    /// Segments that count as dropped: a crash interrupted their removal.
    pub(crate) leftovers: Vec<u32>,
    /// Files that hold no segment of the row: creations that a crash cut off.
    pub(crate) unused: Vec<u32>,
}

impl Chain {
    pub(crate) fn present(&self) -> impl Iterator<Item = &Present> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Present(present) => Some(present),
            Node::Lost(_) => None,
        })
    }

    pub(crate) fn lost(&self) -> impl Iterator<Item = &Lost> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Lost(lost) => Some(lost),
            Node::Present(_) => None,
        })
    }
}

impl Present {
    pub(crate) fn of(segment: &Segment) -> Self {
        let extent = segment.extent();
        Self {
            sequence: segment.id.sequence,
            first_index: segment.base_index,
            next_index: segment.base_index.saturating_add(u64::from(extent.count)),
            end: extent.end,
            created_ms: segment.created_ms,
            expiration_ms: segment.expiration_ms,
        }
    }
}

impl Present {
    pub(crate) fn span(&self) -> Span {
        Span {
            expiration_ms: self.expiration_ms,
            entries: self.next_index.saturating_sub(self.first_index),
            bytes: u64::from(self.end),
        }
    }
}

impl Lost {
    pub(crate) fn error(&self) -> WalError {
        WalError::Corrupted { path: self.path.clone(), offset: 0, bytes: 0, reason: self.reason }
    }
}

impl Node {
    pub(crate) fn first_index(&self) -> u64 {
        match self {
            Self::Present(present) => present.first_index,
            Self::Lost(lost) => lost.first_index,
        }
    }

    pub(crate) fn next_index(&self) -> u64 {
        match self {
            Self::Present(present) => present.next_index,
            Self::Lost(lost) => lost.next_index,
        }
    }
}

/// A chain, and the segments it was put together from.
type Known = (Vec<u32>, Arc<Chain>);

/// Chains of the keys read most recently. A chain is good as long as its key has the same segments.
#[derive(Debug)]
pub(crate) struct ChainCache {
    max: usize,
    /// By key hash.
    chains: Mutex<HashMap<u64, Known>>,
}

impl ChainCache {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, chains: Mutex::default() }
    }

    pub(crate) fn get(&self, hash: u64, sequences: &[u32]) -> Option<Arc<Chain>> {
        let chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, chain) = chains.get(&hash)?;
        (known == sequences).then(|| Arc::clone(chain))
    }

    pub(crate) fn put(&self, hash: u64, sequences: Vec<u32>, chain: &Arc<Chain>) {
        let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        if chains.len() >= self.max {
            chains.clear();
        }
        chains.insert(hash, (sequences, Arc::clone(chain)));
    }
}
