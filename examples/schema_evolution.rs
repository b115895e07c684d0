//! How do events outlive the program that wrote them? The version of the schema is in the header; an
//! upcaster turns each version into the next one while reading, so that the program knows the newest only;
//! a version it does not know is an error.
//!
//! ```text
//! cargo run --example schema_evolution
//! ```

use std::error::Error;
use std::fmt;
use std::path::Path;

use bytes::Bytes;
use keywal::{Entry, Wal, WalOptions};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

type Result<T = (), E = Box<dyn Error>> = std::result::Result<T, E>;

const KEY: &str = "customers";

/// What the header of every event says. It may gain fields and never changes those it has.
#[derive(Serialize, Deserialize)]
struct Schema {
    #[serde(rename = "type")]
    kind: String,
    version: u32,
}

/// Why an event cannot be read. None of these may be passed over: state made of half the events is wrong.
#[derive(Debug, PartialEq)]
enum Unreadable {
    NoSchema { index: u64 },
    Unknown { index: u64, kind: String, version: u32 },
    Malformed { index: u64, field: &'static str },
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSchema { index } => write!(f, "event {index} has no schema in its header"),
            Self::Unknown { index, kind, version } => {
                write!(f, "event {index} is {kind} version {version}: upgrade this program")
            }
            Self::Malformed { index, field } => write!(f, "event {index} has no {field}"),
        }
    }
}

impl Error for Unreadable {}

/// The program of two years ago, which knew version 1 only: one name, and nothing about countries.
mod version_1 {
    use super::{Result, Wal, append, json};

    pub fn register(wal: &Wal, id: u64, name: &str) -> Result {
        append(wal, "registered", 1, &json!({"id": id, "name": name}))
    }

    pub fn moved(wal: &Wal, id: u64, address: &str) -> Result {
        append(wal, "moved", 1, &json!({"id": id, "address": address}))
    }
}

/// The events as today's program has them: version 2 of `registered`, and still version 1 of `moved`.
#[derive(Serialize, Deserialize, Debug, PartialEq)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    Registered { id: u64, given_name: String, family_name: String, country: Option<String> },
    Moved { id: u64, address: String },
}

fn append(wal: &Wal, kind: &str, version: u32, content: &Value) -> Result {
    let schema = serde_json::to_vec(&Schema { kind: kind.to_owned(), version })?;
    wal.log_entry(KEY, Some(Bytes::from(schema)), content.to_string())?;
    Ok(())
}

fn register(wal: &Wal, id: u64, names: (&str, &str), country: &str) -> Result {
    let (given_name, family_name) = names;
    let content = json!({
        "id": id, "given_name": given_name, "family_name": family_name, "country": country,
    });
    append(wal, "registered", 2, &content)
}

/// One step from a version to the next. Steps are never changed, only added to.
type Upcaster = fn(Value) -> Result<Value, &'static str>;

/// All versions of each type: those before the newest, oldest first, as steps to the next.
const UPCASTERS: &[(&str, &[Upcaster])] = &[("registered", &[split_name]), ("moved", &[])];

/// `registered` 1 to 2: the name in two parts; the country is not known.
fn split_name(mut content: Value) -> Result<Value, &'static str> {
    let name = content["name"].take();
    let name = name.as_str().ok_or("name")?;
    let (given_name, family_name) = name.rsplit_once(' ').unwrap_or(("", name));
    let fields = content.as_object_mut().ok_or("fields")?;
    fields.remove("name");
    fields.insert("given_name".to_owned(), json!(given_name));
    fields.insert("family_name".to_owned(), json!(family_name));
    fields.insert("country".to_owned(), Value::Null);
    Ok(content)
}

fn schema_of(entry: &Entry) -> Result<Schema> {
    let header = entry.header.as_deref().ok_or(Unreadable::NoSchema { index: entry.index })?;
    Ok(serde_json::from_slice(header)?)
}

