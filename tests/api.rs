//! Does the public face do what its documentation says, on the real file system?

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keywal::{ManualClock, Wal, WalError, WalOptions};

#[test]
fn smoke() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let options = WalOptions::with_retention(Duration::from_secs(100)).clock(clock.clone());
    let wal = Wal::new(dir.path(), options.clone()).unwrap();
    let mut refs = Vec::new();
    for n in 0..1000u32 {
        for key in ["a", "b"] {
            let header = (n % 3 == 0).then(|| Bytes::from(format!("h{n}")));
            let r = wal.append_entry(key, header, format!("{key}{n}"), n % 100 == 0).unwrap();
            refs.push((key, n, r));
        }
        clock.advance(Duration::from_millis(30));
    }
    for (key, n, r) in &refs {
        assert_eq!(wal.read_entry_at(*r).unwrap(), format!("{key}{n}"));
        let entry = wal.read_entry(*r).unwrap();
        assert_eq!(entry.index, u64::from(*n));
        assert_eq!(wal.get(key, entry.index).unwrap().unwrap(), entry);
    }
    let forward: Vec<_> = wal.entries("a").unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(forward.len(), 1000);
    let mut backward: Vec<_> = wal.entries("a").unwrap().rev().collect::<Result<_, _>>().unwrap();
    backward.reverse();
    assert_eq!(forward, backward);
    assert_eq!(wal.segments("a").unwrap().len(), 3);
    wal.shutdown().unwrap();
    assert!(matches!(wal.append_entry("a", None, "x", false), Err(WalError::Closed)));
    let wal = Wal::new(dir.path(), options.clone()).unwrap();
    assert!(wal.recovery_report().clean);
    wal.append_entry("a", None, "x", true).unwrap();
    assert_eq!(wal.entries("a").unwrap().count(), 1001);
    drop(wal);
    let wal = Wal::new(dir.path(), options.clone()).unwrap();
    assert!(!wal.recovery_report().clean);
    assert_eq!(wal.entries("a").unwrap().map(|r| r.unwrap()).count(), 1001);
    clock.advance(Duration::from_secs(99));
    let report = wal.compact().unwrap();
    assert_eq!(report.dropped_segments, 4, "{report:?}");
    clock.advance(Duration::from_secs(20));
    let report = wal.compact().unwrap();
    println!("{report:?}");
    assert_eq!(wal.entries("a").unwrap().count(), 0);
    assert_eq!(wal.next_index("a").unwrap(), 1001);
    assert!(matches!(wal.read_entry_at(refs[0].2), Err(WalError::Expired)));
    wal.remove_key("a").unwrap();
    assert_eq!(wal.next_index("a").unwrap(), 0);
    assert_eq!(wal.enumerate_keys().unwrap().collect::<Vec<_>>(), ["b"]);
    wal.append_entry("a", None, "again", true).unwrap();
    assert!(matches!(wal.read_entry_at(refs[0].2), Err(WalError::Expired)));
    wal.destroy().unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
