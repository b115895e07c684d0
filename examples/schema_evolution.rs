//! How do events outlive the program that wrote them? The version of the schema is in the header; an
//! upcaster turns each version into the next one while reading, so that the program knows the newest only;
//! a version it does not know is an error.
//!
//! ```text
//! cargo run --example schema_evolution
//! ```

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use keywal::typed::{
    BoxError, Envelope, EventStore, ExpectedVersion, Json, Metadata, TypedError, Upcasters,
};
use keywal::{Wal, WalOptions};
use serde::{Deserialize, Serialize};

type Result<T = (), E = Box<dyn Error>> = std::result::Result<T, E>;

const KEY: &str = "customers";

/// The program of two years ago, which knew version 1 only: one name, and nothing about countries.
mod version_1 {
    use super::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Event {
        Registered { id: u64, name: String },
        Moved { id: u64, address: String },
    }

    impl keywal::typed::Event for Event {
        const TYPES: &'static [(&'static str, u32)] = &[("registered", 1), ("moved", 1)];

        fn event_type(&self) -> &'static str {
            match self {
                Self::Registered { .. } => "registered",
                Self::Moved { .. } => "moved",
            }
        }
    }

    pub fn registered(id: u64, name: &str) -> Event {
        Event::Registered { id, name: name.to_owned() }
    }
}

/// The events as today's program has them: version 2 of `registered`, and still version 1 of `moved`.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Event {
    Registered { id: u64, given_name: String, family_name: String, country: Option<String> },
    Moved { id: u64, address: String },
}

impl keywal::typed::Event for Event {
    const TYPES: &'static [(&'static str, u32)] = &[("registered", 2), ("moved", 1)];

    fn event_type(&self) -> &'static str {
        match self {
            Self::Registered { .. } => "registered",
            Self::Moved { .. } => "moved",
        }
    }
}

/// `registered` 1 to 2: the name in two parts; the country is not known.
fn split_name(old: version_1::Event) -> Result<Event, BoxError> {
    let version_1::Event::Registered { id, name } = old else {
        return Err("not what it says it is".into());
    };
    let (given_name, family_name) = name.rsplit_once(' ').unwrap_or(("", &name));
    let (given_name, family_name) = (given_name.to_owned(), family_name.to_owned());
    Ok(Event::Registered { id, given_name, family_name, country: None })
}

fn open(wal: &Arc<Wal>) -> Result<EventStore<Event, Json>> {
    let upcasters = Upcasters::new().step("registered", 1, split_name);
    Ok(EventStore::new(Arc::clone(wal), Json).upcasters(upcasters)?)
}

fn read_all(customers: &EventStore<Event, Json>) -> Result<Vec<Event>, TypedError> {
    customers.events(KEY, ..)?.map(|recorded| recorded.map(|recorded| recorded.event)).collect()
}

/// How many events there are of each version of a type: what tells when a step may be retired.
fn count(wal: &Wal, event_type: &str, version: u32) -> Result<usize> {
    let mut count = 0;
    for entry in wal.entries(KEY)? {
        let envelope = Envelope::of(&entry?)?;
        count += usize::from(
            (envelope.event_type.as_str(), envelope.schema_version) == (event_type, version),
        );
    }
    Ok(count)
}

/// A program that is older than a log's events: the reader says why, and does not pass over one.
fn read_with_the_old_program(wal: &Arc<Wal>) -> Result {
    let old: EventStore<version_1::Event, _> = EventStore::new(Arc::clone(wal), Json);
    let readable = old.events(KEY, ..)?.take_while(std::result::Result::is_ok).count();
    assert_eq!(readable, 3);
    let error = old.events(KEY, 3..)?.find_map(std::result::Result::err);
    let error = error.ok_or("an unreadable event was passed over")?;
    println!("the old program: {error}");
    let newer = TypedError::NewerSchema {
        index: 3,
        event_type: "registered".to_owned(),
        schema_version: 2,
        known: 1,
    };
    assert_eq!(error.to_string(), newer.to_string());
    Ok(())
}

/// A program that forgot a step, and an entry that is no event.
fn read_what_cannot_be_read(wal: &Arc<Wal>, dir: &Path) -> Result {
    let forgetful: EventStore<Event, _> = EventStore::new(Arc::clone(wal), Json);
    let error = read_all(&forgetful).err().ok_or("a version was passed over")?;
    println!("without the step: {error}");
    assert!(matches!(error, TypedError::NoUpcaster { index: 0, schema_version: 1, .. }));

    let other = Arc::new(Wal::new(dir, WalOptions::default())?);
    other.log_entry(KEY, None, r#"{"id": 4}"#)?;
    let error = read_all(&open(&other)?).err().ok_or("an entry was passed over")?;
    println!("without a header: {error}");
    assert!(matches!(error, TypedError::NotAnEvent { index: 0, .. }));
    Ok(other.shutdown()?)
}

fn main() -> Result {
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("log");
    let wal = Arc::new(Wal::new(&log, WalOptions::default())?);
    let customers = EventStore::new(Arc::clone(&wal), Json);
    let events = [
        version_1::registered(1, "Ada Lovelace"),
        version_1::registered(2, "Plato"),
        version_1::Event::Moved { id: 1, address: "12 St James's Square".to_owned() },
    ];
    customers.append(KEY, ExpectedVersion::NoStream, &events, &Metadata::default())?;
    let written = wal.get(KEY, 0)?.ok_or("there is no first event")?;
    println!("as it was written: {}", String::from_utf8_lossy(&written.content));
    wal.shutdown()?;
    drop((wal, customers));

    // Two years later: a new program, the same log.
    let wal = Arc::new(Wal::new(&log, WalOptions::default())?);
    let customers = open(&wal)?;
    let registered = |id, given_name: &str, family_name: &str, country: Option<&str>| {
        let (given_name, family_name) = (given_name.to_owned(), family_name.to_owned());
        Event::Registered { id, given_name, family_name, country: country.map(str::to_owned) }
    };
    let grace = registered(3, "Grace", "Hopper", Some("US"));
    customers.append(KEY, 3, [&grace], &Metadata::default())?;
    let events = read_all(&customers)?;
    for event in &events {
        println!("as it is read: {event:?}");
    }
    let expected = [
        registered(1, "Ada", "Lovelace", None),
        registered(2, "", "Plato", None),
        Event::Moved { id: 1, address: "12 St James's Square".to_owned() },
        grace,
    ];
    assert_eq!(events, expected);

    // Reading changes nothing: what was written stays as it was.
    assert_eq!(wal.get(KEY, 0)?, Some(written));
    let versions = (count(&wal, "registered", 1)?, count(&wal, "registered", 2)?);
    println!("events registered: {} of version 1, {} of version 2", versions.0, versions.1);
    assert_eq!(versions, (2, 1));

    read_with_the_old_program(&wal)?;
    read_what_cannot_be_read(&wal, &dir.path().join("other"))?;
    Ok(wal.shutdown()?)
}
