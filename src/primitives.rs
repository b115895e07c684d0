//! The locks, atomics and thread locals of the crate, in one place so that a checker can take over.
//!
//! They are the standard library's. In a build with `--cfg keywal_shuttle` or `--cfg keywal_loom`,
//! which only `tests/schedules.rs` is for, they are those of a checker that decides at each use of one
//! which thread goes on. What is not here is invisible to it: `Arc`, whose counts decide nothing that
//! a lock does not guard, and the one `OnceLock`, which is set under a lock.

#[cfg(keywal_loom)]
use loom::{sync, thread};
#[cfg(keywal_shuttle)]
use shuttle::{sync, thread};
#[cfg(not(any(keywal_loom, keywal_shuttle)))]
use std::{sync, thread};

pub(crate) use sync::{
    Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic,
};
pub(crate) use thread::yield_now;

#[cfg(keywal_shuttle)]
pub(crate) use shuttle::thread_local;
#[cfg(not(keywal_shuttle))]
pub(crate) use std::thread_local;
