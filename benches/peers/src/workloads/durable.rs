//! What does an append cost that survives power loss: alone, beside other threads, with others in a batch?

use super::pace::{self, count};
use super::{BATCH, Job, Workload};
use crate::subject::{Plan, Result, Subject};

pub fn measure<S: Subject>(workload: &Workload, plan: &Plan) -> Result<f64> {
    let mut subject = S::open(plan)?;
    let content = workload.content();
    match workload.job {
        Job::Batch => {
            let batch = workload.batch();
            let mut append = |_| subject.append_batch(0, &batch, true);
            (0..workload.warm_up()).try_for_each(&mut append)?;
            Ok(pace::each(workload.calls, append)? / count(BATCH))
        }
        Job::EachKey => {
            let mut append = |_| subject.append_to_each_durably(content);
            (0..workload.warm_up()).try_for_each(&mut append)?;
            Ok(pace::each(workload.calls, append)? / count(workload.keys))
        }
        Job::Append | Job::Read | Job::Scan | Job::Reopen => {
            for key in 0..workload.keys {
                subject.append(key, content)?;
                subject.append_durably(key, content)?;
            }
            let subject = &subject;
            pace::each_in_threads(workload.threads, workload.calls, |thread| {
                Ok(move |i| subject.append_durably((thread + i) % workload.keys, content))
            })
        }
    }
}
