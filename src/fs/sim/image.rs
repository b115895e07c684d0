//! What a disk holds.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{Body, Name};

/// The files of a directory, for example what a disk holds after a crash. Cheap to clone.
#[derive(Clone, Default)]
pub struct Image {
    pub(super) files: BTreeMap<Name, Body>,
    /// The boot it was taken from, so that the next one gets another number whatever the seed.
    pub(super) boot: u64,
}

impl Image {
    /// All files, by name.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(name, body)| (&**name, body.as_slice()))
    }

    /// The content of one file.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(|body| body.as_slice())
    }

    /// Puts a file there, in place of one with the same name.
    pub fn set(&mut self, name: &str, content: impl Into<Vec<u8>>) {
        self.files.insert(name.into(), Arc::new(content.into()));
    }

    /// Takes a file out and returns what it held.
    pub fn remove(&mut self, name: &str) -> Option<Vec<u8>> {
        self.files.remove(name).map(Arc::unwrap_or_clone)
    }
}

/// Names and contents count.
impl PartialEq for Image {
    fn eq(&self, other: &Self) -> bool {
        self.files == other.files
    }
}

impl Eq for Image {}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = |(name, body): (&str, &[u8])| (name.to_owned(), body.len());
        f.debug_map().entries(self.files().map(bytes)).finish()
    }
}
