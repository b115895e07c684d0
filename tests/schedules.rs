//! Does every promise hold whichever thread goes on at each moment?
//!
//! Two checkers, each in a build of its own; `tests/soak.sh schedules` runs both:
//!
//! * `--cfg keywal_loom`: the sync gate alone, and waking alone; every schedule of a few threads and every
//!   order in which memory may show their accesses; `KEYWAL_MODELS` runs the first so many cases.
//! * `--cfg keywal_shuttle`: a whole `Wal` on the simulated file system, `KEYWAL_SCHEDULES` schedules
//!   drawn at random. `KEYWAL_SEED` draws others. A failure prints what to set `KEYWAL_SCHEDULE` to
//!   so that this one schedule runs again.

#![cfg(any(keywal_loom, keywal_shuttle))]

mod common;

#[cfg(keywal_loom)]
#[allow(unused_imports, reason = "the gate uses a part of them")]
#[path = "../src/primitives.rs"]
mod primitives;
#[cfg(keywal_loom)]
#[allow(dead_code, reason = "the model uses a part of it")]
#[path = "../src/sync.rs"]
mod sync;

#[cfg(keywal_shuttle)]
#[path = "schedules/cut.rs"]
mod cut;
#[cfg(keywal_loom)]
#[allow(dead_code, reason = "the model uses a part of it")]
#[path = "../src/watch.rs"]
mod watch;

#[cfg(keywal_loom)]
#[path = "schedules/gate.rs"]
mod gate;
#[cfg(keywal_shuttle)]
#[path = "schedules/history.rs"]
mod history;
#[cfg(keywal_loom)]
#[path = "schedules/watch.rs"]
mod waking;
#[cfg(keywal_shuttle)]
#[path = "schedules/whole.rs"]
mod whole;
