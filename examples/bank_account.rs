//! How does an aggregate with a long history load fast? An event store with snapshots: a snapshot has a
//! key of its own and says which events it covers; loading restores it and replays the events behind it,
//! even where those before it are gone.
//!
//! ```text
//! cargo run --example bank_account
//! ```

use std::error::Error;
use std::fmt;

use keywal::{Wal, WalError, WalOptions};
use serde::{Deserialize, Serialize};

type Result<T = (), E = Box<dyn Error>> = std::result::Result<T, E>;

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
enum Event {
    Opened { owner: String },
    Deposited { cents: u64 },
    Withdrawn { cents: u64 },
    Frozen,
    Unfrozen,
}

/// Why the bank says no. Nothing was appended.
#[derive(Debug, PartialEq)]
enum Refused {
    NotOpen,
    OpenAlready,
    Frozen,
    NoAmount,
    TooMuch { balance_cents: u64 },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOpen => write!(f, "the account is not open"),
            Self::OpenAlready => write!(f, "the account is open already"),
            Self::Frozen => write!(f, "the account is frozen"),
            Self::NoAmount => write!(f, "the amount is zero, or more than an account holds"),
            Self::TooMuch { balance_cents } => write!(f, "there are only {balance_cents} cents"),
        }
    }
}

impl Error for Refused {}

/// The aggregate.
#[derive(Serialize, Deserialize, Debug, Default, Clone, PartialEq)]
struct Account {
    owner: Option<String>,
    balance_cents: u64,
    frozen: bool,
}

impl Account {
    /// The rules: whether the event may happen to the account as it is.
    fn check(&self, event: &Event) -> Result<(), Refused> {
        let Self { owner, balance_cents, frozen } = self;
        match event {
            Event::Opened { .. } if owner.is_some() => Err(Refused::OpenAlready),
            Event::Opened { .. } => Ok(()),
            _ if owner.is_none() => Err(Refused::NotOpen),
            Event::Frozen | Event::Unfrozen => Ok(()),
            _ if *frozen => Err(Refused::Frozen),
            Event::Withdrawn { cents } if cents > balance_cents => {
                Err(Refused::TooMuch { balance_cents: *balance_cents })
            }
            Event::Deposited { cents } if balance_cents.checked_add(*cents).is_none() => {
                Err(Refused::NoAmount)
            }
            Event::Deposited { cents: 0 } | Event::Withdrawn { cents: 0 } => Err(Refused::NoAmount),
            Event::Deposited { .. } | Event::Withdrawn { .. } => Ok(()),
        }
    }

    /// What happened, happened: no rules here.
    fn apply(&mut self, event: Event) {
        match event {
            Event::Opened { owner } => self.owner = Some(owner),
            Event::Deposited { cents } => self.balance_cents += cents,
            Event::Withdrawn { cents } => self.balance_cents -= cents,
            Event::Frozen => self.frozen = true,
            Event::Unfrozen => self.frozen = false,
        }
    }
}

/// The state after all events before `version`.
#[derive(Serialize, Deserialize, Default)]
struct Snapshot {
    version: u64,
    account: Account,
}

/// An account with what loading it took.
struct Loaded {
    account: Account,
    /// The index that the next event gets.
    version: u64,
    replayed: u64,
}

struct EventStore {
    wal: Wal,
    snapshot_every: u64,
}

impl EventStore {
    /// Every call of `compact` would drop what is older than a week; an event store has no such age, so
    /// this program does not call it. Segments are small here so that some can be truncated.
    fn open(dir: &std::path::Path) -> Result<Self> {
        let wal = Wal::new(dir, WalOptions::default().max_segment_bytes(4 << 10))?;
        Ok(Self { wal, snapshot_every: 100 })
    }

    /// The newest snapshot, and the events behind it.
    fn load(&self, id: &str) -> Result<Loaded> {
        self.replay(id, self.newest_snapshot(id)?, u64::MAX)
    }

    /// As the account was when it had this version; needs the history from the beginning.
    fn load_version(&self, id: &str, version: u64) -> Result<Loaded> {
        self.replay(id, Snapshot::default(), version)
    }

    fn replay(&self, id: &str, from: Snapshot, to: u64) -> Result<Loaded> {
        let Snapshot { mut version, mut account } = from;
        let start = version;
        let entries = self.wal.entries(events(id))?.range(start..to);
        // An iterator starts at the oldest entry kept: asked after it was made, whether that is ours.
        let kept_from = self.wal.first_index(events(id))?;
        if kept_from > start {
            return Err(format!("the events of {id} before {kept_from} are gone").into());
        }
        for entry in entries {
            account.apply(serde_json::from_slice(&entry?.content)?);
            version += 1;
        }
        Ok(Loaded { account, version, replayed: version - start })
    }

    fn newest_snapshot(&self, id: &str) -> Result<Snapshot> {
        match self.wal.last(snapshots(id))? {
            Some(entry) => Ok(serde_json::from_slice(&entry.content)?),
            None => Ok(Snapshot::default()),
        }
    }

