//! How do commands, events and queries share a log? Event sourcing with CQRS: one key an aggregate, which
//! is rebuilt from its typed events to decide on a command; optimistic concurrency; metadata that tell what
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
use std::sync::Arc;

use keywal::typed::{Aggregate, Envelope, EventStore, Json, Metadata};
use keywal::{Entry, Key, Wal, WalOptions};

use domain::{Order, OrderEvent, Refused, User, UserEvent};

type Result<T = (), E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// The command side: a store for each kind of stream, in one log.
struct Commands {
    users: EventStore<UserEvent, Json>,
    orders: EventStore<OrderEvent, Json>,
}

/// Decides on the newest state until nobody else was faster. Returns the event's identifier.
fn execute<A: Aggregate>(
    store: &EventStore<A::Event, Json>,
    key: &str,
    metadata: &Metadata,
    command: impl Fn(&A) -> Result<A::Event, Refused>,
) -> Result<String> {
    let appended =
        store.execute(key, metadata, |aggregate| -> Result<_> { Ok(vec![command(aggregate)?]) })?;
    Ok(format!("{key}@{}", appended.version - 1))
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
    fn catch_up(&mut self, commands: &Commands) -> Result<u64> {
        let wal = commands.users.wal();
        let mut applied = 0;
        for key in wal.enumerate_keys()? {
            let from = self.checkpoints.get(&key).copied().unwrap_or(0);
            for entry in wal.entries(&key)?.range(from..) {
                let entry = entry?;
                self.apply(commands, &key, &entry)?;
                self.checkpoints.insert(key.clone(), entry.index + 1);
                applied += 1;
            }
        }
        Ok(applied)
    }

    fn apply(&mut self, commands: &Commands, key: &Key, entry: &Entry) -> Result {
        if key.starts_with(b"user:") {
            if let UserEvent::Registered { name, .. } = commands.users.decode(entry)?.event {
                self.by_user.entry(key.to_string()).or_default().name = name;
            }
        } else if let OrderEvent::Confirmed { user, cents } = commands.orders.decode(entry)?.event {
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
            let metadata = Envelope::of(&entry)?.metadata;
            if metadata.correlation_id.as_deref() == Some(correlation_id) {
                found.insert(format!("{key}@{}", entry.index), metadata.causation_id);
            }
        }
    }
    Ok(found)
}

/// A policy: who confirms an order earns a point for every euro.
fn confirm_order(commands: &Commands, order: &str, user: &str, request: &Metadata) -> Result {
    let Commands { users, orders } = commands;
    let confirmed = execute(orders, order, request, Order::confirm)?;
    let Order { lines, .. } = orders.load(order)?.aggregate;
    let points = lines.iter().map(|line| line.1).sum::<u64>() / 100;
    execute(users, user, &request.caused_by(confirmed), |user: &User| user.earn_points(points))?;
    Ok(())
}

/// Somebody else appends between the load and the append, once: the command decides again.
fn lose_once(
    orders: &EventStore<OrderEvent, Json>,
    order: &str,
    request: &Metadata,
) -> Result<String> {
    let rival_is_faster = Cell::new(true);
    execute(orders, order, request, |order_seen: &Order| {
        if rival_is_faster.replace(false) {
            execute(orders, order, request, |order: &Order| order.add_line("the rival's", 100))
                .map_err(|_| Refused("the rival failed"))?;
        }
        order_seen.add_line("the loser's", 100)
    })
}

/// Four writers want to add five lines each, more than the order takes: the rule holds under the race.
fn race(orders: &EventStore<OrderEvent, Json>, order: &str) -> Result<usize> {
    let writer = |number: usize| -> Result<usize> {
        let request = Metadata::correlated(format!("race-{number}"));
        let mut refused = 0;
        for line in 0..5 {
            let item = format!("item {number}.{line}");
            match execute(orders, order, &request, |order: &Order| order.add_line(&item, 100)) {
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
    let wal = Arc::new(Wal::new(dir.path(), WalOptions::default())?);
    let users = EventStore::new(Arc::clone(&wal), Json);
    let commands = Commands { users, orders: EventStore::new(Arc::clone(&wal), Json) };
    let Commands { users, orders } = &commands;
    let mut customers = Customers::default();

    let request = Metadata::correlated("req-1");
    execute(users, "user:7", &request, |user: &User| user.register("Ada", "ada@old.example"))?;
    execute(users, "user:7", &request, |user: &User| user.change_email("ada@new.example"))?;
    let request = Metadata::correlated("req-2");
    execute(orders, "order:1", &request, |order: &Order| order.place("user:7"))?;
    execute(orders, "order:1", &request, |order: &Order| order.add_line("book", 3_000))?;
    confirm_order(&commands, "order:1", "user:7", &request)?;

    let loaded = users.load::<User>("user:7")?;
    let (user, version) = (loaded.aggregate, loaded.version);
    println!("command side: {user:?} at version {version}");
    assert_eq!((user.email.as_str(), user.points, version), ("ada@new.example", 30, 3));

    let again = execute(orders, "order:1", &request, Order::confirm).err();
    println!("confirming twice: {}", again.as_ref().ok_or("was accepted")?);
    assert!(again.is_some_and(|error| error.is::<Refused>()));

    println!(
        "query side: {} events applied, {:?}",
        customers.catch_up(&commands)?,
        customers.by_user
    );
    let ada = Customer { name: "Ada".to_owned(), orders: 1, spent_cents: 3_000 };
    assert_eq!(customers.by_user["user:7"], ada);
    assert_eq!(customers.catch_up(&commands)?, 0);

    let events = trace(&wal, "req-2")?;
    for (event, cause) in &events {
        println!("req-2 led to {event}, caused by {}", cause.as_deref().unwrap_or("the request"));
    }
    assert_eq!(events.len(), 4);
    assert_eq!(events["user:7@2"].as_deref(), Some("order:1@2"));

    let request = Metadata::correlated("req-3");
    execute(orders, "order:2", &request, |order: &Order| order.place("user:7"))?;
    let event = lose_once(orders, "order:2", &request)?;
    println!("conflict: the slower of two lines became {event}, at the second attempt");
    assert_eq!((event.as_str(), wal.stats().conflicts), ("order:2@2", 1));

    let refused = race(orders, "order:2")?;
    let loaded = orders.load::<Order>("order:2")?;
    let (order, version) = (loaded.aggregate, loaded.version);
    let conflicts = wal.stats().conflicts;
    println!("race: {} lines, {refused} refused, {conflicts} conflicts retried", order.lines.len());
    assert_eq!((order.lines.len(), refused, version), (Order::MAX_LINES, 12, 11));
    Ok(wal.shutdown()?)
}
