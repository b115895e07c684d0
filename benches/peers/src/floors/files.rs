//! A file for each key, created when it is first written; as many stay open as the process may have.
//! Every write to another one opens and closes it.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;

use crate::limits;
use crate::subject::Plan;

pub struct Files {
    keys: Vec<(PathBuf, Option<File>)>,
    may_open: usize,
}

impl Files {
    pub fn new(plan: &Plan) -> Self {
        let keys = plan.keys.iter().map(|key| (plan.dir.join(key), None)).collect();
        Self { keys, may_open: limits::spare_descriptors() }
    }

    pub fn with<T>(
        &mut self,
        key: usize,
        work: impl FnOnce(&File) -> io::Result<T>,
    ) -> io::Result<T> {
        let (path, cached) = &mut self.keys[key];
        if let Some(file) = cached {
            return work(file);
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        let result = work(&file);
        if self.may_open > 0 {
            self.may_open -= 1;
            *cached = Some(file);
        }
        result
    }

    /// Of a key that was written, if its file is open.
    pub fn get(&self, key: usize) -> io::Result<&File> {
        let file = self.keys[key].1.as_ref();
        file.ok_or_else(|| io::Error::other("the file of this key is not open"))
    }
}
