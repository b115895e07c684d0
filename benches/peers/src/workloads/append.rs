//! What does an append cost that need not survive power loss?

use std::hint::black_box;

use super::pace::{self, count};
use super::{BATCH, Job, Workload};
use crate::subject::{Plan, Result, Subject};

pub fn measure<S: Subject>(workload: &Workload, plan: &Plan) -> Result<f64> {
    let mut subject = S::open(plan)?;
    if workload.job == Job::Batch {
        let batch = workload.batch();
        let mut append = |_| subject.append_batch(0, &batch, false);
        (0..workload.warm_up()).try_for_each(&mut append)?;
        return Ok(pace::each(workload.calls, append)? / count(BATCH));
    }
    let (keys, content) = (workload.keys, workload.content());
    let mut append = |i| {
        black_box(subject.append(i % keys, content)?);
        Ok(())
    };
    (0..workload.warm_up()).try_for_each(&mut append)?;
    pace::each(workload.calls, append)
}
