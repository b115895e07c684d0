//! What does it cost to read all entries of a key, from the page cache?

use std::hint::black_box;
use std::time::Instant;

use super::Workload;
use super::pace::{count, nanos};
use crate::subject::{Failure, Plan, Result, Subject};

pub fn measure<S: Subject>(workload: &Workload, plan: &Plan) -> Result<f64> {
    let mut subject = S::open(plan)?;
    // Before all entries are written in vain.
    if let Err(lacks @ Failure::Lacks(_)) = subject.scan(0, &mut |_| ()) {
        return Err(lacks);
    }
    workload.fill(&mut subject)?;
    let scan = |key| {
        let mut entries = 0;
        subject.scan(key, &mut |content| {
            black_box(content);
            entries += usize::from(content.len() == workload.content_bytes);
        })?;
        if entries == workload.filled {
            Ok(())
        } else {
            Err(Failure::Failed(format!("{entries} entries of {}", workload.filled)))
        }
    };
    scan(1)?;
    let started = Instant::now();
    scan(0)?;
    Ok(nanos(started.elapsed()) / count(workload.filled))
}
