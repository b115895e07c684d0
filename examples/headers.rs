//! What are headers for? Metadata beside the content: schema, correlation, time. They come back on
//! every way of reading but the ones that return the content alone.
//!
//! ```text
//! cargo run --example headers
//! ```

use bytes::Bytes;
use keywal::{Wal, WalError, WalOptions};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let wal = Wal::new(dir.path(), WalOptions::default())?;

    let metadata = json!({"version": "1.0", "schema": "user"}).to_string();
    let user_data = Bytes::from(r#"{"name": "Alice", "age": 30}"#);
    let user_ref =
        wal.append_entry("user:123", Some(Bytes::from(metadata)), user_data.clone(), true)?;
    let simple_ref = wal.append_entry("logs", None, Bytes::from("Simple log message"), true)?;

    // The content alone, as if there were no header.
    assert_eq!(wal.read_entry_at(user_ref)?, user_data);

    // The whole entry.
    let user = wal.read_entry(user_ref)?;
    let header: Value = serde_json::from_slice(user.header.as_deref().unwrap_or_default())?;
    println!("user:123 has index {} and schema {}", user.index, header["schema"]);
    assert_eq!(header["schema"], "user");

    // No header and an empty header are different things.
    assert_eq!(wal.read_entry(simple_ref)?.header, None);
    let empty_ref = wal.append_entry("logs", Some(Bytes::new()), "with an empty header", false)?;
    assert_eq!(wal.read_entry(empty_ref)?.header, Some(Bytes::new()));

    // Choosing entries by header while reading in order.
    for (kind, amount) in [("order", "99.99"), ("refund", "10.00"), ("order", "5.00")] {
        wal.log_entry("orders", Some(Bytes::from(kind)), amount)?;
    }
    let mut orders = Vec::new();
    for entry in wal.entries("orders")? {
        let entry = entry?;
        if entry.header.as_deref() == Some(b"order") {
            orders.push(entry.content);
        }
    }
    println!("{} of {} entries are orders", orders.len(), wal.len("orders")?);
    assert_eq!(orders, ["99.99", "5.00"]);

    // One byte too many is refused before anything is written.
    let refused = wal.append_entry("orders", Some(Bytes::from(vec![0; 65_536])), "1.00", true);
    println!("a header of 65,536 bytes: {}", refused.as_ref().expect_err("too long"));
    assert!(matches!(refused, Err(WalError::HeaderTooLarge { bytes: 65_536 })));
    assert_eq!(wal.next_index("orders")?, 3);
    Ok(wal.shutdown()?)
}
