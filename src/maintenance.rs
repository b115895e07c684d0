//! The thread that moves entries from the journal to the segments, if one is wanted.

use std::io;
use std::sync::{Arc, PoisonError};
use std::thread::{Builder, JoinHandle};

use crate::primitives::Mutex;
use crate::store::Store;

#[derive(Debug)]
pub(crate) struct Maintenance {
    store: Arc<Store>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Maintenance {
    /// `None`: no thread is wanted, or there is no journal.
    pub(crate) fn start(store: &Arc<Store>) -> io::Result<Option<Self>> {
        if store.bell.is_none() {
            return Ok(None);
        }
        let theirs = Arc::clone(store);
        let work = move || theirs.keep_moving_on();
        let thread = Builder::new().name("keywal-maintenance".into()).spawn(work)?;
        Ok(Some(Self { store: Arc::clone(store), thread: Mutex::new(Some(thread)) }))
    }

    /// Returns once the thread has ended.
    pub(crate) fn stop(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(bell) = &self.store.bell {
            bell.dismiss();
        }
        // A forked child has no such thread.
        if let Some(thread) = thread.filter(|_| self.store.check_process().is_ok()) {
            // It does not panic; and if it did, what it was for would be done by others.
            let _ = thread.join();
        }
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.stop();
    }
}
