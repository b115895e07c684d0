//! How does an application keep references in memory and events on disk? Event sourcing with one key
//! an entity: store, replay, read one event by its identifier, refuse a stale writer.
//!
//! ```text
//! cargo run --example event_index
//! ```

use std::collections::HashMap;
use std::error::Error;

use bytes::Bytes;
use keywal::{EntryRef, Wal, WalError, WalOptions};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn store_event(wal: &Wal, entity_id: &str, event: &Value) -> Result<EntryRef> {
    Ok(wal.log_entry(entity_id, None, Bytes::from(event.to_string()))?)
}

fn replay_events(wal: &Wal, entity_id: &str) -> Result<Vec<Value>> {
    // Damage comes as an error: the replay never leaves out an event in silence.
    wal.enumerate_records(entity_id)?.map(|record| Ok(serde_json::from_slice(&record?)?)).collect()
}

fn get_specific_event(wal: &Wal, event_ref: EntryRef) -> Result<Value> {
    Ok(serde_json::from_slice(&wal.read_entry_at(event_ref)?)?)
}

/// Stores the events and keeps 24 bytes for each.
fn build_event_index(wal: &Wal, events: Vec<Value>) -> Result<HashMap<String, EntryRef>> {
    let mut index = HashMap::new();
    for event in events {
        let event_id = event["id"].as_str().ok_or("an event without id")?;
        let entity_id = event["entity_id"].as_str().ok_or("an event without entity_id")?;
        let event_ref = store_event(wal, entity_id, &event)?;
        index.insert(event_id.to_owned(), event_ref);
    }
    Ok(index)
}

fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let wal = Wal::new(dir.path(), WalOptions::default())?;
    let events = vec![
        json!({"id": "e1", "entity_id": "account:7", "type": "opened"}),
        json!({"id": "e2", "entity_id": "account:8", "type": "opened"}),
        json!({"id": "e3", "entity_id": "account:7", "type": "deposited", "amount": 120}),
        json!({"id": "e4", "entity_id": "account:7", "type": "withdrew", "amount": 50}),
    ];
    let index = build_event_index(&wal, events.clone())?;

    let event = get_specific_event(&wal, index["e3"])?;
    println!("event e3: {event}");
    assert_eq!(event, events[2]);

    let history = replay_events(&wal, "account:7")?;
    let balance: i64 = history.iter().fold(0, |balance, event| match event["type"].as_str() {
        Some("deposited") => balance + event["amount"].as_i64().unwrap_or(0),
        Some("withdrew") => balance - event["amount"].as_i64().unwrap_or(0),
        _ => balance,
    });
    println!("account:7 has {} events and a balance of {balance}", history.len());
    assert_eq!((history.len(), balance), (3, 70));

    // Who decided on an old state is refused: account:7 is at index 3 by now.
    let stale = wal.append_if("account:7", 2, None, r#"{"type": "closed"}"#, true);
    println!("a stale writer: {}", stale.as_ref().expect_err("account:7 has moved on"));
    assert!(matches!(stale, Err(WalError::Conflict { expected: 2, actual: 3 })));
    Ok(wal.shutdown()?)
}
