//! How do commands, events and queries share a log? Event sourcing with CQRS: one key an aggregate, which
//! is rebuilt from its events to decide on a command; optimistic concurrency; headers that tell what
//! caused an event; a projection that answers queries.
//!
//! ```text
//! cargo run --example event_sourcing_cqrs
//! ```

#[path = "event_sourcing_cqrs/domain.rs"]
mod domain;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use keywal::{Entry, Key, Wal, WalError, WalOptions};
use serde::{Deserialize, Serialize};

use domain::{Aggregate, Order, OrderEvent, Refused, User, UserEvent};

type Result<T = (), E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// Where a command came from; stored as the header of the event that it leads to.
#[derive(Serialize, Deserialize)]
struct Metadata {
    /// The same for everything that one request set off.
    correlation_id: String,
    /// The event that this one follows from; none if it is the request itself.
    causation_id: Option<String>,
}

impl Metadata {
    fn request(correlation_id: &str) -> Self {
        Self { correlation_id: correlation_id.to_owned(), causation_id: None }
    }

    fn caused_by(&self, event_id: &str) -> Self {
        let correlation_id = self.correlation_id.clone();
        Self { correlation_id, causation_id: Some(event_id.to_owned()) }
    }
}

/// The command side.
struct EventStore {
    wal: Wal,
    conflicts: AtomicU64,
}

impl EventStore {
    /// The aggregate, and its version: the index that its next event gets.
    fn load<A: Aggregate>(&self, key: &str) -> Result<(A, u64)> {
        let (mut aggregate, mut version) = (A::default(), 0);
        for entry in self.wal.entries(key)? {
            let entry = entry?;
            aggregate.apply(serde_json::from_slice(&entry.content)?);
            version = entry.index + 1;
        }
        Ok((aggregate, version))
    }

    /// Decides on the newest state until nobody else was faster. Returns the event's identifier.
    fn execute<A: Aggregate>(
        &self,
        key: &str,
        metadata: &Metadata,
        command: impl Fn(&A) -> Result<A::Event, Refused>,
    ) -> Result<String> {
        let header = Bytes::from(serde_json::to_vec(metadata)?);
        loop {
            let (aggregate, version) = self.load(key)?;
            let event = serde_json::to_vec(&command(&aggregate)?)?;
            match self.wal.append_if(key, version, Some(header.clone()), event, true) {
                Ok(_) => return Ok(format!("{key}@{version}")),
                Err(WalError::Conflict { .. }) => self.conflicts.fetch_add(1, Ordering::Relaxed),
                Err(error) => return Err(error.into()),
            };
        }
    }
}

/// The query side: a projection of all aggregates, which remembers how far it has read each of them.
#[derive(Default)]
struct Customers {
    by_user: BTreeMap<String, Customer>,
    checkpoints: HashMap<Key, u64>,
}

#[derive(Default, Debug, PartialEq)]
struct Customer {
    name: String,
    orders: u64,
    spent_cents: u64,
}

impl Customers {
    /// Applies what is new, and returns how much that was.
    fn catch_up(&mut self, wal: &Wal) -> Result<u64> {
        let mut applied = 0;
        for key in wal.enumerate_keys()? {
            let from = self.checkpoints.get(&key).copied().unwrap_or(0);
            for entry in wal.entries(&key)?.range(from..) {
                let entry = entry?;
                self.apply(&key, &entry)?;
                self.checkpoints.insert(key.clone(), entry.index + 1);
                applied += 1;
            }
        }
        Ok(applied)
    }

    fn apply(&mut self, key: &Key, entry: &Entry) -> Result {
        if key.starts_with(b"user:") {
            if let UserEvent::Registered { name, .. } = serde_json::from_slice(&entry.content)? {
                self.by_user.entry(key.to_string()).or_default().name = name;
            }
        } else if let OrderEvent::Confirmed { user, cents } =
            serde_json::from_slice(&entry.content)?
        {
            let customer = self.by_user.entry(user).or_default();
            customer.orders += 1;
            customer.spent_cents += cents;
        }
        Ok(())
    }
}

/// What a request set off, across aggregates: each event with the one that caused it.
fn trace(wal: &Wal, correlation_id: &str) -> Result<BTreeMap<String, Option<String>>> {
    let mut found = BTreeMap::new();
    for key in wal.enumerate_keys()? {
        for entry in wal.entries(&key)? {
            let entry = entry?;
            let header = entry.header.ok_or("an event without metadata")?;
            let metadata: Metadata = serde_json::from_slice(&header)?;
            if metadata.correlation_id == correlation_id {
                found.insert(format!("{key}@{}", entry.index), metadata.causation_id);
            }
        }
    }
    Ok(found)
}

