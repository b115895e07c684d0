//! How does an aggregate with a long history load fast? A typed stream with snapshots: a snapshot has a key
//! of its own and says which events it covers; loading restores it and replays the events behind it, even
//! where those before it are gone.
//!
//! ```text
//! cargo run --example bank_account
//! ```

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use keywal::typed::{Aggregate, EventStore, Json, Loaded, Metadata, TypedError};
use keywal::{Wal, WalOptions};
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

impl keywal::typed::Event for Event {
    const TYPES: &'static [(&'static str, u32)] =
        &[("opened", 1), ("deposited", 1), ("withdrawn", 1), ("frozen", 1), ("unfrozen", 1)];

    fn event_type(&self) -> &'static str {
        match self {
            Self::Opened { .. } => "opened",
            Self::Deposited { .. } => "deposited",
            Self::Withdrawn { .. } => "withdrawn",
            Self::Frozen => "frozen",
            Self::Unfrozen => "unfrozen",
        }
    }
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
}

impl Aggregate for Account {
    type Event = Event;
    const NAME: &'static str = "account";

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

const SNAPSHOT_EVERY: u64 = 100;

struct Bank {
    events: EventStore<Event, Json>,
}

impl Bank {
    /// Every call of `compact` would drop what is older than a week; an event store has no such age, so
    /// this program does not call it. Segments are small here so that some can be truncated.
    fn open(dir: &std::path::Path) -> Result<Self> {
        let wal = Wal::new(dir, WalOptions::default().max_segment_bytes(4 << 10))?;
        Ok(Self { events: EventStore::new(Arc::new(wal), Json) })
    }

    fn load(&self, id: &str) -> Result<Loaded<Account>> {
        Ok(self.events.load(stream(id))?)
    }

    /// Appends the event if the rules allow it and the account still has the version it was loaded with.
    fn append(&self, id: &str, loaded: &mut Loaded<Account>, event: Event) -> Result {
        loaded.aggregate.check(&event)?;
        let appended =
            self.events.append(stream(id), loaded.version, [&event], &Metadata::default())?;
        loaded.aggregate.apply(event);
        loaded.version = appended.version;
        if loaded.version % SNAPSHOT_EVERY == 0 {
            self.events.save_snapshot(stream(id), loaded)?;
        }
        Ok(())
    }

    fn handle(&self, id: &str, event: Event) -> Result {
        let mut loaded = self.load(id)?;
        self.append(id, &mut loaded, event)
    }
}

fn stream(id: &str) -> String {
    format!("account:{id}")
}

/// 251 events: opened, and 125 times a deposit of 3.00 and a withdrawal of 1.00.
fn make_history(bank: &Bank, id: &str) -> Result {
    let mut loaded = bank.load(id)?;
    bank.append(id, &mut loaded, Event::Opened { owner: "Ada".to_owned() })?;
    for _ in 0..125 {
        bank.append(id, &mut loaded, Event::Deposited { cents: 300 })?;
        bank.append(id, &mut loaded, Event::Withdrawn { cents: 100 })?;
    }
    Ok(())
}

fn assert_refused(bank: &Bank, id: &str, event: Event, rule: &Refused) -> Result {
    let text = format!("{event:?}");
    let error = bank.handle(id, event).err().ok_or("the rule did not hold")?;
    println!("{text}: {error}");
    assert_eq!(error.downcast_ref(), Some(rule));
    Ok(())
}

fn main() -> Result {
    let dir = tempfile::tempdir()?;
    let bank = Bank::open(dir.path())?;
    make_history(&bank, "7")?;

    let balance_cents = 25_000;
    assert_refused(&bank, "8", Event::Deposited { cents: 1 }, &Refused::NotOpen)?;
    assert_refused(&bank, "7", Event::Deposited { cents: 0 }, &Refused::NoAmount)?;
    let too_much = Refused::TooMuch { balance_cents };
    assert_refused(&bank, "7", Event::Withdrawn { cents: 25_001 }, &too_much)?;
    bank.handle("7", Event::Frozen)?;
    assert_refused(&bank, "7", Event::Withdrawn { cents: 1 }, &Refused::Frozen)?;
    bank.handle("7", Event::Unfrozen)?;

    // Two tellers load the same version; the second to append is told, and its money stays.
    let (mut first, mut second) = (bank.load("7")?, bank.load("7")?);
    bank.append("7", &mut first, Event::Withdrawn { cents: 20_000 })?;
    let late = bank.append("7", &mut second, Event::Withdrawn { cents: 20_000 });
    let late = late.err().ok_or("the money was paid out twice")?;
    println!("the second teller: {late}");
    assert!(matches!(
        late.downcast_ref(),
        Some(TypedError::Conflict { expected: 253, actual: 254 })
    ));

    // The snapshot and the replay from the beginning agree, and only one of them reads everything.
    let (fast, full) = (bank.load("7")?, bank.events.replay::<Account>(stream("7"), u64::MAX)?);
    println!("loading: {} events after a snapshot, {} without", fast.replayed, full.replayed);
    assert_eq!((fast.replayed, full.replayed), (54, 254));
    assert_eq!((&fast.aggregate, fast.version), (&full.aggregate, full.version));
    let old = bank.events.replay::<Account>(stream("7"), 3)?;
    println!(
        "version 3: {} cents; version 254: {}",
        old.aggregate.balance_cents, fast.aggregate.balance_cents
    );
    assert_eq!((old.aggregate.balance_cents, fast.aggregate.balance_cents), (200, 5_000));

    // After a restart, and with covered events dropped, the snapshot is all there is of the old days.
    let dropped = bank.events.drop_covered::<Account>(stream("7"))?;
    bank.events.wal().shutdown()?;
    let bank = Bank::open(dir.path())?;
    let restored = bank.load("7")?;
    println!(
        "{dropped} entries dropped; restored at {}: {:?}",
        restored.version, restored.aggregate
    );
    assert!(bank.events.wal().first_index(stream("7"))? > 0);
    assert_eq!((&restored.aggregate, restored.version), (&full.aggregate, full.version));
    let gone = bank.events.replay::<Account>(stream("7"), 3).err();
    let gone = gone.ok_or("version 3 should be gone")?;
    println!("version 3 now: {gone}");
    Ok(bank.events.wal().shutdown()?)
}
