//! A bell: rung by those who find something to do, answered by the one thread that does it.

use std::sync::PoisonError;

use crate::primitives::atomic::{AtomicBool, Ordering};
use crate::primitives::{Condvar, Mutex, MutexGuard};

#[derive(Debug, Default)]
pub(crate) struct Bell {
    /// It has been rung since it was last answered: to ring it once more costs no lock.
    rung: AtomicBool,
    /// Nobody answers it any more.
    over: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // Whoever is about to wait has the lock, or sees it.
            drop(self.lock());
            self.changed.notify_all();
        }
    }

    /// Waits until it is rung. `false`: it is over.
    pub(crate) fn answer(&self) -> bool {
        let mut over = self.lock();
        while !*over {
            if self.rung.swap(false, Ordering::AcqRel) {
                return true;
            }
            over = self.changed.wait(over).unwrap_or_else(PoisonError::into_inner);
        }
        false
    }

    /// Sends the one who answers home.
    pub(crate) fn dismiss(&self) {
        *self.lock() = true;
        self.changed.notify_all();
    }
}

#[cfg(all(test, not(any(keywal_loom, keywal_shuttle))))]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn it_is_answered_each_time_it_is_rung_until_it_is_over() {
        let bell = Bell::default();
        let (answered, answers) = mpsc::channel();
        thread::scope(|scope| {
            let bell = &bell;
            scope.spawn(move || {
                while bell.answer() {
                    answered.send(()).unwrap();
                }
            });
            for _ in 0..1_000 {
                bell.ring();
                answers.recv().unwrap();
            }
            bell.dismiss();
        });
        assert!(!bell.answer());
    }
}
