//! What the seeded tests share: numbers from the environment, random numbers, contents of entries,
//! all cores, and a list of failures without repetitions.

#![allow(dead_code, reason = "every test uses a part of this")]

pub mod child;
pub mod following;
pub mod forge;
pub mod heap;
pub mod hooked;
pub mod logs;
pub mod ops;
pub mod oracle;
pub mod progress;
pub mod recovered;
pub mod run;
pub mod shown;

use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use bytes::Bytes;
use keywal::fs::sim::Image;

/// What a check says: nothing, or what is wrong.
pub type Check<T = ()> = Result<T, String>;

/// Two keys with the same FNV-1a hash.
pub const COLLIDING: [&[u8]; 2] = [b"8yn0iYCKYHlIj4-BwPqk", b"GReLUrM4wMqfg9yzV3KQ"];

/// Start of every clock: some day in 2023.
pub const EPOCH_MS: u64 = 1_700_000_000_000;

/// Returns the formatted text as an error unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+));
        }
    };
}

/// A number from the environment.
pub fn env_number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number =
        text.strip_prefix("0x").map_or_else(|| text.parse(), |hex| u64::from_str_radix(hex, 16));
    Some(number.unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// The finalizer of `SplitMix64`.
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// `SplitMix64`.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
}

/// The content of the entry with this number: noise, zeros (which look like data that never arrived),
/// or noise full of frame signatures.
pub fn content(serial: u64, bytes: usize) -> Bytes {
    let mut random = Random(serial);
    match serial % 5 {
        0 => Bytes::from(vec![0; bytes]),
        1 => {
            let frame = [0xF7, 0x4B, 0x57, 0xE5, 0, 0, 0, 0, serial.to_le_bytes()[0]];
            frame.iter().copied().cycle().take(bytes).collect()
        }
        _ => {
            let mut noise = Vec::with_capacity(bytes + 8);
            while noise.len() < bytes {
                noise.extend_from_slice(&random.next().to_le_bytes());
            }
            noise.truncate(bytes);
            noise.into()
        }
    }
}

/// No header, an empty one, or one with content.
pub fn header(serial: u64) -> Option<Bytes> {
    match serial % 3 {
        0 => None,
        1 => Some(Bytes::new()),
        _ => Some(content(serial ^ 0xABCD, usize::try_from(serial % 40).unwrap_or(0))),
    }
}

/// A hash of names and contents, to recognise images seen before.
pub fn image_hash(image: &Image) -> u64 {
    let mut hash = 0;
    for (name, body) in image.files() {
        for bytes in [name.as_bytes(), body] {
            hash = (hash ^ bytes.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut words = bytes.chunks_exact(8);
            for word in &mut words {
                let word = word.try_into().map_or(0, u64::from_le_bytes);
                hash = (hash.rotate_left(23) ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            }
            for byte in words.remainder() {
                hash =
                    (hash.rotate_left(23) ^ u64::from(*byte)).wrapping_mul(0x94d0_49bb_1331_11eb);
            }
        }
    }
    mix(hash)
}

/// Calls `work` with every number below `count`, on all cores, until one call returns `false`.
pub fn on_all_cores(count: usize, work: impl Fn(usize) -> bool + Sync) {
    let next = AtomicUsize::new(0);
    let cores = thread::available_parallelism().map_or(1, Into::into);
    thread::scope(|scope| {
        for _ in 0..cores.min(count) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        return;
                    }
                    if !work(at) {
                        next.store(count, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

/// Runs a check; a panic is a failure like any other.
pub fn guarded<T>(check: impl FnOnce() -> Check<T>) -> Check<T> {
    panic::catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// Failures, each kind once: those whose texts differ in numbers only are of one kind.
#[derive(Default)]
pub struct Failures {
    kinds: Mutex<BTreeMap<String, (u64, String)>>,
}

impl Failures {
    const MAX_KINDS: usize = 6;
    const MAX_FAILURES: u64 = 3_000;

    /// Notes a failure. `false`: there are enough.
    pub fn note(&self, what: &str, repro: &str) -> bool {
        let kind: String = what.chars().filter(|c| !c.is_ascii_digit()).collect();
        self.add(kind, 1, format!("{what}\n    {repro}"));
        self.few()
    }

    fn add(&self, kind: String, times: u64, text: String) {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let (seen, shortest) = kinds.entry(kind).or_default();
        *seen += times;
        if shortest.is_empty() || text.len() < shortest.len() {
            *shortest = text;
        }
    }

    /// Takes over what has been noted elsewhere.
    pub fn take(&self, other: &Self) {
        let kinds =
            std::mem::take(&mut *other.kinds.lock().unwrap_or_else(PoisonError::into_inner));
        for (kind, (seen, text)) in kinds {
            self.add(kind, seen, text);
        }
    }

    /// Whether looking for more is worth while.
    pub fn few(&self) -> bool {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let all: u64 = kinds.values().map(|(seen, _)| seen).sum();
        kinds.len() < Self::MAX_KINDS && all < Self::MAX_FAILURES
    }

    pub fn count(&self) -> u64 {
        self.kinds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .map(|(seen, _)| seen)
            .sum()
    }

    /// How many were entries lost or invented, or another promise broken; how many were damage
    /// reported where there is none; how many were panics.
    pub fn by_nature(&self) -> [(&'static str, u64); 3] {
        let (mut lost, mut alarms, mut panics) = (0, 0, 0);
        for (kind, (seen, _)) in &*self.kinds.lock().unwrap_or_else(PoisonError::into_inner) {
            let nature = match kind {
                kind if kind.contains("panic: ") => &mut panics,
                kind if kind.contains("false damage") || kind.contains("Corrupted") => &mut alarms,
                _ => &mut lost,
            };
            *nature += seen;
        }
        [("lost", lost), ("false_alarms", alarms), ("panics", panics)]
    }

    /// Fails the test if anything has been noted.
    pub fn finish(&self) {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let list: Vec<String> =
            kinds.values().map(|(seen, text)| format!("{seen} x {text}")).collect();
        assert!(list.is_empty(), "{} kinds of failures:\n{}", list.len(), list.join("\n"));
    }
}
