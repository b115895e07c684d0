//! How many files may this process have open?

use rustix::process::{Resource, getrlimit};

/// For the program itself, and for what a peer opens beside the logs of its keys.
const RESERVED: usize = 64;

/// Descriptors that a subject may use.
pub fn spare_descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(RESERVED)
}