    /// Appends the event if the rules allow it and the account still has the version it was loaded with.
    fn append(&self, id: &str, loaded: &mut Loaded, event: Event) -> Result {
        loaded.account.check(&event)?;
        let content = serde_json::to_vec(&event)?;
        self.wal.append_if(events(id), loaded.version, None, content, true)?;
        loaded.account.apply(event);
        loaded.version += 1;
        if loaded.version % self.snapshot_every == 0 {
            self.save_snapshot(id, loaded)?;
        }
        Ok(())
    }

    fn save_snapshot(&self, id: &str, loaded: &Loaded) -> Result {
        let snapshot = Snapshot { version: loaded.version, account: loaded.account.clone() };
        self.wal.log_entry(snapshots(id), None, serde_json::to_vec(&snapshot)?)?;
        Ok(())
    }

    /// Drops whole segments of events, and of snapshots, that the newest snapshot makes superfluous.
    fn forget_covered(&self, id: &str) -> Result<u64> {
        let covered = self.newest_snapshot(id)?.version;
        let newest = self.wal.next_index(snapshots(id))?.saturating_sub(1);
        let old_snapshots = self.wal.truncate_before(snapshots(id), newest)?;
        let old_events = self.wal.truncate_before(events(id), covered)?;
        Ok(old_snapshots.dropped_entries + old_events.dropped_entries)
    }

    fn handle(&self, id: &str, event: Event) -> Result {
        let mut loaded = self.load(id)?;
        self.append(id, &mut loaded, event)
    }
}

fn events(id: &str) -> String {
    format!("account:{id}")
}

fn snapshots(id: &str) -> String {
    format!("snapshot/account:{id}")
}

/// 251 events: opened, and 125 times a deposit of 3.00 and a withdrawal of 1.00.
fn make_history(store: &EventStore, id: &str) -> Result {
    let mut loaded = store.load(id)?;
    store.append(id, &mut loaded, Event::Opened { owner: "Ada".to_owned() })?;
    for _ in 0..125 {
        store.append(id, &mut loaded, Event::Deposited { cents: 300 })?;
        store.append(id, &mut loaded, Event::Withdrawn { cents: 100 })?;
    }
    Ok(())
}

fn assert_refused(store: &EventStore, id: &str, event: Event, rule: &Refused) -> Result {
    let text = format!("{event:?}");
    let error = store.handle(id, event).err().ok_or("the rule did not hold")?;
    println!("{text}: {error}");
    assert_eq!(error.downcast_ref(), Some(rule));
    Ok(())
}

fn main() -> Result {
    let dir = tempfile::tempdir()?;
    let store = EventStore::open(dir.path())?;
    make_history(&store, "7")?;

    let balance_cents = 25_000;
    assert_refused(&store, "8", Event::Deposited { cents: 1 }, &Refused::NotOpen)?;
    assert_refused(&store, "7", Event::Deposited { cents: 0 }, &Refused::NoAmount)?;
    let too_much = Refused::TooMuch { balance_cents };
    assert_refused(&store, "7", Event::Withdrawn { cents: 25_001 }, &too_much)?;
    store.handle("7", Event::Frozen)?;
    assert_refused(&store, "7", Event::Withdrawn { cents: 1 }, &Refused::Frozen)?;
    store.handle("7", Event::Unfrozen)?;

    // Two tellers load the same version; the second to append is told, and its money stays.
    let (mut first, mut second) = (store.load("7")?, store.load("7")?);
    store.append("7", &mut first, Event::Withdrawn { cents: 20_000 })?;
    let late = store.append("7", &mut second, Event::Withdrawn { cents: 20_000 });
    let late = late.err().ok_or("the money was paid out twice")?;
    println!("the second teller: {late}");
    assert!(matches!(late.downcast_ref(), Some(WalError::Conflict { expected: 253, actual: 254 })));

    // The snapshot and the replay from the beginning agree, and only one of them reads everything.
    let (fast, full) = (store.load("7")?, store.load_version("7", u64::MAX)?);
    println!("loading: {} events after a snapshot, {} without", fast.replayed, full.replayed);
    assert_eq!((fast.replayed, full.replayed), (54, 254));
    assert_eq!((&fast.account, fast.version), (&full.account, full.version));
    let old = store.load_version("7", 3)?;
    println!(
        "version 3: {} cents; version 254: {}",
        old.account.balance_cents, fast.account.balance_cents
    );
    assert_eq!((old.account.balance_cents, fast.account.balance_cents), (200, 5_000));

    // After a restart, and with covered events dropped, the snapshot is all there is of the old days.
    let dropped = store.forget_covered("7")?;
    store.wal.shutdown()?;
    let store = EventStore::open(dir.path())?;
    let restored = store.load("7")?;
    println!("{dropped} entries dropped; restored at {}: {:?}", restored.version, restored.account);
    assert!(store.wal.first_index(events("7"))? > 0);
    assert_eq!((&restored.account, restored.version), (&full.account, full.version));
    let gone = store.load_version("7", 3).err().ok_or("version 3 should be gone")?;
    println!("version 3 now: {gone}");
    Ok(store.wal.shutdown()?)
}
