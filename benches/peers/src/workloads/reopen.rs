//! How long does it take to open many keys after a clean end, in a new process?

use std::time::Instant;

use super::Workload;
use super::pace::nanos;
use crate::subject::{Failure, Plan, Result, Subject};

pub fn prepare<S: Subject>(workload: &Workload, plan: &Plan) -> Result<f64> {
    if let Some(reason) = S::NO_REOPEN {
        return Err(Failure::Lacks(reason));
    }
    let mut subject = S::open(plan)?;
    workload.fill(&mut subject)?;
    subject.close()?;
    Ok(0.0)
}

pub fn measure<S: Subject>(plan: &Plan) -> Result<f64> {
    let started = Instant::now();
    let subject = S::open(plan)?;
    let elapsed = started.elapsed();
    subject.close()?;
    Ok(nanos(elapsed))
}
