//! One sync for all who wait: whoever finds nobody syncing syncs for everyone who has written by then.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::subject::Result;

/// How long a leader waits for those whom the last sync served.
const PATIENCE: Duration = Duration::from_micros(50);

#[derive(Default)]
pub struct GroupSync {
    state: Mutex<State>,
    changed: Condvar,
    /// The leader waits a moment for company before it syncs.
    gathers: bool,
}

#[derive(Default)]
struct State {
    end: u64,
    durable: u64,
    syncing: bool,
    /// Written since the last sync began, and by how many that one was waited for.
    company: usize,
    last_company: usize,
}

impl GroupSync {
    pub fn gathering() -> Self {
        Self { gathers: true, ..Self::default() }
    }

    /// Writes the frame at the end of the file, and returns its offset.
    pub fn write(&mut self, file: &File, frame: &[u8]) -> Result<u64> {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let offset = state.end;
        file.write_all_at(frame, offset)?;
        state.end += frame.len() as u64;
        Ok(offset)
    }

    /// Where the next frame goes.
    pub fn end(&self) -> u64 {
        self.lock().end
    }

    pub fn write_durably(&self, file: &File, frame: &[u8]) -> Result<()> {
        let mut state = self.lock();
        file.write_all_at(frame, state.end)?;
        state.end += frame.len() as u64;
        state.company += 1;
        let mine = state.end;
        while state.durable < mine {
            if state.syncing {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.syncing = true;
            if self.gathers {
                state = self.gather(state);
            }
            let covered = state.end;
            state.last_company = std::mem::take(&mut state.company);
            drop(state);
            let synced = file.sync_data();
            state = self.lock();
            state.syncing = false;
            self.changed.notify_all();
            synced?;
            state.durable = covered;
        }
        Ok(())
    }

    fn gather<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let until = Instant::now() + PATIENCE;
        while state.company < state.last_company && Instant::now() < until {
            drop(state);
            thread::yield_now();
            state = self.lock();
        }
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
