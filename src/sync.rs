//! Sharing syncs: everyone who waits for the same file at the same moment waits for one sync.
//!
//! A [`SyncGate`] is a small state machine without I/O. The first caller that finds its bytes not yet
//! durable becomes the leader and syncs what had been written by then; callers that arrive meanwhile
//! wait, and the next leader among them covers all of them. A failure reaches everyone who waited for
//! it and everyone who comes later, for ever: after a failed sync the kernel may have dropped the
//! pages, and a second sync that succeeds proves nothing. Nobody waits for a leader that is gone.

#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::io;
use std::sync::{Arc, PoisonError};

use crate::primitives::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::primitives::{Condvar, Mutex, MutexGuard};

/// One file's (or the directory's) sync state. Marks are byte offsets of a file, or counts of
/// directory changes: anything that grows.
#[derive(Debug)]
pub(crate) struct SyncGate {
    /// Everything below this mark survives power loss.
    durable: AtomicU64,
    /// Nothing more can be made durable. Set together with `State::failed`.
    poisoned: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
    /// Held over each call that may get the error which the kernel reports only once: over an undo until that is
    /// known here.
    calling: Mutex<()>,
}

#[derive(Debug)]
struct State {
    /// A leader is syncing.
    syncing: bool,
    failed: Option<Failure>,
}

/// Why a gate is shut for good.
#[derive(Debug, Clone)]
enum Failure {
    Sync(Arc<io::Error>),
    /// The leader panicked, or a write could not be taken back.
    Abandoned,
}

/// What a caller of [`SyncGate::wait_durable`] gets instead of durability.
#[derive(Debug)]
pub(crate) enum SyncError {
    /// The sync that was to make the caller's bytes durable failed.
    Failed(io::Error),
    /// An earlier sync had failed.
    Poisoned,
}

