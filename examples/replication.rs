//! How does a second log follow a first one? The follower waits for what comes behind its own end, key by
//! key, while the leader goes on; it is away for a while and catches up; both are compared entry by entry.
//!
//! ```text
//! cargo run --example replication
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use bytes::Bytes;
use keywal::{Canceller, Follow, Key, Wal, WalError, WalOptions};

type Result<T = (), E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

const KEYS: u64 = 5;
const MAX_SHIPPED: usize = 64;

/// What goes over the wire: entries of one key, the first of them with this index.
struct Shipment {
    key: Key,
    first_index: u64,
    entries: Vec<(Option<Bytes>, Bytes)>,
}

/// The leader's answer: a log that only reads.
struct Leader<'a> {
    wal: &'a Wal,
}

impl Leader<'_> {
    fn keys(&self) -> Result<impl Iterator<Item = Key>> {
        Ok(self.wal.enumerate_keys()?)
    }

    /// The next entries of a key from this index on; `None` if there are none yet.
    fn ship(&self, key: &Key, from: u64) -> Result<Option<Shipment>> {
        // If retention was faster than the follower, entries are missing that nobody has any more: an error.
        let range = self.wal.entries_from(key, from)?;
        let entries = range.take(MAX_SHIPPED).map(|entry| entry.map(|it| (it.header, it.content)));
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        let shipment = Shipment { key: key.clone(), first_index: from, entries };
        Ok((!shipment.entries.is_empty()).then_some(shipment))
    }
}

/// How far it has come, the follower's own log knows: it keeps no offsets.
struct Follower {
    wal: Wal,
}

impl Follower {
    fn open(dir: &Path) -> Result<Self> {
        Ok(Self { wal: Wal::new(dir, WalOptions::default())? })
    }

    /// Appends what is new in a shipment. One that comes twice changes nothing, and one that would leave
    /// a gap is refused.
    fn accept(&self, shipment: Shipment) -> Result<u64> {
        let Shipment { key, first_index, entries } = shipment;
        let next_index = self.wal.next_index(&key)?;
        if first_index > next_index {
            return Err(WalError::Conflict { expected: first_index, actual: next_index }.into());
        }
        let known = usize::try_from(next_index - first_index)?;
        let refs = self.wal.append_batch(&key, entries.into_iter().skip(known), true)?;
        Ok(refs.len() as u64)
    }

    /// One round over all keys; returns the number of new entries.
    fn pull(&self, leader: &Leader<'_>) -> Result<u64> {
        let mut accepted = 0;
        for key in leader.keys()? {
            if let Some(shipment) = leader.ship(&key, self.wal.next_index(&key)?)? {
                accepted += self.accept(shipment)?;
            }
        }
        Ok(accepted)
    }

    fn catch_up(&self, leader: &Leader<'_>) -> Result<u64> {
        let mut accepted = 0;
        loop {
            match self.pull(leader)? {
                0 => return Ok(accepted),
                new => accepted += new,
            }
        }
    }

