//! nano-wal 0.4: all keys in one directory, a `Mutex` around it for threads, as its documentation says.
//! An append is several `write`s (`kill`), and with `durable` an `fdatasync` behind them. Opening lists
//! names; a read by reference lists the directory each time.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use nano_wal_0::{EntryRef, Wal, WalOptions};

use crate::subject::{Content, Failure, Plan, Reader, Result, Subject, Survives};

pub struct NanoWal0 {
    wal: Mutex<Wal>,
    keys: Vec<String>,
}

impl NanoWal0 {
    fn wal(&mut self) -> &mut Wal {
        self.wal.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subject for NanoWal0 {
    const NAME: &'static str = "nano-wal 0.4";
    const SURVIVES: Survives = Survives::Kill;
    type Place = (u64, u64, u64);

    fn open(plan: &Plan) -> Result<Self> {
        plan.needs_descriptors(1)?;
        let wal = Wal::new(&plan.dir.to_string_lossy(), WalOptions::default())?;
        Ok(Self { wal: Mutex::new(wal), keys: plan.keys.clone() })
    }

    fn append(&mut self, key: usize, content: Content) -> Result<Self::Place> {
        let Self { wal, keys } = self;
        let wal = wal.get_mut().unwrap_or_else(PoisonError::into_inner);
        let entry = wal.append_entry(&keys[key], None, Bytes::from_static(content), false)?;
        Ok((entry.key_hash, entry.sequence_number, entry.offset))
    }

    fn append_durably(&self, key: usize, content: Content) -> Result<()> {
        let mut wal = self.wal.lock().unwrap_or_else(PoisonError::into_inner);
        wal.append_entry(&self.keys[key], None, Bytes::from_static(content), true)?;
        Ok(())
    }

    fn append_to_each_durably(&mut self, content: Content) -> Result<()> {
        for key in 0..self.keys.len() {
            self.append(key, content)?;
        }
        Ok(self.wal().sync()?)
    }

    fn reader(&self) -> Result<Reader<'_, Self::Place>> {
        Ok(Box::new(|(key_hash, sequence_number, offset)| {
            let wal = self.wal.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(wal.read_entry_at(EntryRef { key_hash, sequence_number, offset })?.len())
        }))
    }

    fn scan(&self, _key: usize, _each: &mut dyn FnMut(&[u8])) -> Result<()> {
        Err(Failure::Lacks("its iterator moves all that is left at each step: minutes for 200,000"))
    }
}