impl SyncGate {
    pub(crate) fn new(durable: u64) -> Self {
        Self {
            durable: AtomicU64::new(durable),
            poisoned: AtomicBool::new(false),
            state: Mutex::new(State { syncing: false, failed: None }),
            changed: Condvar::new(),
            calling: Mutex::new(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent between any two statements: a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    /// What shut the gate.
    pub(crate) fn why(&self) -> Option<String> {
        self.lock().failed.as_ref().map(|failure| match failure {
            Failure::Sync(error) => format!("a sync failed: {error}"),
            Failure::Abandoned => "a failed write or sync could not be undone".to_owned(),
        })
    }

    /// Shuts the gate: nothing more can be made durable through it.
    pub(crate) fn poison(&self) {
        self.fail(self.lock(), Failure::Abandoned);
    }

    /// Takes back a write that has failed, which ends with a sync of the file. After an error the gate is shut, before
    /// anybody else's sync can come back without it.
    pub(crate) fn undo(&self, undo: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let _alone = self.calling.lock().unwrap_or_else(PoisonError::into_inner);
        undo().inspect_err(|_| self.poison())
    }

    fn fail(&self, mut state: MutexGuard<'_, State>, failure: Failure) {
        state.failed.get_or_insert(failure);
        self.poisoned.store(true, Ordering::Release);
        drop(state);
        self.changed.notify_all();
    }

    /// Returns once everything below `target` is durable.
    ///
    /// `written` tells the mark that a sync starting now will cover, `sync` does it.
    pub(crate) fn wait_durable(
        &self,
        target: u64,
        written: impl Fn() -> u64,
        sync: impl Fn() -> io::Result<()>,
    ) -> Result<(), SyncError> {
        if self.durable() >= target {
            return Ok(());
        }
        let mut state = self.lock();
        let mut waited = false;
        loop {
            if self.durable() >= target {
                return Ok(());
            }
            match &state.failed {
                Some(Failure::Sync(error)) if waited => {
                    return Err(SyncError::Failed(same_error(error)));
                }
                Some(_) => return Err(SyncError::Poisoned),
                None if !state.syncing => break,
                None => {
                    waited = true;
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        state.syncing = true;
        drop(state);

        let leader = Leader { gate: self };
        let covered = written();
        let result = {
            let _alone = self.calling.lock().unwrap_or_else(PoisonError::into_inner);
            sync()
        };
        std::mem::forget(leader);

        let mut state = self.lock();
        state.syncing = false;
        match result {
            // Who shut the gate meanwhile may have got the error that the kernel reports only once.
            Ok(()) if state.failed.is_some() => {
                drop(state);
                self.changed.notify_all();
                Err(SyncError::Poisoned)
            }
            Ok(()) => {
                self.durable.fetch_max(covered, Ordering::AcqRel);
                drop(state);
                self.changed.notify_all();
                Ok(())
            }
            Err(error) => {
                let error = Arc::new(error);
                self.fail(state, Failure::Sync(Arc::clone(&error)));
                Err(SyncError::Failed(same_error(&error)))
            }
        }
    }
}

/// Shuts the gate if the leader unwinds.
struct Leader<'a> {
    gate: &'a SyncGate,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.syncing = false;
        self.gate.fail(state, Failure::Abandoned);
    }
}

/// `io::Error` cannot be cloned; everyone gets the same code or kind.
fn same_error(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

#[cfg(all(test, not(any(keywal_loom, keywal_shuttle))))]
mod tests {
    use super::*;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn one_sync_serves_everyone_who_waited_for_it() {
        let gate = SyncGate::new(0);
        let syncs = AtomicU64::new(0);
        thread::scope(|scope| {
            for target in 1..=16 {
                let (gate, syncs) = (&gate, &syncs);
                scope.spawn(move || {
                    let sync = || {
                        syncs.fetch_add(1, Ordering::SeqCst);
                        thread::sleep(Duration::from_millis(20));
                        Ok(())
                    };
                    gate.wait_durable(target, || 16, sync).unwrap();
                });
            }
        });
        assert_eq!(gate.durable(), 16);
        assert_eq!(syncs.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_sync_covers_only_what_was_written_when_it_began() {
        let gate = SyncGate::new(0);
        let written = AtomicU64::new(10);
        let sync = || {
            written.store(20, Ordering::SeqCst);
            Ok(())
        };
        gate.wait_durable(5, || written.load(Ordering::SeqCst), sync).unwrap();
        assert_eq!(gate.durable(), 10);
    }

    #[test]
    fn a_failure_reaches_every_waiter_and_is_never_retried() {
        let gate = SyncGate::new(0);
        let results = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let sync = || {
                        thread::sleep(Duration::from_millis(20));
                        Err(io::Error::from_raw_os_error(5))
                    };
                    let result = gate.wait_durable(1, || 1, sync);
                    results.lock().unwrap().push(result);
                });
            }
        });
        assert!(results.lock().unwrap().iter().all(Result::is_err));
        let again = gate.wait_durable(1, || 1, || Ok(()));
        assert!(matches!(again, Err(SyncError::Poisoned)));
        assert_eq!(gate.durable(), 0);
    }

    /// The next call after a failed sync, and one that waited for it, are not told the same.
    #[test]
    fn who_waited_for_a_failed_sync_is_told_why() {
        let told = |_| {
            let gate = SyncGate::new(0);
            thread::scope(|scope| {
                let waiter = std::sync::OnceLock::new();
                let sync = || {
                    let wait = || gate.wait_durable(1, || 1, || Ok(()));
                    assert!(waiter.set(scope.spawn(wait)).is_ok(), "a second sync");
                    thread::sleep(Duration::from_millis(20));
                    Err(io::Error::from_raw_os_error(5))
                };
                assert!(matches!(gate.wait_durable(1, || 1, sync), Err(SyncError::Failed(_))));
                match waiter.into_inner().unwrap().join().unwrap() {
                    Err(SyncError::Failed(error)) => error.raw_os_error() == Some(5),
                    // It came too late to wait.
                    Err(SyncError::Poisoned) => false,
                    Ok(()) => panic!("durable after a failed sync"),
                }
            })
        };
        assert!((0..100).any(told));
    }

    #[test]
    fn what_was_durable_when_the_gate_was_shut_stays_so() {
        let gate = SyncGate::new(5);
        gate.poison();
        assert!(gate.is_poisoned());
        assert!(gate.wait_durable(5, || 9, || Ok(())).is_ok());
        assert!(matches!(gate.wait_durable(6, || 9, || Ok(())), Err(SyncError::Poisoned)));
    }

    #[test]
    fn nobody_waits_for_a_leader_that_panicked() {
        let gate = SyncGate::new(0);
        let panicked = thread::scope(|scope| {
            let leader = scope.spawn(|| gate.wait_durable(1, || 1, || panic!("on purpose")));
            leader.join().is_err()
        });
        assert!(panicked);
        assert!(matches!(gate.wait_durable(1, || 1, || Ok(())), Err(SyncError::Poisoned)));
    }
}