/// A policy: who confirms an order earns a point for every euro.
fn confirm_order(store: &EventStore, order: &str, user: &str, request: &Metadata) -> Result {
    let confirmed = store.execute(order, request, Order::confirm)?;
    let (Order { lines, .. }, _) = store.load(order)?;
    let points = lines.iter().map(|line| line.1).sum::<u64>() / 100;
    store.execute(user, &request.caused_by(&confirmed), |user: &User| user.earn_points(points))?;
    Ok(())
}

/// Somebody else appends between the load and the append, once: the command decides again.
fn lose_once(store: &EventStore, order: &str, request: &Metadata) -> Result<String> {
    let rival_is_faster = Cell::new(true);
    store.execute(order, request, |order_seen: &Order| {
        if rival_is_faster.replace(false) {
            store
                .execute(order, request, |order: &Order| order.add_line("the rival's", 100))
                .map_err(|_| Refused("the rival failed"))?;
        }
        order_seen.add_line("the loser's", 100)
    })
}

/// Four writers want to add five lines each, more than the order takes: the rule holds under the race.
fn race(store: &EventStore, order: &str) -> Result<usize> {
    let writer = |number: usize| -> Result<usize> {
        let request = Metadata::request(&format!("race-{number}"));
        let mut refused = 0;
        for line in 0..5 {
            let item = format!("item {number}.{line}");
            match store.execute(order, &request, |order: &Order| order.add_line(&item, 100)) {
                Err(error) if error.is::<Refused>() => refused += 1,
                result => drop(result?),
            }
        }
        Ok(refused)
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4).map(|number| scope.spawn(move || writer(number))).collect();
        writers.into_iter().map(|writer| writer.join().map_err(|_| "a writer panicked")?).sum()
    })
}

fn main() -> Result {
    let dir = tempfile::tempdir()?;
    let wal = Wal::new(dir.path(), WalOptions::default())?;
    let store = EventStore { wal, conflicts: AtomicU64::new(0) };
    let mut customers = Customers::default();

    let request = Metadata::request("req-1");
    store.execute("user:7", &request, |user: &User| user.register("Ada", "ada@old.example"))?;
    store.execute("user:7", &request, |user: &User| user.change_email("ada@new.example"))?;
    let request = Metadata::request("req-2");
    store.execute("order:1", &request, |order: &Order| order.place("user:7"))?;
    store.execute("order:1", &request, |order: &Order| order.add_line("book", 3_000))?;
    confirm_order(&store, "order:1", "user:7", &request)?;

    let (user, version) = store.load::<User>("user:7")?;
    println!("command side: {user:?} at version {version}");
    assert_eq!((user.email.as_str(), user.points, version), ("ada@new.example", 30, 3));

    let again = store.execute("order:1", &request, Order::confirm).err();
    println!("confirming twice: {}", again.as_ref().ok_or("was accepted")?);
    assert!(again.is_some_and(|error| error.is::<Refused>()));

    println!(
        "query side: {} events applied, {:?}",
        customers.catch_up(&store.wal)?,
        customers.by_user
    );
    let ada = Customer { name: "Ada".to_owned(), orders: 1, spent_cents: 3_000 };
    assert_eq!(customers.by_user["user:7"], ada);
    assert_eq!(customers.catch_up(&store.wal)?, 0);

    let events = trace(&store.wal, "req-2")?;
    for (event, cause) in &events {
        println!("req-2 led to {event}, caused by {}", cause.as_deref().unwrap_or("the request"));
    }
    assert_eq!(events.len(), 4);
    assert_eq!(events["user:7@2"].as_deref(), Some("order:1@2"));

    let request = Metadata::request("req-3");
    store.execute("order:2", &request, |order: &Order| order.place("user:7"))?;
    let event = lose_once(&store, "order:2", &request)?;
    println!("conflict: the slower of two lines became {event}, at the second attempt");
    assert_eq!((event.as_str(), store.conflicts.load(Ordering::Relaxed)), ("order:2@2", 1));

    let refused = race(&store, "order:2")?;
    let (order, version) = store.load::<Order>("order:2")?;
    let conflicts = store.conflicts.load(Ordering::Relaxed);
    println!("race: {} lines, {refused} refused, {conflicts} conflicts retried", order.lines.len());
    assert_eq!((order.lines.len(), refused, version), (Order::MAX_LINES, 12, 11));
    Ok(store.wal.shutdown()?)
}
