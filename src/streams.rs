//! All keys of a directory: from a key, or from a reference, to its stream.
//!
//! Streams are found by key hash. A key whose hash is taken by another one has the next free value, so
//! a search goes on from value to value until the key, or a value nobody has. That needs rows without
//! holes even after a crash: before a key takes such a place, the keys before it survive power loss,
//! and a removed key in the middle leaves a tombstone.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, PoisonError};

use ahash::{AHasher, RandomState};

use crate::cache::Unsynced;
use crate::error::{Result, WalError};
use crate::format::key_hash;
use crate::primitives::atomic::{AtomicBool, Ordering};
use crate::primitives::{RwLock, RwLockReadGuard, RwLockWriteGuard, yield_now};
use crate::store::Store;
use crate::stream::{Phase, Stream};

const SHARDS: usize = 16;

/// A key whose place is farther from its hash than this is not put there by us.
const MAX_STEPS: u64 = 1 << 10;

type Shard = HashSet<ByHash, Alike>;

/// Gives a [`ByHash`] and the number it is found by the same hash. `RandomState` itself does not
/// where a nightly compiler lets it treat integers differently: in a `hash_one` of its own.
#[derive(Debug, Default)]
struct Alike(RandomState);

impl BuildHasher for Alike {
    type Hasher = AHasher;

    fn build_hasher(&self) -> AHasher {
        self.0.build_hasher()
    }
}

/// A stream in the map, found by its hash: half the size of a map's entry.
#[derive(Debug)]
struct ByHash(Arc<Stream>);

impl Borrow<u64> for ByHash {
    fn borrow(&self) -> &u64 {
        &self.0.hash
    }
}

impl Hash for ByHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash.hash(state);
    }
}

impl PartialEq for ByHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.hash == other.0.hash
    }
}

impl Eq for ByHash {}

#[derive(Debug, Default)]
pub(crate) struct Streams {
    shards: [RwLock<Shard>; SHARDS],
    /// Places were filled whose files are lost: only a look at all keys finds that out.
    filled: AtomicBool,
}

impl Streams {
    fn shard(&self, hash: u64) -> &RwLock<Shard> {
        #[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "below SHARDS")]
        let at = (hash % SHARDS as u64) as usize;
        #[expect(clippy::indexing_slicing, reason = "below SHARDS")]
        &self.shards[at]
    }

