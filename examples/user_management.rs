//! How does an application keep its state in a log? Users with one key each: create, update, delete,
//! get, list, the history of a user; after a restart the state is replayed.
//!
//! ```text
//! cargo run --example user_management
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::path::Path;

use keywal::{Wal, WalOptions};
use serde::{Deserialize, Serialize};

type Result<T = (), E = Box<dyn Error>> = std::result::Result<T, E>;

const KEY_PREFIX: &str = "user:";

#[derive(Serialize, Deserialize, Clone, Debug)]
#[serde(rename_all = "snake_case")]
enum Event {
    Created { name: String, email: String },
    Updated(Changes),
    Deleted,
}

/// What an update sets; the rest stays as it was.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
struct Changes {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phone: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
struct User {
    name: String,
    email: String,
    phone: Option<String>,
}

#[derive(Debug, PartialEq)]
enum Refused {
    Exists(u64),
    Unknown(u64),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists(id) => write!(f, "there is a user {id} already"),
            Self::Unknown(id) => write!(f, "there is no user {id}"),
        }
    }
}

impl Error for Refused {}

/// The state: what all events come to. Replay and new events take the same way.
#[derive(Default, Debug, PartialEq)]
struct State {
    users: BTreeMap<u64, User>,
}

impl State {
    /// Whether the event may happen.
    fn check(&self, id: u64, event: &Event) -> Result<(), Refused> {
        match (event, self.users.contains_key(&id)) {
            (Event::Created { .. }, true) => Err(Refused::Exists(id)),
            (Event::Updated(_) | Event::Deleted, false) => Err(Refused::Unknown(id)),
            _ => Ok(()),
        }
    }

    fn apply(&mut self, id: u64, event: Event) {
        match event {
            Event::Created { name, email } => {
                self.users.insert(id, User { name, email, phone: None });
            }
            Event::Updated(changes) => {
                if let Some(user) = self.users.get_mut(&id) {
                    user.update(changes);
                }
            }
            Event::Deleted => {
                self.users.remove(&id);
            }
        }
    }
}

impl User {
    fn update(&mut self, changes: Changes) {
        let Changes { name, email, phone } = changes;
        self.name = name.unwrap_or_else(|| std::mem::take(&mut self.name));
        self.email = email.unwrap_or_else(|| std::mem::take(&mut self.email));
        self.phone = phone.or(self.phone.take());
    }
}

struct Users {
    wal: Wal,
    state: State,
}

impl Users {
    /// Opens the log and replays it. Users are independent of each other, so their keys may come in any
    /// order.
    fn open(dir: &Path) -> Result<Self> {
        let mut users =
            Self { wal: Wal::new(dir, WalOptions::default())?, state: State::default() };
        for key in users.wal.enumerate_keys()? {
            let id = key.as_str().and_then(|key| key.strip_prefix(KEY_PREFIX));
            let id = id.ok_or("a key of something else")?.parse()?;
            for past in users.history(id)? {
                users.state.apply(id, past.event);
            }
        }
        Ok(users)
    }

    fn create(&mut self, id: u64, name: &str, email: &str) -> Result {
        self.handle(id, Event::Created { name: name.to_owned(), email: email.to_owned() })
    }

    fn update(&mut self, id: u64, changes: Changes) -> Result {
        self.handle(id, Event::Updated(changes))
    }

    /// The user is gone, and the history says so.
    fn delete(&mut self, id: u64) -> Result {
        self.handle(id, Event::Deleted)
    }

    /// The user is gone, and the history, too. (The disk may still hold the bytes for a while.)
    fn forget(&mut self, id: u64) -> Result {
        self.wal.remove_key(key_of(id))?;
        self.state.users.remove(&id);
        Ok(())
    }

    /// First the log, then the state: what is in memory is never more than what is on the disk.
    fn handle(&mut self, id: u64, event: Event) -> Result {
        self.state.check(id, &event)?;
        self.wal.log_entry(key_of(id), None, serde_json::to_vec(&event)?)?;
        self.state.apply(id, event);
        Ok(())
    }

    fn get(&self, id: u64) -> Option<&User> {
        self.state.users.get(&id)
    }

    fn list(&self) -> impl Iterator<Item = (u64, &User)> {
        self.state.users.iter().map(|(id, user)| (*id, user))
    }

    /// All that ever happened to a user, oldest first.
    fn history(&self, id: u64) -> Result<Vec<Past>> {
        let past = self.wal.entries(key_of(id))?.map(|entry| {
            let entry = entry?;
            let event = serde_json::from_slice(&entry.content)?;
            Ok(Past { version: entry.index, timestamp_ms: entry.timestamp_ms, event })
        });
        past.collect()
    }
}

struct Past {
    version: u64,
    timestamp_ms: u64,
    event: Event,
}

fn key_of(id: u64) -> String {
    format!("{KEY_PREFIX}{id}")
}

fn refused(result: Result) -> Result<Refused> {
    let error = result.err().ok_or("this should have been refused")?;
    println!("refused: {error}");
    Ok(*error.downcast()?)
}

fn names(users: &Users) -> Vec<&str> {
    users.list().map(|(_, user)| user.name.as_str()).collect()
}

fn main() -> Result {
    let dir = tempfile::tempdir()?;
    let mut users = Users::open(dir.path())?;
    users.create(123, "Alice", "alice@old.example")?;
    users.create(456, "Bob", "bob@example.org")?;
    users.create(789, "Cleo", "cleo@example.org")?;
    let email = Some("alice@new.example".to_owned());
    users.update(123, Changes { email, ..Changes::default() })?;
    users.update(123, Changes { phone: Some("555-0123".to_owned()), ..Changes::default() })?;
    users.update(456, Changes { name: Some("Robert".to_owned()), ..Changes::default() })?;

    println!("users: {:?}", names(&users));
    assert_eq!(names(&users), ["Alice", "Robert", "Cleo"]);
    let alice = users.get(123).cloned().ok_or("Alice is missing")?;
    println!("user 123: {alice:?}");
    assert_eq!(alice.email, "alice@new.example");
    assert_eq!(alice.phone.as_deref(), Some("555-0123"));

    assert_eq!(refused(users.create(123, "Another Alice", ""))?, Refused::Exists(123));
    assert_eq!(refused(users.update(999, Changes::default()))?, Refused::Unknown(999));
    users.delete(456)?;
    assert_eq!(refused(users.delete(456))?, Refused::Unknown(456));

    println!("the history of user 456, who is deleted:");
    let history = users.history(456)?;
    for Past { version, timestamp_ms, event } in &history {
        println!("  version {version} at {timestamp_ms}: {event:?}");
    }
    assert!(matches!(history.last(), Some(Past { version: 2, event: Event::Deleted, .. })));

    // As if the process died here: no shutdown. The next one replays the log.
    let Users { state, wal } = users;
    drop(wal);
    let mut users = Users::open(dir.path())?;
    println!("after a restart: {:?}", names(&users));
    assert_eq!(users.state, state);

    // A deleted user can come back and goes on where the history was; a forgotten one starts anew.
    users.create(456, "Bob again", "bob@example.org")?;
    users.forget(789)?;
    println!(
        "Bob has {} events now, Cleo {}",
        users.history(456)?.len(),
        users.history(789)?.len()
    );
    assert_eq!((users.history(456)?.len(), users.history(789)?.len()), (4, 0));
    assert_eq!(names(&users), ["Alice", "Bob again"]);
    Ok(users.wal.shutdown()?)
}
