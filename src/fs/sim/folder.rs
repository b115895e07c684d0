//! Folders of a simulated directory: directories of their own on the same disk, so that they can share
//! files, and lose power together.

use std::io;
use std::sync::Arc;

use super::{CallKind, Name, Op, SimDir};
use crate::fs::Dir;

impl SimDir {
    /// A directory of its own on the same disk. An image shows its files behind `name` and a slash; the
    /// directory that the disk began with does not list them.
    #[must_use]
    pub fn folder(&self, name: &str) -> Self {
        Self { disk: Arc::clone(&self.disk), prefix: format!("{name}/").into() }
    }

    /// A name as the disk has it.
    pub(super) fn full(&self, name: &str) -> Name {
        if self.prefix.is_empty() { name.into() } else { format!("{}{name}", self.prefix).into() }
    }

    /// A name as this directory lists it, if it is one of its own.
    pub(super) fn own<'n>(&self, full: &'n str) -> Option<&'n str> {
        full.strip_prefix(&*self.prefix).filter(|name| !name.contains('/'))
    }

    pub(super) fn synced(&self) -> Op {
        if self.prefix.is_empty() {
            Op::SyncDir
        } else {
            Op::SyncFolder { folder: self.prefix.clone() }
        }
    }

    pub(super) fn link_from(&self, from: &dyn Dir, name: &str) -> io::Result<()> {
        let from = from.as_any().and_then(|from| from.downcast_ref::<Self>());
        let from = from.ok_or(io::ErrorKind::CrossesDevices)?;
        let (old, new) = (from.full(name), self.full(name));
        let mut state = self.state();
        state.enter(CallKind::Link, Some(&new))?;
        if !Arc::ptr_eq(&self.disk, &from.disk) {
            return Err(io::ErrorKind::CrossesDevices.into());
        }
        if state.special.contains(&*old) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let Some(inode) = state.names.get(&old).copied() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if state.names.contains_key(&new) || state.special.contains(&*new) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.names.insert(new.clone(), inode);
        state.trace.push(Op::Link { name: new, inode });
        Ok(())
    }
}