    fn read(&self, hash: u64) -> RwLockReadGuard<'_, Shard> {
        self.shard(hash).read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, hash: u64) -> RwLockWriteGuard<'_, Shard> {
        self.shard(hash).write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream with this hash, of whatever key.
    pub(crate) fn by_hash(&self, hash: u64) -> Option<Arc<Stream>> {
        self.read(hash).get(&hash).map(|found| Arc::clone(&found.0))
    }

    pub(crate) fn insert(&self, stream: Stream) {
        self.write(stream.hash).insert(ByHash(Arc::new(stream)));
    }

    /// Makes what was appended so far, and is not durable yet, survive power loss.
    pub(crate) fn make_durable(&self, store: &Store) -> Result<()> {
        let Unsynced { open, closed } = store.files.unsynced();
        let synced = store.sync_open(&open);
        drop(open);
        let closed = closed.into_iter();
        let closed: Vec<_> = closed.filter_map(|(hash, _)| self.by_hash(hash)).collect();
        let result = synced.and(store.each(&closed, |stream| stream.sync(store)));
        // Several threads had more of them open than there may be.
        store.make_room_for_file();
        result
    }

    /// All streams, as of some moment during the call.
    pub(crate) fn all(&self) -> Vec<Arc<Stream>> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            all.extend(shard.iter().map(|found| Arc::clone(&found.0)));
        }
        all
    }

    /// As [`Self::all`], in the order of their hashes.
    pub(crate) fn in_order(&self) -> Vec<Arc<Stream>> {
        let mut all = self.all();
        all.sort_unstable_by_key(|stream| stream.hash);
        all
    }

    /// The loaded stream of `key`, or `None` if there is none.
    pub(crate) fn find(&self, store: &Store, key: &[u8]) -> Result<Option<Arc<Stream>>> {
        let mut hash = key_hash(key);
        let mut damaged = None;
        let mut ours = false;
        // What a removed key has left may stand before the place it has now.
        let mut empty = None;
        loop {
            let Some(stream) = self.by_hash(hash) else {
                if self.place_is_lost(store, hash)? {
                    continue;
                }
                break;
            };
            match stream.ensure_loaded(store) {
                Ok(()) if stream.key() == Some(key) => {
                    if stream.exists() {
                        return Ok(Some(stream));
                    }
                    empty.get_or_insert(stream);
                }
                Ok(()) => {}
                // Whose it was is not known: maybe not this key's.
                Err(error @ WalError::Corrupted { .. }) => {
                    ours |= stream.is_labelled(key);
                    damaged.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
            hash = hash.wrapping_add(1);
        }
        match (empty, damaged) {
            (None, Some(error)) => Err(error),
            (Some(_), Some(error)) if ours => Err(error),
            (empty, _) => Ok(empty),
        }
    }

    /// Whether a place that nobody has lies on the way to the stream behind it, and was filled. Opening the
    /// directory may have left that to whoever comes by first.
    fn place_is_lost(&self, store: &Store, hash: u64) -> Result<bool> {
        let Some(beyond) = self.by_hash(hash.wrapping_add(1)) else { return Ok(false) };
        match beyond.ensure_loaded(store) {
            Ok(()) => Ok(self.fill_the_way_to(&beyond) > 0),
            Err(WalError::Corrupted { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The loaded stream of `key`, a new and empty one if there is none.
    pub(crate) fn find_or_create(&self, store: &Store, key: &[u8]) -> Result<Arc<Stream>> {
        loop {
            if let Some(stream) = self.find(store, key)? {
                return Ok(stream);
            }
            if let Some(stream) = self.create(store, key)? {
                return Ok(stream);
            }
            // Somebody else is at it.
            yield_now();
        }
    }

    /// Takes the first place for `key` that is free; `None` if something changed meanwhile.
    fn create(&self, store: &Store, key: &[u8]) -> Result<Option<Arc<Stream>>> {
        let mut hash = key_hash(key);
        // Held until the new stream is in the map: nobody before it can be removed without noticing it.
        let mut occupants: Vec<Arc<Stream>> = std::iter::from_fn(|| {
            let occupant = self.by_hash(hash).filter(|stream| !stream.is_nobodys())?;
            hash = hash.wrapping_add(1);
            Some(occupant)
        })
        .collect();
        // Whoever locks several streams does it in this order; a row may go on at 0.
        occupants.sort_unstable_by_key(|stream| stream.hash);
        let mut guards = Vec::with_capacity(occupants.len());
        for occupant in &occupants {
            let guard = occupant.writer();
            if guard.phase == Phase::Gone || occupant.key().is_none_or(|other| other == key) {
                return Ok(None);
            }
            if guard.phase == Phase::Stuck {
                return Err(occupant.stuck(store, &guard));
            }
            if !occupant.exists() && !guard.has_tombstone() {
                return Ok(None); // being created; wait for how that ends
            }
            occupant.sync_locked(store, &guard)?;
            guards.push(guard);
        }
        let nobodys = self.by_hash(hash);
        let highest = nobodys.as_ref().map_or(0, |stream| stream.writer().highest());
        let mut shard = self.write(hash);
        let unchanged = match (shard.get(&hash), &nobodys) {
            (None, None) => true,
            (Some(now), Some(before)) => now.0.is_nobodys() && Arc::ptr_eq(&now.0, before),
            _ => false,
        };
        if !unchanged {
            return Ok(None);
        }
        let stream = Arc::new(Stream::new(hash, key, highest));
        shard.replace(ByHash(Arc::clone(&stream)));
        Ok(Some(stream))
    }

    /// Whether the value after `hash` is taken.
    pub(crate) fn next_is_taken(&self, hash: u64) -> bool {
        let next = hash.wrapping_add(1);
        self.read(next).contains(&next)
    }

    /// Takes a stream that has no segments out of the map. Its writer lock is held. `highest`: of the
    /// numbers that files with its hash have used; if there is any, or a key behind it would not be found
    /// any more, the place stays, as nobody's.
    pub(crate) fn forget(&self, stream: &Stream, highest: u32) {
        let needed = highest > 0 || self.next_is_taken(stream.hash);
        let mut shard = self.write(stream.hash);
        if needed {
            shard.replace(ByHash(Arc::new(Stream::nobodys(stream.hash, highest))));
        } else {
            shard.remove(&stream.hash);
        }
    }

    /// Fills the places on the way to a stream that nobody has: their files are lost, and the stream
    /// would not be found. Returns how many there were.
    pub(crate) fn fill_the_way_to(&self, stream: &Stream) -> u64 {
        let Some(key) = stream.key() else { return 0 };
        let start = key_hash(key);
        let steps = stream.hash.wrapping_sub(start);
        if steps > MAX_STEPS {
            return 0;
        }
        let places = (0..steps).map(|step| start.wrapping_add(step));
        let lost = places.filter(|hash| self.by_hash(*hash).is_none());
        let lost = lost.map(|hash| self.insert(Stream::nobodys(hash, 0))).count() as u64;
        if lost > 0 {
            self.filled.store(true, Ordering::Relaxed);
        }
        lost
    }

    /// Whether the next one who opens the directory has to fill places, too.
    pub(crate) fn has_filled_places(&self) -> bool {
        self.filled.load(Ordering::Relaxed)
    }
}
