//! Does any damage to stored bytes go unnoticed?
//!
//! A sample directory, closed cleanly, is damaged in every way: bits flipped, sectors zeroed, files
//! removed, cut, doubled, swapped. Whatever is then read must be what was stored, and what is not read
//! must have been reported. `cargo test` flips one bit in 13; all of them:
//! `KEYWAL_FLIPS=all cargo test --release --test bitrot -- --nocapture`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keywal::fs::sim::{Image, SimDir};
use keywal::{Entry, ManualClock, Wal, WalError, WalOptions};

const KEYS: [&str; 3] = ["orders", "x", "payments/eu"];

fn options(clock: &Arc<ManualClock>) -> WalOptions {
    WalOptions::with_retention(Duration::from_secs(1_000)).clock(clock.clone())
}

struct Sample {
    image: Image,
    clock: Arc<ManualClock>,
    entries: BTreeMap<&'static str, Vec<Entry>>,
}

fn sample(seed: u64) -> Sample {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let dir = SimDir::new(seed);
    let wal = Wal::open_in(Arc::new(dir.clone()), options(&clock)).unwrap();
    for round in 0..3 {
        for key in KEYS {
            for number in 0..4_usize {
                let header = (number % 2 == 0).then(|| bytes::Bytes::from(vec![b'h'; number]));
                wal.append_entry(
                    key,
                    header,
                    format!("{seed} {key} {round} {number}").repeat(number),
                    true,
                )
                .unwrap();
            }
        }
        clock.advance(Duration::from_secs(100));
    }
    let entries =
        KEYS.map(|key| (key, wal.entries(key).unwrap().collect::<Result<_, _>>().unwrap()));
    wal.shutdown().unwrap();
    Sample { image: dir.image(), clock, entries: entries.into() }
}

/// Opens a damaged image and checks everything that can be read from it. Returns what was noticed.
fn check(sample: &Sample, image: &Image, what: &dyn std::fmt::Display) -> bool {
    let dir = Arc::new(SimDir::from_image(image, 1));
    let wal = match Wal::open_in(dir, options(&sample.clock)) {
        Ok(wal) => wal,
        Err(WalError::UnsupportedVersion { .. } | WalError::Corrupted { .. }) => return true,
        Err(other) => panic!("{what}: {other}"),
    };
    let reported =
        !wal.recovery_report().damaged.is_empty() || !wal.recovery_report().ignored.is_empty();
    let mut noticed = reported;
    for (key, stored) in &sample.entries {
        let mut errors = 0;
        let mut found = Vec::new();
        match wal.entries(key) {
            Ok(entries) => {
                for result in entries {
                    match result {
                        Ok(entry) => found.push(entry),
                        Err(WalError::Corrupted { .. }) => errors += 1,
                        Err(other) => panic!("{what}: {other}"),
                    }
                }
            }
            Err(WalError::Corrupted { .. } | WalError::UnsupportedVersion { .. }) => errors += 1,
            Err(other) => panic!("{what}: {other}"),
        }
        for entry in &found {
            let index = usize::try_from(entry.index).unwrap();
            assert_eq!(Some(entry), stored.get(index), "{what}: invented or altered");
        }
        assert!(found.windows(2).all(|pair| pair[0].index < pair[1].index), "{what}: order");
        let missing = stored.len() - found.len();
        assert!(
            missing == 0 || errors > 0 || reported,
            "{what}: {missing} of {key} lost in silence"
        );
        noticed |= errors > 0;
        for entry in stored {
            match wal.read_entry(entry.reference) {
                Ok(read) => assert_eq!(read, *entry, "{what}"),
                Err(WalError::Corrupted { .. } | WalError::UnsupportedVersion { .. }) => {
                    noticed = true;
                }
                Err(WalError::Expired | WalError::InvalidRef) if errors > 0 || reported => {}
                Err(other) => panic!("{what}: {other}"),
            }
        }
    }
    noticed
}

fn is_segment(name: &str) -> bool {
    name.contains('-')
}

/// Files whose loss or replacement the log has to notice.
fn files(image: &Image) -> Vec<(String, Vec<u8>)> {
    image.files().map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).collect()
}

#[test]
fn the_sample_itself_is_sound() {
    let sample = sample(1);
    assert!(!check(&sample, &sample.image, &"nothing damaged"));
    assert_eq!(sample.entries["x"].len(), 12);
}

#[test]
fn flipped_bits_and_zeroed_sectors() {
    let sample = sample(1);
    let step = if std::env::var("KEYWAL_FLIPS").is_ok_and(|flips| flips == "all") { 1 } else { 13 };
    let (mut flips, mut noticed, mut sectors) = (0_u64, 0_u64, 0_u64);
    for (name, bytes) in files(&sample.image) {
        for bit in (0..bytes.len() * 8).step_by(step) {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let mut image = sample.image.clone();
            image.set(&name, damaged);
            noticed += u64::from(check(&sample, &image, &format_args!("{name}: bit {bit}")));
            flips += 1;
        }
        for sector in 0..bytes.len().div_ceil(512) {
            let mut damaged = bytes.clone();
            let end = bytes.len().min(sector * 512 + 512);
            damaged[sector * 512..end].fill(0);
            let mut image = sample.image.clone();
            image.set(&name, damaged);
            check(&sample, &image, &format_args!("{name}: sector {sector}"));
            sectors += 1;
        }
    }
    println!(
        "{flips} bits flipped: {noticed} noticed, the others cost nothing; {sectors} sectors zeroed; 0 lost in silence"
    );
}

#[test]
fn files_cut_at_every_length() {
    let sample = sample(1);
    for (name, bytes) in files(&sample.image) {
        for length in 0..bytes.len() {
            let mut image = sample.image.clone();
            image.set(&name, bytes[..length].to_vec());
            check(&sample, &image, &format_args!("{name}: cut to {length}"));
        }
    }
}

#[test]
fn files_removed_doubled_and_swapped() {
    let (sample, other) = (sample(1), sample(2));
    let all = files(&sample.image);
    for (name, bytes) in &all {
        let mut image = sample.image.clone();
        image.remove(name);
        check(&sample, &image, &format_args!("{name}: removed"));
        // In the other directory a file of this one means nothing.
        let mut foreign = other.image.clone();
        if foreign.get(name).is_some() && is_segment(name) {
            foreign.set(name, bytes.clone());
            assert!(check(&other, &foreign, &format_args!("{name}: from another directory")));
        }
        for (other_name, other_bytes) in &all {
            let logs = is_segment(name) && is_segment(other_name);
            if name >= other_name || !logs {
                continue;
            }
            let mut doubled = sample.image.clone();
            doubled.set(other_name, bytes.clone());
            assert!(check(&sample, &doubled, &format_args!("{name}: also as {other_name}")));
            let mut swapped = doubled;
            swapped.set(name, other_bytes.clone());
            assert!(check(&sample, &swapped, &format_args!("{name}: swapped with {other_name}")));
        }
    }
}