    /// Accepts the entries of a key as they come, until that is cancelled. What has come while it was busy
    /// goes into one shipment.
    fn follow(&self, key: &Key, mut coming: Follow<&Wal>) -> Result<u64> {
        let mut accepted = 0;
        while let Some(first) = coming.next() {
            let first = first?;
            let mut shipment =
                Shipment { key: key.clone(), first_index: first.index, entries: Vec::new() };
            shipment.entries.push((first.header, first.content));
            while shipment.entries.len() < MAX_SHIPPED {
                match coming.try_next() {
                    Ok(Some(entry)) => shipment.entries.push((entry.header, entry.content)),
                    Ok(None) | Err(WalError::Cancelled) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            accepted += self.accept(shipment)?;
        }
        Ok(accepted)
    }
}

/// Some entries for every key, one in three with a header.
fn produce(wal: &Wal, numbers: std::ops::Range<u64>) -> Result {
    for number in numbers {
        let header = (number % 3 == 0).then(|| Bytes::from(format!("header {number}")));
        wal.append_entry(
            format!("table:{}", number % KEYS),
            header,
            format!("row {number}"),
            false,
        )?;
    }
    Ok(())
}

/// The leader writes and the follower follows at the same time, each key in a thread of its own.
fn run_together(leader: &Wal, follower: &Follower, numbers: std::ops::Range<u64>) -> Result<u64> {
    std::thread::scope(|scope| {
        let mut following = Vec::new();
        let mut cancellers = Vec::new();
        for key in (0..KEYS).map(|table| Key::from(&*format!("table:{table}"))) {
            // Nobody has written to it yet.
            let coming = leader.follow(&key, follower.wal.next_index(&key)?)?;
            cancellers.push(coming.canceller());
            following.push(scope.spawn(move || follower.follow(&key, coming)));
        }
        let produced = produce(leader, numbers);
        cancellers.iter().for_each(Canceller::cancel);
        let accepted = following.into_iter().map(|thread| thread.join().map_err(|_| "a panic")?);
        let accepted: u64 = accepted.sum::<Result<u64>>()?;
        produced?;
        // What came last may not have been shown any more.
        Ok(accepted + follower.catch_up(&Leader { wal: leader })?)
    })
}

/// Compares keys, indexes, headers and contents. Returns how many entries were compared.
fn verify(leader: &Wal, follower: &Wal) -> Result<u64> {
    let ends = |wal: &Wal| -> Result<BTreeMap<Key, u64>> {
        wal.enumerate_keys()?.map(|key| Ok((key.clone(), wal.next_index(&key)?))).collect()
    };
    let theirs = ends(follower)?;
    if ends(leader)? != theirs {
        return Err("the logs do not end at the same indexes".into());
    }
    let mut compared = 0;
    for key in theirs.keys() {
        for (ours, theirs) in leader.entries(key)?.zip(follower.entries(key)?) {
            let (ours, theirs) = (ours?, theirs?);
            if (ours.index, &ours.header, &ours.content)
                != (theirs.index, &theirs.header, &theirs.content)
            {
                return Err(format!("{key} differs at {}", ours.index).into());
            }
            compared += 1;
        }
    }
    Ok(compared)
}

fn main() -> Result {
    let dir = tempfile::tempdir()?;
    // Small segments, so that the leader has some to drop at the end.
    let options = WalOptions::default().max_segment_bytes(16 << 10);
    let leader = Wal::new(dir.path().join("leader"), options)?;
    let follower_dir = dir.path().join("follower");
    let follower = Follower::open(&follower_dir)?;

    let accepted = run_together(&leader, &follower, 0..5_000)?;
    println!("together: {accepted} entries shipped, {} compared", verify(&leader, &follower.wal)?);
    assert_eq!(accepted, 5_000);

    // The follower is away; what it missed is all that is shipped when it is back.
    drop(follower);
    produce(&leader, 5_000..7_000)?;
    let follower = Follower::open(&follower_dir)?;
    assert!(verify(&leader, &follower.wal).is_err());
    let accepted = follower.catch_up(&Leader { wal: &leader })?;
    println!(
        "back again: {accepted} entries shipped, {} compared",
        verify(&leader, &follower.wal)?
    );
    assert_eq!(accepted, 2_000);

    // A network may deliver twice, and out of order.
    let key = Key::from("table:0");
    let twice = Leader { wal: &leader }.ship(&key, 1_380)?.ok_or("nothing to ship")?;
    assert_eq!((twice.entries.len(), follower.accept(twice)?), (20, 0));
    let early = Shipment { key: key.clone(), first_index: 1_500, entries: Vec::new() };
    let early = follower.accept(early).err().ok_or("a gap was accepted")?;
    println!("a shipment from the future: {early}");
    assert!(matches!(
        early.downcast_ref(),
        Some(WalError::Conflict { expected: 1_500, actual: 1_400 })
    ));
    assert_eq!(verify(&leader, &follower.wal)?, 7_000);

    // Away for too long: that is an error, not a log with a hole.
    produce(&leader, 7_000..12_000)?;
    leader.truncate_before(&key, 2_000)?;
    let late = follower.catch_up(&Leader { wal: &leader }).err().ok_or("a hole was accepted")?;
    println!("away for too long: {late}");
    let first_index = leader.first_index(&key)?;
    assert!(matches!(
        late.downcast_ref(),
        Some(WalError::Behind { wanted: 1_400, oldest }) if *oldest == first_index
    ));
    assert_eq!(follower.wal.next_index(&key)?, 1_400);
    follower.wal.shutdown()?;
    Ok(leader.shutdown()?)
}