/// Parses an event of any known version as one of the newest.
fn read(entry: &Entry) -> Result<Event> {
    let index = entry.index;
    let Schema { kind, version } = schema_of(entry)?;
    let steps = UPCASTERS.iter().find(|(known, _)| *known == kind).map(|(_, steps)| *steps);
    // Version 1 takes all steps, the newest none.
    let done = usize::try_from(version)?.checked_sub(1);
    let steps = steps.zip(done).and_then(|(steps, done)| steps.get(done..));
    let Some(steps) = steps else {
        return Err(Unreadable::Unknown { index, kind, version }.into());
    };
    let mut content: Value = serde_json::from_slice(&entry.content)?;
    for step in steps {
        content = step(content).map_err(|field| Unreadable::Malformed { index, field })?;
    }
    content["type"] = Value::String(kind);
    Ok(serde_json::from_value(content)?)
}

fn read_all(wal: &Wal) -> Result<Vec<Event>> {
    wal.entries(KEY)?.map(|entry| read(&entry?)).collect()
}

/// How many events there are of each version of a type: what tells when a step may be retired.
fn count(wal: &Wal, kind: &str, version: u32) -> Result<usize> {
    let mut count = 0;
    for entry in wal.entries(KEY)? {
        let schema = schema_of(&entry?)?;
        count += usize::from((schema.kind.as_str(), schema.version) == (kind, version));
    }
    Ok(count)
}

/// A log whose second event cannot be read: the reader says why, and does not pass over it.
fn assert_unreadable(dir: &Path, header: Option<&'static str>, expected: &Unreadable) -> Result {
    let wal = Wal::new(dir, WalOptions::default())?;
    version_1::register(&wal, 1, "Ada Lovelace")?;
    wal.log_entry(KEY, header.map(Bytes::from), r#"{"id": 4}"#)?;
    let error = read_all(&wal).err().ok_or("an unreadable event was passed over")?;
    println!("refused: {error}");
    assert_eq!(error.downcast_ref(), Some(expected));
    Ok(wal.destroy()?)
}

fn main() -> Result {
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("log");
    let wal = Wal::new(&log, WalOptions::default())?;
    version_1::register(&wal, 1, "Ada Lovelace")?;
    version_1::register(&wal, 2, "Plato")?;
    version_1::moved(&wal, 1, "12 St James's Square")?;
    let written = wal.get(KEY, 0)?.ok_or("there is no first event")?;
    println!("as it was written: {}", String::from_utf8_lossy(&written.content));
    wal.shutdown()?;
    drop(wal);

    // Two years later: a new program, the same log.
    let wal = Wal::new(&log, WalOptions::default())?;
    register(&wal, 3, ("Grace", "Hopper"), "US")?;
    let events = read_all(&wal)?;
    for event in &events {
        println!("as it is read: {event:?}");
    }
    let registered = |id, given_name: &str, family_name: &str, country: Option<&str>| {
        let (given_name, family_name) = (given_name.to_owned(), family_name.to_owned());
        Event::Registered { id, given_name, family_name, country: country.map(str::to_owned) }
    };
    let expected = [
        registered(1, "Ada", "Lovelace", None),
        registered(2, "", "Plato", None),
        Event::Moved { id: 1, address: "12 St James's Square".to_owned() },
        registered(3, "Grace", "Hopper", Some("US")),
    ];
    assert_eq!(events, expected);

    // Reading changes nothing: what was written stays as it was.
    assert_eq!(wal.get(KEY, 0)?, Some(written));
    let versions = (count(&wal, "registered", 1)?, count(&wal, "registered", 2)?);
    println!("events registered: {} of version 1, {} of version 2", versions.0, versions.1);
    assert_eq!(versions, (2, 1));
    wal.shutdown()?;

    let other = dir.path().join("other");
    assert_unreadable(&other, None, &Unreadable::NoSchema { index: 1 })?;
    let unknown = Unreadable::Unknown { index: 1, kind: "registered".to_owned(), version: 3 };
    assert_unreadable(&other, Some(r#"{"type": "registered", "version": 3}"#), &unknown)?;
    let malformed = Unreadable::Malformed { index: 1, field: "name" };
    assert_unreadable(&other, Some(r#"{"type": "registered", "version": 1}"#), &malformed)
}
