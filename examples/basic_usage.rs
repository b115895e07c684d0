//! What do the first calls look like? Append, read by reference, read a key in order, shut down.
//!
//! ```text
//! cargo run --example basic_usage
//! ```

use bytes::Bytes;
use keywal::{Key, Wal, WalOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let wal = Wal::new(dir.path(), WalOptions::default())?;

    // Two users, one key each. `false` survives the death of the process, `true` also power loss.
    let alice_ref =
        wal.append_entry("user:123", None, Bytes::from(r#"{"name": "Alice"}"#), false)?;
    let bob_ref = wal.append_entry("user:456", None, Bytes::from(r#"{"name": "Bob"}"#), true)?;
    wal.append_entry("user:123", None, Bytes::from(r#"{"name": "Alice B."}"#), false)?;

    // Random access: a reference is all that has to be kept in memory.
    let alice = wal.read_entry_at(alice_ref)?;
    println!("Alice's first entry: {}", String::from_utf8_lossy(&alice));
    assert_eq!(alice, r#"{"name": "Alice"}"#);
    assert_eq!(wal.read_entry_at(bob_ref)?, r#"{"name": "Bob"}"#);

    // Sequential access: what a key holds, oldest first.
    let records: Vec<Bytes> = wal.enumerate_records("user:123")?.collect::<Result<_, _>>()?;
    println!("Alice has {} entries", records.len());
    assert_eq!(records, [r#"{"name": "Alice"}"#, r#"{"name": "Alice B."}"#]);

    let mut keys: Vec<Key> = wal.enumerate_keys()?.collect();
    keys.sort();
    println!("keys: {keys:?}");
    assert_eq!(keys, ["user:123", "user:456"]);

    // Nothing is a week old.
    let report = wal.compact()?;
    println!("compact dropped {} segments", report.dropped_segments);
    assert_eq!(report.dropped_segments, 0);

    // A shutdown keeps the data, and references stay good.
    wal.shutdown()?;
    let wal = Wal::new(dir.path(), WalOptions::default())?;
    assert!(wal.recovery_report().clean);
    assert_eq!(wal.read_entry_at(alice_ref)?, alice);
    println!("after reopening, Alice's reference still reads her entry");

    // Removing the log is another call.
    wal.destroy()?;
    assert_eq!(std::fs::read_dir(dir.path())?.count(), 0);
    Ok(())
}
