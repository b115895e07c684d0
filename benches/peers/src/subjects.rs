//! Who is measured? The one list of subjects.

mod keywal;

use std::path::Path;

use crate::floors::buffer::Buffer;
use crate::floors::journal::Journal;
use crate::floors::mapped::Mapped;
use crate::floors::write::Write;
use crate::subject::{Result, Subject, Survives};
use crate::workloads::{self, Step, Workload};

/// A subject without its type.
pub struct Listed {
    pub name: &'static str,
    pub survives: Survives,
    pub reads_from_memory: bool,
    pub run: fn(&Workload, Step, &Path) -> Result<f64>,
}

const fn listed<S: Subject>() -> Listed {
    Listed {
        name: S::NAME,
        survives: S::SURVIVES,
        reads_from_memory: S::READS_FROM_MEMORY,
        run: workloads::run::<S>,
    }
}

pub const KEYWAL: &str = keywal::Keywal::NAME;
const FLOORS: usize = 5;

/// Floors, keywal, peers.
pub static SUBJECTS: [Listed; FLOORS + 1] = [
    listed::<Write>(),
    listed::<Mapped>(),
    listed::<Buffer>(),
    listed::<Journal<false>>(),
    listed::<Journal<true>>(),
    listed::<keywal::Keywal>(),
];

/// The peers among the subjects.
pub fn is_peer(subject: usize) -> bool {
    subject > FLOORS
}
